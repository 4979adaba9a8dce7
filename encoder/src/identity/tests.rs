//! The sources of identity against a back end on a socket. The rules of keys, tokens, questions and answers are tested
//! in the crate `admission`.

use super::*;
use crate::config::{HookConfig, HookFormat, JwksLocation};
use admission::signature::WebhookSecret;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use reqwest::Url;
use rtmp::{RequestDetails, StreamKey};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;

const FOREVER: Duration = Duration::from_secs(3600);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What the back end answers.
#[derive(Clone, Debug, Default)]
struct Script {
    status: u16,
    content_type: &'static str,
    location: Option<&'static str>,
    body: Vec<u8>,
    /// Whether the answer never comes.
    silent: bool,
    /// Whether the connection ends with the answer.
    close: bool,
    /// How long the answer takes.
    delay: Duration,
}

/// An HTTP server that answers everything as its script says, and keeps what it was asked.
struct BackEnd {
    url: Url,
    state: Arc<BackEndState>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct BackEndState {
    script: Mutex<Script>,
    asked: Mutex<Vec<(HeaderMap, Vec<u8>)>>,
}

impl BackEnd {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ask", listener.local_addr().unwrap()).parse().unwrap();
        let state = Arc::new(BackEndState { script: Mutex::new(script), ..BackEndState::default() });
        let router = axum::Router::new().fallback(answer).with_state(state.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state, server }
    }

    fn says(&self, script: Script) {
        *self.state.script.lock().unwrap() = script;
    }

    fn times_asked(&self) -> usize {
        self.state.asked.lock().unwrap().len()
    }

    /// The last question.
    fn asked(&self) -> (HeaderMap, Vec<u8>) {
        self.state.asked.lock().unwrap().last().unwrap().clone()
    }

    /// An identity that asks this back end, which has 300 ms for an answer.
    fn identity(&self, format: HookFormat, cache: Duration) -> Identity {
        let secret = Some(WebhookSecret::parse(SECRET).unwrap());
        let config = HookConfig { url: self.url.clone(), format, secret, cache };
        let hook = Hook::open(&config, Some(Duration::from_millis(300))).unwrap();
        Identity { keys: None, tokens: None, hook: Some(hook) }
    }
}

