//! Reads files as media, for `encoder publish FILE` and `encoder transcode FILE`. H.264 and AAC, and what the caller takes
//! besides, are passed through in the form in which a publisher sends them; anything else is decoded and encoded again.
//! Files are read as fast as possible; pacing is left to the caller.
//!
//! Files come from strangers, and libav's demuxers and decoders are C: [`FileReader`] demuxes a file in a process of
//! its own that has the file as its stdin and is confined like a worker. `child` is that process, `reader` its other end.
//!
//! What belongs here: opening a file, dispatching its packets, and errors. `path` decides how a track is handled,
//! `times` places tracks on the media axis, `interleave` orders the two tracks, and `recode` encodes again. `survey` looks
//! at a file's packets alone, for `encoder inspect FILE`.

mod child;
pub(super) mod h264;
mod interleave;
mod path;
mod reader;
mod recode;
mod survey;
mod times;

pub use super::contribution::EncodeError;
pub use child::{DemuxJob, demux_worker_main};
pub use reader::{FileMedia, FileReader, FileSurvey};
pub use survey::{SurveyInfo, SurveyedAudio, SurveyedPacket, SurveyedVideo};

use bytes::Bytes;
use ff::{Rational, format};
use ffmpeg_next as ff;
use interleave::Interleaver;
use media::aac::{self, AacError};
use media::h264::H264Error;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{Media, MediaSpan, MediaTime, Unit};
use path::{AudioPath, VideoPath};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use times::{dated, start_of, times};

/// Consecutive packets that cannot be decoded before a file counts as broken.
const MAX_DECODE_ERRORS: u32 = 100;
/// Limit of pictures without a dts that are held back until a dts is known; H.264 reorders 16 at most.
const MAX_UNDATED: usize = 32;

/// Why a file cannot be read (to its end). The file is at fault unless a variant says otherwise; a retry does not
/// help.
#[derive(Debug, thiserror::Error)]
pub enum DemuxError {
    /// The file does not exist, is not readable, or has no format that libav knows.
    #[error("cannot open {}: {}", path.display(), why_not_opened(error))]
    Open {
        /// As given.
        path: PathBuf,
        /// libav's reason.
        error: ff::Error,
    },
    /// The file has neither video nor audio, or not the kind that was asked for.
    #[error("{} has no picture or sound to use", path.display())]
    NoMedia {
        /// As given.
        path: PathBuf,
    },
    /// The codec cannot be decoded here.
    #[error("cannot decode {codec}: {error}")]
    Codec {
        /// libav's name of the codec.
        codec: &'static str,
        /// libav's reason.
        error: ff::Error,
    },
    /// Reading failed before the end of the file.
    #[error("reading failed: {0}")]
    Read(ff::Error),
    /// The picture's width or height is larger than 65535 pixels, or smaller than 2.
    #[error("a picture of {0} × {1} pixels")]
    PictureSize(u32, u32),
    /// The H.264 data does not match its framing or configuration.
    #[error("{0}")]
    Video(String),
    /// The AAC data does not match its framing or configuration.
    #[error("{0}")]
    Audio(String),
    /// Too many consecutive packets could not be decoded.
    #[error("the file is broken: {0}")]
    Broken(ff::Error),
    /// The confined process that reads the file reported this failure.
    #[error("{0}")]
    Reported(String),
    /// The confined process that reads the file cannot be started or confined, ended early, or broke the protocol. The
    /// file is at fault where it makes libav crash or run a stranger's code.
    #[error("the process that reads the file {0}")]
    Process(String),
    /// Encoding again failed: a fault of this program or of the build.
    #[error("encoding again: {0}")]
    Encode(#[from] EncodeError),
}

/// Why a file cannot be opened, in words.
fn why_not_opened(error: &ff::Error) -> String {
    match error {
        ff::Error::InvalidData => "there is no media in it that this build of libav can read".to_owned(),
        ff::Error::Eof => "it is empty, or ends before its first picture and sound".to_owned(),
        error => {
            let text = error.to_string();
            if text.is_empty() { format!("libav's error {}", i32::from(*error)) } else { text }
        }
    }
}

impl From<H264Error> for DemuxError {
    fn from(error: H264Error) -> Self {
        Self::Video(error.to_string())
    }
}

impl From<AacError> for DemuxError {
    fn from(error: AacError) -> Self {
        Self::Audio(error.to_string())
    }
}

/// Which tracks to take from a file, and how.
#[derive(Clone, Debug)]
pub struct DemuxOptions {
    /// Whether to take the video track.
    pub video: bool,
    /// Whether to take the audio track.
    pub audio: bool,
    /// Bit rate of video that is encoded again, in bits per second.
    pub bitrate: u32,
    /// Codecs beside H.264 and AAC that are passed through, by libav's names: those of [`PASSABLE`].
    pub pass: Vec<String>,
}

/// libav's names of the codecs that [`DemuxOptions::pass`] may name.
pub const PASSABLE: [&str; 6] = ["hevc", "av1", "opus", "flac", "ac3", "eac3"];

impl Default for DemuxOptions {
    fn default() -> Self {
        Self { video: true, audio: true, bitrate: 3_000_000, pass: Vec::new() }
    }
}

/// Properties of a file, from its headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// Duration; `None` where the container does not state it.
    pub duration: Option<MediaSpan>,
    /// The video track, if it is used.
    pub video: Option<TrackInfo>,
    /// The audio track, if it is used.
    pub audio: Option<TrackInfo>,
}

