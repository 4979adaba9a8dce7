//! Encoders in a fleet: a balancer that knows only readiness sends streams to free encoders, no publisher is cut off, a
//! publisher without a free encoder gets a reason, and an encoder told to exit does so in the right way.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and may say what they measured"
)]

use encoder::testing::status::EncoderStatus;
use rustix::process::Signal;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tests::agones_sidecar::Sidecar;
use tests::archived::Archived;
use tests::balancer::{Balancer, Server};
use tests::encoder_process::{Encoder, KEY, Options, STREAM, free_port};
use tests::gcs::{FakeGcs, Fault, Operation};
use tests::lobby_process::Lobby;
use tests::many_encoders::ManyEncoders;
use tests::patience::{eventually, patience, poll};
use tests::process::Program;
use tests::upsets::{INTERRUPTED, STORE_FAILS};
use tests::{fixtures, publisher, turn};

const CLIP: &str = "footage-720p30-gop1s";
/// Health check interval, typical for a balancer in front of pods.
const CHECK: Duration = Duration::from_secs(1);

/// Options of an encoder in a fleet. It passes the source through: these tests are about which encoder takes which
/// stream.
fn member() -> Options {
    Options::default()
        .set("--ladder", "source")
        .set("--when-full", "refuse")
        .set("--reconnect-window", "0")
        .set("--drain-timeout", "60")
}

/// Names of the streams on an encoder.
fn carried(encoder: &Encoder) -> Vec<String> {
    let status: EncoderStatus = serde_json::from_str(&encoder.admin("status").text().unwrap()).unwrap();
    status.streams.into_iter().map(|stream| stream.name).collect()
}

/// Waits until every encoder has exactly one stream; returns the streams' names, sorted.
fn one_each(encoders: &[Encoder]) -> Vec<String> {
    let mut names = eventually("one stream on each encoder", Duration::from_secs(20), || {
        let carried: Vec<Vec<String>> = encoders.iter().map(carried).collect();
        carried.iter().all(|names| names.len() == 1).then(|| carried.concat())
    });
    names.sort();
    names
}

/// FFmpeg's output when its publish is refused.
fn turned_away(url: &str) -> String {
    let mut publisher = publisher::ffmpeg_once(&fixtures::clip(CLIP), url);
    let status = publisher.wait(publisher::REFUSAL);
    let said = publisher.output();
    assert!(status.is_some_and(|s| !s.success()), "{url} was let in: {status:?}\n{said}");
    said
}

fn connect(encoder: &Encoder) -> Result<TcpStream, ErrorKind> {
    TcpStream::connect(("127.0.0.1", encoder.ports.rtmp)).map_err(|error| error.kind())
}

