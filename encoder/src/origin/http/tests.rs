//! Tests over real sockets, from a client's view.

use super::*;
use crate::origin::cache::{MULTIVARIANT, ObjectCache, StreamInfo};
use crate::origin::serve::{ViewerLimits, serve};
use axum::body::Bytes;
use media::WallTime;
use std::io::Read as _;
use std::net::SocketAddr;
use store::{Caching, Object};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

struct Answer {
    code: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

struct Server {
    address: SocketAddr,
}

impl Server {
    async fn start() -> Self {
        let cache = ObjectCache::new();
        let stream = StreamPath::new("live", "demo").unwrap();
        let put = |path: &str, body: &'static [u8], content_type, caching| {
            cache.put(&stream, path, Object { body: Bytes::from_static(body), content_type, caching });
        };
        put("index.m3u8", b"#EXTM3U\n", content_type::PLAYLIST, Caching::None);
        put("720p/s-1.m4s", b"0123456789", content_type::VIDEO_SEGMENT, Caching::Immutable);
        put("thumb.jpg", b"jpeg", content_type::JPEG, Caching::None);
        let info = StreamInfo {
            live: true,
            started: WallTime::from_unix_micros(1_700_000_000_000_000),
            rungs: vec!["720p".into()],
            latency_secs: 4.0,
            hold_back_secs: 3.0,
        };
        cache.set_info(&stream, info);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(
            listener,
            router(cache, Arc::default()),
            ViewerLimits::default(),
            std::future::pending(),
        ));
        Self { address }
    }

    async fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        Answer { code: head[9..12].parse().unwrap(), head, body: answer[end..].to_vec() }
    }
}

const SEGMENT: &str = "/live/demo/720p/s-1.m4s";
const PLAYLIST: &str = "/live/demo/index.m3u8";

#[tokio::test]
async fn objects_come_with_what_players_and_caches_need() {
    let server = Server::start().await;
    let segment = server.request("GET", SEGMENT, "").await;
    assert_eq!((segment.code, &segment.body[..]), (200, &b"0123456789"[..]));
    assert_eq!(segment.header("content-type"), Some("video/iso.segment"));
    assert_eq!(segment.header("content-length"), Some("10"));
    assert_eq!(segment.header("accept-ranges"), Some("bytes"));
    assert_eq!(segment.header("cache-control"), Some("public, max-age=31536000, immutable"));

    let playlist = server.request("GET", PLAYLIST, "").await;
    assert_eq!(playlist.header("content-type"), Some("application/vnd.apple.mpegurl"));
    assert_eq!(playlist.header("cache-control"), Some("public, max-age=1"));

    let head = server.request("HEAD", SEGMENT, "").await;
    assert_eq!((head.code, head.body.len(), head.header("content-length")), (200, 0, Some("10")));
    let post = server.request("POST", SEGMENT, "Content-Length: 0\r\n").await;
    assert_eq!(post.code, 405);
}

