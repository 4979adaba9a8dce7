//! The sockets of the admin port and their limits, so that slow, idle or hostile clients do not keep probes out.
//! HTTP/1.1 only. Answers are made in [`crate::admin`].
//!
//! When all places are taken, the connection whose last byte was transferred the longest ago gives way to the newest
//! one, so a probe always gets in.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// Pause after accept(2) failed for lack of file descriptors or memory, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Limits on one client and on all clients together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// Concurrent connections.
    pub connections: usize,
    /// Time-out of a request's head, counted from the start of the connection or the end of the previous answer. Also
    /// the longest time that an idle connection is kept.
    pub head: Duration,
    /// Most bytes of a request's head and of a connection's read buffer.
    pub head_bytes: usize,
    /// From the end of a request's head until its answer begins: time for the client to send the body.
    pub answer: Duration,
    /// A client that neither sends nor takes a byte for this long is disconnected.
    pub stalled: Duration,
}

impl Default for ConnectionLimits {
    /// Room for the probes of several balancers and for some operators, at 16 KiB each.
    fn default() -> Self {
        Self {
            connections: 256,
            head: Duration::from_secs(10),
            head_bytes: 16 * 1024,
            answer: Duration::from_secs(10),
            stalled: Duration::from_secs(20),
        }
    }
}

/// The open connections. Dropping this value closes them.
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<(AbortHandle, Progress)>,
    most: usize,
}

/// When a connection last transferred a byte.
#[derive(Clone, Debug)]
struct Progress {
    began: Instant,
    /// Milliseconds after `began`.
    last_ms: Arc<AtomicU64>,
}

/// A socket that records its progress.
struct Tracked {
    socket: TcpStream,
    progress: Progress,
}

/// Serves `router` until the returned future is dropped.
pub(crate) async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits) -> Infallible {
    let mut connections =
        Connections { tasks: JoinSet::new(), open: Vec::new(), most: limits.connections.max(1) };
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                // Answers are small and written at once; without the option their last packet may wait.
                let _ = socket.set_nodelay(true);
                let progress = Progress::new();
                let socket = Tracked { socket, progress: progress.clone() };
                connections.add(progress, connection(socket, peer, router.clone(), limits));
            }
            Err(error) => {
                warn!(%error, "admin port cannot accept a connection: check the limit of open files (ulimit -n)");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: Tracked, peer: SocketAddr, router: Router, limits: ConnectionLimits) {
    let progress = socket.progress.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.call(request);
        async move {
            let answer: Response = match timeout(limits.answer, answer).await {
                Ok(answer) => answer?,
                Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        result = serving => if let Err(error) = result {
            debug!(%peer, %error, "admin connection ended");
        },
        () = progress.stalled_for(limits.stalled) => debug!(%peer, "cut off a client that takes no answer"),
    }
}

// === impl Connections ===

impl Connections {
    /// Runs a connection; the longest silent one gives way when there are too many.
    fn add(&mut self, progress: Progress, connection: impl Future<Output = ()> + Send + 'static) {
        // Ended connections leave both lists, so that their size stays the number of open connections.
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|(task, _)| !task.is_finished());
        if self.open.len() >= self.most {
            let longest = self.open.iter().enumerate().max_by_key(|(_, (_, progress))| progress.silent());
            if let Some((at, _)) = longest {
                self.open.swap_remove(at).0.abort();
            }
        }
        self.open.push((self.tasks.spawn(connection), progress));
    }
}

// === impl Progress ===

impl Progress {
    fn new() -> Self {
        Self { began: Instant::now(), last_ms: Arc::default() }
    }

    fn made(&self) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since, Ordering::Relaxed);
    }

    /// Time since the last byte, or since the start.
    fn silent(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(last)
    }

    /// Resolves once no byte was transferred for `limit`.
    async fn stalled_for(&self, limit: Duration) {
        loop {
            let left = limit.saturating_sub(self.silent());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

// === impl Tracked ===

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.progress.made();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
        self.progress.made();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    const WHOLE: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    async fn start(limits: ConnectionLimits) -> (SocketAddr, JoinHandle<Infallible>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/livez", get(|| async { "alive" }))
            .route("/body", post(|body: String| async { body }))
            // Larger than the socket buffers, which hold megabytes on loopback.
            .route("/large", get(|| async { vec![0; 64 << 20] }));
        (address, tokio::spawn(serve(listener, router, limits)))
    }

    async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket
    }

    /// All that the server sends until it closes the connection.
    async fn rest(mut socket: TcpStream) -> String {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let _ = socket.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    #[tokio::test]
    async fn three_hundred_half_sent_heads_keep_no_probe_out_and_are_cut_off() {
        let limits = ConnectionLimits { head: Duration::from_secs(2), ..ConnectionLimits::default() };
        let (address, _server) = start(limits).await;
        let mut half_sent = Vec::new();
        for _ in 0..300 {
            half_sent.push(send(address, b"GET /livez HTTP/1.1\r\nHo").await);
        }
        assert!(rest(send(address, WHOLE).await).await.ends_with("alive"));
        // Returns when the server has closed each of them; without the limits it would never return.
        for socket in half_sent {
            assert!(!rest(socket).await.contains("200"));
        }
    }

    #[tokio::test]
    async fn the_longest_silent_connection_gives_way() {
        let limits = ConnectionLimits {
            connections: 2,
            head: Duration::from_secs(3600),
            stalled: Duration::from_secs(3600),
            ..ConnectionLimits::default()
        };
        let (address, _server) = start(limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        let second = send(address, b"GET").await;
        // More than a millisecond, the resolution of silence, lies between their last bytes.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            tokio::task::yield_now().await;
        }
        first.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"alive") {
            assert!(first.read_buf(&mut answer).await.unwrap() > 0);
        }
        assert!(rest(send(address, WHOLE).await).await.ends_with("alive"), "a third one gets in");
        assert_eq!(rest(second).await, "", "the silent one gave way");
        first.write_all(WHOLE).await.unwrap();
        assert!(rest(first).await.ends_with("alive"), "the other one stayed");
    }

    #[tokio::test]
    async fn bodies_that_never_come_and_answers_that_nobody_takes_are_cut_off() {
        let short = Duration::from_millis(300);
        let limits = ConnectionLimits { answer: short, stalled: 4 * short, ..ConnectionLimits::default() };
        let (address, _server) = start(limits).await;
        let body = send(address, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await;
        assert!(rest(body).await.starts_with("HTTP/1.1 408"));
        let mut large = send(address, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let mut first = [0; 12];
        large.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        // Nothing is read until the server has given up, which another client can see as its own time passing.
        let began = Instant::now();
        while began.elapsed() < 8 * short {
            assert!(rest(send(address, WHOLE).await).await.ends_with("alive"));
        }
        assert!(rest(large).await.len() < 64 << 20, "it ends in the middle");
    }

    #[tokio::test]
    async fn heads_beyond_the_limit_are_refused() {
        let (address, _server) = start(ConnectionLimits::default()).await;
        let mut socket = TcpStream::connect(address).await.unwrap();
        let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
        // The server may answer and close before the client has written the whole head.
        let _ = socket.write_all(long.as_bytes()).await;
        let answer = rest(socket).await;
        assert!(!answer.contains("alive"), "{answer}");
    }
}
