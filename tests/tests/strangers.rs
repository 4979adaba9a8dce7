//! What strangers can do with connections alone: crowds of idle ones lock out neither publishers nor viewers nor probes;
//! behind a proxy they are told apart by the address in its header.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::header_proxy::{HeaderProxy, Version};
use tests::http::{Client, join};
use tests::local_address::{Forwarder, connect, runtime};
use tests::patience::{eventually, patience, pause};
use tests::process::Program;
use tests::{fixtures, playlist, publisher, turn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

const CROWD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// A client's head that asks for little.
const HEAD: &[u8] = b"HEAD /streams.json HTTP/1.1\r\nHost: x\r\n\r\n";

/// What crowds of strangers are about.
const REFUSED: [&str; 1] = ["encoder_connections_refused_total"];

/// Connections that stay open as long as the server lets them, and are replaced when they are closed.
struct Crowd {
    runtime: Runtime,
    open: Arc<AtomicUsize>,
    going: Arc<AtomicBool>,
}

impl Crowd {
    fn new() -> Self {
        Self { runtime: runtime(), open: Arc::default(), going: Arc::new(AtomicBool::new(true)) }
    }

    /// Adds members: each holds one connection, sends `words` every `every`, and connects again when the server closes.
    fn add(&self, sources: &[Ipv4Addr], members: usize, port: u16, words: &'static [u8], every: Duration) {
        for member in 0..members {
            let (open, going) = (self.open.clone(), self.going.clone());
            let source = sources[member % sources.len()];
            self.runtime.spawn(async move {
                while going.load(Ordering::Relaxed) {
                    if let Ok(socket) = connect(source, port).await {
                        open.fetch_add(1, Ordering::Relaxed);
                        stay(socket, words, every).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(every).await;
                }
            });
        }
    }

    /// Opens 256 connections to the RTMP port and then 17 a second, which is what keeps 256 open for 15 s each.
    fn add_publishers(&self, source: Ipv4Addr, port: u16) {
        let open = self.open.clone();
        self.runtime.spawn(async move {
            for n in 0.. {
                let open = open.clone();
                tokio::spawn(async move {
                    if let Ok(socket) = connect(source, port).await {
                        open.fetch_add(1, Ordering::Relaxed);
                        stay_as_publisher(socket).await;
                        open.fetch_sub(1, Ordering::Relaxed);
                    }
                });
                if n >= 256 {
                    tokio::time::sleep(Duration::from_secs(1) / 17).await;
                }
            }
        });
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn wait_for(&self, open: usize) {
        eventually(&format!("{open} connections of strangers"), Duration::from_secs(120), || {
            (self.open() >= open).then_some(())
        });
    }
}

/// Stays until the server closes.
async fn stay(mut socket: TcpStream, words: &[u8], every: Duration) {
    let mut buffer = [0; 4096];
    loop {
        match tokio::time::timeout(every, socket.read(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return,
            Err(_) if socket.write_all(words).await.is_err() => return,
            Err(_) => {}
        }
    }
}

/// A connection to the RTMP port that uses every time-out up: 15 s with half a handshake, the other half, and nothing.
async fn stay_as_publisher(mut socket: TcpStream) {
    if socket.write_all(&[&[3][..], &[0; 1536]].concat()).await.is_ok() {
        let _ = tokio::time::timeout(Duration::from_millis(4_500), until_closed(&mut socket)).await;
        let _ = socket.write_all(&[0; 1536]).await;
        until_closed(&mut socket).await;
    }
}

async fn until_closed(socket: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = socket.read(&mut buffer).await {}
}

/// Waits until the encoder has so many connections of viewers. A client's own count includes the kernel's backlog.
fn wait_for_viewers(encoder: &Encoder, wanted: std::ops::RangeInclusive<usize>) {
    eventually(&format!("{wanted:?} connections of viewers"), Duration::from_secs(180), || {
        let open = encoder.metric("encoder_connections_open", &["listener=\"http\""]) as usize;
        wanted.contains(&open).then_some(())
    });
}

/// Publishes a clip in an endless loop to a local port.
fn publish(port: u16) -> Program {
    let clip = fixtures::clip("footage-720p30-gop1s");
    publisher::ffmpeg_looped(&clip, &format!("rtmp://127.0.0.1:{port}/live/{STREAM}"))
}

/// Requests the multivariant playlist and every media playlist this many times; the number of answers that are good.
fn views(client: &Client, port: u16, times: usize) -> (usize, usize) {
    let url = format!("http://127.0.0.1:{port}/live/{STREAM}/index.m3u8");
    let (mut good, mut asked) = (0, 0);
    for _ in 0..times {
        asked += 1;
        let Some(text) = client.get(&url).ok().filter(|answer| answer.status == 200) else { continue };
        good += 1;
        let list = playlist::multivariant(&text.text().unwrap()).unwrap();
        for media in list.playlists() {
            asked += 1;
            let answer = client.get(&join(&url, &media));
            good += usize::from(answer.is_ok_and(|answer| answer.status == 200));
        }
        pause(Duration::from_millis(500));
    }
    (good, asked)
}

/// The handshake of a publisher: whether the server answers it.
async fn shakes_hands(from: Ipv4Addr, port: u16) -> bool {
    let shaking = async {
        let mut socket = connect(from, port).await?;
        socket.write_all(&[&[3][..], &[0; 1536]].concat()).await?;
        socket.read_exact(&mut [0; 1 + 2 * 1536]).await
    };
    matches!(tokio::time::timeout(patience(Duration::from_secs(5)), shaking).await, Ok(Ok(_)))
}

#[test]
fn idle_connections_do_not_keep_publishers_out() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().expecting(&REFUSED));
    let crowd = Crowd::new();
    crowd.add_publishers(CROWD, encoder.ports.rtmp);
    crowd.wait_for(150);
    eventually("refusals", Duration::from_secs(30), || {
        (encoder.metric("encoder_connections_refused_total", &["listener=\"rtmp\""]) > 20.0).then_some(())
    });

    eprintln!("{} connections of strangers wait to publish", crowd.open());
    let attempts = 40;
    let from = |source| {
        let attempt = |_: &usize| {
            pause(Duration::from_millis(100));
            crowd.runtime.block_on(shakes_hands(source, encoder.ports.rtmp))
        };
        (0..attempts).filter(attempt).count()
    };
    let (others, same) = (from(HONEST), from(CROWD));
    eprintln!(
        "publishers served of {attempts}: {others} from another address, {same} from the crowd's address"
    );
    assert_eq!(others, attempts);
    // The design promises one half at least; the bound allows for chance: one in 10,000 falls below.
    assert!(same >= 9, "{same} of {attempts}");

    let forwarder = Forwarder::start(HONEST, encoder.ports.rtmp);
    let mut publisher = publish(forwarder.address().port());
    encoder.wait_for_stream(STREAM);
    assert!(publisher.exited().is_none());
    eventually("one line about refusals", Duration::from_secs(10), || {
        encoder.log().contains("connections of strangers were refused").then_some(())
    });
    drop((publisher, crowd));
    let log = encoder.stop();
    assert!(log.contains("peer=127.0.0.9:"), "{log}");
}

#[test]
fn idle_connections_do_not_keep_viewers_out() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(Options::default().expecting(&REFUSED));
    let _publisher = publish(encoder.ports.rtmp);
    encoder.wait_for_stream(STREAM);
    let viewer = Forwarder::start(HONEST, encoder.ports.http);
    let port = viewer.address().port();

    let crowd = Crowd::new();
    crowd.add(&[CROWD], 8192, encoder.ports.http, HEAD, Duration::from_secs(15));
    // Of one source some are dropped early.
    wait_for_viewers(&encoder, 7_000..=8_192);
    let (good, asked) = views(&Client::default(), port, 20);
    eprintln!("one address, {} idle connections: {good} of {asked} requests answered", crowd.open());
    assert_eq!(good, asked);
    drop(crowd);
    wait_for_viewers(&encoder, 0..=1_000);

    let sources: Vec<_> =
        (0..500).map(|n| Ipv4Addr::new(127, 0, 1 + (n / 250) as u8, 1 + (n % 250) as u8)).collect();
    let crowd = Crowd::new();
    crowd.add(&sources, 9_000, encoder.ports.http, HEAD, Duration::from_secs(15));
    // Each source holds 18 connections, so early drops are rare.
    wait_for_viewers(&encoder, 8_192..=8_192);
    let (good, asked) = views(&Client::default(), port, 20);
    eprintln!("500 addresses, {} idle connections: {good} of {asked} requests answered", crowd.open());
    assert_eq!(good, asked);
    let refused =
        |reason| encoder.metric("encoder_connections_refused_total", &["listener=\"http\"", reason]);
    let (dropped, evicted) = (refused("early_drop"), refused("evicted"));
    eprintln!("dropped early: {dropped}, evicted: {evicted}");
    assert!(dropped > 0.0 && evicted > 0.0);
    assert!(encoder.metric("encoder_connections_open", &["listener=\"http\""]) <= 8192.0);
    drop(crowd);
    encoder.stop();
}

#[test]
fn a_low_limit_of_open_files_leaves_room_for_publishers_and_probes() {
    let _turn = turn::Turn::take();
    let options = Options::default().expecting(&REFUSED).logging(&[
        "cannot raise the limit of open files",
        "the limit of open files is too low for the capacity",
    ]);
    let encoder = Encoder::start(Options { open_files: Some(1024), ..options });
    let crowd = Crowd::new();
    crowd.add(&[CROWD], 1_100, encoder.ports.http, HEAD, Duration::from_secs(15));
    crowd.add_publishers(CROWD, encoder.ports.rtmp);
    crowd.wait_for(600);
    let forwarder = Forwarder::start(HONEST, encoder.ports.rtmp);
    let _publisher = publish(forwarder.address().port());
    let viewer = Forwarder::start(HONEST, encoder.ports.http);
    let client = Client::default();
    eventually("a stream", Duration::from_secs(30), || {
        // Busy once the stream is there, but it answers.
        assert!(matches!(encoder.admin("readyz").status, 200 | 503));
        let (good, asked) = views(&client, viewer.address().port(), 1);
        (good > 1 && good == asked).then_some(())
    });
    for _ in 0..20 {
        assert!(encoder.admin("livez").status == 200);
        pause(Duration::from_millis(100));
    }
    let open = encoder.stat().open_files;
    eprintln!("{} connections of strangers, {open} of 1,024 files open", crowd.open());
    assert!(open < 1024);
    drop(crowd);
    let log = encoder.stop();
    assert!(!log.contains("check the limit of open files"), "{log}");
}

/// Publishes and views through the proxy from [`HONEST`], and returns the encoder's log.
fn through(encoder: Encoder, proxy: HeaderProxy) -> String {
    let forwarder = Forwarder::start(HONEST, proxy.rtmp);
    let mut publisher = publish(forwarder.address().port());
    let viewer = Forwarder::start(HONEST, proxy.http);
    let client = Client::default();
    eventually("a stream through the proxy", Duration::from_secs(40), || {
        let (good, asked) = views(&client, viewer.address().port(), 1);
        (good > 1 && good == asked).then_some(())
    });
    assert!(publisher.exited().is_none());
    // A stranger's header, sent from an address that is not trusted.
    let (runtime, port) = (runtime(), encoder.ports.http);
    let answer = runtime.block_on(async {
        let mut socket = connect(CROWD, port).await.unwrap();
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
        socket
            .write_all(
                &[&header[..], &b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..]].concat(),
            )
            .await
            .ok();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        answer
    });
    assert_eq!(answer, b"", "refused");
    let counted = encoder.metric("encoder_connections_refused_total", &["proxy_header"]);
    assert_eq!(counted, 1.0, "health checks are not counted");
    drop((publisher, proxy));
    encoder.stop()
}

