//! What operators do to streams through the admin port and the operator's page: ending a stream, bans, the token.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::{Value, json};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;
use tests::archived::Archived;
use tests::browser::{OperatorWork, work_operator_page};
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::{fixtures, publisher, skip, turn};

const CLIP: &str = "footage-720p30-gop1s";
const TOKEN: &str = "tHe-0perat0rs-t0ken";

/// The window is long: what ends a stream here is not its publisher's absence.
fn options() -> Options {
    let mut options = Options::default().set("--ladder", "source").set("--reconnect-window", "60");
    options.secrets.push(TOKEN.to_owned());
    options
}

/// Sends a request with curl, as an operator would; returns status and body.
fn curl(url: &str, arguments: &[&str]) -> (u16, Value) {
    let done = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "-m", "10", "-w", "\n%{http_code}"])
        .args(arguments)
        .arg(url)
        .output()
        .unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn admin_url(encoder: &Encoder, path: &str) -> String {
    format!("http://127.0.0.1:{}/{path}", encoder.ports.admin)
}

fn show(encoder: &Encoder) -> String {
    admin_url(encoder, &format!("streams/live/{STREAM}"))
}

/// FFmpeg's output when its publish is refused.
#[track_caller]
fn turned_away(encoder: &Encoder) -> String {
    let mut publisher = publisher::ffmpeg_once(&fixtures::clip(CLIP), &encoder.rtmp_url(STREAM));
    let status = publisher.wait(publisher::REFUSAL);
    let said = publisher.output();
    assert!(status.is_some_and(|s| !s.success()), "it was let in: {status:?}\n{said}");
    said
}

/// Publishes once FFmpeg is admitted.
#[track_caller]
fn let_in(encoder: &Encoder) {
    let clip = fixtures::clip(CLIP);
    eventually("the publisher to be let in", Duration::from_secs(30), || {
        let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
        // A refused FFmpeg exits immediately.
        publisher.wait(Duration::from_millis(1500)).is_none().then_some(())
    });
}

/// The machine's own address that is not a loopback address. No packet is sent.
fn other_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
}

#[test]
fn an_operator_ends_a_stream_and_bans_its_name_at_every_encoder_of_the_store() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let refusing = || options().expecting(&["encoder_rejected_total"]);
    let encoder = Encoder::start(refusing());
    let output = encoder.output.path().to_str().unwrap().to_owned();
    let other = Encoder::start(refusing().set("--output", &output));
    let mut running = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    let (status, details) = curl(&show(&encoder), &[]);
    assert_eq!((status, &details["name"]), (200, &json!(STREAM)));
    assert!(details["publisher"]["bytes"].as_u64().unwrap() > 10_000, "{details}");
    assert!(details["publisher"]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{details}");

    let body = "{\"reason\": \"the match is over\", \"ban_seconds\": 600}";
    let (status, ended) = curl(&show(&encoder), &["-X", "DELETE", "-d", body]);
    assert_eq!((status, &ended["ended"]), (202, &json!(true)), "{ended}");
    running.wait(publisher::REFUSAL);
    let said = running.output();
    assert!(said.contains("the match is over"), "the publisher is told why:\n{said}");
    // The archive is sealed long before the reconnect window is over.
    Archived::complete(encoder.output.path());
    let playlist = encoder.output.path().join(format!("live/{STREAM}/source/index.m3u8"));
    assert!(std::fs::read_to_string(playlist).unwrap().ends_with("#EXT-X-ENDLIST\n"));
    assert_eq!(encoder.metric("encoder_streams_ended_total", &["by=\"operator\""]), 1.0);

    assert!(turned_away(&encoder).contains("the match is over; it may be published again from"));
    assert!(turned_away(&other).contains("an operator ended this stream; it may be published again from"));
    let (_, list) = curl(&admin_url(&encoder, "streams"), &[]);
    assert_eq!(list["bans"][0]["name"], STREAM, "{list}");
    let (status, _) = curl(&format!("{}/ban", show(&encoder)), &["-X", "DELETE"]);
    assert_eq!(status, 202);
    let_in(&other);
    let log = encoder.stop();
    assert!(log.contains("operator ended or banned a stream") && log.contains("peer=127.0.0.1:"), "{log}");
}

#[test]
fn a_ban_is_over_by_itself() {
    // Creating the clip takes longer than the ban.
    fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(options().expecting(&["encoder_rejected_total"]));
    assert_eq!(curl(&show(&encoder), &["-X", "DELETE"]).0, 404, "nothing runs, and no ban is asked for");
    let (status, _) = curl(&show(&encoder), &["-X", "DELETE", "-d", "{\"ban_seconds\": 10}"]);
    assert_eq!(status, 202);
    assert!(turned_away(&encoder).contains("it may be published again from"));
    let_in(&encoder);
}

