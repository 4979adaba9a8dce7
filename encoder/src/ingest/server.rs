//! Sockets for [`rtmp::session`]: accepting with and without TLS, time-outs, backpressure, and the end of a
//! connection.
//!
//! Connections that wait for admission are in the table of [`crate::listener`], and may be evicted from there.
//!
//! Each connection has its own task, so a slow, dead or hostile peer delays no other peer. A panic in a task is caught
//! where the task is joined, and logged: it ends that connection only (its sink is dropped without `end`).
//!
//! A publisher that says goodbye (FCUnpublish, deleteStream, closeStream) may publish again on its connection. Until it
//! closes the connection, or for [`ServerOptions::republish_within`], its sink is kept, so that the stream can go on.

use super::{Admission, MediaSink, ReconnectRequest};
use crate::ingest::gate::ListenerGate;
use crate::ingest::rate::ReceiveRate;
use crate::ingest::tls::{Acceptor, Listener};
use crate::listener::{self, Descriptor, Limiter, TableEntry};
use crate::logging::{counts, nonzero, rounded};
use crate::refusals::{self, RefusalSampler};
use crate::wake::until;
use rtmp::session::{PassedOver, ServerError, ServerEvent, ServerSession};
use rtmp::{EndReason, MessageKind, PublishRequest, Refusal};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{debug, error, info, warn};

/// Bytes read from a socket at a time.
const READ_BUFFER: usize = 32 << 10;
/// The metric of messages that were passed over.
const ODD_MESSAGES: &str = "encoder_odd_messages_total";
/// How long a refused client has to read the reason: rtmp2sink and librtmp need the socket to stay open, and then to be
/// closed.
const REFUSAL_PAUSE: Duration = Duration::from_millis(300);
/// How long the server keeps reading after it has closed its sending side, so that a reset by the kernel does not
/// discard the last output before the peer has read it.
const LINGER: Duration = Duration::from_secs(1);
/// Most connections per port that stay open without a publish after a goodbye, in case that the publisher begins
/// another one. Each holds 200 kB, or 300 kB with TLS. Further ones are closed after [`ServerOptions::republish_within`].
const MAX_LINGERING: usize = 32;
/// Longest pause after a failed accept.
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Shows the counters of messages that were passed over from the start, as zero.
pub(crate) fn show_counters() {
    for (kind, count) in PassedOver::default().by_kind() {
        metrics::counter!(ODD_MESSAGES, "kind" => kind).increment(count);
    }
}

/// Time-outs and limits. `Default` suits the public internet.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// Time from accept (with TLS: from the end of its handshake) to the end of the RTMP handshake. The TLS handshake
    /// has a time-out of the same length. Default 5 s.
    pub handshake_timeout: Duration,
    /// Time from the end of the handshake to `publish`. Default 10 s.
    pub publish_timeout: Duration,
    /// Time-out of [`Admission::admit`], after which the publisher gets [`Refusal::Internal`]. Default 10 s.
    pub admission_timeout: Duration,
    /// Time from `NetStream.Publish.Start` to the first media that can be read, after which the publisher is sent off
    /// with [`Refusal::Unsupported`]. Default 10 s.
    pub first_media_timeout: Duration,
    /// How long an admitted publisher may then send no media that can be read; other messages do not count. Default
    /// 30 s.
    pub read_timeout: Duration,
    /// How long a stream waits for its publisher after the publisher's goodbye, if the publisher leaves its connection
    /// open. Default 0.9 s: FMLE, Wirecast and Flash clients that change something publish again within half a second,
    /// and those that are done close the connection.
    pub republish_within: Duration,
    /// How long a peer may leave the server's output unread. Default 10 s.
    pub write_timeout: Duration,
    /// Idle time before the kernel sends keepalive probes. Default 30 s, because load balancers drop connections that
    /// are idle for 60 s or more.
    pub keepalive: Duration,
    /// Maximum number of connections per port that wait for admission, at least 1. For a further connection the longest
    /// idle one of the source with the most connections is closed ([`listen::fairness`]). Each holds at most 200 kB, and
    /// 100 kB more with TLS. Default 256.
    pub max_waiting: usize,
    /// Whether an application with slashes is passed to [`Admission::admit`], which may find the beginning of a stream
    /// key behind the first slash. Default `false`: such an application is refused with a hint.
    pub key_paths: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            publish_timeout: Duration::from_secs(10),
            admission_timeout: Duration::from_secs(10),
            first_media_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            republish_within: Duration::from_millis(900),
            write_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(30),
            max_waiting: 256,
            key_paths: false,
        }
    }
}

