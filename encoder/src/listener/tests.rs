use super::*;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 50123 1935\r\n";

/// A listener with these trusted proxies.
struct Port {
    listener: TcpListener,
    limiter: Limiter,
}

impl Port {
    async fn bind(proxies: &[&str], total: usize) -> Self {
        let proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
        let settings = ListenerSettings { name: "test", proxies: Some(proxies) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, limiter: Limiter::new(settings, viewers(total)) }
    }

    /// Connects, sends these bytes, and returns what the server makes of the connection.
    async fn connect(&self, bytes: &[u8], close: bool) -> (TcpStream, TcpStream, Option<TableEntry>) {
        let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (mut socket, peer) = self.listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        if close {
            client.shutdown().await.unwrap();
        }
        let descriptor = self.limiter.descriptor().await;
        let entry = timeout(PATIENCE, self.limiter.enter(&mut socket, peer, descriptor)).await.unwrap();
        (client, socket, entry)
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_who_its_client_is_and_what_follows_is_left() {
    let port = Port::bind(&["10.0.0.0/8", "127.0.0.0/8"], 9).await;
    let (_client, mut socket, entry) = port.connect(&[V1, b"rest"].concat(), false).await;
    assert_eq!(entry.unwrap().peer, "203.0.113.7:50123".parse().unwrap());
    let mut rest = [0; 4];
    socket.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"rest");
    let (client, _socket, entry) = port.connect(b"PROXY UNKNOWN\r\n", false).await;
    assert_eq!(entry.unwrap().peer, client.local_addr().unwrap());
}

#[tokio::test]
async fn a_silent_proxy_is_no_refusal_and_one_without_a_header_is() {
    let port = Port::bind(&["127.0.0.0/8"], 9).await;
    assert!(port.connect(b"", true).await.2.is_none());
    assert_eq!(port.limiter.0.refusals.total(), 0);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TC"] {
        assert!(port.connect(bytes, true).await.2.is_none());
    }
    assert_eq!(port.limiter.0.refusals.total(), 2);
}

#[tokio::test]
async fn a_strangers_header_is_refused_and_anything_else_is_not_touched() {
    let port = Port::bind(&["10.0.0.0/8"], 9).await;
    assert!(port.connect(V1, false).await.2.is_none());
    assert_eq!(port.limiter.0.refusals.total(), 1);
    let (client, mut socket, entry) = port.connect(b"PRI * HTTP/2.0", false).await;
    assert_eq!(entry.unwrap().peer, client.local_addr().unwrap());
    let mut first = [0; 14];
    socket.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"PRI * HTTP/2.0");
}

#[tokio::test]
async fn the_evicted_connection_is_told_and_its_descriptor_is_waited_for() {
    let port = Port::bind(&["127.0.0.0/8"], 1).await;
    let (_a, _b, first) = port.connect(V1, false).await;
    let (first, mut held) = (first.unwrap(), Vec::new());
    let evicted = first.evicted();
    held.push(port.connect(b"PROXY TCP4 203.0.113.8 10.0.0.1 50123 1935\r\n", false).await);
    assert!(held[0].2.is_some());
    timeout(PATIENCE, evicted).await.unwrap();
    let mut passing = Vec::new();
    for _ in 0..PASSING - 1 {
        passing.push(timeout(PATIENCE, port.limiter.descriptor()).await.unwrap());
    }
    assert!(timeout(Duration::from_millis(20), port.limiter.descriptor()).await.is_err());
    drop(first);
    timeout(PATIENCE, port.limiter.descriptor()).await.unwrap();
    assert_eq!(port.limiter.lock().table.len(), 1, "what was evicted does not leave twice");
}
