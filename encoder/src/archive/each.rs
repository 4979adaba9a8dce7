//! Store calls for background work: several at a time, with retries.

use crate::retry::{Attempts, Backoff, retry};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::future::Future;
use std::time::Duration;
use store::{ObjectName, StoreError, StoreFuture};

/// Attempts at one call: up to half a minute of pauses in total. A directory copies gigabytes within the time-out;
/// Cloud Storage has its own, shorter bound.
const ATTEMPTS: Attempts = Attempts {
    most: 8,
    timeout: Duration::from_secs(600),
    backoff: Backoff { first: Duration::from_millis(250), most: Duration::from_secs(10) },
};

/// A store call that an archive needs has failed for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {error}")]
pub struct Failure {
    /// The object of the call.
    pub object: String,
    /// The store's error.
    pub error: StoreError,
}

/// Retries a call while the error is retryable. An attempt without an answer is a retryable error too.
pub(super) async fn persist<'a, T>(
    object: &ObjectName,
    call: impl FnMut() -> StoreFuture<'a, T>,
) -> Result<T, Failure> {
    retry(ATTEMPTS, call).await.map_err(|error| Failure { object: object.to_string(), error })
}

/// Works on all items, at most `at_a_time` items concurrently; returns the results in the items' order, or the first
/// failure in that order, which cancels the rest.
pub(super) async fn each<I, T, E, W>(
    items: Vec<I>,
    at_a_time: usize,
    work: impl Fn(I) -> W,
) -> Result<Vec<T>, E>
where
    W: Future<Output = Result<T, E>>,
{
    stream::iter(items).map(work).buffered(at_a_time).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_answers_fails_every_attempt() {
        let object = ObjectName::new("live/demo/x");
        let mut attempts = 0;
        let call = || -> StoreFuture<'_, ()> {
            attempts += 1;
            Box::pin(std::future::pending())
        };
        let limit = (ATTEMPTS.timeout + ATTEMPTS.backoff.most) * ATTEMPTS.most;
        let Ok(failed) = tokio::time::timeout(limit, persist(&object, call)).await else {
            panic!("the last attempt has no end");
        };
        assert!(failed.is_err_and(|failure| failure.error.is_retryable()));
        assert_eq!(attempts, ATTEMPTS.most);
    }
}