/// The connections still open when accepting stopped. Dropping this value closes them all.
#[derive(Debug)]
pub struct Publishers {
    tasks: JoinSet<()>,
}

impl Publishers {
    /// Number of open connections, including those not yet admitted.
    #[cfg(any(test, feature = "testing"))]
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until all connections have ended by themselves or through [`MediaSink::sent_off`].
    pub async fn finished(mut self) {
        while let Some(joined) = self.tasks.join_next().await {
            log_panic(joined);
        }
    }
}

/// Accepts publishers until `shutdown` resolves; then closes the listener and returns the open connections, which
/// continue. Connections that have not been admitted by then are still passed to `admission`.
pub async fn serve<A: Admission>(
    listener: impl Into<Listener>,
    admission: Arc<A>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> Publishers {
    let Listener { socket, tls, settings } = listener.into();
    let limiter = Limiter::new(settings, listener::publishers(options.max_waiting));
    let mut reports = pin!(limiter.report());
    let mut tasks = JoinSet::new();
    let shared = Arc::new(PortState {
        options,
        refusals: RefusalSampler::default(),
        lingering: Semaphore::new(MAX_LINGERING),
    });
    let mut pause = Duration::ZERO;
    let mut gate = ListenerGate::new(socket, admission.open());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return Publishers { tasks },
            () = &mut reports => {}
            open = gate.asked() => gate.set(open),
            Some(joined) = tasks.join_next() => log_panic(joined),
            accepted = accept(&gate, &limiter, pause) => match accepted {
                Ok(accepted) => {
                    pause = Duration::ZERO;
                    let (admission, shared) = (Arc::clone(&admission), Arc::clone(&shared));
                    tasks.spawn(welcome(accepted, limiter.clone(), tls.clone(), admission, shared));
                }
                Err(error) => {
                    // Usually the process is out of file descriptors: a loop without a pause would use a whole core
                    // until some are free.
                    pause = (pause * 2).clamp(Duration::from_millis(10), MAX_ACCEPT_PAUSE);
                    let pause_seconds = rounded(pause.as_secs_f64());
                    warn!(%error, pause_seconds, "accept failed: check the limit of open files (ulimit -n)");
                }
            },
        }
    }
}

/// What the connections of a port have in common.
struct PortState {
    options: ServerOptions,
    /// Decides which refusals are logged.
    refusals: RefusalSampler,
    /// Room for connections that stay open after a goodbye.
    lingering: Semaphore,
}

/// An accepted connection.
struct Accepted {
    socket: TcpStream,
    /// The address of the connection itself, which may be a proxy's.
    peer: SocketAddr,
    descriptor: Descriptor,
}

async fn accept(gate: &ListenerGate, limiter: &Limiter, pause: Duration) -> io::Result<Accepted> {
    if !pause.is_zero() {
        sleep(pause).await;
    }
    let descriptor = limiter.descriptor().await;
    let (socket, peer) = gate.accept().await?;
    Ok(Accepted { socket, peer, descriptor })
}