/// Properties of a track.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackInfo {
    /// libav's name of the codec.
    pub codec: String,
    /// Whether the track is encoded again.
    pub recoded: bool,
}

/// Reads a file in this process. Media comes in order of dts over both tracks, as far as the file's own interleaving
/// allows; dts grows strictly within a track. Use a demuxer on the thread that created it: libav's scaler is not `Send`.
pub struct FileDemuxer {
    input: format::context::Input,
    info: SourceInfo,
    start_90k: Option<i64>,
    video: Option<DemuxedTrack<VideoPath>>,
    audio: Option<DemuxedTrack<AudioPath>>,
    /// Pictures from the start of the file whose dts the container does not state.
    undated: Vec<Unit>,
    ready: Interleaver,
    state: ReadState,
}

/// Opens a file in this process.
fn input_of(path: &Path) -> Result<format::context::Input, DemuxError> {
    super::quiet();
    // Allow the file protocol only: a playlist inside the file must not make libav open sockets.
    let mut protocols = ff::Dictionary::new();
    protocols.set("protocol_whitelist", "file");
    format::input_with_dictionary(path, protocols)
        .map_err(|error| DemuxError::Open { path: path.into(), error })
}

enum ReadState {
    Reading {
        decode_errors: u32,
    },
    /// The file is read to its end; queued media still comes out.
    Drained,
    /// An error ended reading; no media follows.
    Failed,
}

struct DemuxedTrack<P> {
    index: usize,
    time_base: Rational,
    path: P,
    /// Last dts that was queued for output.
    last: Option<MediaTime>,
}

