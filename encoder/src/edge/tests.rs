//! An edge over a store in memory and encoders on loopback: the encoder's own server and router over an object cache
//! that the test fills. Viewers ask the edge's router without sockets.

use super::*;
use crate::origin::{self, Reloadable, ViewerLimits};
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::{self, Next};
use bytes::Bytes;
use hls::presentation::Edge as PlaylistEdge;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use std::sync::atomic::{AtomicUsize, Ordering};
use store::memory::{InjectedFault, MemoryStore, Operation};
use store::{Caching, Object, ObjectName, content_type};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const RUNG: &str = "720p/index.m3u8";
const PATIENCE: Duration = Duration::from_secs(8);

/// An encoder on loopback, as its HTTP port shows it.
struct Encoder {
    cache: Arc<ObjectCache>,
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Encoder {
    async fn start() -> Self {
        Self::with_limits(ViewerLimits::default()).await
    }

    async fn with_limits(limits: ViewerLimits) -> Self {
        let cache = ObjectCache::new();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&requests);
        let router = origin::router(Arc::clone(&cache), Arc::default());
        let router = router.layer(middleware::from_fn(move |request: Request, next: Next| {
            lock(&noted).push(request.uri().path_and_query().unwrap().to_string());
            next.run(request)
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(origin::serve(listener, router, limits, std::future::pending()));
        Self { cache, address, requests, serving }
    }

    /// Adds a segment and the playlist version that lists it last.
    fn segment(&self, number: u64) {
        self.segment_of(&stream(), number);
    }

    fn segment_of(&self, stream: &StreamPath, number: u64) {
        self.media_of(stream, &format!("s-{number}.m4s"));
        self.version_of(stream, number, 0, None, false);
    }

    fn media(&self, file: &str) {
        self.media_of(&stream(), file);
    }

    fn media_of(&self, stream: &StreamPath, file: &str) {
        let object = object(file.to_owned(), content_type::VIDEO_SEGMENT, Caching::Immutable);
        self.cache.put(stream, &format!("720p/{file}"), object);
    }

    /// Adds a playlist version; with a hint its segments have parts.
    fn version(&self, last_sequence: u64, open_parts: u32, hint: Option<&str>, ended: bool) {
        self.version_of(&stream(), last_sequence, open_parts, hint, ended);
    }

    fn version_of(
        &self,
        stream: &StreamPath,
        last_sequence: u64,
        open_parts: u32,
        hint: Option<&str>,
        ended: bool,
    ) {
        let reload = Reloadable {
            edge: PlaylistEdge {
                last_sequence,
                last_parts: 3 * u32::from(hint.is_some()),
                open_parts,
                ended,
            },
            target_duration: Duration::from_secs(1),
            part_target: hint.map(|_| Duration::from_millis(375)),
            hint: hint.map(Into::into),
        };
        let end = if ended { "#EXT-X-ENDLIST\n" } else { "" };
        let body = format!("#EXTM3U\ns-{last_sequence}.m4s\n#{open_parts} {}\n{end}", self.address);
        let object = object(body, content_type::PLAYLIST, Caching::None);
        self.cache.put_playlist(stream, RUNG, object, reload);
    }

    fn multivariant(&self) {
        let object = object("#EXTM3U\n720p/index.m3u8\n".into(), content_type::PLAYLIST, Caching::None);
        self.cache.put(&stream(), "index.m3u8", object);
    }

    /// Requests whose path and query contain `text`.
    fn asked(&self, text: &str) -> usize {
        lock(&self.requests).iter().filter(|request| request.contains(text)).count()
    }

    /// The encoder's process is gone: its connections are closed and its port refuses.
    async fn die(self) {
        self.serving.abort();
        assert!(self.serving.await.unwrap_err().is_cancelled());
    }
}

fn object(body: String, content_type: &'static str, caching: Caching) -> Object {
    Object { body: body.into(), content_type, caching }
}

fn stream() -> StreamPath {
    StreamPath::new("live", "demo").unwrap()
}

fn secret() -> EdgeSecret {
    EdgeSecret::parse("the secret of these tests").unwrap()
}

#[derive(Clone)]
struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn caching(&self) -> &str {
        self.headers[header::CACHE_CONTROL].to_str().unwrap()
    }
}

/// An edge, its store, and what stands in the record of the stream.
struct Fleet {
    edge: Arc<Edge>,
    store: MemoryStore,
    claims: AtomicUsize,
    attending: JoinHandle<()>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.attending.abort();
    }
}

impl Fleet {
    fn new() -> Self {
        Self::with_cache(64 << 20)
    }

