//! Tests of the fake itself, against Google's documentation and against what google-cloud-storage sends.

use super::objects::{IfGeneration, New, Objects, Permission, Refusal, Settings};
use super::*;
use bytes::Bytes;
use hyper::Request;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn objects() -> Objects {
    let mut objects = Objects::default();
    objects.set_bucket("b", Settings::live());
    objects
}

fn new(name: &str, body: &str) -> New {
    New { name: name.into(), body: body.to_owned().into(), ..New::default() }
}

fn put(
    objects: &mut Objects,
    name: &str,
    body: &str,
    if_generation: IfGeneration,
    at: u64,
) -> Result<i64, Refusal> {
    let written = objects.insert("b", new(name, body), if_generation, SECOND * at as u32)?;
    Ok(written.generation)
}

#[test]
fn generations_grow_and_preconditions_hold() {
    let mut objects = objects();
    let first = put(&mut objects, "a", "1", Some(0), 0).unwrap();
    assert_eq!(put(&mut objects, "a", "2", Some(0), 1), Err(Refusal::Precondition));
    let second = put(&mut objects, "a", "2", Some(first), 1).unwrap();
    assert!(second > first);
    assert_eq!(put(&mut objects, "a", "3", Some(first), 2), Err(Refusal::Precondition));
    assert_eq!(objects.delete("b", "a", Some(first), SECOND * 2), Err(Refusal::Precondition));
    objects.delete("b", "a", Some(second), SECOND * 2).unwrap();
    assert!(put(&mut objects, "a", "4", Some(0), 3).unwrap() > second, "across a removal");
    assert_eq!(put(&mut objects, "a", "5", Some(second), 4), Err(Refusal::Precondition));
}

#[test]
fn one_name_takes_one_write_a_second() {
    let mut objects = objects();
    put(&mut objects, "a", "1", None, 0).unwrap();
    let again = objects.insert("b", new("a", "2"), None, Duration::from_millis(900));
    assert_eq!(again, Err(Refusal::TooOften("a".into())));
    put(&mut objects, "other", "1", None, 0).unwrap();
    put(&mut objects, "a", "2", None, 1).unwrap();
}

#[test]
fn a_wrong_checksum_is_refused_and_nothing_is_written() {
    let mut objects = objects();
    let damaged = New { crc32c: Some(1), ..new("a", "1") };
    assert!(matches!(objects.insert("b", damaged, None, SECOND), Err(Refusal::Bad(_))));
    assert_eq!(objects.peek("b", "a"), None);
    let whole = New { crc32c: Some(crc32c::crc32c(b"1")), ..new("a", "1") };
    objects.insert("b", whole, None, SECOND).unwrap();
}

#[test]
fn permissions_are_asked_for_what_they_are_needed() {
    let mut objects = objects();
    put(&mut objects, "a", "1", None, 0).unwrap();
    objects.deny("b", &[Permission::Delete]);
    put(&mut objects, "new", "1", None, 1).unwrap();
    assert_eq!(put(&mut objects, "a", "2", None, 2), Err(Refusal::Forbidden(Permission::Delete)));
    objects.deny("b", &[Permission::Create]);
    assert_eq!(put(&mut objects, "x", "2", None, 3), Err(Refusal::Forbidden(Permission::Create)));
    assert!(matches!(objects.get("no", "a", None), Err(Refusal::NotFound(_))));
}

#[test]
fn a_resumable_upload_goes_on_where_it_broke_off() {
    let mut objects = objects();
    let body = "x".repeat(600 << 10);
    let id = objects.begin("b", new("a", ""), Some(0)).unwrap();
    let received = |bytes| Ok(objects::Progress::Received(bytes));
    // A piece that breaks off between two multiples of 256 KiB.
    assert_eq!(
        objects.resume(id, 0, &body.as_bytes()[..300 << 10], Some(600 << 10), SECOND),
        received(256 << 10)
    );
    assert_eq!(objects.progress(id), received(256 << 10));
    assert_eq!(objects.peek("b", "a"), None, "invisible until it is complete");
    let end = objects.resume(id, 256 << 10, &body.as_bytes()[256 << 10..], Some(600 << 10), SECOND);
    assert!(matches!(end, Ok(objects::Progress::Finished(_))), "{end:?}");
    assert_eq!(objects.peek("b", "a").unwrap().body, body);
}

