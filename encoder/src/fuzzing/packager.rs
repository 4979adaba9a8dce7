//! The fuzz target `packager`: for any samples, epochs and anchors, the playlists and segments keep to the rules.

use bytes::Bytes;
use hls::packager::MAX_BUFFERED_BYTES;
use hls::{
    AudioTrack, CutRule, Epoch, Latency, Output, Packager, Presentation, RungName, SegmentInfo, SessionId,
    Timing, Track, TrackKind, VideoTrack,
};
use media::{Anchor, AudioCodec, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls after this number are ignored, because each may make dozens of segments.
const MAX_CALLS: usize = 256;

/// The largest sample in bytes: the most that a worker may send. Enough of these reach the packager's bound.
const MAX_SAMPLE: usize = 16 << 20;
static ZEROS: [u8; MAX_SAMPLE] = [0; MAX_SAMPLE];

/// Baseline, 320x240.
const AVCC: &[u8] = &[
    0x01, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0x00, 0x16, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x06, 0x7e, 0x7c,
    0x04, 0x40, 0x00, 0x00, 0xfa, 0x40, 0x00, 0x3a, 0x98, 0x03, 0xc5, 0x0a, 0xa8, 0x01, 0x00, 0x04, 0x68,
    0xce, 0x0f, 0xc8,
];

/// Sample rate and samples per frame, up to the longest frame that an init segment allows.
const AUDIO: [(u32, u32); 4] = [(48_000, 1024), (44_100, 1024), (8_000, 2048), (1_000, 8192)];

/// A start in 2026; no clock reads an earlier time.
const WALL: WallTime = WallTime::from_unix_micros(1_795_348_800_000_000);

/// The first byte is the latency, the second the first media sequence number. Calls of ten bytes follow: the kind of
/// call, one byte, and two big-endian numbers of four bytes each, whose meaning depends on the kind (see `Run::call`).
pub fn packager(input: &[u8]) {
    run(input);
}

fn run(input: &[u8]) -> Option<Run> {
    let [latency, first_sequence, calls @ ..] = input else { return None };
    let latency = Latency::from_secs_f64(f64::from(2 + latency % 14)).expect("2 to 15 seconds");
    let mut run = Run::new(Timing::new(latency), (*first_sequence).into());
    for call in calls.as_chunks::<10>().0.iter().take(MAX_CALLS) {
        run.call(call);
    }
    run.packager.end_epoch(None);
    run.drain();
    run.check_that_all_ended(1);
    run.presentation.end();
    run.check();
    Some(run)
}

/// A sample's data, counted for as long as it is held in memory.
struct Counted {
    size: usize,
    held: Arc<AtomicUsize>,
}

impl Counted {
    fn bytes(size: usize, held: &Arc<AtomicUsize>) -> Bytes {
        held.fetch_add(size, Ordering::Relaxed);
        Bytes::from_owner(Self { size, held: held.clone() })
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &ZEROS[..self.size]
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.size, Ordering::Relaxed);
    }
}

struct Run {
    timing: Timing,
    packager: Packager,
    presentation: Presentation,
    rungs: [RungName; 3],
    /// The last decode time of each rung.
    dts: [MediaTime; 3],
    /// Number of the last epoch that began; 0 before the first.
    epoch: u32,
    /// The next sequence number expected of each rendition of the current epoch, and whether it is the epoch's first.
    next: BTreeMap<RungName, (u64, bool)>,
    /// The highest MEDIA-SEQUENCE and DISCONTINUITY-SEQUENCE seen in each playlist.
    seen: BTreeMap<RungName, (u64, u64)>,
    held: Arc<AtomicUsize>,
}

impl Run {
    fn new(timing: Timing, first_sequence: u64) -> Self {
        let rung = |name| RungName::new(name).expect("letters only");
        Self {
            packager: Packager::new(timing.clone(), first_sequence),
            presentation: Presentation::for_origin(&timing),
            timing,
            rungs: [rung("large"), rung("small"), RungName::audio()],
            dts: [MediaTime::ZERO; 3],
            epoch: 0,
            next: BTreeMap::new(),
            seen: BTreeMap::new(),
            held: Arc::default(),
        }
    }

