//! Files as media: what `encoder publish FILE` and `encoder transcode FILE` read. H.264 and AAC are passed through in
//! the form in which a publisher sends them; anything else is decoded and encoded again. As fast as it goes; pacing
//! is the caller's.
//!
//! What belongs here: opening a file, leading its packets along, and errors. What becomes of a track is in `path`, its
//! place on the media axis in `times`, the order over both tracks in `interleave`, encoding again in `recode`.

pub(super) mod aac;
pub(super) mod h264;
mod interleave;
mod path;
mod recode;
mod times;

pub use super::contribution::EncodeError;

use aac::AacError;
use bytes::Bytes;
use ff::{Rational, format};
use ffmpeg_next as ff;
use h264::FramingError;
use interleave::Interleaver;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{AccessUnit, Media};
use media::{MediaSpan, MediaTime};
use path::{AudioPath, VideoPath};
use std::path::{Path, PathBuf};
use std::time::Instant;
use times::{dated, start_of, times};

/// Packets in a row that cannot be decoded before a file counts as broken.
const MAX_DECODE_ERRORS: u32 = 100;
/// Pictures without a dts that are held back for it; H.264 reorders 16 at most.
const MAX_UNDATED: usize = 32;

/// Why a file cannot be read (to its end). The file's fault unless said otherwise; a retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum DemuxError {
    /// Not there, not readable, or no format that libav knows.
    #[error("cannot open {}: {error}", path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// libav's reason.
        error: ff::Error,
    },
    /// Neither picture nor sound, or not the one asked for.
    #[error("{} has no picture or sound to use", path.display())]
    NoMedia {
        /// As given.
        path: PathBuf,
    },
    /// A codec that cannot be decoded here.
    #[error("cannot decode {codec}: {error}")]
    Codec {
        /// libav's name of the codec.
        codec: &'static str,
        /// libav's reason.
        error: ff::Error,
    },
    /// Reading stopped half way.
    #[error("reading failed: {0}")]
    Read(ff::Error),
    /// A picture is larger than 65535 pixels, or has no size.
    #[error("a picture of {0} × {1} pixels")]
    PictureSize(u32, u32),
    /// H.264 that does not hold what it promises.
    #[error("{0}")]
    Video(String),
    /// AAC that does not hold what it promises.
    #[error("{0}")]
    Audio(String),
    /// Too much in a row could not be decoded.
    #[error("the file is broken: {0}")]
    Broken(ff::Error),
    /// A fault of ours or of the build.
    #[error("encoding again: {0}")]
    Encode(#[from] EncodeError),
}

impl From<FramingError> for DemuxError {
    fn from(error: FramingError) -> Self {
        Self::Video(error.to_string())
    }
}

impl From<AacError> for DemuxError {
    fn from(error: AacError) -> Self {
        Self::Audio(error.to_string())
    }
}

/// What to take of a file.
#[derive(Clone, Copy, Debug)]
pub struct DemuxOptions {
    /// Whether pictures are wanted.
    pub video: bool,
    /// Whether sound is wanted.
    pub audio: bool,
    /// Bits a second of video that has to be encoded again.
    pub bitrate: u32,
}

impl Default for DemuxOptions {
    fn default() -> Self {
        Self { video: true, audio: true, bitrate: 3_000_000 }
    }
}

/// What is known of a file from its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// How long it plays; `None` where the container does not say.
    pub duration: Option<MediaSpan>,
    /// Its picture, if that is used.
    pub video: Option<TrackInfo>,
    /// Its sound, if that is used.
    pub audio: Option<TrackInfo>,
}

/// What is known of a track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackInfo {
    /// libav's name of the codec.
    pub codec: &'static str,
    /// Whether it is encoded again.
    pub recoded: bool,
}

/// Reads a file. Media comes in order of dts over both tracks, as far as the file's own interleaving allows; dts grows
/// strictly within a track. To be used on the thread that made it: libav's scaler is not `Send`.
pub struct Demuxer {
    input: format::context::Input,
    info: SourceInfo,
    start_90k: Option<i64>,
    video: Option<Track<VideoPath>>,
    audio: Option<Track<AudioPath>>,
    /// Pictures whose dts the container does not say, from the first one on.
    undated: Vec<AccessUnit>,
    ready: Interleaver,
    state: ReadState,
}

enum ReadState {
    Reading {
        decode_errors: u32,
    },
    /// Everything was read; what is ready still comes out.
    Drained,
    /// After an error nothing follows.
    Failed,
}

