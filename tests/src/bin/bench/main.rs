//! `make bench`: compares the encoder with one FFmpeg process that encodes the same ladder, and with nginx-rtmp where
//! nothing is encoded; one run, one machine, one source. Prints Markdown tables; the last one lists each goal and
//! whether it is met.
//!
//! Environment: `BENCH_SECONDS` (time over which CPU is counted in each run, default 20), `BENCH_ON_AIR` (minimum
//! running time of the encoded ladders, default 70: by then the window of segments and the retention after it are
//! full), `BENCH_LATENCY` (the encoder's `--latency`, default 10: from 9.5 on, published keyframes every 2 s can be
//! passed through), `BENCH_STREAMS` (default 20), `BENCH_VMAF=0` (SSIM only), `BENCH_ONLY` (`ladder`, `source`,
//! `nginx`, or `peers`: the other servers alone).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod contenders;
mod goals;
mod measure;
mod quality;

use contenders::{EncoderRun, FfmpegRun, NginxRun};
use goals::Goals;
use measure::{Measured, Plan};
use quality::Scores;
use std::path::Path;
use std::time::Duration;
use tests::encoder_process::{Encoder, Options};
use tests::patience::pause;
use tests::reference::Reference;
use tests::{encoder_process, fixtures, turn};

/// Settings of a run.
struct Settings {
    seconds: Duration,
    on_air: Duration,
    latency: String,
    streams: usize,
    vmaf: bool,
}

impl Settings {
    /// Plan for one stream with its media compared, long enough for memory to reach its peak.
    fn thorough(&self) -> Plan {
        let window = self.seconds.max(self.on_air.saturating_sub(Duration::from_secs(25)));
        Plan { streams: 1, window, on_air: self.on_air, media: true }
    }

    /// Plan that measures CPU only.
    fn brief(&self, streams: usize) -> Plan {
        Plan { streams, window: self.seconds, on_air: Duration::ZERO, media: false }
    }
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
        seconds: Duration::from_secs_f64(variable("BENCH_SECONDS", 20.0)),
        on_air: Duration::from_secs_f64(variable("BENCH_ON_AIR", 70.0)),
        latency: variable("BENCH_LATENCY", "10".to_owned()),
        streams: variable("BENCH_STREAMS", 20),
        vmaf: variable("BENCH_VMAF", 1) != 0,
    };
    let only: String = variable("BENCH_ONLY", String::new());
    let wanted = |part: &str| only.is_empty() || only == part;
    let _turn = turn::Turn::take();
    if only != "peers"
        && std::env::var_os("ENCODER_BIN").is_none()
        && std::env::var_os("ENCODER_PROFILE").is_none()
    {
        // Numbers of a debug build would be meaningless.
        encoder_process::use_binary(encoder_process::build("release"));
    }
    let clip = fixtures::clip("footage-720p30-clean");
    if only == "peers" {
        return peers(&clip, &settings);
    }

    let mut goals = Goals::default();
    idle(&mut goals);
    if wanted("ladder") || wanted("source") {
        let ffmpeg = ladder(&clip, &settings, &mut goals)?;
        if wanted("source") {
            with_source(&clip, &settings, &ffmpeg, &mut goals)?;
        }
    }
    if wanted("nginx") {
        for streams in [1, settings.streams] {
            source_alone(&clip, streams, &settings, &mut goals)?;
        }
    }
    goals.print();
    Ok(())
}

/// Measures an encoder without streams.
fn idle(goals: &mut Goals) {
    let encoder = Encoder::start(Options::default().unjudged());
    // Let the allocations of the start-up settle.
    pause(Duration::from_millis(300));
    goals.at_most("idle memory (RSS), MiB", encoder.stat().rss_kib as f64 / 1024.0, 40.0);
    goals.at_most("start to listening, s", encoder.started_in.as_secs_f64(), 0.2);
}

