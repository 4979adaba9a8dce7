//! Synthetic media and a reader of the packager's output, for tests.

use crate::packager::{CutRule, Epoch, InitSegment, Output, Packager, PushError};
use crate::segment::{Part, Segment};
use crate::timing::{Latency, Timing};
use crate::track::{AudioTrack, Track, TrackKind, VideoTrack};
use crate::{RungName, SessionId};
use bytes::Bytes;
use media::time::rescale;
use media::{Anchor, AudioCodec, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};
use mp4_atom::{Any, DecodeMaybe, Moof, Moov};
use std::collections::BTreeMap;

/// 640x360, High@3.0, encoded by x264.
pub(crate) const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x1e, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f,
    0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96,
    0x01, 0x00, 0x04, 0x68, 0xef, 0xbc, 0xb0, 0xfd, 0xf8, 0xf8, 0x00,
];

/// Start of test streams on the media axis: 10 s, by convention.
pub(crate) const START_MS: i64 = 10_000;

/// Timing without parts.
pub(crate) fn timing(seconds: f64) -> Timing {
    timing_with_parts(seconds).without_parts()
}

pub(crate) fn timing_with_parts(seconds: f64) -> Timing {
    Timing::new(Latency::from_secs_f64(seconds).unwrap())
}

pub(crate) fn ms(ms: i64) -> MediaTime {
    MediaTime::ZERO + MediaSpan::from_millis(ms)
}

pub(crate) fn rung(name: &str) -> RungName {
    RungName::new(name).unwrap()
}

pub(crate) fn video(name: &str) -> Track {
    let kind = TrackKind::Video(VideoTrack {
        codec: VideoCodec::H264,
        config: Bytes::from_static(AVCC),
        width: 640,
        height: 360,
        sample_aspect: (1, 1),
        frame_rate: 30.0,
        nominal_bitrate: 800_000,
        captions: media::captions::CaptionServices::NONE,
    });
    Track { rung: rung(name), kind }
}

/// 320x180 in PQ, sample aspect ratio 16:11, Main 10, by libx265.
pub(crate) fn hvcc() -> Vec<u8> {
    hex(concat!(
        "0102200000009000000000003cf000fcfdfafa00000f03200001001840010c01ffff0220000003009000000300000300",
        "3c959809210001002d42010102200000030090000003000003003ca00a080b9f6d96566924e578235091009040000003",
        "00400000078222000100074401c172b46240",
    ))
}

