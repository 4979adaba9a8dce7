//! The sockets of the public server and their limits, so that slow or idle clients do not affect others: HTTP/1.1 and
//! HTTP/2 on one port, in the clear (h2c with prior knowledge) or over TLS (ALPN). Answers are made in
//! [`super::http`], a connection's requests in progress are counted in [`super::activity`]; which connection is evicted
//! when there are too many is decided in [`crate::listener`].

use super::activity::{Activity, CountedViewer, Stall, TimeOuts, WatchedStream};
use crate::ingest::tls::{Acceptor, Listener};
use crate::listener::{self, Descriptor, Limiter, TableEntry};
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

/// Limits on the resources of one client and of all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewerLimits {
    /// Concurrent connections per port, at least 1. For a further one the longest idle connection of the source with the
    /// most connections is closed ([`listen::fairness`]).
    pub connections: usize,
    /// Time-out of a TLS handshake.
    pub handshake: Duration,
    /// Time-out of a request's head, counted from its first byte.
    pub header_read: Duration,
    /// How long a connection without a request is kept: longer than the balancers in front keep theirs, so that no
    /// balancer sends a request on a connection that is just being closed (Google's keep theirs for 600 s).
    pub idle: Duration,
    /// A connection that has had no new request and finished no answer for [`ViewerLimits::header_read`] gets this much
    /// longer to receive answers in progress and is then closed: a player has no use for a segment that takes this
    /// long.
    pub slow_answer: Duration,
    /// A client that acknowledges no data for this long is disconnected (TCP_USER_TIMEOUT).
    pub unacknowledged: Duration,
    /// Most bytes of a request's head and of a connection's read buffer.
    pub head_bytes: usize,
    /// Concurrent HTTP/2 requests per connection (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub streams: u32,
    /// Flow-control window in bytes for request bodies, per HTTP/2 stream and per connection: no request here has a
    /// body worth reading.
    pub body_bytes: u32,
    /// How long answers in progress may take after the server was asked to stop.
    pub drain: Duration,
}

impl Default for ViewerLimits {
    /// Room for thousands of viewers: a player holds one or two connections with 2 buffers of at most 16 KiB each,
    /// and as much again with TLS. A low-latency player holds four concurrent requests (playlist and hinted
    /// part, video and audio); a hundred or more concurrent streams are for a CDN node that requests on behalf of
    /// many viewers (RFC 9113 6.5.2).
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            idle: Duration::from_secs(650),
            slow_answer: Duration::from_secs(60),
            unacknowledged: Duration::from_secs(20),
            head_bytes: 16 * 1024,
            streams: 128,
            body_bytes: 64 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

/// How long a connection may take to tell its client that it is closed at once (HTTP/2's GOAWAY): because its descriptor
/// is waited for, or because its head did not come.
const PARTING: Duration = Duration::from_millis(100);

/// Pause after accept(2) failed for lack of file descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Protocols for TLS handshakes (ALPN), most preferred first: with HTTP/2, held playlist requests share one
/// connection.
pub(crate) const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Serves `router` until `shutdown` resolves, then gives answers in progress [`ViewerLimits::drain`] to finish.
pub(crate) async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    limits: ViewerLimits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let listener = listener.into();
    let limiter = Limiter::new(listener.settings.clone(), listener::viewers(limits.connections));
    let mut reports = pin!(limiter.report());
    let mut shutdown = pin!(shutdown);
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        // Remove ended connections from the set, so that its size stays the number of open connections.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            () = &mut reports => continue,
            accepted = accept(&listener, &limiter) => accepted,
        };
        let Some(accepted) = accepted else { continue };
        let (tls, router) = (listener.tls.clone(), router.clone());
        connections.spawn(welcome(accepted, limiter.clone(), tls, router, limits, stopping.clone()));
    }
    drop(listener);
    // An error means that no connection is left to notify.
    let _ = stop.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain, all).await.is_err() {
        debug!("cut off clients that were still reading");
    }
}

