//! Sockets of the public server and their limits, so that slow or idle clients hurt nobody else. Answers are made in
//! [`super::http`].

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

/// What one client, and all of them, may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; further ones wait in the listener's backlog.
    pub connections: usize,
    /// Within this time a request's head must be complete, counted from the connection's start or the answer before:
    /// also the longest that an idle connection is kept.
    pub header_read: Duration,
    /// A client that acknowledges none of what was sent to it for so long is cut off (TCP_USER_TIMEOUT).
    pub unacknowledged: Duration,
    /// Bytes of a request's head and of a connection's read buffer.
    pub head_bytes: usize,
    /// How long answers that are being sent may take once the server is to stop.
    pub drain: Duration,
}

impl Default for Limits {
    /// Room for thousands of viewers: a player holds one or two connections, 2 buffers of 16 KiB each at most. Idle
    /// time above the longest target duration, so that players keep their connection from playlist to playlist.
    fn default() -> Self {
        Self {
            connections: 8192,
            header_read: Duration::from_secs(30),
            unacknowledged: Duration::from_secs(20),
            head_bytes: 16 * 1024,
            drain: Duration::from_secs(5),
        }
    }
}

/// After accept(2) failed for want of descriptors or memory, wait before the next try instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `shutdown` resolves, then lets answers under way finish for [`Limits::drain`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        // Ended connections are collected here, so that the set's size stays the number of open ones.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let connection = connection(stream, router.clone(), limits, stopping.clone());
        connections.spawn(async move {
            connection.await;
            drop(place);
        });
    }
    drop(listener);
    // An error means that no connection is left to be told.
    let _ = stop.send(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        debug!("cut off clients that were still reading");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, mut stopping: watch::Receiver<bool>) {
    // Neither matters enough to lose a viewer for.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(limits.unacknowledged));
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read)
            .max_buf_size(limits.head_bytes)
            .serve_connection(TokioIo::new(stream), service)
    );
    let stopped = async {
        // An error means that the server itself is gone: stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
