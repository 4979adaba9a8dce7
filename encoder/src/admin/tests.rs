use super::*;
use crate::archive::{ArchiveManager, ArchiveSettings};
use crate::config::PublishLimits;
use crate::delivery::outputs::OutputOptions;
use crate::identity::Identity;
use crate::ingest::{Admission as _, MediaSink as _};
use crate::origin::ObjectCache;
use crate::status::StreamDetails;
use crate::stream::latency::Latencies;
use crate::stream::registry::{Publisher, RegistryOptions, WhenFull};
use crate::stream::worker::WorkerOptions;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use probes::Probe;
use rtmp::{PublishRequest, Refusal, StreamKey};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;
use store::Store;
use store::memory::{InjectedFault, MemoryStore};
use transcode::confine::ConfineOptions;

const SHOW: &str = "/streams/live/show";
const LATENCY: &str = "/streams/live/show/latency";
const BAN: &str = "/streams/live/show/ban";

/// An encoder's registry and its admin routes, over a store that others may share.
struct Scene {
    registry: Arc<Registry>,
    router: Router,
    description: utoipa::openapi::OpenApi,
    store: MemoryStore,
}

impl Scene {
    fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    fn over(memory: MemoryStore) -> Self {
        let settings = probes::ProbeSettings { capacity: NonZeroU32::new(2).unwrap(), recycle_after: None };
        let probe = Probe::new(settings, Duration::from_secs(60));
        probe.ready();
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let archives = ArchiveManager::new(store.clone(), String::new());
        let archive = Some(ArchiveSettings::default());
        let cache = ObjectCache::new();
        let events = Default::default();
        let registry = Registry::new(RegistryOptions {
            settings: crate::stream::core_tests::settings("auto"),
            latencies: Latencies::parse("6,live=3", None).unwrap(),
            outputs: OutputOptions { cache, store, spool: None, archives, archive, events },
            workers: WorkerOptions::this_binary(&ConfineOptions::default(), tracing::Span::none()).unwrap(),
            probe,
            when_full: WhenFull::Tell,
            identity: Identity::open(&Default::default()).unwrap(),
            advertised: None,
            limits: PublishLimits { bits_per_second: 20_000_000, duration: Duration::from_secs(86_400) },
        });
        let AdminRoutes { router, describe } = routes(registry.clone());
        Self { registry, router, description: describe(), store: memory }
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let mut request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let peer: SocketAddr = "127.0.0.1:7".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn publish(&self, name: &str) -> Result<Publisher, Refusal> {
        let request = PublishRequest {
            app: "live".into(),
            path: StreamKey::new(String::new()),
            key: StreamKey::new(name.into()),
            query: String::new(),
            peer: "192.0.2.7:1935".parse().unwrap(),
            client: "test".into(),
            details: Default::default(),
        };
        self.registry.admit(request).await
    }

    async fn all_ended(&self) {
        self.registry.count().wait_for(|count| *count == 0).await.unwrap();
    }

    /// Waits until the owner's record of the stream in the store says whether the stream is banned.
    async fn stored_ban(&self, banned: bool) {
        let says = || {
            let record = self.store.text("live/show/owner.json").unwrap_or_default();
            record.contains("banned_until_ms") == banned
        };
        let patience = tokio::time::Instant::now() + Duration::from_secs(30);
        while !says() {
            assert!(tokio::time::Instant::now() < patience, "the store never says banned={banned}");
            tokio::task::yield_now().await;
        }
    }
}

#[track_caller]
fn told(refused: Result<Publisher, Refusal>) -> String {
    match refused {
        Err(Refusal::EndedByOperator(told)) => told,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("admitted"),
    }
}

#[tokio::test]
async fn a_latency_is_set_for_the_next_publish_and_removed_again() {
    let scene = Scene::new();
    let (status, before) = scene.ask(Method::GET, LATENCY, "").await;
    assert_eq!((status, &before["next"]), (StatusCode::OK, &json!({ "latency": 3.0, "from": "app" })));
    assert_eq!(before["in_force"], Value::Null);

    let (status, after) = scene.ask(Method::PUT, LATENCY, "{\"latency\": 6.5}").await;
    assert_eq!((status, &after["next"]), (StatusCode::OK, &json!({ "latency": 6.5, "from": "set" })));
    assert_eq!(after["takes_effect"], "at the next publish");
    let set = json!([{ "app": "live", "name": "show", "latency": 6.5 }]);
    assert_eq!(json!(scene.registry.latencies_set()), set);

    for body in ["", "6", "{}", "{\"latency\": \"6\"}", "{\"latency\": 6, \"x\": 1}", "{\"latency\": 1.9}"] {
        let (status, told) = scene.ask(Method::PUT, LATENCY, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(told["error"].is_string(), "{told}");
    }
    let (status, _) = scene.ask(Method::PUT, LATENCY, &" ".repeat(MAX_BODY_BYTES + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    let (status, _) = scene.ask(Method::PUT, "/streams/a.b/show/latency", "{\"latency\": 6}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(json!(scene.registry.latencies_set()), set, "none of these has changed anything");

    let (_, removed) = scene.ask(Method::DELETE, LATENCY, "").await;
    assert_eq!(removed["next"], json!({ "latency": 3.0, "from": "app" }));
}

#[tokio::test]
async fn streams_are_listed_with_their_publishers() {
    let scene = Scene::new();
    let (status, list) = scene.ask(Method::GET, "/streams", "").await;
    assert_eq!((status, list), (StatusCode::OK, json!({ "streams": [], "bans": [] })));
    let (status, told) = scene.ask(Method::GET, SHOW, "").await;
    assert_eq!((status, told), (StatusCode::NOT_FOUND, json!({ "error": "no stream live/show runs here" })));
    assert_eq!(scene.ask(Method::GET, "/streams/live/a.b", "").await.0, StatusCode::BAD_REQUEST);

    let publisher = scene.publish("show").await.unwrap();
    let (status, show) = scene.ask(Method::GET, SHOW, "").await;
    assert_eq!(status, StatusCode::OK);
    let details: StreamDetails = serde_json::from_value(show.clone()).unwrap();
    assert_eq!((details.stream.name.as_str(), details.stream.published), ("show", true));
    let facts = details.publisher.unwrap();
    assert_eq!((facts.client.as_str(), facts.address.as_str()), ("test", "192.0.2.7:1935"));
    let (_, list) = scene.ask(Method::GET, "/streams", "").await;
    assert_eq!(list["streams"][0]["publisher"]["client"], "test");
    drop(publisher);
    let (_, show) = scene.ask(Method::GET, SHOW, "").await;
    assert_eq!((&show["published"], &show["publisher"]), (&json!(false), &Value::Null));
}

#[tokio::test]
async fn a_stream_is_ended_with_a_reason_and_may_come_back() {
    let scene = Scene::new();
    assert_eq!(scene.ask(Method::DELETE, SHOW, "").await.0, StatusCode::NOT_FOUND);
    let mut publisher = scene.publish("show").await.unwrap();
    let (status, ended) = scene.ask(Method::DELETE, SHOW, "{\"reason\": \"the match is over\"}").await;
    let expected = json!({
        "app": "live", "name": "show", "ended": true, "reason": "the match is over", "banned_until": null,
    });
    assert_eq!((status, ended), (StatusCode::OK, expected));
    assert_eq!(publisher.sent_off().await, Refusal::EndedByOperator("the match is over".into()));
    drop(publisher);
    scene.all_ended().await;
    let mut publisher = scene.publish("show").await.unwrap();
    assert_eq!(scene.ask(Method::DELETE, SHOW, "").await.0, StatusCode::OK);
    assert_eq!(publisher.sent_off().await, Refusal::EndedByOperator("an operator ended this stream".into()));
}

#[tokio::test]
async fn a_stream_in_its_reconnect_window_ends_as_well() {
    let scene = Scene::new();
    drop(scene.publish("show").await.unwrap());
    assert_eq!(scene.ask(Method::DELETE, SHOW, "").await.0, StatusCode::OK);
    scene.all_ended().await;
}

#[tokio::test]
async fn what_is_asked_wrongly_ends_nothing() {
    let scene = Scene::new();
    let _publisher = scene.publish("show").await.unwrap();
    let long = format!("{{\"reason\": \"{}\"}}", "ä".repeat(201));
    for body in [
        "x",
        "[]",
        "{\"reason\": 5}",
        "{\"reason\": \"\"}",
        "{\"reason\": \"a\\nb\"}",
        "{\"ban_seconds\": 0}",
        "{\"ban_seconds\": -1}",
        "{\"ban_seconds\": 2592001}",
        "{\"ban_seconds\": 1.5}",
        "{\"why\": \"x\"}",
        &long,
    ] {
        let (status, told) = scene.ask(Method::DELETE, SHOW, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(told["error"].is_string(), "{told}");
    }
    assert_eq!(scene.ask(Method::GET, SHOW, "").await.1["published"], true);
    let longest = format!("{{\"reason\": \"{}\"}}", "\\u00e4".repeat(200));
    assert_eq!(scene.ask(Method::DELETE, SHOW, &longest).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_banned_name_is_published_nowhere_until_the_ban_is_lifted() {
    let here = Scene::new();
    let elsewhere = Scene::over(here.store.clone());
    let mut publisher = here.publish("show").await.unwrap();
    let body = "{\"reason\": \"not today\", \"ban_seconds\": 600}";
    let (status, ended) = here.ask(Method::DELETE, SHOW, body).await;
    assert_eq!((status, &ended["ended"]), (StatusCode::ACCEPTED, &json!(true)));
    let until = ended["banned_until"].as_str().unwrap().to_owned();
    let Refusal::EndedByOperator(reason) = publisher.sent_off().await else { panic!() };
    assert_eq!(reason, format!("not today; it may be published again from {until}"));
    drop(publisher);
    assert!(told(here.publish("show").await).starts_with("not today; "), "at once");
    here.all_ended().await;
    here.stored_ban(true).await;
    assert_eq!(told(here.publish("show").await), reason);
    let there = told(elsewhere.publish("show").await);
    assert_eq!(there, format!("an operator ended this stream; it may be published again from {until}"));
    drop(here.publish("other").await.unwrap());
    let (_, list) = here.ask(Method::GET, "/streams", "").await;
    let ban = json!({ "app": "live", "name": "show", "banned_until": until, "reason": "not today" });
    assert_eq!(list["bans"], json!([ban]));
    let record = here.store.text("live/show/owner.json").unwrap();
    assert!(!record.contains("not today"), "buckets may be public: {record}");

    let (status, lifted) = here.ask(Method::DELETE, BAN, "").await;
    assert_eq!((status, &lifted["lifted"]), (StatusCode::ACCEPTED, &json!(true)));
    here.stored_ban(false).await;
    drop(here.publish("show").await.unwrap());
}

#[tokio::test]
async fn a_name_is_banned_before_anybody_publishes_it_and_lifted_after_a_restart() {
    let before = Scene::new();
    let (status, banned) = before.ask(Method::DELETE, SHOW, "{\"ban_seconds\": 600}").await;
    assert_eq!((status, &banned["ended"]), (StatusCode::ACCEPTED, &json!(false)));
    before.stored_ban(true).await;
    let after = Scene::over(before.store.clone());
    assert!(told(after.publish("show").await).starts_with("an operator ended this stream; "));
    let (status, lifted) = after.ask(Method::DELETE, BAN, "").await;
    assert_eq!((status, &lifted["lifted"]), (StatusCode::ACCEPTED, &json!(false)));
    after.stored_ban(false).await;
    drop(after.publish("show").await.unwrap());
}

/// A stream whose start is reading the store when the ban comes does not start.
#[tokio::test(start_paused = true)]
async fn a_ban_stops_a_stream_that_is_just_starting() {
    let scene = Scene::new();
    scene.store.set_faults(|_| InjectedFault::Slow(Duration::from_millis(200)));
    let (published, (status, _)) =
        tokio::join!(scene.publish("show"), scene.ask(Method::DELETE, SHOW, "{\"ban_seconds\": 600}"));
    assert_eq!(status, StatusCode::ACCEPTED);
    assert!(told(published).starts_with("an operator ended this stream; "));
}

/// Handlers run on the admin thread: none may wait for the store.
#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_delays_no_answer_and_bans_that_wait_are_bounded() {
    let scene = Scene::new();
    scene.store.set_faults(|_| InjectedFault::Hang);
    let began = tokio::time::Instant::now();
    let mut refused = 0;
    for number in 0..100 {
        let path = format!("/streams/live/show{number}");
        match scene.ask(Method::DELETE, &path, "{\"ban_seconds\": 600}").await.0 {
            StatusCode::ACCEPTED => {}
            StatusCode::SERVICE_UNAVAILABLE => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!((30..=36).contains(&refused), "{refused} of 100 refused, at most 64 wait");
    assert_eq!(scene.registry.bans().len(), 100 - refused, "what is refused has changed nothing");
}

/// Every route is described, and every described route of this module answers.
#[tokio::test]
async fn the_description_names_every_route_and_every_route_answers() {
    let scene = Scene::new();
    let document = serde_json::to_value(&scene.description).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let routed = include_str!("mod.rs").split(".route(\"").skip(1);
    let mut routed: Vec<&str> = routed.filter_map(|rest| rest.split('"').next()).collect();
    // Served by `probes`.
    routed.push("/status");
    routed.sort_unstable();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.keys().map(String::as_str).collect::<Vec<_>>(), routed);
    let operations = || paths.values().flat_map(|methods| methods.as_object().unwrap().values());
    let ids: HashSet<&str> =
        operations().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations().count(), "programs that read the document need distinct names");
    for (path, methods) in paths.iter().filter(|(path, _)| *path != "/status") {
        for (method, operation) in methods.as_object().unwrap() {
            let asked = path.replace("{app}", "live").replace("{name}", "show");
            let method: Method = method.to_uppercase().parse().unwrap();
            let (status, _) = scene.ask(method.clone(), &asked, "").await;
            let described = operation["responses"].as_object().unwrap();
            assert!(described.contains_key(status.as_str()), "{method} {path}: {status} is not described");
            let is_write = method != Method::GET;
            assert_eq!(operation["security"].is_array(), is_write, "{method} {path}");
            for name in ["app", "name"].iter().filter(|name| path.contains(&format!("{{{name}}}"))) {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|parameter| parameter["name"] == **name), "{method} {path}");
            }
        }
    }
    let (text, schemas) = (document.to_string(), document["components"]["schemas"].as_object().unwrap());
    for reference in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(schemas.contains_key(reference), "{reference} is not described");
    }
}
