//! One run: publishers on, CPU and memory of the server's process tree over a window, then how soon segments can be
//! read.
//!
//! The delay: FFmpeg publishes with `-re` and reports every 100 ms how far it has sent; the smallest difference between
//! wall clock and reported media time dates the stream's beginning. A segment's last frame was sent at that beginning
//! plus the segment's end on the media axis; it is readable when a poll (every 10 ms, over HTTP) finds it listed and
//! its body has arrived. Encoding, packaging and listing are in the delay; half a segment on average comes on top for a
//! frame in the segment's middle.

use crate::contenders::Contender;
use crate::quality;
use std::path::{Path, PathBuf};
use std::process::Command;
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
    /// CPU seconds per stream and second of wall clock.
    pub(crate) cpu: f64,
    /// Highest sum of proportional set sizes over the tree.
    pub(crate) peak_pss_mib: f64,
    /// Sum of the processes' own high-water marks, shared pages counted in each.
    pub(crate) sum_hwm_mib: f64,
    /// Median and 95th percentile.
    pub(crate) delay_ms: Option<(f64, f64)>,
    pub(crate) rungs: Vec<RungResult>,
    _folder: tempfile::TempDir,
}

/// How long segments' delays are collected.
const DELAY_WINDOW: Duration = Duration::from_secs(12);

/// Measures one contender with `streams` publishers of `clip`.
pub(crate) fn run(
    mut contender: impl Contender,
    clip: &Path,
    streams: usize,
    window: Duration,
    quality: bool,
) -> anyhow::Result<Measured> {
    eprintln!("bench: {} with {streams} stream(s)", contender.name());
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

    let (cpu, peak_pss_mib, sum_hwm_mib) = watch(contender.pid(), window);
    let seen = if quality { first_listings(&client, &contender.playlist(0)) } else { Vec::new() };
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
    for files in if quality { contender.media()? } else { Vec::new() } {
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
    let cpu = cpu / streams as f64;
    Ok(Measured { name: contender.name(), cpu, peak_pss_mib, sum_hwm_mib, delay_ms, rungs, _folder: folder })
}

/// CPU seconds a second, highest PSS sum, sum of high-water marks, over a window.
fn watch(pid: u32, window: Duration) -> (f64, f64, f64) {
    let total = || -> (f64, u64, u64) {
        let stats: Vec<_> = process::tree(pid).into_iter().filter_map(process::stat).collect();
        let cpu = stats.iter().map(|s| s.cpu_seconds).sum();
        (cpu, stats.iter().map(|s| s.pss_kib).sum(), stats.iter().map(|s| s.peak_rss_kib).sum())
    };
    let begin = Instant::now();
    let (cpu_before, mut peak, _) = total();
    while begin.elapsed() < window {
        pause(Duration::from_millis(500).min(window.saturating_sub(begin.elapsed())));
        peak = peak.max(total().1);
    }
    let (cpu_after, pss, hwm) = total();
    let cpu = (cpu_after - cpu_before) / begin.elapsed().as_secs_f64();
    (cpu, peak.max(pss) as f64 / 1024.0, hwm as f64 / 1024.0)
}

/// File names of segments that appeared while watching, with the time at which each had been read.
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
            // The last frame begins one frame before the segment's end.
            let sent = began + Duration::from_secs_f64(end - 1.0 / 30.0);
            delays.push((at.saturating_duration_since(sent)).as_secs_f64() * 1e3);
        }
    }
    delays.sort_by(f64::total_cmp);
    let at = |q: f64| delays.get(((delays.len() - 1) as f64 * q).round() as usize).copied();
    if delays.is_empty() { None } else { Some((at(0.5)?, at(0.95)?)) }
}

/// FFmpeg in real time, telling how far it is.
struct Publisher {
    program: Program,
    progress: std::sync::Arc<std::sync::Mutex<Option<Instant>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    pipe: tempfile::TempDir,
}

impl Publisher {
    fn start(clip: &Path, url: &str) -> Self {
        let pipe = tempfile::tempdir().expect("a temporary folder");
        let fifo = pipe.path().join("progress");
        let made = Command::new("mkfifo").arg(&fifo).status();
        assert!(made.is_ok_and(|s| s.success()), "mkfifo");
        let progress = std::sync::Arc::new(std::sync::Mutex::new(None));
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

    /// When media time 0 was sent.
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
        // Whoever waits for a writer that never came is released by one.
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