/// Runs an accepted connection from its proxy's header to its end. While it waits for admission, it may be evicted.
async fn welcome<A: Admission>(
    Accepted { mut socket, peer, descriptor }: Accepted,
    limiter: Limiter,
    tls: Option<Acceptor>,
    admission: Arc<A>,
    shared: Arc<PortState>,
) {
    let options = shared.options;
    set_socket_options(&socket, &options);
    let Some(entry) = limiter.enter(&mut socket, peer, descriptor).await else { return };
    let peer = entry.peer;
    let evicted = entry.evicted();
    let running = async {
        let Some(tls) = tls else {
            return Connection::new(socket, peer, shared).run(&*admission, entry).await;
        };
        match timeout(options.handshake_timeout, tls.accept(socket)).await {
            Ok(Ok(stream)) => Connection::new(stream, peer, shared).run(&*admission, entry).await,
            // Logged at debug level, as every connection that ends before publish.
            Ok(Err(error)) => debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => debug!(%peer, "TLS handshake took too long"),
        }
    };
    tokio::select! {
        () = evicted => debug!(%peer, "closed to make room for another connection"),
        () = running => {}
    }
}

/// Sets TCP_NODELAY and keepalive. Failures are only logged: they cost latency or delay the detection of a dead peer,
/// but not the stream.
fn set_socket_options(socket: &TcpStream, options: &ServerOptions) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(options.keepalive)
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let result =
        socket.set_nodelay(true).and_then(|()| socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive));
    if let Err(error) = result {
        debug!(%error, "socket options were not taken");
    }
}

fn log_panic(joined: Result<(), JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        error!(%error, "a connection's task panicked");
    }
}

/// Why a connection ended without a command of the publisher.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("closed by the peer")]
    Closed,
    #[error("socket: {0}")]
    Socket(io::Error),
    #[error("timed out waiting for {0}")]
    TimedOut(&'static str),
    #[error("more bits per second than allowed")]
    TooFast,
    #[error(transparent)]
    Session(#[from] ServerError),
}

impl LinkError {
    fn end_reason(&self) -> EndReason {
        match self {
            Self::Closed | Self::Socket(_) => EndReason::Closed,
            Self::TimedOut(_) => EndReason::TimedOut,
            Self::TooFast | Self::Session(_) => EndReason::Violation,
        }
    }

    /// What to say to the publisher at fault, if it can still hear.
    fn told(&self) -> Option<Refusal> {
        match self {
            Self::Session(ServerError::Internal) => Some(Refusal::Internal),
            Self::Session(ServerError::OutputOverflow) => None,
            Self::Session(error) => Some(Refusal::Violation(error.to_string())),
            Self::Closed | Self::Socket(_) | Self::TimedOut(_) | Self::TooFast => None,
        }
    }
}

/// How a publish ended.
struct PublishEnd {
    reason: EndReason,
    /// What the publisher was told, or what went wrong.
    cause: Option<String>,
    /// What the publisher wants to publish instead.
    next: Option<PublishRequest>,
}

/// What was received during a publish, for its last log line.
#[derive(Clone, Copy, Debug, Default)]
struct PublishCounters {
    bytes: u64,
    video: u64,
    audio: u64,
    metadata: u64,
}

/// A socket and its session.
struct Connection<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    session: ServerSession,
    peer: SocketAddr,
    options: ServerOptions,
    buffer: Box<[u8]>,
    /// The part of `buffer` that the session has not read yet.
    unread: std::ops::Range<usize>,
    /// When `unread` was received.
    arrived: Instant,
    /// Deadline for the peer to read some of the output; `None` while there is no output.
    write_deadline: Option<tokio::time::Instant>,
    /// Counts what an admitted publisher sends.
    rate: Option<ReceiveRate>,
    /// Written output may still be buffered below, as a TLS record that did not fit the socket's buffer.
    unflushed: bool,
    shared: Arc<PortState>,
    /// What the session has passed over, as far as the metrics count it.
    counted: PassedOver,
}

