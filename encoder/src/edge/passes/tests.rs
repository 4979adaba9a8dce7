//! Requests with and without passes, over sockets and from a player's view.

use super::*;
use crate::edge::EdgeAccess;
use crate::origin::{ObjectCache, StreamPath, ViewerLimits, router, serve};
use admission::signature::WebhookSecret;
use axum::body::Bytes;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Client;
use ring::hmac;
use serde_json::{Value, json};
use std::sync::Mutex;
use store::{Caching, Object, content_type};
use tokio::net::TcpListener;

const SECRET: &str = "the secret of passes";
const SIGNING: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// An edge in front of two streams, `live/demo` and `assets/demo`.
struct Server {
    url: String,
    viewers: Arc<Viewers>,
    client: Client,
}

impl Server {
    async fn start(access: &ViewerAccess) -> Self {
        let cache = ObjectCache::new();
        for app in ["live", "assets"] {
            let stream = StreamPath::new(app, "demo").unwrap();
            let put = |path: &str, body: &'static str, content_type, caching| {
                cache.put(
                    &stream,
                    path,
                    Object { body: Bytes::from_static(body.as_bytes()), content_type, caching },
                );
            };
            put("index.m3u8", "#EXTM3U\n720p/index.m3u8\n", content_type::PLAYLIST, Caching::None);
            put("720p/index.m3u8", "#EXTM3U\ns-1.m4s\n", content_type::PLAYLIST, Caching::None);
            put("720p/s-1.m4s", "0123456789", content_type::VIDEO_SEGMENT, Caching::Immutable);
            put("thumb.jpg", "jpeg", content_type::JPEG, Caching::None);
        }
        let viewers = Viewers::new(Vec::new());
        let router = viewers.observe(router(cache, Arc::new(EdgeAccess::default())));
        let router = match Passes::open(access, viewers.clone()).unwrap() {
            Some(passes) => passes.guard(router),
            None => router,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, router, ViewerLimits::default(), std::future::pending()));
        let client = crate::web::client(&url.parse().unwrap(), std::time::Duration::from_secs(5)).unwrap();
        Self { url, viewers, client }
    }

    async fn ask(&self, method: Method, path: &str) -> (u16, HeaderMap, String) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        let answer = request.header("user-agent", "a player").send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.text().await.unwrap())
    }

    async fn status(&self, path: &str) -> u16 {
        self.ask(Method::GET, path).await.0
    }
}

fn by_secret() -> ViewerAccess {
    ViewerAccess::Secret(PassSecret::parse(SECRET).unwrap())
}

