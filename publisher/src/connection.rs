//! One connection: a socket, a session, and media paced in real time. Whether to reconnect is decided in [`super`].

use super::pacer::Pacer;
use super::progress::ProgressDisplay;
use super::source::{Gate, PendingSource, Source, SourceError};
use super::tls::Connector;
use bytes::{Buf, BytesMut};
use media::{AudioConfig, Media, MediaTime, VideoConfig};
use rtmp::client::{ClientError, ClientEvent, ClientSession};
use rtmp::flv::write::{self, RtmpClock, TagWriter};
use rtmp::url::RtmpUrl;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// Time-out for the TCP connection, and the same again for the RTMP exchange up to `publish`.
const SET_UP: Duration = Duration::from_secs(10);
/// The connection counts as lost when the server accepts no bytes for this long.
const STALL: Duration = Duration::from_secs(10);
/// Time to send the remaining output and to wait for the server to close.
const FAREWELL: Duration = Duration::from_secs(2);
/// No media is added while at least this many bytes are unsent.
const MAX_UNSENT: usize = 512 << 10;
/// Bytes read from the socket at a time.
const READ_BUFFER: usize = 16 << 10;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum BroadcastEnding {
    /// The source ended, and the server was told.
    Finished,
    /// The user asked to stop, and the server was told if a publish had begun.
    Stopped,
    /// The server asked for a new connection: to the application at this URL (`tcUrl`), or to the same one.
    Moved(Option<String>),
    /// The server refused the publish.
    Refused(String),
    /// The connection broke, fell silent, or the server ended the publish; the text says which.
    Lost(String),
    /// The source failed, so there is nothing to publish.
    Source(SourceError),
}

/// State that outlives a connection: how far the broadcast has got.
#[derive(Default)]
pub(super) struct Broadcast {
    start_timestamp_ms: u32,
    video: Option<VideoConfig>,
    audio: Option<AudioConfig>,
    clock: Option<RtmpClock>,
    tags: TagWriter,
    position: MediaTime,
    pacer: Pacer,
    gate: Gate,
    held: Option<Held>,
}

/// Media that was taken off the queue and is not yet sent.
struct Held {
    media: Media,
    /// Requested from the pacer only once, however often the wait is interrupted.
    due: Option<std::time::Instant>,
}

impl Broadcast {
    /// A broadcast that has sent nothing yet; its first media gets this RTMP time in milliseconds.
    pub(super) fn new(start_timestamp_ms: u32) -> Self {
        Self { start_timestamp_ms, ..Self::default() }
    }

    /// The configurations known so far.
    fn configs(&self) -> Vec<Media> {
        let video = self.video.clone().map(Media::VideoConfig);
        video.into_iter().chain(self.audio.clone().map(Media::AudioConfig)).collect()
    }

    /// Whether another connection can begin with this media.
    fn can_pause_before(&self, media: &Media) -> bool {
        match media {
            Media::Video(unit) => unit.key,
            Media::Audio(_) => self.video.is_none(),
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {
                false
            }
        }
    }

    /// Restarts pacing: after a pause the file continues where it stopped and does not skip the paused time.
    fn restart_pacing(&mut self) {
        self.pacer.restart();
        if let Some(held) = &mut self.held {
            held.due = None;
        }
    }

    /// Number of access units that were handed in late.
    pub(super) fn late(&self) -> u64 {
        self.pacer.late()
    }

    /// Keeps a configuration for the next connection.
    fn remember(&mut self, media: &Media) {
        match media {
            Media::VideoConfig(config) => self.video = Some(config.clone()),
            Media::AudioConfig(config) => self.audio = Some(config.clone()),
            Media::Video(_) | Media::Audio(_) | Media::TrackConfig(..) | Media::Track(..) => {}
        }
    }

    /// Waits for the source's first media, so that a bad file is reported before any connection is made.
    pub(super) async fn prime(&mut self, source: &mut Source) -> Result<(), BroadcastEnding> {
        if self.held.is_none() {
            self.held = match source.media.recv().await {
                Some(Ok(media)) => Some(Held { media, due: None }),
                Some(Err(error)) => return Err(BroadcastEnding::Source(error)),
                None => return Err(BroadcastEnding::Finished),
            };
        }
        Ok(())
    }

