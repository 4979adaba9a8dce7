//! The tables of docs/scale.md. `make simulate` prints them, and a test compares them with the document.
//!
//! All fleets here have streams of 30 minutes on average: short for a broadcast, and short streams are the harder
//! case, because the same number of concurrent streams then has more starts.

use crate::distribution::{Distribution, StartTime};
use crate::document::Section;
use crate::edges;
use crate::fleet::{AfterStream, Control, Fleet, Publishers, Retry, Spike, USUAL_DAY};
use crate::formulas::{erlang_b, least, poisson_tail, refused_by_lag};
use crate::search::{least_buffer, over, simulate_seeds};
use crate::simulation::{Outcome, Period};
use crate::table::{markdown, percent, percent_within, whole};
use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{available_parallelism, scope};
use std::time::Duration;

const STREAMS: [u32; 3] = [100, 1_000, 10_000];
const START_SECONDS: [u64; 3] = [5, 30, 90];
/// Shares of refused publishers.
const GOALS: [Goal; 3] = [
    Goal { share: 0.01, deviations: 2.33, publishers: 10_000 },
    Goal { share: 0.001, deviations: 3.09, publishers: 20_000 },
    Goal { share: 0.0001, deviations: 3.72, publishers: 30_000 },
];
/// The goal of the tables that are not about the buffer.
const RARE: Goal = GOALS[1];
const SEEDS: u64 = 10;
const MEAN: Duration = Duration::from_secs(30 * 60);
const SETTLING: Duration = Duration::from_secs(600);
/// The interval of Agones' autoscaler in deploy/overlays/agones.
const AGONES_SECONDS: f64 = 10.0;
/// kube-proxy keeps a taken pod in rotation for 0.3 to 1.2 s after the publisher's start; with a thousand pods longer.
const LAG: Duration = Duration::from_secs(1);

/// All tables of docs/scale.md.
#[must_use]
pub fn sections() -> Vec<Section> {
    vec![
        ("constants", edges::constants()),
        ("prices", edges::prices()),
        ("one edge", edges::one_edge()),
        ("edges", edges::edges()),
        ("fill", edges::fill()),
        ("cost", edges::cost()),
        ("streams", edges::streams()),
        ("free encoders", free_encoders()),
        ("lag", lag()),
        ("autoscaler", autoscale()),
        ("match", match_begins()),
    ]
}

/// A wanted share of refused publishers.
#[derive(Clone, Copy)]
struct Goal {
    share: f64,
    /// A normal variable exceeds its mean by so many standard deviations with this probability.
    deviations: f64,
    /// Simulated publishers for each seed.
    publishers: u32,
}

fn fleet(streams: u32, start: Duration, after_stream: AfterStream, control: Control) -> Fleet {
    Fleet {
        publishers: Publishers::of(streams, MEAN),
        stream: Distribution::LogNormal { mean: MEAN, sigma: 1.0 },
        hold: Duration::from_secs(30),
        start: StartTime::constant(start),
        after_stream,
        control,
        // Four cores each, on nodes with 16.
        pods_per_node: 3,
        rotation_lag: Duration::ZERO,
    }
}

fn agones(streams: u32, start: Duration) -> Fleet {
    fleet(streams, start, AfterStream::Replace, Control::agones(0))
}

fn autoscaled(streams: u32, start: Duration) -> Fleet {
    fleet(streams, start, AfterStream::Recycle, Control::autoscale(2))
}

/// A guess at the buffer that Agones needs: the mean number of starting pods, and a margin for the chance of starts, and
/// of arrivals and ends within an interval. docs/scale.md has it as a rule of thumb.
fn agones_guess(fleet: &Fleet, goal: Goal) -> u32 {
    let (rate, start) = (fleet.publishers.rate, fleet.start.mean().as_secs_f64());
    let margin = goal.deviations * (rate * (start + AGONES_SECONDS)).sqrt();
    (rate * start + margin + 2.0).round() as u32
}

/// The share of publishers who find no free encoder. Where no simulated publisher was refused, the share is below three
/// in their number with a confidence of 95 %, if refusals do not come together.
fn refused(outcomes: &[Outcome]) -> String {
    let share = over(outcomes, Outcome::share_found_none);
    let publishers: u64 = outcomes.iter().map(|outcome| outcome.publishers).sum();
    if share.mean > 0.0 {
        percent_within(share)
    } else {
        format!("< {}", percent((3.0 / publishers as f64).max(0.00001)))
    }
}