#[test]
fn strangers_change_nothing() {
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("admin.token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let token = token.to_str().unwrap();
    let address = other_address();
    let mut options = options().set("--admin-token", token).set("--admin-hosts", "encoder.example.org");
    options.all_admin_addresses = address.is_some();
    let encoder = Encoder::start(options);
    let host = |name: &str| curl(&admin_url(&encoder, "livez"), &["-H", &format!("Host: {name}")]);
    let (status, told) = host("evil.example");
    assert!(status == 421 && told["error"].as_str().unwrap().contains("--admin-hosts"), "{status} {told}");
    assert_eq!(host("encoder.example.org").0, 200);
    let latency = format!("{}/latency", show(&encoder));
    let put = ["-X", "PUT", "-d", "{\"latency\": 5}"];
    let (status, _) = curl(&latency, &[&put[..], &["-H", "Origin: https://evil.example"]].concat());
    assert_eq!(status, 403);
    assert_eq!(curl(&latency, &put).0, 200, "this machine");
    let Some(address) = address else {
        // `probes` tests the rest too.
        return skip::missing("other-address", "the machine has no address beside its loopback addresses");
    };
    let latency = latency.replace("127.0.0.1", &address.to_string());
    let (status, told) = curl(&latency, &put);
    assert!(
        status == 401 && told["error"].as_str().unwrap().contains("Authorization: Bearer"),
        "{status} {told}"
    );
    assert_eq!(curl(&latency, &[]).0, 200, "reading needs no token");
    let (right, wrong) =
        (format!("Authorization: Bearer {TOKEN}"), "Authorization: Bearer tHe-wr0ng-t0ken-it-is");
    assert_eq!(curl(&latency, &[&put[..], &["-H", wrong]].concat()).0, 401);
    assert_eq!(curl(&latency, &[&put[..], &["-H", &right]].concat()).0, 200);
    encoder.stop();
}

#[test]
fn the_operators_page_sets_a_latency_and_ends_a_stream() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("admin.token");
    std::fs::write(&token, TOKEN).unwrap();
    let address = other_address();
    let mut options = options().set("--admin-token", token.to_str().unwrap());
    options.all_admin_addresses = address.is_some();
    let encoder = Encoder::start(options);
    let mut running = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    let page =
        admin_url(&encoder, "").replace("127.0.0.1", &address.map_or("127.0.0.1".into(), |a| a.to_string()));
    let screenshots = std::env::var_os("TEST_SCREENSHOTS").map_or(folder.path().to_owned(), Into::into);
    let worked = work_operator_page(&OperatorWork {
        page: page.clone(),
        reason: "<b>the match is over</b>".into(),
        ban: "600".into(),
        latency: 5.5,
        token: address.map(|_| TOKEN.into()),
        screenshots: Some(screenshots),
    })
    .unwrap();
    let name = format!("live/{STREAM}");
    assert_eq!(
        (worked.title.as_str(), worked.asks.as_str()),
        (name.as_str(), format!("End {name}?").as_str())
    );
    assert_eq!((worked.escaped.focus.as_str(), worked.escaped.requests), ("end", 0));
    assert_eq!(worked.latency, format!("{name} will have 5.5 s from its next start on."));
    assert_eq!(worked.problem, "the reason has 1 to 200 characters");
    assert!(
        worked.ended.starts_with(&format!("{name} is ended. Nobody may publish it before ")),
        "{worked:?}"
    );
    running.wait(publisher::REFUSAL);
    assert!(running.output().contains("<b>the match is over</b>"), "{}", running.output());
    assert!(worked.requests.iter().all(|(_, url, _)| url.starts_with(&page)), "{:?}", worked.requests);
    assert!(!worked.places.contains(TOKEN), "{}", worked.places);
    // Chromium itself reports the refusals that the test provokes.
    let unexpected = worked.console.iter().filter(|line| !line.starts_with("Failed to load resource"));
    assert_eq!(unexpected.count(), 0, "{:?}", worked.console);
    if address.is_some() {
        let sent: Vec<&str> = worked.requests.iter().map(|(_, _, token)| token.as_str()).collect();
        let right = format!("Bearer {TOKEN}");
        assert_eq!(sent[..3], ["", "Bearer not the right token", &right], "asked once it is needed");
        assert!(sent[3..].iter().all(|token| *token == right), "kept while the page is open");
    }
    encoder.stop();
}