fn behind_a_proxy() -> Encoder {
    // The stranger's header.
    let options = Options::default().set("--trusted-proxies", "127.0.0.1").expecting(&REFUSED);
    Encoder::start(Options { args: [options.args, vec!["--proxy-protocol".into()]].concat(), ..options })
}

#[track_caller]
fn assert_told_apart(log: &str) {
    let started = log.lines().find(|line| line.contains("publish started")).unwrap();
    assert!(started.contains("peer=127.0.0.9:"), "{started}");
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    let about_health_checks =
        |line: &&&str| line.contains("proxy_header=") && !line.contains("proxy_header=1");
    assert_eq!(warnings.iter().find(about_health_checks), None);
}

#[test]
fn haproxy_tells_who_its_clients_are() {
    for version in [Version::V1, Version::V2] {
        let _turn = turn::Turn::take();
        let encoder = behind_a_proxy();
        let proxy = HeaderProxy::haproxy(encoder.ports, version);
        assert_told_apart(&through(encoder, proxy));
    }
}

#[test]
fn envoy_tells_who_its_clients_are() {
    for version in [Version::V1, Version::V2] {
        let _turn = turn::Turn::take();
        let encoder = behind_a_proxy();
        let proxy = HeaderProxy::envoy(encoder.ports, version);
        assert_told_apart(&through(encoder, proxy));
    }
}
