//! Looks at a file's packets without decoding them, for `encoder inspect FILE`: codecs and sizes from the headers, and
//! times and sizes of the packets as the container has them. Any codec will do.
//!
//! What belongs here: reading one file. What the figures mean is for the caller. Nothing is repaired.

use super::times::{start_of, times};
use super::{DemuxError, MAX_UNDATED};
use ff::{codec, format};
use ffmpeg_next as ff;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{MediaSpan, MediaTime};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::Path;

/// Consecutive packets that cannot be read before a file counts as broken.
const MAX_ERRORS: u32 = 100;

/// What a file's headers say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SurveyInfo {
    /// Duration; `None` where the container does not state it.
    pub duration: Option<MediaSpan>,
    /// The video track that a publisher would send.
    pub video: Option<SurveyedVideo>,
    /// The audio track that a publisher would send.
    pub audio: Option<SurveyedAudio>,
    /// Whether there are further tracks of video or audio.
    pub other_tracks: bool,
}

/// A video track's headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurveyedVideo {
    /// libav's name of the codec.
    pub codec: String,
    /// libav's name of the profile.
    pub profile: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second that the container states.
    pub frame_rate: Option<f64>,
}

/// An audio track's headers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurveyedAudio {
    /// libav's name of the codec.
    pub codec: String,
    /// libav's name of the profile.
    pub profile: Option<String>,
    /// Samples per second.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u32,
}

/// One packet of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyedPacket {
    /// Whether the packet is of the video track.
    pub video: bool,
    /// Presentation time.
    pub pts: MediaTime,
    /// Decode time.
    pub dts: MediaTime,
    /// Whether decoding can start here, as the container says.
    pub key: bool,
    /// Bytes of the packet.
    pub bytes: u32,
}

/// Reads a file's packets in this process; see the module. Packets without a time are left out.
pub(super) struct Survey {
    input: format::context::Input,
    info: SurveyInfo,
    /// Track numbers of video and audio.
    tracks: (Option<usize>, Option<usize>),
    start_90k: Option<i64>,
    /// Time of a picture; 1/25 s if the container does not state a rate.
    frame: MediaSpan,
    /// Pictures from the start of the file whose dts is not known yet.
    undated: Vec<SurveyedPacket>,
    /// Packets that come next.
    ready: VecDeque<SurveyedPacket>,
    errors: u32,
    drained: bool,
}

impl Survey {
    /// Reads the headers of an opened file. `path` is for errors.
    pub(super) fn new(input: format::context::Input, path: &Path) -> Result<Self, DemuxError> {
        let is_cover = |stream: &format::stream::Stream<'_>| {
            stream.disposition().contains(format::stream::Disposition::ATTACHED_PIC)
        };
        let best = |kind| input.streams().best(kind).filter(|stream| !is_cover(stream));
        let (video, audio) = (best(ff::media::Type::Video), best(ff::media::Type::Audio));
        if video.is_none() && audio.is_none() {
            return Err(DemuxError::NoMedia { path: path.into() });
        }
        let is_media = |stream: &format::stream::Stream<'_>| {
            matches!(stream.parameters().medium(), ff::media::Type::Video | ff::media::Type::Audio)
        };
        let all = input.streams().filter(|stream| is_media(stream) && !is_cover(stream)).count();
        let used = usize::from(video.is_some()) + usize::from(audio.is_some());
        let starts = video.iter().chain(&audio).filter_map(start_of);
        let info = SurveyInfo {
            duration: (input.duration() > 0)
                .then(|| MediaSpan::from_ticks_90k(rescale(input.duration(), 1_000_000, TICKS_PER_SECOND))),
            video: video.as_ref().map(video_info).transpose()?,
            audio: audio.as_ref().map(audio_info).transpose()?,
            other_tracks: all > used,
        };
        let tracks =
            (video.as_ref().map(|stream| stream.index()), audio.as_ref().map(|stream| stream.index()));
        let start_90k = starts.min();
        let rate = info.video.as_ref().and_then(|video| video.frame_rate).unwrap_or(25.0).max(1.0);
        Ok(Self {
            input,
            info,
            tracks,
            start_90k,
            frame: MediaSpan::from_secs_f64(1.0 / rate),
            undated: Vec::new(),
            ready: VecDeque::new(),
            errors: 0,
            drained: false,
        })
    }

    /// What the headers say.
    pub(super) fn info(&self) -> SurveyInfo {
        self.info.clone()
    }

    /// Reads one packet, or the end of the file, into `ready`.
    fn step(&mut self) -> Result<(), DemuxError> {
        let mut packet = ff::Packet::empty();
        match packet.read(&mut self.input) {
            Ok(()) => self.errors = 0,
            Err(ff::Error::Eof) => {
                self.drained = true;
                self.ready.extend(self.undated.drain(..));
                return Ok(());
            }
            Err(ff::Error::Other { errno: ff::util::error::EAGAIN }) => return Ok(()),
            Err(ff::Error::InvalidData) if self.errors < MAX_ERRORS => {
                self.errors += 1;
                return Ok(());
            }
            Err(error) => return Err(DemuxError::Read(error)),
        }
        let track = Some(packet.stream());
        let video = track == self.tracks.0;
        if (!video && track != self.tracks.1) || packet.size() == 0 {
            return Ok(());
        }
        let Some(stream) = self.input.stream(packet.stream()) else { return Ok(()) };
        let Some((pts, dts)) = times(&packet, stream.time_base(), &mut self.start_90k) else { return Ok(()) };
        let bytes = u32::try_from(packet.size()).unwrap_or(u32::MAX);
        let surveyed = SurveyedPacket { video, pts, dts, key: packet.is_key(), bytes };
        if video && packet.dts().is_none() && self.undated.len() < MAX_UNDATED {
            self.undated.push(surveyed);
            return Ok(());
        }
        if video {
            // Matroska stores no dts, and libav knows the reordering depth only after the first few pictures.
            let count = self.undated.len() as i64;
            for (mut packet, at) in self.undated.drain(..).zip(0..) {
                let back = MediaSpan::from_ticks_90k(self.frame.ticks_90k() * (at - count));
                packet.dts = dts + back;
                self.ready.push_back(packet);
            }
        }
        self.ready.push_back(surveyed);
        Ok(())
    }
}