async fn answer(State(state): State<Arc<BackEndState>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    state.asked.lock().unwrap().push((head.headers, body));
    let script = state.script.lock().unwrap().clone();
    if script.silent {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(script.delay).await;
    let mut response = Response::builder().status(script.status).header("content-type", script.content_type);
    if let Some(location) = script.location {
        response = response.header("location", location);
    }
    if script.close {
        response = response.header("connection", "close");
    }
    response.body(script.body.into()).unwrap()
}

fn says(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Script {
    Script { status, content_type, body: body.into(), ..Script::default() }
}

fn request(key: &str, query: &str) -> PublishRequest {
    PublishRequest {
        app: "live".into(),
        path: StreamKey::new(String::new()),
        key: StreamKey::new(key.into()),
        query: query.into(),
        peer: "192.0.2.7:5000".parse().unwrap(),
        client: "test".into(),
        details: RequestDetails::default(),
    }
}

/// The name of the grant, or the refusal.
async fn name(identity: &Identity, key: &str) -> Result<String, Refusal> {
    let granted = identity.decide(&request(key, "")).await?;
    assert!(granted.proven);
    Ok(granted.name)
}

fn stranger() -> Refusal {
    Refusal::Forbidden(STRANGER.into())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn keys_file(folder: &Path) -> Arc<FollowedFile<KeyTable>> {
    let path = folder.join("keys.toml");
    let text = r#"
        [[key]]
        key = "camera-s3cret"
        name = "camera"
        latency = 5

        [[key]]
        key = "a b/c.dee"
        name = "odd"
    "#;
    std::fs::write(&path, text).unwrap();
    FollowedFile::open(path).unwrap()
}

/// Signs tokens.
struct Signer {
    id: &'static str,
    key: KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self { id, key: KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    fn set(&self) -> Vec<u8> {
        let point = URL_SAFE_NO_PAD.encode(self.key.der_bytes());
        let key = json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": point });
        json!({ "keys": [key] }).to_string().into_bytes()
    }

    fn token(&self, claims: Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.id });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = self.key.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn good(&self) -> String {
        self.token(json!({ "name": "camera", "exp": unix_now() + 3600 }))
    }
}

/// An identity that verifies tokens with the set at a URL, which is attended to.
fn with_set(url: &Url, pace: Pace) -> Arc<Identity> {
    let tokens = TokenKeys::open(&JwksLocation::Url(url.clone()), pace).unwrap();
    let identity = Arc::new(Identity { keys: None, tokens: Some(tokens), hook: None });
    tokio::spawn(identity.clone().attend());
    identity
}

fn pace(renew_every: Duration) -> Pace {
    let quick = Duration::from_millis(10);
    Pace { renew_every, at_most_every: quick, first_every: quick }
}

#[tokio::test]
async fn without_a_source_the_key_is_the_name_and_proves_nothing() {
    let identity = Identity::open(&PublisherConfig::default()).unwrap();
    let grant = identity.decide(&request("camera", "")).await.unwrap();
    assert_eq!((&*grant.app, &*grant.name, grant.proven), ("live", "camera", false));
    for (key, expected) in
        [("cam%65ra", "camera"), ("rtmp%3A%2F%2Fh%2Flive%2Fcamera", "camera"), ("rtmp://h:1/x/b", "b")]
    {
        assert_eq!(identity.decide(&request(key, "")).await.unwrap().name, expected, "{key}");
    }
    for key in ["a/b", "a%2Fb", "rtmp://h/live/", "rtmp://h/live", "://", "rtmp://h/live/a/b"] {
        assert!(matches!(identity.decide(&request(key, "")).await, Err(Refusal::BadName(_))), "{key}");
    }
    let inside = PublishRequest { path: StreamKey::new("a".into()), ..request("b", "") };
    assert_eq!(identity.decide(&inside).await, Err(Refusal::too_many_parts()));
}

#[tokio::test]
async fn keys_are_found_as_sent_decoded_and_split_between_url_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity { keys: Some(keys_file(folder.path())), tokens: None, hook: None };
    let grant = identity.decide(&request("camera-s3cret", "")).await.unwrap();
    assert_eq!((&*grant.name, grant.proven, grant.terms.latency), ("camera", true, Some(5.0)));
    for key in ["a b/c.dee", "a%20b/c.dee", "a%20b%2Fc%2edee", "rtmps://h/live/a%20b/c.dee?x=1"] {
        assert_eq!(name(&identity, key).await.as_deref(), Ok("odd"), "{key}");
    }
    for key in ["camera", "a%2520b/c.dee", "%ff", "x.y.z"] {
        assert_eq!(name(&identity, key).await, Err(stranger()), "{key}");
    }
    for (path, key, expected) in [
        ("a%20b", "c.dee", Ok("odd".to_owned())),
        ("a b/c.dee", "", Ok("odd".to_owned())),
        ("a", "b", Err(Refusal::too_many_parts())),
    ] {
        let inside = PublishRequest { path: StreamKey::new(path.into()), ..request(key, "") };
        assert_eq!(identity.decide(&inside).await.map(|grant| grant.name), expected, "{path} {key}");
    }
    let elsewhere = PublishRequest { app: "concert".into(), ..request("camera-s3cret", "") };
    assert_eq!(identity.decide(&elsewhere).await, Err(stranger()));
}

#[tokio::test(start_paused = true)]
async fn files_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, set) = (keys_file(folder.path()), folder.path().join("jwks.json"));
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    std::fs::write(&set, old.set()).unwrap();
    let config = PublisherConfig {
        keys: Some(keys),
        jwks: Some(JwksLocation::File(FollowedFile::open(set.clone()).unwrap())),
        ..PublisherConfig::default()
    };
    let identity = Identity::open(&config).unwrap();
    tokio::spawn(identity.clone().attend());
    assert_eq!(name(&identity, &old.good()).await.as_deref(), Ok("camera"));
    assert_eq!(name(&identity, &new.good()).await, Err(stranger()));

    std::fs::write(&set, new.set()).unwrap();
    eventually("the new set", async || name(&identity, &new.good()).await.is_ok()).await;
    assert_eq!(name(&identity, &old.good()).await, Err(stranger()));
    let text = "[[key]]\nkey = \"another-s3cret\"\nname = \"another\"";
    std::fs::write(folder.path().join("keys.toml"), text).unwrap();
    eventually("the new keys", async || name(&identity, "another-s3cret").await.is_ok()).await;
    assert_eq!(name(&identity, "camera-s3cret").await, Err(stranger()));
}