#[test]
fn streams_spread_over_free_encoders_and_one_too_many_is_told_in_the_lobby() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    // A publisher may connect in the moment in which the encoder becomes busy.
    let member = || member().allowing(&["encoder_rejected_total"]);
    let encoders: Vec<Encoder> = (0..4).map(|_| Encoder::start(member())).collect();
    let admins: Vec<String> = encoders.iter().map(|e| format!("127.0.0.1:{}", e.ports.admin)).collect();
    let lobby = Lobby::start(&admins.join(","));
    let mut servers: Vec<Server> =
        encoders.iter().map(|e| Server { rtmp: e.ports.rtmp, admin: e.ports.admin, backup: false }).collect();
    servers.push(Server { rtmp: lobby.rtmp, admin: lobby.admin, backup: false });
    let balancer = Balancer::start(&servers, CHECK);
    balancer.wait_for(&[true, true, true, true, false]);
    let publish = |name: &str| publisher::ffmpeg_looped(&clip, &balancer.rtmp_url(name));

    // Publish one by one, each as soon as the previous stream has its place and before the balancer's next health
    // check.
    let mut publishers: Vec<Program> = Vec::new();
    for n in 1..=4 {
        publishers.push(publish(&format!("a{n}")));
        eventually("one stream each", Duration::from_secs(20), || {
            let mut carried: Vec<usize> = encoders.iter().map(|encoder| carried(encoder).len()).collect();
            carried.sort_unstable_by(|a, b| b.cmp(a));
            assert!(carried[0] <= 1, "two on one encoder: {carried:?}");
            (carried.iter().sum::<usize>() == n).then_some(())
        });
    }
    assert_eq!(one_each(&encoders), ["a1", "a2", "a3", "a4"]);
    balancer.wait_for(&[false, false, false, false, true]);
    let said = turned_away(&balancer.rtmp_url("a5"));
    assert!(said.contains("all encoders are busy, try again"), "{said}");
    none_lost(&mut publishers);

    // All streams end: all encoders are available again, and the lobby is no longer ready.
    for mut publisher in publishers {
        publisher.stop(Duration::from_secs(5));
    }
    balancer.wait_for(&[true, true, true, true, false]);
    let before: Vec<usize> = balancer.servers().iter().map(|server| server.total).collect();

    // Four publishers arrive together, between two health checks. A busy encoder's kernel refuses the connection, and
    // the balancer tries another server.
    let mut publishers: Vec<Program> = (1..=4).map(|n| publish(&format!("b{n}"))).collect();
    assert_eq!(one_each(&encoders), ["b1", "b2", "b3", "b4"]);
    balancer.wait_for(&[false, false, false, false, true]);
    let said = turned_away(&balancer.rtmp_url("b5"));
    assert!(said.contains("all encoders are busy, try again"), "{said}");

    // Every encoder's readiness has changed, and every connection is still open.
    let standings = balancer.servers();
    assert!(standings[..4].iter().all(|server| server.connections == 1), "{standings:?} after {before:?}");
    none_lost(&mut publishers);

    // One stream ends: the lobby becomes unready, then that encoder takes the next stream.
    let freed = encoders.iter().position(|encoder| carried(encoder) == ["b2"]).unwrap();
    publishers[1].stop(Duration::from_secs(5));
    let mut up = [false; 5];
    up[freed] = true;
    balancer.wait_for(&up);
    publishers[1] = publish("b6");
    assert_eq!(one_each(&encoders), ["b1", "b3", "b4", "b6"]);
    assert_eq!(carried(&encoders[freed]), ["b6"]);
    none_lost(&mut publishers);
    lobby.leave();
}

#[track_caller]
fn none_lost(publishers: &mut [Program]) {
    for publisher in publishers {
        assert!(publisher.exited().is_none(), "{}", publisher.output());
    }
}

/// The balancer will not check again for a minute, and its next choice is the encoder that has just become busy.
#[test]
fn who_comes_before_the_balancer_knows_is_sent_on_or_told_and_lands_elsewhere() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    for (when_full, is_told) in [("refuse", false), ("tell", true)] {
        let options = || member().set("--when-full", when_full).allowing(&["encoder_rejected_total"]);
        let start = || Encoder::start(options());
        let encoders = [start(), start()];
        let servers =
            encoders.each_ref().map(|e| Server { rtmp: e.ports.rtmp, admin: e.ports.admin, backup: false });
        let balancer = Balancer::start(&servers, Duration::from_secs(60));
        let mut first = publisher::ffmpeg_looped(&clip, &encoders[0].rtmp_url("first"));
        eventually("it to be taken", Duration::from_secs(10), || {
            (encoders[0].admin("readyz").status == 503).then_some(())
        });
        if is_told {
            let said = turned_away(&balancer.rtmp_url("second"));
            assert!(said.contains("busy, try again"), "{said}");
        }
        let mut second = publisher::ffmpeg_looped(&clip, &balancer.rtmp_url("second"));
        assert_eq!(one_each(&encoders), ["first", "second"]);
        assert_eq!(carried(&encoders[1]), ["second"]);
        assert!(balancer.servers()[0].up, "the balancer still knows nothing");
        for publisher in [&mut first, &mut second] {
            assert!(publisher.exited().is_none(), "{}", publisher.output());
        }
    }
}

