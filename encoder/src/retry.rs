//! Repeated attempts at one call of a store, and the pauses between attempts.

use std::future::Future;
use std::time::Duration;
use store::{StoreError, within};

/// How long to wait after failed attempts: each pause is twice as long as the one before, up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Pause after the first failure.
    pub first: Duration,
    /// Longest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after that many failures in a row, shortened by up to a half at random, so that encoders do not all
    /// retry at the same moment.
    pub(crate) fn pause(self, failures: u32, random: &mut fastrand::Rng) -> Duration {
        self.longest_pause(failures).mul_f64(1.0 - random.f64() / 2.0)
    }

    /// The pause after that many failures in a row, without jitter.
    pub(crate) fn longest_pause(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.most)
    }
}

/// How often a call is attempted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    /// Most attempts.
    pub most: u32,
    /// Time-out of each attempt; an attempt without an answer is a retryable error.
    pub timeout: Duration,
    /// Pauses between attempts.
    pub backoff: Backoff,
}

/// Repeats a call while its error is retryable; returns the result of the last attempt.
pub(crate) async fn retry<T, F>(attempts: Attempts, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    loop {
        let result = within(attempts.timeout, call()).await;
        failures += 1;
        if !result.as_ref().is_err_and(StoreError::is_retryable) || failures >= attempts.most {
            return result;
        }
        let pause = attempts.backoff.pause(failures, &mut fastrand::Rng::new());
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPTS: Attempts = Attempts {
        most: 3,
        timeout: Duration::from_secs(1),
        backoff: Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) },
    };

    /// Answers of a store, in order; returns the last result and the number of calls.
    async fn called(answers: &[Result<(), StoreError>]) -> (Result<(), StoreError>, usize) {
        let mut calls = 0;
        let result = retry(ATTEMPTS, || {
            calls += 1;
            std::future::ready(answers[calls - 1].clone())
        });
        (result.await, calls)
    }

    #[tokio::test(start_paused = true)]
    async fn only_retryable_errors_are_retried_and_not_for_ever() {
        let away = || Err(StoreError::Unavailable("away".into()));
        assert_eq!(called(&[Ok(())]).await, (Ok(()), 1));
        assert_eq!(called(&[away(), away(), Ok(())]).await, (Ok(()), 3));
        assert_eq!(called(&[away(), Err(StoreError::Changed)]).await, (Err(StoreError::Changed), 2));
        assert_eq!(called(&[away(), away(), away()]).await, (away(), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_without_an_answer_is_given_up_and_retried() {
        let began = tokio::time::Instant::now();
        let result: Result<(), _> = retry(ATTEMPTS, std::future::pending).await;
        assert!(result.is_err_and(|error| error.is_retryable()));
        let pauses = Duration::from_millis(150)..=Duration::from_millis(300);
        assert!(pauses.contains(&(began.elapsed() - 3 * ATTEMPTS.timeout)), "{:?}", began.elapsed());
    }

    #[test]
    fn pauses_double_up_to_the_bound_and_jitter_takes_half_at_most() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };
        let longest: Vec<_> = (0..7).map(|failures| backoff.longest_pause(failures).as_millis()).collect();
        assert_eq!(longest, [100, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.longest_pause(u32::MAX), Duration::from_secs(1));
        let pauses = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            (1..100).map(|failures| backoff.pause(failures, &mut random)).collect::<Vec<_>>()
        };
        for (pause, failures) in pauses(7).into_iter().zip(1..) {
            let longest = backoff.longest_pause(failures);
            assert!((longest / 2..=longest).contains(&pause), "{pause:?} after {failures}");
        }
        assert_eq!(pauses(7), pauses(7));
        assert_ne!(pauses(7), pauses(8));
    }
}
