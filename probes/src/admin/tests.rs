use super::*;
use crate::busy::Settings;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroU32;

struct Running {
    probe: Arc<Probe>,
    handle: AdminHandle,
}

fn start(patience: Duration) -> Running {
    let settings = Settings { capacity: NonZeroU32::MIN, recycle_after: None };
    let probe = Probe::new(settings, patience);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let status: Arc<dyn StatusSource> = Arc::new(|| json!({"streams": ["<script>"]}));
    let handle = Admin::start(listener, Arc::clone(&probe), status, Router::new()).unwrap();
    Running { probe, handle }
}

impl Running {
    /// What any HTTP client sees: status code and the whole answer.
    fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.handle.local_addr()).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
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
    // With no patience at all any silence that a millisecond clock sees is too long.
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
    let (code, page) = server.get("/");
    assert_eq!(code, 200);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"), "{page}");
    assert!(server.get("/status").1.contains("\"streams\""));
    server.handle.stop().unwrap();
}