impl<S: AsyncRead + AsyncWrite + Send> Connection<S> {
    fn new(socket: S, peer: SocketAddr, shared: Arc<PortState>) -> Self {
        let options = shared.options;
        let (reader, writer) = tokio::io::split(socket);
        let session = ServerSession::new(peer);
        Self {
            reader,
            writer,
            session: if options.key_paths { session.with_key_paths() } else { session },
            peer,
            options,
            buffer: vec![0; READ_BUFFER].into(),
            unread: 0..0,
            arrived: Instant::now(),
            write_deadline: None,
            rate: None,
            unflushed: false,
            shared,
            counted: PassedOver::default(),
        }
    }

    /// Runs the connection from the first byte to the last. The publisher leaves the table of waiting connections when
    /// it is admitted.
    async fn run<A: Admission>(mut self, admission: &A, waiting: TableEntry) {
        let mut request = match self.until_publish(&waiting).await {
            Ok(Some(request)) => request,
            Ok(None) => return self.say_goodbye().await,
            // Port scans, health checks and strangers: nothing that an operator must see.
            Err(error) => return debug!(peer = %self.peer, %error, "connection ended before publish"),
        };
        // The decision may wait for a back end: the publisher has done its part.
        waiting.handle().busy();
        let mut waiting = Some(waiting);
        let mut former: Option<A::Sink> = None;
        loop {
            let mut sink = match self.admit(admission, &request).await {
                Ok(sink) => sink,
                Err(refusal) => {
                    if let Some(waiting) = &waiting {
                        waiting.handle().idle();
                    }
                    if let Some(former) = former {
                        former.end(EndReason::Unpublished);
                    }
                    return self.refuse(&refusal).await;
                }
            };
            waiting = None;
            // The stream goes on with the new sink; otherwise the former one has ended it before.
            if let Some(former) = former.take() {
                former.end(EndReason::Unpublished);
            }
            let PublishEnd { reason, next, .. } = self.publish(&mut sink, &request).await;
            match reason {
                EndReason::Unpublished => {}
                EndReason::SentOff | EndReason::TimedOut | EndReason::Violation => {
                    sink.end(reason);
                    return self.say_goodbye().await;
                }
                EndReason::Closed => return sink.end(reason),
            }
            sink.said_goodbye();
            let mut kept = Some(sink);
            let next = match next {
                Some(next) => Some(next),
                None => self.until_next_publish(&mut kept).await,
            };
            let goes_on = next.as_ref().is_some_and(|next| next.has_key_of(&request));
            match kept {
                Some(sink) if goes_on => former = Some(sink),
                // Its place may be the one that the next stream needs.
                Some(sink) => sink.end(EndReason::Unpublished),
                None => {}
            }
            let Some(next) = next else { return self.say_goodbye().await };
            request = next;
        }
    }

    /// Asks whether a publisher may publish, and logs a refusal.
    async fn admit<A: Admission>(&self, admission: &A, request: &PublishRequest) -> Result<A::Sink, Refusal> {
        let deciding = timeout(self.options.admission_timeout, admission.admit(request.clone()));
        let admitted = deciding.await.unwrap_or(Err(Refusal::Internal));
        if let Err(refusal) = &admitted
            && let Some(left_out) = self.shared.refusals.refused(refusals::reason(refusal), Instant::now())
        {
            let PublishRequest { app, client, .. } = request;
            info!(app, peer = %self.peer, client, %refusal, left_out = nonzero(left_out), "publish refused");
        }
        admitted
    }