/// An accepted connection.
struct Accepted {
    stream: TcpStream,
    /// The address of the connection itself, which may be a proxy's.
    peer: SocketAddr,
    descriptor: Descriptor,
}

async fn accept(listener: &Listener, limiter: &Limiter) -> Option<Accepted> {
    let descriptor = limiter.descriptor().await;
    match listener.accept().await {
        Ok((stream, peer)) => Some(Accepted { stream, peer, descriptor }),
        Err(error) => {
            warn!(%error, "cannot accept a connection: check the limit of open files (ulimit -n)");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Serves an accepted connection from its proxy's header to its end.
async fn welcome(
    Accepted { mut stream, peer, descriptor }: Accepted,
    limiter: Limiter,
    tls: Option<Acceptor>,
    router: Router,
    limits: ViewerLimits,
    mut stopping: watch::Receiver<bool>,
) {
    set_options(&stream, limits);
    let entry = tokio::select! {
        entry = limiter.enter(&mut stream, peer, descriptor) => entry,
        () = stopped(&mut stopping) => return,
    };
    let Some(entry) = entry else { return };
    let Some(tls) = tls else {
        return connection(stream, &entry, router, limits, stopping).await;
    };
    let shaken = tokio::select! {
        shaken = timeout(limits.handshake, tls.accept(stream)) => shaken,
        () = entry.evicted() => return,
        () = stopped(&mut stopping) => return,
    };
    match shaken {
        Ok(Ok(stream)) => connection(stream, &entry, router, limits, stopping).await,
        // Port scans, old browsers, TCP health checks: of no interest to operators.
        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
        Err(_) => debug!("TLS handshake took too long"),
    }
}

/// Sets the socket options. Failures are ignored: no option is important enough to drop a viewer.
fn set_options(stream: &TcpStream, limits: ViewerLimits) {
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits.unacknowledged));
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server itself is gone: stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Serves one connection; its first bytes decide the version of HTTP.
async fn connection<S>(
    stream: S,
    entry: &TableEntry,
    router: Router,
    limits: ViewerLimits,
    mut stopping: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new(Some(entry.handle().clone()));
    let service = {
        let (router, activity) = (TowerToHyperService::new(router), Arc::clone(&activity));
        let handle = entry.handle().clone();
        hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let request_under_way = activity.begin();
            request.extensions_mut().insert(handle.clone());
            let answer = router.call(request.map(Body::new));
            async move {
                let answer: Response<Body> = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| CountedViewer::new(body, request_under_way)))
            }
        })
    };
    let builder = builder(limits);
    let stream = TokioIo::new(WatchedStream::new(stream, Arc::clone(&activity)));
    let mut connection = pin!(builder.serve_connection(stream, service));
    let time_outs = TimeOuts { head: limits.header_read, idle: limits.idle };
    let grace = tokio::select! {
        // In this order: what the connection has just read decides whether it has stalled.
        biased;
        result = connection.as_mut() => return ended(result),
        () = entry.evicted() => PARTING,
        () = stopped(&mut stopping) => limits.slow_answer,
        stall = activity.stalled(time_outs) => match stall {
            Stall::Head => PARTING,
            Stall::Quiet => limits.slow_answer,
        },
    };
    connection.as_mut().graceful_shutdown();
    let result = tokio::select! {
        result = timeout(grace, connection) => result,
        // Its descriptor is waited for.
        () = entry.evicted() => return,
    };
    match result {
        Ok(result) => ended(result),
        Err(_) => debug!("cut off a client that does not take its answers"),
    }
}

fn ended(result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = result {
        debug!(error, "connection ended");
    }
}

fn builder(limits: ViewerLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // hyper counts from the end of the last answer, which would close idle connections: [`Activity`] counts from
        // the first byte of a head.
        .header_read_timeout(None)
        .max_buf_size(limits.head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head_bytes as u32)
        .initial_stream_window_size(limits.body_bytes)
        .initial_connection_window_size(limits.body_bytes);
    builder
}

#[cfg(test)]
mod tests;