    /// Waits until the next media is due and returns it.
    async fn next(&mut self, source: &mut Source) -> Option<Result<Media, SourceError>> {
        // Kept across cancellation, so that media taken off the queue is not lost.
        if self.held.is_none() {
            match source.media.recv().await? {
                Ok(media) => self.held = Some(Held { media, due: None }),
                Err(error) => return Some(Err(error)),
            }
        }
        if let Some(Held { media: Media::Video(unit) | Media::Audio(unit), due }) = &mut self.held
            && !source.live
        {
            let due = *due.get_or_insert_with(|| self.pacer.due(unit.dts, std::time::Instant::now()));
            sleep_until(Instant::from_std(due)).await;
        }
        self.held.take().map(|held| Ok(held.media))
    }
}

/// A connection to a server, with or without TLS.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The two directions of a connection.
struct Socket {
    reader: ReadHalf<Box<dyn Transport>>,
    writer: WriteHalf<Box<dyn Transport>>,
}

/// Connects to the server, inside TLS where the URL says so.
async fn connect(url: &RtmpUrl, tls: Option<&Connector>) -> Result<Socket, String> {
    let cannot = |reason: &str| format!("cannot connect: {reason}");
    let socket = timeout(SET_UP, TcpStream::connect((url.host.as_str(), url.port))).await;
    let socket = socket.map_err(|_| cannot("no answer"))?.map_err(|error| cannot(&error.to_string()))?;
    // Small messages must be sent immediately, because this module does the pacing. A failure costs latency, not
    // correctness.
    let _ = socket.set_nodelay(true);
    let transport: Box<dyn Transport> = match tls {
        Some(connector) if url.tls => match timeout(SET_UP, connector.connect(&url.host, socket)).await {
            Ok(stream) => stream.map_err(|reason| cannot(&reason))?,
            Err(_) => return Err(cannot("no answer to the TLS handshake")),
        },
        None if url.tls => return Err(cannot("TLS is not set up")),
        Some(_) | None => Box::new(socket),
    };
    let (reader, writer) = tokio::io::split(transport);
    Ok(Socket { reader, writer })
}

/// Connects, publishes, and returns when this connection has ended.
pub(super) async fn run(
    url: &RtmpUrl,
    tls: Option<&Connector>,
    broadcast: &mut Broadcast,
    source: &mut PendingSource,
    progress: &mut ProgressDisplay,
    mut stop: Pin<&mut impl Future<Output = ()>>,
) -> BroadcastEnding {
    let socket = tokio::select! {
        socket = connect(url, tls) => socket,
        () = &mut stop => return BroadcastEnding::Stopped,
    };
    let mut socket = match socket {
        Ok(socket) => socket,
        Err(reason) => return BroadcastEnding::Lost(reason),
    };
    let mut link = match ClientSession::new(url.clone()) {
        Ok(session) => Link { session, unsent: BytesMut::new(), moved: Instant::now(), asked: None },
        Err(error) => return BroadcastEnding::Lost(error.to_string()),
    };
    let set_up = tokio::select! {
        set_up = timeout(SET_UP, link.set_up(&mut socket)) => set_up,
        () = &mut stop => return BroadcastEnding::Stopped,
    };
    match set_up {
        Ok(None) => {}
        Ok(Some(ending)) => return ending,
        Err(_) => return BroadcastEnding::Lost("the server does not answer".into()),
    }
    progress.published();
    let codecs = link.session.server_codecs();
    if let Some(codec) = source.not_taken(codecs) {
        return BroadcastEnding::Refused(format!(
            "the broadcast began with {codec}, which this server does not take"
        ));
    }
    let source = match source.start(Some(codecs), progress) {
        Ok(source) => source,
        Err(error) => return BroadcastEnding::Source(error),
    };
    // The file may just have been opened.
    let primed = tokio::select! {
        primed = broadcast.prime(source) => primed,
        () = &mut stop => Err(BroadcastEnding::Stopped),
    };
    let ending = match primed {
        Ok(()) => link.publish(&mut socket, broadcast, source, progress, stop).await,
        Err(ending) => ending,
    };
    if matches!(ending, BroadcastEnding::Finished | BroadcastEnding::Stopped | BroadcastEnding::Moved(_)) {
        // The publish has ended in any case, so errors of the farewell do not matter.
        let _ = timeout(FAREWELL, link.say_farewell(&mut socket)).await;
    }
    ending
}

