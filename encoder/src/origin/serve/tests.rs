use super::*;
use crate::ingest::tls::tests::Files;
use axum::routing::get;
use hyper::StatusCode;
use hyper::client::conn::http2;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

async fn start(limits: ViewerLimits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    start_with(None, limits).await
}

async fn start_with(
    files: Option<&Files>,
    limits: ViewerLimits,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let tls = files.map(|files| Arc::new(files.identity().unwrap()).acceptor(&PROTOCOLS).unwrap());
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        // Larger than the socket buffers, which hold megabytes on loopback.
        .route("/large", get(|| async { vec![0; 64 << 20] }))
        .route("/held", get(std::future::pending::<()>));
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    (address, stop, tokio::spawn(serve(Listener { tls, ..socket.into() }, router, limits, shutdown)))
}

/// The handle and the connection task of an HTTP/2 client.
async fn h2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
) -> (http2::SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
    let (handle, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (handle, tokio::spawn(connection))
}

async fn get_h2(handle: &mut http2::SendRequest<Body>, path: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::get(format!("http://x{path}")).body(Body::empty()).unwrap();
    let answer = handle.send_request(request).await.unwrap();
    let status = answer.status();
    (status, axum::body::to_bytes(Body::new(answer), 1 << 20).await.unwrap().to_vec())
}

/// Connects from this address of the loopback network.
async fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<std::net::IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
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
    let limits = ViewerLimits { header_read: Duration::from_millis(100), ..ViewerLimits::default() };
    let (address, _stop, _server) = start(limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    let mut rest = Vec::new();
    // Returns when the server closes the connection; without the limit it would never return.
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn places_held_by_idle_clients_come_free_again() {
    let limits =
        ViewerLimits { connections: 1, header_read: Duration::from_millis(100), ..ViewerLimits::default() };
    let (address, _stop, _server) = start(limits).await;
    let _idle = connect_from("127.0.0.2", address).await;
    assert!(get_once(address).await.ends_with("hello"), "served once the idle one was cut off");
}

#[tokio::test]
async fn the_idle_connection_gives_way_and_the_one_with_a_request_in_progress_does_not() {
    let limits = ViewerLimits { connections: 2, ..ViewerLimits::default() };
    let (address, _stop, _server) = start(limits).await;
    let (waiting, waits) = h2(connect_from("127.0.0.2", address).await).await;
    let held = tokio::spawn(async move {
        let mut waiting = waiting;
        get_h2(&mut waiting, "/held").await
    });
    let (mut idle, connection) = h2(connect_from("127.0.0.3", address).await).await;
    assert_eq!(get_h2(&mut idle, "/").await.1, b"hello");
    assert!(get_once(address).await.ends_with("hello"));
    // GOAWAY ends the evicted connection cleanly.
    timeout(Duration::from_secs(10), connection).await.unwrap().unwrap().unwrap();
    assert!(!waits.is_finished() && !held.is_finished());
}

#[tokio::test]
async fn an_idle_connection_outlives_the_time_of_a_head() {
    let limits = ViewerLimits { header_read: Duration::from_millis(100), ..ViewerLimits::default() };
    let (address, _stop, _server) = start(limits).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0, "closed");
        }
        // The server says nothing meanwhile, and does not close.
        assert!(timeout(Duration::from_millis(300), socket.read(&mut [0])).await.is_err());
    }
    socket.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    assert_eq!(timeout(Duration::from_secs(10), socket.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
}

#[tokio::test]
async fn heads_beyond_the_limit_are_refused() {
    let (address, _stop, _server) = start(ViewerLimits::default()).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    // The server may answer and close before the client has written the whole head.
    let _ = socket.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_clients() {
    let (address, stop, server) = start(ViewerLimits::default()).await;
    assert!(get_once(address).await.ends_with("hello"));
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    kept.read_exact(&mut first).await.unwrap();
    stop.send(()).unwrap();
    // Far below the idle time-out of 30 s.
    timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port_as_http_1() {
    let (address, _stop, _server) = start(ViewerLimits::default()).await;
    let (mut handle, _connection) = h2(TcpStream::connect(address).await.unwrap()).await;
    let hello = (StatusCode::OK, b"hello".to_vec());
    // A held request does not delay the next request on the connection.
    let mut other = handle.clone();
    let held = tokio::spawn(async move { get_h2(&mut other, "/held").await });
    assert_eq!(get_h2(&mut handle, "/").await, hello);
    assert_eq!(get_h2(&mut handle, "/").await, hello);
    assert!(!held.is_finished());
    assert!(get_once(address).await.ends_with("hello"));
}

#[tokio::test]
async fn tls_clients_choose_the_version_and_those_who_never_shake_hands_are_cut_off() {
    let files = Files::new();
    let limits = ViewerLimits { handshake: Duration::from_millis(300), ..ViewerLimits::default() };
    let (address, stop, server) = start_with(Some(&files), limits).await;
    let mut silent = TcpStream::connect(address).await.unwrap();

    let stream = files.connect(address, &[b"h2", b"http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut handle, _connection) = h2(stream).await;
    assert_eq!(get_h2(&mut handle, "/").await.1, b"hello");
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let mut stream = files.connect(address, protocols).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    }
    assert!(files.connect(address, &[b"spdy/1"]).await.is_err(), "no protocol in common");

    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    drop(stop);
    timeout(Duration::from_secs(10), server).await.unwrap().unwrap();
}

#[tokio::test]
async fn handshakes_that_take_long_hold_up_nobody() {
    let files = Files::new();
    let limits = ViewerLimits { connections: 100, ..ViewerLimits::default() };
    let (address, _stop, _server) = start_with(Some(&files), limits).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let (mut handle, _connection) = h2(files.connect(address, &[b"h2"]).await.unwrap()).await;
    assert_eq!(get_h2(&mut handle, "/").await.1, b"hello");
}

#[tokio::test]
async fn an_idle_http_2_client_is_told_to_go_and_one_that_waits_is_not() {
    let limits = ViewerLimits {
        header_read: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..ViewerLimits::default()
    };
    let (address, _stop, _server) = start(limits).await;
    let (waiting, waits) = h2(TcpStream::connect(address).await.unwrap()).await;
    let held = tokio::spawn(async move {
        let mut waiting = waiting;
        get_h2(&mut waiting, "/held").await
    });
    let (mut idle, connection) = h2(TcpStream::connect(address).await.unwrap()).await;
    assert_eq!(get_h2(&mut idle, "/").await.1, b"hello");
    // GOAWAY ends the connection cleanly.
    connection.await.unwrap().unwrap();
    assert!(!waits.is_finished() && !held.is_finished());
}

#[tokio::test]
async fn a_preface_that_never_ends_is_cut_off() {
    let limits = ViewerLimits {
        header_read: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        // A client that has not sent its whole preface does not answer the ping of a graceful shutdown either.
        slow_answer: Duration::from_millis(200),
        ..ViewerLimits::default()
    };
    let (address, _stop, _server) = start(limits).await;
    for preface in [&b""[..], b"PRI * HTTP/2.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(preface).await.unwrap();
        // Returns when the server closes the connection; without the limit it would never return.
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let limits = ViewerLimits {
        header_read: Duration::from_millis(200),
        slow_answer: Duration::from_millis(200),
        ..ViewerLimits::default()
    };
    let (address, stop, server) = start(limits).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let (mut handle, connection) = h2(TcpStream::connect(address).await.unwrap()).await;
    let request = Request::get("http://x/large").body(Body::empty()).unwrap();
    // The body is not read, so the client never enlarges the flow-control window.
    let answer = handle.send_request(request).await.unwrap();
    let _ = connection.await.unwrap();
    assert!(axum::body::to_bytes(Body::new(answer), 64 << 20).await.is_err(), "it ends in the middle");
    // Both connections are gone, so the server has no connection to wait for.
    drop(stop);
    timeout(Duration::from_secs(4), server).await.unwrap().unwrap();
}