fn pass(path: &str, seconds: i64) -> String {
    let claims = json!({ "exp": crate::identity::unix_now() + seconds, "path": path }).to_string();
    let message = [r#"{"alg":"HS256"}"#, &claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[tokio::test]
async fn relative_addresses_in_playlists_keep_the_pass() {
    let server = Server::start(&by_secret()).await;
    let url = format!("{}/pass/{}/live/demo/index.m3u8?x=y", server.url, pass("live/demo", 60));
    let mut url: reqwest::Url = url.parse().unwrap();
    for expected in ["private, max-age=1", "private, max-age=1", "private, max-age=31536000, immutable"] {
        let answer = server.client.get(url.clone()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{expected}");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], expected);
        assert_eq!(answer.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        let text = answer.text().await.unwrap();
        if let Some(next) = text.lines().find(|line| line.contains(".m")) {
            url = url.join(next).unwrap();
        }
    }
    assert!(url.path().ends_with("/live/demo/720p/s-1.m4s"));
    let watched = server.viewers.streams();
    assert_eq!(watched.len(), 1);
    assert_eq!((&*watched[0].stream, watched[0].viewers), ("live/demo", 1), "counted without the pass");
}

#[tokio::test]
async fn without_a_valid_pass_nothing_of_a_stream_is_answered() {
    let server = Server::start(&by_secret()).await;
    let good = pass("live/demo", 60);
    let (expired, other) = (pass("live/demo", -60), pass("live/other", 60));
    for file in ["index.m3u8", "720p/index.m3u8", "720p/s-1.m4s", "thumb.jpg", "archive/x/index.m3u8", "none"]
    {
        for prefix in [
            String::new(),
            "/pass".into(),
            "/pass/".into(),
            "/pass/x".into(),
            format!("/pass/{expired}"),
            format!("/pass/{other}"),
            format!("/pass/{good}x"),
            format!("/Pass/{good}"),
            format!("/{good}"),
            format!("//pass/{good}"),
        ] {
            let (status, headers, text) =
                server.ask(Method::GET, &format!("{prefix}/live/demo/{file}")).await;
            assert_eq!(status, 403, "{prefix} {file}: {text}");
            assert_eq!(headers[header::CACHE_CONTROL], "no-store");
            assert_eq!(headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*", "a player sees the status");
            assert!(text.len() < 100 && !text.contains('.'), "no part of the pass: {text}");
        }
    }
    for path in ["/streams.json", "/live/demo", "/assets/demo/index.m3u8", "/assets/demo/720p/s-1.m4s", "/x"]
    {
        assert_eq!(server.status(path).await, 403, "{path}");
        assert_eq!(server.status(&format!("/pass/{good}{path}")).await, 403, "{path}");
    }
    for escape in ["/../other/index.m3u8", "/%2e%2e/other/index.m3u8"] {
        let answered = server.status(&format!("/pass/{good}/live/demo{escape}")).await;
        assert!(matches!(answered, 403 | 404), "{escape}: {answered}");
    }
    assert_eq!(server.ask(Method::HEAD, "/live/demo/index.m3u8").await.0, 403);
    assert_eq!(server.ask(Method::POST, "/live/demo/index.m3u8").await.0, 403);
    assert!(server.viewers.streams().is_empty());
}

#[tokio::test]
async fn the_page_and_preflights_need_no_pass() {
    let server = Server::start(&by_secret()).await;
    assert_eq!(server.status("/").await, 200);
    assert_eq!(server.status("/assets/none.js").await, 404);
    for path in ["/live/demo/index.m3u8", "/pass/x/live/demo/index.m3u8", "/streams.json"] {
        let (status, headers, _) = server.ask(Method::OPTIONS, path).await;
        assert_eq!(status, 200, "{path}");
        assert!(headers.contains_key(header::ACCESS_CONTROL_ALLOW_METHODS));
    }
    let open = Server::start(&ViewerAccess::Everybody).await;
    for path in ["/live/demo/index.m3u8?token=x", "/streams.json"] {
        assert_eq!(open.status(path).await, 200, "{path}");
    }
    assert_eq!(open.status("/pass/x/live/demo/index.m3u8").await, 404, "an application of that name");
}

/// What a back end was asked.
type Asked = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A back end that accepts the pass `good`, and is down for the pass `down`.
async fn back_end(asked: Asked) -> reqwest::Url {
    let answer = move |headers: HeaderMap, body: Bytes| async move {
        let question: Value = serde_json::from_slice(&body).unwrap();
        asked.lock().unwrap().push((headers, body));
        match question["token"].as_str() {
            Some("good") => (StatusCode::OK, r#"{"max_age":5}"#),
            Some("down") => (StatusCode::BAD_GATEWAY, ""),
            Some(_) | None => (StatusCode::NOT_FOUND, "<html>"),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/view", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    url
}

#[tokio::test]
async fn a_back_end_is_asked_once_for_each_pass_and_stream() {
    let asked = Asked::default();
    let url = back_end(asked.clone()).await;
    let secret = Some(WebhookSecret::parse(SIGNING).unwrap());
    let server = Server::start(&ViewerAccess::Hook(PassHookConfig { url, secret }.into())).await;
    for path in ["index.m3u8", "720p/index.m3u8", "720p/s-1.m4s"] {
        assert_eq!(server.status(&format!("/pass/good/live/demo/{path}")).await, 200, "{path}");
        assert_eq!(server.status(&format!("/pass/bad/live/demo/{path}")).await, 403, "{path}");
    }
    let (status, headers, _) = server.ask(Method::GET, "/pass/down/live/demo/index.m3u8").await;
    assert_eq!((status, &headers[header::RETRY_AFTER]), (503, &TRY_AGAIN));
    assert_eq!(server.status("/live/demo/index.m3u8").await, 403);
    let asked = asked.lock().unwrap();
    assert_eq!(asked.len(), 3, "good, bad and down");
    let (headers, body) = &asked[0];
    let question: Value = serde_json::from_slice(body).unwrap();
    let (id, timestamp) =
        (headers["webhook-id"].to_str().unwrap(), headers["webhook-timestamp"].to_str().unwrap());
    let signed = WebhookSecret::parse(SIGNING).unwrap().sign(id, timestamp.parse().unwrap(), body);
    assert_eq!(headers["webhook-signature"], signed);
    let expected = json!({
        "action": "read", "app": "live", "name": "demo", "token": "good", "address": "127.0.0.1",
        "user_agent": "a player", "server": crate::archive::host(), "id": id,
    });
    assert_eq!(question, expected);
}
