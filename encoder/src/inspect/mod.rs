//! What a publisher sends, as figures and in words: the report of `encoder inspect`, of `/status` and of the operator's
//! page.
//!
//! What belongs here: [`Inspector`], which takes the facts of access units, and makes of them a [`PublishReport`]
//! (`report`) with advice (`advice`) and its words for terminals (`words`). Pure: facts and times in, a report out. The
//! module is in this crate, because a report has media's facts (`media`), RTMP's repairs (`rtmp`) and the shape that
//! `/status` has. What does not: sockets, files, clocks; reading and repairing what a publisher sends
//! ([`rtmp::ingest`]).
//!
//! Memory: an inspector holds at most [`KEPT`] steps and [`KEPT`] keyframe distances of the video and [`KEPT`] steps of
//! the audio, less than 8 KiB, however long the stream is and whatever is sent.

mod advice;
pub(crate) mod report;
mod track;
mod words;

pub(crate) use report::PublishReport;
pub(crate) use words::{brief, screen};

use crate::logging::rounded;
use media::h264::{LengthSize, length_prefixed_units};
use media::{AacExtension, AudioCodec, AudioConfig, Media, MediaTime, Unit, VideoCodec, VideoConfig};
use report::{AudioReport, GopReport, TimingReport, UnreadableMedia, VideoReport};
use rtmp::ingest::{Notice, Oddities};
use rtmp::timeline::Repairs;
use rtmp::{MessageKind, Metadata};
use std::collections::{BTreeMap, VecDeque};
use track::Track;

/// Most steps and keyframe distances of each track that are kept for medians.
const KEPT: usize = 256;
/// Ticks of a second.
const SECOND: i64 = 90_000;
/// Seconds of sound and pictures together before their drift is told: a slope over less is noise.
const DRIFT_AFTER: u64 = 20;
/// Longest step between the newest sound and the newest picture that counts as an offset, in ticks (5 s).
const FAR_APART: i64 = 5 * SECOND;

/// What is told of the video before its first picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct VideoFacts {
    /// Name of the codec.
    pub(crate) codec: String,
    /// Profile and level, where they are known.
    pub(crate) profile: Option<String>,
    /// Width in pixels; 0 if unknown.
    pub(crate) width: u32,
    /// Height in pixels; 0 if unknown.
    pub(crate) height: u32,
    /// Frames per second that the publisher states.
    pub(crate) stated_frame_rate: Option<f64>,
}

/// What is told of the audio before its first frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AudioFacts {
    /// Name of the codec.
    pub(crate) codec: String,
    /// Profile, where it is known.
    pub(crate) profile: Option<String>,
    /// Samples per second; 0 if unknown.
    pub(crate) sample_rate: u32,
    /// Channels; 0 if unknown.
    pub(crate) channels: u32,
}

/// What the report needs of an access unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitFacts {
    /// Presentation time.
    pub(crate) pts: MediaTime,
    /// Decode time.
    pub(crate) dts: MediaTime,
    /// Whether decoding can start here.
    pub(crate) key: bool,
    /// Bytes of the access unit.
    pub(crate) bytes: u64,
}

impl From<&Unit> for UnitFacts {
    fn from(unit: &Unit) -> Self {
        Self { pts: unit.pts, dts: unit.dts, key: unit.key, bytes: unit.data.len() as u64 }
    }
}

/// How what is inspected comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// From a publisher: the order of sound and pictures shows their offset.
    #[default]
    Live,
    /// From a file, in the order of its container, which says nothing about an offset.
    File,
}

/// Watches what one publisher sends; see the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inspector {
    arrival: Arrival,
    program: Option<String>,
    stated_frame_rate: Option<f64>,
    video: VideoWatch,
    audio: AudioWatch,
    offset: Offset,
    repairs: Repairs,
    oddities: Oddities,
    other_tracks: bool,
    unreadable: Vec<UnreadableMedia>,
}

#[derive(Clone, Debug, Default)]
struct VideoWatch {
    facts: Option<VideoFacts>,
    /// Whether the access units are H.264 with lengths of four bytes: their captions can be seen.
    is_h264: bool,
    changes: u64,
    track: Track,
    keyframes: u64,
    newest_key: Option<MediaTime>,
    /// Distances of keyframes in ticks.
    gops: VecDeque<i64>,
    shortest_gop: Option<i64>,
    longest_gop: Option<i64>,
    newest_pts: Option<MediaTime>,
    b_frames: u64,
    /// B-frames in a row, and most of them so far.
    row: u32,
    longest_row: u32,
    captions: bool,
}

