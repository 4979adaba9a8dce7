//! Counts the requests in progress on a connection: each from its head until the last byte of its answer is handed
//! over for sending. Only the counting belongs here; [`super::serve`] acts on it.

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// The requests in progress on one connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<ActivityState>);

#[derive(Clone, Copy, Debug)]
struct ActivityState {
    under_way: usize,
    /// When the last request ended, or when the connection began.
    quiet_since: Instant,
}

/// One request in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<Activity>);

/// An answer's body that counts as a request in progress until the body is dropped.
#[derive(Debug)]
pub(super) struct CountedViewer {
    body: Body,
    _request: UnderWay,
}

// === impl Activity ===

impl Activity {
    /// No request is in progress yet.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(ActivityState { under_way: 0, quiet_since: Instant::now() })))
    }

    /// Counts a request as in progress until the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.lock().under_way += 1;
        UnderWay(Arc::clone(self))
    }

    /// Resolves once no request has been in progress for `limit`.
    pub(super) async fn quiet_for(&self, limit: Duration) {
        loop {
            let ActivityState { under_way, quiet_since } = *self.lock();
            let now = Instant::now();
            // While a request is in progress, the connection cannot have been quiet for `limit` before `limit` from
            // now.
            let due = if under_way > 0 { now + limit } else { quiet_since + limit };
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        // A panic elsewhere cannot leave a number and a time inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.under_way -= 1;
        state.quiet_since = Instant::now();
    }
}

// === impl Counted ===

impl CountedViewer {
    pub(super) fn new(body: Body, request: UnderWay) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for CountedViewer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn quiet_is_counted_from_the_last_request() {
        let limit = Duration::from_secs(30);
        let began = Instant::now();
        let activity = Activity::new();
        let requests = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            let (first, second) = (activity.begin(), activity.begin());
            tokio::time::sleep(Duration::from_secs(70)).await;
            drop(first);
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(second);
        };
        tokio::join!(activity.quiet_for(limit), requests);
        assert_eq!(began.elapsed(), Duration::from_secs(20 + 70 + 10 + 30));
    }
}
