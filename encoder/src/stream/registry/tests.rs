use super::*;
use crate::archive::{self, ArchiveManager};
use crate::events::Events;
use crate::ingest::{Admission, MediaSink};
use crate::origin::ObjectCache;
use crate::stream::core_tests;
use rtmp::{MediaMessage, PublishRequest, StreamKey};
use serde_json::json;
use std::num::NonZeroU32;
use store::Store;
use store::memory::{InjectedFault, MemoryStore, Operation};
use transcode::confine::ConfineOptions;

fn registry(latencies: &str, bounds: Option<&str>) -> Arc<Registry> {
    fleet_registry(latencies, bounds, WhenFull::Tell).0
}

fn fleet_registry(latencies: &str, bounds: Option<&str>, when_full: WhenFull) -> (Arc<Registry>, Arc<Probe>) {
    registry_over(MemoryStore::new(), None, latencies, bounds, when_full)
}

fn registry_over(
    store: MemoryStore,
    recycle_after: Option<NonZeroU32>,
    latencies: &str,
    bounds: Option<&str>,
    when_full: WhenFull,
) -> (Arc<Registry>, Arc<Probe>) {
    let probe = Probe::new(
        probes::ProbeSettings { capacity: NonZeroU32::MIN, recycle_after },
        Duration::from_secs(60),
    );
    probe.ready();
    let store: Arc<dyn Store> = Arc::new(store);
    let registry = Registry::new(RegistryOptions {
        settings: core_tests::settings("auto"),
        latencies: Latencies::parse(latencies, bounds.map(|bounds| bounds.parse().unwrap())).unwrap(),
        outputs: OutputOptions {
            cache: ObjectCache::new(),
            store: store.clone(),
            spool: None,
            archives: ArchiveManager::new(store, String::new()),
            archive: Some(archive::ArchiveSettings::default()),
            events: Events::kept(),
        },
        workers: WorkerOptions::this_binary(&ConfineOptions::default(), tracing::Span::none()).unwrap(),
        probe: probe.clone(),
        when_full,
        identity: Identity::open(&Default::default()).unwrap(),
        advertised: None,
        limits: PublishLimits { bits_per_second: 20_000_000, duration: Duration::from_secs(86_400) },
    });
    (registry, probe)
}

async fn publish(registry: &Registry, query: &str) -> Result<Publisher, Refusal> {
    publish_as(registry, "show", query).await
}

async fn publish_as(registry: &Registry, key: &str, query: &str) -> Result<Publisher, Refusal> {
    let request = PublishRequest {
        app: "live".into(),
        path: StreamKey::new(String::new()),
        key: StreamKey::new(key.into()),
        query: query.into(),
        peer: "127.0.0.1:1".parse().unwrap(),
        client: "test".into(),
        details: Default::default(),
    };
    registry.admit(request).await
}

fn in_force(registry: &Registry) -> Option<f64> {
    let path = StreamPath::new("live", "show").unwrap();
    registry.latency(&path).0.map(|chosen| chosen.latency.as_secs_f64())
}

#[tokio::test]
async fn a_stream_keeps_its_latency_until_it_has_ended() {
    let registry = registry("4,live=3", Some("2-10"));
    let path = StreamPath::new("live", "show").unwrap();
    assert_eq!(in_force(&registry), None);
    let publisher = publish(&registry, "latency=5").await.unwrap();
    assert_eq!(in_force(&registry), Some(5.0));
    assert_eq!(publisher.entry.timing, Timing::new(Latency::from_secs_f64(5.0).unwrap()));

    // The publisher reconnects within the reconnect window, requesting another latency, and an operator has set another
    // one.
    drop(publisher);
    registry.set_latency(&path, Some(Latency::from_secs_f64(8.0).unwrap())).unwrap();
    let publisher = publish(&registry, "latency=9").await.unwrap();
    assert_eq!(in_force(&registry), Some(5.0));
    let status = serde_json::to_value(registry.status()).unwrap();
    let stream = &status[0];
    assert_eq!(stream["name"], "show");
    assert_eq!((&stream["latency"], &stream["latency_from"]), (&json!(5.0), &json!("publisher")));
    assert_eq!(stream["next_latency"], 8.0);

    drop(publisher);
    registry.end_all(&Refusal::Draining);
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    let _publisher = publish(&registry, "").await.unwrap();
    assert_eq!(in_force(&registry), Some(8.0));
}

