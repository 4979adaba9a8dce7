//! Part of `make bench`: how soon `/readyz` answers while every core encodes (a thousand requests, each on its own
//! connection, as a kubelet sends them), and how long a balancer with a health check every second still sends
//! publishers to an encoder that has just become busy. Prints Markdown tables.
//!
//! Environment: `BENCH_PROBES` (requests, default 1000), `BENCH_WINDOWS` (streams, default 20).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use anyhow::ensure;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};
use tests::balancer::{Balancer, Server};
use tests::encoder_process::{self, Encoder, Options};
use tests::patience::eventually;
use tests::process::{Program, stat, tree};
use tests::{fixtures, publisher, turn};

/// Goal for the 99th percentile: a kubelet's time-out is a second, and a balancer with a check every second needs far
/// less.
const GOAL: Duration = Duration::from_millis(20);
/// Interval between two requests.
const EVERY: Duration = Duration::from_millis(10);

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-probes: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let requests = std::env::var("BENCH_PROBES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let streams = std::env::var("BENCH_WINDOWS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    let _turn = turn::Turn::take();
    if std::env::var_os("ENCODER_BIN").is_none() && std::env::var_os("ENCODER_PROFILE").is_none() {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    probes(requests)?;
    windows(streams)
}

/// Measures how soon `/readyz` answers.
fn probes(requests: usize) -> anyhow::Result<()> {
    let clip = fixtures::clip("footage-720p30-gop2s");
    let cores = std::thread::available_parallelism()?.get();
    // One stream per core, each more work than a core can do.
    let options = Options::default().set("--capacity", &cores.to_string()).set("--preset", "slow");
    let encoder = Encoder::start(options.unjudged());
    let publishers: Vec<Program> =
        (0..cores).map(|n| publisher::ffmpeg_looped(&clip, &encoder.rtmp_url(&format!("load{n}")))).collect();
    for n in 0..cores {
        encoder.wait_for_stream(&format!("load{n}"));
    }
    let cpu = || tree(encoder.pid()).into_iter().filter_map(stat).map(|stat| stat.cpu_seconds).sum::<f64>();
    let (began, cpu_before) = (Instant::now(), cpu());
    let mut took: Vec<Duration> =
        (0..requests).map(|_| ask(encoder.ports.admin)).collect::<anyhow::Result<_>>()?;
    let busy = (cpu() - cpu_before) / began.elapsed().as_secs_f64();
    for mut publisher in publishers {
        ensure!(publisher.exited().is_none(), "a publisher was lost: {}", publisher.output());
    }
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("\n### /readyz while {busy:.1} of {cores} cores encode, {requests} requests\n");
    println!("| median | 99 % | slowest | goal (99 %) | met |\n|---|---|---|---|---|");
    let met = at(0.99) < GOAL.as_secs_f64() * 1e3;
    println!(
        "| {:.1} ms | {:.1} ms | {:.1} ms | {} ms | {} |",
        at(0.5),
        at(0.99),
        at(1.0),
        GOAL.as_millis(),
        if met { "yes" } else { "no" }
    );
    Ok(())
}

/// Measures the time from the loss of readiness until the balancer notices.
fn windows(streams: usize) -> anyhow::Result<()> {
    let clip = fixtures::clip("small");
    let options = Options::default()
        .set("--ladder", "source")
        .set("--when-full", "refuse")
        .set("--reconnect-window", "0");
    let encoder = Encoder::start(options.unjudged());
    let server = Server { rtmp: encoder.ports.rtmp, admin: encoder.ports.admin, backup: false };
    let balancer = Balancer::start(&[server], Duration::from_secs(1));
    let mut took = Vec::new();
    for n in 0..streams {
        balancer.wait_for(&[true]);
        // Vary the phase against the health checks.
        tests::patience::pause(Duration::from_millis(137 * n as u64 % 1000));
        let mut publisher = publisher::ffmpeg_looped(&clip, &balancer.rtmp_url(&format!("w{n}")));
        eventually("the encoder to be taken", Duration::from_secs(10), || {
            ask(encoder.ports.admin).is_ok().then_some(())
        });
        let taken = Instant::now();
        balancer.wait_for(&[false]);
        took.push(taken.elapsed());
        publisher.stop(Duration::from_secs(5));
    }
    took.sort();
    println!("\n### Taken, and still in rotation: HAProxy asks every second, {streams} streams\n");
    println!("| shortest | median | longest |\n|---|---|---|");
    let ms = |at: usize| took.get(at).map_or(0, Duration::as_millis);
    println!("| {} ms | {} ms | {} ms |", ms(0), ms(took.len() / 2), ms(took.len().saturating_sub(1)));
    Ok(())
}

/// Sends one request; returns the time from connecting to the last byte.
fn ask(port: u16) -> anyhow::Result<Duration> {
    tests::patience::pause(EVERY);
    let asked = Instant::now();
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    let took = asked.elapsed();
    ensure!(answer.starts_with(b"HTTP/1.1 503"), "a full encoder is not ready");
    Ok(took)
}