#[tokio::test]
async fn a_token_of_an_unknown_key_counts_once_the_set_was_renewed() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let back_end = BackEnd::start(says(200, "application/json", old.set())).await;
    let identity = with_set(&back_end.url, pace(FOREVER));
    eventually("the first set", async || name(&identity, &old.good()).await.is_ok()).await;
    let fetched = back_end.times_asked();
    let expired = old.token(json!({ "name": "camera", "exp": unix_now() - 60 }));
    assert_eq!(
        name(&identity, &expired).await,
        Err(Refusal::Forbidden("this stream key has expired".into()))
    );
    for token in [
        old.token(json!({ "name": "a/b", "exp": unix_now() + 60 })),
        old.token(json!({ "name": "camera", "exp": unix_now() + 60, "latency": 99 })),
        old.token(json!({ "name": "camera", "app": "concert", "exp": unix_now() + 60 })),
        Signer::new("old").good(),
        "no.token.here".to_owned(),
    ] {
        assert_eq!(name(&identity, &token).await, Err(stranger()));
    }
    assert_eq!(back_end.times_asked(), fetched, "none of these names an unknown key");

    back_end.says(says(200, "", new.set()));
    assert_eq!(
        name(&identity, &new.good()).await,
        Err(stranger()),
        "no request lies on the path of a publish"
    );
    eventually("the new set", async || name(&identity, &new.good()).await.is_ok()).await;
    assert_eq!(name(&identity, &old.good()).await, Err(stranger()), "the old key is no longer in the set");
}

#[tokio::test]
async fn a_set_is_in_force_while_its_source_is_down() {
    let signer = Signer::new("key");
    let back_end = BackEnd::start(says(503, "", "")).await;
    let identity = with_set(&back_end.url, pace(Duration::from_millis(10)));
    assert_eq!(name(&identity, &signer.good()).await, Err(Refusal::AdmissionDown), "no set has arrived");
    assert_eq!(name(&identity, "key").await, Err(stranger()), "no token: no set would help");
    back_end.says(says(200, "", signer.set()));
    eventually("the first set", async || name(&identity, &signer.good()).await.is_ok()).await;

    for broken in [
        says(500, "", signer.set()),
        says(200, "", "{"),
        says(200, "", vec![b' '; 2 << 20]),
        Script { location: Some("/elsewhere"), ..says(302, "", "") },
    ] {
        back_end.says(broken);
        let before = back_end.times_asked();
        eventually("another two requests", async || back_end.times_asked() >= before + 3).await;
        assert_eq!(name(&identity, &signer.good()).await.as_deref(), Ok("camera"));
    }
    back_end.server.abort();
    assert!(back_end.server.await.unwrap_err().is_cancelled());
    assert_eq!(name(&identity, &signer.good()).await.as_deref(), Ok("camera"));
}

