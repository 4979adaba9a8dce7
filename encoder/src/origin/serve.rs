//! The sockets of the public server and their limits, so that slow or idle clients do not affect others: HTTP/1.1 and
//! HTTP/2 on one port, in the clear (h2c with prior knowledge) or over TLS (ALPN). Answers are made in
//! [`super::http`], a connection's requests in progress are counted in [`super::activity`].

use super::activity::{Activity, CountedViewer};
use crate::ingest::tls::Listener;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::Service as _;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

/// Limits on the resources of one client and of all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ViewerLimits {
    /// Concurrent connections per port; further ones wait in the listener's backlog.
    pub connections: usize,
    /// Time-out of a TLS handshake.
    pub handshake: Duration,
    /// Time-out of a request's head, counted from the start of the connection or the end of the previous answer. Also
    /// the longest time that an idle connection is kept.
    pub header_read: Duration,
    /// After [`ViewerLimits::header_read`] without a new request, a connection gets this much longer to receive answers
    /// in progress and is then closed: a player has no use for a segment that takes this long.
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
    /// and as much again with TLS. The idle time is above the longest target duration, so that players keep their
    /// connection between playlist requests. A low-latency player holds four concurrent requests (playlist and hinted
    /// part, video and audio); a hundred or more concurrent streams are for a CDN node that requests on behalf of
    /// many viewers (RFC 9113 6.5.2).
    fn default() -> Self {
        Self {
            connections: 8192,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            slow_answer: Duration::from_secs(60),
            unacknowledged: Duration::from_secs(20),
            head_bytes: 16 * 1024,
            streams: 128,
            body_bytes: 64 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

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
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        // Remove ended connections from the set, so that its size stays the number of open connections.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (tls, router, mut stopping) = (listener.tls.clone(), router.clone(), stopping.clone());
        connections.spawn(async move {
            set_options(&stream, limits);
            match tls {
                None => connection(stream, router, limits, stopping).await,
                Some(tls) => {
                    let shaken = tokio::select! {
                        shaken = timeout(limits.handshake, tls.accept(stream)) => shaken,
                        () = stopped(&mut stopping) => return,
                    };
                    match shaken {
                        Ok(Ok(stream)) => connection(stream, router, limits, stopping).await,
                        // Port scans, old browsers, TCP health checks: of no interest to operators.
                        Ok(Err(error)) => debug!(%error, "TLS handshake failed"),
                        Err(_) => debug!("TLS handshake took too long"),
                    }
                }
            }
            drop(place);
        });
    }
    drop(listener);
    // An error means that no connection is left to notify.
    let _ = stop.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain, all).await.is_err() {
        debug!("cut off clients that were still reading");
    }
}

async fn accept(listener: &Listener, places: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            warn!(%error, "cannot accept a connection: check the limit of open files (ulimit -n)");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
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
async fn connection<S>(stream: S, router: Router, limits: ViewerLimits, mut stopping: watch::Receiver<bool>)
where
    TokioIo<S>: Read + Write + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let service = {
        let (router, activity) = (TowerToHyperService::new(router), Arc::clone(&activity));
        hyper::service::service_fn(move |request: Request<Incoming>| {
            let request_under_way = activity.begin();
            let answer = router.call(request.map(Body::new));
            async move {
                let answer: Response<Body> = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| CountedViewer::new(body, request_under_way)))
            }
        })
    };
    let builder = builder(limits);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ending = async {
        tokio::select! {
            () = stopped(&mut stopping) => {}
            // hyper has no such limit for HTTP/2, nor for the first bytes that decide the version.
            () = activity.quiet_for(limits.header_read) => {}
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = ending => {
            connection.as_mut().graceful_shutdown();
            match timeout(limits.slow_answer, connection).await {
                Ok(result) => result,
                Err(_) => return debug!("cut off a client that does not take its answers"),
            }
        }
    };
    if let Err(error) = result {
        debug!(error, "connection ended");
    }
}

fn builder(limits: ViewerLimits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
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
