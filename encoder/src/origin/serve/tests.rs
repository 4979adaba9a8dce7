use super::*;
use axum::routing::get;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", get(|| async { "hello" }));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    (address, stop, tokio::spawn(serve(listener, router, limits, shutdown)))
}

async fn get_once(address: SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_cut_off() {
    let limits = Limits { header_read: Duration::from_millis(100), ..Limits::default() };
    let (address, _stop, _server) = start(limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    let mut rest = Vec::new();
    // Returns when the server closes; without the limit it would not.
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn places_held_by_idle_clients_come_free_again() {
    let limits = Limits { connections: 1, header_read: Duration::from_millis(100), ..Limits::default() };
    let (address, _stop, _server) = start(limits).await;
    let _idle = TcpStream::connect(address).await.unwrap();
    assert!(get_once(address).await.ends_with("hello"), "served once the idle one was cut off");
}

#[tokio::test]
async fn heads_beyond_the_limit_are_refused() {
    let (address, _stop, _server) = start(Limits::default()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    // The server may answer and close before all of it is written.
    let _ = socket.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_clients() {
    let (address, stop, server) = start(Limits::default()).await;
    assert!(get_once(address).await.ends_with("hello"));
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    stop.send(()).unwrap();
    // Long before the idle connection's own time-out of 30 s.
    tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}