#[tokio::test]
async fn the_hook_is_asked_once_and_signed_for() {
    let back_end = BackEnd::start(says(200, "application/json", r#"{"name":"public","latency":4}"#)).await;
    let identity = back_end.identity(HookFormat::Json, Duration::ZERO);
    let mut request = request("se/cret", "user=u");
    request.details.app_query = "token=t".into();
    let grant = identity.decide(&request).await.unwrap();
    assert_eq!((&*grant.name, grant.proven, grant.terms.latency), ("public", true, Some(4.0)));
    assert_eq!(back_end.times_asked(), 1);
    let (headers, body) = back_end.asked();
    let asked: Value = serde_json::from_slice(&body).unwrap();
    for (field, value) in
        [("path", "live/se/cret"), ("query", "user=u&token=t"), ("user", "u"), ("token", "t")]
    {
        assert_eq!(asked[field], value);
    }
    assert_eq!((&asked["ip"], &asked["action"]), (&json!("192.0.2.7"), &json!("publish")));
    assert!(!asked["server"].as_str().unwrap().is_empty());
    let header = |name: &str| headers[name].to_str().unwrap();
    let signed = WebhookSecret::parse(SECRET).unwrap().sign(
        header("webhook-id"),
        header("webhook-timestamp").parse().unwrap(),
        &body,
    );
    assert_eq!((header("webhook-signature"), header("content-type")), (&*signed, "application/json"));
    assert_eq!(asked["id"], header("webhook-id"));

    let form = back_end.identity(HookFormat::Form, Duration::ZERO);
    assert_eq!(form.decide(&request).await.unwrap().name, "public");
    let (headers, body) = back_end.asked();
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("call=publish&name=se%2Fcret") && body.ends_with("&user=u&token=t"), "{body}");
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
}

#[tokio::test]
async fn the_back_end_s_answer_decides() {
    let back_end = BackEnd::start(Script::default()).await;
    let identity = back_end.identity(HookFormat::Json, FOREVER);
    let json = "application/json";
    let forbidden = |text: &str| Err(Refusal::Forbidden(text.into()));
    let down = || Err(Refusal::AdmissionDown);
    let elsewhere = Script { location: Some("http://example.org/"), ..says(301, "", "") };
    for (script, expected) in [
        (says(204, "", ""), Ok("camera")),
        (says(200, json, r#"{"name":"public"}"#), Ok("public")),
        (Script { location: Some("renamed"), ..says(302, "", "") }, Ok("renamed")),
        (says(403, "", ""), forbidden(STRANGER)),
        (says(403, "text/plain", "camera is not paid for"), forbidden("… is not paid for")),
        (says(404, json, r#"{"message":"no such key"}"#), forbidden("no such key")),
        (says(401, "text/plain", vec![b'x'; 2 << 20]), forbidden(STRANGER)),
        (elsewhere, down()),
        (says(200, json, "{"), down()),
        (says(200, json, r#"{"latency":99}"#), down()),
        (says(200, json, vec![b' '; 2 << 20]), down()),
        (says(500, "text/plain", "oops"), down()),
    ] {
        // A "no" makes forget what an earlier "yes" would be worth.
        back_end.says(says(403, "", ""));
        assert_eq!(name(&identity, "camera").await, Err(stranger()));
        back_end.says(script.clone());
        assert_eq!(name(&identity, "camera").await, expected.map(str::to_owned), "{}", script.status);
    }
}

#[tokio::test]
async fn the_last_yes_counts_while_the_back_end_is_down() {
    let back_end = BackEnd::start(says(200, "application/json", r#"{"name":"public"}"#)).await;
    let identity = back_end.identity(HookFormat::Json, FOREVER);
    let expired = back_end.identity(HookFormat::Json, Duration::ZERO);
    assert_eq!(name(&identity, "key").await.as_deref(), Ok("public"));
    assert_eq!(name(&expired, "key").await.as_deref(), Ok("public"));
    back_end.says(Script { silent: true, ..Script::default() });
    assert_eq!(name(&identity, "key").await.as_deref(), Ok("public"), "too slow: the last answer counts");
    assert_eq!(name(&identity, "other").await, Err(Refusal::AdmissionDown));
    assert_eq!(name(&expired, "key").await, Err(Refusal::AdmissionDown), "the last answer is too old");
    let other_query = identity.decide(&request("key", "a=b")).await;
    assert_eq!(other_query, Err(Refusal::AdmissionDown), "with other arguments it is another question");
    back_end.says(says(502, "", ""));
    assert_eq!(name(&identity, "key").await.as_deref(), Ok("public"));
    back_end.says(says(403, "", ""));
    assert_eq!(name(&identity, "key").await, Err(stranger()));
    back_end.says(says(502, "", ""));
    assert_eq!(name(&identity, "key").await, Err(Refusal::AdmissionDown), "refused meanwhile");
    back_end.says(Script { close: true, ..says(200, "", "") });
    assert_eq!(name(&identity, "key").await.as_deref(), Ok("key"));
    back_end.server.abort();
    assert!(back_end.server.await.unwrap_err().is_cancelled());
    assert_eq!(name(&identity, "key").await.as_deref(), Ok("key"), "no connection");
    assert_eq!(name(&identity, "other").await, Err(Refusal::AdmissionDown));
}

#[tokio::test]
async fn the_first_source_that_knows_the_key_decides() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("key");
    let set = folder.path().join("jwks.json");
    std::fs::write(&set, signer.set()).unwrap();
    let back_end = BackEnd::start(says(200, "application/json", r#"{"name":"asked"}"#)).await;
    let Identity { hook, .. } = back_end.identity(HookFormat::Json, Duration::ZERO);
    let location = JwksLocation::File(FollowedFile::open(set).unwrap());
    let tokens = Some(TokenKeys::open(&location, Pace::default()).unwrap());
    let mut identity = Identity { keys: Some(keys_file(folder.path())), tokens, hook };
    assert_eq!(name(&identity, "camera-s3cret").await.as_deref(), Ok("camera"));
    assert_eq!(name(&identity, &signer.good()).await.as_deref(), Ok("camera"));
    assert_eq!(back_end.times_asked(), 0);
    let expired = signer.token(json!({ "name": "camera", "exp": unix_now() - 60 }));
    for key in ["unknown-key", &expired, &Signer::new("other").good()] {
        assert_eq!(name(&identity, key).await.as_deref(), Ok("asked"));
    }
    back_end.says(says(403, "text/plain", "no"));
    assert_eq!(name(&identity, &expired).await, Err(Refusal::Forbidden("no".into())));
    back_end.says(says(403, "", ""));
    assert_eq!(
        name(&identity, &expired).await,
        Err(Refusal::Forbidden("this stream key has expired".into()))
    );

    // Without the first key set, a token that the back end does not know may still be a good one.
    let nowhere = JwksLocation::Url("http://127.0.0.1:1/".parse().unwrap());
    identity.tokens = Some(TokenKeys::open(&nowhere, Pace::default()).unwrap());
    assert_eq!(name(&identity, &signer.good()).await, Err(Refusal::AdmissionDown));
    assert_eq!(name(&identity, "unknown-key").await, Err(stranger()));
    back_end.says(says(200, "application/json", r#"{"name":"asked"}"#));
    assert_eq!(name(&identity, &signer.good()).await.as_deref(), Ok("asked"));

    let shown = format!("{identity:?} {:?}", request("camera-s3cret", "token=s3cret"));
    assert!(!shown.contains("s3cret") && !shown.contains("whsec"), "{shown}");
}

/// What a question costs: prints the time of a decision with a back end that takes 30 ms.
#[tokio::test]
async fn a_question_costs_what_the_back_end_takes() {
    let delay = Duration::from_millis(30);
    let back_end = BackEnd::start(Script { delay, ..says(200, "", "") }).await;
    let identity = back_end.identity(HookFormat::Json, Duration::ZERO);
    let mut took = Vec::new();
    for _ in 0..20 {
        let began = tokio::time::Instant::now();
        assert!(name(&identity, "camera").await.is_ok());
        took.push(began.elapsed());
    }
    let first = took.remove(0);
    took.sort();
    println!("first {first:?}, warm median {:?}, worst {:?}", took[took.len() / 2], took[took.len() - 1]);
    assert!(took[0] >= delay, "the answer is waited for");
    assert_eq!(back_end.times_asked(), 20);
}