struct Track<P> {
    index: usize,
    time_base: Rational,
    path: P,
    /// Last dts that came out.
    last: Option<MediaTime>,
}

impl Demuxer {
    /// Opens a file and reads its headers.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DemuxError> {
        Self::open_with(path, &DemuxOptions::default())
    }

    /// The same with a choice of what to take.
    pub fn open_with(path: impl AsRef<Path>, options: &DemuxOptions) -> Result<Self, DemuxError> {
        let path = path.as_ref();
        super::quiet();
        // Only the file itself: a playlist inside must not make us open sockets.
        let mut protocols = ff::Dictionary::new();
        protocols.set("protocol_whitelist", "file");
        let input = format::input_with_dictionary(path, protocols)
            .map_err(|error| DemuxError::Open { path: path.into(), error })?;
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
            let (path, track) = VideoPath::open(&stream, options.bitrate)?;
            video = Some(Track { index: stream.index(), time_base: stream.time_base(), path, last: None });
            info.video = Some(track);
        }
        let mut audio = None;
        if let Some(stream) = pick(options.audio, ff::media::Type::Audio) {
            starts.extend(start_of(&stream));
            let (path, track) = AudioPath::open(&stream)?;
            audio = Some(Track { index: stream.index(), time_base: stream.time_base(), path, last: None });
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

    /// What the headers say.
    pub fn info(&self) -> SourceInfo {
        self.info.clone()
    }

    /// Reads one packet, or the end, into `ready`.
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
                // A file of a few pictures may never have said a dts.
                let mut out: Vec<Media> = self.undated.drain(..).map(Media::Video).collect();
                if let Some(Track { path: VideoPath::Recode(recoder), .. }) = &mut self.video {
                    recoder.finish(&mut out)?;
                }
                if let Some(Track { path: AudioPath::Recode(recoder), .. }) = &mut self.audio {
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
                    // Without a configuration nothing can be decoded; parameter sets alone are no picture.
                    if *announced && !converted.data.is_empty() {
                        let (key, data) = (packet.is_key(), converted.data);
                        let unit = AccessUnit { pts, dts, key, data, arrived: Instant::now() };
                        if packet.dts().is_none() && self.undated.len() < MAX_UNDATED {
                            self.undated.push(unit);
                        } else {
                            out.extend(dated(&mut self.undated, dts, shape.frame_span()).map(Media::Video));
                            out.push(Media::Video(unit));
                        }
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
                        let config = aac::audio_config(&frame.record, *output_rate)?;
                        let step = MediaTime::from_scaled(config.frame_samples.into(), config.sample_rate);
                        if !*announced || *record != frame.record[..] {
                            (*announced, *record) = (true, config.record.clone());
                            out.push(Media::AudioConfig(config));
                        }
                        let data = Bytes::copy_from_slice(frame.data);
                        out.push(Media::Audio(AccessUnit {
                            pts: at,
                            dts: at,
                            key: true,
                            data,
                            arrived: Instant::now(),
                        }));
                        at += step - MediaTime::ZERO;
                    }
                }
                AudioPath::Copy { adts: false, record, output_rate, announced } => {
                    if !*announced {
                        *announced = true;
                        out.push(Media::AudioConfig(aac::audio_config(record, *output_rate)?));
                    }
                    let data = Bytes::copy_from_slice(data);
                    out.push(Media::Audio(AccessUnit {
                        pts: dts,
                        dts,
                        key: true,
                        data,
                        arrived: Instant::now(),
                    }));
                }
                AudioPath::Recode(recoder) => recoder.packet(packet, dts, &mut out)?,
            }
        }
        self.queue(out);
        Ok(())
    }

    /// Hands media on for interleaving, with dts made to grow strictly: damaged and oddly cut files repeat times.
    fn queue(&mut self, media: Vec<Media>) {
        for mut media in media {
            let (last, unit) = match &mut media {
                Media::VideoConfig(_) | Media::AudioConfig(_) => {
                    self.ready.push(media);
                    continue;
                }
                Media::Video(unit) => (self.video.as_mut().map(|track| &mut track.last), unit),
                Media::Audio(unit) => (self.audio.as_mut().map(|track| &mut track.last), unit),
            };
            if let Some(last) = last {
                if let Some(last) = *last
                    && unit.dts <= last
                {
                    unit.dts = last + MediaSpan::from_ticks_90k(1);
                    unit.pts = unit.pts.max(unit.dts);
                }
                *last = Some(unit.dts);
            }
            self.ready.push(media);
        }
    }
}

impl Iterator for Demuxer {
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
