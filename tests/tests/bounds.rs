//! What one publisher may cost: the bounds of a publish, and what FFmpeg shows when they are reached.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;
use tests::encoder_process::{Encoder, KEY, Options, STREAM};
use tests::patience::eventually;
use tests::{fixtures, publisher, turn};

/// Publishes until the encoder sends FFmpeg off, and returns what FFmpeg shows.
fn sent_off(encoder: &Encoder, key: &str) -> String {
    let mut publisher = publisher::ffmpeg_looped(&fixtures::clip("small-gop1s"), &encoder.rtmp_url(key));
    let ended = publisher.wait(Duration::from_secs(30));
    assert!(ended.is_some(), "it still publishes:\n{}\n{}", publisher.output(), encoder.log());
    publisher.output()
}

fn place_is_free(encoder: &Encoder) {
    eventually("the place to be free", Duration::from_secs(10), || {
        (encoder.admin("readyz").status == 200).then_some(())
    });
}

/// The stream does not wait for a publisher that was sent off because the broadcast is over.
#[test]
fn a_broadcast_ends_when_it_has_lasted_long_enough() {
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "source")
        .set("--reconnect-window", "600")
        .set("--max-duration", "4");
    let encoder = Encoder::start(options);
    let said = sent_off(&encoder, STREAM);
    assert!(said.contains("a broadcast may last 4 seconds here"), "{said}");
    place_is_free(&encoder);
    encoder.stop();
}

#[test]
fn a_publisher_that_sends_too_much_is_told_how_much_it_may() {
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "source")
        .set("--reconnect-window", "0")
        .set("--max-bitrate", "0.1");
    let encoder = Encoder::start(options.with_keys());
    let said = sent_off(&encoder, KEY);
    assert!(said.contains("more than 0.1 Mbit/s over ten seconds are not allowed here"), "{said}");
    place_is_free(&encoder);
    encoder.stop();
}
