use super::*;
use crate::retry::Backoff;
use admission::signature::WebhookSecret;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How long a test waits for what has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What a receiver does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    Answer(u16),
    Hang,
    Close,
}

/// A request as the receiver got it.
#[derive(Clone, Debug)]
struct Got {
    headers: BTreeMap<String, String>,
    body: Value,
    raw: Bytes,
    reaction: Reaction,
}

impl Got {
    fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

type React = Arc<dyn Fn(&Value) -> Reaction + Send + Sync>;

/// A receiver on a port of its own. Dropping it closes its listener and all connections.
struct Service {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    react: React,
    tasks: JoinSet<()>,
}

impl Service {
    async fn start(react: impl Fn(&Value) -> Reaction + Send + Sync + 'static) -> Self {
        let mut service = Self {
            address: ([127, 0, 0, 1], 0).into(),
            got: Arc::default(),
            react: Arc::new(react),
            tasks: JoinSet::new(),
        };
        service.listen().await;
        service
    }

    async fn listen(&mut self) {
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        self.address = listener.local_addr().unwrap();
        self.tasks.spawn(accept(listener, self.got.clone(), self.react.clone()));
    }

    /// Closes the listener and all connections.
    async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    fn events(&self, secret: Option<&str>, attempt: Duration) -> Events {
        let config = EventsConfig {
            url: format!("http://{}/events?token=s3cr3t", self.address),
            secret: secret.map(|secret| WebhookSecret::parse(secret).unwrap()),
        };
        let backoff = Backoff { first: Duration::from_millis(2), most: Duration::from_millis(50) };
        Events::start_with(&config, QueueLimits { backoff, ..QueueLimits::default() }, attempt).unwrap()
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// IDs that were answered well, in their order, without repetitions; by subject.
    fn received(&self) -> BTreeMap<String, Vec<String>> {
        let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for got in self.got().iter().filter(|got| got.reaction == Reaction::Answer(204)) {
            let ids = received.entry(got.text("subject").to_owned()).or_default();
            if !ids.contains(&got.text("id").to_owned()) {
                ids.push(got.text("id").to_owned());
            }
        }
        received
    }
}

async fn accept(listener: TcpListener, got: Arc<Mutex<Vec<Got>>>, react: React) {
    // In a set, so that connections end with the listener.
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (got, react) = (got.clone(), react.clone());
        let service = service_fn(move |request| answer(request, got.clone(), react.clone()));
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    got: Arc<Mutex<Vec<Got>>>,
    react: React,
) -> io::Result<Response<String>> {
    let (parts, body) = request.into_parts();
    let raw = axum::body::to_bytes(axum::body::Body::new(body), 1 << 20).await.map_err(io::Error::other)?;
    let body: Value = serde_json::from_slice(&raw).unwrap();
    let reaction = react(&body);
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.to_string(), value.to_str().unwrap().to_owned())
    };
    let headers = parts.headers.iter().map(header).collect();
    got.lock().unwrap().push(Got { headers, body, raw, reaction });
    match reaction {
        Reaction::Answer(status) => {
            let mut response = Response::new("answer".to_owned());
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("location", "/elsewhere".parse().unwrap());
            Ok(response)
        }
        Reaction::Hang => std::future::pending().await,
        Reaction::Close => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

fn stream(events: &Events, name: &str) -> StreamEvents {
    events.stream(StreamPath::new("live", name).unwrap(), Map::new())
}

/// The last parts of the types, and what is told under a name.
fn story(events: &[Value], name: &str) -> Vec<(String, Value)> {
    let kind = |event: &Value| event["type"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    events.iter().map(|event| (kind(event), event["data"][name].clone())).collect()
}

async fn delivered(events: &Events) {
    events.finish(PATIENCE).await;
    assert_eq!(events.leave(), 0);
}

#[tokio::test]
async fn an_event_is_signed_and_its_id_stays_over_retries() {
    let tries = AtomicU64::new(0);
    let service = Service::start(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
        0 => Reaction::Answer(500),
        _ => Reaction::Answer(204),
    })
    .await;
    let events = service.events(Some(SECRET), PATIENCE);
    stream(&events, "demo").began(false, 4.0);
    delivered(&events).await;
    let got = service.got();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].raw, got[1].raw);
    for Got { headers, body, raw, .. } in &got {
        assert_eq!(headers["content-type"], "application/cloudevents+json");
        assert_eq!(headers["webhook-id"], body["id"].as_str().unwrap());
        let timestamp: i64 = headers["webhook-timestamp"].parse().unwrap();
        assert!((now().wall.unix_micros() / 1_000_000 - timestamp).abs() < 60);
        let signed = WebhookSecret::parse(SECRET).unwrap().sign(&headers["webhook-id"], timestamp, raw);
        assert_eq!(headers["webhook-signature"], signed);
        assert_eq!(
            (&body["type"], &body["subject"]),
            (&"live.encoder.stream.started".into(), &"live/demo".into())
        );
    }
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed() {
    let service = Service::start(|_| Reaction::Answer(204)).await;
    let events = service.events(None, PATIENCE);
    stream(&events, "demo").began(false, 4.0);
    delivered(&events).await;
    assert_eq!(service.got()[0].headers.get("webhook-signature"), None);
}

/// The receiver answers 500, closes connections and hangs at random, and is restarted in between.
#[tokio::test]
async fn whatever_the_receiver_does_nothing_is_missing_and_order_is_kept() {
    let random = Mutex::new(fastrand::Rng::with_seed(3));
    let mut service = Service::start(move |_| match random.lock().unwrap().u32(0..20) {
        0..6 => Reaction::Answer(500),
        6 => Reaction::Answer(429),
        7..10 => Reaction::Close,
        10 => Reaction::Hang,
        _ => Reaction::Answer(204),
    })
    .await;
    let events = service.events(None, Duration::from_millis(300));
    let streams: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| stream(&events, name)).into();
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for round in 0..30 {
        if round == 10 {
            service.stop().await;
        }
        if round == 20 {
            service.listen().await;
        }
        for (stream, name) in streams.iter().zip(["a", "b", "c", "d", "e"]) {
            let number = events.0.as_ref().unwrap().next.load(Ordering::Relaxed);
            expected
                .entry(format!("live/{name}"))
                .or_default()
                .push(format!("{}-{number}", events.0.as_ref().unwrap().process));
            stream.began(false, 4.0);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    delivered(&events).await;
    assert_eq!(service.received(), expected);
    let all: HashSet<_> = expected.values().flatten().collect();
    assert_eq!(all.len(), 150, "IDs are unique");
}

#[tokio::test]
async fn what_the_receiver_refuses_is_given_up_and_redirects_are_not_followed() {
    let service = Service::start(|event| match event["data"]["latency_seconds"].as_f64().unwrap() {
        2.0 => Reaction::Answer(400),
        3.0 => Reaction::Answer(302),
        _ => Reaction::Answer(204),
    })
    .await;
    let events = service.events(None, PATIENCE);
    let demo = stream(&events, "demo");
    for latency in [1.0, 2.0, 3.0, 4.0] {
        demo.began(false, latency);
    }
    delivered(&events).await;
    assert_eq!(service.got().len(), 4, "one attempt each");
    assert_eq!(service.received()["live/demo"].len(), 2);
}

#[tokio::test]
async fn a_stream_whose_event_hangs_holds_up_no_other() {
    let service = Service::start(|event| match event["subject"].as_str() {
        Some("live/stuck") => Reaction::Hang,
        _ => Reaction::Answer(204),
    })
    .await;
    let events = service.events(None, PATIENCE);
    stream(&events, "stuck").began(false, 4.0);
    let others: Vec<_> = (0..20).map(|n| stream(&events, &n.to_string())).collect();
    for other in others.iter().cycle().take(60) {
        other.began(false, 4.0);
    }
    let mut waiting = events.0.as_ref().unwrap().waiting.subscribe();
    tokio::time::timeout(PATIENCE, waiting.wait_for(|waiting| *waiting == 1)).await.unwrap().unwrap();
    assert!(service.received().values().all(|ids| ids.len() == 3));
    events.finish(Duration::ZERO).await;
    assert_eq!(events.leave(), 1);
}

#[tokio::test]
async fn failures_say_what_failed_and_never_the_url() {
    let service = Service::start(|_| Reaction::Close).await;
    let config = EventsConfig { url: format!("http://{}/?token=s3cr3t", service.address), secret: None };
    let receiver = Receiver::new(&config, PATIENCE).unwrap();
    let events = Events::kept();
    stream(&events, "demo").began(false, 4.0);
    let attempt = events.0.as_ref().unwrap().queue().next(Instant::now()).unwrap();
    let answer = receiver.post(&attempt).await;
    let said = answer.to_string();
    assert!(!said.is_empty() && !said.contains("s3cr3t") && !said.contains("http://"), "{said}");
    assert_eq!(answer.outcome(), Outcome::Failed);
}

#[tokio::test]
async fn a_stream_s_story_is_told_in_order() {
    let events = Events::kept();
    let metadata = serde_json::json!({"show": 7}).as_object().unwrap().clone();
    let demo = events.stream(StreamPath::new("live", "demo").unwrap(), metadata);
    demo.began(false, 4.0);
    demo.publisher_came();
    demo.has_session(&hls::SessionId::new("kx-0").unwrap());
    demo.received(1_000);
    demo.publisher_ends(rtmp::EndReason::TimedOut);
    demo.publisher_gone(true);
    demo.publisher_came();
    demo.received(500);
    demo.publisher_ends(rtmp::EndReason::Unpublished);
    demo.publisher_gone(false);
    demo.ended(&Ok(crate::stream::driver::StreamEnding::Ended), None);
    let told = events.take();
    let null = Value::Null;
    let expected = [
        ("started", null.clone()),
        ("interrupted", "timed_out".into()),
        ("resumed", null),
        ("ended", "unpublished".into()),
    ];
    assert_eq!(story(&told, "reason"), expected.map(|(kind, reason)| (kind.to_owned(), reason)));
    let data = &told[3]["data"];
    assert_eq!((&data["received_bytes"], &data["session"]), (&1_500.into(), &"kx-0".into()));
    assert!(told.iter().all(|event| event["data"]["metadata"]["show"] == 7));
    assert!(told[0]["source"].as_str().unwrap().ends_with(&format!("/{}", std::process::id())));
}

#[tokio::test]
async fn both_encoders_tell_of_a_takeover() {
    let events = Events::kept();
    stream(&events, "demo").began(true, 4.0);
    stream(&events, "demo").ended(&Ok(crate::stream::driver::StreamEnding::TakenOver), None);
    let told = events.take();
    let roles = [("taken_over", "successor"), ("taken_over", "predecessor")];
    let roles = roles.map(|(kind, role)| (kind.to_owned(), Value::from(role)));
    assert_eq!(story(&told, "role")[..2], roles);
    assert_eq!(told[2]["data"]["reason"], "taken_over");
}
