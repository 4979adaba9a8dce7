//! Whole broadcasts into a failing Cloud Storage, on paused time: the archives after completion. What viewers get
//! during the broadcast is tested in `gcs_faults.rs`.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use encoder::testing::archive::{
    ArchiveManager, ArchivePlace, ArchiveSettings, RecordingHandle, Sealed, seal,
};
use encoder::testing::delivery::{self, Delivery, DeliveryCounters, DeliveryEvent, Spool, StorePlaylists};
use hls::{
    AudioTrack, CutRule, Epoch, Latency, Output, Packager, RungName, SessionId, Timing, Track, TrackKind,
    VideoTrack,
};
use media::{Anchor, AudioCodec, MediaSpan, MediaTime, Unit, VideoCodec, WallTime};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tests::gcs::faults::{between, some};
use tests::gcs::objects::Permission;
use tests::gcs::{Call, DirectStore, Fault};
use tests::{playlist, probe};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const STREAM: &str = "live/tv";
/// Rung names, with the size of one frame in bytes.
const RUNGS: [(&str, usize); 2] = [("720p", 400), ("360p", 100)];
/// Frames per second.
const FRAME_RATE: i64 = 10;
/// 2026-11-22T12:00:00Z
const BEGAN: i64 = 1_795_348_800;

// 640x360, High@3.0, from x264.
const AVCC: &[u8] = &[
    0x01, 0x64, 0x00, 0x1e, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f,
    0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96,
    0x01, 0x00, 0x04, 0x68, 0xef, 0xbc, 0xb0, 0xfd, 0xf8, 0xf8, 0x00,
];

fn rung(name: &str) -> RungName {
    RungName::new(name).unwrap()
}

fn tracks() -> Vec<Track> {
    let video = |(name, bytes): (&str, usize)| Track {
        rung: rung(name),
        kind: TrackKind::Video(VideoTrack {
            codec: VideoCodec::H264,
            config: Bytes::from_static(AVCC),
            width: 640,
            height: 360,
            sample_aspect: (1, 1),
            frame_rate: FRAME_RATE as f64,
            nominal_bitrate: bytes as u32 * 80,
            captions: media::captions::CaptionServices::NONE,
        }),
    };
    let audio = Track {
        rung: RungName::audio(),
        kind: TrackKind::Audio(AudioTrack {
            codec: AudioCodec::Aac,
            config: Bytes::from_static(&[0x11, 0x90]),
            sample_rate: 48_000,
            channels: 2,
            frame_samples: 1024,
            name: None,
            language: None,
            nominal_bitrate: 96_000,
        }),
    };
    RUNGS.into_iter().map(video).chain([audio]).collect()
}

/// A stream of synthetic media with one segment per second, and the encoder's components for publishing and archiving.
struct OnAir {
    store: DirectStore,
    keeper: Arc<ArchiveManager>,
    recording: RecordingHandle,
    publisher: Delivery<StorePlaylists>,
    written: JoinHandle<DeliveryCounters>,
    packager: Packager,
    /// Current time on the media axis, in seconds.
    now: i64,
}

impl OnAir {
    fn new(store: &DirectStore) -> Self {
        Self::with(store, delivery::DeliverySettings::default(), None)
    }

    fn with(store: &DirectStore, settings: delivery::DeliverySettings, spool: Option<&Spool>) -> Self {
        let timing = Timing::new(Latency::from_secs_f64(4.0).unwrap()).without_parts();
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        let keeper = ArchiveManager::new(shared.clone(), String::new());
        let archived =
            ArchiveSettings { target_duration: timing.target_duration, ..ArchiveSettings::default() };
        let recording = keeper.begin(STREAM, archived, WallTime::from_unix_micros(0));
        let playlists = StorePlaylists::new(&timing).0.with_archive(Some(recording.archive.clone()));
        let settings =
            delivery::DeliverySettings { segment_deadline: timing.upload_deadline.to_duration(), ..settings };
        let (publisher, written) = Delivery::resume(shared, spool, STREAM, playlists, settings, Vec::new());
        let packager = Packager::new(timing, BEGAN as u64);
        let mut on_air =
            Self { store: store.clone(), keeper, recording, publisher, written, packager, now: 10 };
        on_air.begin();
        on_air
    }

    fn begin(&mut self) {
        let wall = WallTime::from_unix_micros(BEGAN * 1_000_000);
        let start = MediaTime::from_ticks_90k(self.now * 90_000);
        let epoch = Epoch {
            session: SessionId::from_start(wall.unix_micros(), 0),
            start,
            anchor: Anchor { media: start, wall },
            tracks: tracks(),
            cuts: CutRule::Grid,
        };
        self.packager.begin(epoch).unwrap();
        self.publisher.input(DeliveryEvent::Tracks(tracks()));
        self.tell();
    }

    /// Passes the packager's outputs to the publisher and the archive.
    fn tell(&mut self) {
        while let Some(output) = self.packager.poll() {
            match output {
                Output::Init(init) => self.publisher.input(DeliveryEvent::Init(init)),
                Output::Segment(segment) => {
                    self.recording.archive.packaged(&segment);
                    self.publisher.input(DeliveryEvent::Segment(segment));
                }
                Output::Part(_) => {}
            }
        }
    }