    fn with_cache(cache_bytes: u64) -> Self {
        let store = MemoryStore::new();
        let options = EdgeOptions {
            store: Some(Arc::new(store.clone())),
            secret: Some(secret()),
            encoders: Vec::new(),
            cache_bytes,
            viewers: Viewers::new(Vec::new()),
        };
        let edge = Edge::new(options).unwrap();
        let attending = tokio::spawn(Arc::clone(&edge).attend());
        Self { edge, store, claims: AtomicUsize::new(0), attending }
    }

    /// An encoder claims the stream.
    async fn claimed_by(&self, encoder: SocketAddr) {
        self.record(Some(encoder), false).await;
    }

    /// Writes the stream's record.
    async fn record(&self, encoder: Option<SocketAddr>, released: bool) {
        self.record_of(&stream(), encoder, released).await;
    }

    async fn record_of(&self, stream: &StreamPath, encoder: Option<SocketAddr>, released: bool) {
        let claim = self.claims.fetch_add(1, Ordering::SeqCst);
        let at = encoder.map(|encoder| secret().seal(&stream.to_string(), encoder).unwrap());
        let record = serde_json::json!({
            "encoder": "an encoder", "claim": claim, "since_ms": 1_700_000_000_000_u64 + claim as u64,
            "latency_ms": 2000, "released": released, "published": true, "at": at,
        });
        self.stored_of(stream, "owner.json", &record.to_string()).await;
    }

    async fn stored(&self, path: &str, body: &str) {
        self.stored_of(&stream(), path, body).await;
    }

    async fn stored_of(&self, stream: &StreamPath, path: &str, body: &str) {
        let name = ObjectName::new(format!("{stream}/{path}"));
        let object = object(body.to_owned(), content_type::PLAYLIST, Caching::None);
        self.store.replace(&name, object).await.unwrap();
    }

    fn get(&self, path: &str) -> JoinHandle<Answer> {
        self.get_of(&stream(), path)
    }

    fn get_of(&self, stream: &StreamPath, path: &str) -> JoinHandle<Answer> {
        let request = Request::get(format!("/{stream}/{path}")).body(Body::empty()).unwrap();
        let router = origin::router(Arc::clone(&self.edge), Arc::default());
        let answer = TowerToHyperService::new(router).call(request);
        tokio::spawn(async move {
            let (head, body) = answer.await.unwrap().into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            Answer { code: head.status.as_u16(), headers: head.headers, body }
        })
    }

    async fn ok(&self, path: &str) -> Answer {
        let answer = self.get(path).await.unwrap();
        assert_eq!(answer.code, 200, "{path}");
        answer
    }

    /// Reads of the store whose object name ends with `end`.
    fn reads(&self, end: &str) -> usize {
        let reads = |call: &&store::memory::RecordedCall| {
            matches!(call.operation, Operation::Read | Operation::List) && call.name.as_str().ends_with(end)
        };
        self.store.calls().iter().filter(reads).count()
    }
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("never: {what}"));
}

// === what viewers get ===

#[tokio::test]
async fn many_viewers_cost_the_encoder_one_request_for_each_version_and_segment() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    assert!(fleet.ok(RUNG).await.text().contains("s-7.m4s"));
    for number in 8..12 {
        let held: Vec<_> = (0..200).map(|_| fleet.get(&format!("{RUNG}?_HLS_msn={number}"))).collect();
        until("the edge asks for the next version", || encoder.asked(&format!("_HLS_msn={number}")) == 1)
            .await;
        encoder.segment(number);
        for viewer in held {
            let answer = viewer.await.unwrap();
            assert_eq!((answer.code, answer.caching()), (200, "public, max-age=6"));
            assert!(answer.text().contains(&format!("s-{number}.m4s")), "{}", answer.text());
        }
        let path = format!("720p/s-{number}.m4s");
        let media: Vec<_> = (0..200).map(|_| fleet.get(&path)).collect();
        for viewer in media {
            assert_eq!(viewer.await.unwrap().text(), format!("s-{number}.m4s"));
        }
        assert_eq!((encoder.asked(&path), encoder.asked(&format!("_HLS_msn={number}"))), (1, 1));
    }
    assert_eq!(fleet.reads("owner.json"), 1, "the store is asked once for where the stream is");
}

