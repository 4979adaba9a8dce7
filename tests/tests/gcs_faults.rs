//! Whole broadcasts into a failing Cloud Storage, on paused time: what viewers of the bucket and the archive get. The
//! fake is called without sockets; `gcs_store.rs` and `gcs_live.rs` use sockets.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use bytes::Bytes;
use encoder::testing::delivery::{
    Delivery, DeliveryCounters, DeliveryEvent, DeliverySettings, Gap, Spool, StorePlaylists,
};
use hls::packager::InitSegment;
use hls::timing::{Latency, Timing};
use hls::track::{Track, TrackKind, VideoTrack};
use hls::{RungName, Segment, SegmentInfo, SessionId};
use media::{MediaSpan, MediaTime, VideoCodec, WallTime};
use std::sync::Arc;
use std::time::Duration;
use tests::gcs::audit::{Report, audit};
use tests::gcs::faults::{between, some};
use tests::gcs::objects::Permission;
use tests::gcs::{DirectStore, Fault, Operation};

const SECOND: Duration = Duration::from_secs(1);
/// Rung names, with the size of one segment in bytes.
const RUNGS: [(&str, usize); 3] = [("360p", 1_000), ("480p", 2_000), ("720p", 4_000)];

/// Parameters of one stream.
struct Broadcast {
    session: &'static str,
    first: u64,
    seconds: u64,
    timing: Timing,
    settings: DeliverySettings,
    /// Time between two segments of a rung.
    pace: Duration,
    spool: Option<Arc<Spool>>,
}

impl Broadcast {
    /// An archived stream with the playlists for a latency of 4 s.
    fn new(seconds: u64) -> Self {
        Self::with_latency(4.0, seconds)
    }

    fn with_latency(latency: f64, seconds: u64) -> Self {
        let timing = Timing::new(Latency::from_secs_f64(latency).unwrap());
        let settings = DeliverySettings {
            segment_deadline: timing.upload_deadline.to_duration(),
            ..DeliverySettings::default()
        };
        Self { session: "s", first: 1000, seconds, timing, settings, pace: SECOND, spool: None }
    }

    /// Publishes one segment per rung at every interval (`pace`) and checks that memory stays bounded; returns the
    /// publisher's counters.
    async fn run(self, store: &DirectStore) -> DeliveryCounters {
        let (playlists, _) = StorePlaylists::new(&self.timing);
        let limit = self.settings.max_waiting_bytes;
        let shared = Arc::new(store.clone());
        let (publisher, task) = Delivery::resume(
            shared,
            self.spool.as_deref(),
            "live/tv",
            playlists,
            self.settings.clone(),
            Vec::new(),
        );
        publisher.input(DeliveryEvent::Tracks(RUNGS.iter().map(|(rung, _)| track(rung)).collect()));
        for (rung, _) in RUNGS {
            publisher.input(DeliveryEvent::Init(self.init(rung)));
        }
        for number in 0..self.seconds {
            for (rung, bytes) in RUNGS {
                publisher.input(DeliveryEvent::Segment(self.segment(rung, number, bytes)));
            }
            assert!(publisher.waiting_bytes() <= limit);
            tokio::time::sleep(self.pace).await;
        }
        drop(publisher);
        task.await.unwrap()
    }

    fn session(&self) -> SessionId {
        SessionId::new(self.session).unwrap()
    }

    fn init(&self, rung: &str) -> InitSegment {
        let name = hls::names::init_name(&self.session());
        InitSegment { rung: RungName::new(rung).unwrap(), name, body: Bytes::from_static(b"init") }
    }

    fn segment(&self, rung: &str, number: u64, bytes: usize) -> Segment {
        let sequence = self.first + number;
        let seconds = i64::try_from(number).unwrap();
        // Every body is unique.
        let body = format!("{rung} {sequence} ").into_bytes().into_iter().cycle().take(bytes);
        let info = SegmentInfo {
            rung: RungName::new(rung).unwrap(),
            sequence,
            session: self.session(),
            // An epoch begins with a discontinuity.
            discontinuity: number == 0,
            start: MediaTime::from_ticks_90k(90_000 * seconds),
            duration: MediaSpan::from_millis(1000),
            wall: WallTime::from_unix_micros(1_790_000_000_000_000 + 1_000_000 * seconds),
            name: hls::names::segment_name(&self.session(), sequence),
            init: hls::names::init_name(&self.session()),
            bytes: None,
        };
        Segment::new(info, Some(body.collect()))
    }
}