    async fn run(&mut self, seconds: i64) {
        for _ in 0..seconds {
            let begin = self.now * FRAME_RATE;
            for frame in begin..begin + FRAME_RATE {
                let at = MediaTime::from_ticks_90k(frame * 90_000 / FRAME_RATE);
                for (name, bytes) in RUNGS {
                    // Every frame's content is unique.
                    let data =
                        format!("{name} {frame} ").into_bytes().into_iter().cycle().take(bytes).collect();
                    self.push(&rung(name), Unit { pts: at, dts: at, key: frame == begin, data });
                }
            }
            let first_frame = |second: i64| (second * 48_000 + 1023) / 1024;
            for frame in first_frame(self.now)..first_frame(self.now + 1) {
                let at = MediaTime::from_scaled(frame * 1024, 48_000);
                let data = format!("audio {frame}").into();
                self.push(&RungName::audio(), Unit { pts: at, dts: at, key: true, data });
            }
            self.tell();
            self.now += 1;
            tokio::time::sleep(SECOND).await;
        }
    }

    fn push(&mut self, rung: &RungName, sample: Unit) {
        self.packager.push(rung, sample).unwrap();
    }

    /// Ends the stream in order and completes its archive, as far as the store allows.
    async fn end(mut self) -> DeliveryCounters {
        self.packager.end_epoch(None);
        self.tell();
        self.publisher.input(DeliveryEvent::End);
        let counters = self.written.await.unwrap();
        self.keeper.finish(self.recording);
        self.keeper.idle().await;
        counters
    }

    /// Simulates a killed process: aborts all tasks.
    async fn kill(self) -> DirectStore {
        self.recording.task.abort();
        self.written.abort();
        let _ = (self.recording.task.await, self.written.await);
        self.store
    }
}

/// Facts about an archive in the bucket.
struct Kept {
    /// Per rung: number of segments in its VOD playlist, and how many of those are gaps.
    listed: [(usize, usize); 2],
    /// Number of frames in the recording; and below, the end of the last frame in seconds.
    pictures: usize,
    end: f64,
}

fn only_archive(store: &DirectStore) -> (ArchivePlace, String) {
    let names = store.state().objects.names(store.bucket());
    let notes = names.iter().find_map(|name| name.strip_prefix("live/tv/archive/")?.split_once('/'));
    let session = notes.expect("an archive").0;
    (ArchivePlace::new(STREAM, SessionId::new(session).unwrap()), format!("live/tv/archive/{session}"))
}

async fn finished(store: &DirectStore) -> Sealed {
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    seal(&shared, &only_archive(store).0).await.unwrap()
}

/// Checks a complete archive: no temporary objects are left, the playlists name exactly the stored segments, and the
/// recording contains all of those.
#[track_caller]
fn judge(store: &DirectStore) -> Kept {
    let (_, folder) = only_archive(store);
    let state = store.state();
    let names = state.objects.names(store.bucket());
    let body =
        |name: &str| state.objects.peek(store.bucket(), &format!("{folder}/{name}")).unwrap().body.clone();
    assert!(names.contains(&format!("{folder}/sealed.json")), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("/parts/") || name.starts_with(".encoder/")), "{names:?}");
    let listed = RUNGS.map(|(rung, _)| {
        let text = body(&format!("{rung}.m3u8"));
        let media = playlist::media(std::str::from_utf8(&text).unwrap()).unwrap();
        assert!(media.ended && media.playlist_type.as_deref() == Some("VOD"));
        assert!(media.segments.windows(2).all(|pair| pair[0].msn + 1 == pair[1].msn));
        let there: Vec<_> =
            media.segments.iter().filter(|segment| !segment.gap).map(|s| s.uri.clone()).collect();
        let below = format!("live/tv/{rung}/");
        let stored = names.iter().filter(|name| name.starts_with(&below) && name.ends_with(".m4s"));
        let stored: Vec<_> = stored.map(|name| name.replace("live/tv/", "../../")).collect();
        assert_eq!(there, stored, "{rung}");
        (media.segments.len(), media.segments.len() - there.len())
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), body("recording.mp4")).unwrap();
    let packets = probe::packets(file.path()).unwrap();
    assert!(packets.windows(2).all(|pair| pair[0].pts < pair[1].pts));
    let seconds = listed[0].0 - listed[0].1;
    let bytes: u64 = packets.iter().map(|packet| packet.size).sum();
    assert_eq!(bytes as usize, seconds * FRAME_RATE as usize * RUNGS[0].1);
    let end = packets.last().unwrap().pts + 1.0 / FRAME_RATE as f64;
    Kept { listed, pictures: packets.len(), end }
}

/// Checks that the archive has no gap.
#[track_caller]
fn whole(store: &DirectStore, seconds: usize) {
    let kept = judge(store);
    assert_eq!(kept.listed, [(seconds, 0); 2]);
    assert_eq!(kept.pictures, seconds * FRAME_RATE as usize);
    assert!((kept.end - seconds as f64).abs() < 0.001, "{}", kept.end);
}