#[tokio::test]
async fn parts_are_fetched_before_they_are_asked_for() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.media("s-8.0.m4s");
    encoder.version(7, 1, Some("s-8.1.m4s"), false);
    fleet.ok(RUNG).await;
    fleet.ok("720p/s-8.0.m4s").await;
    until("the edge waits for the next version", || encoder.asked("_HLS_msn=8&_HLS_part=1") == 1).await;
    encoder.media("s-8.1.m4s");
    encoder.version(7, 2, Some("s-8.2.m4s"), false);
    until("the edge asks for the hinted part", || encoder.asked("s-8.2.m4s") == 1).await;
    let held = fleet.get("720p/s-8.2.m4s");
    encoder.media("s-8.2.m4s");
    encoder.version(8, 0, Some("s-9.0.m4s"), false);
    assert_eq!(held.await.unwrap().text(), "s-8.2.m4s");
    // A hinted part that never comes: the segment ends without it.
    let never = fleet.get("720p/s-9.0.m4s");
    until("the edge asks for the hinted part", || encoder.asked("s-9.0.m4s") == 1).await;
    encoder.version(9, 0, Some("s-10.0.m4s"), false);
    let never = never.await.unwrap();
    assert_eq!((never.code, never.caching()), (404, "no-store"));
    assert_eq!((encoder.asked("s-8.2.m4s"), encoder.asked("s-9.0.m4s")), (1, 1));
}

#[tokio::test]
async fn a_takeover_is_followed_and_nobody_sees_an_error_or_the_former_encoder_again() {
    let (fleet, old, new) = (Fleet::new(), Encoder::start().await, Encoder::start().await);
    fleet.claimed_by(old.address).await;
    old.segment(7);
    fleet.ok(RUNG).await;
    let held = fleet.get(&format!("{RUNG}?_HLS_msn=8"));
    fleet.claimed_by(new.address).await;
    // The new encoder has no playlist yet.
    until("the edge asks the new encoder", || new.asked(RUNG) > 0).await;
    assert!(fleet.ok(RUNG).await.text().contains("s-7.m4s"), "the playlist stands still");
    assert!(!held.is_finished());
    new.segment(8);
    let answer = held.await.unwrap();
    assert_eq!(answer.code, 200);
    assert!(answer.text().contains(&new.address.to_string()), "{}", answer.text());
    old.segment(8);
    old.segment(9);
    new.segment(9);
    let next = fleet.ok(&format!("{RUNG}?_HLS_msn=9")).await;
    assert!(next.text().contains(&new.address.to_string()), "{}", next.text());
}

#[tokio::test]
async fn an_encoder_that_dies_leaves_its_playlist_and_a_held_request_ends_in_time() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    encoder.die().await;
    let asked = Instant::now();
    let held = fleet.get(&format!("{RUNG}?_HLS_msn=8")).await.unwrap();
    assert_eq!((held.code, held.caching()), (503, "no-store"));
    let passed = asked.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&passed), "{passed:?}");
    assert!(fleet.ok(RUNG).await.text().contains("s-7.m4s"));
    // Who comes now gets media from the store.
    fleet.stored("720p/s-6.m4s", "stored").await;
    assert_eq!(fleet.ok("720p/s-6.m4s").await.text(), "stored");
}

