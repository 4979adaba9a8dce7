//! An RTMP server whose sinks record the media and metadata that they receive.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses a part of this module.

use encoder::testing::ingest::{Admission, Chain, Identity, Key, Listener, MediaSink, ServerOptions, serve};
use rtmp::{EndReason, MediaMessage, MessageKind, Metadata, PublishRequest, Refusal};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A generous limit: a loaded machine takes seconds to start GStreamer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The payload of a media message that the sink cannot read.
pub const UNREADABLE: &[u8] = b"noise";
/// What a publisher may send; more than any other test sends within ten seconds.
pub const MOST_BITS_PER_SECOND: u64 = 100_000_000;

#[derive(Default, Debug)]
pub struct Heard {
    pub video: Vec<MediaMessage>,
    pub audio: Vec<MediaMessage>,
    pub metadata: Vec<Metadata>,
}

pub struct Stage {
    pub answer: Result<(), Refusal>,
    pub requests: Mutex<Vec<PublishRequest>>,
    /// Ends the publish once this many video messages have arrived.
    patience: Option<usize>,
    ended: mpsc::Sender<(EndReason, Heard)>,
}

pub struct Sink {
    heard: Heard,
    patience: Option<usize>,
    ended: mpsc::Sender<(EndReason, Heard)>,
    off: (Option<oneshot::Sender<()>>, oneshot::Receiver<()>),
}

impl Admission for Stage {
    type Sink = Sink;

    async fn admit(&self, request: PublishRequest) -> Result<Sink, Refusal> {
        self.requests.lock().unwrap().push(request);
        self.answer.clone()?;
        let (sender, receiver) = oneshot::channel();
        Ok(Sink {
            heard: Heard::default(),
            patience: self.patience,
            ended: self.ended.clone(),
            off: (Some(sender), receiver),
        })
    }
}

impl MediaSink for Sink {
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal> {
        let readable = message.payload != UNREADABLE;
        match message.kind {
            MessageKind::Video => self.heard.video.push(message),
            MessageKind::Audio => self.heard.audio.push(message),
        }
        if self.patience.is_some_and(|limit| self.heard.video.len() >= limit) {
            self.off.0.take();
        }
        Ok(readable)
    }

    fn most_bits_per_second(&self) -> u64 {
        MOST_BITS_PER_SECOND
    }

    fn metadata(&mut self, metadata: Metadata) {
        self.heard.metadata.push(metadata);
    }

    async fn sent_off(&mut self) -> Refusal {
        (&mut self.off.1).await.ok();
        Refusal::Draining
    }

    fn end(self, reason: EndReason) {
        self.ended.try_send((reason, self.heard)).ok();
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub stage: Arc<Stage>,
    pub ended: mpsc::Receiver<(EndReason, Heard)>,
}

pub async fn server(answer: Result<(), Refusal>, patience: Option<usize>) -> Server {
    server_with(answer, patience, ServerOptions::default()).await
}

pub async fn server_with(
    answer: Result<(), Refusal>,
    patience: Option<usize>,
    options: ServerOptions,
) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    start(listener.into(), answer, patience, options)
}

/// An RTMPS server with a self-signed certificate.
pub async fn server_with_tls(answer: Result<(), Refusal>, patience: Option<usize>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (chain, secret) = (Chain::read(&cert).unwrap(), Key::read(&key).unwrap());
    let identity = Arc::new(Identity::new((cert, chain), (key, secret)).unwrap());
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = Listener { tls: Some(identity.acceptor(&[]).unwrap()), ..socket.into() };
    start(listener, answer, patience, ServerOptions::default())
}

fn start(
    listener: Listener,
    answer: Result<(), Refusal>,
    patience: Option<usize>,
    options: ServerOptions,
) -> Server {
    let address = listener.socket.local_addr().unwrap();
    let (sender, ended) = mpsc::channel(8);
    let stage = Arc::new(Stage { answer, requests: Mutex::default(), patience, ended: sender });
    let admission = Arc::clone(&stage);
    tokio::spawn(serve(listener, admission, options, std::future::pending()));
    Server { address, stage, ended }
}

pub async fn end(server: &mut Server) -> (EndReason, Heard) {
    timeout(PATIENCE, server.ended.recv()).await.expect("the publish ends").expect("the sink lives")
}
