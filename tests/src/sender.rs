//! A publisher that sends messages as they are given, for habits of real publishers that no program at hand has.
//!
//! What belongs here: an FLV file as messages, and sending messages in real time. What does not: what is changed in them,
//! which each test says itself.

use crate::patience;
use anyhow::{Context, bail};
use bytes::Bytes;
use media::{AudioConfig, VideoConfig};
use rtmp::client::{ClientEvent, ClientSession};
use rtmp::flv::write::{self, OutgoingTag};
use rtmp::{MessageKind, SoundTrackInfo};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of an FLV file's header and of the first back pointer.
const FILE_HEADER: usize = 13;
/// Bytes of a tag's header; the tag's body and a size of four bytes follow.
const TAG_HEADER: usize = 11;

/// A message of audio or video.
#[derive(Clone, Debug)]
pub struct Message {
    /// Audio or video.
    pub kind: MessageKind,
    /// Time in milliseconds.
    pub at_ms: u32,
    /// FLV tag body.
    pub body: Bytes,
}

/// All messages of audio and video in an FLV file.
///
/// # Panics
/// When the file cannot be read.
#[track_caller]
pub fn messages(flv: &Path) -> Vec<Message> {
    let file = Bytes::from(std::fs::read(flv).expect("a readable clip"));
    let mut messages = Vec::new();
    let mut at = FILE_HEADER;
    while at + TAG_HEADER < file.len() {
        let head = &file[at..at + TAG_HEADER];
        let size = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let at_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        let kind = match head[0] {
            8 => Some(MessageKind::Audio),
            9 => Some(MessageKind::Video),
            _ => None,
        };
        let body = file.slice(at + TAG_HEADER..at + TAG_HEADER + size);
        messages.extend(kind.map(|kind| Message { kind, at_ms, body }));
        at += TAG_HEADER + size + 4;
    }
    messages
}

/// What `onMetaData` says.
#[derive(Clone, Debug, Default)]
pub struct Announced {
    /// Size and codec of the pictures.
    pub video: Option<VideoConfig>,
    /// Sample rate, channels and codec of the sound.
    pub audio: Option<AudioConfig>,
    /// `audioTrackIdInfoMap`: properties of the sound tracks.
    pub sound_tracks: Vec<SoundTrackInfo>,
}

/// A publisher at work in a thread of its own; its result is what the server said when it ended the publish, if it did.
pub type Sending = JoinHandle<anyhow::Result<Option<String>>>;

/// Publishes messages in real time, says goodbye after the last one, and ends.
pub fn send(url: &str, announced: Option<Announced>, messages: Vec<Message>) -> Sending {
    let url = url.to_owned();
    std::thread::spawn(move || run(&url, announced, &messages))
}

fn run(url: &str, announced: Option<Announced>, messages: &[Message]) -> anyhow::Result<Option<String>> {
    let url: rtmp::url::RtmpUrl = url.parse().context("a publishing URL")?;
    let mut socket = TcpStream::connect((url.host.as_str(), url.port)).context("the encoder listens")?;
    socket.set_nodelay(true)?;
    let mut session = ClientSession::new(url)?;
    match talk(&mut socket, &mut session, Duration::from_secs(10))? {
        Some(ClientEvent::Publishing) => {}
        Some(ClientEvent::Refused(why) | ClientEvent::SentOff(why)) => return Ok(Some(why)),
        Some(ClientEvent::ReconnectAsked(_)) => bail!("the server is leaving"),
        None => bail!("the server does not answer"),
    }
    if let Some(announced) = announced {
        let Announced { video, audio, sound_tracks } = announced;
        session.metadata(write::metadata(video.as_ref(), audio.as_ref(), &sound_tracks))?;
    }
    let began = Instant::now();
    let first = messages.first().map_or(0, |message| message.at_ms);
    for Message { kind, at_ms, body } in messages {
        let due = Duration::from_millis(u64::from(at_ms.saturating_sub(first)));
        patience::pause(due.saturating_sub(began.elapsed()));
        session.media(OutgoingTag { kind: *kind, timestamp_ms: *at_ms, body: body.clone() })?;
        if let Some(ClientEvent::SentOff(why)) = talk(&mut socket, &mut session, Duration::ZERO)? {
            return Ok(Some(why));
        }
    }
    session.finish()?;
    socket.write_all(&session.take_output())?;
    // The server closes after a goodbye.
    socket.set_read_timeout(Some(patience::patience(Duration::from_secs(5))))?;
    while matches!(socket.read(&mut [0; 4096]), Ok(1..)) {}
    Ok(None)
}

/// Sends what there is to send, and reads for up to `wait`, or what has come already if that is zero.
fn talk(
    socket: &mut TcpStream,
    session: &mut ClientSession,
    wait: Duration,
) -> anyhow::Result<Option<ClientEvent>> {
    let began = Instant::now();
    loop {
        socket.write_all(&session.take_output())?;
        let least = Duration::from_millis(1);
        socket.set_nonblocking(wait.is_zero())?;
        if !wait.is_zero() {
            socket.set_read_timeout(Some(wait.saturating_sub(began.elapsed()).max(least)))?;
        }
        let mut buffer = [0; 4096];
        let count = match socket.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(count) => count,
            Err(_) => {
                socket.set_nonblocking(false)?;
                return Ok(None);
            }
        };
        socket.set_nonblocking(false)?;
        let mut input = &buffer[..count];
        while !input.is_empty() {
            if let Some(event) = session.handle(&mut input)? {
                socket.write_all(&session.take_output())?;
                return Ok(Some(event));
            }
        }
    }
}
