//! Part of `make bench`: a live stream into a bucket. The bucket is the tests' own Cloud Storage with some time added
//! to every call; the stream is real footage with the wall clock in every frame (`tests::footage`). Measures the delay
//! from a segment's last frame until its playlist can be read in the bucket; requests and bytes per hour and their
//! cost; memory while the store is down; and the benefit of hedged requests. For comparison, a common setup without the
//! encoder: `ffmpeg -f hls` into a directory, and a loop that uploads new files. Prints Markdown tables.
//!
//! Environment: `BENCH_STORE_SECONDS` (time over which delays and requests are counted, default 16),
//! `BENCH_STORE_ON_AIR` (minimum running time of a stream before the store goes down, default 70: memory has settled by
//! then), `BENCH_STORE_OUTAGE` (duration of the outage in seconds, default 60), `BENCH_STORE_CALL_MS` (added to every
//! call, default 60). With the defaults the benchmark takes four and a half minutes; with `BENCH_STORE_SECONDS=8
//! BENCH_STORE_ON_AIR=0 BENCH_STORE_OUTAGE=8` two. `BENCH_STORE_ONLY`: `live`, or `tail`, which needs no real time.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod contenders;
mod cost;
mod delay;
mod outage;
mod tail;
mod uploader;

use anyhow::Context;
use contenders::{EncoderRun, FfmpegRun};
use delay::Delays;
use std::time::Duration;
use tests::footage::Footage;
use tests::{encoder_process, fixtures, turn};

/// `--latency` of the run with the outage, and of a second run: these use segments of 1 s and of 2 s.
const LATENCIES: [&str; 2] = ["4", "10"];

/// Settings of a run.
struct Settings {
    seconds: Duration,
    on_air: Duration,
    outage: Duration,
    /// Time added to every call.
    call: Duration,
}

/// Results of one contender that writes to a bucket.
struct Row {
    name: String,
    segment_seconds: f64,
    delays: Delays,
    hour: cost::Hour,
}

fn seconds(name: &str, default: f64) -> anyhow::Result<Duration> {
    let seconds = match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}: '{text}' is no number"))?,
        Err(_) => default,
    };
    Duration::try_from_secs_f64(seconds).with_context(|| name.to_owned())
}

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-store: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let settings = Settings {
        seconds: seconds("BENCH_STORE_SECONDS", 16.0)?,
        on_air: seconds("BENCH_STORE_ON_AIR", 70.0)?,
        outage: seconds("BENCH_STORE_OUTAGE", 60.0)?,
        call: seconds("BENCH_STORE_CALL_MS", 60.0)? / 1000,
    };
    let _turn = turn::Turn::take();
    let only = std::env::var("BENCH_STORE_ONLY").unwrap_or_default();
    if only != "tail" {
        live(&settings)?;
    }
    if only != "live" {
        println!("\n### The slow tail: 2 % of calls take 2 s, the others {} ms\n", settings.call.as_millis());
        tail::print(settings.call)?;
    }
    Ok(())
}

/// The measurements in real time.
fn live(settings: &Settings) -> anyhow::Result<()> {
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let clip = fixtures::clip("footage-720p30-clean");
    // The footage is 5.28 s long; after that the clip repeats.
    let footage = Footage::decode(&clip, contenders::SIZE, 5.28)?;

    let mut rows = Vec::new();
    let mut away = None;
    for (latency, long) in LATENCIES.into_iter().zip([true, false]) {
        let mut run = EncoderRun::start(latency, settings.call, &footage, &clip)?;
        let on_air = if long { settings.on_air } else { Duration::ZERO };
        let (row, memory) = run.measure(settings.seconds, on_air)?;
        rows.push(row);
        if long {
            away = Some(outage::outage(&run, &memory, settings.call, settings.outage));
        }
        run.stop()?;
    }
    for segment_seconds in rows.iter().map(|row| row.segment_seconds).collect::<Vec<_>>() {
        let run = FfmpegRun::start(segment_seconds, settings.call, &footage, &clip)?;
        rows.extend(run.measure(settings.seconds)?);
    }

    let call = settings.call.as_millis();
    println!("\n### Into a bucket, {call} ms a call: from a segment's last frame to its playlist\n");
    delay::print(&rows);
    println!("\n### What an hour of stream costs in the bucket\n");
    cost::print(&rows);
    if let Some(away) = away {
        println!(
            "\n### The bucket away for {:.0} s, `--latency {}`\n",
            settings.outage.as_secs_f64(),
            LATENCIES[0]
        );
        away.print();
    }
    Ok(())
}