    /// Handshake, connect, createStream. `None` when the session itself refused the request.
    async fn until_publish(&mut self, waiting: &TableEntry) -> Result<Option<PublishRequest>, LinkError> {
        let began = tokio::time::Instant::now();
        let mut handshake_at = None;
        loop {
            if handshake_at.is_none() && self.session.handshake_done() {
                handshake_at = Some(tokio::time::Instant::now());
            }
            let (deadline, awaited) = match handshake_at {
                None => (began + self.options.handshake_timeout, "the handshake"),
                Some(handshake_at) => (handshake_at + self.options.publish_timeout, "publish"),
            };
            let arrived = self.arrived;
            let event = match timeout_at(deadline, self.step()).await {
                Ok(step) => step?,
                Err(_) => return Err(LinkError::TimedOut(awaited)),
            };
            if self.arrived != arrived {
                waiting.handle().progress();
            }
            match event {
                Some(ServerEvent::Publish(request)) => return Ok(Some(request)),
                Some(ServerEvent::Refused(refusal)) => {
                    self.log_refused_request(&refusal);
                    return Ok(None);
                }
                // The session emits the other events during a publish alone.
                None
                | Some(
                    ServerEvent::Media(_)
                    | ServerEvent::Metadata(_)
                    | ServerEvent::Ended(_)
                    | ServerEvent::PublishInstead(_),
                ) => {}
            }
        }
    }

    /// Waits for another publish after a goodbye. A stream that is not published again soon ends: its sink is taken out
    /// of `kept`. `None` when there is no other publish.
    async fn until_next_publish<K: MediaSink>(&mut self, kept: &mut Option<K>) -> Option<PublishRequest> {
        let goodbye = tokio::time::Instant::now();
        if let Ok(next) = timeout_at(goodbye + self.options.republish_within, self.next_request()).await {
            return next;
        }
        if let Some(sink) = kept.take() {
            sink.end(EndReason::Unpublished);
        }
        let shared = Arc::clone(&self.shared);
        let _room = shared.lingering.try_acquire().ok()?;
        timeout_at(goodbye + self.options.publish_timeout, self.next_request()).await.ok().flatten()
    }

    /// The next request to publish; `None` when the connection ends or a request is refused.
    async fn next_request(&mut self) -> Option<PublishRequest> {
        loop {
            match self.step().await {
                Ok(Some(ServerEvent::Publish(request))) => return Some(request),
                Ok(Some(ServerEvent::Refused(refusal))) => {
                    self.log_refused_request(&refusal);
                    return None;
                }
                Ok(
                    None
                    | Some(
                        ServerEvent::Media(_)
                        | ServerEvent::Metadata(_)
                        | ServerEvent::Ended(_)
                        | ServerEvent::PublishInstead(_),
                    ),
                ) => {}
                Err(error) => {
                    debug!(peer = %self.peer, %error, "connection ended after a publish");
                    return None;
                }
            }
        }
    }

    fn log_refused_request(&self, refusal: &Refusal) {
        if let Some(left_out) = self.shared.refusals.refused(refusals::reason(refusal), Instant::now()) {
            info!(peer = %self.peer, %refusal, left_out = nonzero(left_out), "request refused");
        }
    }

    /// Runs a publish from `NetStream.Publish.Start` to its end, and logs both. A publisher at fault is told what is
    /// wrong.
    async fn publish<K: MediaSink>(&mut self, sink: &mut K, request: &PublishRequest) -> PublishEnd {
        let (PublishRequest { app, client, .. }, peer) = (request, self.peer);
        info!(app, %peer, client, "publish started");
        let began = Instant::now();
        let mut counters = PublishCounters::default();
        let before = self.session.passed_over();
        let end = match self.relay(sink, &mut counters).await {
            Ok(end) => end,
            Err(error) => {
                let (reason, cause) = (error.end_reason(), Some(error.to_string()));
                if let Some(refusal) = error.told() {
                    // The connection ends, even if the publisher cannot be told.
                    self.session.refuse(&refusal).ok();
                }
                PublishEnd { reason, cause, next: None }
            }
        };
        let PublishCounters { bytes, video, audio, metadata } = counters;
        let seconds = rounded(began.elapsed().as_secs_f64());
        let (reason, cause) = (end.reason.as_str(), end.cause.as_deref());
        if let Some(fault) = end.reason.fault() {
            warn!(app, %peer, client, cause, fault, "publisher is disconnected; it may come back at once");
        }
        let passed_over = counts(self.session.passed_over().since(&before).by_kind());
        info!(app, %peer, client, reason, cause, seconds, bytes, video, audio, metadata, passed_over, "publish ended");
        end
    }

