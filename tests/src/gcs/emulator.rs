//! A third-party Cloud Storage: PyPI's gcp-storage-emulator, unmodified, and a gateway in front that adds what
//! google-cloud-storage needs and the emulator lacks.
//!
//! The emulator judges how uploads are written (multipart, names, metadata), what is stored and under which checksum,
//! ranges, listings, composed and copied bytes. The gateway adds gRPC, translated to the emulator's JSON API (the
//! emulator has no gRPC); `ifGenerationMatch`, checked before an upload is forwarded (the emulator ignores
//! preconditions); and the `x-goog-` headers of a download (the emulator sends none, and the client rejects a response
//! without a generation). Faults, limits and permissions do not exist here. Requests are forwarded one at a time: the
//! emulator has one thread.

use super::grpc::{self, Code, Status};
use super::json::{self, Target};
use super::server::{Body, MAX_BODY, grpc_answer};
use crate::encoder_process::{free_port, workspace};
use crate::http::Client;
use crate::patience::eventually;
use crate::process::Program;
use crate::skip;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use googleapis_tonic_google_storage_v2::google::storage::v2;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message as _;
use serde_json::{Value, json};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Folder where `make setup-test` installs the package.
const PACKAGE: &str = ".cache/gcs-emulator";

/// A running emulator and its gateway; both end when dropped.
pub struct Emulator {
    _program: Program,
    upstream: SocketAddr,
    gateway: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

/// The emulator, as the gateway calls it.
struct Upstream {
    address: SocketAddr,
    /// Serialises requests, so that nothing happens between checking a precondition and the request it guards.
    turn: tokio::sync::Mutex<()>,
}

// === impl Emulator ===

impl Emulator {
    /// Starts the emulator with one bucket; `None` if the package is not installed and the check may be left out
    /// ([`crate::skip`]).
    #[track_caller]
    pub fn start(bucket: &str) -> Option<Self> {
        let package = workspace().join(PACKAGE);
        if !package.join("gcp_storage_emulator").is_dir() {
            let what = format!("gcp-storage-emulator is not in {PACKAGE}: `make setup-test` installs it");
            skip::missing("gcp-storage-emulator", &what);
            return None;
        }
        let port = free_port();
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", package).env("PYTHONDONTWRITEBYTECODE", "1");
        command.args([
            "-m",
            "gcp_storage_emulator",
            "start",
            "--quiet",
            "--in-memory",
            "--host",
            "127.0.0.1",
        ]);
        command.args(["--port", &port.to_string(), "--default-bucket", bucket]);
        let program = Program::spawn("gcp-storage-emulator", &mut command);
        let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let client = Client::default();
        eventually("the emulator", Duration::from_secs(20), || {
            client.get(&format!("http://{upstream}/")).ok().filter(|answer| answer.status == 200)
        });

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("gateway")
            .enable_all()
            .build()
            .expect("threads");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let gateway = listener.local_addr().expect("a bound port has an address");
        runtime.spawn(listen(listener, Upstream { address: upstream, turn: Default::default() }));
        Some(Self { _program: program, upstream, gateway, runtime: Some(runtime) })
    }

    /// Value for `--gcs-endpoint`: the gateway's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.gateway)
    }

    /// URL of a path on the emulator itself.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{}", self.upstream, path.trim_start_matches('/'))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Clients keep connections open, so do not wait for them.
            runtime.shutdown_background();
        }
    }
}

async fn listen(listener: std::net::TcpListener, upstream: Upstream) {
    let listener = TcpListener::from_std(listener).expect("a listener that does not block");
    let upstream = Arc::new(upstream);
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let upstream = Arc::clone(&upstream);
                async move { answer(request, &upstream).await }
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // An error means that the other side cut the connection.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, upstream: &Upstream) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(parts, body);
    let _turn = upstream.turn.lock().await;
    let kind = request.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        let result = match grpc::Request::of(request.uri().path(), request.body().clone()) {
            Ok(call) => upstream.carry_out(call).await?,
            Err(status) => Err(status),
        };
        return Ok(grpc_answer(result));
    }
    let (parts, body) = upstream.pass_on(request).await?.into_parts();
    Ok(Response::from_parts(parts, Full::new(body).boxed()))
}

// === impl Upstream ===