#[derive(Clone, Debug, Default)]
struct AudioWatch {
    facts: Option<AudioFacts>,
    changes: u64,
    track: Track,
}

/// The offset of sound against pictures, second by second: the slope of a line through the seconds' averages is the
/// drift.
#[derive(Clone, Debug, Default)]
struct Offset {
    /// The second in progress: its end, and the sum and number of offsets in it.
    second: Option<(MediaTime, i64, i64)>,
    /// Average of the newest whole second, in ticks.
    newest: Option<f64>,
    /// Whole seconds, and the sums of a linear regression over them.
    seconds: u64,
    sum_x: f64,
    sum_y: f64,
    sum_xx: f64,
    sum_xy: f64,
}

// === impl Inspector ===

impl Inspector {
    /// An inspector that has seen nothing.
    pub(crate) fn new(arrival: Arrival) -> Self {
        Self { arrival, ..Self::default() }
    }

    /// Takes what `onMetaData` says.
    pub(crate) fn metadata(&mut self, metadata: &Metadata) {
        if metadata.encoder.is_some() {
            self.program.clone_from(&metadata.encoder);
        }
        self.stated_frame_rate = metadata.frame_rate.or(self.stated_frame_rate);
    }

    /// Takes the media that was read from a publisher's message.
    pub(crate) fn media(&mut self, media: &Media) {
        match media {
            Media::VideoConfig(config) => {
                self.video.is_h264 = config.codec == VideoCodec::H264;
                self.video_facts(video_facts(config));
            }
            Media::AudioConfig(config) => self.audio_facts(audio_facts(config)),
            Media::Video(unit) => {
                if self.video.is_h264 && !self.video.captions {
                    self.video.captions = has_captions(&unit.data);
                }
                self.video_unit(unit.into());
            }
            Media::Audio(unit) => self.audio_unit(unit.into()),
            // The report is about the main sound.
            Media::TrackConfig(..) | Media::Track(..) => {}
        }
    }

    /// Takes the facts of the video that follows.
    pub(crate) fn video_facts(&mut self, facts: VideoFacts) {
        let changed = self.video.facts.as_ref().is_some_and(|former| *former != facts);
        self.video.changes += u64::from(changed);
        self.video.facts = Some(facts);
    }

    /// Takes the facts of the audio that follows.
    pub(crate) fn audio_facts(&mut self, facts: AudioFacts) {
        let changed = self.audio.facts.as_ref().is_some_and(|former| *former != facts);
        self.audio.changes += u64::from(changed);
        self.audio.facts = Some(facts);
    }

    /// Takes a picture.
    pub(crate) fn video_unit(&mut self, unit: UnitFacts) {
        self.video.unit(unit);
    }

    /// Takes an audio frame.
    pub(crate) fn audio_unit(&mut self, unit: UnitFacts) {
        let step = self.audio.track.unit(unit.dts, unit.bytes, track::AUDIO_GAP);
        if self.arrival == Arrival::Live
            && step.is_some()
            && let Some(picture) = self.video.track.newest()
        {
            self.offset.sound(unit.dts, (unit.dts - picture).ticks_90k());
        }
    }

    /// Takes what was repaired and passed over so far, and what cannot be read now.
    pub(crate) fn counted(
        &mut self,
        repairs: Repairs,
        oddities: Oddities,
        unreadable: impl Iterator<Item = Notice>,
    ) {
        (self.repairs, self.oddities) = (repairs, oddities);
        self.other_tracks |= oddities.other_tracks > 0;
        self.unreadable.clear();
        self.unreadable.extend(unreadable.map(UnreadableMedia::from));
    }

    /// The publisher has left: nothing comes any more that cannot be read.
    pub(crate) fn publisher_left(&mut self) {
        self.unreadable.clear();
    }

    /// There are tracks beside the first one of a kind.
    pub(crate) fn has_other_tracks(&mut self) {
        self.other_tracks = true;
    }

