//! One run: starts publishers, measures the CPU of the server's process tree over a window, then how soon segments can
//! be read; and the tree's memory all the while.
//!
//! Memory is the proportional set size (shared pages count by share), summed over all processes. The sum of the
//! processes' own high-water marks would count shared pages several times, and peaks of different moments together.
//!
//! The delay: FFmpeg publishes with `-re` and reports every 100 ms how far it has sent; the smallest difference between
//! wall clock and reported media time dates the stream's beginning. A segment's last frame was sent at that beginning
//! plus the segment's end on the media axis; the segment is readable when a poll (every 10 ms, over HTTP) finds it
//! listed and its body has arrived. Encoding, packaging and listing are in the delay; for a frame in the middle of a
//! segment add half a segment on average.

use crate::contenders::Contender;
use crate::quality;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tests::http::{self, Client};
use tests::patience::{eventually, pause};
use tests::process::{self, Program};
use tests::{playlist, probe};

/// One rung's result.
pub(crate) struct RungResult {
    pub(crate) name: String,
    pub(crate) kbps: f64,
    pub(crate) file: PathBuf,
}

/// One run's result.
pub(crate) struct Measured {
    pub(crate) name: String,
    /// CPU seconds per stream and per second of wall clock.
    pub(crate) cpu: f64,
    /// Largest sum of proportional set sizes over the tree in MiB, from the first publisher to the last.
    pub(crate) peak_pss_mib: f64,
    /// The processes at that moment in MiB, largest first.
    pub(crate) processes_mib: Vec<f64>,
    /// Median and 95th percentile in milliseconds.
    pub(crate) delay_ms: Option<(f64, f64)>,
    pub(crate) rungs: Vec<RungResult>,
    _folder: tempfile::TempDir,
}

/// Plan of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Number of concurrent publishers.
    pub(crate) streams: usize,
    /// Time over which CPU is counted.
    pub(crate) window: Duration,
    /// Minimum time over which memory is watched, from the publishers' start: until a window of segments is full.
    pub(crate) on_air: Duration,
    /// Whether delay and media are measured as well.
    pub(crate) media: bool,
}

/// Time over which the segments' delays are collected.
const DELAY_WINDOW: Duration = Duration::from_secs(12);

/// Interval between two memory samples. Each makes the kernel walk all pages, in the sampling thread's time.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// Measures one contender with publishers of `clip`.
pub(crate) fn run(mut contender: impl Contender, clip: &Path, plan: Plan) -> anyhow::Result<Measured> {
    let streams = plan.streams;
    eprintln!("bench: {} with {streams} stream(s)", contender.name());
    let memory = Memory::watch(contender.pid());
    let on_air = Instant::now();
    let mut publishers: Vec<Publisher> =
        (0..streams).map(|n| Publisher::start(clip, &contender.rtmp_url(n))).collect();
    let client = Client::default();
    for n in 0..streams {
        let url = contender.playlist(n);
        eventually(&format!("two segments in {url}"), Duration::from_secs(40), || {
            let text = client.get(&url).ok().filter(|r| r.status == 200)?.text().ok()?;
            (text.matches("#EXTINF").count() >= 2).then_some(())
        });
    }

    let cpu = cpu_over(contender.pid(), plan.window) / streams as f64;
    let seen = if plan.media { first_listings(&client, &contender.playlist(0)) } else { Vec::new() };
    pause(plan.on_air.saturating_sub(on_air.elapsed()));
    let (peak_pss_mib, processes_mib) = memory.peak();
    for publisher in &publishers {
        anyhow::ensure!(publisher.alive(), "a publisher was lost: {}", publisher.output());
    }
    let began = publishers[0].began();
    for publisher in &mut publishers {
        publisher.stop();
    }
    contender.stop();

    let folder = tempfile::tempdir()?;
    let mut rungs = Vec::new();
    let mut delay_ms = None;
    for files in if plan.media { contender.media()? } else { Vec::new() } {
        let file = folder.path().join(format!("{}.mp4", files.name));
        let mut whole = std::fs::read(&files.init)?;
        let mut bytes = 0;
        for segment in &files.segments {
            let body = std::fs::read(segment)?;
            bytes += body.len();
            whole.extend(body);
        }
        std::fs::write(&file, whole)?;
        let packets = probe::packets(&file)?;
        let seconds = packets.len() as f64 / 30.0;
        if rungs.is_empty() {
            let skipped = quality::offset_frames(&file, clip)? as f64 / 30.0;
            delay_ms = began.and_then(|began| delays(&seen, began, skipped, &files.segments));
        }
        rungs.push(RungResult { name: files.name, kbps: bytes as f64 * 8e-3 / seconds, file });
    }
    let name = contender.name();
    Ok(Measured { name, cpu, peak_pss_mib, processes_mib, delay_ms, rungs, _folder: folder })
}

/// CPU seconds per second of a process and its descendants, over a window.
fn cpu_over(pid: u32, window: Duration) -> f64 {
    let total =
        || -> f64 { process::tree(pid).into_iter().filter_map(process::stat).map(|s| s.cpu_seconds).sum() };
    let (begin, before) = (Instant::now(), total());
    pause(window);
    (total() - before) / begin.elapsed().as_secs_f64()
}

