use super::*;
use crate::origin::Library;
use crate::rtmp::StreamKey;
use crate::store::memory::MemoryStore;
use crate::stream::core_tests;

fn registry(latencies: &str, bounds: Option<&str>) -> Arc<Registry> {
    let probe = Probe::new(
        probes::Settings { capacity: std::num::NonZeroU32::MIN, recycle_after: None },
        Duration::from_secs(60),
    );
    probe.ready();
    Registry::new(
        core_tests::settings("auto"),
        Latencies::parse(latencies, bounds.map(|bounds| bounds.parse().unwrap())).unwrap(),
        OutletOptions { library: Library::new(), store: Arc::new(MemoryStore::new()) },
        WorkerOptions::this_binary(1 << 30, tracing::Span::none()).unwrap(),
        probe,
    )
}

async fn publish(registry: &Registry, query: &str) -> Result<Publisher, Refusal> {
    let request = PublishRequest {
        app: "live".into(),
        key: StreamKey::new("show".into()),
        query: query.into(),
        peer: "127.0.0.1:1".parse().unwrap(),
        client: "test".into(),
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

    // Back within the reconnect window, with another wish and another setting.
    drop(publisher);
    registry.set_latency(&path, Some(Latency::from_secs_f64(8.0).unwrap())).unwrap();
    let publisher = publish(&registry, "latency=9").await.unwrap();
    assert_eq!(in_force(&registry), Some(5.0));
    let status = registry.status();
    let stream = &status["streams"][0];
    assert_eq!(stream["name"], "show");
    assert_eq!((&stream["latency"], &stream["latency_from"]), (&json!(5.0), &json!("publisher")));
    assert_eq!(stream["next_latency"], 8.0);

    drop(publisher);
    registry.end_all(&Refusal::Draining);
    registry.count().wait_for(|count| *count == 0).await.unwrap();
    let _publisher = publish(&registry, "").await.unwrap();
    assert_eq!(in_force(&registry), Some(8.0));
}
