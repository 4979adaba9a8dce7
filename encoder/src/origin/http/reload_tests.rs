//! Tests of blocking reload against the router with a paused clock; only the tests about connections use sockets.

use super::*;
use crate::origin::cache::{MULTIVARIANT, ObjectCache, Reloadable};
use crate::origin::serve::{ViewerLimits, serve};
use axum::body::{Bytes, to_bytes};
use axum::http::Request;
use hls::presentation::Edge;
use hyper::service::Service as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use store::{Caching, Object};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const TARGET_DURATION: Duration = Duration::from_secs(2);
const PLAYLIST: &str = "720p/index.m3u8";
/// The last segment that the playlist lists at first.
const LAST: u64 = 7;

struct Origin {
    cache: Arc<ObjectCache>,
    stream: StreamPath,
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Origin {
    fn new() -> Self {
        let origin = Self { cache: ObjectCache::new(), stream: StreamPath::new("live", "demo").unwrap() };
        origin.put(LAST);
        origin
    }

    fn put(&self, last_sequence: u64) {
        self.put_edge(edge(last_sequence, 0, 0));
    }

    fn put_edge(&self, edge: Edge) {
        let plain = Reloadable { edge, target_duration: TARGET_DURATION, part_target: None, hint: None };
        self.put_version(plain);
    }

    /// Adds a playlist version with parts of 0.5 s that hints at the next part.
    fn put_parts(&self, edge: Edge, hint: &str) {
        self.put_version(Reloadable {
            edge,
            target_duration: TARGET_DURATION,
            part_target: Some(Duration::from_millis(550)),
            hint: Some(hint.into()),
        });
    }

    fn put_part(&self, name: &str) {
        let body = Bytes::from_static(b"a part");
        let object = Object { body, content_type: content_type::VIDEO_SEGMENT, caching: Caching::Immutable };
        self.cache.put(&self.stream, &format!("720p/{name}"), object);
    }

    fn get_part(&self, name: &str) -> JoinHandle<Answer> {
        self.request(Request::get(format!("/live/demo/720p/{name}")).body(Body::empty()).unwrap())
    }

    fn put_version(&self, reload: Reloadable) {
        let edge = reload.edge;
        let object = Object {
            body: format!("#EXTM3U\n{}.m4s\n", edge.last_sequence).into(),
            content_type: content_type::PLAYLIST,
            caching: Caching::None,
        };
        self.cache.put_playlist(&self.stream, PLAYLIST, object, reload);
    }

    fn request(&self, request: Request<Body>) -> JoinHandle<Answer> {
        let answer = TowerToHyperService::new(router(Arc::clone(&self.cache), Arc::default())).call(request);
        tokio::spawn(async move {
            let (head, body) = answer.await.unwrap().into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            Answer { code: head.status.as_u16(), headers: head.headers, body }
        })
    }

    fn get(&self, query: &str) -> JoinHandle<Answer> {
        let uri = format!("/live/demo/{PLAYLIST}?{query}");
        self.request(Request::get(uri).body(Body::empty()).unwrap())
    }

    async fn until_followed_by(&self, count: usize) {
        while self.cache.followers(&self.stream, PLAYLIST) != count {
            tokio::task::yield_now().await;
        }
    }
}

fn edge(last_sequence: u64, last_parts: u32, open_parts: u32) -> Edge {
    Edge { last_sequence, last_parts, open_parts, ended: false }
}

/// Asserts that the request is still held after two target durations.
async fn assert_held(request: &mut JoinHandle<Answer>) {
    assert!(timeout(2 * TARGET_DURATION, request).await.is_err(), "answered at once");
}

async fn assert_at_once(request: JoinHandle<Answer>) -> Answer {
    let asked = Instant::now();
    let answer = request.await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO, "held");
    answer
}

