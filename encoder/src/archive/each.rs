//! Calls of a store for work that is in no hurry: several at a time, and again when they failed.

use crate::store::{ObjectName, StoreError, StoreFuture};
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;

/// Attempts at one call.
const ATTEMPTS: u32 = 8;
/// One of them. A directory copies gigabytes within it; Cloud Storage has its own, shorter bound.
const ATTEMPT: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A store did not do what an archive needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {error}")]
pub struct Failure {
    /// At which object.
    pub object: String,
    /// Why.
    pub error: StoreError,
}

/// A call, tried again while that may help: up to half a minute of pauses in all.
pub async fn persist<'a, T>(
    object: &ObjectName,
    mut call: impl FnMut() -> StoreFuture<'a, T>,
) -> Result<T, Failure> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        match tokio::time::timeout(ATTEMPT, call()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) if !error.is_retryable() => return Err(failure(object, error)),
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::time::sleep(pause.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    call().await.map_err(|error| failure(object, error))
}

fn failure(object: &ObjectName, error: StoreError) -> Failure {
    Failure { object: object.to_string(), error }
}

/// Works on all items, so many at a time; answers in their order, or with the first failure.
pub async fn each<I, T, E, W>(items: Vec<I>, at_a_time: usize, work: impl Fn(I) -> W) -> Result<Vec<T>, E>
where
    W: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let mut running = JoinSet::new();
    let mut done: Vec<Option<T>> = items.iter().map(|_| None).collect();
    let mut items = items.into_iter().enumerate();
    loop {
        while running.len() < at_a_time
            && let Some((index, item)) = items.next()
        {
            let task = work(item);
            running.spawn(async move { (index, task.await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((index, result))) => done[index] = Some(result?),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(done.into_iter().flatten().collect())
}
