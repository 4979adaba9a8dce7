//! Human-readable playlists, and segments without media, for the tests of publishing.

use super::{FateListeners, Playlists, Readers};
use bytes::Bytes;
use hls::packager::InitSegment;
use hls::track::{Track, TrackKind, VideoTrack};
use hls::{RungName, Segment, SegmentInfo, SessionId};
use media::{MediaSpan, MediaTime, VideoCodec, WallTime};
use std::collections::BTreeMap;

/// `720p: init s-init.mp4, s-0.m4s 10, gap, end`
#[derive(Debug, Default)]
pub(super) struct TextPlaylists {
    lines: BTreeMap<RungName, Vec<String>>,
    rungs: Vec<RungName>,
    /// Number of segments kept in the list; 0 keeps all.
    window: usize,
    expired: Vec<(RungName, String)>,
}

impl TextPlaylists {
    pub(super) fn with_window(window: usize) -> Self {
        Self { window, ..Self::default() }
    }
}

impl Playlists for TextPlaylists {
    fn set_tracks(&mut self, tracks: &[Track]) {
        self.rungs = tracks.iter().map(|track| track.rung.clone()).collect();
    }

    fn add_init(&mut self, init: &InitSegment) {
        self.lines.entry(init.rung.clone()).or_default().push(format!("init {}", init.name));
    }

    fn add(&mut self, segment: SegmentInfo) {
        let lines = self.lines.entry(segment.rung.clone()).or_default();
        lines.push(segment.bytes.map_or("gap".into(), |bytes| format!("{} {bytes}", segment.name)));
        let segments: Vec<_> = (0..lines.len()).filter(|&n| lines[n].contains("m4s")).collect();
        if self.window > 0 && segments.len() > self.window {
            let line = lines.remove(segments[0]);
            let name = line.split(' ').next().unwrap().to_owned();
            self.expired.push((segment.rung, name));
        }
    }

    fn end(&mut self) {
        self.lines.values_mut().for_each(|lines| lines.push("end".into()));
    }

    fn media_playlist(&self, rung: &RungName) -> Option<String> {
        let lines = self.lines.get(rung)?;
        Some(format!("{rung}: {}", lines.join(", ")))
    }

    fn multivariant(&self) -> Option<String> {
        let listed = self.rungs.iter().filter(|rung| self.lines.contains_key(*rung));
        let rungs: Vec<_> = listed.map(RungName::as_str).collect();
        (!rungs.is_empty()).then(|| rungs.join(", "))
    }

    fn take_expired(&mut self) -> Vec<(RungName, String)> {
        std::mem::take(&mut self.expired)
    }
}

impl Readers for TextPlaylists {
    type Playlists = Self;

    fn split(self) -> (Self, FateListeners) {
        (self, FateListeners::default())
    }
}

pub(super) fn tracks(rungs: &[&str]) -> Vec<Track> {
    let video = |rung: &&str| Track {
        rung: RungName::new(rung).unwrap(),
        kind: TrackKind::Video(VideoTrack {
            codec: VideoCodec::H264,
            config: Bytes::new(),
            width: 1280,
            height: 720,
            sample_aspect: (1, 1),
            frame_rate: 25.0,
            nominal_bitrate: 2_000_000,
            captions: media::captions::CaptionServices::NONE,
        }),
    };
    rungs.iter().map(video).collect()
}

pub(super) fn init(rung: &str, session: &str) -> InitSegment {
    InitSegment {
        rung: RungName::new(rung).unwrap(),
        name: format!("{session}-init.mp4"),
        body: Bytes::from_static(b"init"),
    }
}

pub(super) fn segment(rung: &str, session: &str, sequence: u64, bytes: usize) -> Segment {
    let info = SegmentInfo {
        rung: RungName::new(rung).unwrap(),
        sequence,
        session: SessionId::new(session).unwrap(),
        discontinuity: false,
        start: MediaTime::from_ticks_90k(90_000 * i64::try_from(sequence).unwrap()),
        duration: MediaSpan::from_millis(1000),
        wall: WallTime::from_unix_micros(0),
        name: format!("{session}-{sequence}.m4s"),
        init: format!("{session}-init.mp4"),
        bytes: None,
    };
    Segment::new(info, Some(vec![0; bytes].into()))
}