#[test]
fn a_full_encoder_refuses_connections_and_takes_back_who_has_gone_silent() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let options = member()
        .set("--reconnect-window", "20")
        .with_keys()
        .expecting(&["encoder_rejected_total"])
        .allowing(INTERRUPTED)
        .logging(&["publisher has gone silent and another one came", TOLD_AGAIN]);
    let encoder = Encoder::start(options);
    let first = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(KEY));
    encoder.wait_for_stream(STREAM);
    assert_eq!(encoder.admin("readyz").status, 503);
    assert_eq!(connect(&encoder).unwrap_err(), ErrorKind::ConnectionRefused);

    // A publisher that lost its network is silent while its TCP connection stays open. It reconnects from another
    // address.
    first.signal(Signal::STOP);
    eventually("the door to open", Duration::from_secs(20), || connect(&encoder).ok());
    let said = turned_away(&encoder.rtmp_url("secret-of-other"));
    assert!(said.contains("busy"), "who slips in is told why not: {said}");
    let mut back = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(KEY));
    eventually("the door to be shut behind it", Duration::from_secs(10), || connect(&encoder).err());
    assert!(back.exited().is_none(), "{}", back.output());

    // The publisher is gone for good: during the reconnect window its place is reserved for it, not free for other
    // publishers.
    back.signal(Signal::KILL);
    eventually("the door to open", Duration::from_secs(10), || connect(&encoder).ok());
    assert_eq!(encoder.admin("readyz").status, 503, "its place is kept");
    first.signal(Signal::KILL);
    encoder.signal(Signal::TERM);
}

#[test]
fn a_lobby_that_asks_nobody_is_always_there() {
    let lobby = Lobby::start("");
    lobby.wait_ready(true);
    let said = turned_away(&format!("rtmp://127.0.0.1:{}/live/any", lobby.rtmp));
    assert!(said.contains("all encoders are busy, try again"), "{said}");
    let (_, metrics) = lobby.get("metrics").unwrap();
    assert!(metrics.contains("encoder_rejected_total{reason=\"all_busy\"} 1"), "{metrics}");
    assert!(!metrics.contains("encoder_available"), "it must not count as an encoder:\n{metrics}");
    lobby.leave();
}

#[test]
fn a_lobby_that_hears_from_nobody_stays_away() {
    let lobby = Lobby::start(&format!("127.0.0.1:{}", free_port()));
    let (status, body) = lobby.get("readyz").unwrap();
    assert_eq!((status, body.contains("no encoder has answered")), (503, true), "{body}");
    let door = poll(Duration::from_secs(5), || TcpStream::connect(("127.0.0.1", lobby.rtmp)).err());
    assert_eq!(door.map(|error| error.kind()), Some(ErrorKind::ConnectionRefused));
    lobby.leave();
}

/// The encoders are simulated; the lobby meets real ones in the tests above.
#[test]
fn a_lobby_follows_a_thousand_encoders_with_a_connection_each() {
    let encoders = ManyEncoders::start(1_000);
    encoders.set(617, true);
    let began = Instant::now();
    let lobby = Lobby::start(&encoders.names());
    lobby.wait_until("that one is free", |status, body| status == 503 && body.contains("1 free"));
    eventually("each encoder to be asked", Duration::from_secs(60), || {
        (encoders.asked() == 1_000).then_some(())
    });
    // A connection's place is free again after 25 ms, so this bound holds however slow the machine is.
    let most = began.elapsed().as_millis() / 25 + 1;
    assert!(u128::from(encoders.asked()) <= most, "{most} connections at most in that time");

    encoders.set(617, false);
    lobby.wait_until("that all are busy", |status, body| {
        status == 200 && body.contains("all 1000 encoders are busy")
    });
    encoders.set(3, true);
    encoders.set(999, true);
    lobby.wait_until("that two are free", |status, body| status == 503 && body.contains("2 free"));
    // An encoder that dies is asked again, and is not free meanwhile.
    encoders.set(3, false);
    encoders.cut(999);
    lobby.wait_until("that it is there again", |status, body| {
        encoders.asked() > 1_000 && status == 503 && body.contains("1 free")
    });
    assert_eq!(encoders.asked(), 1_001, "nobody else is asked twice");
    lobby.leave();
}

#[test]
fn a_lobby_takes_the_word_of_encoders_that_cannot_be_followed() {
    let encoders = ManyEncoders::start_older(3);
    let lobby = Lobby::start(&encoders.names());
    lobby.wait_until("that all are busy", |status, body| {
        status == 200 && body.contains("all 3 encoders are busy")
    });
    encoders.set(1, true);
    lobby.wait_until("that one is free", |status, body| status == 503 && body.contains("1 free"));
    lobby.leave();
}

// --- leaving ---------------------------------------------------------------------------------------------------------

/// The line about a second signal.
const TOLD_AGAIN: &str = " signal stage=";
/// Lines of an encoder that leaves while its store does not take what it has.
const LEFT_UNFINISHED: [&str; 4] = [
    "left with last writes unfinished",
    "left with archives unfinished",
    "cannot look for unfinished archives",
    "the end of an archive's index is not stored",
];

