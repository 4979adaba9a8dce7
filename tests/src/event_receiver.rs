//! A service that is told what happens to streams: it records CloudEvents, and can be down for a while.

use crate::encoder_process::free_port;
use crate::patience::eventually;
use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Verifies signatures as Standard Webhooks defines them, with Python's HMAC: one JSON array of requests on stdin.
const VERIFY: &str = r#"
import base64, hashlib, hmac, json, sys
secret, requests = json.load(sys.stdin)
key = base64.b64decode(secret.removeprefix("whsec_"))
for id, timestamp, body, signature in requests:
    signed = f"{id}.{timestamp}.{body}".encode()
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    if signature != expected:
        sys.exit(f"{id}: {signature} instead of {expected}")
"#;

/// One request to the receiver.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    headers: HeaderMap,
    body: Bytes,
    /// The event.
    pub event: Value,
}

impl ReceivedEvent {
    /// The event's type, without its prefix.
    pub fn kind(&self) -> &str {
        self.event["type"].as_str().unwrap_or_default().trim_start_matches("live.encoder.")
    }

    /// The event's data.
    pub fn data(&self) -> &Value {
        &self.event["data"]
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A running receiver. Dropping it closes its listener and all connections.
pub struct EventReceiver {
    port: u16,
    received: Arc<Mutex<Vec<ReceivedEvent>>>,
    runtime: Option<Runtime>,
}

impl EventReceiver {
    /// Starts a receiver on a free port.
    #[track_caller]
    pub fn start() -> Self {
        let mut receiver = Self { port: free_port(), received: Arc::default(), runtime: None };
        receiver.up();
        receiver
    }

    /// The receiver accepts requests (again).
    #[track_caller]
    pub fn up(&mut self) {
        let listener = eventually("the receiver's port", Duration::from_secs(5), || {
            TcpListener::bind(("127.0.0.1", self.port)).ok()
        });
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        runtime.spawn(listen(listener, self.received.clone()));
        self.runtime = Some(runtime);
    }

    /// The receiver accepts no requests, and closes its connections.
    pub fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The URL to send to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/events", self.port)
    }

    /// All events so far, in their order, without repetitions.
    pub fn events(&self) -> Vec<ReceivedEvent> {
        let mut seen = BTreeSet::new();
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.iter().filter(|one| seen.insert(one.event["id"].to_string())).cloned().collect()
    }

    /// Types of all events about what happens to streams, in their order; without health, which depends on the machine.
    pub fn kinds(&self) -> Vec<String> {
        let kinds = self.events().into_iter().map(|event| event.kind().to_owned());
        kinds.filter(|kind| !kind.ends_with("healthy")).collect()
    }

    /// Waits until that many events of this type have come; returns the newest.
    #[track_caller]
    pub fn wait_for(&self, kind: &str, count: usize) -> ReceivedEvent {
        eventually(&format!("{count} events {kind}"), Duration::from_secs(60), || {
            let mut events = self.events();
            events.retain(|event| event.kind() == kind);
            events.get(count - 1).cloned()
        })
    }

    /// Checks every request: its headers and its signature.
    ///
    /// # Errors
    /// Describes the first check that failed.
    pub fn verify(&self, secret: &str) -> anyhow::Result<()> {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut requests = Vec::new();
        for one in &received {
            ensure!(one.header("content-type") == "application/cloudevents+json", "{:?}", one.headers);
            ensure!(one.header("webhook-id") == one.event["id"], "{:?}", one.headers);
            ensure!(one.event["specversion"] == "1.0" && one.event["source"].is_string(), "{}", one.event);
            chrono::DateTime::parse_from_rfc3339(one.event["time"].as_str().unwrap_or_default())?;
            let body = std::str::from_utf8(&one.body)?;
            let headers =
                ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| one.header(name));
            requests.push([headers[0], headers[1], body, headers[2]].map(str::to_owned));
        }
        let mut python = Command::new("python3").args(["-c", VERIFY]).stdin(Stdio::piped()).spawn()?;
        let mut stdin = python.stdin.take().context("a pipe")?;
        stdin.write_all(&serde_json::to_vec(&(secret, requests))?)?;
        drop(stdin);
        ensure!(python.wait()?.success(), "a signature is wrong");
        Ok(())
    }
}

async fn listen(listener: TcpListener, received: Arc<Mutex<Vec<ReceivedEvent>>>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    while let Ok((socket, _)) = listener.accept().await {
        let received = received.clone();
        let service = service_fn(move |request| record(request, received.clone()));
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
        );
    }
}

async fn record(
    request: Request<Incoming>,
    received: Arc<Mutex<Vec<ReceivedEvent>>>,
) -> anyhow::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let event = serde_json::from_slice(&body)?;
    let one = ReceivedEvent { headers: parts.headers, body, event };
    received.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    Ok(Response::new(Full::default()))
}