#[tokio::test]
async fn an_encoder_that_accepts_and_never_answers_is_noticed_by_its_silence() {
    let fleet = Fleet::new();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fleet.claimed_by(silent.local_addr().unwrap()).await;
    fleet.stored(RUNG, "#EXTM3U\nstored\n").await;
    let asked = Instant::now();
    // Without pings each of two attempts would wait for a first version as long as it may, for 4 s.
    assert!(fleet.ok(RUNG).await.text().contains("stored"));
    assert!(asked.elapsed() < Duration::from_secs(7), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_request_that_waits_takes_little_memory() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    let Found::Later(waits) = fleet.edge.find(&stream(), "720p/s-8.0.m4s", None, None) else {
        panic!("the edge has not fetched it");
    };
    let bytes = size_of_val(&*waits);
    assert!(bytes <= 2048, "{bytes}");
}

#[tokio::test]
async fn the_end_is_shown_whether_the_encoder_or_the_store_tells_it() {
    for told_by_encoder in [true, false] {
        let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
        fleet.claimed_by(encoder.address).await;
        encoder.segment(7);
        fleet.ok(RUNG).await;
        let held = fleet.get(&format!("{RUNG}?_HLS_msn=8"));
        fleet.stored(RUNG, "#EXTM3U\ns-7.m4s\n#EXT-X-ENDLIST\n").await;
        if told_by_encoder {
            encoder.version(7, 0, None, true);
        } else {
            encoder.die().await;
        }
        fleet.record(None, true).await;
        let last = held.await.unwrap();
        assert_eq!((last.code, last.caching()), (200, "public, max-age=1"));
        assert!(last.text().contains("#EXT-X-ENDLIST"), "{}", last.text());
        assert!(fleet.ok(&format!("{RUNG}?_HLS_msn=99")).await.text().contains("#EXT-X-ENDLIST"));
    }
}

#[tokio::test]
async fn a_stream_that_begins_again_under_its_name_replaces_the_one_that_ended() {
    let (fleet, old, new) = (Fleet::new(), Encoder::start().await, Encoder::start().await);
    fleet.claimed_by(old.address).await;
    old.version(7, 0, None, true);
    assert!(fleet.ok(RUNG).await.text().contains("#EXT-X-ENDLIST"));
    new.segment(100);
    fleet.claimed_by(new.address).await;
    let deadline = Instant::now() + Duration::from_secs(3);
    // No viewer asks for the multivariant playlist.
    while fleet.ok(RUNG).await.text().contains("#EXT-X-ENDLIST") {
        assert!(Instant::now() < deadline, "the stream that ended is still shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn playlists_go_on_from_the_store_when_the_new_encoder_cannot_be_asked() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    fleet.stored(RUNG, "#EXTM3U\ns-8.m4s\n").await;
    let held = fleet.get(&format!("{RUNG}?_HLS_msn=8"));
    // The new encoder does not say where it is.
    fleet.record(None, false).await;
    let answer = held.await.unwrap();
    assert_eq!((answer.code, answer.text()), (200, "#EXTM3U\ns-8.m4s\n"));
    fleet.stored(RUNG, "#EXTM3U\ns-9.m4s\n").await;
    let deadline = Instant::now() + Duration::from_secs(4);
    while !fleet.ok(RUNG).await.text().contains("s-9.m4s") {
        assert!(Instant::now() < deadline, "the playlist stands still");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn held_requests_for_playlists_do_not_hold_up_media() {
    // As many requests on one connection as playlists are followed.
    let limits = ViewerLimits { streams: 4, ..ViewerLimits::default() };
    let (fleet, encoder) = (Fleet::new(), Encoder::with_limits(limits).await);
    for name in ["a", "b", "c", "d"] {
        let stream = StreamPath::new("live", name).unwrap();
        encoder.segment_of(&stream, 7);
        fleet.record_of(&stream, Some(encoder.address), false).await;
        assert_eq!(fleet.get_of(&stream, RUNG).await.unwrap().code, 200);
    }
    until("four requests are held", || encoder.asked("_HLS_msn=8") == 4).await;
    let asked = Instant::now();
    assert_eq!(fleet.get_of(&StreamPath::new("live", "a").unwrap(), "720p/s-7.m4s").await.unwrap().code, 200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

// === hostile viewers ===

#[tokio::test]
async fn unknown_names_do_not_keep_listed_media_from_viewers() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    let flood: Vec<_> = (0..1000).map(|number| fleet.get(&format!("720p/made-up-{number}.m4s"))).collect();
    let mut refused = 0;
    for answer in flood {
        let answer = answer.await.unwrap();
        assert_eq!(answer.caching(), "no-store");
        refused += usize::from(answer.code == 503);
    }
    assert!(refused > 800 && encoder.asked("made-up") < 200, "{refused} {}", encoder.asked("made-up"));
    encoder.segment(8);
    let version = fleet.ok(&format!("{RUNG}?_HLS_msn=8")).await;
    assert!(version.text().contains("s-8.m4s"));
    let flood: Vec<_> = (0..1000).map(|number| fleet.get(&format!("720p/more-{number}.m4s"))).collect();
    fleet.ok("720p/s-8.m4s").await;
    assert!(flood.into_iter().filter(|request| !request.is_finished()).count() < 200);
}

#[tokio::test]
async fn unknown_names_cost_the_store_a_bounded_number_of_requests() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    for made_up in ["rung#/index.m3u8", "archive/#/index.m3u8", "archive/s#/recording.mp4"] {
        let before = fleet.store.calls().len();
        let names = (0..1000).map(|number| made_up.replace('#', &number.to_string()));
        let flood: Vec<_> = names.map(|name| fleet.get(&name)).collect();
        for answer in flood {
            assert_ne!(answer.await.unwrap().code, 200);
        }
        let calls = fleet.store.calls().len() - before;
        assert!(calls < 200, "{calls} for {made_up}");
    }
}

#[tokio::test]
async fn many_readers_of_a_recording_cost_one_listing() {
    let fleet = Fleet::new();
    fleet.record(None, true).await;
    fleet.stored("archive/kx-0/recording.mp4", "0123456789").await;
    for _ in 0..20 {
        assert_eq!(fleet.ok("archive/kx-0/recording.mp4").await.text(), "0123456789");
    }
    let lists = fleet.store.calls().iter().filter(|call| call.operation == Operation::List).count();
    assert_eq!(lists, 1);
}

#[tokio::test]
async fn no_cache_may_keep_that_media_is_missing() {
    let fleet = Fleet::new();
    // The stream is about to begin, or this edge has not heard of it yet.
    for path in ["720p/s-7.m4s", "720p/s-7.1.m4s", "720p/s-init.mp4"] {
        for _ in 0..2 {
            let answer = fleet.get(path).await.unwrap();
            assert_eq!((answer.code, answer.caching()), (404, "no-store"), "{path}");
        }
    }
    assert_eq!(fleet.get(RUNG).await.unwrap().caching(), "public, max-age=1");
}

#[tokio::test]
async fn names_that_are_nobodys_are_looked_up_once_and_a_flood_is_bounded() {
    let fleet = Fleet::new();
    let flood: Vec<_> = (0..2000)
        .map(|number| fleet.get_of(&StreamPath::new("live", &format!("n{}", number % 1000)).unwrap(), RUNG))
        .collect();
    for answer in flood {
        assert!(matches!(answer.await.unwrap().code, 404 | 503));
    }
    assert!(fleet.reads("owner.json") <= 64, "{}", fleet.reads("owner.json"));
}

#[tokio::test]
async fn what_is_in_memory_is_answered_while_no_request_may_be_held() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.multivariant();
    encoder.segment(7);
    for path in ["index.m3u8", RUNG, "720p/s-7.m4s"] {
        fleet.ok(path).await;
        let found = fleet.edge.find(&stream(), path, None, None);
        assert!(!matches!(found, Found::Later(_)), "{path}");
    }
}

// === hostile encoders ===

/// An encoder that answers every request with what `answer` makes of its path and query.
async fn hostile<F>(answer: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> SocketAddr
where
    F: Future<Output = axum::response::Response> + Send,
{
    let router = axum::Router::new().fallback(move |request: Request| {
        let answer = answer.clone();
        async move { answer(request.uri().path_and_query().unwrap().to_string()).await }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(origin::serve(listener, router, ViewerLimits::default(), std::future::pending()));
    address
}

fn described(reload: &str, body: &str) -> axum::response::Response {
    let mut answer = axum::response::Response::new(Body::from(body.to_owned()));
    answer.headers_mut().insert(origin::told::RELOAD, HeaderValue::try_from(reload).unwrap());
    answer
}

#[tokio::test]
async fn an_encoder_that_gives_the_same_version_again_and_again_is_not_asked_in_a_loop() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let encoder = hostile(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(described("last=7, parts=0, open=0, ended=0, target=1000", "#EXTM3U\n"))
    });
    let fleet = Fleet::new();
    fleet.claimed_by(encoder.await).await;
    fleet.ok(RUNG).await;
    assert_eq!(fleet.get(&format!("{RUNG}?_HLS_msn=8")).await.unwrap().code, 503, "held for 3 s");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 16, "{asked} requests in 3 s");
}

#[tokio::test]
async fn versions_of_one_claim_do_not_go_back() {
    let last = Arc::new(AtomicUsize::new(7));
    let shown = Arc::clone(&last);
    let encoder = hostile(move |_| {
        let last = shown.swap(5, Ordering::SeqCst);
        std::future::ready(described(
            &format!("last={last}, parts=0, open=0, ended=0, target=1000"),
            &format!("#EXTM3U\ns-{last}.m4s\n"),
        ))
    });
    let fleet = Fleet::new();
    fleet.claimed_by(encoder.await).await;
    fleet.ok(RUNG).await;
    until("the older version was given", || last.load(Ordering::SeqCst) == 5).await;
    assert_eq!(fleet.get(&format!("{RUNG}?_HLS_msn=8")).await.unwrap().code, 503);
    assert!(fleet.ok(RUNG).await.text().contains("s-7.m4s"));
}

#[tokio::test]
async fn a_body_that_is_too_long_is_no_answer() {
    let encoder = hostile(|_| {
        let pieces =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20])));
        std::future::ready(axum::response::Response::new(Body::from_stream(pieces)))
    });
    let fleet = Fleet::new();
    fleet.claimed_by(encoder.await).await;
    let answer = fleet.get("720p/s-7.m4s").await.unwrap();
    assert_eq!((answer.code, answer.caching()), (503, "no-store"));
    assert_eq!(fleet.get(RUNG).await.unwrap().code, 404, "a playlist without a description is none");
}