/// 320x180, 10 bits, with the matrix of BT.2020, by SVT-AV1.
pub(crate) fn av1c() -> Vec<u8> {
    hex("81004c000a0e0200000521e7f66017c281010482")
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A rendition in HEVC and HDR.
pub(crate) fn hevc(name: &str) -> Track {
    in_codec(name, VideoCodec::Hevc, hvcc(), (16, 11))
}

/// A rendition in AV1.
pub(crate) fn av1(name: &str) -> Track {
    in_codec(name, VideoCodec::Av1, av1c(), (1, 1))
}

fn in_codec(name: &str, codec: VideoCodec, record: Vec<u8>, sample_aspect: (u16, u16)) -> Track {
    let kind = TrackKind::Video(VideoTrack {
        codec,
        config: record.into(),
        width: 320,
        height: 180,
        sample_aspect,
        frame_rate: 30.0,
        nominal_bitrate: 800_000,
        captions: media::captions::CaptionServices::NONE,
    });
    Track { rung: rung(name), kind }
}

pub(crate) fn audio() -> Track {
    audio_at(48_000)
}

pub(crate) fn audio_at(sample_rate: u32) -> Track {
    let kind = TrackKind::Audio(AudioTrack {
        codec: AudioCodec::Aac,
        config: Bytes::from_static(&[0x11, 0x90]),
        sample_rate,
        channels: 2,
        frame_samples: 1024,
        name: None,
        language: None,
        nominal_bitrate: 96_000,
    });
    Track { rung: RungName::audio(), kind }
}

/// The audio of another sound track.
pub(crate) fn audio_track(position: u16, name: &str, language: Option<&str>) -> Track {
    let TrackKind::Audio(audio) = audio().kind else { unreachable!() };
    let (name, language) = (Some(name.to_owned()), language.map(str::to_owned));
    Track {
        rung: RungName::audio_track(position),
        kind: TrackKind::Audio(AudioTrack { name, language, ..audio }),
    }
}

/// The wall clock at media time 10 s is 2026-11-22T12:00:00Z.
pub(crate) fn anchor() -> Anchor {
    Anchor { media: ms(START_MS), wall: WallTime::from_unix_micros(1_795_348_800_000_000) }
}

pub(crate) fn epoch(number: u32, start_ms: i64, tracks: &[Track], cuts: CutRule) -> Epoch {
    Epoch {
        session: SessionId::from_start(1_795_348_800_000_000, number),
        start: ms(start_ms),
        anchor: anchor(),
        tracks: tracks.to_vec(),
        cuts,
    }
}

/// Frames at `fps` from `start_ms` on, with an IDR every `gop` frames; with B-frames, decode times start one frame
/// early.
pub(crate) fn frames(start_ms: i64, fps: (i64, i64), gop: usize, count: usize, b_frames: bool) -> Vec<Unit> {
    let at = |n: i64| ms(start_ms) + MediaSpan::from_ticks_90k(rescale(n, fps.0, fps.1 * 90_000));
    let mut order: Vec<usize> = (0..count).collect();
    if b_frames {
        // Within a GOP: I P B P B ...: swap the decode order of every pair after the I.
        for gop in order.chunks_mut(gop) {
            gop[1..].chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
    }
    let lead = if b_frames { 1 } else { 0 };
    let sample = |(decoded, shown): (usize, usize)| Unit {
        pts: at(shown as i64),
        dts: at(decoded as i64 - lead),
        key: shown % gop == 0,
        data: Bytes::from(vec![shown as u8; 200 + shown % 7]),
    };
    order.into_iter().enumerate().map(sample).collect()
}

/// AAC frames from `start_ms` on, with timestamps in whole milliseconds as in FLV.
pub(crate) fn sound(start_ms: i64, rate: i64, count: usize) -> Vec<Unit> {
    (0..count as i64)
        .map(|n| {
            let at = ms(start_ms + rescale(n * 1024, rate, 1000));
            Unit { pts: at, dts: at, key: true, data: Bytes::from(vec![n as u8; 40]) }
        })
        .collect()
}

/// The content of a media segment's boxes.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) fragment_number: u32,
    pub(crate) base: u64,
    /// Duration, composition offset, sync sample, data.
    pub(crate) samples: Vec<(u32, i64, bool, Vec<u8>)>,
}

impl Parsed {
    pub(crate) fn duration(&self) -> u64 {
        self.samples.iter().map(|s| u64::from(s.0)).sum()
    }
}

/// Reads a media segment with mp4-atom, with its samples at the offsets in the boxes. Checks that its fragments are
/// contiguous.
pub(crate) fn parse(body: &[u8], default_flags: u32) -> Parsed {
    let mut fragments = parse_fragments(body, default_flags).into_iter();
    let mut all = fragments.next().expect("a fragment");
    for fragment in fragments {
        assert!(fragment.fragment_number > all.fragment_number, "fragments are numbered in order");
        assert_eq!(fragment.base, all.base + all.duration(), "fragments leave no hole");
        all.fragment_number = fragment.fragment_number;
        all.samples.extend(fragment.samples);
    }
    all
}

fn parse_fragments(body: &[u8], default_flags: u32) -> Vec<Parsed> {
    let mut rest = body;
    let mut fragments = Vec::new();
    let mut moof: Option<(usize, Moof)> = None;
    while !rest.is_empty() {
        let offset = body.len() - rest.len();
        match Any::decode_maybe(&mut rest).unwrap().expect("a whole box") {
            Any::Styp(styp) => {
                assert_eq!(offset, 0, "styp comes first, and once");
                assert!(styp.compatible_brands.contains(&b"cmfc".into()));
                assert!(styp.compatible_brands.contains(&b"iso6".into()));
            }
            Any::Moof(found) => moof = Some((offset, found)),
            Any::Mdat(_) => {
                let (offset, moof) = moof.take().expect("moof comes before mdat");
                let end = body.len() - rest.len();
                fragments.push(parse_fragment(&body[offset..end], &moof, default_flags));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(moof.is_none());
    fragments
}

fn parse_fragment(fragment: &[u8], moof: &Moof, default_flags: u32) -> Parsed {
    let traf = &moof.traf[0];
    assert!(traf.tfhd.default_base_is_moof && traf.tfhd.base_data_offset.is_none());
    let trun = &traf.trun[0];
    let mut data = &fragment[trun.data_offset.unwrap() as usize..];
    let samples: Vec<_> = trun
        .samples
        .iter()
        .map(|entry| {
            let (sample, behind) = data.split_at(entry.size.unwrap() as usize);
            data = behind;
            let duration = entry.duration.or(traf.tfhd.default_sample_duration).unwrap();
            let flags = entry.flags.unwrap_or(default_flags);
            (duration, entry.cts.unwrap_or(0), flags & 0x0001_0000 == 0, sample.to_vec())
        })
        .collect();
    assert!(data.is_empty(), "mdat holds nothing but the samples");
    Parsed {
        fragment_number: moof.mfhd.sequence_number,
        base: traf.tfdt.as_ref().unwrap().base_media_decode_time,
        samples,
    }
}

pub(crate) fn parse_init(body: &[u8]) -> Moov {
    let mut rest = body;
    let Some(Any::Ftyp(ftyp)) = Any::decode_maybe(&mut rest).unwrap() else { panic!("ftyp first") };
    assert!(
        ftyp.compatible_brands.contains(&b"cmfc".into()) && ftyp.compatible_brands.contains(&b"iso6".into())
    );
    let Some(Any::Moov(moov)) = Any::decode_maybe(&mut rest).unwrap() else { panic!("then moov") };
    assert!(rest.is_empty());
    moov
}

/// A packager and all its outputs.
pub(crate) struct Run {
    pub(crate) packager: Packager,
    pub(crate) timing: Timing,
    pub(crate) inits: Vec<InitSegment>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) parts: Vec<Part>,
    pub(crate) outputs: Vec<Output>,
}

impl Run {
    /// A packager without parts.
    pub(crate) fn new(latency: f64) -> Self {
        Self::with(timing(latency))
    }

    pub(crate) fn with_parts(latency: f64) -> Self {
        Self::with(timing_with_parts(latency))
    }

    pub(crate) fn with(timing: Timing) -> Self {
        Self {
            packager: Packager::new(timing.clone(), 0),
            timing,
            inits: Vec::new(),
            segments: Vec::new(),
            parts: Vec::new(),
            outputs: Vec::new(),
        }
    }

    pub(crate) fn begin(&mut self, epoch: Epoch) {
        self.packager.begin(epoch).unwrap();
        self.drain();
    }

    pub(crate) fn push(&mut self, rung: &RungName, sample: Unit) -> Result<(), PushError> {
        let pushed = self.packager.push(rung, sample);
        self.drain();
        pushed
    }

    /// Pushes the samples of several renditions in decode order.
    pub(crate) fn push_all(&mut self, tracks: &[(&str, Vec<Unit>)]) {
        let mut all: Vec<_> = tracks
            .iter()
            .flat_map(|(name, samples)| samples.iter().map(|s| (rung(name), s.clone())))
            .collect();
        all.sort_by_key(|(_, s)| s.dts);
        for (rung, sample) in all {
            self.push(&rung, sample).unwrap();
        }
    }

    pub(crate) fn end(&mut self, at: Option<MediaTime>) {
        self.packager.end_epoch(at);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.packager.poll() {
            self.outputs.push(output.clone());
            match output {
                Output::Init(init) => self.inits.push(init),
                Output::Part(part) => self.parts.push(part),
                Output::Segment(segment) => self.segments.push(segment),
            }
        }
    }

    pub(crate) fn of(&self, name: &str) -> Vec<&Segment> {
        self.segments.iter().filter(|s| s.info().rung.as_str() == name).collect()
    }

    /// Start and duration in milliseconds of each segment; negative durations are gaps.
    pub(crate) fn spans(&self, name: &str) -> Vec<(i64, i64)> {
        let span = |s: &&Segment| {
            let length = s.info().duration.ticks_90k() / 90;
            (s.info().start.ticks_90k() / 90, if s.body().is_some() { length } else { -length })
        };
        self.of(name).iter().map(span).collect()
    }

    pub(crate) fn parsed(&self, name: &str) -> Vec<Parsed> {
        let flags = if name == "audio" { 0x0200_0000 } else { 0x0101_0000 };
        self.of(name).iter().filter_map(|s| s.body()).map(|body| parse(body, flags)).collect()
    }

    /// Checks the invariants that hold for any input. Returns the number of emitted samples by rendition.
    pub(crate) fn check(&self) -> BTreeMap<RungName, usize> {
        let mut by_rung: BTreeMap<RungName, Vec<&Segment>> = BTreeMap::new();
        let mut open: BTreeMap<RungName, Vec<&Part>> = BTreeMap::new();
        let mut inits: Vec<(&RungName, &str)> = Vec::new();
        for output in &self.outputs {
            match output {
                Output::Init(init) => {
                    assert!(!inits.contains(&(&init.rung, &init.name)), "names are never reused");
                    inits.push((&init.rung, &init.name));
                }
                Output::Part(part) => {
                    assert!(inits.contains(&(&part.info().rung, &part.info().init)), "an init comes first");
                    open.entry(part.info().rung.clone()).or_default().push(part);
                }
                Output::Segment(segment) => {
                    assert!(
                        inits.contains(&(&segment.info().rung, &segment.info().init)),
                        "an init comes first"
                    );
                    let parts = open.remove(&segment.info().rung).unwrap_or_default();
                    self.check_parts(segment, &parts);
                    by_rung.entry(segment.info().rung.clone()).or_default().push(segment);
                }
            }
        }
        assert!(open.is_empty(), "every part's segment comes");
        let mut slots: BTreeMap<u64, (&SessionId, bool)> = BTreeMap::new();
        let mut samples = BTreeMap::new();
        for (rung, segments) in by_rung {
            let audio = crate::names::is_audio(rung.as_str());
            let flags = if audio { 0x0200_0000 } else { 0x0101_0000 };
            let (mut last_fragment, mut decoded_to, mut count) = (0, 0, 0);
            let mut session = &segments[0].info().session;
            for pair in segments.windows(2) {
                let (a, b) = (pair[0].info(), pair[1].info());
                assert!(b.sequence > a.sequence && b.name != a.name && b.wall >= a.wall);
                if a.session == b.session {
                    assert_eq!(b.sequence, a.sequence + 1, "no holes within an epoch");
                    assert_eq!(b.start, a.start + a.duration, "{rung} is continuous");
                }
            }
            for segment in segments {
                let td = f64::from(self.timing.target_duration);
                assert!(segment.info().duration > MediaSpan::ZERO);
                assert!(segment.info().duration.as_secs_f64().round() <= td, "EXTINF above TARGETDURATION");
                let slot = (&segment.info().session, segment.info().discontinuity);
                assert_eq!(*slots.entry(segment.info().sequence).or_insert(slot), slot, "renditions agree");
                let Some(body) = segment.body() else { continue };
                let parsed = parse(body, flags);
                assert!(parsed.samples[0].2, "a segment begins with a keyframe");
                assert!(parsed.fragment_number > last_fragment);
                // The last frame of an epoch, or its last part, may extend past the discontinuity.
                let overlap = match self.timing.parts {
                    _ if segment.info().session == *session => 0,
                    None => 2 * u64::from(parsed.samples[0].0),
                    Some(_) => parsed.duration(),
                };
                session = &segment.info().session;
                assert!(parsed.base + overlap >= decoded_to, "decode times grow");
                assert!(parsed.samples.iter().all(|s| s.0 > 0));
                last_fragment = parsed.fragment_number;
                decoded_to = parsed.base + parsed.duration();
                count += parsed.samples.len();
            }
            samples.insert(rung, count);
        }
        let sequences: Vec<u64> = slots.keys().copied().collect();
        assert!(sequences.windows(2).all(|w| w[1] == w[0] + 1), "sequence numbers grow by one");
        samples
    }

    /// Checks that a segment is the concatenation of its parts.
    fn check_parts(&self, segment: &Segment, parts: &[&Part]) {
        let Some(timing) = self.timing.parts.filter(|_| segment.body().is_some()) else {
            assert!(parts.is_empty(), "no parts of a gap");
            return;
        };
        let total = parts.iter().fold(MediaSpan::ZERO, |sum, part| sum + part.info().duration);
        assert_eq!(total, segment.info().duration, "parts cover their segment");
        let body: Vec<u8> = parts.iter().filter_map(|p| p.body()).flatten().copied().collect();
        assert_eq!(
            segment.body().map(|body| &body[..]),
            Some(&body[..]),
            "a segment's bytes are those of its parts"
        );
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(
                (part.info().index as usize, part.info().sequence),
                (index, segment.info().sequence),
                "numbered without holes"
            );
            assert_eq!(
                (&part.info().session, part.info().discontinuity),
                (&segment.info().session, segment.info().discontinuity)
            );
            assert_eq!((part.info().wall, &part.info().init), (segment.info().wall, &segment.info().init));
            assert!(part.info().duration <= timing.target, "above PART-TARGET");
        }
        assert!(parts[0].info().independent, "a segment's first part begins with a keyframe");
    }
}