#[test]
fn listings_have_pages() {
    let mut objects = objects();
    for name in ["a/1", "a/2", "a/3", "b/1"] {
        put(&mut objects, name, "x", None, 0).unwrap();
    }
    let names =
        |page: Vec<&objects::Object>| page.iter().map(|object| object.name.clone()).collect::<Vec<_>>();
    let (page, next) = objects.list("b", "a/", "", 2).unwrap();
    assert_eq!((names(page), next.as_deref()), (vec!["a/1".into(), "a/2".into()], Some("a/3")));
    let (page, next) = objects.list("b", "a/", "a/3", 2).unwrap();
    assert_eq!((names(page), next), (vec!["a/3".to_owned()], None));
}

#[test]
fn anybody_reads_ranges_with_cross_origin_headers() {
    let mut objects = objects();
    let segment =
        New { cache_control: "public, max-age=31536000, immutable".into(), ..new("a b/1.m4s", "0123456789") };
    objects.insert("b", segment, None, SECOND).unwrap();
    let ask = |objects: &mut Objects, method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path).body(Bytes::new()).unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        json::handle(objects, &request, "http://fake", SECOND)
    };
    let path = "/b/a%20b/1.m4s";
    let whole = ask(&mut objects, "GET", path, &[("origin", "https://player.example")]);
    assert_eq!((whole.status().as_u16(), &whole.body()[..]), (200, &b"0123456789"[..]));
    assert_eq!(whole.headers()["access-control-allow-origin"], "*");
    assert_eq!(whole.headers()["cache-control"], "public, max-age=31536000, immutable");
    for (range, status, body) in
        [("bytes=2-4", 206, "234"), ("bytes=8-", 206, "89"), ("bytes=-3", 206, "789"), ("bytes=10-", 416, "")]
    {
        let part = ask(&mut objects, "GET", path, &[("range", range)]);
        assert_eq!((part.status().as_u16(), &part.body()[..]), (status, body.as_bytes()), "{range}");
    }
    let head = ask(&mut objects, "HEAD", path, &[]);
    assert_eq!((&head.headers()["content-length"], head.body().len()), (&"10".parse().unwrap(), 0));
    assert_eq!(ask(&mut objects, "GET", "/b/none", &[]).status(), 404);
    objects.set_bucket("b", Settings::default());
    assert_eq!(ask(&mut objects, "GET", path, &[]).status(), 403, "new buckets are nobody's to read");
}

#[test]
fn the_watcher_sees_what_is_wrong() {
    let mut objects = objects();
    let cached = |name: &str| New {
        cache_control: "public, max-age=31536000, immutable".into(),
        content_type: "video/iso.segment".into(),
        ..new(name, "x")
    };
    let list = |uri: &str, msn| New {
        cache_control: "no-cache, no-store, max-age=0".into(),
        content_type: "application/vnd.apple.mpegurl".into(),
        ..new(
            "s/720p/index.m3u8",
            &format!(
                "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{msn}\n\
                 #EXT-X-MAP:URI=\"i-init.mp4\"\n#EXTINF:1.0,\n{uri}\n"
            ),
        )
    };
    objects.insert("b", cached("s/720p/i-init.mp4"), None, SECOND).unwrap();
    objects.insert("b", cached("s/720p/1.m4s"), None, SECOND).unwrap();
    objects.insert("b", list("1.m4s", 5), None, SECOND * 2).unwrap();
    assert_eq!(audit::audit(objects.journal(), "b").complaints, [""; 0]);
    objects.insert("b", list("2.m4s", 4), None, SECOND * 3).unwrap();
    objects.delete("b", "s/720p/i-init.mp4", None, SECOND * 4).unwrap();
    let complaints = audit::audit(objects.journal(), "b").complaints;
    for wrong in ["2.m4s, which is not there", "went back", "removed while"] {
        assert!(complaints.iter().any(|complaint| complaint.contains(wrong)), "{wrong}: {complaints:?}");
    }
}