impl Upstream {
    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> io::Result<Response<Bytes>> {
        let socket = TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let host = self.address.to_string().parse().map_err(io::Error::other)?;
        request.headers_mut().insert(header::HOST, host);
        let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    /// Calls the JSON API; returns `None` for a 404.
    async fn api(&self, method: Method, path: &str, body: Value) -> io::Result<Option<Value>> {
        let mut headers = HeaderMap::new();
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let answer = self.ask(method, &format!("/storage/v1/{path}"), headers, body).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                // The response to a deletion has an empty body.
                Ok(Some(serde_json::from_slice(answer.body()).unwrap_or_default()))
            }
            status => Err(io::Error::other(format!("{path}: the emulator says {status}"))),
        }
    }

    /// Forwards an HTTP request and adds what the emulator lacks.
    async fn pass_on(&self, request: Request<Bytes>) -> io::Result<Response<Bytes>> {
        let target = Target::of(&request);
        let query = json::query(&request);
        if let Some(Target::Upload(bucket)) = &target
            && let Some(wanted) = query.get("ifGenerationMatch")
        {
            let name = query.get("name").map(String::as_str).unwrap_or_default();
            let found = self.api(Method::GET, &object_path(bucket, name), Value::Null).await?;
            let found = found.map_or("0".to_owned(), |found| text(&found["generation"]));
            if *wanted != found {
                return Ok(json::status_answer(412, "conditionNotMet", "the generation is another"));
            }
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        // These headers belong to the client's connection, not to the one to the emulator.
        for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::CONTENT_LENGTH] {
            headers.remove(name);
        }
        let mut answer = self.ask(parts.method.clone(), &path, headers, body).await?;
        let read = match &target {
            Some(Target::Object(bucket, name)) if query.get("alt").is_some_and(|alt| alt == "media") => {
                Some((bucket, name))
            }
            _ => None,
        };
        if let Some((bucket, name)) = read
            && answer.status().is_success()
            && let Some(found) = self.api(Method::GET, &object_path(bucket, name), Value::Null).await?
        {
            let added = [
                ("x-goog-generation", text(&found["generation"])),
                ("x-goog-metageneration", text(&found["metageneration"])),
                ("x-goog-stored-content-length", text(&found["size"])),
                ("x-goog-stored-content-encoding", "identity".to_owned()),
                ("x-goog-storage-class", text(&found["storageClass"])),
            ];
            for (name, value) in added {
                answer.headers_mut().insert(name, value.parse().map_err(io::Error::other)?);
            }
        }
        answer.headers_mut().remove(header::CONNECTION);
        Ok(answer)
    }

    /// Carries out a gRPC call through the emulator's JSON API. An error of the outer result cuts the connection.
    async fn carry_out(&self, call: grpc::Request) -> io::Result<Result<Bytes, Status>> {
        let missing =
            || Err(Status { code: Code::NotFound, message: "the emulator has no such object".into() });
        let of = |resource: &str| resource.rsplit('/').next().unwrap_or_default().to_owned();
        let found = match call {
            grpc::Request::Delete(call) => {
                let path = object_path(&of(&call.bucket), &call.object);
                let removed = self.api(Method::DELETE, &path, Value::Null).await?;
                return Ok(removed.map_or_else(missing, |_| Ok(Bytes::new())));
            }
            grpc::Request::Get(call) => {
                let path = object_path(&of(&call.bucket), &call.object);
                self.api(Method::GET, &path, Value::Null).await?
            }
            grpc::Request::List(call) => {
                let prefix = utf8_percent_encode(&call.prefix, NON_ALPHANUMERIC);
                let path = format!("b/{}/o?prefix={prefix}", of(&call.parent));
                let found = self.api(Method::GET, &path, Value::Null).await?;
                return Ok(found.map_or_else(missing, |found| Ok(list(&call, &found))));
            }
            grpc::Request::Compose(call) => {
                let to = call.destination.unwrap_or_default();
                let sources = call.source_objects.iter().map(|source| json!({ "name": source.name }));
                let body = json!({
                    "destination": { "contentType": to.content_type, "cacheControl": to.cache_control },
                    "sourceObjects": sources.collect::<Vec<_>>(),
                });
                let path = format!("{}/compose", object_path(&of(&to.bucket), &to.name));
                self.api(Method::POST, &path, body).await?
            }
            grpc::Request::Rewrite(call) => {
                let source = object_path(&of(&call.source_bucket), &call.source_object);
                let target = object_path(&of(&call.destination_bucket), &call.destination_name);
                let copied =
                    self.api(Method::POST, &format!("{source}/rewriteTo/{target}"), Value::Null).await?;
                let answer = copied.map(|copied| v2::RewriteResponse {
                    done: true,
                    resource: Some(object(&copied["resource"])),
                    ..v2::RewriteResponse::default()
                });
                return Ok(answer.map_or_else(missing, |answer| Ok(answer.encode_to_vec().into())));
            }
            grpc::Request::GetBucket(_) | grpc::Request::GetPolicy(_) => {
                let message = "buckets' settings are not asked for here".into();
                return Ok(Err(Status { code: Code::Unimplemented, message }));
            }
        };
        Ok(found.map_or_else(missing, |found| Ok(object(&found).encode_to_vec().into())))
    }
}

fn object_path(bucket: &str, name: &str) -> String {
    format!("b/{bucket}/o/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}

/// The emulator sends numbers both as JSON numbers and as strings.
fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn list(call: &v2::ListObjectsRequest, found: &Value) -> Bytes {
    let start = if call.page_token.is_empty() { &call.lexicographic_start } else { &call.page_token };
    let items = found["items"].as_array().into_iter().flatten().map(object);
    let mut objects: Vec<_> = items.filter(|object| object.name >= *start).collect();
    objects.sort_by(|a, b| a.name.cmp(&b.name));
    let limit = if call.page_size > 0 { call.page_size.min(1000) } else { 1000 } as usize;
    let next_page_token = objects.get(limit).map(|next| next.name.clone()).unwrap_or_default();
    objects.truncate(limit);
    v2::ListObjectsResponse { objects, prefixes: Vec::new(), next_page_token }.encode_to_vec().into()
}

fn object(found: &Value) -> v2::Object {
    let number = |value: &Value| text(value).parse().unwrap_or_default();
    let crc32c = BASE64_STANDARD.decode(text(&found["crc32c"])).ok();
    let crc32c = crc32c.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    v2::Object {
        name: text(&found["name"]),
        bucket: format!("projects/_/buckets/{}", text(&found["bucket"])),
        generation: number(&found["generation"]),
        metageneration: number(&found["metageneration"]),
        size: number(&found["size"]),
        content_type: text(&found["contentType"]),
        checksums: Some(v2::ObjectChecksums { crc32c, ..v2::ObjectChecksums::default() }),
        ..v2::Object::default()
    }
}
