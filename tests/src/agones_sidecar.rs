//! A sidecar that speaks the gRPC of the Agones SDK (`sdk.proto`, package `agones.dev.sdk`): accepts calls, records
//! them, and can be stopped and restarted. hyper provides HTTP/2; frames and statuses follow gRPC over HTTP/2.

use crate::encoder_process::free_port;
use crate::patience::eventually;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

type Calls = Arc<Mutex<Vec<(Instant, &'static str)>>>;
type Body = BoxBody<Bytes, Infallible>;

/// The SDK methods that the encoder uses.
const CALLS: [&str; 4] = ["Ready", "Allocate", "Shutdown", "Health"];

/// google.rpc.Code
const OK: u8 = 0;
const INVALID_ARGUMENT: u8 = 3;
const UNIMPLEMENTED: u8 = 12;

/// A running sidecar. Dropping it closes the listener and every connection.
pub struct Sidecar {
    port: u16,
    calls: Calls,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Sidecar {
    /// Starts a sidecar on a free port.
    pub fn start() -> Self {
        Self::at(free_port())
    }

    /// Starts a sidecar on the given port, as after a restart.
    #[track_caller]
    pub fn at(port: u16) -> Self {
        let listener = eventually("the sidecar's port", Duration::from_secs(5), || {
            TcpListener::bind(("127.0.0.1", port)).ok()
        });
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sidecar")
            .enable_all()
            .build()
            .expect("threads");
        let calls = Calls::default();
        runtime.spawn(listen(listener, calls.clone()));
        Self { port, calls, runtime: Some(runtime) }
    }

    /// The port that the sidecar listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every message received so far: arrival time and method name.
    pub fn calls(&self) -> Vec<(Instant, &'static str)> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// State calls (everything but `Health`), in order.
    pub fn states(&self) -> Vec<&'static str> {
        self.calls().into_iter().map(|(_, call)| call).filter(|call| *call != "Health").collect()
    }

    /// Arrival times of the health pings.
    pub fn pings(&self) -> Vec<Instant> {
        self.calls().into_iter().filter(|(_, call)| *call == "Health").map(|(at, _)| at).collect()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A client's stream of pings never ends by itself, so do not wait for it.
            runtime.shutdown_background();
        }
    }
}

async fn listen(listener: TcpListener, calls: Calls) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener that does not block");
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let calls = calls.clone();
                async move { Ok::<_, Infallible>(answer(request, &calls).await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // An error means that the other side cut the connection.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// Records each message on arrival, as the real sidecar does: a ping counts before its stream ends.
async fn answer(request: Request<Incoming>, calls: &Calls) -> Response<Body> {
    let name = request.uri().path().strip_prefix("/agones.dev.sdk.SDK/");
    let Some(call) = CALLS.into_iter().find(|call| Some(*call) == name) else {
        return with_status(UNIMPLEMENTED);
    };
    let said = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    let is_grpc = said("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if request.method() != Method::POST || !is_grpc || said("te") != Some(b"trailers") {
        return with_status(INVALID_ARGUMENT);
    }
    let mut body = request.into_body();
    let (mut read, mut messages) = (BytesMut::new(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        read.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        while let Some(message) = message(&mut read) {
            if message.is_none_or(|message| <() as prost::Message>::decode(message).is_err()) {
                return with_status(INVALID_ARGUMENT);
            }
            messages += 1;
            calls.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), call));
        }
    }
    let good = read.is_empty() && (messages == 1 || call == "Health");
    with_status(if good { OK } else { INVALID_ARGUMENT })
}

/// Removes the next complete message from the read buffer; `None` until one is complete, `Some(None)` for a compressed
/// message.
fn message(read: &mut BytesMut) -> Option<Option<Bytes>> {
    let head: [u8; 5] = read.get(..5)?.try_into().ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    let message = read.split_to(length).freeze();
    Some((head[0] == 0).then_some(message))
}

/// A gRPC response with this status in its trailers; OK also carries an empty message.
fn with_status(code: u8) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u16::from(code).into());
    let message = (code == OK).then(|| Frame::data(Bytes::from_static(&[0; 5])));
    let frames = message.into_iter().chain([Frame::trailers(trailers)]);
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
