//! Writes the table to standard output and the raw figures to a file.

use crate::figures::{Figures, Later, missed, missed_through_edge};
use crate::stage::{PRESET, RUNGS, SIZE};
use anyhow::{Context, ensure};
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
    pub(crate) table: Table,
    /// Number of published frames that are not in the store.
    pub(crate) lost: Option<usize>,
    /// Share of processor time in use, over all processes on the machine.
    pub(crate) busy: f64,
}

/// The table of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Table {
    /// Viewers without edges.
    Alone,
    /// Viewers through edges, and those at the origin that they are compared with.
    Edges(Compared),
}

/// What a row of the second table is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Compared {
    /// The viewer is at the origin itself.
    IsOrigin,
    /// The same player at the origin; `None` if that was not measured.
    With(Option<Later>),
}

/// Collects the rows of the tables and writes the raw figures.
pub(crate) struct Report {
    alone: Vec<String>,
    edges: Vec<String>,
    /// Goals that were missed, and viewings that failed.
    missed: Vec<String>,
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
        Ok(Self { alone: Vec::new(), edges: Vec::new(), missed: Vec::new(), raw, path })
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
            "later": match row.table {
                Table::Alone | Table::Edges(Compared::IsOrigin) => None,
                Table::Edges(Compared::With(later)) => later,
            },
            "figures": figures,
            "viewed": viewed,
        });
        writeln!(self.raw, "{line}")?;
        let text = match &figures {
            Some(figures) => self.judged(&row, figures),
            None => {
                self.failed(&format!("{} {}: no frame could be read", knob(row.knob), row.viewer));
                format!("| {} | {} | no frame could be read |", knob(row.knob), row.viewer)
            }
        };
        eprintln!("{text}");
        if let Some(figures) = figures {
            for error in &figures.errors {
                eprintln!("    {error}");
            }
        }
        match row.table {
            Table::Alone => self.alone.push(text),
            Table::Edges(_) => self.edges.push(text),
        }
        Ok(())
    }

    /// Something could not be measured.
    pub(crate) fn failed(&mut self, what: &str) {
        eprintln!("bench-latency: {what}");
        self.missed.push(what.to_owned());
    }

    /// The row's line with the verdict.
    fn judged(&mut self, row: &Row, figures: &Figures) -> String {
        let goals = goals(row, figures);
        let verdict = match &goals {
            None => "–".to_owned(),
            Some(missed) if missed.is_empty() => "met".to_owned(),
            Some(missed) => {
                let missed = missed.join(", ");
                self.missed.push(format!("{} {}: {missed}", knob(row.knob), row.viewer));
                format!("not met: {missed}")
            }
        };
        line_of(row, figures, verdict)
    }

    /// Prints the tables.
    ///
    /// # Errors
    /// A goal is missed, or something could not be measured.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        print_table(&self.alone, &HEAD);
        let [rest @ .., goal] = HEAD;
        print_table(&self.edges, &[&rest[..], &["later", "playlist later", goal]].concat());
        println!("\nraw figures: {}", self.path.display());
        ensure!(self.missed.is_empty(), "goals missed:\n{}", self.missed.join("\n"));
        Ok(())
    }
}

const HEAD: [&str; 15] = [
    "latency",
    "viewer",
    "median",
    "p5",
    "p95",
    "max",
    "stalls",
    "lost",
    "unseen",
    "unread",
    "rate changes",
    "hls.js says",
    "readout off by",
    "CPU",
    "goal",
];

fn print_table(lines: &[String], head: &[&str]) {
    if lines.is_empty() {
        return;
    }
    println!("\n| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for line in lines {
        println!("{line}");
    }
}

/// The goals that a row misses; `None` if it has none.
fn goals(row: &Row, figures: &Figures) -> Option<Vec<&'static str>> {
    let setting = row.knob.filter(|_| row.goal).map(|knob| missed(knob, figures, row.lost));
    let edge = match row.table {
        Table::Alone | Table::Edges(Compared::IsOrigin) => None,
        // Judged by its setting is the player that corrects its distance from live.
        Table::Edges(Compared::With(later)) => Some(missed_through_edge(later, row.goal, figures)),
    };
    match (setting, edge) {
        (None, None) => None,
        (setting, edge) => {
            let mut all = setting.unwrap_or_default();
            for goal in edge.unwrap_or_default() {
                if !all.contains(&goal) {
                    all.push(goal);
                }
            }
            Some(all)
        }
    }
}

fn knob(knob: Option<f64>) -> String {
    knob.map_or("".to_owned(), |k| format!("{k} s"))
}

fn line_of(row: &Row, figures: &Figures, verdict: String) -> String {
    let Figures { age, .. } = figures;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let stalls = match figures.stalls {
        0 => "0".to_owned(),
        n => format!("{n} (longest {:.2} s)", figures.freeze),
    };
    let mut cells = vec![
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
    ];
    match row.table {
        Table::Alone => {}
        Table::Edges(Compared::IsOrigin | Compared::With(None)) => cells.extend(["–"; 2].map(str::to_owned)),
        Table::Edges(Compared::With(Some(later))) => {
            cells.extend([later.on_screen, later.in_playlist].map(|seconds| format!("{seconds:+.2}")));
        }
    }
    cells.push(verdict);
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