#[tokio::test(start_paused = true)]
async fn held_until_the_segment_is_listed() {
    for query in ["_HLS_msn=8", "_HLS_msn=8&_HLS_part=0", "a=b&_HLS_part=9&_HLS_msn=8&_HLS_future=1"] {
        let origin = Origin::new();
        let mut held = origin.get(query);
        assert_held(&mut held).await;
        origin.put(8);
        let answer = assert_at_once(held).await;
        assert_eq!((answer.code, &answer.body[..]), (200, &b"#EXTM3U\n8.m4s\n"[..]), "{query}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "public, max-age=12", "six target durations");
        assert_eq!(answer.headers[header::CONTENT_TYPE], content_type::PLAYLIST);
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_without_the_segment_is_no_answer() {
    let origin = Origin::new();
    let mut held = origin.get("_HLS_msn=9");
    origin.until_followed_by(1).await;
    origin.put(8);
    assert_held(&mut held).await;
    origin.put(9);
    assert_eq!(&assert_at_once(held).await.body[..], b"#EXTM3U\n9.m4s\n");
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_answered_at_once() {
    let origin = Origin::new();
    for query in
        ["", "_HLS_msn=0", "_HLS_msn=7", "_HLS_msn=7&_HLS_part=1", "_HLS_skip=YES", "_HLS_x=y", "msn=9"]
    {
        assert_eq!(assert_at_once(origin.get(query)).await.code, 200, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_waited_for_is_refused_at_once() {
    let origin = Origin::new();
    for query in
        ["_HLS_part=0", "_HLS_msn=10", "_HLS_msn=x", "_HLS_msn=-1", "_HLS_msn=", "_HLS_msn=8&_HLS_part=x"]
    {
        let answer = assert_at_once(origin.get(query)).await;
        assert_eq!(answer.code, 400, "{query}");
        assert_eq!(answer.headers[header::CACHE_CONTROL], "public, max-age=1", "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_new_for_three_target_durations_is_503() {
    let origin = Origin::new();
    let asked = Instant::now();
    let answer = origin.get("_HLS_msn=8").await.unwrap();
    assert_eq!(answer.code, 503);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    let held = asked.elapsed();
    // Timers are exact to the millisecond, and never early.
    assert!(held >= 3 * TARGET_DURATION && held < 3 * TARGET_DURATION + Duration::from_millis(2), "{held:?}");
    origin.until_followed_by(0).await;
}

#[tokio::test(start_paused = true)]
async fn the_end_answers_everyone_and_takes_the_directives_away() {
    let origin = Origin::new();
    let held = origin.get("_HLS_msn=9");
    origin.until_followed_by(1).await;
    origin.put_edge(Edge { ended: true, ..edge(LAST, 0, 0) });
    assert_eq!(assert_at_once(held).await.code, 200);
    for query in ["_HLS_msn=8", "_HLS_msn=99", "_HLS_part=0", "_HLS_msn=x"] {
        assert_eq!(assert_at_once(origin.get(query)).await.code, 200, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_removed_meanwhile_is_not_found() {
    for one in [false, true] {
        let origin = Origin::new();
        let held = origin.get("_HLS_msn=8");
        origin.until_followed_by(1).await;
        if one {
            origin.cache.remove(&origin.stream, PLAYLIST);
        } else {
            origin.cache.remove_stream(&origin.stream);
        }
        assert_eq!(assert_at_once(held).await.code, 404);
        assert_eq!(assert_at_once(origin.get("_HLS_msn=8")).await.code, 404);
    }
}

#[tokio::test(start_paused = true)]
async fn head_and_conditions_wait_as_well() {
    let origin = Origin::new();
    let uri = format!("/live/demo/{PLAYLIST}?_HLS_msn=8");
    let known = origin.get("").await.unwrap().headers[header::ETAG].clone();
    let head = || Request::head(&uri).body(Body::empty()).unwrap();
    let condition = |etag: &HeaderValue| {
        Request::get(&uri).header(header::IF_NONE_MATCH, etag).body(Body::empty()).unwrap()
    };
    let mut waiting_head = origin.request(head());
    let waiting_condition = origin.request(condition(&known));
    assert_held(&mut waiting_head).await;
    origin.put(8);
    let answer = assert_at_once(waiting_head).await;
    assert_eq!((answer.code, answer.body.len()), (200, 0));
    assert_eq!(answer.headers[header::CONTENT_LENGTH], "14");
    let changed = assert_at_once(waiting_condition).await;
    assert_eq!(changed.code, 200);
    let unchanged = assert_at_once(origin.request(condition(&changed.headers[header::ETAG]))).await;
    assert_eq!((unchanged.code, unchanged.body.len()), (304, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_part_is_held_until_it_is_listed() {
    let origin = Origin::new();
    origin.put_parts(edge(7, 2, 0), "s-8.0.m4s");
    let mut held = origin.get("_HLS_msn=8&_HLS_part=1");
    origin.until_followed_by(1).await;
    origin.put_parts(edge(7, 2, 1), "s-8.1.m4s");
    assert_held(&mut held).await;
    let first = assert_at_once(origin.get("_HLS_msn=8&_HLS_part=0")).await;
    assert_eq!(first.code, 200);
    origin.put_parts(edge(8, 2, 0), "s-9.0.m4s");
    assert_eq!(assert_at_once(held).await.code, 200);
    assert_eq!(assert_at_once(origin.get("_HLS_msn=9&_HLS_part=5")).await.code, 400, "3 s beyond the last");
    assert_eq!(assert_at_once(origin.get("_HLS_part=0")).await.code, 400);
}

#[tokio::test(start_paused = true)]
async fn a_hinted_part_is_held_until_it_is_whole() {
    let origin = Origin::new();
    origin.put_parts(edge(7, 2, 1), "s-8.1.m4s");
    let mut held = origin.get_part("s-8.1.m4s");
    assert_held(&mut held).await;
    origin.put_part("s-8.1.m4s");
    origin.put_parts(edge(8, 2, 0), "s-9.0.m4s");
    let answer = assert_at_once(held).await;
    assert_eq!((answer.code, &answer.body[..]), (200, &b"a part"[..]));
    assert!(answer.headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    for name in ["s-9.1.m4s", "s-8.2.m4s", "other"] {
        assert_eq!(assert_at_once(origin.get_part(name)).await.code, 404, "{name} is not hinted at");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_that_does_not_come_true_is_not_found() {
    let origin = Origin::new();
    origin.put_parts(edge(7, 2, 2), "s-8.2.m4s");
    let held = origin.get_part("s-8.2.m4s");
    origin.until_followed_by(1).await;
    origin.put_parts(edge(8, 2, 0), "s-9.0.m4s");
    let answer = assert_at_once(held).await;
    assert_eq!(
        (answer.code, &answer.headers[header::CACHE_CONTROL]),
        (404, &HeaderValue::from_static("no-store"))
    );
    // A hinted part that never comes, because the publisher or the stream is gone.
    let asked = Instant::now();
    assert_eq!(origin.get_part("s-9.0.m4s").await.unwrap().code, 404);
    assert!(asked.elapsed() >= 3 * TARGET_DURATION);
    let held = origin.get_part("s-9.0.m4s");
    origin.until_followed_by(1).await;
    origin.cache.remove_stream(&origin.stream);
    assert_eq!(assert_at_once(held).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn other_objects_have_no_directives() {
    let origin = Origin::new();
    let body = Bytes::from_static(b"#EXTM3U\n");
    let object = Object { body, content_type: content_type::PLAYLIST, caching: Caching::None };
    origin.cache.put(&origin.stream, MULTIVARIANT, object);
    let uri = format!("/live/demo/{MULTIVARIANT}?_HLS_msn=x");
    let answer = assert_at_once(origin.request(Request::get(uri).body(Body::empty()).unwrap())).await;
    assert_eq!(answer.code, 200);
}

#[tokio::test(start_paused = true)]
async fn one_put_answers_a_thousand_with_the_same_bytes() {
    let origin = Origin::new();
    let held: Vec<_> = (0..1000).map(|_| origin.get("_HLS_msn=8")).collect();
    origin.until_followed_by(1000).await;
    origin.put(8);
    let stored = origin.cache.get(&origin.stream, PLAYLIST).unwrap();
    for request in held {
        let answer = assert_at_once(request).await;
        assert_eq!((answer.code, &answer.body), (200, &stored.object.body));
        assert_eq!(answer.body.as_ptr(), stored.object.body.as_ptr(), "copied");
    }
    assert_eq!(origin.cache.followers(&origin.stream, PLAYLIST), 0);
}

#[tokio::test]
async fn a_dropped_connection_drops_its_wait() {
    let origin = Origin::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(Arc::clone(&origin.cache), Arc::default());
    tokio::spawn(serve(listener, router, ViewerLimits::default(), std::future::pending()));
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /live/demo/{PLAYLIST}?_HLS_msn=8 HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    // Far below the 6 s after which the held request would end by itself.
    let patience = Duration::from_secs(4);
    timeout(patience, origin.until_followed_by(1)).await.unwrap();
    drop(socket);
    timeout(patience, origin.until_followed_by(0)).await.unwrap();
}

#[tokio::test]
async fn held_requests_beyond_the_bound_are_answered_at_once() {
    let origin = Origin::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Three connections of one source: that source's requests are held three at a time.
    let limits = ViewerLimits { connections: 3, ..ViewerLimits::default() };
    tokio::spawn(serve(
        listener,
        router(Arc::clone(&origin.cache), Arc::default()),
        limits,
        std::future::pending(),
    ));
    let mut held = Vec::new();
    let request = format!("GET /live/demo/{PLAYLIST}?_HLS_msn=8 HTTP/1.1\r\nHost: x\r\n\r\n");
    let stream = TcpStream::connect(address).await.unwrap();
    let (handle, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let mut handle = handle.clone();
        let uri = format!("http://x/live/demo/{PLAYLIST}?_HLS_msn=8");
        let request = Request::get(uri).body(Body::empty()).unwrap();
        held.push(tokio::spawn(async move { handle.send_request(request).await.unwrap().status() }));
    }
    timeout(Duration::from_secs(4), origin.until_followed_by(3)).await.unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let ask = async |socket: &mut TcpStream, request: &str| {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let count = timeout(Duration::from_secs(4), socket.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    let refused = ask(&mut socket, &request).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("no-store"), "{refused}");
    assert!(ask(&mut socket, &request.replace("?_HLS_msn=8", "")).await.starts_with("HTTP/1.1 200"));
    origin.put(8);
    for held in held {
        assert_eq!(held.await.unwrap(), StatusCode::OK);
    }
    // There is room again.
    socket.write_all(request.replace("msn=8", "msn=9").as_bytes()).await.unwrap();
    timeout(Duration::from_secs(4), origin.until_followed_by(1)).await.unwrap();
}
