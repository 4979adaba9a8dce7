//! The table on standard output, and the raw figures as JSON lines in a file.

use crate::goals::missed;
use crate::measure::{Figures, Quantiles};
use crate::servers::Kind;
use anyhow::Context;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use tests::encoder_process::workspace;

const HEAD: [&str; 18] = [
    "server",
    "viewers",
    "fetch",
    "new versions",
    "answers/s",
    "not 200",
    "stale",
    "broken",
    "missed",
    "CPU, % of a core",
    "CPU per viewer",
    "memory",
    "per viewer",
    "requests to the encoder per version (few, all)",
    "while connecting",
    "playlist: median, p99, max",
    "part: median, p99, max",
    "viewers' CPU",
];

/// Collects the figures.
pub(crate) struct Report {
    raw: File,
    path: PathBuf,
    lines: Vec<String>,
    missed: Vec<String>,
    /// Requests to the encoder per version with one edge, for playlists alone and for parts.
    one_edge: [Option<f64>; 2],
}

impl Report {
    /// Opens the file of raw figures.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let path = std::env::var_os("BENCH_FILE")
            .map_or_else(|| workspace().join("target/bench-edge.jsonl"), PathBuf::from);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let raw = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { raw, path, lines: Vec::new(), missed: Vec::new(), one_edge: [None; 2] })
    }

    /// Adds and judges a measurement.
    pub(crate) fn add(&mut self, kind: Kind, figures: &Figures) -> anyhow::Result<()> {
        writeln!(self.raw, "{}", serde_json::to_string(figures)?)?;
        let one_edge = &mut self.one_edge[usize::from(figures.fetches_parts)];
        if kind == Kind::Edges(1) {
            *one_edge = figures.requests;
        }
        let goal = if kind.has_goals() {
            let missed = missed(figures, one_edge.filter(|_| kind == Kind::Edges(2)));
            let row = format!("{}, {}", figures.server, fetch(figures));
            self.missed.extend(missed.iter().map(|missed| format!("{row}: {missed}")));
            if missed.is_empty() { "met".to_owned() } else { "**not met**".to_owned() }
        } else {
            "–".to_owned()
        };
        let line = line(figures, &goal);
        eprintln!("{line}");
        self.lines.push(line);
        Ok(())
    }

    /// Prints the table and the missed goals; returns whether all goals were met.
    pub(crate) fn close(self) -> bool {
        println!("\n| {} | goals |\n|{}", HEAD.join(" | "), "---|".repeat(HEAD.len() + 1));
        for line in &self.lines {
            println!("{line}");
        }
        for missed in &self.missed {
            println!("\nnot met: {missed}");
        }
        println!("\nraw figures: {}", self.path.display());
        self.missed.is_empty()
    }
}

fn fetch(figures: &Figures) -> &'static str {
    if figures.fetches_parts { "playlists and parts" } else { "playlists" }
}

fn line(figures: &Figures, goal: &str) -> String {
    let viewers = figures.viewers.max(1) as f64;
    let dash = || "–".to_owned();
    let delay = |Quantiles { median, p99, max }: Quantiles| {
        format!("{:.0} ms, {:.0} ms, {:.0} ms", median * 1e3, p99 * 1e3, max * 1e3)
    };
    let requests = figures.requests_few.zip(figures.requests);
    let cells = [
        figures.server.clone(),
        figures.viewers.to_string(),
        fetch(figures).to_owned(),
        figures.versions.to_string(),
        format!("{:.0}", figures.answers as f64 / figures.seconds),
        figures.refused.to_string(),
        figures.stale.to_string(),
        figures.broken.to_string(),
        figures.missed.to_string(),
        format!("{:.1}", figures.cpu * 100.0),
        format!("{:.1} µs/s", figures.cpu * 1e6 / viewers),
        format!("{:.0} MiB", figures.memory_kib as f64 / 1024.0),
        format!("{:.1} KiB", figures.memory_per_viewer_kib),
        requests.map_or_else(dash, |(few, all)| format!("{few:.2}, {all:.2}")),
        figures.requests_while_connecting.map_or_else(dash, |requests| requests.to_string()),
        delay(figures.playlist),
        figures.part.map_or_else(dash, delay),
        format!("{:.0} % of a core", figures.crowd_cpu * 100.0),
        goal.to_owned(),
    ];
    format!("| {} |", cells.join(" | "))
}