/// A session and its unsent output.
struct Link {
    session: ClientSession,
    unsent: BytesMut,
    /// When bytes were last sent, or when there were none to send.
    moved: Instant,
    /// The server has asked for a new connection: to the application at this URL, or to the same one.
    asked: Option<Option<String>>,
}

impl Link {
    /// Runs until the server accepts the publish (`None`) or the connection ends.
    async fn set_up(&mut self, socket: &mut Socket) -> Option<BroadcastEnding> {
        loop {
            let output = self.session.take_output();
            let written = async {
                socket.writer.write_all(&output).await?;
                socket.writer.flush().await
            };
            if let Err(error) = written.await {
                return Some(BroadcastEnding::Lost(error.to_string()));
            }
            match self.read(socket).await {
                Ok(Some(ClientEvent::Publishing)) => return None,
                Ok(Some(ClientEvent::Refused(text))) => return Some(BroadcastEnding::Refused(text)),
                Ok(Some(ClientEvent::SentOff(text))) => return Some(sent_off(&text)),
                Ok(Some(ClientEvent::ReconnectAsked(_)) | None) => {}
                Err(ending) => return Some(ending),
            }
        }
    }

    async fn read(&mut self, socket: &mut Socket) -> Result<Option<ClientEvent>, BroadcastEnding> {
        let mut buffer = vec![0; READ_BUFFER];
        match socket.reader.read(&mut buffer).await {
            Ok(0) => Err(BroadcastEnding::Lost("the server closed the connection".into())),
            Ok(len) => self.receive(&buffer[..len]).map_err(lost),
            Err(error) => Err(BroadcastEnding::Lost(error.to_string())),
        }
    }

    /// Hands all bytes of a read to the session. Returns the last event: a server may end a publish in the same read in
    /// which it accepts the publish.
    fn receive(&mut self, mut input: &[u8]) -> Result<Option<ClientEvent>, ClientError> {
        let mut last = None;
        while let Some(event) = self.session.handle(&mut input)? {
            match event {
                ClientEvent::Publishing => last = Some(event),
                ClientEvent::ReconnectAsked(tc_url) => self.asked = Some(tc_url),
                ClientEvent::Refused(_) | ClientEvent::SentOff(_) => return Ok(Some(event)),
            }
        }
        Ok(last)
    }