/// All rungs encoded: the encoder, then FFmpeg with the encoder's GOP and segment length. Returns FFmpeg's result.
fn ladder(clip: &Path, settings: &Settings, goals: &mut Goals) -> anyhow::Result<Measured> {
    let plan = settings.thorough();
    let mut reference = Reference::three_rungs();
    let flag: Vec<String> = reference
        .rungs
        .iter()
        .map(|r| r.bitrate.map_or(r.name.to_owned(), |b| format!("{}@{}k", r.name, b / 1000)))
        .collect();
    let ours = measure::run(EncoderRun::start(&flag.join(","), &settings.latency, 1), clip, plan)?;
    (reference.gop_seconds, reference.segment_seconds) =
        quality::grid(&ours.rungs.last().expect("three rungs").file)?;
    reference.window = 0;
    let theirs = measure::run(FfmpegRun::start(&reference)?, clip, plan)?;

    println!("\n### 720p, 480p, 360p (veryfast), {:.0} s\n", plan.window.as_secs_f64());
    println!(
        "720p30, one stream; GOP {} s, segments {} s\n",
        reference.gop_seconds, reference.segment_seconds
    );
    processes(&[&ours, &theirs]);
    goals.at_most("CPU, three rungs, of FFmpeg's", ours.cpu / theirs.cpu, 1.0);
    goals.at_most("memory, three rungs, of FFmpeg's", ours.peak_pss_mib / theirs.peak_pss_mib, 0.6);

    println!(
        "\n| rung | encoder kbit/s | ffmpeg kbit/s | encoder SSIM | ffmpeg SSIM | encoder VMAF | ffmpeg VMAF |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (mine, other) in ours.rungs.iter().zip(&theirs.rungs) {
        let scores = [mine, other].map(|rung| quality::scores(&rung.file, clip, settings.vmaf));
        let text = |pick: fn(&Scores) -> Option<f64>, digits: usize| {
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
        if let [Ok(mine_seen), Ok(other_seen)] = &scores {
            let name = &mine.name;
            goals.not_below(&format!("SSIM of {name} beside FFmpeg's"), mine_seen.ssim, other_seen.ssim, 4);
            if let (Some(ours), Some(theirs)) = (mine_seen.vmaf, other_seen.vmaf) {
                goals.not_below(&format!("VMAF of {name} beside FFmpeg's"), ours, theirs, 2);
            }
        }
    }
    Ok(theirs)
}

/// The largest rung passed through, compared with the FFmpeg process that encoded three rungs: passing through is the
/// advantage measured here.
fn with_source(clip: &Path, settings: &Settings, ffmpeg: &Measured, goals: &mut Goals) -> anyhow::Result<()> {
    let run = EncoderRun::start("source,480p@1400k,360p@800k", &settings.latency, 1);
    let ours = measure::run(run, clip, settings.brief(1))?;
    println!("\n### source, 480p, 360p beside FFmpeg's three encoded rungs\n");
    processes(&[&ours, ffmpeg]);
    goals.at_most("CPU, source and two rungs, of FFmpeg's with three", ours.cpu / ffmpeg.cpu, 0.5);
    Ok(())
}

/// Nothing encoded: the encoder's `source` ladder compared with nginx-rtmp's HLS.
fn source_alone(clip: &Path, streams: usize, settings: &Settings, goals: &mut Goals) -> anyhow::Result<()> {
    println!("\n### source alone: {streams} stream(s), {:.0} s\n", settings.seconds.as_secs_f64());
    let plan = settings.brief(streams);
    let ours = measure::run(EncoderRun::start("source", &settings.latency, streams), clip, plan)?;
    let nginx = match NginxRun::start() {
        Ok(run) => measure::run(run, clip, plan)?,
        Err(error) => {
            println!("nginx-rtmp was left out: {error:#}\n");
            processes(&[&ours]);
            return Ok(());
        }
    };
    processes(&[&ours, &nginx]);
    let what = format!("CPU, source alone, {streams} stream(s), of nginx-rtmp's");
    goals.at_most(&what, ours.cpu / nginx.cpu, 1.0);
    Ok(())
}

/// FFmpeg's ladder and nginx-rtmp without the encoder: a baseline for the machine.
fn peers(clip: &Path, settings: &Settings) -> anyhow::Result<()> {
    let mut reference = Reference::three_rungs();
    reference.window = 0;
    let ffmpeg = measure::run(FfmpegRun::start(&reference)?, clip, settings.thorough())?;
    processes(&[&ffmpeg]);
    for rung in &ffmpeg.rungs {
        let scores = quality::scores(&rung.file, clip, settings.vmaf)?;
        let grid = quality::grid(&rung.file)?;
        println!(
            "{}: {:.0} kbit/s, SSIM {:.4}, VMAF {:?}, grid {grid:?}",
            rung.name, rung.kbps, scores.ssim, scores.vmaf
        );
    }
    processes(&[&measure::run(NginxRun::start()?, clip, settings.brief(1))?]);
    Ok(())
}

fn processes(all: &[&Measured]) {
    println!(
        "| | CPU s per stream-second | peak memory MiB (PSS) | of which processes | last frame to readable ms (median, p95) |"
    );
    println!("|---|---|---|---|---|");
    for m in all {
        let delay = m.delay_ms.map_or("n/a".to_owned(), |(median, p95)| format!("{median:.0}, {p95:.0}"));
        let each: Vec<String> = m.processes_mib.iter().map(|p| format!("{p:.0}")).collect();
        println!("| {} | {:.4} | {:.1} | {} | {delay} |", m.name, m.cpu, m.peak_pss_mib, each.join(" + "));
    }
    if let [ours, theirs] = all {
        let memory = ours.peak_pss_mib / theirs.peak_pss_mib;
        println!("| ratio | {:.2} | {memory:.2} | | |", ours.cpu / theirs.cpu);
    }
}