#[tokio::test]
async fn the_receiver_of_events_learns_what_happens_to_a_stream() {
    let registry = registry("4", None);
    let publisher = publish(&registry, "").await.unwrap();
    assert_eq!(publish(&registry, "").await.err(), Some(Refusal::AlreadyPublishing));
    publisher.end(rtmp::EndReason::TimedOut);
    let publisher = publish(&registry, "").await.unwrap();
    registry.end_all(&Refusal::EndedByOperator("off the air".into()));
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    publisher.end(rtmp::EndReason::SentOff);
    let told = registry.outputs.events.take();
    let types: Vec<_> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected =
        ["stream.started", "publish.refused", "stream.interrupted", "stream.resumed", "stream.ended"];
    assert_eq!(types, expected.map(|name| format!("live.encoder.{name}")));
    assert!(told.iter().all(|event| event["subject"] == "live/show"), "{told:?}");
    assert_eq!(told[1]["data"]["reason"], "already_publishing");
    assert_eq!(told[2]["data"]["reason"], "timed_out");
    let ended = &told[4]["data"];
    assert_eq!((&ended["reason"], &ended["message"]), (&json!("operator"), &json!("off the air")));
}

/// The reconnect window is for publishers that are lost.
#[tokio::test(start_paused = true)]
async fn a_goodbye_ends_the_stream_at_once() {
    let registry = registry("4", None);
    let mut publisher = publish(&registry, "").await.unwrap();
    let began = tokio::time::Instant::now();
    publisher.said_goodbye();
    publisher.end(rtmp::EndReason::Unpublished);
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let told = registry.outputs.events.take();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["data"]["reason"], "unpublished");
}

/// A publisher that comes back before its former sink has ended goes on in its stream; one that comes later, while the
/// last segments are written, waits for that and begins a new stream.
#[tokio::test]
async fn a_publisher_that_comes_back_after_its_goodbye_is_never_refused() {
    let registry = registry("4", None);
    let mut first = publish(&registry, "").await.unwrap();
    first.said_goodbye();
    let second = publish(&registry, "").await.unwrap();
    assert!(Arc::ptr_eq(&first.entry, &second.entry));
    let entry = first.entry.clone();
    first.end(rtmp::EndReason::Unpublished);
    assert!(entry.core.look(StreamCore::is_published), "the former sink ends nothing");
    let mut second = second;
    second.said_goodbye();
    second.end(rtmp::EndReason::Unpublished);
    let third = publish(&registry, "").await.unwrap();
    assert!(!Arc::ptr_eq(&entry, &third.entry));
    let kinds: Vec<_> = registry.outputs.events.take().iter().map(|event| event["type"].clone()).collect();
    let expected = ["stream.started", "stream.ended", "stream.started"];
    assert_eq!(kinds, expected.map(|name| json!(format!("live.encoder.{name}"))));
}

/// The last place is waited for while a stream that said goodbye gives it back.
#[tokio::test]
async fn another_stream_waits_for_the_place_of_one_that_ends() {
    let registry = registry("4", None);
    let mut publisher = publish(&registry, "").await.unwrap();
    assert_eq!(publish_as(&registry, "other", "").await.err(), Some(Refusal::Busy));
    publisher.said_goodbye();
    publisher.end(rtmp::EndReason::Unpublished);
    publish_as(&registry, "other", "").await.unwrap();
}

/// A publisher that can connect anew is asked to, and its stream is left open for another encoder.
#[tokio::test]
async fn a_publisher_that_moves_at_a_drain_leaves_its_stream_open() {
    for (can_reconnect, goodbye, to, is_left_open) in [
        (true, true, DrainReconnect::Same, true),
        (true, false, DrainReconnect::To("rtmp://other".into()), true),
        (true, true, DrainReconnect::Off, false),
        (false, false, DrainReconnect::Same, false),
    ] {
        let registry = registry("4", None);
        let mut publisher = publish(&registry, "").await.unwrap();
        publisher.introduce("test".into(), "127.0.0.1:1".parse().unwrap(), can_reconnect);
        let entry = publisher.entry.clone();
        registry.drain(&to);
        let asked = publisher.reconnect().and_then(|asked| asked.borrow().clone());
        let expected = match &to {
            _ if !is_left_open => None,
            DrainReconnect::To(_) => Some(ReconnectRequest { tc_url: Some("rtmp://other/live".into()) }),
            DrainReconnect::Same | DrainReconnect::Off => Some(ReconnectRequest { tc_url: None }),
        };
        assert_eq!(asked, expected);
        if goodbye {
            publisher.said_goodbye();
        }
        drop(publisher);
        assert_eq!(entry.core.look(StreamCore::is_waiting), is_left_open, "{to:?}");
        assert_eq!(publish(&registry, "").await.err(), Some(Refusal::Draining));
    }
}