fn free_encoders() -> String {
    let mut cases = Vec::new();
    for streams in STREAMS {
        for start in START_SECONDS {
            cases.extend(GOALS.map(|goal| (streams, start, goal)));
        }
    }
    let rows = in_parallel(&cases, |(streams, start, goal)| {
        let start = Duration::from_secs(*start);
        let ideal = fleet(*streams, start, AfterStream::Replace, Control::at_once(0));
        let load = ideal.publishers.rate * start.as_secs_f64();
        let buffer = least(goal.share, |buffer| erlang_b(load, buffer));
        let period = Period::of_publishers(&ideal, goal.publishers, SETTLING);
        let ideal = Fleet { control: Control::at_once(buffer), ..ideal };
        let simulated = refused(&simulate_seeds(&ideal, period, SEEDS));
        let agones = agones(*streams, start);
        let (needed, outcomes) =
            least_buffer(&agones, period, SEEDS, goal.share, agones_guess(&agones, *goal));
        vec![
            whole((*streams).into()),
            format!("{} s", start.as_secs()),
            format!("{load:.2}"),
            format!("{} %", goal.share * 100.0),
            buffer.to_string(),
            percent(erlang_b(load, buffer)),
            simulated,
            least(goal.share, |buffer| poisson_tail(load, buffer)).to_string(),
            needed.to_string(),
            refused(&outcomes),
            whole(over(&outcomes, |outcome| outcome.free).mean),
            whole(over(&outcomes, |outcome| outcome.pods).mean),
            whole(over(&outcomes, |outcome| outcome.nodes).mean),
        ]
    });
    let header = [
        "streams",
        "start",
        "load",
        "goal",
        "buffer: Erlang B",
        "refused: formula",
        "refused: simulated",
        "buffer: Poisson",
        "Agones: buffer",
        "refused: simulated",
        "free",
        "pods",
        "nodes",
    ];
    markdown(&header, &rows)
}

fn lag() -> String {
    let start = Duration::from_secs(30);
    let rows = in_parallel(&STREAMS, |streams| {
        let fleet = agones(*streams, start);
        let period = Period::of_publishers(&fleet, 20_000, SETTLING);
        let buffer = agones_guess(&fleet, RARE);
        let mut fleet = Fleet { rotation_lag: LAG, ..fleet };
        fleet.control.buffer = buffer;
        let outcomes = simulate_seeds(&fleet, period, SEEDS);
        let free = over(&outcomes, |outcome| outcome.free).mean;
        let (rate, lag) = (fleet.publishers.rate, LAG.as_secs_f64());
        let free_for = |goal| {
            let free = least(goal, |free| refused_by_lag(rate, lag, free.into()));
            whole(free.into())
        };
        vec![
            whole((*streams).into()),
            format!("{rate:.2}"),
            buffer.to_string(),
            whole(free),
            percent(refused_by_lag(rate, lag, free)),
            percent_within(over(&outcomes, Outcome::share_found_taken)),
            free_for(0.01),
            free_for(0.001),
        ]
    });
    let header = [
        "streams",
        "publishers/s",
        "Agones: buffer",
        "free",
        "sent to a taken encoder: formula",
        "simulated",
        "free encoders for 1 %",
        "for 0.1 %",
    ];
    markdown(&header, &rows)
}

fn autoscale() -> String {
    let mut cases = Vec::new();
    for streams in STREAMS {
        cases.extend([(streams, None, 1), (streams, Some(USUAL_DAY), 1)]);
        // For a hundred streams a pod is a hundredth.
        cases.extend((streams > 100).then_some((streams, Some(USUAL_DAY), streams / 100)));
    }
    let rows = in_parallel(&cases, |(streams, hourly, removed)| {
        let mut fleet = autoscaled(*streams, Duration::from_secs(90));
        fleet.publishers.hourly = *hourly;
        fleet.control.shrinking.at_most = Some(*removed);
        // The first hours find a fleet that has not yet followed the rate.
        let (from, until) = (Duration::from_secs(4 * 3600), Duration::from_secs(28 * 3600));
        let outcomes = simulate_seeds(&fleet, Period { from, until, then: Duration::ZERO }, 4);
        vec![
            whole((*streams).into()),
            if hourly.is_some() { "a usual day" } else { "a steady rate" }.to_owned(),
            removed.to_string(),
            refused(&outcomes),
            whole(over(&outcomes, |outcome| outcome.free).mean),
            whole(outcomes.iter().map(|outcome| outcome.least_free).min().unwrap_or(0).into()),
            whole(over(&outcomes, |outcome| outcome.busy).mean),
            whole(over(&outcomes, |outcome| outcome.pods).mean),
            whole(over(&outcomes, |outcome| outcome.most_pods.into()).mean),
            whole(over(&outcomes, |outcome| outcome.nodes).mean),
        ]
    });
    let header = [
        "streams",
        "publishers",
        "removed a minute",
        "refused",
        "free",
        "least free",
        "busy",
        "pods",
        "most pods",
        "nodes",
    ];
    markdown(&header, &rows)
}

