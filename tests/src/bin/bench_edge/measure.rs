//! One measurement: a few viewers, then many, with what the server needs for them.

use crate::servers::{Kind, Server};
use anyhow::Context;
use serde::Serialize;
use std::time::{Duration, Instant};
use tests::load::crowd::{self, Crowd, Fetch, Seen};
use tests::patience::pause;
use tests::process;

/// Viewers of the run that shows how many requests reach the encoder for a few viewers. It also fills the cache, so that
/// memory that grows afterwards is the viewers'.
const FEW: usize = 30;
/// Measuring time of that run.
const FEW_TIME: Duration = Duration::from_secs(10);
/// Time over which the server is measured without viewers.
const ALONE: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) playlists: Vec<String>,
    pub(crate) viewers: usize,
    pub(crate) fetch: Fetch,
    pub(crate) time: Duration,
}

/// The results, as they stand in the file of raw figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) server: String,
    pub(crate) viewers: usize,
    pub(crate) fetches_parts: bool,
    pub(crate) seconds: f64,
    pub(crate) versions: usize,
    pub(crate) answers: u64,
    pub(crate) bytes: u64,
    pub(crate) refused: u64,
    pub(crate) stale: u64,
    pub(crate) broken: u64,
    pub(crate) missed: usize,
    /// CPU seconds per second that the viewers cost the server: what it needs without viewers is subtracted.
    pub(crate) cpu: f64,
    /// CPU seconds per second that the crowd needs.
    pub(crate) crowd_cpu: f64,
    /// Resident memory in KiB with all viewers, pages that processes share counted once.
    pub(crate) memory_kib: u64,
    /// Growth of the resident memory for each viewer in KiB.
    pub(crate) memory_per_viewer_kib: f64,
    /// Requests to the encoder for each new version of a playlist, with a few viewers.
    pub(crate) requests_few: Option<f64>,
    /// The same with all viewers.
    pub(crate) requests: Option<f64>,
    /// Requests to the encoder while the viewers connected.
    pub(crate) requests_while_connecting: Option<u64>,
    pub(crate) playlist: Quantiles,
    pub(crate) part: Option<Quantiles>,
}

/// Delays in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) median: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// Figures at one moment.
struct Moment {
    at: Instant,
    cpu_seconds: f64,
    crowd_cpu_seconds: f64,
    memory_kib: u64,
    requests: Option<u64>,
}

/// Measures a server.
pub(crate) fn measure(kind: Kind, server: &Server, plan: &Plan) -> anyhow::Result<Figures> {
    let mut crowd = Crowd {
        ports: server.ports.clone(),
        playlists: plan.playlists.clone(),
        viewers: FEW,
        fetch: plan.fetch,
        time: FEW_TIME,
    };
    let (begin, end, seen) = run(server, &crowd)?;
    let requests_few = per_version(&begin, &end, &seen);
    let (alone, settled) = (Moment::of(server), pause_and(server));
    crowd = Crowd { viewers: plan.viewers, time: plan.time, ..crowd };
    let (begin, end, seen) = run(server, &crowd)?;
    let seconds = (end.at - begin.at).as_secs_f64();
    let parts = Quantiles::of(seen.part_delays.clone());
    Ok(Figures {
        server: kind.name(),
        viewers: plan.viewers,
        fetches_parts: plan.fetch == Fetch::Parts,
        seconds,
        versions: seen.versions,
        answers: seen.answers,
        bytes: seen.bytes,
        refused: seen.refused,
        stale: seen.stale,
        broken: seen.broken,
        missed: seen.missed,
        cpu: begin.cpu_until(&end) - alone.cpu_until(&settled),
        crowd_cpu: (end.crowd_cpu_seconds - begin.crowd_cpu_seconds) / seconds,
        memory_kib: end.memory_kib,
        memory_per_viewer_kib: (end.memory_kib as f64 - settled.memory_kib as f64)
            / plan.viewers.max(1) as f64,
        requests_few,
        requests: per_version(&begin, &end, &seen),
        requests_while_connecting: begin.requests.zip(settled.requests).map(|(later, before)| later - before),
        playlist: Quantiles::of(seen.playlist_delays).context("no viewer had a new version")?,
        part: parts,
    })
}

fn pause_and(server: &Server) -> Moment {
    pause(ALONE);
    Moment::of(server)
}

/// Runs a crowd; returns the moments at which the measuring time began and ended.
fn run(server: &Server, crowd: &Crowd) -> anyhow::Result<(Moment, Moment, Seen)> {
    let (mut begin, mut end) = (None, None);
    let seen = crowd::run(
        crowd,
        server.encoder,
        || begin = Some(Moment::of(server)),
        || end = Some(Moment::of(server)),
    )
    .with_context(|| format!("{} viewers\n{}", crowd.viewers, server.output()))?;
    let (begin, end) = begin.zip(end).context("the load ended early")?;
    Ok((begin, end, seen))
}

fn per_version(begin: &Moment, end: &Moment, seen: &Seen) -> Option<f64> {
    let requests = end.requests.zip(begin.requests).map(|(later, before)| later - before)?;
    Some(requests as f64 / seen.versions.max(1) as f64)
}

// === impl Moment ===

impl Moment {
    fn of(server: &Server) -> Self {
        let stats: Vec<_> = server.pids().into_iter().filter_map(process::stat).collect();
        Self {
            at: Instant::now(),
            cpu_seconds: stats.iter().map(|stat| stat.cpu_seconds).sum(),
            crowd_cpu_seconds: process::stat(std::process::id()).map_or(0.0, |stat| stat.cpu_seconds),
            memory_kib: stats.iter().map(|stat| stat.pss_kib).sum(),
            requests: server.upstream_requests(),
        }
    }

    /// CPU seconds per second between two moments.
    fn cpu_until(&self, later: &Self) -> f64 {
        (later.cpu_seconds - self.cpu_seconds) / (later.at - self.at).as_secs_f64()
    }
}

// === impl Quantiles ===

impl Quantiles {
    fn of(mut delays: Vec<f64>) -> Option<Self> {
        delays.sort_by(f64::total_cmp);
        let at = |q: f64| delays.get((delays.len().saturating_sub(1) as f64 * q).round() as usize).copied();
        Some(Self { median: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}