    async fn relay<K: MediaSink>(
        &mut self,
        sink: &mut K,
        counters: &mut PublishCounters,
    ) -> Result<PublishEnd, LinkError> {
        self.session.accept()?;
        self.rate = Some(ReceiveRate::new(sink.most_bits_per_second(), self.arrived));
        let mut reconnect = sink.reconnect();
        let mut has_media = false;
        let mut deadline = tokio::time::Instant::now() + self.options.first_media_timeout;
        loop {
            let event = tokio::select! {
                refusal = sink.sent_off() => return self.send_off(EndReason::SentOff, &refusal),
                ReconnectRequest { tc_url } = asked(&mut reconnect) => {
                    reconnect = None;
                    if self.session.ask_to_reconnect(tc_url.as_deref())? {
                        info!(peer = %self.peer, tc_url, "publisher is asked to connect anew");
                    }
                    continue;
                }
                step = timeout_at(deadline, self.step()) => match step {
                    Ok(Err(LinkError::TooFast)) => return self.send_off(EndReason::SentOff, &too_fast(sink)),
                    Ok(step) => step?,
                    Err(_) if has_media => return self.send_off(EndReason::TimedOut, &self.silence()),
                    Err(_) => return self.send_off(EndReason::SentOff, &self.nothing_readable()),
                },
            };
            self.count_passed_over();
            match event {
                None => continue,
                Some(ServerEvent::Media(message)) => {
                    counters.bytes += message.payload.len() as u64;
                    match message.kind {
                        MessageKind::Video => counters.video += 1,
                        MessageKind::Audio => counters.audio += 1,
                    }
                    match sink.media(message) {
                        Ok(false) => {}
                        Ok(true) => {
                            has_media = true;
                            deadline = tokio::time::Instant::now() + self.options.read_timeout;
                        }
                        Err(refusal) => return self.send_off(EndReason::SentOff, &refusal),
                    }
                }
                Some(ServerEvent::Metadata(metadata)) => {
                    counters.metadata += 1;
                    sink.metadata(metadata);
                }
                Some(ServerEvent::Ended(reason)) => {
                    return Ok(PublishEnd { reason, cause: None, next: None });
                }
                Some(ServerEvent::PublishInstead(next)) => {
                    return Ok(PublishEnd { reason: EndReason::Unpublished, cause: None, next: Some(next) });
                }
                // The session has already told the publisher.
                Some(ServerEvent::Refused(refusal)) => {
                    let cause = Some(refusal.to_string());
                    return Ok(PublishEnd { reason: EndReason::SentOff, cause, next: None });
                }
                // The session emits this event outside a publish alone.
                Some(ServerEvent::Publish(_)) => {}
            }
        }
    }

    fn nothing_readable(&self) -> Refusal {
        let seconds = self.options.first_media_timeout.as_secs();
        Refusal::Unsupported(format!("no video or audio that can be read came within {seconds} s"))
    }

    /// What to say to a publisher that has sent media and sends none any more.
    fn silence(&self) -> Refusal {
        let seconds = self.options.read_timeout.as_secs();
        Refusal::Silent(match self.arrived.elapsed() < self.options.read_timeout / 2 {
            true => {
                format!("no video or audio that can be read came for {seconds} s, though other messages did")
            }
            false => format!("nothing came for {seconds} s: the publisher or its network stands still"),
        })
    }

    /// Brings the metrics up to what the session has passed over.
    fn count_passed_over(&mut self) {
        let now = self.session.passed_over();
        if now == self.counted {
            return;
        }
        for (kind, count) in now.since(&self.counted).by_kind().filter(|(_, count)| *count > 0) {
            metrics::counter!(ODD_MESSAGES, "kind" => kind).increment(count);
        }
        self.counted = now;
    }