#[tokio::test]
async fn one_range_is_cut_others_are_ignored() {
    let server = Server::start().await;
    let cases: &[(&str, u16, &[u8], Option<&str>)] = &[
        ("bytes=2-4", 206, b"234", Some("bytes 2-4/10")),
        ("bytes=7-", 206, b"789", Some("bytes 7-9/10")),
        ("bytes=-2", 206, b"89", Some("bytes 8-9/10")),
        ("bytes=5-99", 206, b"56789", Some("bytes 5-9/10")),
        ("bytes=10-", 416, b"", Some("bytes */10")),
        ("bytes=0-1,4-5", 200, b"0123456789", None),
        ("bytes=x", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ];
    for (range, code, body, content_range) in cases {
        let answer = server.request("GET", SEGMENT, &format!("Range: {range}\r\n")).await;
        assert_eq!((answer.code, &answer.body[..]), (*code, *body), "{range}");
        assert_eq!(answer.header("content-range"), *content_range, "{range}");
    }
    let whole = server.request("GET", SEGMENT, "Range: bytes=2-4\r\nIf-Range: \"another\"\r\n").await;
    assert_eq!(whole.code, 200, "the object is not the one that the client has a part of");
    let etag = whole.header("etag").unwrap();
    let part = server.request("GET", SEGMENT, &format!("Range: bytes=2-4\r\nIf-Range: {etag}\r\n")).await;
    assert_eq!(part.code, 206);
}

#[tokio::test]
async fn a_known_version_is_not_sent_again() {
    let server = Server::start().await;
    for path in [SEGMENT, PLAYLIST, "/"] {
        let etag = server.request("GET", path, "").await.header("etag").unwrap().to_owned();
        for known in [etag.clone(), format!("\"x\", {etag}"), "*".into()] {
            let answer = server.request("GET", path, &format!("If-None-Match: {known}\r\n")).await;
            assert_eq!((answer.code, answer.body.len()), (304, 0), "{path} {known}");
            assert_eq!(answer.header("etag"), Some(&*etag));
        }
        assert_eq!(server.request("GET", path, "If-None-Match: \"x\"\r\n").await.code, 200);
    }
}

#[tokio::test]
async fn pages_elsewhere_may_read() {
    let server = Server::start().await;
    for path in [SEGMENT, PLAYLIST, "/streams.json", "/live/demo/none"] {
        let answer = server.request("GET", path, "Origin: https://elsewhere.example\r\n").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["content-length", "content-range", "age", "date", "etag"] {
            assert!(exposed.contains(name), "{exposed}");
        }
    }
    let preflight = server
        .request(
            "OPTIONS",
            SEGMENT,
            "Origin: https://elsewhere.example\r\nAccess-Control-Request-Method: GET\r\n\
             Access-Control-Request-Headers: range\r\n",
        )
        .await;
    assert_eq!(preflight.code, 200);
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    for header in ["range", "authorization", "cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"] {
        assert!(allowed.split(',').any(|one| one == header), "{header} in {allowed}");
    }
}

#[tokio::test]
async fn playlists_are_compressed_and_segments_are_not() {
    let server = Server::start().await;
    let plain = server.request("GET", PLAYLIST, "").await;
    assert_eq!(plain.header("content-encoding"), None);
    let playlist = server.request("GET", PLAYLIST, "Accept-Encoding: gzip\r\n").await;
    assert_eq!(playlist.header("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&playlist.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    // Both encodings share one ETag, so the ETag is weak; `Vary` keeps them apart in caches.
    assert_eq!(playlist.header("etag"), plain.header("etag"));
    let etag = plain.header("etag").unwrap();
    assert!(etag.starts_with("W/"), "{etag}");
    for conditions in ["", "Accept-Encoding: gzip\r\n", "Range: bytes=0-1\r\n"] {
        let answer = server.request("GET", PLAYLIST, conditions).await;
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{conditions}");
    }
    let known = format!("Accept-Encoding: gzip\r\nIf-None-Match: {etag}\r\n");
    assert_eq!(server.request("GET", PLAYLIST, &known).await.code, 304);

    let head = server.request("HEAD", PLAYLIST, "Accept-Encoding: gzip\r\n").await;
    assert_eq!((head.code, head.body.len(), head.header("content-encoding")), (200, 0, Some("gzip")));
    let part = server.request("GET", PLAYLIST, "Accept-Encoding: gzip\r\nRange: bytes=1-3\r\n").await;
    assert_eq!((part.code, &part.body[..], part.header("content-encoding")), (206, &b"EXT"[..], None));
    let segment = server.request("GET", SEGMENT, "Accept-Encoding: gzip\r\n").await;
    assert_eq!((segment.header("content-encoding"), &segment.body[..]), (None, &b"0123456789"[..]));
}

#[test]
fn a_version_is_compressed_once() {
    let cache = ObjectCache::new();
    let stream = StreamPath::new("live", "demo").unwrap();
    let put = |body: &'static str| {
        let content_type = content_type::PLAYLIST;
        cache.put(&stream, MULTIVARIANT, Object { body: body.into(), content_type, caching: Caching::None });
    };
    put("#EXTM3U\n");
    let asked = || gzip::of(&cache.get(&stream, MULTIVARIANT).unwrap());
    let first = asked();
    assert_eq!(asked().as_ptr(), first.as_ptr(), "the same bytes, not equal ones");
    put("#EXTM3U\n#EXT-X-VERSION:6\n");
    assert_ne!(asked(), first);
}

#[tokio::test]
async fn nothing_outside_the_library_is_found() {
    let server = Server::start().await;
    for path in [
        "/live/demo",
        "/live/demo/",
        "/live/demo/none.m4s",
        "/live/other/index.m3u8",
        "/live/demo/../demo/index.m3u8",
        "/live/demo/720p/../index.m3u8",
        "/live/demo/%2e%2e/demo/index.m3u8",
        "/live/%2e%2e/index.m3u8",
        "/../../etc/passwd",
        "/live/demo//index.m3u8",
        "/live/demo/index%2em3u8",
        "/assets/../index.html",
        "/assets/%2e%2e%2findex.html",
    ] {
        let answer = server.request("GET", path, "").await;
        assert_eq!(answer.code, 404, "{path}");
        // Media that does not exist may exist in a moment.
        let caching = if path.ends_with(".m4s") { "no-store" } else { "public, max-age=1" };
        assert_eq!(answer.header("cache-control"), Some(caching), "{path}");
        assert_eq!(answer.header("vary"), None, "{path}");
    }
}

#[tokio::test]
async fn the_page_and_what_it_asks_for() {
    let server = Server::start().await;
    let page = server.request("GET", "/", "").await;
    assert_eq!(page.code, 200);
    assert!(!page.header("content-security-policy").unwrap().contains("unsafe"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let streams = server.request("GET", "/streams.json", "").await;
    let json: serde_json::Value = serde_json::from_slice(&streams.body).unwrap();
    let stream = &json["streams"][0];
    assert_eq!(stream["playlist"], PLAYLIST);
    assert_eq!(stream["thumbnail"], "/live/demo/thumb.jpg");
    assert_eq!(stream["since_unix_ms"], 1_700_000_000_000_i64);
}