/// Samples the memory of a process and its descendants in its own thread.
struct Memory {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Memory {
    fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut highest = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let now: Vec<u64> = process::tree(pid)
                        .into_iter()
                        .filter_map(|pid| Some(process::stat(pid)?.pss_kib))
                        .collect();
                    if now.iter().sum::<u64>() > highest.iter().sum() {
                        highest = now;
                    }
                    pause(MEMORY_EVERY);
                }
                highest
            }
        });
        Self { stop, thread }
    }

    /// Stops sampling; returns the largest sum in MiB, and the processes at that moment.
    fn peak(self) -> (f64, Vec<f64>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut processes: Vec<f64> =
            self.thread.join().unwrap_or_default().into_iter().map(|kib| kib as f64 / 1024.0).collect();
        processes.sort_by(|a, b| b.total_cmp(a));
        (processes.iter().sum(), processes)
    }
}

/// File names of segments that appeared while watching, with the time at which each had been read completely.
fn first_listings(client: &Client, url: &str) -> Vec<(String, Instant)> {
    let listed = || {
        let text = client.get(url).ok()?.text().ok()?;
        Some(playlist::media(&text).ok()?.segments)
    };
    let end = Instant::now() + DELAY_WINDOW;
    let mut last = listed().and_then(|s| s.last().map(|s| s.msn));
    let mut seen = Vec::new();
    while Instant::now() < end {
        for segment in listed().unwrap_or_default() {
            if last.is_none_or(|last| segment.msn > last) {
                last = Some(segment.msn);
                if client.get(&http::join(url, &segment.uri)).is_ok_and(|r| r.status == 200) {
                    let name = segment.uri.rsplit('/').next().unwrap_or(&segment.uri).to_owned();
                    seen.push((name, Instant::now()));
                }
            }
        }
        pause(Duration::from_millis(10));
    }
    seen
}

/// Median and 95th percentile of "readable" minus "last frame sent", in milliseconds.
fn delays(
    seen: &[(String, Instant)],
    began: Instant,
    skipped: f64,
    segments: &[PathBuf],
) -> Option<(f64, f64)> {
    let mut end = skipped;
    let mut delays = Vec::new();
    let init = segments.first()?;
    for segment in segments {
        end += quality::frames_of(init, segment).ok()? as f64 / 30.0;
        let name = segment.file_name()?.to_str()?;
        if let Some((_, at)) = seen.iter().find(|(n, _)| n == name) {
            // The last frame starts one frame before the segment's end.
            let sent = began + Duration::from_secs_f64(end - 1.0 / 30.0);
            delays.push((at.saturating_duration_since(sent)).as_secs_f64() * 1e3);
        }
    }
    delays.sort_by(f64::total_cmp);
    let at = |q: f64| delays.get(((delays.len() - 1) as f64 * q).round() as usize).copied();
    if delays.is_empty() { None } else { Some((at(0.5)?, at(0.95)?)) }
}

/// FFmpeg publishing in real time and reporting its progress.
struct Publisher {
    program: Program,
    progress: Arc<std::sync::Mutex<Option<Instant>>>,
    reader: Option<JoinHandle<()>>,
    pipe: tempfile::TempDir,
}

impl Publisher {
    fn start(clip: &Path, url: &str) -> Self {
        let pipe = tempfile::tempdir().expect("a temporary folder");
        let fifo = pipe.path().join("progress");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.is_ok_and(|s| s.success()), "mkfifo");
        let progress = Arc::new(std::sync::Mutex::new(None));
        let reader = std::thread::spawn({
            let (fifo, progress) = (fifo.clone(), progress.clone());
            move || read_progress(&fifo, &progress)
        });
        let mut command = Command::new("ffmpeg");
        command.args([
            "-nostdin",
            "-hide_banner",
            "-loglevel",
            "warning",
            "-stats_period",
            "0.1",
            "-progress",
        ]);
        command.arg(&fifo).args(["-re", "-stream_loop", "-1", "-i"]).arg(clip);
        command.args(["-c", "copy", "-f", "flv", url]);
        let program = Program::spawn("ffmpeg (publisher)", &mut command);
        Self { program, progress, reader: Some(reader), pipe }
    }

    /// Time at which media time 0 was sent.
    fn began(&self) -> Option<Instant> {
        *self.progress.lock().ok()?
    }

    fn alive(&self) -> bool {
        process::stat(self.program.pid()).is_some()
    }

    fn output(&self) -> String {
        self.program.output()
    }

    fn stop(&mut self) {
        self.program.stop(Duration::from_secs(5));
        // Open the pipe for writing, to release a reader that still waits for a writer.
        let _ = std::fs::File::options().read(true).write(true).open(self.pipe.path().join("progress"));
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_progress(fifo: &Path, progress: &std::sync::Mutex<Option<Instant>>) {
    use std::io::BufRead;
    let Ok(file) = std::fs::File::open(fifo) else { return };
    for line in std::io::BufReader::new(file).lines().map_while(Result::ok) {
        let Some(micros) = line.strip_prefix("out_time_us=").and_then(|v| v.parse::<u64>().ok()) else {
            continue;
        };
        let Some(began) = Instant::now().checked_sub(Duration::from_micros(micros)) else { continue };
        if let Ok(mut earliest) = progress.lock() {
            *earliest = Some(earliest.map_or(began, |e| e.min(began)));
        }
    }
}