/// A stream that accepts no publisher any more does not wait for one.
#[tokio::test]
async fn a_draining_stream_ends_without_an_interruption() {
    let registry = registry("4", None);
    let publisher = publish(&registry, "").await.unwrap();
    registry.drain(&DrainReconnect::Same);
    publisher.end(rtmp::EndReason::Closed);
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    let told = registry.outputs.events.take();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[1]["data"]["reason"], "drain");
}

#[tokio::test]
async fn readiness_and_door_have_fallen_when_the_answer_is_made() {
    let (registry, probe) = fleet_registry("4", None, WhenFull::Refuse);
    let open = registry.open().unwrap();
    assert!(*open.borrow() && probe.readiness().is_ok());
    // The publisher gets its answer only after this call returns.
    let publisher = publish(&registry, "").await.unwrap();
    assert_eq!(probe.readiness(), Err(Denied::Full));
    assert!(!*open.borrow());
    // A publisher whose connection was accepted before gets a reason.
    assert_eq!(publish_as(&registry, "other", "").await.err(), Some(Refusal::Busy));
    assert_eq!(publish(&registry, "").await.err(), Some(Refusal::AlreadyPublishing));
    assert!(!*open.borrow());
    // In its reconnect window a stream waits for its publisher, so the gate opens.
    drop(publisher);
    assert!(*open.borrow() && probe.readiness().is_err());
    let _back = publish(&registry, "").await.unwrap();
    assert!(!*open.borrow());
}

#[tokio::test]
async fn a_stream_that_is_over_gives_its_place_and_the_door_back() {
    let (registry, probe) = fleet_registry("4", None, WhenFull::Refuse);
    let mut open = registry.open().unwrap();
    let publisher = publish(&registry, "").await.unwrap();
    registry.end_all(&Refusal::Draining);
    assert!(!*open.borrow(), "its last writes are under way: nobody is awaited");
    drop(publisher);
    let free = |state: &probes::BusyState| matches!(state, probes::BusyState::Free { .. });
    probe.subscribe().wait_for(free).await.unwrap();
    open.wait_for(|open| *open).await.unwrap();
}

#[tokio::test]
async fn whoever_is_to_be_told_always_gets_in_that_far() {
    assert!(fleet_registry("4", None, WhenFull::Tell).0.open().is_none());
}

/// A restart must not interrupt archives that are being completed.
#[tokio::test]
async fn the_last_place_is_given_back_when_archives_are_complete() {
    let store = MemoryStore::new();
    let (registry, probe) = registry_over(store.clone(), Some(NonZeroU32::MIN), "4", None, WhenFull::Tell);
    // The archive manager lists earlier archives, and the store does not answer for a while.
    let silent = Arc::new(AtomicBool::new(true));
    let asked = silent.clone();
    store.set_faults(move |call| match call.operation {
        Operation::List if asked.load(Ordering::Relaxed) => InjectedFault::Unavailable,
        _ => InjectedFault::None,
    });
    let publisher = publish(&registry, "").await.unwrap();
    drop(publisher);
    registry.end_all(&Refusal::Draining);
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    assert_eq!(probe.state(), probes::BusyState::Busy { streams: 1, taken: 1 });
    assert_eq!(probe.liveness(), probes::Liveness::Alive);
    assert_eq!(publish(&registry, "").await.err(), Some(Refusal::Draining));
    silent.store(false, Ordering::Relaxed);
    let spent = |state: &probes::BusyState| matches!(state, probes::BusyState::Spent { .. });
    probe.subscribe().wait_for(spent).await.unwrap();
    assert!(matches!(probe.liveness(), probes::Liveness::Restart(_)));
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_counted_where_operators_look() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _local = metrics::set_default_local_recorder(&recorder);
    let registry = registry("4", None);
    let mut publisher = publish(&registry, "").await.unwrap();
    for _ in 0..3 {
        let message = MediaMessage {
            kind: rtmp::MessageKind::Video,
            timestamp_ms: 0,
            payload: bytes::Bytes::from_static(&[0x17]),
            arrived: Instant::now(),
        };
        publisher.media(message).unwrap();
    }
    let counted = "encoder_odd_messages_total{kind=\"unreadable\"} 3";
    assert!(handle.render().contains(counted), "{}", handle.render());
}

