//! `make bench-latency`: glass-to-glass latency, read off the picture. A camera draws the wall clock on real footage as
//! machine-readable blocks (`tests::footage`), the encoder takes the stream at each setting of its latency, and
//! headless Chromium plays it; a script reads every frame on screen (`tests::viewer`). For comparison, a common setup
//! without the encoder: FFmpeg writing segments of 1 s and of 2 s, served by a web server, and hls.js with its
//! defaults. All on one machine, so camera and screen share a clock. Prints a Markdown table; docs/latency.md explains
//! it.
//!
//! Environment: `BENCH_KNOBS` (default `2,3,4,6,10,15`), `BENCH_SECONDS` (measured, default 60), `BENCH_WARMUP` (before
//! that, default 15), `BENCH_ONLY` (some of `page,plain,store,ffmpeg`), `BENCH_FILE` (one JSON line per viewing,
//! default `target/bench-latency.jsonl`), `ENCODER_BIN` (an existing binary).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod figures;
mod report;
mod stage;

use anyhow::Context;
use figures::Figures;
use report::{Report, Row};
use stage::{FfmpegStage, Stage, Viewer};
use std::collections::BTreeSet;
use tests::footage::{Exposed, Footage};
use tests::viewer::{self, View, Viewed};
use tests::{encoder_process, fixtures, turn};

/// Settings of a run.
struct Settings {
    knobs: Vec<f64>,
    only: Vec<String>,
    seconds: f64,
    warmup: f64,
}

impl Settings {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == what)
    }
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    match std::env::var(name) {
        Ok(text) => text.parse().ok().with_context(|| format!("{name}: '{text}' cannot be used")),
        Err(_) => Ok(default),
    }
}

fn list(name: &str, default: &str) -> anyhow::Result<Vec<String>> {
    let text = variable(name, default.to_owned())?;
    Ok(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-latency: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let knobs = list("BENCH_KNOBS", "2,3,4,6,10,15")?;
    let settings = Settings {
        knobs: knobs.iter().map(|k| k.parse().context(k.clone())).collect::<Result<_, _>>()?,
        only: list("BENCH_ONLY", "")?,
        seconds: variable("BENCH_SECONDS", 60.0)?,
        warmup: variable("BENCH_WARMUP", 15.0)?,
    };
    let _turn = turn::Turn::take();
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let clip = fixtures::clip("footage-720p30-clean");
    // The footage is 5.28 s long; after that the clip repeats.
    let footage = Footage::decode(&clip, stage::SIZE, 5.28)?;
    let mut report = Report::open(settings.seconds, settings.warmup)?;

    for knob in &settings.knobs {
        let viewers: Vec<Viewer> = Viewer::ALL.into_iter().filter(|v| settings.wants(v.name())).collect();
        if !viewers.is_empty() {
            alone(&format!("{knob} s"), || {
                at_setting(*knob, &viewers, &settings, &footage, &clip, &mut report)
            });
        }
    }
    for segment in [1.0, 2.0].into_iter().filter(|_| settings.wants("ffmpeg")) {
        alone(&format!("ffmpeg with {segment} s"), || {
            ffmpeg(segment, &settings, &footage, &clip, &mut report)
        });
    }
    report.close()
}

/// Runs one setting. A failure, even a panic of the harness, does not affect the other settings.
fn alone(what: &str, act: impl FnOnce() -> anyhow::Result<()>) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("bench-latency: {what}: {error:#}"),
        // The panic has printed its message already.
        Err(_) => eprintln!("bench-latency: {what}: given up"),
    }
}

/// Measures one encoder with all viewers, one after the other.
fn at_setting(
    knob: f64,
    viewers: &[Viewer],
    settings: &Settings,
    footage: &Footage,
    clip: &std::path::Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut stage = Stage::start(knob, footage, clip)?;
    let mut seen = Vec::new();
    for viewer in viewers {
        eprintln!("bench-latency: {knob} s, {}", viewer.name());
        match watch(stage.page(*viewer), settings) {
            Ok((viewed, busy)) => seen.push((*viewer, viewed, busy)),
            Err(error) => eprintln!("bench-latency: {knob} s, {}: {error:#}", viewer.name()),
        }
    }
    let exposed = stage.exposed()?;
    let stored = stage.finish()?;
    for (viewer, viewed, busy) in seen {
        let lost = Figures::range(&viewed).map(|range| lost(&exposed, &stored, range));
        let row = Row {
            knob: Some(knob),
            viewer: viewer.name().to_owned(),
            goal: viewer == Viewer::Page,
            lost,
            busy,
        };
        report.add(row, &viewed, &exposed)?;
    }
    Ok(())
}

fn ffmpeg(
    segment: f64,
    settings: &Settings,
    footage: &Footage,
    clip: &std::path::Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    eprintln!("bench-latency: ffmpeg, {segment} s segments");
    let mut stage = FfmpegStage::start(segment, footage, clip)?;
    let (viewed, busy) = watch(stage.page(), settings)?;
    let exposed = stage.exposed()?;
    let viewer = format!("ffmpeg, {segment} s segments");
    report.add(Row { knob: None, viewer, goal: false, lost: None, busy }, &viewed, &exposed)
}

/// Runs one viewing; also returns the share of processor time in use.
fn watch(page: String, settings: &Settings) -> anyhow::Result<(Viewed, f64)> {
    let patience = tests::patience::patience(std::time::Duration::from_secs(40)).as_secs_f64();
    let view = View { page, warmup: settings.warmup, seconds: settings.seconds, patience };
    let before = report::cpu_times();
    let viewed = viewer::watch(&view)?;
    Ok((viewed, report::busy(before, report::cpu_times())))
}

/// Number of published frames in a range that are not in the store.
fn lost(exposed: &Exposed, stored: &BTreeSet<u64>, (first, last): (u64, u64)) -> usize {
    exposed.codes.iter().filter(|code| (first..=last).contains(*code) && !stored.contains(*code)).count()
}
