//! The same fleet with several seeds, and the least buffer for a wanted share of refused publishers.

use crate::fleet::Fleet;
use crate::simulation::{Outcome, Period, simulate};
use crate::statistics::{Estimate, estimate};

/// Outcomes of the seeds 1 to `seeds`.
#[must_use]
pub fn simulate_seeds(fleet: &Fleet, period: Period, seeds: u64) -> Vec<Outcome> {
    (1..=seeds).map(|seed| simulate(fleet, period, seed)).collect()
}

/// The estimate of a value over some outcomes.
#[must_use]
pub fn over(outcomes: &[Outcome], value: impl Fn(&Outcome) -> f64) -> Estimate {
    estimate(&outcomes.iter().map(value).collect::<Vec<_>>())
}

/// The least buffer with which at most `goal` of all publishers find no free pod at their first attempt, and the
/// outcomes with that buffer. `guess` is where the search begins. Above 100 the buffer is exact to one per cent.
#[must_use]
pub fn least_buffer(fleet: &Fleet, period: Period, seeds: u64, goal: f64, guess: u32) -> (u32, Vec<Outcome>) {
    let run = |buffer: u32| {
        let mut fleet = fleet.clone();
        fleet.control.buffer = buffer;
        simulate_until_missed(&fleet, period, seeds, goal)
    };
    let mut step = (guess / 64).max(1);
    let mut best = None;
    let (mut too_small, mut enough) = (None, None);
    let mut buffer = guess;
    // Steps grow until the wanted buffer lies between two that were tried; then halves are tried.
    loop {
        if let Some(outcomes) = run(buffer) {
            enough = Some(buffer);
            best = Some((buffer, outcomes));
        } else {
            too_small = Some(buffer);
        }
        buffer = match (too_small, enough) {
            (Some(low), Some(high)) if high - low <= (high / 100).max(1) => break,
            (Some(low), Some(high)) => (low + high) / 2,
            (None, Some(0)) | (None, None) => break,
            (None, Some(high)) => high.saturating_sub(step),
            (Some(low), None) => low + step,
        };
        step *= 2;
    }
    best.unwrap_or_else(|| (guess, Vec::new()))
}

/// Outcomes of the seeds 1 to `seeds`; none if more than `goal` of all publishers found no free pod. Stops at the seed
/// after which the goal cannot be reached any more.
fn simulate_until_missed(fleet: &Fleet, period: Period, seeds: u64, goal: f64) -> Option<Vec<Outcome>> {
    let (mut found_none, mut publishers) = (0, 0);
    let mut outcomes = Vec::new();
    for seed in 1..=seeds {
        let outcome = simulate(fleet, period, seed);
        found_none += outcome.found_none;
        publishers += outcome.publishers;
        outcomes.push(outcome);
        // The other seeds have about as many publishers.
        let others = publishers as f64 / seed as f64 * 1.2 * (seeds - seed) as f64;
        if found_none as f64 > goal * (publishers as f64 + others) {
            return None;
        }
    }
    Some(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, StartTime};
    use crate::fleet::{AfterStream, Control, Publishers};
    use crate::formulas::{erlang_b, least};
    use std::time::Duration;

    #[test]
    fn the_search_finds_the_formula_s_buffer_from_both_sides() {
        let mean = Duration::from_secs(1800);
        let fleet = Fleet {
            publishers: Publishers::of(600, mean),
            stream: Distribution::Exponential(mean),
            hold: Duration::ZERO,
            start: StartTime::constant(Duration::from_secs(30)),
            after_stream: AfterStream::Replace,
            control: Control::at_once(0),
            pods_per_node: 1,
            rotation_lag: Duration::ZERO,
        };
        let period = Period::of_publishers(&fleet, 20_000, Duration::from_secs(300));
        let wanted = least(0.01, |buffer| erlang_b(10.0, buffer));
        for guess in [0, 5, 17, 18, 40] {
            let (found, outcomes) = least_buffer(&fleet, period, 4, 0.01, guess);
            assert_eq!((found, outcomes.len()), (wanted, 4), "from {guess}");
        }
    }
}