/// Without a credential nobody takes the place of a publisher that is connected, however long it has been silent.
#[tokio::test(start_paused = true)]
async fn a_silent_publisher_is_replaced_by_proof_alone() {
    let registry = registry("4", None);
    let _silent = publish(&registry, "").await.unwrap();
    let path = StreamPath::new("live", "show").unwrap();
    let entry = registry.lock().get(&path).unwrap().clone();
    let long_ago = Instant::now().checked_sub(STALE_AFTER).unwrap();
    entry.present().last_message_at = long_ago;
    assert_eq!(publish(&registry, "").await.err(), Some(Refusal::AlreadyPublishing));
    let grant = admission::Grant {
        app: "live".into(),
        name: "show".into(),
        proven: true,
        terms: admission::Terms::default(),
    };
    let owner = Candidate::new(grant, String::new(), now().wall).unwrap();
    let _owner = registry.take_place(owner).await.unwrap();
}

#[tokio::test]
async fn a_grant_s_terms_are_the_stream_s_settings() {
    let registry = registry("4,live=3", Some("2-10"));
    let terms = admission::Terms {
        latency: Some(2.5),
        ladder: Some("360p@800k".into()),
        archive: Some("none".into()),
        max_bitrate: Some(5.0),
        ..Default::default()
    };
    let grant = admission::Grant { app: "live".into(), name: "show".into(), proven: true, terms };
    let candidate = Candidate::new(grant.clone(), String::new(), now().wall).unwrap();
    assert_eq!(registry.outputs_of(&candidate).archive, None);
    let publisher = registry.take_place(candidate).await.unwrap();
    assert_eq!(in_force(&registry), Some(2.5));
    assert_eq!(publisher.most_bits_per_second(), 5_000_000);
    let status = serde_json::to_value(registry.status()).unwrap();
    assert_eq!(status[0]["latency_from"], "key");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_that_has_lasted_long_enough_is_over() {
    let registry = registry("4", None);
    let terms = admission::Terms { max_duration: Some(5.0), ..Default::default() };
    let grant = admission::Grant { app: "live".into(), name: "show".into(), proven: true, terms };
    let candidate = Candidate::new(grant, String::new(), now().wall).unwrap();
    let mut publisher = registry.take_place(candidate).await.unwrap();
    let told = publisher.sent_off().await;
    assert!(matches!(&told, Refusal::OverLimit(text) if text.contains("5 seconds")), "{told:?}");
    drop(publisher);
    // The stream does not wait for its publisher to return.
    registry.count().wait_for(|count| *count == 0).await.unwrap();
}

/// What cannot be read is in the status while it comes, and the report begins anew with each publisher.
#[tokio::test]
async fn the_status_has_what_the_publisher_sends() {
    let registry = registry("4", None);
    let mut publisher = publish(&registry, "").await.unwrap();
    let report = || registry.status()[0].publish_report.clone().unwrap();
    assert_eq!((report().video, report().audio, report().seconds), (None, None, 0.0));
    let began = Instant::now();
    let send = |publisher: &mut Publisher, ms: u64, body: &[u8]| {
        let message = MediaMessage {
            kind: rtmp::MessageKind::Audio,
            timestamp_ms: ms as u32,
            payload: bytes::Bytes::copy_from_slice(body),
            arrived: began + Duration::from_millis(ms),
        };
        publisher.media(message).unwrap()
    };
    for ms in (0..4_000).step_by(100) {
        assert!(!send(&mut publisher, ms, &[0xd2, 0]), "sound of a format that nobody knows");
    }
    assert_eq!(report().unreadable[0].reason, "audio of an unknown sound format");
    assert_eq!(report().passed_over["unreadable"], 40);
    assert!(report().advice.iter().any(|advice| advice.setting == "codec"));
    drop(publisher);
    assert_eq!(report().unreadable, [], "nothing comes any more");
    let mut publisher = publish(&registry, "").await.unwrap();
    assert_eq!(report().passed_over, BTreeMap::new(), "another publisher");
    assert!(send(&mut publisher, 5_000, &[0x2f, 0xff, 0xfb, 0x94, 0x64, 0, 0]), "MP3");
    assert_eq!(report().audio.unwrap().codec, "MP3");
    registry.end_all(&Refusal::Draining);
}
