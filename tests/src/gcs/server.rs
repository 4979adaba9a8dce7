//! The I/O shell: sockets, HTTP/1.1 and HTTP/2 on one port, time. Runs on its own thread, so that tests need no
//! runtime.

use super::faults::{Call, Fault, Operation};
use super::grpc::{self, Code, Status};
use super::json::{self, Target};
use super::objects::{Objects, Settings};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;

/// Largest request body in bytes; larger requests are cut off.
pub(super) const MAX_BODY: usize = 256 << 20;

/// Objects, faults and the log of calls, shared by all protocols.
#[derive(Default)]
pub struct State {
    /// Stored objects.
    pub objects: Objects,
    /// All calls except public reads, in order of arrival.
    pub calls: Vec<Call>,
    rule: Option<super::faults::Rule>,
}

impl State {
    /// Logs a call and returns the fault that it meets.
    pub(super) fn meet(&mut self, operation: Operation, object: String, at: Duration) -> Fault {
        let call = Call { operation, object, at };
        let fault = self.rule.as_mut().map_or(Fault::None, |rule| rule(&call));
        if operation != Operation::Public {
            self.calls.push(call);
        }
        fault
    }

    /// Applies a fault rule to every call from now on.
    pub fn set_rule(&mut self, rule: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.rule = Some(Box::new(rule));
    }
}

/// Locks the state. Only a test's rule can panic under this lock, and that test has failed already.
pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running server; it stops when dropped.
pub struct FakeGcs {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    started: Instant,
    started_at: SystemTime,
    runtime: Option<tokio::runtime::Runtime>,
}

pub(super) type Body = BoxBody<Bytes, Infallible>;

// === impl FakeGcs ===

impl FakeGcs {
    /// Starts a server with one bucket that has the settings for live streams.
    pub fn start(bucket: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("fake-gcs")
            .enable_all()
            .build()
            .expect("threads");
        // Bind with the standard library: the caller may be inside another runtime.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("a bound port has an address");
        let state = Arc::new(Mutex::new(State::default()));
        lock(&state).objects.set_bucket(bucket, Settings::live());
        let (started, started_at) = (Instant::now(), SystemTime::now());
        runtime.spawn(listen(listener, Arc::clone(&state), started));
        Self { state, address, started, started_at, runtime: Some(runtime) }
    }

    /// Value for `--gcs-endpoint`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Public URL of an object.
    pub fn public_url(&self, bucket: &str, object: &str) -> String {
        format!("http://{}/{bucket}/{object}", self.address)
    }

    /// Locks the state: objects, calls, faults.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Applies a fault rule to every call from now on; the calls' times are those of [`FakeGcs::now`].
    pub fn set_rule(&self, rule: impl FnMut(&Call) -> Fault + Send + 'static) {
        self.state().set_rule(rule);
    }

    /// Time since the server's start.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Wall clock at the server's start, Unix time in milliseconds.
    pub fn started_unix_ms(&self) -> u64 {
        self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
    }
}

impl Drop for FakeGcs {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Some calls hang on purpose, so do not wait for them.
            runtime.shutdown_background();
        }
    }
}

async fn listen(listener: std::net::TcpListener, state: Arc<Mutex<State>>, started: Instant) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block");
    let base = listener.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (state, base) = (Arc::clone(&state), base.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let (state, base) = (Arc::clone(&state), base.clone());
                async move { answer(request, &state, &base, started).await }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // An error means that the connection was cut, on purpose or by the other side.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// Answers a request. An error cuts the connection; over HTTP/2, the stream.
async fn answer(
    request: Request<Incoming>,
    state: &Mutex<State>,
    base: &str,
    started: Instant,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, body);
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        let call = match grpc::Request::of(request.uri().path(), request.body().clone()) {
            Ok(call) => call,
            Err(status) => return Ok(grpc_answer(Err(status))),
        };
        let (operation, object) = call.call();
        let act = |objects: &mut Objects| call.handle(objects, started.elapsed());
        let failed =
            |status| Err(Status { code: Code::of_http(status), message: format!("injected {status}") });
        Ok(grpc_answer(meet(state, operation, object, started, act, failed).await?))
    } else {
        let (operation, object) = match Target::of(&request) {
            Some(target) => target.call(&request),
            None => (Operation::Public, String::new()),
        };
        let act = |objects: &mut Objects| json::handle(objects, &request, base, started.elapsed());
        let failed = |status| json::status_answer(status, "injected", "injected");
        let (parts, body) = meet(state, operation, object, started, act, failed).await?.into_parts();
        Ok(Response::from_parts(parts, Full::new(body).boxed()))
    }
}

/// Applies the fault that the call meets, and carries the call out unless the fault prevents that. An error cuts the
/// connection.
async fn meet<T>(
    state: &Mutex<State>,
    operation: Operation,
    object: String,
    started: Instant,
    act: impl FnOnce(&mut Objects) -> T,
    failed: impl FnOnce(u16) -> T,
) -> io::Result<T> {
    let fault = lock(state).meet(operation, object, started.elapsed());
    let cut = || io::Error::other("cut on purpose");
    match fault {
        Fault::None => Ok(act(&mut lock(state).objects)),
        Fault::Slow(delay) => {
            tokio::time::sleep(delay).await;
            Ok(act(&mut lock(state).objects))
        }
        Fault::Status(status) => Ok(failed(status)),
        Fault::Hang => std::future::pending().await,
        Fault::HangAfter => {
            act(&mut lock(state).objects);
            std::future::pending().await
        }
        Fault::Cut => Err(cut()),
        Fault::LostAnswer => {
            act(&mut lock(state).objects);
            Err(cut())
        }
    }
}

/// The gRPC response: a framed message, if any, and a status in the trailers.
pub(super) fn grpc_answer(result: Result<Bytes, Status>) -> Response<Body> {
    let (message, code, text) = match result {
        Ok(message) => (Some(grpc::frame(&message)), Code::Ok, String::new()),
        Err(status) => (None, status.code, status.message),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", (code as i32).into());
    let text = percent_encoding::utf8_percent_encode(&text, percent_encoding::CONTROLS).to_string();
    if let Ok(text) = text.parse() {
        trailers.insert("grpc-message", text);
    }
    let frames = message.into_iter().map(Frame::data).chain([Frame::trailers(trailers)]);
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    response
}