/// Text of the stored playlist; `None` until it has EXT-X-ENDLIST.
fn sealed(output: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(output.join(format!("live/{STREAM}/source/index.m3u8"))).ok()?;
    text.contains("#EXT-X-ENDLIST").then_some(text)
}

/// Whether the stream's archive is complete.
fn archived(output: &std::path::Path) -> bool {
    Archived::of(output).is_some_and(|archived| archived.is_complete())
}

/// Sends SIGTERM and waits until the encoder drains.
fn drain(encoder: &Encoder) {
    encoder.signal(Signal::TERM);
    eventually("the drain", Duration::from_secs(5), || {
        (encoder.metric("encoder_draining", &[]) == 1.0).then_some(())
    });
}

/// Sends a signal; returns the time until the process exits with code 0.
fn leaves(encoder: &mut Encoder, signal: Signal) -> Duration {
    let asked = Instant::now();
    encoder.signal(signal);
    let status = encoder.wait(Duration::from_secs(30));
    let took = asked.elapsed();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{status:?}:\n{}", encoder.log());
    eprintln!("left after {took:?}");
    took
}

#[test]
fn told_to_leave_while_free_it_is_gone_within_a_second() {
    let mut encoder = Encoder::start(member());
    assert!(leaves(&mut encoder, Signal::TERM) < patience(Duration::from_secs(1)));
}

#[test]
fn told_to_leave_during_a_stream_it_lets_the_publisher_finish() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(member().set("--reconnect-window", "20"));
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    encoder.signal(Signal::TERM);
    let body = eventually("readiness to fall", Duration::from_secs(5), || {
        let answer = encoder.admin("readyz");
        let text = answer.text().ok()?;
        (answer.status == 503 && text.contains("taking no more streams")).then_some(text)
    });
    assert!(body.contains("draining"), "{body}");
    assert_eq!(encoder.admin("livez").status, 200, "a draining encoder is alive");
    assert_eq!((encoder.metric("encoder_draining", &[]), encoder.metric("encoder_busy", &[])), (1.0, 0.0));
    let refused = eventually("connections to be refused", Duration::from_secs(1), || connect(&encoder).err());
    assert_eq!(refused, ErrorKind::ConnectionRefused);

    finishes_in_peace(&mut encoder, &mut publisher, &url);
}

/// The stream at `url` grows while its encoder drains; when the publisher stops, the encoder seals the stream and leaves.
fn finishes_in_peace(encoder: &mut Encoder, publisher: &mut Program, url: &str) {
    let media = tests::http::join(url, "source/index.m3u8");
    let segments = || Some(encoder.client.get(&media).ok()?.text().ok()?.matches("#EXTINF").count());
    let before = segments().unwrap();
    eventually("the stream to grow", Duration::from_secs(20), || (segments()? >= before + 2).then_some(()));
    assert!(publisher.exited().is_none(), "{}", publisher.output());

    // A draining encoder keeps no reconnect window: a returning publisher would be sent to another encoder.
    publisher.stop(Duration::from_secs(5));
    let status = encoder.wait(Duration::from_secs(10));
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{status:?}");
    assert!(sealed(encoder.output.path()).is_some() && archived(encoder.output.path()));
}

#[test]
fn told_to_leave_while_a_publisher_is_away_it_does_not_wait_for_it() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(member().set("--reconnect-window", "300").allowing(INTERRUPTED));
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    publisher.signal(Signal::KILL);
    publisher.wait(Duration::from_secs(5));
    eventually("the publisher to be missed", Duration::from_secs(10), || {
        encoder.log().contains("publisher is gone").then_some(())
    });
    assert_eq!(carried(&encoder), [STREAM], "it is waited for");
    leaves(&mut encoder, Signal::TERM);
    assert!(sealed(encoder.output.path()).is_some() && archived(encoder.output.path()));
}

/// Platforms repeat SIGTERM: a restart of containerd makes the kubelet stop a draining pod once more.
#[test]
fn told_to_leave_again_and_again_it_still_lets_the_publisher_finish() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(member());
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    let url = encoder.wait_for_stream(STREAM);
    drain(&encoder);
    for repeated in 1..=3 {
        encoder.signal(Signal::TERM);
        // The next signal is sent when this one was heard: of two that wait, a process hears one.
        eventually("the signal to be heard", Duration::from_secs(5), || {
            (encoder.log().matches("signal again").count() == repeated).then_some(())
        });
    }
    finishes_in_peace(&mut encoder, &mut publisher, &url);
}