// === broken stores ===

#[tokio::test]
async fn a_store_that_hangs_holds_up_look_ups_and_nothing_that_is_known() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    fleet.store.set_faults(|_| InjectedFault::Hang);
    for number in 8..11 {
        let next = fleet.get(&format!("{RUNG}?_HLS_msn={number}"));
        encoder.segment(number);
        assert!(next.await.unwrap().text().contains(&format!("s-{number}.m4s")));
        fleet.ok(&format!("720p/s-{number}.m4s")).await;
    }
    let other = StreamPath::new("live", "other").unwrap();
    let answer = fleet.get_of(&other, RUNG).await.unwrap();
    assert_eq!((answer.code, answer.caching()), (503, "no-store"));
    fleet.store.set_faults(|_| InjectedFault::Unavailable);
    assert_eq!(fleet.get_of(&other, RUNG).await.unwrap().code, 503);
    fleet.store.set_faults(|_| InjectedFault::None);
    assert_eq!(fleet.get_of(&other, RUNG).await.unwrap().code, 404, "the failure is not remembered");
}

// === memory ===

#[tokio::test]
async fn a_stream_without_viewers_leaves_nothing_behind() {
    let (fleet, encoder) = (Fleet::new(), Encoder::start().await);
    fleet.claimed_by(encoder.address).await;
    encoder.segment(7);
    fleet.ok(RUNG).await;
    assert_eq!((fleet.edge.known().len(), fleet.edge.shared.playlists.streams()), (1, 1));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(17)).await;
    tokio::time::resume();
    until("the task ends", || fleet.edge.known().iter().all(|(_, _, followed)| *followed == 0)).await;
    until("the stream is forgotten", || fleet.edge.known().is_empty()).await;
    assert_eq!(fleet.edge.shared.playlists.streams(), 0);
    // Who comes again finds the stream again.
    assert!(fleet.ok(RUNG).await.text().contains("s-7.m4s"));
}
