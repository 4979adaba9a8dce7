//! A listening socket that is shut while nobody would be let in, and opened again. When to do either is decided by
//! [`super::Admission::open`]; what is said to those who come in is not in here.
//!
//! Shut means refused by the kernel: whoever waits in the backlog is reset, whoever comes is refused. A balancer or a
//! client then tries the next encoder at once, where an accepted connection would have cost it a conversation.
//!
//! How: on Linux `shutdown(SHUT_RD)` takes a listening socket back to where it was before `listen`, with its queue
//! reset and its port kept when that was asked for by number (net/ipv4/af_inet.c `inet_shutdown`, net/ipv4/tcp.c
//! `tcp_set_state`). HAProxy pauses its listeners so. Nobody can take the port in between, as after closing the socket.

use socket2::SockRef;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::warn;

/// Connections that may wait to be accepted: a burst of publishers, not a queue.
const BACKLOG: i32 = 128;
/// Pause behind a system call that failed.
const RETRY: Duration = Duration::from_millis(200);

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    socket: Socket,
    /// What it should be; `None` is open for ever.
    wanted: Option<watch::Receiver<bool>>,
    failed: bool,
}

#[derive(Debug)]
enum Socket {
    Open(TcpListener),
    /// Outside the runtime: it would see a hung-up socket, and take it for ready for ever after.
    Shut(std::net::TcpListener),
    /// Only while it changes from one to the other, and when that could not be undone.
    Lost,
}

impl Door {
    /// Of a socket that listens.
    pub(super) fn new(listener: TcpListener, wanted: Option<watch::Receiver<bool>>) -> Self {
        Self { socket: Socket::Open(listener), wanted, failed: false }
    }

    /// Waits until it should be other than it is, and answers how. Never without somebody who wants something.
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

    /// Opens or shuts it. A failure is logged and tried again: until then it stays as it is.
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

    /// The next connection; never while it is shut.
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

    /// Bound to a named port, as every encoder that is behind a balancer.
    async fn door(wanted: Option<watch::Receiver<bool>>) -> (Door, SocketAddr) {
        let chosen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        (Door::new(TcpListener::bind(chosen).await.unwrap(), wanted), chosen)
    }

    #[tokio::test]
    async fn shut_means_refused_and_open_means_the_same_port() {
        let (mut door, address) = door(None).await;
        // Both are in the backlog: the kernel has answered for us.
        let first = Client::connect(address).unwrap();
        let mut second = Client::connect(address).unwrap();
        let (accepted, peer) = door.accept().await.unwrap();
        assert_eq!(peer, first.local_addr().unwrap());

        door.set(false);
        let reset = second.read(&mut [0]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "whoever waits is not kept waiting");
        assert_eq!(Client::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        accepted.try_write(b"still there").unwrap();

        for _ in 0..3 {
            door.set(true);
            // Waiting for the next one yields: a listener that counts as ready for ever would spin here instead.
            assert!(timeout(Duration::from_millis(20), door.accept()).await.is_err());
            let (accepted, again) =
                tokio::join!(door.accept(), tokio::task::spawn_blocking(move || Client::connect(address)));
            assert_eq!(accepted.unwrap().1, again.unwrap().unwrap().local_addr().unwrap());
            door.set(false);
            assert!(timeout(Duration::from_millis(20), door.accept()).await.is_err());
            assert_eq!(Client::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn it_is_asked_only_for_what_it_is_not() {
        let (want, wanted) = watch::channel(true);
        let (mut door, _) = door(Some(wanted)).await;
        want.send_replace(false);
        assert!(!door.asked().await);
        door.set(false);
        want.send_replace(true);
        assert!(door.asked().await);
    }
}