#[test]
fn told_to_hurry_while_it_drains_it_seals_and_goes_within_five_seconds() {
    hurries(Signal::INT);
}

#[test]
fn told_to_quit_while_it_drains_it_seals_and_goes_within_five_seconds() {
    hurries(Signal::QUIT);
}

fn hurries(signal: Signal) {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(member().logging(&[TOLD_AGAIN]));
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    drain(&encoder);
    let took = leaves(&mut encoder, signal);
    assert!(took < patience(Duration::from_secs(5)), "{took:?}");
    assert!(sealed(encoder.output.path()).is_some() && archived(encoder.output.path()));
    publisher.wait(publisher::REFUSAL);
    assert!(
        publisher.output().contains("shutting down"),
        "the publisher is told why:\n{}",
        publisher.output()
    );
}

#[test]
fn the_drain_has_a_deadline() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let mut encoder = Encoder::start(member().set("--drain-timeout", "1"));
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    let took = leaves(&mut encoder, Signal::TERM);
    assert!(took >= Duration::from_secs(1) && took < patience(Duration::from_secs(6)), "{took:?}");
    assert!(sealed(encoder.output.path()).is_some() && archived(encoder.output.path()));
}

#[test]
fn a_store_that_is_down_does_not_keep_it() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let options = member()
        .expecting(&["encoder_store_writes_total"])
        .allowing(STORE_FAILS)
        .logging(&[TOLD_AGAIN])
        .logging(&LEFT_UNFINISHED);
    let mut encoder = Encoder::start(options);
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    // Replace the folder by a file: from now on every write fails, even for root.
    let folder = encoder.output.path().to_owned();
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "not a folder").unwrap();
    eventually("writes to fail", Duration::from_secs(20), || {
        let all = encoder.metric("encoder_store_writes_total", &[]);
        (all > encoder.metric("encoder_store_writes_total", &["result=\"ok\""])).then_some(())
    });
    assert_eq!(encoder.admin("livez").status, 200, "a restart would not bring the store back");
    drain(&encoder);
    let took = leaves(&mut encoder, Signal::INT);
    assert!(took < patience(Duration::from_secs(5)), "{took:?}");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
}

/// An encoder with a stream into a bucket; from now on every call to the bucket meets the fault.
fn into_a_bucket_that_is_down(fault: Fault) -> (FakeGcs, Encoder, Program) {
    let bucket = FakeGcs::start("live");
    let options = member()
        .set("--output", "gs://live/tv")
        .set("--gcs-endpoint", &bucket.endpoint())
        .allowing(STORE_FAILS)
        .logging(&[TOLD_AGAIN])
        .logging(&LEFT_UNFINISHED);
    let encoder = Encoder::start(options);
    let publisher = publisher::ffmpeg_looped(&fixtures::clip(CLIP), &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    bucket.set_rule(move |_| fault);
    eventually("something to wait for the bucket", Duration::from_secs(20), || {
        (encoder.metric("encoder_store_waiting_bytes", &[]) > 0.0).then_some(())
    });
    assert_eq!(encoder.admin("livez").status, 200, "a restart would not bring the bucket back");
    (bucket, encoder, publisher)
}

#[test]
fn a_bucket_that_is_down_keeps_it_for_half_a_minute_at_most() {
    let _turn = turn::Turn::take();
    let (_bucket, mut encoder, mut publisher) = into_a_bucket_that_is_down(Fault::Status(503));
    drain(&encoder);
    publisher.stop(Duration::from_secs(5));
    let ended = Instant::now();
    let status = encoder.wait(Duration::from_secs(40));
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{status:?}:\n{}", encoder.log());
    eprintln!("left {:?} after its stream", ended.elapsed());
}

#[test]
fn a_bucket_that_hangs_does_not_keep_it_when_told_to_hurry() {
    let _turn = turn::Turn::take();
    let (_bucket, mut encoder, _publisher) = into_a_bucket_that_is_down(Fault::Hang);
    drain(&encoder);
    let took = leaves(&mut encoder, Signal::INT);
    assert!(took < patience(Duration::from_secs(5)), "{took:?}");
    assert!(encoder.log().contains("last writes unfinished"), "{}", encoder.log());
}

/// A failed liveness probe restarts the container, so all work must be complete before.
#[test]
fn after_as_many_streams_as_it_should_serve_liveness_falls_once_all_is_complete() {
    let clip = fixtures::clip("short");
    let _turn = turn::Turn::take();
    let bucket = FakeGcs::start("live");
    bucket.set_rule(|call| match call.operation {
        Operation::Compose => Fault::Slow(Duration::from_secs(3)),
        _ => Fault::None,
    });
    let options = member().set("--output", "gs://live/tv").set("--gcs-endpoint", &bucket.endpoint());
    let encoder = Encoder::start(options.set("--recycle-after", "1"));
    publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM)).wait(Duration::from_secs(20));
    let body = eventually("liveness to fall", Duration::from_secs(20), || {
        let answer = encoder.admin("livez");
        (answer.status == 503).then(|| answer.text().unwrap())
    });
    assert!(body.contains("served as many streams as it should"), "{body}");
    let names = bucket.state().objects.names("live");
    assert!(names.iter().any(|name| name.ends_with("/sealed.json")), "{names:?}");
    let playlist = format!("tv/live/{STREAM}/source/index.m3u8");
    let playlist = bucket.state().objects.peek("live", &playlist).unwrap().body.clone();
    assert!(playlist.ends_with(b"#EXT-X-ENDLIST\n"));
    assert_eq!(encoder.admin("startupz").status, 200);
    assert_eq!(connect(&encoder).unwrap_err(), ErrorKind::ConnectionRefused);
}