    /// Tells the publisher why its publish ends.
    fn send_off(&mut self, reason: EndReason, refusal: &Refusal) -> Result<PublishEnd, LinkError> {
        self.session.refuse(refusal)?;
        Ok(PublishEnd { reason, cause: Some(refusal.to_string()), next: None })
    }

    /// Does one read or one write, or returns one event from bytes already read. Cancel-safe: dropping the future loses
    /// nothing.
    async fn step(&mut self) -> Result<Option<ServerEvent>, LinkError> {
        if !self.unread.is_empty() {
            let mut input = &self.buffer[self.unread.clone()];
            let event = self.session.handle(&mut input, self.arrived);
            self.unread.start = self.unread.end - input.len();
            if let Some(event) = event? {
                return Ok(Some(event));
            }
        }
        let output = self.session.output();
        let deadline = (self.unflushed || !output.is_empty()).then(|| {
            *self
                .write_deadline
                .get_or_insert_with(|| tokio::time::Instant::now() + self.options.write_timeout)
        });
        tokio::select! {
            read = self.reader.read(&mut self.buffer) => match read {
                Ok(0) => Err(LinkError::Closed),
                Ok(count) => {
                    self.arrived = Instant::now();
                    self.unread = 0..count;
                    let rate = self.rate.as_mut();
                    match rate.is_none_or(|rate| rate.received(count, self.arrived)) {
                        true => Ok(None),
                        false => Err(LinkError::TooFast),
                    }
                }
                Err(error) => Err(LinkError::Socket(error)),
            },
            written = write_or_flush(&mut self.writer, output), if deadline.is_some() => match written {
                Ok(count) => {
                    output.drain(..count);
                    self.unflushed = count > 0;
                    self.write_deadline = None;
                    Ok(None)
                }
                Err(error) => Err(LinkError::Socket(error)),
            },
            () = until(deadline) => Err(LinkError::TimedOut("our answer to be read")),
        }
    }

    async fn refuse(mut self, refusal: &Refusal) {
        if self.session.refuse(refusal).is_ok() {
            self.say_goodbye().await;
        }
    }

    /// Sends the remaining output and waits for the peer to close; after a time-out the server closes. Input is
    /// discarded meanwhile. A publisher that has ended its publish closes by itself, and rtmp2sink reports an error if
    /// the server closes first; a refused publisher expects the server to close, after a pause in which it reads the
    /// reason.
    async fn say_goodbye(mut self) {
        let has_words = !self.session.output().is_empty();
        let part = async {
            if has_words {
                let (writer, words) = (&mut self.writer, self.session.output());
                let say = async { writer.write_all(words).await.and(writer.flush().await) };
                timeout(self.options.write_timeout, say).await.ok();
                sleep(REFUSAL_PAUSE).await;
                timeout(LINGER, self.writer.shutdown()).await.ok();
            }
            sleep(LINGER).await;
        };
        let discard = async { while matches!(self.reader.read(&mut self.buffer).await, Ok(1..)) {} };
        tokio::select! {
            () = part => {}
            () = discard => {}
        }
    }
}

/// Resolves when the publisher is to be asked to connect anew.
async fn asked(reconnect: &mut Option<watch::Receiver<Option<ReconnectRequest>>>) -> ReconnectRequest {
    if let Some(reconnect) = reconnect
        && let Ok(request) = reconnect.wait_for(Option::is_some).await
        && let Some(request) = request.clone()
    {
        return request;
    }
    std::future::pending().await
}

fn too_fast(sink: &impl MediaSink) -> Refusal {
    let megabits = sink.most_bits_per_second() as f64 / 1e6;
    Refusal::OverLimit(format!("more than {megabits} Mbit/s over ten seconds are not allowed here"))
}

/// Writes some of the output and returns the number of bytes. With no output, flushes what was written and returns 0.
async fn write_or_flush(writer: &mut (impl AsyncWrite + Unpin), output: &[u8]) -> io::Result<usize> {
    if output.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write(output).await }
}
