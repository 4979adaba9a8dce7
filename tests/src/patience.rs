//! Waits for observable conditions. The only module that sleeps.

use std::time::{Duration, Instant};

/// Interval between two observations.
const POLL: Duration = Duration::from_millis(20);

/// A wait, multiplied by `TEST_PATIENCE` (default 1) for machines slower than two idle cores.
pub fn patience(wait: Duration) -> Duration {
    let factor: f64 = std::env::var("TEST_PATIENCE").ok().and_then(|f| f.parse().ok()).unwrap_or(1.0);
    wait.mul_f64(factor)
}

/// Repeats `observe` until it returns a value; `None` after `wait` (stretched, see [`patience`]).
pub fn poll<T>(wait: Duration, mut observe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience(wait);
    loop {
        if let Some(value) = observe() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(POLL);
    }
}

/// Like [`poll`], but panics with `what` when the wait is over.
#[track_caller]
pub fn eventually<T>(what: &str, wait: Duration, observe: impl FnMut() -> Option<T>) -> T {
    match poll(wait, observe) {
        Some(value) => value,
        None => panic!("not within {:.1} s: {what}", patience(wait).as_secs_f64()),
    }
}

/// Sleeps, either between two observations or because the test is about the passing of time.
#[expect(clippy::disallowed_methods, reason = "the one pause that polling needs")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
