//! `make bench-edge`: viewers' load on the servers between the encoder and viewers. Thousands of viewers of one stream
//! with three rungs hold reloads at the encoder itself, at one `encoder edge`, at two of them, at Varnish and at nginx;
//! fewer viewers also fetch every part. Measured are the server's CPU time and memory, the delay that it adds to
//! playlists and parts, and the requests that reach the encoder. Publisher, encoder, server and viewers share the
//! machine. Missed goals (`goals`) exit with 1; Varnish and nginx have no goals.
//!
//! Environment: `BENCH_VIEWERS` (that hold reloads, default 10000; at the encoder itself as many as fetch parts),
//! `BENCH_FETCHING` (that fetch parts, default 2000), `BENCH_SECONDS` (measured, default 30), `BENCH_LATENCY` (default
//! 3: a part every half second; from 6 on there are none), `BENCH_ONLY` (a comma-separated list of `encoder`, `edge`,
//! `2 edges`, `varnish`, `nginx`), `BENCH_FILE` (raw figures as JSON lines, default `target/bench-edge.jsonl`),
//! `ENCODER_BIN` (an existing binary).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod goals;
mod measure;
mod report;
mod servers;

use measure::Plan;
use report::Report;
use servers::{Kind, Server};
use std::time::Duration;
use tests::bench::{raise_open_files, variable};
use tests::encoder_process::{self, Encoder, Options, STREAM};
use tests::load::crowd::Fetch;
use tests::patience::pause;
use tests::varnish::Freshness;
use tests::{fixtures, publisher, turn};

/// Small pictures, because encoding is not measured.
const LADDER: &str = "240p@500k,180p@300k,120p@150k";
const RUNGS: [&str; 3] = ["240p", "180p", "120p"];
/// The window of segments is full after this time. Memory that grows afterwards is the viewers'.
const FILLED: Duration = Duration::from_secs(45);
/// Pause after a measurement, so that the encoder releases what it held for its viewers.
const RELEASE: Duration = Duration::from_secs(5);

struct Settings {
    viewers: usize,
    fetching: usize,
    time: Duration,
    latency: String,
    only: String,
}

impl Settings {
    fn read() -> anyhow::Result<Self> {
        Ok(Self {
            viewers: variable("BENCH_VIEWERS", 10_000)?,
            fetching: variable("BENCH_FETCHING", 2000)?,
            time: Duration::from_secs_f64(variable("BENCH_SECONDS", 30.0)?),
            latency: variable("BENCH_LATENCY", "3".to_owned())?,
            only: variable("BENCH_ONLY", String::new())?,
        })
    }

    fn wants(&self, kind: Kind) -> bool {
        self.only.is_empty() || self.only.split(',').any(|name| name.trim() == kind.name())
    }

    /// Number of viewers for a server.
    fn viewers(&self, kind: Kind, fetch: Fetch) -> usize {
        match (kind, fetch) {
            (Kind::Encoder, _) | (_, Fetch::Parts) => self.fetching,
            (Kind::Edges(_) | Kind::Varnish | Kind::Nginx, Fetch::Playlists) => self.viewers,
        }
    }
}

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-edge: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs all measurements; returns whether the goals were met.
fn bench() -> anyhow::Result<bool> {
    let settings = Settings::read()?;
    raise_open_files(settings.viewers.max(settings.fetching) + 1024)?;
    let _turn = turn::Turn::take();
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let mut report = Report::open()?;
    let clip = fixtures::clip("small-gop1s");
    let options = Options::default()
        .set("--latency", &settings.latency)
        .set("--ladder", LADDER)
        .set("--preset", "ultrafast");
    let encoder = Encoder::start(options.unjudged());
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    pause(FILLED);
    let measured = measure_all(&settings, &encoder, &mut report);
    encoder.stop();
    // What has been measured is shown, also if a server failed.
    let met = report.close();
    measured.map(|()| met)
}

/// Measures one server after the other.
fn measure_all(settings: &Settings, encoder: &Encoder, report: &mut Report) -> anyhow::Result<()> {
    let playlists = RUNGS.map(|rung| format!("/live/{STREAM}/{rung}/index.m3u8")).to_vec();
    let freshness = servers::freshness(encoder, &playlists[0])?;
    println!(
        "latency {} s, {:.0} s each; answers to blocking reloads are kept as {} says",
        settings.latency,
        settings.time.as_secs_f64(),
        match freshness {
            Freshness::Server => "the encoder",
            Freshness::BlockingReloads(_) => "the caches' configuration",
        }
    );
    for kind in Kind::ALL.into_iter().filter(|kind| settings.wants(*kind)) {
        if matches!(kind, Kind::Edges(_)) && !servers::has_edge() {
            eprintln!("bench-edge: left out {}: this encoder has no command `edge`", kind.name());
            continue;
        }
        for fetch in [Fetch::Playlists, Fetch::Parts] {
            let viewers = settings.viewers(kind, fetch);
            let plan = Plan { playlists: playlists.clone(), viewers, fetch, time: settings.time };
            eprintln!("bench-edge: {}, {viewers} viewers, {fetch:?}", kind.name());
            // A new process: memory that viewers left behind would hide what the next ones take.
            let server = Server::start(kind, encoder, freshness)?;
            report.add(kind, &measure::measure(kind, &server, &plan)?)?;
            pause(RELEASE);
        }
    }
    Ok(())
}
