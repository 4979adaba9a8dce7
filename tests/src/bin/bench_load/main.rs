//! `make bench-load`: thousands of viewers that reload the playlists of one stream with three rungs, on loopback. First
//! with blocking reloads, then with polling, as viewers do where the server cannot block. Prints a Markdown table: the
//! server's CPU and memory, and the delay from the appearance of a playlist version until each client has it.
//! Publisher, encoder and clients share the machine.
//!
//! Environment: `BENCH_CLIENTS` (default 2000), `BENCH_SECONDS` (measured, default 30), `BENCH_LATENCY` (default 4),
//! `ENCODER_BIN` (an existing binary).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use anyhow::Context;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tests::bench::{raise_open_files, variable};
use tests::encoder_process::{self, Encoder, Options, STREAM};
use tests::load::{self, Load, Loaded, Reload};
use tests::patience::pause;
use tests::{fixtures, process, publisher, turn};

/// Small pictures, because encoding is not measured.
const LADDER: &str = "360p@700k,240p@400k,160p@200k";
const RUNGS: [&str; 3] = ["360p", "240p", "160p"];

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-load: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let clients: usize = variable("BENCH_CLIENTS", 2000)?;
    let time = Duration::from_secs_f64(variable("BENCH_SECONDS", 30.0)?);
    let latency: String = variable("BENCH_LATENCY", "4".to_owned())?;
    raise_open_files(clients + 256)?;
    let _turn = turn::Turn::take();
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let clip = fixtures::clip("footage-720p30-gop1s");
    let options = Options::default().set("--latency", &latency).set("--ladder", LADDER);
    let encoder = Encoder::start(options.unjudged());
    let _publisher = publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(STREAM));
    encoder.wait_for_stream(STREAM);
    // Wait until the window of segments is full: after that, additional memory is the clients'.
    pause(Duration::from_secs(45));

    let address = SocketAddr::from(([127, 0, 0, 1], encoder.ports.http));
    let playlists = RUNGS.map(|rung| format!("/live/{STREAM}/{rung}/index.m3u8")).to_vec();
    let alone = Usage::over(encoder.pid(), || pause(Duration::from_secs(10)))?;
    println!(
        "{clients} clients, latency {latency} s, {:.0} s each, without clients: {alone}\n",
        time.as_secs_f64()
    );
    println!(
        "| clients | new versions | answers | not 200 | broken | CPU of the server | memory per client | clients' CPU | delay median | p99 | max |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, reload) in [("held", Reload::Blocking), ("polling", Reload::Polling)] {
        eprintln!("bench-load: {clients} clients, {name}");
        let load = Load { address, playlists: playlists.clone(), clients, reload, time };
        let (usage, own, loaded) = under(&encoder, &load)?;
        println!("{}", line(name, clients, &alone, &usage, own, loaded));
        // Let the server release what it held for these clients before the next ones connect.
        pause(Duration::from_secs(5));
    }
    encoder.stop();
    Ok(())
}

/// Runs a load; returns the server's usage during the measured time, the generator's CPU seconds per second, and the
/// clients' results.
fn under(encoder: &Encoder, load: &Load) -> anyhow::Result<(Usage, f64, Loaded)> {
    let pid = encoder.pid();
    let own = || process::stat(std::process::id()).map_or(0.0, |stat| stat.cpu_seconds);
    let mut begin = None;
    let mut end = None;
    let loaded = load::run(
        load,
        || begin = Some((Snapshot::of(pid), own())),
        || end = Some((Snapshot::of(pid), own())),
    )?;
    let ((begin, own_begin), (end, own_end)) = begin.zip(end).context("the load ended early")?;
    let (begin, end) = (begin?, end?);
    let usage = Usage::between(&begin, &end);
    Ok((usage, (own_end - own_begin) / (end.at - begin.at).as_secs_f64(), loaded))
}

fn line(name: &str, clients: usize, alone: &Usage, usage: &Usage, own: f64, mut loaded: Loaded) -> String {
    loaded.delays.sort_by(f64::total_cmp);
    let at = |q: f64| {
        let index = (loaded.delays.len().saturating_sub(1) as f64 * q).round() as usize;
        loaded.delays.get(index).map_or("–".to_owned(), |delay| format!("{:.1} ms", delay * 1e3))
    };
    let memory = (usage.pss_kib as f64 - alone.pss_kib as f64) / clients.max(1) as f64;
    format!(
        "| {name} | {} | {} | {} | {} | {:.1} % of a core | {memory:.1} KiB | {:.0} % of a core | {} | {} | {} |",
        loaded.versions,
        loaded.answers,
        loaded.refused,
        loaded.broken,
        (usage.cpu - alone.cpu) * 100.0,
        own * 100.0,
        at(0.5),
        at(0.99),
        at(1.0),
    )
}

/// CPU time and memory of the supervisor at one moment. The worker is not counted: it encodes regardless of the
/// viewers.
struct Snapshot {
    at: Instant,
    cpu_seconds: f64,
    pss_kib: u64,
}

impl Snapshot {
    fn of(pid: u32) -> anyhow::Result<Self> {
        let stat = process::stat(pid).context("the encoder is gone")?;
        Ok(Self { at: Instant::now(), cpu_seconds: stat.cpu_seconds, pss_kib: stat.pss_kib })
    }
}

/// The supervisor's usage: CPU seconds per second, and memory at the end.
struct Usage {
    cpu: f64,
    pss_kib: u64,
}

impl Usage {
    fn between(begin: &Snapshot, end: &Snapshot) -> Self {
        let cpu = (end.cpu_seconds - begin.cpu_seconds) / (end.at - begin.at).as_secs_f64();
        Self { cpu, pss_kib: end.pss_kib }
    }

    fn over(pid: u32, act: impl FnOnce()) -> anyhow::Result<Self> {
        let begin = Snapshot::of(pid)?;
        act();
        Ok(Self::between(&begin, &Snapshot::of(pid)?))
    }
}

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} % of a core, {:.1} MiB", self.cpu * 100.0, self.pss_kib as f64 / 1024.0)
    }
}
