//! Shuts a listening socket while nobody would be let in, and opens it again. When to do either is decided by
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
use std::net::Shutdown;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

/// Connections that may wait to be accepted: a burst of publishers, not a queue.
const BACKLOG: i32 = 128;
/// Pause behind a system call that failed.
const RETRY: Duration = Duration::from_millis(200);

/// A listening socket's state; see the module.
#[derive(Debug)]
pub(super) struct Door {
    /// What it should be; `None` is open for ever.
    wanted: Option<watch::Receiver<bool>>,
    open: bool,
    failed: bool,
}

impl Door {
    /// Of a socket that listens.
    pub(super) fn new(wanted: Option<watch::Receiver<bool>>) -> Self {
        Self { wanted, open: true, failed: false }
    }

    /// Whether there is anything to accept.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Waits until it should be other than it is, and answers how. Never without somebody who wants something.
    pub(super) async fn asked(&mut self) -> bool {
        if self.failed {
            tokio::time::sleep(RETRY).await;
        }
        let Some(wanted) = &mut self.wanted else { return std::future::pending().await };
        let asked = wanted.wait_for(|open| *open != self.open).await.map(|open| *open);
        match asked {
            Ok(open) => open,
            Err(_) => std::future::pending().await,
        }
    }

    /// Opens or shuts it. A failure is logged and tried again: until then it stays as it is.
    pub(super) fn set(&mut self, listener: &TcpListener, open: bool) {
        let done = if open { listen(listener) } else { SockRef::from(listener).shutdown(Shutdown::Read) };
        self.failed = done.is_err();
        match done {
            Ok(()) => self.open = open,
            Err(error) => warn!(%error, open, "cannot open or shut the listening socket"),
        }
    }
}

fn listen(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read};
    use std::net::TcpStream;

    /// Bound to a named port, as every encoder that is behind a balancer.
    async fn listener() -> TcpListener {
        let chosen = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        TcpListener::bind(chosen).await.unwrap()
    }

    #[tokio::test]
    async fn shut_means_refused_and_open_means_the_same_port() {
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let mut door = Door::new(None);
        // Both are in the backlog: the kernel has answered for us.
        let first = TcpStream::connect(address).unwrap();
        let mut second = TcpStream::connect(address).unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, first.local_addr().unwrap());

        door.set(&listener, false);
        let reset = second.read(&mut [0]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "whoever waits is not kept waiting");
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        accepted.try_write(b"still there").unwrap();

        for _ in 0..3 {
            door.set(&listener, true);
            let again = TcpStream::connect(address).unwrap();
            let (_, peer) = listener.accept().await.unwrap();
            assert_eq!(peer, again.local_addr().unwrap());
            door.set(&listener, false);
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn it_is_asked_only_for_what_it_is_not() {
        let (want, wanted) = watch::channel(true);
        let mut door = Door::new(Some(wanted));
        let listener = listener().await;
        want.send_replace(false);
        assert!(!door.asked().await);
        door.set(&listener, false);
        want.send_replace(true);
        assert!(door.asked().await);
    }
}