    async fn publish(
        &mut self,
        socket: &mut Socket,
        broadcast: &mut Broadcast,
        source: &mut Source,
        progress: &mut ProgressDisplay,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> BroadcastEnding {
        broadcast.restart_pacing();
        if let Err(error) = self.begin(broadcast, source) {
            return lost(error);
        }
        let mut ticks = tokio::time::interval(ProgressDisplay::EVERY);
        let mut buffer = vec![0; READ_BUFFER];
        // Bytes that TLS holds back until it is flushed.
        let mut unflushed = false;
        loop {
            self.unsent.extend_from_slice(&self.session.take_output());
            if self.unsent.is_empty() {
                self.moved = Instant::now();
            }
            // Every branch is cancel-safe: reads and writes are complete or not done at all, a flush is repeated, and the
            // broadcast keeps media taken off the queue.
            tokio::select! {
                biased;
                () = &mut stop => return BroadcastEnding::Stopped,
                written = write_or_flush(&mut socket.writer, &self.unsent), if !self.unsent.is_empty() || unflushed => {
                    match written {
                        Ok(0) if !self.unsent.is_empty() => {
                            return BroadcastEnding::Lost("the server closed the connection".into());
                        }
                        Ok(len) => {
                            unflushed = len > 0;
                            self.unsent.advance(len);
                            progress.sent(len);
                            self.moved = Instant::now();
                        }
                        Err(error) => return BroadcastEnding::Lost(error.to_string()),
                    }
                }
                read = socket.reader.read(&mut buffer) => match read {
                    Ok(0) => return BroadcastEnding::Lost("the server closed the connection".into()),
                    Ok(len) => match self.receive(&buffer[..len]) {
                        Ok(Some(ClientEvent::Refused(text) | ClientEvent::SentOff(text))) => return sent_off(&text),
                        Ok(Some(ClientEvent::Publishing | ClientEvent::ReconnectAsked(_)) | None) => {}
                        Err(error) => return lost(error),
                    },
                    Err(error) => return BroadcastEnding::Lost(error.to_string()),
                },
                () = sleep_until(self.moved + STALL), if !self.unsent.is_empty() => {
                    return BroadcastEnding::Lost("the server takes nothing any more".into());
                }
                media = broadcast.next(source), if self.unsent.len() < MAX_UNSENT => match media {
                    Some(Ok(media)) if self.asked.is_some() && broadcast.can_pause_before(&media) => {
                        // The next connection begins with it.
                        broadcast.held = Some(Held { media, due: None });
                        return BroadcastEnding::Moved(self.asked.take().flatten());
                    }
                    Some(Ok(media)) => if let Err(error) = self.send(broadcast, progress, &media) {
                        return lost(error);
                    },
                    Some(Err(error)) => return BroadcastEnding::Source(error),
                    None => return BroadcastEnding::Finished,
                },
                _ = ticks.tick() => progress.show(source.dropped(), broadcast.pacer.late()),
            }
        }
    }

    /// Sends what a new connection needs before media: metadata and the configurations known so far.
    fn begin(&mut self, broadcast: &mut Broadcast, source: &mut Source) -> Result<(), ClientError> {
        if broadcast.clock.is_some() {
            // This is a reconnect: the server needs a keyframe to begin decoding.
            broadcast.gate.close();
            if source.live {
                broadcast.held = None;
                for config in source.discard_backlog() {
                    broadcast.remember(&config);
                }
            }
        }
        let configs = broadcast.configs();
        if configs.is_empty() {
            return Ok(());
        }
        self.session.metadata(write::metadata(broadcast.video.as_ref(), broadcast.audio.as_ref(), &[]))?;
        if let Some(clock) = &broadcast.clock {
            for config in configs {
                if let Some(tag) = broadcast.tags.tag(&config, clock, broadcast.position) {
                    self.session.media(tag)?;
                }
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        broadcast: &mut Broadcast,
        progress: &mut ProgressDisplay,
        media: &Media,
    ) -> Result<(), ClientError> {
        broadcast.remember(media);
        if !broadcast.gate.admits(media) {
            progress.skipped();
            return Ok(());
        }
        match media {
            Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => {
                let values = write::metadata(broadcast.video.as_ref(), broadcast.audio.as_ref(), &[]);
                self.session.metadata(values)?;
                // Before the first media there is no clock yet: the configurations are sent with that media.
                if let Some(clock) = &broadcast.clock
                    && let Some(tag) = broadcast.tags.tag(media, clock, broadcast.position)
                {
                    self.session.media(tag)?;
                }
            }
            Media::Video(unit) | Media::Audio(unit) | Media::Track(_, unit) => {
                broadcast.position = unit.dts;
                let clock = match broadcast.clock {
                    Some(clock) => clock,
                    None => {
                        let clock = RtmpClock::new(unit.dts, broadcast.start_timestamp_ms);
                        broadcast.clock = Some(clock);
                        for config in broadcast.configs() {
                            if let Some(tag) = broadcast.tags.tag(&config, &clock, unit.dts) {
                                self.session.media(tag)?;
                            }
                        }
                        clock
                    }
                };
                if let Some(tag) = broadcast.tags.tag(media, &clock, unit.dts) {
                    self.session.media(tag)?;
                }
                progress.unit(matches!(media, Media::Video(_)), unit.dts);
            }
        }
        Ok(())
    }

    /// Sends the remaining output and the end of the publish, then waits for the server to close, so that a reset does
    /// not discard data.
    async fn say_farewell(&mut self, socket: &mut Socket) -> std::io::Result<()> {
        // If the commands cannot be serialized, they are omitted.
        let _ = self.session.finish();
        self.unsent.extend_from_slice(&self.session.take_output());
        socket.writer.write_all(&self.unsent).await?;
        socket.writer.shutdown().await?;
        let mut buffer = [0; 1024];
        while socket.reader.read(&mut buffer).await? > 0 {}
        Ok(())
    }
}

/// Writes some of the bytes and returns their number; without bytes, flushes what TLS holds back.
async fn write_or_flush(writer: &mut (impl AsyncWrite + Unpin), unsent: &[u8]) -> std::io::Result<usize> {
    if unsent.is_empty() {
        writer.flush().await?;
        return Ok(0);
    }
    writer.write(unsent).await
}

fn sent_off(text: &str) -> BroadcastEnding {
    BroadcastEnding::Lost(format!("sent off: {text}"))
}

fn lost(error: ClientError) -> BroadcastEnding {
    BroadcastEnding::Lost(error.to_string())
}