impl FileDemuxer {
    /// Opens a file and reads its headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DemuxError> {
        Self::open_with(path, &DemuxOptions::default())
    }

    /// Like [`Self::open`], with a choice of tracks.
    pub fn open_with(path: impl AsRef<Path>, options: &DemuxOptions) -> Result<Self, DemuxError> {
        let path = path.as_ref();
        Self::new(input_of(path)?, path, options)
    }

    /// Picks the tracks of an opened file. `path` is for errors.
    fn new(input: format::context::Input, path: &Path, options: &DemuxOptions) -> Result<Self, DemuxError> {
        let mut info = SourceInfo {
            duration: (input.duration() > 0)
                .then(|| MediaSpan::from_ticks_90k(rescale(input.duration(), 1_000_000, TICKS_PER_SECOND))),
            video: None,
            audio: None,
        };
        let mut starts = Vec::new();
        let pick = |wanted: bool, kind: ff::media::Type| {
            let cover = format::stream::Disposition::ATTACHED_PIC;
            let best = wanted.then(|| input.streams().best(kind)).flatten();
            best.filter(|stream| !stream.disposition().contains(cover))
        };
        let mut video = None;
        if let Some(stream) = pick(options.video, ff::media::Type::Video) {
            starts.extend(start_of(&stream));
            let (path, track) = VideoPath::open(&stream, options)?;
            video =
                Some(DemuxedTrack { index: stream.index(), time_base: stream.time_base(), path, last: None });
            info.video = Some(track);
        }
        let mut audio = None;
        if let Some(stream) = pick(options.audio, ff::media::Type::Audio) {
            starts.extend(start_of(&stream));
            let (path, track) = AudioPath::open(&stream, options)?;
            audio =
                Some(DemuxedTrack { index: stream.index(), time_base: stream.time_base(), path, last: None });
            info.audio = Some(track);
        }
        if video.is_none() && audio.is_none() {
            return Err(DemuxError::NoMedia { path: path.into() });
        }
        let ready = Interleaver::new(video.is_some(), audio.is_some());
        let state = ReadState::Reading { decode_errors: 0 };
        let start_90k = starts.into_iter().min();
        Ok(Self { input, info, start_90k, video, audio, undated: Vec::new(), ready, state })
    }

    /// The properties of the file, from its headers.
    pub fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    /// Reads one packet, or the end of the file, into `ready`.
    fn step(&mut self, decode_errors: u32) -> Result<ReadState, DemuxError> {
        let mut packet = ff::Packet::empty();
        match packet.read(&mut self.input) {
            Ok(()) => match self.packet(&packet) {
                Ok(()) => Ok(ReadState::Reading { decode_errors: 0 }),
                // One bad packet is skipped, as any player would.
                Err(DemuxError::Broken(_)) if decode_errors < MAX_DECODE_ERRORS => {
                    Ok(ReadState::Reading { decode_errors: decode_errors + 1 })
                }
                Err(error) => Err(error),
            },
            Err(ff::Error::Other { errno: ff::util::error::EAGAIN }) => {
                Ok(ReadState::Reading { decode_errors })
            }
            Err(ff::Error::InvalidData) if decode_errors < MAX_DECODE_ERRORS => {
                Ok(ReadState::Reading { decode_errors: decode_errors + 1 })
            }
            Err(ff::Error::Eof) => {
                // In a file of a few pictures, no packet may have stated a dts.
                let mut out: Vec<Media> = self.undated.drain(..).map(Media::Video).collect();
                if let Some(DemuxedTrack { path: VideoPath::Recode(recoder), .. }) = &mut self.video {
                    recoder.finish(&mut out)?;
                }
                if let Some(DemuxedTrack { path: AudioPath::Recode(recoder), .. }) = &mut self.audio {
                    recoder.finish(&mut out)?;
                }
                self.queue(out);
                self.ready.finish();
                Ok(ReadState::Drained)
            }
            Err(error) => Err(DemuxError::Read(error)),
        }
    }

    fn packet(&mut self, packet: &ff::Packet) -> Result<(), DemuxError> {
        let Some(data) = packet.data().filter(|data| !data.is_empty()) else { return Ok(()) };
        let mut out = Vec::new();
        if let Some(track) = self.video.as_mut().filter(|track| track.index == packet.stream()) {
            let Some((pts, dts)) = times(packet, track.time_base, &mut self.start_90k) else { return Ok(()) };
            match &mut track.path {
                VideoPath::Copy { framing, shape, announced } => {
                    let converted = framing.convert(data)?;
                    let first = if *announced { None } else { framing.record().cloned() };
                    if let Some(record) = converted.record.or(first) {
                        *announced = true;
                        out.push(Media::VideoConfig(shape.config(record)));
                    }
                    // Without a configuration nothing can be decoded; parameter sets alone are not a picture.
                    if *announced && !converted.data.is_empty() {
                        let unit = Unit { pts, dts, key: packet.is_key(), data: converted.data };
                        let is_dated = packet.dts().is_some();
                        picture(&mut self.undated, unit, is_dated, shape.frame_span(), &mut out);
                    }
                }
                VideoPath::Pass { converter, config, frame_span, announced } => {
                    if !std::mem::replace(announced, true) {
                        out.push(Media::VideoConfig(config.clone()));
                    }
                    if let Some(unit) = converter.convert(data) {
                        let unit = Unit { pts, dts, key: unit.key, data: unit.data };
                        let is_dated = packet.dts().is_some();
                        picture(&mut self.undated, unit, is_dated, *frame_span, &mut out);
                    }
                }
                VideoPath::Recode(recoder) => recoder.packet(packet, pts, dts, &mut out)?,
            }
        } else if let Some(track) = self.audio.as_mut().filter(|track| track.index == packet.stream()) {
            let Some((_, dts)) = times(packet, track.time_base, &mut self.start_90k) else { return Ok(()) };
            match &mut track.path {
                AudioPath::Copy { adts: true, record, output_rate, announced } => {
                    let mut at = dts;
                    for frame in aac::adts_frames(data) {
                        let frame = frame?;
                        let frame_record = Bytes::copy_from_slice(&frame.record);
                        let config = aac::read_config(&frame_record, Some(*output_rate))?;
                        let step = MediaTime::from_scaled(config.frame_samples.into(), config.sample_rate);
                        if !*announced || *record != frame.record[..] {
                            (*announced, *record) = (true, config.record.clone());
                            out.push(Media::AudioConfig(config));
                        }
                        let data = Bytes::copy_from_slice(frame.data);
                        out.push(Media::Audio(Unit { pts: at, dts: at, key: true, data }));
                        at += step - MediaTime::ZERO;
                    }
                }
                AudioPath::Copy { adts: false, record, output_rate, announced } => {
                    if !*announced {
                        *announced = true;
                        out.push(Media::AudioConfig(aac::read_config(record, Some(*output_rate))?));
                    }
                    let data = Bytes::copy_from_slice(data);
                    out.push(Media::Audio(Unit { pts: dts, dts, key: true, data }));
                }
                AudioPath::Pass { codec, given, announced } => {
                    if !*announced {
                        // A frame that cannot be read is no beginning.
                        let config = given.take().or_else(|| path::config_of_frame(*codec, data));
                        *announced = config.is_some();
                        out.extend(config.map(Media::AudioConfig));
                    }
                    if *announced {
                        let data = Bytes::copy_from_slice(data);
                        out.push(Media::Audio(Unit { pts: dts, dts, key: true, data }));
                    }
                }
                AudioPath::Recode(recoder) => recoder.packet(packet, dts, &mut out)?,
            }
        }
        self.queue(out);
        Ok(())
    }

    /// Queues media for interleaving. A dts that does not grow is corrected to grow strictly: damaged and badly cut
    /// files repeat times.
    fn queue(&mut self, media: Vec<Media>) {
        for mut media in media {
            let (last, unit) = match &mut media {
                Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) | Media::Track(..) => {
                    self.ready.push(media);
                    continue;
                }
                Media::Video(unit) => (self.video.as_mut().map(|track| &mut track.last), unit),
                Media::Audio(unit) => (self.audio.as_mut().map(|track| &mut track.last), unit),
            };
            if let Some(last) = last {
                let_dts_grow(last, unit);
            }
            self.ready.push(media);
        }
    }
}

