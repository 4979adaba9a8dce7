//! Whole streams against the memory store, on paused time: what a reader of the store sees under each kind of store
//! fault.

use super::*;
use crate::delivery::testing::{TextPlaylists, init, segment, tracks};
use store::memory::{InjectedFault, MemoryStore, Operation, RecordedCall};
use store::{Expected, Object, ObjectName};

const SECOND: Duration = Duration::from_secs(1);
const RUNGS: [&str; 2] = ["480p", "720p"];

fn settings() -> DeliverySettings {
    DeliverySettings {
        segment_deadline: 2 * SECOND,
        playlist_interval: SECOND,
        ..DeliverySettings::default()
    }
}

/// A segment that the packager did not have is no reason to look after the store.
#[test]
fn the_log_blames_the_store_for_its_own_gaps_alone() {
    let said = |reason| {
        let mut logged = LoggedFailures::default();
        logged
            .update(&DeliveryCounters { gaps: [(reason, 1)].into(), ..DeliveryCounters::default() }, "store");
        logged.at.is_some()
    };
    assert!(said(Gap::Deadline) && said(Gap::Refused));
    assert!(!said(Gap::Packager));
}

/// Publishes one segment a second in two rungs for `seconds`, then ends the stream.
async fn broadcast(
    store: &MemoryStore,
    playlists: TextPlaylists,
    settings: DeliverySettings,
    seconds: u64,
) -> DeliveryCounters {
    let (publisher, task) = Delivery::start(Arc::new(store.clone()), "live/demo", playlists, settings);
    publisher.input(DeliveryEvent::Tracks(tracks(&RUNGS)));
    for rung in RUNGS {
        publisher.input(DeliveryEvent::Init(init(rung, "s")));
    }
    for sequence in 0..seconds {
        for rung in RUNGS {
            publisher.input(DeliveryEvent::Segment(segment(rung, "s", sequence, 1000)));
        }
        let before = Instant::now();
        tokio::time::sleep(SECOND).await;
        assert_eq!(before.elapsed(), SECOND);
        check_readable(store);
    }
    drop(publisher);
    let counters = task.await.unwrap();
    check_readable(store);
    counters
}

/// Rule: a playlist never names what cannot be read.
fn check_readable(store: &MemoryStore) {
    for rung in RUNGS {
        for file in listed(store, rung) {
            assert!(store.get(&format!("live/demo/{rung}/{file}")).is_some(), "{rung} names {file}");
        }
    }
    if let Some(multivariant) = store.text("live/demo/index.m3u8") {
        for rung in multivariant.split(", ") {
            assert!(store.get(&format!("live/demo/{rung}/index.m3u8")).is_some(), "{rung} is named");
        }
    }
}

fn playlist(store: &MemoryStore, rung: &str) -> String {
    store.text(&format!("live/demo/{rung}/index.m3u8")).unwrap_or_default()
}

fn listed(store: &MemoryStore, rung: &str) -> Vec<String> {
    let text = playlist(store, rung);
    text.split([' ', ',']).filter(|word| word.contains(".m")).map(str::to_owned).collect()
}

fn is_segment(call: &RecordedCall, name: &str) -> bool {
    call.operation == Operation::Create && call.name.as_str().ends_with(name)
}

