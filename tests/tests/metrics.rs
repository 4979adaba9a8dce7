//! What is counted can be seen: counters and gauges of a running encoder, in `/metrics` and in `/status`.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use encoder::testing::status::EncoderStatus;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options, STREAM};
use tests::patience::eventually;
use tests::{fixtures, flv, publisher, turn};

const CLIP: &str = "footage-720p30-gop1s";

/// Counters that every running encoder shows, also those that are zero.
const COUNTERS: [&str; 14] = [
    "encoder_worker_restarts_total",
    "encoder_worker_hangs_total",
    "encoder_shed_units_total",
    "encoder_fenced_total",
    "encoder_store_segments_total",
    "encoder_store_late_total",
    "encoder_store_lost_total",
    "encoder_misaligned_cuts_total",
    "encoder_forced_cuts_total",
    "encoder_packager_gaps_total",
    "encoder_audio_resyncs_total",
    "encoder_silent_frames_total",
    "encoder_decode_errors_total",
    "encoder_dropped_units_total",
];

fn status(encoder: &Encoder) -> EncoderStatus {
    serde_json::from_str(&encoder.admin("status").text().unwrap()).unwrap()
}

/// Resident bytes of all streams' workers in `/status`.
fn worker_memory_bytes(encoder: &Encoder) -> f64 {
    status(encoder).streams.iter().map(|stream| stream.worker_memory_bytes as f64).sum()
}

/// Overwrites every IDR slice behind its NAL unit header. Ones make its first fields impossible.
fn break_slices(mut units: &mut [u8]) {
    while units.len() > 4 {
        let length = u32::from_be_bytes(units[..4].try_into().unwrap()) as usize;
        let (unit, rest) = units[4..].split_at_mut(length);
        if unit[0] & 0x1f == 5 {
            unit[1..].fill(0x01);
        }
        units = rest;
    }
}

#[test]
fn a_misaligned_cut_is_counted_where_operators_look() {
    let folder = tempfile::tempdir().unwrap();
    // The NAL unit's type and length stay, so that the picture is published and passed through as a keyframe.
    let clip = flv::edit_keyframe(&fixtures::clip(CLIP), 6, folder.path(), |units| break_slices(units));
    let _turn = turn::Turn::take();
    let options = Options::default()
        .set("--ladder", "source,360p")
        .expecting(&["encoder_misaligned_cuts_total", "encoder_decode_errors_total"])
        // What follows the broken picture cannot be shown.
        .allowing(&["encoder_dropped_units_total", "encoder_packager_gaps_total"])
        // libav says what is wrong with the picture.
        .logging(&["[h264 @"]);
    let encoder = Encoder::start(options);
    for counter in COUNTERS {
        let text = encoder.admin("metrics").text().unwrap();
        assert!(text.lines().any(|line| line.starts_with(counter)), "{counter} is not shown:\n{text}");
    }
    let _publisher = publisher::ffmpeg_once(&clip, &encoder.rtmp_url(STREAM));
    let seen = eventually("a misaligned cut in /metrics", Duration::from_secs(40), || {
        Some(encoder.metric("encoder_misaligned_cuts_total", &[])).filter(|count| *count >= 1.0)
    });
    let status = status(&encoder);
    let packager = status.streams[0].packager;
    assert!(packager.misaligned_cuts as f64 >= seen, "{packager:?}");
    assert!(encoder.metric("encoder_decode_errors_total", &[]) >= 1.0);
    encoder.stop();
}

#[test]
fn gauges_are_sums_over_streams_and_one_end_leaves_the_other() {
    let clip = fixtures::clip(CLIP);
    let _turn = turn::Turn::take();
    let options =
        Options::default().set("--capacity", "2").set("--ladder", "360p").set("--reconnect-window", "0");
    let encoder = Encoder::start(options);
    let mut publishers: Vec<_> = ["one", "two"]
        .map(|name| publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(name)))
        .into_iter()
        .collect();
    encoder.wait_for_stream("one");
    encoder.wait_for_stream("two");
    let origin = || encoder.metric("encoder_origin_bytes", &[]);
    // Both numbers are a second old at most, and workers still grow.
    let is_sum_of = |streams: usize| {
        let (gauge, sum) =
            (encoder.metric("encoder_worker_memory_bytes", &[]), worker_memory_bytes(&encoder));
        let all = status(&encoder).streams.len() == streams && encoder.workers().len() == streams;
        (all && sum > 0.0 && (gauge - sum).abs() < 0.1 * sum).then_some(())
    };
    eventually("the gauge to be the sum of both workers", Duration::from_secs(20), || is_sum_of(2));
    assert!(origin() > 0.0);
    assert!(publishers.pop().unwrap().stop(Duration::from_secs(10)));
    eventually("the gauge to be what the other worker has", Duration::from_secs(20), || is_sum_of(1));
    assert!(origin() > 0.0);
    encoder.stop();
}
