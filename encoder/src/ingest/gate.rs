//! The listener gate: a listening socket that is shut while no publisher would be admitted, and reopened afterwards.
//! [`super::Admission::open`] decides when. What the server sends to accepted connections does not belong here.
//!
//! Shut means that the kernel refuses: connections in the backlog are reset and new ones are refused. A load balancer
//! or a client then tries the next encoder immediately, where an accepted connection would first cost it an RTMP
//! exchange.
//!
//! How: on Linux `shutdown(SHUT_RD)` takes a listening socket back to its state before `listen`; the kernel resets the
//! backlog and keeps the port if it was bound by number (net/ipv4/af_inet.c `inet_shutdown`, net/ipv4/tcp.c
//! `tcp_set_state`). HAProxy pauses its listeners this way. No other process can take the port meanwhile, as it could
//! after the socket was closed.

use socket2::SockRef;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::warn;

/// Maximum number of connections waiting to be accepted: enough for a burst of publishers.
const BACKLOG: i32 = 128;
/// Pause after a failed system call.
const RETRY: Duration = Duration::from_millis(200);

/// The listener gate (see the module).
#[derive(Debug)]
pub(super) struct ListenerGate {
    socket: Socket,
    /// Whether the gate should be open; `None` means always.
    wanted: Option<watch::Receiver<bool>>,
    failed: bool,
}

#[derive(Debug)]
enum Socket {
    Open(TcpListener),
    /// Not registered with the tokio runtime, which would see the hang-up and report the socket as ready forever.
    Shut(std::net::TcpListener),
    /// During a change of state, and after one that failed and could not be undone.
    Lost,
}

impl ListenerGate {
    /// Creates an open gate from a listening socket.
    pub(super) fn new(listener: TcpListener, wanted: Option<watch::Receiver<bool>>) -> Self {
        Self { socket: Socket::Open(listener), wanted, failed: false }
    }

    /// Waits until the wanted state differs from the current one and returns the wanted state (`true` is open). Without
    /// a `wanted` channel, or when its sender is gone, this never resolves.
    pub(super) async fn asked(&self) -> bool {
        if self.failed {
            tokio::time::sleep(RETRY).await;
        }
        let Some(mut wanted) = self.wanted.clone() else { return std::future::pending().await };
        let is_open = matches!(self.socket, Socket::Open(_));
        let asked = wanted.wait_for(|open| *open != is_open).await.map(|open| *open);
        match asked {
            Ok(open) => open,
            Err(_) => std::future::pending().await,
        }
    }

    /// Opens or shuts the gate. After a failure, which is logged, the gate keeps its state and [`ListenerGate::asked`]
    /// asks again.
    pub(super) fn set(&mut self, open: bool) {
        let (socket, result) = match (std::mem::replace(&mut self.socket, Socket::Lost), open) {
            (Socket::Open(listener), false) => shut(listener),
            (Socket::Shut(listener), true) => reopen(listener),
            (same, _) => (same, Ok(())),
        };
        self.socket = socket;
        self.failed = result.is_err();
        if let Err(error) = result {
            warn!(%error, open, "cannot open or shut the listening socket");
        }
    }

    /// Accepts the next connection; pending while the gate is shut.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.socket {
            Socket::Open(listener) => listener.accept().await,
            Socket::Shut(_) | Socket::Lost => std::future::pending().await,
        }
    }
}

fn shut(listener: TcpListener) -> (Socket, io::Result<()>) {
    let listener = match listener.into_std() {
        Ok(listener) => listener,
        Err(error) => return (Socket::Lost, Err(error)),
    };
    match SockRef::from(&listener).shutdown(Shutdown::Read) {
        Ok(()) => (Socket::Shut(listener), Ok(())),
        Err(error) => match TcpListener::from_std(listener) {
            Ok(listener) => (Socket::Open(listener), Err(error)),
            Err(error) => (Socket::Lost, Err(error)),
        },
    }
}

fn reopen(listener: std::net::TcpListener) -> (Socket, io::Result<()>) {
    if let Err(error) = SockRef::from(&listener).listen(BACKLOG) {
        return (Socket::Shut(listener), Err(error));
    }
    match TcpListener::from_std(listener) {
        Ok(listener) => (Socket::Open(listener), Ok(())),
        Err(error) => (Socket::Lost, Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::TcpStream as Client;
    use tokio::time::timeout;

    /// A gate on an explicit port number, as every encoder has that runs with a load balancer in front.
    async fn gate(wanted: Option<watch::Receiver<bool>>) -> (ListenerGate, SocketAddr) {
        let chosen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        (ListenerGate::new(TcpListener::bind(chosen).await.unwrap(), wanted), chosen)
    }

    #[tokio::test]
    async fn shut_means_refused_and_open_means_the_same_port() {
        let (mut gate, address) = gate(None).await;
        // Both connections are in the backlog: the kernel has completed their handshakes.
        let first = Client::connect(address).unwrap();
        let mut second = Client::connect(address).unwrap();
        let (accepted, peer) = gate.accept().await.unwrap();
        assert_eq!(peer, first.local_addr().unwrap());

        gate.set(false);
        let reset = second.read(&mut [0]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "whoever waits is not kept waiting");
        assert_eq!(Client::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        accepted.try_write(b"still there").unwrap();

        for _ in 0..3 {
            gate.set(true);
            // Awaiting the next connection must yield: a listener that is always reported as ready would spin here.
            assert!(timeout(Duration::from_millis(20), gate.accept()).await.is_err());
            let (accepted, again) =
                tokio::join!(gate.accept(), tokio::task::spawn_blocking(move || Client::connect(address)));
            assert_eq!(accepted.unwrap().1, again.unwrap().unwrap().local_addr().unwrap());
            gate.set(false);
            assert!(timeout(Duration::from_millis(20), gate.accept()).await.is_err());
            assert_eq!(Client::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn it_is_asked_only_for_what_it_is_not() {
        let (want, wanted) = watch::channel(true);
        let (mut gate, _) = gate(Some(wanted)).await;
        want.send_replace(false);
        assert!(!gate.asked().await);
        gate.set(false);
        want.send_replace(true);
        assert!(gate.asked().await);
    }
}
