//! Made-up archives for tests.

use super::contents::Contents;
use super::page::{ArchivedEpoch, Page, PageEntry};
use crate::delivery::DeliveryEvent;
use bytes::Bytes;
use hls::fmp4::index::{FragmentIndex, SampleIndex, SegmentIndex};
use hls::timing::Latency;
use hls::{
    AudioTrack, CutRule, Output, Packager, RungName, SegmentInfo, SessionId, Timing, Track, TrackKind,
    VideoTrack, names,
};
use media::{Anchor, AudioCodec, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};

const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x1e, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f,
    0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96,
    0x01, 0x00, 0x04, 0x68, 0xef, 0xbc, 0xb0, 0xfd, 0xf8, 0xf8, 0x00,
];

pub(crate) fn tracks(rungs: &[&str]) -> Vec<Track> {
    let track = |name: &&str| {
        let kind = if *name == "audio" {
            TrackKind::Audio(AudioTrack {
                codec: AudioCodec::Aac,
                config: Bytes::from_static(&[0x11, 0x90]),
                sample_rate: 48_000,
                channels: 2,
                frame_samples: 1024,
                name: None,
                language: None,
                nominal_bitrate: 96_000,
            })
        } else {
            TrackKind::Video(VideoTrack {
                codec: VideoCodec::H264,
                config: Bytes::from_static(AVCC),
                width: 640,
                height: 360,
                sample_aspect: (1, 1),
                frame_rate: 30.0,
                nominal_bitrate: 800_000,
                captions: media::captions::CaptionServices::NONE,
            })
        };
        Track { rung: RungName::new(name).unwrap(), kind }
    };
    rungs.iter().map(track).collect()
}

pub(crate) fn init(rung: &RungName) -> Bytes {
    hls::fmp4::init_segment(&tracks(&[rung.as_str()])[0]).unwrap()
}

/// A segment of one second, at `sequence` seconds on the media axis.
pub(crate) fn entry(rung: &str, session: &str, sequence: u64, bytes: Option<u64>) -> PageEntry {
    let session = SessionId::new(session).unwrap();
    let (rate, count, offset) = if rung == "audio" { (48_000, 47, 0) } else { (90_000, 30, -3_000) };
    let sample = |n: u32| SampleIndex {
        duration: rate as u32 / count,
        size: 10 + n,
        composition_offset: if n % 3 == 1 { offset } else { 0 },
        key: rung == "audio" || n == 0,
    };
    let fragments = |bytes: u64| {
        let samples = (0..count).map(sample).collect();
        vec![FragmentIndex { data_offset: bytes / 10, decode_time: sequence * rate, samples }]
    };
    let info = SegmentInfo {
        rung: RungName::new(rung).unwrap(),
        sequence,
        discontinuity: false,
        start: MediaTime::from_ticks_90k(sequence as i64 * 90_000),
        duration: MediaSpan::from_millis(1000),
        wall: WallTime::from_unix_micros(1_795_348_800_000_000 + sequence as i64 * 1_000_000),
        name: names::segment_name(&session, sequence),
        init: names::init_name(&session),
        session,
        bytes,
    };
    let picture = bytes.filter(|_| rung != "audio").map(|bytes| bytes / 10 + 10);
    PageEntry { index: bytes.map(|bytes| SegmentIndex { fragments: fragments(bytes) }), info, picture }
}

/// An archive of `seconds` seconds, from segment 100 on.
pub(crate) fn contents(rungs: &[&str], seconds: u64) -> Contents {
    let mut contents = Contents::default();
    let entries = (100..100 + seconds).flat_map(|sequence| {
        rungs.iter().map(move |rung| entry(rung, "a-0", sequence, Some(1_000 + sequence)))
    });
    contents.take(Page {
        target_duration: 1,
        recordings: vec![RungName::new(rungs[0]).unwrap()],
        captions: media::captions::CaptionServices::NONE,
        epochs: vec![ArchivedEpoch {
            session: SessionId::new("a-0").unwrap(),
            start: MediaTime::from_ticks_90k(9_000_000),
            wall: WallTime::from_unix_micros(1_795_348_900_000_000),
            shift: MediaSpan::ZERO,
            tracks: tracks(rungs),
        }],
        entries: entries.collect(),
        claimed_by: None,
    });
    contents
}

