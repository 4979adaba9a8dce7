//! Latency set by application, operator and publisher; a running stream keeps the latency it started with.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use encoder::testing::status::EncoderStatus;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::process::Program;
use tests::{fixtures, publisher, turn};

fn options() -> Options {
    Options::default().set("--ladder", "240p@300k").set("--reconnect-window", "1")
}

fn publish(encoder: &Encoder, query: &str) -> Program {
    let clip = fixtures::clip("footage-720p30-gop1s");
    publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(&format!("{STREAM}{query}")))
}

/// The stream's latency in `streams.json`, in seconds, as viewers read it.
fn listed_latency(encoder: &Encoder) -> Option<f64> {
    let listing: Value =
        serde_json::from_str(&encoder.client.get(&encoder.url("streams.json")).unwrap().text().unwrap())
            .unwrap();
    let stream = listing["streams"].as_array()?.iter().find(|stream| stream["name"] == STREAM)?;
    stream["latency_secs"].as_f64()
}

fn status(encoder: &Encoder) -> EncoderStatus {
    serde_json::from_str(&encoder.admin("status").text().unwrap()).unwrap()
}

/// Publishes until `streams.json` lists a latency, then ends the stream; returns the latency in seconds.
fn latency_of_a_publish(encoder: &Encoder, query: &str) -> f64 {
    let mut publisher = publish(encoder, query);
    // Playlists of the previous stream may still exist; only the listing tells the two streams apart.
    let latency = eventually("the stream", Duration::from_secs(30), || listed_latency(encoder));
    end(encoder, &mut publisher);
    latency
}

fn end(encoder: &Encoder, publisher: &mut Program) {
    publisher.stop(Duration::from_secs(5));
    eventually("the stream's end", Duration::from_secs(20), || {
        status(encoder).streams.is_empty().then_some(())
    });
}

/// Sends a PUT with curl, as an operator would.
fn put(encoder: &Encoder, body: &str) -> Value {
    let url = format!("http://127.0.0.1:{}/streams/live/{STREAM}/latency", encoder.ports.admin);
    let done = Command::new("curl").args(["-sS", "-X", "PUT", "-d", body, &url]).output().unwrap();
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn an_application_has_its_own_and_an_operator_sets_the_next() {
    let _turn = turn::Turn::take();
    let encoder = Encoder::start(options().set("--latency", "6,live=3"));
    let mut running = publish(&encoder, "?latency=9");
    let url = encoder.wait_for_stream(STREAM);
    assert_eq!(
        listed_latency(&encoder),
        Some(3.0),
        "no bounds are set: what the publisher wishes is ignored"
    );
    assert!(!url.contains("latency"));

    let told = put(&encoder, "{\"latency\": 12}");
    assert_eq!(told["in_force"], json!({ "latency": 3.0, "from": "app" }));
    assert_eq!(told["next"], json!({ "latency": 12.0, "from": "set" }));
    let status = status(&encoder);
    let stream = &status.streams[0];
    assert_eq!((stream.name.as_str(), stream.latency), (STREAM, 3.0));
    assert_eq!(stream.next_latency, 12.0);
    assert_eq!(listed_latency(&encoder), Some(3.0), "a running stream keeps its own");

    end(&encoder, &mut running);
    assert_eq!(latency_of_a_publish(&encoder, ""), 12.0);
    let log = encoder.stop();
    assert!(log.contains("--latency-bounds is not set"), "{log}");
}

#[test]
fn a_publisher_has_its_wish_within_bounds() {
    let _turn = turn::Turn::take();
    let options = options().set("--latency-bounds", "3-10").logging(&["outside --latency-bounds"]);
    let encoder = Encoder::start(options);
    assert_eq!(latency_of_a_publish(&encoder, "?token=x&latency=5"), 5.0);
    assert_eq!(latency_of_a_publish(&encoder, "?latency=2"), 3.0, "on the air, at the bound");
    assert_eq!(latency_of_a_publish(&encoder, ""), 6.0);
    let log = encoder.stop();
    assert!(log.contains("outside --latency-bounds"), "{log}");
}