/// A fifth of the usual streams again, within five minutes.
fn with_spike(mut fleet: Fleet, retry: Option<Retry>) -> Fleet {
    let publishers = fleet.mean_busy() / 5.0;
    fleet.publishers.spike = Some(Spike { at: SETTLING, lasts: Duration::from_secs(300), publishers });
    fleet.publishers.retry = retry;
    fleet
}

fn match_begins() -> String {
    let mut cases = Vec::new();
    for streams in STREAMS {
        cases.extend([30, 90].map(|start| (streams, start)));
    }
    let rows = in_parallel(&cases, |(streams, start)| spike_row(*streams, Duration::from_secs(*start)));
    let header = [
        "streams",
        "start",
        "publishers/s",
        "Agones: buffer",
        "refused at first",
        "lost",
        "mean wait",
        "longest",
        "buffer for 1 %",
        "autoscaler: refused at first",
        "lost",
        "mean wait",
        "longest",
    ];
    markdown(&header, &rows)
}

fn spike_row(streams: u32, start: Duration) -> Vec<String> {
    let mut fleet = agones(streams, start);
    fleet.control.buffer = agones_guess(&fleet, RARE);
    let retry = Some(Retry { after: Duration::from_secs(10), times: 6 });
    let spike = with_spike(fleet.clone(), retry);
    let period =
        Period { from: SETTLING, until: SETTLING + Duration::from_secs(300), then: Duration::from_secs(120) };
    let once = with_spike(fleet.clone(), None);
    let rate = over(&simulate_seeds(&once, period, SEEDS), |outcome| outcome.publishers as f64).mean / 300.0;
    let guess = (rate * (start.as_secs_f64() + AGONES_SECONDS)) as u32;
    let (enough, _) = least_buffer(&once, period, SEEDS, 0.01, guess);
    let mut row = vec![
        whole(streams.into()),
        format!("{} s", start.as_secs()),
        format!("{rate:.2}"),
        fleet.control.buffer.to_string(),
    ];
    row.extend(spike_cells(&simulate_seeds(&spike, period, SEEDS)));
    row.push(whole(enough.into()));
    row.extend(spike_cells(&simulate_seeds(&with_spike(autoscaled(streams, start), retry), period, SEEDS)));
    row
}

fn spike_cells(outcomes: &[Outcome]) -> [String; 4] {
    let longest = outcomes.iter().map(|outcome| outcome.longest_wait.as_secs()).max().unwrap_or(0);
    let waited: u64 = outcomes.iter().map(|outcome| outcome.waited).sum();
    let waiting: Duration = outcomes.iter().map(|outcome| outcome.waiting).sum();
    let mean = if waited == 0 { 0.0 } else { waiting.as_secs_f64() / waited as f64 };
    [
        percent(over(outcomes, Outcome::share_found_none).mean),
        percent(over(outcomes, Outcome::share_lost).mean),
        format!("{mean:.0} s"),
        format!("{longest} s"),
    ]
}

/// Computes a row for each case, in the order of the cases, on all processors. The last cases are the longest ones and
/// begin first.
fn in_parallel<C: Sync, R: Send>(cases: &[C], compute: impl Fn(&C) -> R + Sync) -> Vec<R> {
    let done = AtomicUsize::new(0);
    let work = || {
        let mut computed = Vec::new();
        while let Some(index) = cases.len().checked_sub(1 + done.fetch_add(1, Ordering::Relaxed)) {
            computed.push((index, compute(&cases[index])));
        }
        computed
    };
    let threads = available_parallelism().map_or(1, NonZero::get);
    let mut computed: Vec<(usize, R)> = scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        results.flatten().collect()
    });
    computed.sort_by_key(|(index, _)| *index);
    computed.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::with_tables;

    #[test]
    fn the_document_has_these_tables() {
        let document = include_str!("../../docs/scale.md");
        let wanted = with_tables(document, &sections()).unwrap();
        let differs = wanted.lines().zip(document.lines()).find(|(wanted, found)| wanted != found);
        assert!(wanted == document, "run `make simulate INTO=docs/scale.md`: {differs:?}");
    }
}