    fn call(&mut self, &[what, byte, a, b, c, d, e, f, g, h]: &[u8; 10]) {
        let first = i32::from_be_bytes([a, b, c, d]);
        let second = i32::from_be_bytes([e, f, g, h]);
        let newest = self.dts.iter().copied().max().unwrap_or_default();
        match what & 15 {
            0 => self.begin(byte, after(newest, first)),
            1 => {
                let at = (byte & 1 == 1).then(|| after(newest, first));
                self.packager.end_epoch(at);
                self.drain();
                self.check_that_all_ended(1);
            }
            2 => {
                // Clock corrections are minutes, not centuries.
                let wall = WALL + MediaSpan::from_ticks_90k(second.into());
                self.packager.re_anchor(Anchor { media: after(newest, first), wall });
            }
            // Any times, over all 64 bits.
            3 => self.push(byte, what, i64::from(first) << 32, i64::from(second) << 32),
            _ => {
                let dts = self.dts[rung(what)].ticks_90k() + i64::from(first);
                self.push(byte, what, dts + i64::from(second), dts);
            }
        }
        self.drain();
        assert!(self.held.load(Ordering::Relaxed) <= MAX_BUFFERED_BYTES);
    }

    /// Begins an epoch with up to three tracks. An open epoch ends implicitly, as the packager guarantees.
    fn begin(&mut self, byte: u8, start: MediaTime) {
        let [large, small, audio] = &self.rungs;
        let (sample_rate, frame_samples) = AUDIO[usize::from(byte >> 4) % AUDIO.len()];
        let all = [video(large, 640, 360), video(small, 320, 240), sound(audio, sample_rate, frame_samples)];
        let chosen = |&(n, _): &(usize, Track)| byte >> n & 1 == 1;
        let tracks: Vec<Track> = all.into_iter().enumerate().filter(chosen).map(|(_, track)| track).collect();
        let epoch = Epoch {
            session: SessionId::from_start(WALL.unix_micros(), self.epoch + 1),
            start,
            anchor: Anchor { media: start, wall: WALL },
            tracks: tracks.clone(),
            cuts: if byte & 8 == 0 { CutRule::Grid } else { CutRule::SourceKeys },
        };
        if self.packager.begin(epoch).is_err() {
            assert!(tracks.is_empty());
            return;
        }
        self.drain();
        self.check_that_all_ended(0);
        self.epoch += 1;
        self.dts = [start; 3];
        let next = self.packager.next_sequence();
        self.next = tracks.iter().map(|track| (track.rung.clone(), (next, true))).collect();
        self.presentation.set_tracks(&tracks);
    }

    /// Rung and keyframe flag are in `what`. `byte` is the size, but 255 means the largest sample: those are slow and
    /// should be rare.
    fn push(&mut self, byte: u8, what: u8, pts: i64, dts: i64) {
        let rung = rung(what);
        let size = if byte == u8::MAX { MAX_SAMPLE } else { byte.into() };
        let sample = Unit {
            pts: MediaTime::from_ticks_90k(pts),
            dts: MediaTime::from_ticks_90k(dts),
            key: what & 0x80 != 0,
            data: Counted::bytes(size, &self.held),
        };
        let dts = sample.dts;
        if self.packager.push(&self.rungs[rung], sample).is_ok() {
            self.dts[rung] = dts;
        }
    }

    /// Moves the packager's output to the presentation, and checks the playlists if there was any.
    fn drain(&mut self) {
        let mut any = false;
        while let Some(output) = self.packager.poll() {
            any = true;
            match output {
                Output::Init(init) => self.presentation.add_init(&init),
                Output::Part(part) => self.presentation.add_part(part.info().clone()),
                Output::Segment(segment) => {
                    self.check_segment(segment.info());
                    self.presentation.add(segment.into_parts().0);
                }
            }
        }
        if any {
            self.check();
        }
    }

    fn check_segment(&mut self, segment: &SegmentInfo) {
        let (next, first) = self.next.get_mut(&segment.rung).expect("a rendition of the epoch");
        assert_eq!(segment.sequence, *next, "{}", segment.rung);
        assert_eq!(segment.discontinuity, *first && *next > 0, "{} {next}", segment.rung);
        assert!(segment.duration > MediaSpan::ZERO);
        (*next, *first) = (*next + 1, false);
    }