// --- reports to operators and Agones ---------------------------------------------------------------------------------

#[test]
fn metrics_explain_themselves_and_their_number_is_bounded() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let options = member().set("--when-full", "tell").set("--ladder", "360p@800k");
    let encoder = Encoder::start(options.expecting(&["encoder_rejected_total"]));
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url("one-name"));
    encoder.wait_for_stream("one-name");
    turned_away(&encoder.rtmp_url("another-name"));
    let text = encoder.admin("metrics").text().unwrap();
    for name in [
        "encoder_available",
        "encoder_busy",
        "encoder_draining",
        "encoder_streams",
        "encoder_publish_total",
        "encoder_rejected_total",
        "encoder_stage_delay_seconds",
        "encoder_lag_seconds",
        "encoder_lag_budget_seconds",
        "encoder_store_writes_total",
        "encoder_store_bytes_total",
        "encoder_build_info",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is not in:\n{text}");
    }
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} says nothing of itself");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name} has no unit");
    }
    assert!(!text.contains("one-name") && !text.contains("another-name"), "names are labels in:\n{text}");
    let is_series = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.contains("_bucket{");
    let series = text.lines().filter(is_series).count();
    // Neither names nor addresses are labels: this grows with the code only.
    assert!(series < 90, "{series} series:\n{text}");
}

#[test]
fn agones_hears_of_every_change_and_of_health_and_again_after_its_sidecar_restarts() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let sidecar = Sidecar::start();
    let port = sidecar.port();
    let mut options = member().set("--fleet", "agones").logging(&["agones: the sidecar does not answer"]);
    options.env.push(("AGONES_SDK_GRPC_PORT".to_owned(), port.to_string()));
    let mut encoder = Encoder::start(options);
    let heard = |sidecar: &Sidecar, calls: &[&str]| {
        eventually(&format!("{calls:?}, heard {:?}", sidecar.states()), Duration::from_secs(15), || {
            (sidecar.states() == calls).then_some(())
        });
    };
    heard(&sidecar, &["Ready"]);
    let mut publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    heard(&sidecar, &["Ready", "Allocate"]);
    eventually("three pings", Duration::from_secs(20), || (sidecar.pings().len() >= 3).then_some(()));
    let pings = sidecar.pings();
    let longest = pings.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(
        longest < patience(Duration::from_secs(5)),
        "Agones expects one every 5 s, longest pause {longest:?}"
    );

    // A restarted sidecar has no state: the encoder must report again. The stream continues meanwhile.
    drop(sidecar);
    eventually("the loss to be noticed", Duration::from_secs(15), || {
        encoder.log().contains("the sidecar does not answer").then_some(())
    });
    let sidecar = Sidecar::at(port);
    heard(&sidecar, &["Allocate"]);
    assert!(publisher.exited().is_none(), "{}", publisher.output());

    // The stream ends and the encoder is ready for another; then it is told to exit.
    publisher.stop(Duration::from_secs(5));
    heard(&sidecar, &["Allocate", "Ready"]);
    leaves(&mut encoder, Signal::TERM);
    heard(&sidecar, &["Allocate", "Ready", "Shutdown"]);
}

