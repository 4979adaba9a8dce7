//! `make bench-lobby`: what it costs a lobby to know 1,000 and 5,000 encoders: how long until it knows all of them, then
//! processor time, connections and memory while nothing happens and while encoders become free and busy. The encoders are
//! simulated, on loopback addresses. Prints a Markdown table; a goal that is missed ends with exit code 1.
//!
//! Environment: `BENCH_SECONDS` (of each phase, default 30).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use anyhow::{Context, ensure};
use std::time::{Duration, Instant};
use tests::encoder_process;
use tests::lobby_process::Lobby;
use tests::many_encoders::ManyEncoders;
use tests::patience::pause;
use tests::process::stat;
use tests::{bench, turn};

/// Goals: processor time in cores, and new connections a second.
const CORES: f64 = 0.02;
const CONNECTIONS: f64 = 50.0;
/// Changes of readiness a second: 5,000 encoders with streams of ten minutes.
const CHANGES: u32 = 16;

fn main() -> std::process::ExitCode {
    match measure() {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-lobby: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure() -> anyhow::Result<bool> {
    let seconds: u32 = bench::variable("BENCH_SECONDS", 30)?;
    let _turn = turn::Turn::take();
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        encoder_process::use_binary(encoder_process::build("release"));
    }
    println!(
        "| encoders | phase | seconds | cores | connections a second | resident MiB | answer | goals met |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let mut met = true;
    for count in [1_000, 5_000] {
        met &= lobby(count, seconds)?;
    }
    Ok(met)
}

fn lobby(count: usize, seconds: u32) -> anyhow::Result<bool> {
    let encoders = ManyEncoders::start(count);
    encoders.set(count / 2, true);
    let lobby = Lobby::start(&encoders.names());
    let mut phases = Phases { count, met: true, encoders: &encoders, lobby: &lobby };
    phases.run("asks all", "1 free", || {
        while encoders.asked() < count as u64 {
            pause(Duration::from_millis(100));
        }
    })?;
    phases.run("one is free", "1 free", || pause(Duration::from_secs(seconds.into())))?;
    encoders.set(count / 2, false);
    let all = format!("all {count} encoders are busy");
    phases.run("all are busy", &all, || pause(Duration::from_secs(seconds.into())))?;
    phases.run(&format!("{CHANGES} changes a second"), &all, || {
        for change in 0..seconds * CHANGES {
            let encoder = (change / 2) as usize * 97 % count;
            encoders.set(encoder, change % 2 == 0);
            pause(Duration::from_secs(1) / CHANGES);
        }
    })?;
    let met = phases.met;
    lobby.leave();
    Ok(met)
}

struct Phases<'a> {
    count: usize,
    met: bool,
    encoders: &'a ManyEncoders,
    lobby: &'a Lobby,
}

impl Phases<'_> {
    fn run(&mut self, phase: &str, expected: &str, work: impl FnOnce()) -> anyhow::Result<()> {
        let cpu = || stat(self.lobby.pid()).context("the lobby has ended").map(|stat| stat.cpu_seconds);
        let (began, cpu_before, asked_before) = (Instant::now(), cpu()?, self.encoders.asked());
        work();
        let took = began.elapsed().as_secs_f64();
        let cores = (cpu()? - cpu_before) / took;
        let connections = (self.encoders.asked() - asked_before) as f64 / took;
        let resident = stat(self.lobby.pid()).context("the lobby has ended")?.rss_kib / 1024;
        self.lobby.wait_until(expected, |_, body| body.contains(expected));
        ensure!(took > 0.0, "no time has passed");
        let met = cores < CORES && connections < CONNECTIONS;
        self.met &= met;
        println!(
            "| {} | {phase} | {took:.1} | {cores:.3} | {connections:.1} | {resident} | {expected} | {} |",
            self.count,
            if met { "yes" } else { "no" }
        );
        Ok(())
    }
}