    /// Media time that was seen, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        let tracks = [&self.video.track, &self.audio.track];
        let first = tracks.iter().filter_map(|track| track.first()).min();
        let newest = tracks.iter().filter_map(|track| track.newest()).max();
        let span = first.zip(newest).map_or(0.0, |(first, newest)| (newest - first).as_secs_f64());
        let last_step = tracks.iter().map(|track| track.mean_step()).max().unwrap_or(0);
        span.max(0.0) + last_step as f64 / SECOND as f64
    }

    /// Pictures and bytes so far, for lines of progress.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.video.track.units(), self.video.track.bytes().saturating_add(self.audio.track.bytes()))
    }

    /// The sum of all repairs so far.
    pub(crate) fn repairs(&self) -> u64 {
        self.repairs.total() - self.repairs.wraps
    }

    /// The report of everything so far.
    pub(crate) fn report(&self) -> PublishReport {
        let counts = |kinds: &mut dyn Iterator<Item = (&'static str, u64)>| -> BTreeMap<String, u64> {
            kinds.filter(|(_, count)| *count > 0).map(|(kind, count)| (kind.to_owned(), count)).collect()
        };
        let mut report = PublishReport {
            seconds: rounded(self.seconds()),
            program: self.program.clone(),
            video: self.video.report(self.stated_frame_rate),
            audio: self.audio.report(),
            other_tracks: self.other_tracks,
            timing: TimingReport {
                gaps: self.video.track.gaps() + self.audio.track.gaps(),
                longest_gap_seconds: seconds(
                    self.video.track.longest_gap().max(self.audio.track.longest_gap()),
                ),
                backward_steps: self.video.track.backward() + self.audio.track.backward(),
                sound_ahead_ms: self.offset.newest.map(ms),
                drift_ms_per_minute: self.offset.drift_per_second().map(|slope| ms(slope * 60.0)),
                repairs: counts(&mut self.repairs.by_kind()),
            },
            passed_over: counts(&mut self.oddities.by_kind()),
            unreadable: self.unreadable.clone(),
            advice: Vec::new(),
        };
        report.advice = advice::of(&report);
        report
    }
}

/// Milliseconds with one decimal.
fn ms(ticks: f64) -> f64 {
    (ticks / 9.0).round() / 10.0
}

fn seconds(ticks: i64) -> f64 {
    rounded(ticks as f64 / SECOND as f64)
}

// === impl VideoWatch, AudioWatch ===

impl VideoWatch {
    fn unit(&mut self, UnitFacts { pts, dts, key, bytes }: UnitFacts) {
        let step = self.track.unit(dts, bytes, track::VIDEO_GAP);
        let went_back = step.is_some_and(|step| step <= 0);
        if self.newest_pts.is_some_and(|newest| pts < newest) && !went_back {
            self.b_frames += 1;
            self.row = self.row.saturating_add(1);
            self.longest_row = self.longest_row.max(self.row);
        } else {
            self.row = 0;
            self.newest_pts = Some(pts);
        }
        if key {
            self.keyframes += 1;
            let since = self.newest_key.replace(dts).map(|former| (dts - former).ticks_90k());
            if let Some(distance) = since.filter(|distance| *distance > 0) {
                keep(&mut self.gops, distance);
                self.shortest_gop = Some(self.shortest_gop.map_or(distance, |least| least.min(distance)));
                self.longest_gop = self.longest_gop.max(Some(distance));
            }
        }
    }

    fn report(&self, stated: Option<f64>) -> Option<VideoReport> {
        let facts = self.facts.clone().unwrap_or_default();
        if self.facts.is_none() && self.track.units() == 0 {
            return None;
        }
        let open = self.newest_key.zip(self.track.newest()).map(|(key, newest)| (newest - key).ticks_90k());
        // A keyframe that does not come is a GOP that grows.
        let longest = self.longest_gop.max(open.filter(|open| Some(*open) > self.longest_gop));
        let gop = median(&self.gops).zip(self.shortest_gop).zip(longest);
        Some(VideoReport {
            codec: facts.codec,
            profile: facts.profile,
            width: facts.width,
            height: facts.height,
            format_changes: self.changes,
            pictures: self.track.units(),
            frame_rate: self.track.rate().map(rounded),
            stated_frame_rate: facts.stated_frame_rate.or(stated).map(rounded),
            steady: self.track.is_steady(),
            step_ms: self.track.spread(),
            keyframes: self.keyframes,
            gop: gop.map(|((median, least), most)| GopReport {
                least_seconds: seconds(least),
                median_seconds: seconds(median),
                most_seconds: seconds(most),
            }),
            since_keyframe_seconds: open.map(seconds),
            b_frames: self.b_frames,
            most_b_frames_in_a_row: self.longest_row,
            bits_per_second: self.track.bits_per_second(),
            peak_bits_per_second: self.track.peak_bits_per_second(),
            captions: self.captions,
        })
    }
}

impl AudioWatch {
    fn report(&self) -> Option<AudioReport> {
        let facts = self.facts.clone().unwrap_or_default();
        if self.facts.is_none() && self.track.units() == 0 {
            return None;
        }
        Some(AudioReport {
            codec: facts.codec,
            profile: facts.profile,
            sample_rate: facts.sample_rate,
            channels: facts.channels,
            format_changes: self.changes,
            frames: self.track.units(),
            bits_per_second: self.track.bits_per_second(),
            peak_bits_per_second: self.track.peak_bits_per_second(),
        })
    }
}

