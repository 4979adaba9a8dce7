//! Settings that operators can change while the process runs, on the admin port next to the routes of `probes`:
//!
//! | request | answer |
//! |---|---|
//! | `GET /streams/{app}/{name}/latency` | the latency in force, and the latency for the next publish |
//! | `PUT`, same path, `{"latency": 6}` | sets the latency from the next publish on, until this process ends |
//! | `DELETE`, same path | the configured latency applies again |
//!
//! Access to the admin port is restricted by the network, not here. Which latency wins is decided in
//! [`crate::stream::latency`].

use crate::origin::StreamPath;
use crate::stream::latency::Chosen;
use crate::stream::registry::Registry;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hls::timing::Latency;
use serde_json::json;
use std::sync::Arc;

/// Largest body in bytes: an object with one number.
const MAX_BODY_BYTES: usize = 1024;

/// The routes of this module.
pub(crate) fn router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/streams/{app}/{name}/latency", get(latency).put(set_latency).delete(unset_latency))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(registry)
}

type Asked = Path<(String, String)>;

/// The client's mistake, or a full table; sent as `{"error": "…"}`.
struct Refused(StatusCode, String);

async fn latency(State(registry): State<Arc<Registry>>, asked: Asked) -> Result<Response, Refused> {
    Ok(state(&registry, &path(asked)?))
}

/// Parses the body regardless of its Content-Type: `curl -X PUT -d` labels it as a form.
async fn set_latency(
    State(registry): State<Arc<Registry>>,
    asked: Asked,
    body: Bytes,
) -> Result<Response, Refused> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct LatencyRequest {
        latency: f64,
    }
    let stream = path(asked)?;
    let LatencyRequest { latency } = serde_json::from_slice(&body).map_err(|_| {
        Refused(StatusCode::BAD_REQUEST, "the body is an object like {\"latency\": 6}".into())
    })?;
    let latency = Latency::from_secs_f64(latency).map_err(wrong)?;
    set(&registry, &stream, Some(latency))
}

async fn unset_latency(State(registry): State<Arc<Registry>>, asked: Asked) -> Result<Response, Refused> {
    set(&registry, &path(asked)?, None)
}

fn set(registry: &Registry, stream: &StreamPath, latency: Option<Latency>) -> Result<Response, Refused> {
    registry.set_latency(stream, latency).map_err(|full| Refused(StatusCode::CONFLICT, full.to_string()))?;
    Ok(state(registry, stream))
}

fn path(Path((app, name)): Asked) -> Result<StreamPath, Refused> {
    StreamPath::new(&app, &name).map_err(wrong)
}

fn wrong(problem: impl ToString) -> Refused {
    Refused(StatusCode::BAD_REQUEST, problem.to_string())
}

fn state(registry: &Registry, stream: &StreamPath) -> Response {
    let shown = |Chosen { latency, from }| json!({ "latency": latency.as_secs_f64(), "from": from });
    let (in_force, next) = registry.latency(stream);
    let takes_effect = match in_force {
        Some(_) => "at the next publish once this stream has ended: it keeps its target durations until then",
        None => "at the next publish",
    };
    let body = json!({
        "app": &*stream.app,
        "name": &*stream.name,
        "in_force": in_force.map(shown),
        "next": shown(next),
        "takes_effect": takes_effect,
    });
    ([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, problem) = self;
        (status, [(header::CACHE_CONTROL, "no-store")], Json(json!({ "error": problem }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::outputs::OutputOptions;
    use crate::origin::ObjectCache;
    use crate::stream::latency::Latencies;
    use crate::stream::registry::{RegistryOptions, WhenFull};
    use crate::stream::worker::WorkerOptions;
    use axum::body::Body;
    use axum::http::{Method, Request};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use probes::Probe;
    use serde_json::Value;
    use std::time::Duration;
    use store::memory::MemoryStore;
    use transcode::confine::ConfineOptions;

    async fn ask(router: &Router, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        let answer = TowerToHyperService::new(router.clone()).call(request).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn a_latency_is_set_for_the_next_publish_and_removed_again() {
        let probe = Probe::new(
            probes::ProbeSettings { capacity: std::num::NonZeroU32::MIN, recycle_after: None },
            Duration::from_secs(1),
        );
        let store: Arc<dyn store::Store> = Arc::new(MemoryStore::new());
        let registry = Registry::new(RegistryOptions {
            settings: crate::stream::core_tests::settings("auto"),
            latencies: Latencies::parse("6,live=3", None).unwrap(),
            outputs: OutputOptions {
                cache: ObjectCache::new(),
                store: store.clone(),
                spool: None,
                archives: crate::archive::ArchiveManager::new(store, String::new()),
                archive: None,
                events: Default::default(),
            },
            workers: WorkerOptions::this_binary(&ConfineOptions::default(), tracing::Span::none()).unwrap(),
            probe,
            when_full: WhenFull::Tell,
            identity: crate::identity::Identity::open(&Default::default()).unwrap(),
            limits: crate::config::PublishLimits {
                bits_per_second: 20_000_000,
                duration: Duration::from_secs(86_400),
            },
        });
        let router = router(registry.clone());
        let at = "/streams/live/show/latency";
        let (status, before) = ask(&router, Method::GET, at, "").await;
        assert_eq!((status, &before["next"]), (StatusCode::OK, &json!({ "latency": 3.0, "from": "app" })));
        assert_eq!(before["in_force"], Value::Null);

        let (status, after) = ask(&router, Method::PUT, at, "{\"latency\": 6.5}").await;
        assert_eq!((status, &after["next"]), (StatusCode::OK, &json!({ "latency": 6.5, "from": "set" })));
        assert_eq!(after["takes_effect"], "at the next publish");
        let set = json!([{ "app": "live", "name": "show", "latency": 6.5 }]);
        assert_eq!(json!(registry.latencies_set()), set);

        for body in
            ["", "6", "{}", "{\"latency\": \"6\"}", "{\"latency\": 6, \"x\": 1}", "{\"latency\": 1.9}"]
        {
            let (status, told) = ask(&router, Method::PUT, at, body).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert!(told["error"].is_string(), "{told}");
        }
        let (status, _) = ask(&router, Method::PUT, at, &" ".repeat(MAX_BODY_BYTES + 1)).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        let (status, _) = ask(&router, Method::PUT, "/streams/a.b/show/latency", "{\"latency\": 6}").await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(json!(registry.latencies_set()), set, "none of these has changed anything");

        let (_, removed) = ask(&router, Method::DELETE, at, "").await;
        assert_eq!(removed["next"], json!({ "latency": 3.0, "from": "app" }));
    }
}
