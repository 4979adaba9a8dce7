//! Waiting for something that can be observed. The only place that sleeps.

use std::time::{Duration, Instant};

/// How often an observation is repeated.
const POLL: Duration = Duration::from_millis(20);

/// A wait, stretched by `TEST_PATIENCE` (a factor, default 1) for machines slower than two idle cores.
pub fn patience(wait: Duration) -> Duration {
    let factor: f64 = std::env::var("TEST_PATIENCE").ok().and_then(|f| f.parse().ok()).unwrap_or(1.0);
    wait.mul_f64(factor)
}

/// Repeats `observe` until it gives a value; `None` after `wait` (stretched, see [`patience`]).
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

/// Like [`poll`], but the wait's end is a test failure that says what was awaited.
#[track_caller]
pub fn eventually<T>(what: &str, wait: Duration, observe: impl FnMut() -> Option<T>) -> T {
    match poll(wait, observe) {
        Some(value) => value,
        None => panic!("not within {:.1} s: {what}", patience(wait).as_secs_f64()),
    }
}

/// Lets time pass: between two observations, or because the passing of time is itself what is tested.
#[expect(clippy::disallowed_methods, reason = "the one pause that polling needs")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
