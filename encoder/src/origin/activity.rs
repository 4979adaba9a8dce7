//! What is in progress on a connection: each request from its head until the last byte of its answer is written to the
//! socket, and a head that has begun to arrive. Decides when the connection has to end for lack of progress, and tells
//! the listener's table whether the connection is idle. The closing itself is in [`super::serve`].

use crate::listener::EntryHandle;
use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How long a connection may be without progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOuts {
    /// From the first byte of a head to its last; and while only answers are in progress, from the last request or the
    /// last finished answer on.
    pub(super) head: Duration,
    /// While nothing is in progress.
    pub(super) idle: Duration,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// A head has begun and does not end.
    Head,
    /// Nothing is in progress, or answers that the client does not take.
    Quiet,
}

/// What is in progress on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    /// The connection in the listener's table.
    entry: Option<EntryHandle>,
}

#[derive(Clone, Copy, Debug)]
struct ActivityState {
    /// Requests without an answer yet, such as held ones.
    waiting: usize,
    /// Answers that are not written completely.
    sending: usize,
    /// When one of these numbers last changed, or when the connection began.
    changed: Instant,
    /// When the first byte of a head came.
    head_since: Option<Instant>,
    received: Received,
}

/// What the first bytes of a connection say about its protocol.
#[derive(Clone, Copy, Debug)]
enum Received {
    /// The first bytes of HTTP/2's preface, so many of them.
    Preface(usize),
    Http1,
    /// Whose frames are not looked into: a head that arrives in pieces counts as idle, like the pings between requests.
    Http2,
}

/// The first bytes of HTTP/2, which no head of HTTP/1 begins with: the preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The preface, and the header of the first frame.
const HTTP2_BEGUN: usize = PREFACE.len() + 9;

/// One request in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Arc<Activity>,
    is_answered: bool,
}

/// An answer's body that counts as in progress until its last byte is written or given up.
#[derive(Debug)]
pub(super) struct CountedViewer {
    body: Body,
    request: Arc<UnderWay>,
}

/// Bytes of an answer. hyper drops them once they are written.
struct CountedBytes {
    bytes: Bytes,
    _request: Arc<UnderWay>,
}

/// A stream whose received bytes are reported.
#[derive(Debug)]
pub(super) struct WatchedStream<S> {
    stream: S,
    activity: Arc<Activity>,
}

// === impl Activity ===

impl Activity {
    /// Nothing is in progress yet.
    pub(super) fn new(entry: Option<EntryHandle>) -> Arc<Self> {
        let state = ActivityState {
            waiting: 0,
            sending: 0,
            changed: Instant::now(),
            head_since: None,
            received: Received::Preface(0),
        };
        Arc::new(Self { state: Mutex::new(state), entry })
    }