    /// After an epoch, every rendition must have filled every slot, except the last `open` slots: the gap in an epoch's
    /// last slot comes with the next epoch.
    fn check_that_all_ended(&self, open: u64) {
        let end = self.packager.next_sequence();
        let mut nexts = self.next.values().map(|&(next, _)| next);
        assert!(nexts.all(|next| next <= end && next + open >= end), "{:?} {end}", self.next);
    }

    /// Checks the playlists that viewers read.
    fn check(&mut self) {
        let expired = self.presentation.take_expired();
        for rung in &self.rungs {
            let Some(playlist) = self.presentation.media_playlist(rung) else { continue };
            let sequences =
                (tag(&playlist, "#EXT-X-MEDIA-SEQUENCE:"), tag(&playlist, "#EXT-X-DISCONTINUITY-SEQUENCE:"));
            let seen = self.seen.entry(rung.clone()).or_default();
            assert!(sequences.0 >= seen.0 && sequences.1 >= seen.1, "{rung}: {sequences:?} after {seen:?}");
            *seen = sequences;
            for line in playlist.lines() {
                if let Some(extinf) = line.strip_prefix("#EXTINF:") {
                    let seconds: f64 = extinf.trim_end_matches(',').parse().expect("a number of seconds");
                    assert!(seconds.round() <= f64::from(self.timing.target_duration), "{rung}: {line}");
                }
                assert!(!expired.iter().any(|e| e.rung == *rung && e.name == line), "{rung}: {line} expired");
            }
        }
        self.presentation.multivariant();
    }
}

fn rung(what: u8) -> usize {
    usize::from(what >> 4 & 3).min(2)
}

fn tag(playlist: &str, name: &str) -> u64 {
    let value = playlist.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| value.parse().ok()).expect("every media playlist has it, with a number")
}

/// A time chosen by the encoder itself, and therefore never before zero.
fn after(time: MediaTime, ticks: i32) -> MediaTime {
    (time + MediaSpan::from_ticks_90k(ticks.into())).max(MediaTime::ZERO)
}

fn video(rung: &RungName, width: u16, height: u16) -> Track {
    let kind = TrackKind::Video(VideoTrack {
        codec: VideoCodec::H264,
        config: Bytes::from_static(AVCC),
        width,
        height,
        sample_aspect: (1, 1),
        frame_rate: 30.0,
        nominal_bitrate: 800_000,
        captions: media::captions::CaptionServices::NONE,
    });
    Track { rung: rung.clone(), kind }
}

fn sound(rung: &RungName, sample_rate: u32, frame_samples: u32) -> Track {
    let kind = TrackKind::Audio(AudioTrack {
        codec: AudioCodec::Aac,
        config: Bytes::from_static(&[0x11, 0x90]),
        sample_rate,
        channels: 2,
        frame_samples,
        name: None,
        language: None,
        nominal_bitrate: 96_000,
    });
    Track { rung: rung.clone(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(name: &str) -> Run {
        let path = format!("{}/../fixtures/corpus/packager/{name}", env!("CARGO_MANIFEST_DIR"));
        run(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Seeds that make no segments would not help a fuzzer.
    #[test]
    fn seeds_reach_the_playlists() {
        // Name, minimum number of segments per rendition, whether there are gaps, whether samples are refused.
        let table = [
            ("steady", 9, false, false),
            ("two-epochs", 11, false, false),
            ("one-stays-behind", 20, true, false),
            ("audio-alone", 100, true, false),
            ("no-keys", 10, true, false),
            ("full", 9, false, true),
            ("b-frames", 5, false, false),
            ("times-from-anywhere", 3, false, true),
        ];
        for (name, segments, gaps, refused) in table {
            let run = seed(name);
            let counters = run.packager.counters();
            assert!(run.packager.next_sequence() >= segments, "{name}: {}", run.packager.next_sequence());
            assert_eq!(counters.gaps > 0, gaps, "{name}: {counters:?}");
            assert_eq!(counters.rejected_samples > 0, refused, "{name}: {counters:?}");
        }
        assert!(seed("audio-alone").seen[&RungName::audio()].0 > 0, "the window never moved");
    }
}
