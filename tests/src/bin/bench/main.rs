//! `make bench`: the encoder beside one FFmpeg process that does the same ladder, and beside nginx-rtmp where nothing is
//! encoded; one run, one machine, one source. Prints a Markdown table.
//!
//! Environment: `BENCH_SECONDS` (measured time of each run, default 30), `BENCH_LATENCY` (the encoder's `--latency`,
//! default 10.5: from there published keyframes every 2 s can be passed through), `BENCH_STREAMS` (default 20), `BENCH_VMAF=0` (SSIM only), `BENCH_ONLY` (`ladder`, `source`, `nginx`, or `peers`: the others
//! by themselves).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod contenders;
mod measure;
mod quality;

use contenders::{EncoderRun, FfmpegRun, NginxRun};
use measure::Measured;
use std::path::Path;
use std::time::Duration;
use tests::reference::{Reference, Rung};
use tests::{encoder_process, fixtures, turn};

/// Settings of a run.
struct Settings {
    seconds: f64,
    latency: String,
    streams: usize,
    vmaf: bool,
}

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn main() -> std::process::ExitCode {
    match bench() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let settings = Settings {
        seconds: variable("BENCH_SECONDS", 30.0),
        latency: variable("BENCH_LATENCY", "10.5".to_owned()),
        streams: variable("BENCH_STREAMS", 20),
        vmaf: variable("BENCH_VMAF", 1) != 0,
    };
    let only: String = variable("BENCH_ONLY", String::new());
    let _turn = turn::Turn::take();
    if only != "peers"
        && std::env::var_os("ENCODER_BIN").is_none()
        && std::env::var_os("ENCODER_PROFILE").is_none()
    {
        // Nobody publishes numbers of a debug build.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let clip = fixtures::clip("footage-720p30-clean");

    if only == "peers" {
        return peers(&clip, &settings);
    }
    if only.is_empty() || only == "ladder" {
        let rungs = Reference::three_rungs().rungs;
        ladder("720p, 480p, 360p (veryfast)", &rungs, &clip, &settings)?;
    }
    if only.is_empty() || only == "source" {
        let mut rungs = Reference::three_rungs().rungs;
        rungs[0] = Rung { name: "source", height: 720, bitrate: None };
        // What it is compared with still encodes three rungs: passing the source through is the point.
        ladder("source, 480p, 360p", &rungs, &clip, &settings)?;
    }
    if only.is_empty() || only == "nginx" {
        nginx(&clip, &settings)?;
    }
    Ok(())
}

/// One ladder: the encoder, then FFmpeg with the encoder's own GOP and segment length.
fn ladder(title: &str, rungs: &[Rung], clip: &Path, settings: &Settings) -> anyhow::Result<()> {
    println!("\n### {title}: {} s of 720p30, one stream\n", settings.seconds);
    let flag: Vec<String> = rungs
        .iter()
        .map(|r| r.bitrate.map_or(r.name.to_owned(), |b| format!("{}@{}k", r.name, b / 1000)))
        .collect();
    let ours = measure::run(
        EncoderRun::start(&flag.join(","), &settings.latency, 1),
        clip,
        1,
        Duration::from_secs_f64(settings.seconds),
        true,
    )?;
    let mut reference = Reference::three_rungs();
    (reference.gop_seconds, reference.segment_seconds) = quality::grid(&ours.rungs[rungs.len() - 1].file)?;
    reference.window = 0;
    let theirs = measure::run(
        FfmpegRun::start(&reference)?,
        clip,
        1,
        Duration::from_secs_f64(settings.seconds),
        true,
    )?;
    println!("GOP {} s, segments {} s\n", reference.gop_seconds, reference.segment_seconds);
    processes(&[&ours, &theirs]);

    println!(
        "\n| rung | encoder kbit/s | ffmpeg kbit/s | encoder SSIM | ffmpeg SSIM | encoder VMAF | ffmpeg VMAF |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (mine, other) in ours.rungs.iter().zip(&theirs.rungs) {
        let seconds = settings.seconds.min(20.0);
        let scores = [mine, other].map(|rung| quality::scores(&rung.file, clip, seconds, settings.vmaf));
        let text = |pick: fn(&quality::Scores) -> Option<f64>, digits: usize| {
            scores.each_ref().map(|s| match s {
                Ok(s) => pick(s).map_or("n/a".into(), |v| format!("{v:.digits$}")),
                Err(error) => format!("({error:#})"),
            })
        };
        let (ssim, vmaf) = (text(|s| Some(s.ssim), 4), text(|s| s.vmaf, 2));
        println!(
            "| {} | {:.0} | {:.0} | {} | {} | {} | {} |",
            mine.name, mine.kbps, other.kbps, ssim[0], ssim[1], vmaf[0], vmaf[1]
        );
    }
    Ok(())
}

/// Nothing encoded: the encoder's `source` ladder beside nginx-rtmp's HLS.
fn nginx(clip: &Path, settings: &Settings) -> anyhow::Result<()> {
    for streams in [1, settings.streams] {
        println!("\n### source only: {} s of 720p30, {streams} stream(s)\n", settings.seconds);
        let time = Duration::from_secs_f64(settings.seconds);
        let ours = measure::run(
            EncoderRun::start("source", &settings.latency, streams),
            clip,
            streams,
            time,
            false,
        )?;
        let mut all = vec![ours];
        match NginxRun::start() {
            Ok(run) => all.push(measure::run(run, clip, streams, time, false)?),
            Err(error) => println!("nginx-rtmp was left out: {error:#}\n"),
        }
        processes(&all.iter().collect::<Vec<_>>());
    }
    Ok(())
}

/// FFmpeg's ladder and nginx-rtmp without the encoder: what the machine gives them.
fn peers(clip: &Path, settings: &Settings) -> anyhow::Result<()> {
    let time = Duration::from_secs_f64(settings.seconds);
    let mut reference = Reference::three_rungs();
    reference.window = 0;
    let ffmpeg = measure::run(FfmpegRun::start(&reference)?, clip, 1, time, true)?;
    processes(&[&ffmpeg]);
    for rung in &ffmpeg.rungs {
        let scores = quality::scores(&rung.file, clip, settings.seconds.min(20.0), settings.vmaf)?;
        let grid = quality::grid(&rung.file)?;
        println!(
            "{}: {:.0} kbit/s, SSIM {:.4}, VMAF {:?}, grid {grid:?}",
            rung.name, rung.kbps, scores.ssim, scores.vmaf
        );
    }
    processes(&[&measure::run(NginxRun::start()?, clip, 1, time, false)?]);
    Ok(())
}

fn processes(all: &[&Measured]) {
    println!(
        "| | CPU s per stream-second | peak memory MiB (PSS) | sum of VmHWM MiB | last frame to readable ms (median, p95) |"
    );
    println!("|---|---|---|---|---|");
    for m in all {
        let delay = m.delay_ms.map_or("n/a".to_owned(), |(median, p95)| format!("{median:.0}, {p95:.0}"));
        println!("| {} | {:.4} | {:.1} | {:.1} | {delay} |", m.name, m.cpu, m.peak_pss_mib, m.sum_hwm_mib);
    }
    if let [ours, theirs, ..] = all {
        let memory = ours.peak_pss_mib / theirs.peak_pss_mib;
        println!("| ratio | {:.2} | {memory:.2} | | |", ours.cpu / theirs.cpu);
    }
}
