//! `make bench-latency`: glass-to-glass latency, read off the picture. A camera draws the wall clock on real footage as
//! machine-readable blocks (`tests::footage`), the encoder takes the stream at each setting of its latency, and
//! headless Chromium plays it; a script reads every frame on screen (`tests::viewer`). For comparison, a common setup
//! without the encoder: FFmpeg writing segments of 1 s and of 2 s, served by a web server, and hls.js with its
//! defaults. All on one machine, so camera and screen share a clock. Prints a Markdown table; docs/latency.md explains
//! it. A missed goal, or a viewing that failed, exits with 1.
//!
//! `BENCH_ONLY=edge` measures viewers through an edge, and through Varnish in front of an edge, beside the same viewers
//! at the origin, into a table of its own. Without `BENCH_ONLY` they are left out.
//!
//! Environment: `BENCH_KNOBS` (default `2,3,4,6,10,15`, with `BENCH_ONLY=edge` `2,3,4,6`), `BENCH_SECONDS` (measured,
//! default 60), `BENCH_WARMUP` (before that, default 15), `BENCH_ONLY` (some of `page,plain,store,ffmpeg,edge`),
//! `BENCH_FILE` (one JSON line per viewing, default `target/bench-latency.jsonl`), `ENCODER_BIN` (an existing binary).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod figures;
mod report;
mod stage;

use anyhow::Context;
use figures::{Figures, Later};
use report::{Compared, Report, Row, Table};
use stage::{FfmpegStage, Player, Server, Stage, Viewer};
use std::collections::BTreeSet;
use tests::bench::variable;
use tests::footage::{Exposed, Footage};
use tests::viewer::{self, View, Viewed};
use tests::{encoder_process, fixtures, turn};

/// What measures viewers through edges, in `BENCH_ONLY`.
const EDGE: &str = "edge";

/// Settings of a run.
struct Settings {
    knobs: Vec<f64>,
    only: Vec<String>,
    seconds: f64,
    warmup: f64,
}

impl Settings {
    fn wants(&self, what: &str) -> bool {
        self.only.is_empty() || self.names(what)
    }

    fn names(&self, what: &str) -> bool {
        self.only.iter().any(|only| only == what)
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
    let only = list("BENCH_ONLY", "")?;
    let knobs = if only == [EDGE] { "2,3,4,6" } else { "2,3,4,6,10,15" };
    let knobs = list("BENCH_KNOBS", knobs)?;
    let settings = Settings {
        knobs: knobs.iter().map(|k| k.parse().context(k.clone())).collect::<Result<_, _>>()?,
        only,
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
        let viewers: Vec<Viewer> =
            Viewer::ALONE.into_iter().filter(|viewer| settings.wants(&viewer.name())).collect();
        let through_edges = settings.names(EDGE).then_some(Viewer::THROUGH_EDGES.to_vec());
        for viewers in [viewers, through_edges.unwrap_or_default()] {
            if !viewers.is_empty() {
                alone(&format!("{knob} s"), &mut report, |report| {
                    at_setting(*knob, &viewers, &settings, &footage, &clip, report)
                });
            }
        }
    }
    for segment in [1.0, 2.0].into_iter().filter(|_| settings.wants("ffmpeg")) {
        alone(&format!("ffmpeg with {segment} s"), &mut report, |report| {
            ffmpeg(segment, &settings, &footage, &clip, report)
        });
    }
    report.close()
}

/// Runs one setting. A failure, even a panic of the harness, does not affect the other settings.
fn alone(what: &str, report: &mut Report, act: impl FnOnce(&mut Report) -> anyhow::Result<()>) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(report))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report.failed(&format!("{what}: {error:#}")),
        // The panic has printed its message already.
        Err(_) => report.failed(&format!("{what}: given up")),
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
    if viewers.iter().any(|viewer| viewer.is_through_edge()) {
        stage.add_edges();
    }
    let mut seen = Vec::new();
    for viewer in viewers {
        let what = format!("{knob} s, {}", viewer.name());
        eprintln!("bench-latency: {what}");
        match stage.page(*viewer).and_then(|page| watch(page, settings)) {
            Ok((viewed, busy)) => seen.push((*viewer, viewed, busy)),
            Err(error) => report.failed(&format!("{what}: {error:#}")),
        }
    }
    let exposed = stage.exposed()?;
    let stored = stage.finish()?;
    let figures: Vec<_> = seen
        .iter()
        .filter_map(|(viewer, viewed, _)| Some((*viewer, Figures::of(viewed, &exposed.codes)?)))
        .collect();
    for (viewer, viewed, busy) in seen {
        let lost = Figures::range(&viewed).map(|range| lost(&exposed, &stored, range));
        let row = Row {
            knob: Some(knob),
            viewer: viewer.name(),
            goal: viewer.player == Player::Page,
            table: table(viewer, viewers, &figures),
            lost,
            busy,
        };
        report.add(row, &viewed, &exposed)?;
    }
    Ok(())
}

/// The table of a viewer, who is one of `viewers`; `figures` are those of the viewers that were measured.
fn table(viewer: Viewer, viewers: &[Viewer], figures: &[(Viewer, Figures)]) -> Table {
    if !viewers.iter().any(|viewer| viewer.is_through_edge()) {
        return Table::Alone;
    }
    if !viewer.is_through_edge() {
        return Table::Edges(Compared::IsOrigin);
    }
    let of =
        |wanted: Viewer| figures.iter().find(|(viewer, _)| *viewer == wanted).map(|(_, figures)| figures);
    let at_origin = Viewer { server: Server::Origin, ..viewer };
    Table::Edges(Compared::With(
        of(viewer).zip(of(at_origin)).and_then(|(here, origin)| Later::of(here, origin)),
    ))
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
    let row = Row { knob: None, viewer, goal: false, table: Table::Alone, lost: None, busy };
    report.add(row, &viewed, &exposed)
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
