//! Writes the table to standard output and the raw figures to a file.

use crate::figures::{Figures, missed};
use crate::stage::{PRESET, RUNGS, SIZE};
use anyhow::Context;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use tests::encoder_process::workspace;
use tests::footage::{Exposed, FRAME_RATE};
use tests::viewer::Viewed;

/// The subject of a row.
pub(crate) struct Row {
    /// The latency setting in seconds; `None` for a server without such a setting.
    pub(crate) knob: Option<f64>,
    pub(crate) viewer: String,
    /// Whether the row is judged against its setting.
    pub(crate) goal: bool,
    /// Number of published frames that are not in the store.
    pub(crate) lost: Option<usize>,
    /// Share of processor time in use, over all processes on the machine.
    pub(crate) busy: f64,
}

/// Collects the rows of the table and writes the raw figures.
pub(crate) struct Report {
    lines: Vec<String>,
    raw: File,
    path: PathBuf,
}

impl Report {
    /// Opens the file and prints the conditions of the measurement.
    pub(crate) fn open(seconds: f64, warmup: f64) -> anyhow::Result<Self> {
        let path = std::env::var_os("BENCH_FILE")
            .map_or_else(|| workspace().join("target/bench-latency.jsonl"), PathBuf::from);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let raw = File::create(&path).with_context(|| path.display().to_string())?;
        let (width, height) = SIZE;
        let rungs = RUNGS.map(|r| r.name).join(" and ");
        println!(
            "{width}x{height} at {FRAME_RATE}, rungs {rungs}, x264 {PRESET}; {seconds} s after {warmup} s of warm-up; {}",
            machine()
        );
        Ok(Self { lines: Vec::new(), raw, path })
    }

    /// Adds and judges a viewing.
    pub(crate) fn add(&mut self, row: Row, viewed: &Viewed, exposed: &Exposed) -> anyhow::Result<()> {
        let figures = Figures::of(viewed, &exposed.codes);
        let line = serde_json::json!({
            "latency": row.knob,
            "viewer": row.viewer,
            "busy": row.busy,
            "lost_by_us": row.lost,
            "camera_late_ms": exposed.latest.as_millis() as u64,
            "figures": figures,
            "viewed": viewed,
        });
        writeln!(self.raw, "{line}")?;
        let text = match &figures {
            Some(figures) => line_of(&row, figures),
            None => format!("| {} | {} | no frame could be read |", knob(row.knob), row.viewer),
        };
        eprintln!("{text}");
        if let Some(figures) = figures {
            for error in &figures.errors {
                eprintln!("    {error}");
            }
        }
        self.lines.push(text);
        Ok(())
    }

    /// Prints the table.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        println!(
            "\n| latency | viewer | median | p5 | p95 | max | stalls | lost | unseen | unread | rate changes \
             | hls.js says | readout off by | CPU | goal |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for line in &self.lines {
            println!("{line}");
        }
        println!("\nraw figures: {}", self.path.display());
        Ok(())
    }
}

fn knob(knob: Option<f64>) -> String {
    knob.map_or("".to_owned(), |k| format!("{k} s"))
}

fn line_of(row: &Row, figures: &Figures) -> String {
    let Figures { age, .. } = figures;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let stalls = match figures.stalls {
        0 => "0".to_owned(),
        n => format!("{n} (longest {:.2} s)", figures.freeze),
    };
    let goal = match (row.knob, row.goal) {
        (Some(knob), true) => match missed(knob, figures, row.lost) {
            missed if missed.is_empty() => "met".to_owned(),
            missed => format!("not met: {}", missed.join(", ")),
        },
        (_, _) => "–".to_owned(),
    };
    let cells = [
        knob(row.knob),
        row.viewer.clone(),
        format!("{:.2}", age.median),
        format!("{:.2}", age.p5),
        format!("{:.2}", age.p95),
        format!("{:.2}", age.max),
        stalls,
        or_dash(row.lost.map(|n| n.to_string())),
        // In parentheses: frames that the browser reports as dropped, and frames that it showed while the reader was
        // busy.
        format!("{} ({} + {})", figures.not_seen, figures.browser_dropped, figures.reader_missed),
        figures.unreadable.to_string(),
        format!("{} ({:.0} %)", figures.rate_changes, figures.rate_share * 100.0),
        or_dash(figures.hls_latency.map(|l| format!("{l:.2}"))),
        or_dash(figures.readout_error.map(|e| format!("{:+.2}", e.median))),
        format!("{:.0} %", row.busy * 100.0),
        goal,
    ];
    format!("| {} |", cells.join(" | "))
}

/// Processor model and number of processors.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} processors of {model}")
}

/// Time of all processors since boot in ticks: time in use, and total.
pub(crate) fn cpu_times() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let times: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    // Columns: user nice system idle iowait irq softirq steal; the columns after these are already counted in user.
    let all: u64 = times.iter().take(8).sum();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// Share of processor time in use between two moments.
pub(crate) fn busy((used, all): (u64, u64), (used_later, all_later): (u64, u64)) -> f64 {
    (used_later - used) as f64 / (all_later - all).max(1) as f64
}