/// Keeps a value among the last [`KEPT`].
fn keep(values: &mut VecDeque<i64>, value: i64) {
    if values.len() == KEPT {
        values.pop_front();
    }
    values.push_back(value);
}

fn median(values: &VecDeque<i64>) -> Option<i64> {
    let mut sorted: Vec<i64> = values.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

// === impl Offset ===

impl Offset {
    /// An audio frame at `at` came that many ticks after the newest picture.
    fn sound(&mut self, at: MediaTime, ahead: i64) {
        if ahead.abs() > FAR_APART {
            // One of the two stands still: not a matter of clocks.
            self.second = None;
            return;
        }
        match &mut self.second {
            Some((end, sum, count)) if at < *end => {
                *sum += ahead;
                *count += 1;
            }
            second => {
                if let Some((end, sum, count)) = *second {
                    let average = sum as f64 / count as f64;
                    let x = end.ticks_90k() as f64 / SECOND as f64;
                    self.newest = Some(average);
                    self.seconds += 1;
                    self.sum_x += x;
                    self.sum_y += average;
                    self.sum_xx += x * x;
                    self.sum_xy += x * average;
                }
                *second = Some((at + media::MediaSpan::from_ticks_90k(SECOND), ahead, 1));
            }
        }
    }

    /// Ticks by which the sound gains on the pictures in each second.
    fn drift_per_second(&self) -> Option<f64> {
        let n = self.seconds as f64;
        let spread = n * self.sum_xx - self.sum_x * self.sum_x;
        (self.seconds >= DRIFT_AFTER && spread > 0.0)
            .then(|| (n * self.sum_xy - self.sum_x * self.sum_y) / spread)
    }
}

// === facts of configurations ===

fn video_facts(config: &VideoConfig) -> VideoFacts {
    let profile = match config.codec {
        VideoCodec::H264 => h264_profile(&config.record),
        VideoCodec::Hevc | VideoCodec::Av1 | VideoCodec::Vp9 | VideoCodec::Vp8 => None,
    };
    VideoFacts {
        codec: config.codec.name().to_owned(),
        profile,
        width: config.width.into(),
        height: config.height.into(),
        stated_frame_rate: config.frame_rate.map(|(num, den)| f64::from(num) / f64::from(den.max(1))),
    }
}

/// Profile and level of an AVCDecoderConfigurationRecord.
fn h264_profile(record: &[u8]) -> Option<String> {
    let &[_, profile, constraints, level, ..] = record else { return None };
    let name = match profile {
        66 if constraints & 0x40 != 0 => "Constrained Baseline",
        66 => "Baseline",
        77 => "Main",
        88 => "Extended",
        100 => "High",
        110 => "High 10",
        122 => "High 4:2:2",
        244 => "High 4:4:4 Predictive",
        _ => "unknown profile",
    };
    Some(format!("{name}, level {}.{}", level / 10, level % 10))
}

fn audio_facts(config: &AudioConfig) -> AudioFacts {
    let profile = match (config.codec, config.extension, config.core_type) {
        (AudioCodec::Aac, Some(AacExtension::SbrAndPs), _) => Some("HE-AAC v2"),
        (AudioCodec::Aac, Some(AacExtension::Sbr), _) => Some("HE-AAC"),
        (AudioCodec::Aac, None, 2) => Some("LC"),
        _ => None,
    };
    AudioFacts {
        codec: config.codec.name().to_owned(),
        profile: profile.map(str::to_owned),
        sample_rate: config.sample_rate,
        channels: config.channels.into(),
    }
}

/// Whether an H.264 access unit carries captions (ATSC A/53: registered user data of an SEI message).
fn has_captions(data: &[u8]) -> bool {
    const SEI: u8 = 6;
    const A53: &[u8] = &[0xb5, 0x00, 0x31, b'G', b'A', b'9', b'4', 3];
    length_prefixed_units(data, LengthSize::Four)
        .map_while(Result::ok)
        .filter(|unit| unit.first().is_some_and(|head| head & 0x1f == SEI))
        .any(|unit| unit.windows(A53.len()).any(|window| window == A53))
}

impl From<Notice> for UnreadableMedia {
    fn from(Notice { kind, reason }: Notice) -> Self {
        Self { kind: kind_name(kind).to_owned(), reason: reason.to_owned() }
    }
}

fn kind_name(kind: MessageKind) -> &'static str {
    kind.as_str()
}

#[cfg(test)]
mod tests;