    /// Counts a request as in progress until the returned value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.change(|state| {
            state.waiting += 1;
            state.head_since = None;
        });
        UnderWay { activity: Arc::clone(self), is_answered: false }
    }

    fn change(&self, change: impl FnOnce(&mut ActivityState)) {
        let mut state = self.lock();
        let was_idle = state.is_idle();
        change(&mut state);
        state.changed = Instant::now();
        // Under the lock, so that the table learns of changes in their order.
        match (was_idle, state.is_idle(), &self.entry) {
            (true, false, Some(entry)) => entry.busy(),
            (false, true, Some(entry)) => entry.idle(),
            (true, false, None) | (false, true, None) | (true, true, _) | (false, false, _) => {}
        }
    }

    fn arrived(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if let Received::Preface(seen) = state.received {
            let expected = &PREFACE[seen.min(PREFACE.len())..];
            let common = expected.len().min(bytes.len());
            state.received = match expected[..common] == bytes[..common] {
                true if seen + bytes.len() >= HTTP2_BEGUN => Received::Http2,
                true => Received::Preface(seen + bytes.len()),
                false => Received::Http1,
            };
        }
        match state.received {
            Received::Http2 => state.head_since = None,
            Received::Preface(_) | Received::Http1 if state.is_idle() => {
                state.head_since.get_or_insert_with(Instant::now);
            }
            Received::Preface(_) | Received::Http1 => {}
        }
    }

    /// Resolves once the connection has been without progress for too long. Poll this after the connection itself in
    /// the same task, so that it sees what the connection has just read.
    pub(super) async fn stalled(&self, limits: TimeOuts) -> Stall {
        let mut timer = pin!(tokio::time::sleep_until(self.lock().due(limits)));
        poll_fn(|context| {
            loop {
                let due = self.lock().due(limits);
                if due < timer.deadline() {
                    timer.as_mut().reset(due);
                }
                ready!(timer.as_mut().poll(context));
                if due <= Instant::now() {
                    return Poll::Ready(self.lock().stall());
                }
                timer.as_mut().reset(due);
            }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, ActivityState> {
        // A panic elsewhere cannot leave numbers and times inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ActivityState {
    fn is_idle(&self) -> bool {
        self.waiting + self.sending == 0
    }

    fn stall(&self) -> Stall {
        if self.is_idle() && self.head_since.is_some() { Stall::Head } else { Stall::Quiet }
    }

    /// The time at which the connection ends if nothing happens until then.
    fn due(&self, limits: TimeOuts) -> Instant {
        match self {
            // A held request may wait for as long as its playlist allows: look again later.
            Self { waiting: 1.., .. } => Instant::now() + limits.head,
            Self { sending: 1.., .. } => self.changed + limits.head,
            Self { head_since: Some(since), .. } => *since + limits.head,
            Self { head_since: None, .. } => self.changed + limits.idle,
        }
    }
}

// === impl UnderWay ===

impl UnderWay {
    /// The answer is there; its body follows.
    fn answered(mut self) -> Self {
        self.is_answered = true;
        self.activity.change(|state| {
            state.waiting -= 1;
            state.sending += 1;
        });
        self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let is_answered = self.is_answered;
        self.activity.change(|state| match is_answered {
            true => state.sending -= 1,
            false => state.waiting -= 1,
        });
    }
}

// === impl CountedViewer ===

impl CountedViewer {
    pub(super) fn new(body: Body, request: UnderWay) -> Self {
        Self { body, request: Arc::new(request.answered()) }
    }
}

impl HttpBody for CountedViewer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let counted = |bytes| CountedBytes { bytes, _request: Arc::clone(&self.request) };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|b| Bytes::from_owner(counted(b))))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

// === impl WatchedStream ===

impl<S> WatchedStream<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        match &buffer.filled()[before..] {
            [] => {}
            bytes => self.activity.arrived(bytes),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TimeOuts = TimeOuts { head: Duration::from_secs(30), idle: Duration::from_secs(650) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// When the connection ends, with these steps going on in the same task.
    async fn ends(activity: &Activity, steps: impl Future<Output = ()>) -> (Duration, Stall) {
        let began = Instant::now();
        let mut steps = pin!(steps);
        let mut going = true;
        let mut stalled = pin!(activity.stalled(LIMITS));
        poll_fn(|context| {
            if going && steps.as_mut().poll(context).is_ready() {
                going = false;
            }
            stalled.as_mut().poll(context).map(|stall| (began.elapsed(), stall))
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn quiet_is_counted_from_the_last_request() {
        let activity = Activity::new(None);
        let requests = async {
            tokio::time::sleep(seconds(20)).await;
            let (first, second) = (activity.begin(), activity.begin());
            tokio::time::sleep(seconds(70)).await;
            drop(first);
            tokio::time::sleep(seconds(10)).await;
            drop(second);
        };
        assert_eq!(ends(&activity, requests).await, (seconds(20 + 70 + 10 + 650), Stall::Quiet));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte() {
        let activity = Activity::new(None);
        let idle_for_long = async {
            tokio::time::sleep(seconds(600)).await;
            activity.arrived(b"GET / HTTP/1.1\r\n\r\n");
            drop(activity.begin());
            tokio::time::sleep(seconds(600)).await;
            activity.arrived(b"GET /");
            tokio::time::sleep(seconds(20)).await;
            activity.arrived(b" HTTP/1.1\r\n");
        };
        assert_eq!(ends(&activity, idle_for_long).await, (seconds(600 + 600 + 30), Stall::Head));
        assert_eq!(
            ends(&Activity::new(None), async {}).await,
            (seconds(650), Stall::Quiet),
            "no byte at all"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_has_to_begin_and_may_then_be_idle() {
        let begun = [PREFACE, b"\0\0\0\x04\0\0\0\0\0"].concat();
        for (bytes, expected) in [(PREFACE, 30), (&begun[..20], 30), (&begun[..], 650)] {
            let activity = Activity::new(None);
            let arrival = async {
                for piece in bytes.chunks(7) {
                    activity.arrived(piece);
                }
            };
            assert_eq!(ends(&activity, arrival).await.0, seconds(expected), "{} bytes", bytes.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_the_connection() {
        let activity = Activity::new(None);
        let mut sent = None;
        let answer = async {
            let mut body = CountedViewer::new(Body::from("media"), activity.begin());
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            drop(body);
            sent = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
        };
        assert_eq!(ends(&activity, answer).await, (seconds(30), Stall::Quiet));
        assert_eq!(sent.as_deref(), Some(&b"media"[..]));
        drop(sent);
        assert!(activity.lock().is_idle());
    }
}