/// A made-up publisher: a video rung of 25 frames a second, and audio.
pub(crate) struct Studio {
    packager: Packager,
    epochs: u32,
    /// Seconds on the media axis.
    pub(crate) now: i64,
    /// Unix time at the media axis's zero.
    zero: i64,
}

pub(crate) fn timing() -> Timing {
    Timing::new(Latency::from_secs_f64(4.0).unwrap()).without_parts()
}

impl Studio {
    pub(crate) fn new() -> Self {
        Self { packager: Packager::new(timing(), 1_795_348_800), epochs: 0, now: 10, zero: 1_795_348_800 }
    }

    /// Another process, `seconds` seconds later: its media times start anew, its sequence numbers do not.
    pub(crate) fn elsewhere(&self, seconds: i64, first_sequence: u64) -> Self {
        let zero = self.zero + self.now + seconds - 3;
        Self { packager: Packager::new(timing(), first_sequence), epochs: 0, now: 3, zero }
    }

    /// No publisher for `seconds` seconds of wall clock, which are `on_the_axis` seconds on the media axis.
    pub(crate) fn pause(&mut self, seconds: i64, on_the_axis: i64) {
        self.now += on_the_axis;
        self.zero += seconds - on_the_axis;
    }

    /// A publisher connects, for the first time or again: begins an epoch.
    pub(crate) fn begin(&mut self) -> Vec<DeliveryEvent> {
        let tracks = tracks(&["360p", "audio"]);
        let wall = WallTime::from_unix_micros((self.zero + self.now) * 1_000_000);
        let start = MediaTime::from_ticks_90k(self.now * 90_000);
        self.packager.end_epoch(None);
        let mut events = self.drain();
        let session = SessionId::from_start(wall.unix_micros(), self.epochs);
        self.epochs += 1;
        let (anchor, cuts) = (Anchor { media: start, wall }, CutRule::Grid);
        self.packager.begin(hls::Epoch { session, start, anchor, tracks: tracks.clone(), cuts }).unwrap();
        events.push(DeliveryEvent::Tracks(tracks));
        events.extend(self.drain());
        events
    }

    /// Publishes `seconds` seconds of media.
    pub(crate) fn run(&mut self, seconds: i64) -> Vec<DeliveryEvent> {
        let mut events = Vec::new();
        for second in self.now..self.now + seconds {
            for n in 0..25 {
                let at = MediaTime::from_ticks_90k(second * 90_000 + n * 3_600);
                let sample = Unit { pts: at, dts: at, key: n == 0, data: vec![second as u8; 100].into() };
                self.packager.push(&RungName::new("360p").unwrap(), sample).unwrap();
                for frame in (second * 48_000 + n * 1_920 + 1_023) / 1024.. {
                    if frame * 1024 >= second * 48_000 + (n + 1) * 1_920 {
                        break;
                    }
                    let at = MediaTime::from_scaled(frame * 1024, 48_000);
                    let sample = Unit { pts: at, dts: at, key: true, data: vec![7; 20].into() };
                    self.packager.push(&RungName::audio(), sample).unwrap();
                }
            }
            events.extend(self.drain());
        }
        self.now += seconds;
        events
    }

    /// Ends the epoch; returns the remaining events.
    pub(crate) fn end(&mut self) -> Vec<DeliveryEvent> {
        self.packager.end_epoch(None);
        self.drain()
    }

    fn drain(&mut self) -> Vec<DeliveryEvent> {
        let outputs = std::iter::from_fn(|| self.packager.poll());
        outputs
            .filter_map(|output| match output {
                Output::Init(init) => Some(DeliveryEvent::Init(init)),
                Output::Segment(segment) => Some(DeliveryEvent::Segment(segment)),
                Output::Part(_) => None,
            })
            .collect()
    }
}