#[tokio::test(start_paused = true)]
async fn a_good_store_has_everything_and_the_end() {
    let store = MemoryStore::new();
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 20).await;
    assert!(counters.sealed);
    assert_eq!((counters.segments, counters.gaps.len()), (40, 0));
    for rung in RUNGS {
        assert_eq!(listed(&store, rung).len(), 21);
        assert!(playlist(&store, rung).ends_with(", end"));
    }
    let mut last: HashMap<_, Instant> = HashMap::new();
    for call in store.calls().into_iter().filter(|call| call.operation == Operation::Replace) {
        if let Some(before) = last.insert(call.name.clone(), call.at) {
            assert!(call.at - before >= SECOND, "{} too soon", call.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_late_segment_becomes_a_gap_and_the_stream_goes_on() {
    let store = MemoryStore::new();
    store.set_faults(|call| {
        if is_segment(call, "720p/s-3.m4s") { InjectedFault::Hang } else { InjectedFault::None }
    });
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 10).await;
    assert_eq!(counters.gaps.get(&Gap::Deadline), Some(&1));
    let text = playlist(&store, "720p");
    assert!(text.contains("s-2.m4s 1000, gap, s-4.m4s 1000"), "{text}");
    assert!(!playlist(&store, "480p").contains("gap"));
    assert!(counters.sealed);
}

#[tokio::test(start_paused = true)]
async fn passing_faults_are_retried_and_lost_answers_do_no_harm() {
    let store = MemoryStore::new();
    let mut number = 0;
    store.set_faults(move |_| {
        number += 1;
        match number % 5 {
            0 => InjectedFault::Unavailable,
            1 => InjectedFault::LostAnswer,
            2 => InjectedFault::Slow(Duration::from_millis(300)),
            _ => InjectedFault::None,
        }
    });
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 30).await;
    assert!(counters.failures > 10);
    assert_eq!(counters.gaps.values().sum::<u64>(), 0, "{counters:?}");
    assert!(counters.sealed);
    assert!(playlist(&store, "720p").ends_with("s-29.m4s 1000, end"));
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_gaps_and_is_recovered_from() {
    let store = MemoryStore::new();
    let began = Instant::now();
    store.set_faults(move |_| {
        if (5 * SECOND..15 * SECOND).contains(&began.elapsed()) {
            InjectedFault::Unavailable
        } else {
            InjectedFault::None
        }
    });
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 25).await;
    let gaps = counters.gaps[&Gap::Deadline];
    // Ten seconds in two rungs, minus the segments that arrived within one deadline of the store's recovery.
    assert!((12..=20).contains(&gaps), "{counters:?}");
    assert_eq!(counters.segments + gaps, 50);
    assert!(counters.sealed);
    assert!(playlist(&store, "720p").ends_with("s-24.m4s 1000, end"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_does_not_stop_the_stream_and_ends_in_time() {
    let store = MemoryStore::new();
    store.set_faults(|_| InjectedFault::Refused);
    let began = Instant::now();
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 10).await;
    assert_eq!(counters.gaps[&Gap::Refused], 20);
    assert!(!counters.sealed);
    assert!(began.elapsed() <= 10 * SECOND + settings().seal_within + settings().attempt_timeout);
    assert!(store.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_late_init_segment_makes_gaps_of_what_needs_it() {
    let store = MemoryStore::new();
    let began = Instant::now();
    store.set_faults(move |call| {
        let init = is_segment(call, "720p/s-init.mp4");
        if init && began.elapsed() < 4 * SECOND { InjectedFault::Unavailable } else { InjectedFault::None }
    });
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 10).await;
    assert!(counters.gaps[&Gap::NoInit] >= 2, "{counters:?}");
    assert_eq!(counters.segments + counters.gaps[&Gap::NoInit], 20, "each segment is one or the other");
    assert!(counters.sealed);
    assert!(playlist(&store, "720p").ends_with("s-9.m4s 1000, end"));
}

#[tokio::test(start_paused = true)]
async fn the_last_playlist_is_written_through_an_outage_at_the_end() {
    let store = MemoryStore::new();
    let began = Instant::now();
    store.set_faults(move |call| {
        let at = began.elapsed();
        let playlist = call.operation == Operation::Replace;
        if playlist && (5 * SECOND..25 * SECOND).contains(&at) {
            InjectedFault::Unavailable
        } else {
            InjectedFault::None
        }
    });
    let counters = broadcast(&store, TextPlaylists::default(), settings(), 8).await;
    assert!(counters.sealed, "{counters:?}");
    for rung in RUNGS {
        assert!(playlist(&store, rung).ends_with("s-7.m4s 1000, end"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_left_the_playlists_is_removed_or_kept_as_told() {
    for archive in [false, true] {
        let store = MemoryStore::new();
        store.set_faults(|call| match call.operation {
            Operation::Remove if call.name.as_str().ends_with("s-2.m4s") => InjectedFault::Refused,
            _ => InjectedFault::None,
        });
        let playlists = TextPlaylists::with_window(5);
        let settings = DeliverySettings { archive, ..settings() };
        let counters = broadcast(&store, playlists, settings, 20).await;
        let kept = store.names().iter().filter(|name| name.ends_with(".m4s")).count();
        if !archive {
            assert_eq!((kept, counters.removed, counters.not_removed), (12, 28, 2));
        } else {
            assert_eq!((kept, counters.removed), (40, 0));
        }
        assert!(counters.sealed, "a failed removal does not hold up the end");
    }
}

#[tokio::test(start_paused = true)]
async fn input_never_waits_and_memory_stays_bounded_while_the_store_hangs() {
    let store = MemoryStore::new();
    store.set_faults(|_| InjectedFault::Hang);
    let settings = DeliverySettings { max_waiting_bytes: 50_000, ..settings() };
    let (publisher, _task) =
        Delivery::start(Arc::new(store), "live/demo", TextPlaylists::default(), settings);
    publisher.input(DeliveryEvent::Tracks(tracks(&RUNGS)));
    let before = Instant::now();
    for sequence in 0..1000 {
        publisher.input(DeliveryEvent::Segment(segment("720p", "s", sequence, 1000)));
        assert!(publisher.waiting_bytes() <= 50_000);
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(publisher.counters().gaps[&Gap::Overflow], 950);
}

#[tokio::test(start_paused = true)]
async fn gauges_add_up_over_streams_and_one_end_leaves_the_others() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _local = metrics::set_default_local_recorder(&recorder);
    let waiting = || -> f64 {
        let text = handle.render();
        let line = text.lines().find(|line| line.starts_with("encoder_store_waiting_bytes ")).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let store = MemoryStore::new();
    store.set_faults(|_| InjectedFault::Hang);
    let start = |name: &str, bytes| {
        let (publisher, task) = Delivery::start(
            Arc::new(store.clone()),
            format!("live/{name}"),
            TextPlaylists::default(),
            DeliverySettings { seal_within: SECOND, segment_deadline: 100 * SECOND, ..settings() },
        );
        publisher.input(DeliveryEvent::Tracks(tracks(&RUNGS)));
        publisher.input(DeliveryEvent::Segment(segment("720p", "s", 0, bytes)));
        (publisher, task)
    };
    let (first, first_ended) = start("first", 1000);
    let (_second, _) = start("second", 300);
    tokio::time::sleep(SECOND).await;
    assert_eq!(waiting(), 1300.0);
    drop(first);
    first_ended.await.unwrap();
    assert_eq!(waiting(), 300.0);
}

#[tokio::test(start_paused = true)]
async fn news_comes_when_segments_are_listed_and_when_another_encoder_writes() {
    let store = MemoryStore::new();
    let playlists = TextPlaylists::default();
    let (delivery, _written) = Delivery::start(Arc::new(store.clone()), "live/demo", playlists, settings());
    let has_news = async || tokio::time::timeout(5 * SECOND, delivery.news()).await.is_ok();
    delivery.input(DeliveryEvent::Tracks(tracks(&["720p"])));
    delivery.input(DeliveryEvent::Init(init("720p", "s")));
    assert!(!has_news().await);
    delivery.input(DeliveryEvent::Segment(segment("720p", "s", 0, 1000)));
    assert!(has_news().await);
    assert!(!has_news().await, "only once");
    let name = ObjectName::new("live/demo/720p/index.m3u8");
    let version = store.read(&name).await.unwrap().unwrap().version;
    let object = store.get("live/demo/720p/index.m3u8").unwrap();
    let foreign = Object { body: "not ours".into(), ..object };
    store.replace_if(&name, foreign, Expected::Version(version)).await.unwrap();
    delivery.input(DeliveryEvent::Segment(segment("720p", "s", 1, 1000)));
    assert!(has_news().await, "the segment is listed");
    while !delivery.is_fenced() {
        assert!(has_news().await, "and then the other encoder is found");
    }
}