#[test]
fn the_operators_page_shows_what_status_says() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let ladder = "source,360p@800k,240p@400k";
    let options = member().set("--when-full", "tell").set("--ladder", ladder);
    let restarts = ["encoder_worker_restarts_total"];
    let encoder = Encoder::start(options.expecting(&restarts).allowing(INTERRUPTED));
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    // Cause a warning: kill the worker.
    tests::process::signal_pid(encoder.workers()[0], Signal::KILL);
    let page = tests::browser::operator_page(&format!("http://127.0.0.1:{}/", encoder.ports.admin)).unwrap();
    assert!(page.console.is_empty() && page.foreign.is_empty(), "{:?} {:?}", page.console, page.foreign);
    assert_eq!((page.state.as_str(), page.stream.as_str()), ("busy", "live/test"));
    assert!(page.why.contains("all places are taken") && !page.lost, "{page:?}");
    assert!(page.picture.0 > page.picture.1 && page.picture.1 > 0, "{:?}", page.picture);
    assert_eq!(page.facts["source"], "1280×720, 30 frames/s");
    assert_eq!(page.facts["worker restarts"], "1");
    assert!(page.warnings.iter().any(|line| line.contains("worker died")), "{:?}", page.warnings);
    let names: Vec<&str> = page.rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, ["360p", "240p", "audio", "source"]);
    assert_eq!(page.rows[0][1..4], ["640×360", "30", "800"]);
    // The page shows the bitrates that viewers download.
    for row in page.rows.iter().filter(|row| row[0] != "audio") {
        let shown: f64 = row[4].replace(',', "").parse().unwrap();
        let told = page.status["streams"][0]["output"][&row[0]]["bits_per_second"].as_f64().unwrap() / 1000.0;
        assert!((shown - told).abs() < 1.0 && shown > 50.0, "{row:?}, told {told}");
    }
    // Frame rate and quantiser of the encoded rungs.
    for (row, told) in
        page.rows[..2].iter().zip(page.status["streams"][0]["worker"]["rungs"].as_array().unwrap())
    {
        let shown = |at: usize| row[at].parse::<f64>().unwrap() * 10.0;
        assert_eq!(shown(5).round(), told["frame_rate_tenths"].as_f64().unwrap(), "{row:?}");
        assert_eq!(shown(6).round(), told["quantiser_tenths"].as_f64().unwrap(), "{row:?}");
        assert!(shown(5) > 0.0 && (80.0..510.0).contains(&shown(6)), "{row:?}");
    }
    assert_eq!(page.rows[3][5..7], ["–", "–"], "what is passed through");
}

#[test]
fn log_entries_are_what_google_cloud_reads() {
    let clip = fixtures::clip("short");
    let _turn = turn::Turn::take();
    let mut options = member().set("--log-format", "json");
    options.env.push(("GOOGLE_CLOUD_PROJECT".to_owned(), "demo-project".to_owned()));
    let mut encoder = Encoder::start(options);
    publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM)).wait(Duration::from_secs(20));
    eventually("the stream's end", Duration::from_secs(20), || {
        encoder.log().contains("stream has ended").then_some(())
    });
    leaves(&mut encoder, Signal::TERM);
    let log = encoder.log();
    let entries: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for entry in &entries {
        let severity = entry["severity"].as_str().unwrap();
        assert!(["DEBUG", "INFO", "WARNING", "ERROR"].contains(&severity), "{entry}");
        assert!(entry["message"].is_string() && entry["time"].as_str().unwrap().ends_with('Z'), "{entry}");
        assert_ne!(severity, "ERROR", "nothing went wrong: {entry}");
    }
    let of_stream: Vec<_> =
        entries.iter().filter(|entry| entry["stream"] == STREAM && entry["app"] == "live").collect();
    assert!(of_stream.len() > 2, "{log}");
    let trace = of_stream[0]["logging.googleapis.com/trace"].as_str().unwrap();
    assert!(trace.starts_with("projects/demo-project/traces/"), "{trace}");
    assert!(of_stream.iter().all(|entry| entry["logging.googleapis.com/trace"] == trace), "one trace: {log}");
}