/// Adds a picture to `out`, or holds back one whose dts the container does not state.
fn picture(undated: &mut Vec<Unit>, unit: Unit, is_dated: bool, frame_span: MediaSpan, out: &mut Vec<Media>) {
    if !is_dated && undated.len() < MAX_UNDATED {
        undated.push(unit);
    } else {
        out.extend(dated(undated, unit.dts, frame_span).map(Media::Video));
        out.push(Media::Video(unit));
    }
}

/// Corrects a dts that does not grow from `last`, the track's dts before it.
fn let_dts_grow(last: &mut Option<MediaTime>, unit: &mut Unit) {
    if let Some(last) = *last
        && unit.dts <= last
    {
        unit.dts = last + MediaSpan::from_ticks_90k(1);
        unit.pts = unit.pts.max(unit.dts);
    }
    *last = Some(unit.dts);
}

impl Iterator for FileDemuxer {
    type Item = Result<Media, DemuxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(media) = self.ready.pop() {
                return Some(Ok(media));
            }
            match self.state {
                ReadState::Drained | ReadState::Failed => return None,
                ReadState::Reading { decode_errors } => match self.step(decode_errors) {
                    Ok(state) => self.state = state,
                    Err(error) => {
                        self.state = ReadState::Failed;
                        return Some(Err(error));
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
