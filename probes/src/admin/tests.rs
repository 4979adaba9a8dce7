use super::*;
use crate::Probe;
use crate::busy::ProbeSettings;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;

struct Running {
    probe: Arc<Probe>,
    handle: AdminHandle,
}

fn start(patience: Duration) -> Running {
    let settings = ProbeSettings { capacity: NonZeroU32::MIN, recycle_after: None };
    let probe = Probe::new(settings, patience);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let status: Arc<dyn StatusSource> = Arc::new(|| json!({"streams": ["<script>"]}));
    let handle =
        Admin::start(listener, probe.clone(), status, AdminRoutes::default(), Access::default()).unwrap();
    Running { probe, handle }
}

impl Running {
    /// The response as an HTTP client sees it: status code and the whole text.
    fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.handle.local_addr()).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }
}

#[test]
fn probes_follow_the_busy_state() {
    let server = start(Duration::from_secs(60));
    assert_eq!(server.get("/startupz").0, 503);
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/livez").0, 200, "a process that starts is alive");

    server.probe.ready();
    assert_eq!(server.get("/startupz").0, 200);
    assert_eq!(server.get("/readyz").0, 200);

    let permit = server.probe.accept_stream().unwrap();
    let (code, body) = server.get("/readyz");
    assert_eq!(code, 503);
    assert!(body.contains("all places are taken"), "the body says why: {body}");
    assert_eq!(server.get("/livez").0, 200, "a busy encoder is alive");

    server.probe.drain();
    assert_eq!(server.get("/livez").0, 200, "a draining encoder is alive");
    drop(permit);
    assert_eq!(server.get("/readyz").0, 503);
    assert_eq!(server.get("/livez").0, 200);
    server.handle.stop().unwrap();
}

#[test]
fn silence_beyond_the_bound_fails_liveness() {
    let server = start(Duration::ZERO);
    // With zero patience, any silence that a millisecond clock measures is too long.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while server.get("/livez").0 != 503 {
        assert!(std::time::Instant::now() < deadline, "liveness never failed");
    }
    server.handle.stop().unwrap();
}

#[test]
fn metrics_are_prometheus_text_and_pages_escape() {
    let server = start(Duration::from_secs(60));
    server.probe.ready();
    metrics::build_info("1.2.3", "abc");
    let (code, text) = server.get("/metrics");
    assert_eq!(code, 200);
    for name in ["encoder_available", "encoder_busy", "encoder_draining"] {
        assert!(text.contains(&format!("# TYPE {name} gauge")), "{name} in {text}");
    }
    assert!(text.contains("encoder_build_info{version=\"1.2.3\",revision=\"abc\"} 1"), "{text}");
    let status = server.get("/status").1;
    assert!(status.contains("\"streams\"") && status.contains("\"state\":\"free\""), "{status}");
    server.handle.stop().unwrap();
}

#[test]
fn the_page_is_whole_and_nothing_foreign_can_run_on_it() {
    let server = start(Duration::from_secs(60));
    let (code, page) = server.get("/");
    assert_eq!(code, 200);
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<style"), "{page}");
    for part in ["operator.js", "operator.css"] {
        assert!(page.contains(part), "{part} is not named in {page}");
        assert_eq!(server.get(&format!("/{part}")).0, 200);
    }
    assert_eq!(server.get("/picture/live/none").0, 404);
    server.handle.stop().unwrap();
}

#[test]
fn the_status_is_followed_and_followers_are_bounded() {
    let server = start(Duration::from_secs(60));
    let follow = || {
        let mut socket = TcpStream::connect(server.handle.local_addr()).unwrap();
        write!(socket, "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut told = String::new();
        let mut lines = io::BufReader::new(socket);
        while !told.contains("data: {") && !told.contains("503") {
            assert!(io::BufRead::read_line(&mut lines, &mut told).unwrap() > 0, "{told}");
        }
        (lines, told)
    };
    let (_lines, told) = follow();
    assert!(
        told.contains("content-type: text/event-stream") && told.contains("\"state\":\"starting\""),
        "{told}"
    );
    let others: Vec<_> = (1..MAX_WATCHERS).map(|_| follow()).collect();
    assert!(follow().1.contains("503"));
    drop(others);
    server.handle.stop().unwrap();
}

#[test]
fn foreign_names_and_pages_are_refused_before_any_route() {
    let server = start(Duration::from_secs(60));
    let ask = |head: &str| {
        let mut socket = TcpStream::connect(server.handle.local_addr()).unwrap();
        write!(socket, "{head}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/livez", "/", "/status", "/nothing"] {
        let told = ask(&format!("GET {path} HTTP/1.1\r\nHost: evil.example:9090"));
        assert!(told.starts_with("HTTP/1.1 421 ") && told.contains("--admin-hosts"), "{told}");
    }
    assert!(ask("GET /livez HTTP/1.0").starts_with("HTTP/1.0 200 "), "checks of HAProxy name no host");
    let told = ask("PUT /livez HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example");
    assert!(told.starts_with("HTTP/1.1 403 ") && told.contains("another origin"), "{told}");
    let told = ask("PUT /livez HTTP/1.1\r\nHost: localhost");
    assert!(told.starts_with("HTTP/1.1 405 "), "this machine may change what can be changed: {told}");
    server.handle.stop().unwrap();
}

/// Every route that answers is described, except the files of the page.
#[test]
fn the_description_names_every_route() {
    let server = start(Duration::from_secs(60));
    let (code, answer) = server.get("/openapi.json");
    assert_eq!(code, 200);
    let body = &answer[answer.find("\r\n\r\n").unwrap() + 4..];
    let document: Value = serde_json::from_str(body).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
    assert!(!document["info"]["title"].as_str().unwrap().is_empty());
    let sources = [include_str!("../admin.rs"), include_str!("../page.rs")];
    let routed = sources.iter().flat_map(|source| source.split(".route(\"").skip(1));
    let mut routed: Vec<&str> = routed.filter_map(|rest| rest.split('"').next()).collect();
    routed.retain(|path| !["/", "/operator.js", "/operator.css"].contains(path));
    routed.sort_unstable();
    let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(described, routed);
    for path in described.iter().filter(|path| path.as_str() != "/events" && !path.contains('{')) {
        assert_ne!(server.get(path).0, 404, "{path}");
    }
    server.handle.stop().unwrap();
}