fn track(rung: &str) -> Track {
    Track {
        rung: RungName::new(rung).unwrap(),
        kind: TrackKind::Video(VideoTrack {
            codec: VideoCodec::H264,
            // High profile, level 3.1, without parameter sets.
            config: Bytes::from_static(&[1, 0x64, 0, 0x1f, 0xff, 0xe1, 0, 0, 1, 0, 0]),
            width: 1280,
            height: 720,
            sample_aspect: (1, 1),
            frame_rate: 25.0,
            nominal_bitrate: 2_000_000,
            captions: media::captions::CaptionServices::NONE,
        }),
    }
}

/// Audits the bucket's whole history; returns the report and the number of segments that exist at the end.
#[track_caller]
fn judge(store: &DirectStore) -> (Report, u64) {
    let state = store.state();
    let report = audit(state.objects.journal(), store.bucket());
    assert_eq!(report.complaints, [""; 0]);
    let kept =
        state.objects.names(store.bucket()).iter().filter(|name| name.ends_with(".m4s")).count() as u64;
    (report, kept)
}

fn gaps(counters: &DeliveryCounters) -> u64 {
    counters.gaps.values().sum()
}

/// Number of all segments in this many seconds.
fn all(seconds: u64) -> u64 {
    seconds * RUNGS.len() as u64
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_faults_is_whole_and_nothing_is_written_too_often() {
    let store = DirectStore::new();
    store.set_rule(|_| Fault::Slow(Duration::from_millis(60)));
    let counters = Broadcast::new(3600).run(&store).await;
    assert_eq!((gaps(&counters), counters.failures), (0, 0), "a 429 would be a failure");
    assert!(counters.sealed);
    let (report, kept) = judge(&store);
    assert_eq!(kept, all(3600));
    assert_eq!((report.gaps, report.ended), (0, (3, 3)));
    // Every segment gets its own playlist version: no playlist waits for the next segment.
    assert!(report.versions >= 3 * 3600, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn one_failure_in_twenty_is_not_seen_by_anybody() {
    let store = DirectStore::new();
    store.set_rule(some(1, 0.05, Fault::Status(503)));
    let counters = Broadcast::new(3600).run(&store).await;
    assert!(counters.failures > 500, "{counters:?}");
    assert_eq!((gaps(&counters), counters.lost, counters.sealed), (0, 0, true));
    let (report, kept) = judge(&store);
    assert_eq!((kept, report.gaps, report.ended), (all(3600), 0, (3, 3)));
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_the_store_is_a_minute_of_gaps_and_whole_in_the_archive() {
    for fault in [Fault::Status(503), Fault::Cut, Fault::Hang] {
        let store = DirectStore::new();
        store.set_rule(between(60 * SECOND, 120 * SECOND, fault));
        let counters = Broadcast::new(240).run(&store).await;
        // Segments of the last two seconds before the store's return are in time; a hung store is detected with a
        // delay.
        let gaps = gaps(&counters);
        assert!((all(56)..=all(68)).contains(&gaps), "{fault:?}: {counters:?}");
        assert_eq!((counters.late, counters.lost, counters.sealed), (gaps, 0, true), "{fault:?}");
        let (report, kept) = judge(&store);
        // Some gaps left the window before a playlist could be written again.
        assert!(kept == all(240) && (1..=gaps).contains(&(report.gaps as u64)), "{kept} {report:?}");
        // During the outage the publisher probes the store now and then, instead of once per waiting segment.
        let down = |call: &&tests::gcs::Call| (90 * SECOND..120 * SECOND).contains(&call.at);
        let asked = store.state().calls.iter().filter(down).count();
        assert!(asked < 30 * 60, "{asked} calls in half a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_lost_after_the_write_do_no_harm() {
    let store = DirectStore::new();
    store.set_rule(some(2, 0.1, Fault::LostAnswer));
    let counters = Broadcast::new(600).run(&store).await;
    assert!(counters.failures > 200, "{counters:?}");
    assert!(!counters.fenced, "its own playlists are not somebody else's");
    assert_eq!((gaps(&counters), counters.lost, counters.sealed), (0, 0, true));
    let (report, kept) = judge(&store);
    assert_eq!((kept, report.gaps, report.ended), (all(600), 0, (3, 3)));
}

#[tokio::test(start_paused = true)]
async fn uploads_that_hang_are_overtaken() {
    for fault in [Fault::Hang, Fault::HangAfter] {
        let store = DirectStore::new();
        let mut hangs = some(3, 0.05, fault);
        store.set_rule(move |call| {
            if call.writes_segment() { hangs(call) } else { Fault::Slow(Duration::from_millis(60)) }
        });
        let counters = Broadcast::new(600).run(&store).await;
        // Two hung attempts in a row for one segment have a probability of 1 in 400, and the third attempt may be too
        // late.
        assert!(gaps(&counters) <= all(600) / 400 * 2, "{counters:?}");
        assert_eq!((counters.lost, counters.late, counters.sealed), (0, gaps(&counters), true), "{fault:?}");
        let (_, kept) = judge(&store);
        assert_eq!(kept, all(600));
    }
}

#[tokio::test(start_paused = true)]
async fn two_seconds_a_call_are_within_the_deadline_of_six_seconds_of_latency() {
    let store = DirectStore::new();
    store.set_rule(|_| Fault::Slow(2 * SECOND));
    let counters = Broadcast::with_latency(6.0, 120).run(&store).await;
    assert_eq!((gaps(&counters), counters.lost, counters.sealed), (0, 0, true), "{counters:?}");
    let (report, kept) = judge(&store);
    assert_eq!((kept, report.gaps, report.ended), (all(120), 0, (3, 3)));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_slow_for_viewers_is_still_archived() {
    let store = DirectStore::new();
    store.set_rule(|_| Fault::Slow(2500 * SECOND / 1000));
    let counters = Broadcast::new(120).run(&store).await;
    assert_eq!((gaps(&counters), counters.late, counters.lost), (all(120), all(120), 0), "{counters:?}");
    let (_, kept) = judge(&store);
    assert_eq!(kept, all(120));
}

#[tokio::test(start_paused = true)]
async fn playlists_that_are_refused_for_their_rate_come_later_and_newest_first() {
    let store = DirectStore::new();
    let mut often = some(4, 0.3, Fault::Status(429));
    store.set_rule(move |call| {
        let all = (20 * SECOND..35 * SECOND).contains(&call.at);
        if !call.writes_playlist() {
            Fault::None
        } else if all {
            Fault::Status(429)
        } else {
            often(call)
        }
    });
    let counters = Broadcast::new(120).run(&store).await;
    assert!(counters.failures > 50, "{counters:?}");
    assert_eq!((gaps(&counters), counters.lost, counters.sealed), (0, 0, true));
    let (report, kept) = judge(&store);
    assert_eq!((kept, report.gaps, report.ended), (all(120), 0, (3, 3)));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_becomes_read_only_ends_the_storing_and_nothing_else() {
    let store = DirectStore::new();
    let other = store.clone();
    tokio::spawn(async move {
        tokio::time::sleep(30 * SECOND).await;
        other.state().objects.deny(other.bucket(), &[Permission::Create, Permission::Delete]);
    });
    let began = tokio::time::Instant::now();
    let settings = DeliverySettings::default();
    let counters = Broadcast::new(60).run(&store).await;
    // Publishing kept its pace (`run` sleeps a second per segment) and ended in time.
    assert!(began.elapsed() <= 60 * SECOND + settings.seal_within + settings.longest_attempt);
    assert_eq!(counters.gaps.get(&Gap::Refused), Some(&all(30)), "{counters:?}");
    assert!(!counters.sealed);
    assert!(counters.last_failure.unwrap().contains("storage.objects.create"));
    assert_eq!(judge(&store).1, all(30));
    // The publisher probes whether the bucket is writable again, at most a few times per second.
    let late = |call: &&tests::gcs::Call| call.at > 62 * SECOND && call.writes_segment();
    assert!(store.state().calls.iter().filter(late).count() < 60);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_read_only_for_a_minute_loses_nothing_of_the_archive() {
    let store = DirectStore::new();
    store.set_rule(between(30 * SECOND, 90 * SECOND, Fault::Status(403)));
    let counters = Broadcast::new(180).run(&store).await;
    assert_eq!((counters.late, counters.lost, counters.sealed), (gaps(&counters), 0, true), "{counters:?}");
    let (report, kept) = judge(&store);
    assert_eq!((kept, report.ended), (all(180), (3, 3)));
    assert!(report.gaps > 0);
}

#[tokio::test(start_paused = true)]
async fn when_memory_is_full_the_largest_rung_goes_first() {
    let store = DirectStore::new();
    store.set_rule(between(10 * SECOND, 110 * SECOND, Fault::Status(503)));
    let mut broadcast = Broadcast::new(180);
    // A hundred seconds are 700 kB in all, 300 kB without the largest rung.
    broadcast.settings.max_waiting_bytes = 400_000;
    let counters = broadcast.run(&store).await;
    assert!((60..=80).contains(&counters.lost), "{counters:?}");
    assert!(counters.sealed);
    judge(&store);
    let kept = |rung: &str| {
        let names = store.state().objects.names(store.bucket());
        names.iter().filter(|name| name.contains(rung) && name.ends_with(".m4s")).count() as u64
    };
    assert_eq!((kept("360p"), kept("480p"), kept("720p")), (180, 180, 180 - counters.lost));
}

/// Runs a broadcast without the store for a hundred seconds; memory holds part of the waiting data, and the spool on
/// disk holds `bytes`. Returns the counters and the number of kept segments per rung.
async fn spooled(bytes: u64, spoil: impl FnOnce(&std::path::Path)) -> (DeliveryCounters, [u64; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let store = DirectStore::new();
    store.set_rule(between(10 * SECOND, 110 * SECOND, Fault::Status(503)));
    let mut broadcast = Broadcast::new(180);
    broadcast.settings.max_waiting_bytes = 400_000;
    broadcast.spool = Some(Spool::open(folder.path(), bytes).unwrap());
    // The folder of this process, which holds a folder for each stream.
    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let [own] = entries.filter(|path| path.is_dir()).collect::<Vec<_>>().try_into().unwrap();
    let of_stream = own.join("0");
    spoil(&of_stream);
    let counters = broadcast.run(&store).await;
    assert!(counters.sealed, "{counters:?}");
    judge(&store);
    let kept = |rung: &str| {
        let names = store.state().objects.names(store.bucket());
        names.iter().filter(|name| name.contains(rung) && name.ends_with(".m4s")).count() as u64
    };
    tests::patience::eventually("the stream's spooled files to be gone", 5 * SECOND, || {
        let left = std::fs::read_dir(&of_stream).is_ok();
        (!left).then_some(())
    });
    (counters, ["360p", "480p", "720p"].map(kept))
}

#[tokio::test(start_paused = true)]
async fn what_memory_has_no_room_for_waits_on_disk() {
    let (counters, kept) = spooled(10_000_000, |_| {}).await;
    assert_eq!((counters.lost, counters.spool_full, counters.spool_failures), (0, 0, 0), "{counters:?}");
    assert!(counters.spooled > 50, "{counters:?}");
    assert_eq!(kept, [180; 3]);
}

#[tokio::test(start_paused = true)]
async fn when_the_disk_is_full_too_the_largest_rung_goes_first() {
    let (counters, kept) = spooled(150_000, |_| {}).await;
    assert!(counters.spool_full > 0 && (20..=70).contains(&counters.lost), "{counters:?}");
    assert_eq!(kept, [180, 180, 180 - counters.lost]);
}

#[tokio::test(start_paused = true)]
async fn a_spool_that_fails_is_as_good_as_none() {
    // A file is in the place of the stream's spool folder.
    let spoil = |of_stream: &std::path::Path| std::fs::write(of_stream, b"in the way").unwrap();
    let (counters, kept) = spooled(10_000_000, spoil).await;
    assert!(counters.spool_failures > 0 && counters.spooled == 0, "{counters:?}");
    assert!((60..=80).contains(&counters.lost), "{counters:?}");
    assert_eq!(kept, [180, 180, 180 - counters.lost]);
}

#[tokio::test(start_paused = true)]
async fn without_an_archive_nothing_is_left_behind_but_the_window() {
    let store = DirectStore::new();
    let mut faults = some(5, 0.1, Fault::LostAnswer);
    let mut down = between(60 * SECOND, 90 * SECOND, Fault::Hang);
    store.set_rule(move |call| match down(call) {
        Fault::None => faults(call),
        fault => fault,
    });
    let mut broadcast = Broadcast::new(300);
    broadcast.settings.archive = false;
    let counters = broadcast.run(&store).await;
    assert!(counters.sealed, "{counters:?}");
    let (report, kept) = judge(&store);
    // A window of 30 s and as much retention time, in three rungs.
    assert!(kept <= all(70) + counters.not_removed, "{kept} {report:?}");
}

/// An older encoder that has not noticed the takeover of its stream is fenced and writes no more playlists.
#[tokio::test(start_paused = true)]
async fn of_two_encoders_the_newer_one_goes_on_alone() {
    let store = DirectStore::new();
    // The old encoder writes slowly, to leave the bucket's one write per second to the new one: which encoder gets the
    // stream is tested elsewhere.
    let old = Broadcast { pace: 3 * SECOND, ..Broadcast::new(40) }.run(&store);
    let new = async {
        tokio::time::sleep(40 * SECOND + SECOND / 2).await;
        let later = Broadcast { session: "t", first: 2000, ..Broadcast::new(40) };
        later.run(&store).await
    };
    let (old, new) = tokio::join!(old, new);
    assert!(old.fenced && !old.sealed, "{old:?}");
    assert!(new.sealed && !new.fenced, "{new:?}");
    let (report, _) = judge(&store);
    assert_eq!(report.ended, (3, 3));
    // The old encoder detected the takeover within a few seconds, not at its end.
    let last_of_old = store
        .state()
        .calls
        .iter()
        .filter(|call| call.operation == Operation::Insert && call.object.contains("/s-"))
        .map(|call| call.at)
        .max();
    assert!(last_of_old.unwrap() < 46 * SECOND, "{last_of_old:?}");
}