/// Runs a broadcast in which every call meets the rule, including the calls that complete the archive. Checks that
/// nothing is missing and that completing the archive again changes nothing.
async fn is_whole(seconds: i64, rule: impl FnMut(&Call) -> Fault + Send + 'static) -> DeliveryCounters {
    let store = DirectStore::new();
    store.set_rule(rule);
    let mut on_air = OnAir::new(&store);
    on_air.run(seconds).await;
    let counters = on_air.end().await;
    assert_eq!((counters.lost, counters.sealed, counters.fenced), (0, true, false), "{counters:?}");
    whole(&store, usize::try_from(seconds).unwrap());
    store.set_rule(|_| Fault::None);
    assert!(finished(&store).await.already);
    counters
}

#[tokio::test(start_paused = true)]
async fn one_failure_in_twenty_costs_nothing() {
    let counters = is_whole(600, some(1, 0.05, Fault::Status(503))).await;
    assert!(counters.failures > 50, "{counters:?}");
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_the_store_costs_nothing() {
    for fault in [Fault::Status(503), Fault::Cut, Fault::Hang] {
        let counters = is_whole(240, between(60 * SECOND, 120 * SECOND, fault)).await;
        assert!(counters.late > 100, "{fault:?}: {counters:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_lost_after_the_write_cost_nothing() {
    is_whole(600, some(2, 0.1, Fault::LostAnswer)).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_hang_cost_nothing() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        is_whole(600, some(3, 0.05, fault)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_seconds_a_call_cost_nothing() {
    is_whole(120, |_| Fault::Slow(2 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn playlists_that_are_refused_for_their_rate_cost_nothing() {
    let mut often = some(4, 0.3, Fault::Status(429));
    is_whole(120, move |call| if call.writes_playlist() { often(call) } else { Fault::None }).await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_read_only_for_a_minute_costs_nothing() {
    is_whole(180, between(30 * SECOND, 90 * SECOND, Fault::Status(403))).await;
}

/// The store returns after the end of the broadcast: waiting segments are stored, and the archive is completed.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_at_the_end_costs_nothing() {
    is_whole(60, between(50 * SECOND, 80 * SECOND, Fault::Status(503))).await;
}

/// The largest rung loses segments: they are gaps in its playlist, and the recording holds the previous frame
/// meanwhile.
#[tokio::test(start_paused = true)]
async fn a_full_spool_costs_segments_of_the_largest_rung_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectStore::new();
    store.set_rule(between(10 * SECOND, 110 * SECOND, Fault::Status(503)));
    // A hundred seconds of media are 600 kB.
    let settings =
        delivery::DeliverySettings { max_waiting_bytes: 400_000, ..delivery::DeliverySettings::default() };
    let spool = Spool::open(folder.path(), 100_000).unwrap();
    let mut on_air = OnAir::with(&store, settings, Some(&spool));
    on_air.run(180).await;
    let counters = on_air.end().await;
    let lost = usize::try_from(counters.lost).unwrap();
    assert!(counters.spool_full > 0 && (20..100).contains(&lost), "{counters:?}");
    let kept = judge(&store);
    assert_eq!(kept.listed, [(180, lost), (180, 0)]);
    assert_eq!(kept.pictures, (180 - lost) * FRAME_RATE as usize);
    assert!((kept.end - 180.0).abs() < 0.001, "{}", kept.end);
}

/// The archive cannot be completed while the bucket is read-only; once it is writable again, the archive holds
/// everything stored before.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_becomes_read_only_keeps_what_it_has() {
    let store = DirectStore::new();
    let mut on_air = OnAir::new(&store);
    on_air.run(31).await;
    let deny = |permissions: &[Permission]| store.state().objects.deny(store.bucket(), permissions);
    deny(&[Permission::Create, Permission::Delete]);
    on_air.run(60).await;
    assert!(!on_air.end().await.sealed);
    let names = store.state().objects.names(store.bucket());
    assert!(!names.iter().any(|name| name.ends_with("/sealed.json")));
    deny(&[]);
    let sealed = finished(&store).await;
    assert!(!sealed.already && sealed.gaps == 0, "{sealed:?}");
    whole(&store, 30);
}

/// The encoder is killed between two pages of the index while calls fail: sealing finds every stored segment.
#[tokio::test(start_paused = true)]
async fn an_encoder_that_dies_costs_what_it_had_not_stored() {
    let store = DirectStore::new();
    store.set_rule(some(5, 0.05, Fault::Status(503)));
    let mut on_air = OnAir::new(&store);
    on_air.run(100).await;
    let store = on_air.kill().await;
    let sealed = finished(&store).await;
    assert!(!sealed.already && sealed.duration >= MediaSpan::from_millis(97_000), "{sealed:?}");
    let kept = judge(&store);
    // The newest segment of a rendition may have been in flight.
    assert!(kept.listed.iter().all(|(listed, gaps)| *listed >= 97 && *gaps <= 1), "{:?}", kept.listed);
}