impl Iterator for Survey {
    type Item = Result<SurveyedPacket, DemuxError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Some(Ok(packet));
            }
            if self.drained {
                return None;
            }
            if let Err(error) = self.step() {
                self.drained = true;
                return Some(Err(error));
            }
        }
    }
}

fn video_info(stream: &format::stream::Stream<'_>) -> Result<SurveyedVideo, DemuxError> {
    let parameters = stream.parameters();
    let name = parameters.id().name();
    let decoder = codec::Context::from_parameters(parameters)
        .and_then(|context| context.decoder().video())
        .map_err(|error| DemuxError::Codec { codec: name, error })?;
    let rate = stream.avg_frame_rate();
    let (num, den) = (f64::from(rate.numerator()), f64::from(rate.denominator()));
    Ok(SurveyedVideo {
        codec: name.to_owned(),
        profile: profile(decoder.profile()),
        width: decoder.width(),
        height: decoder.height(),
        frame_rate: (num > 0.0 && den > 0.0).then(|| num / den),
    })
}

fn audio_info(stream: &format::stream::Stream<'_>) -> Result<SurveyedAudio, DemuxError> {
    let parameters = stream.parameters();
    let name = parameters.id().name();
    let decoder = codec::Context::from_parameters(parameters)
        .and_then(|context| context.decoder().audio())
        .map_err(|error| DemuxError::Codec { codec: name, error })?;
    Ok(SurveyedAudio {
        codec: name.to_owned(),
        profile: profile(decoder.profile()),
        sample_rate: decoder.rate(),
        channels: u32::from(decoder.channels()),
    })
}

/// The name of a profile that libav knows, as the standards write it.
fn profile(profile: codec::Profile) -> Option<String> {
    use codec::Profile;
    use codec::profile::{AAC, H264};
    let name = match profile {
        Profile::Unknown | Profile::Reserved => return None,
        Profile::H264(H264::Constrained | H264::ConstrainedBaseline) => "Constrained Baseline".to_owned(),
        Profile::H264(H264::High10 | H264::High10Intra) => "High 10".to_owned(),
        Profile::H264(H264::High422 | H264::High422Intra) => "High 4:2:2".to_owned(),
        Profile::H264(H264::High444 | H264::High444Predictive | H264::High444Intra) => {
            "High 4:4:4".to_owned()
        }
        Profile::H264(profile) => format!("{profile:?}"),
        Profile::AAC(AAC::Low | AAC::MPEG2Low) => "LC".to_owned(),
        Profile::AAC(AAC::HE | AAC::MPEG2HE) => "HE-AAC".to_owned(),
        Profile::AAC(AAC::HEv2) => "HE-AAC v2".to_owned(),
        Profile::AAC(profile) => format!("{profile:?}"),
        Profile::HEVC(profile) => format!("{profile:?}"),
        Profile::VP9(profile) => format!("{profile:?}"),
        other => format!("{other:?}"),
    };
    Some(name)
}
