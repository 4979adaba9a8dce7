//! The goals of the encoder and its edges, and which of them a measurement misses.

use crate::measure::Figures;

/// Goal: seconds that a server may add to a playlist or a part for 99 of 100 viewers.
const DELAY: f64 = 0.1;
/// Goal: requests to the encoder with many viewers, of those with a few. The rest is for reloads without directives and
/// for versions at the ends of the measuring time.
const MORE_REQUESTS: f64 = 1.2;
/// Goal: requests to the encoder for two edges, of those for one.
const TWICE: f64 = 2.0 * MORE_REQUESTS;

/// The goals that a server misses.
pub(crate) fn missed(figures: &Figures, one_edge: Option<f64>) -> Vec<String> {
    let mut missed = Vec::new();
    let delays = [("playlists", Some(figures.playlist)), ("parts", figures.part)];
    for (what, delay) in delays.iter().filter_map(|(what, delay)| Some((what, delay.as_ref()?))) {
        if delay.p99 > DELAY {
            missed.push(format!(
                "{what} come {:.0} ms late (p99), {:.0} ms allowed",
                delay.p99 * 1e3,
                DELAY * 1e3
            ));
        }
    }
    let wrong = figures.refused + figures.stale + figures.broken + figures.missed as u64;
    if wrong > 0 {
        missed.push(format!("{wrong} refused, stale, broken or missed answers"));
    }
    if let Some((few, all)) = figures.requests_few.zip(figures.requests)
        && all > MORE_REQUESTS * few
    {
        missed.push(format!("{all:.2} requests to the encoder per version, {few:.2} with a few viewers"));
    }
    if let Some((one, two)) = one_edge.zip(figures.requests)
        && two > TWICE * one
    {
        missed.push(format!("{two:.2} requests to the encoder per version, {one:.2} with one edge"));
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Quantiles;

    #[test]
    fn each_goal_can_be_missed_by_itself() {
        let quick = Quantiles { median: 0.01, p99: 0.09, max: 0.5 };
        let good = Figures {
            server: "edge".to_owned(),
            viewers: 10,
            fetches_parts: true,
            seconds: 1.0,
            versions: 6,
            answers: 120,
            bytes: 1,
            refused: 0,
            stale: 0,
            broken: 0,
            missed: 0,
            cpu: 0.1,
            crowd_cpu: 0.1,
            memory_kib: 1,
            memory_per_viewer_kib: 0.1,
            requests_few: Some(2.0),
            requests: Some(2.3),
            requests_while_connecting: Some(3),
            playlist: quick,
            part: Some(quick),
        };
        assert_eq!(missed(&good, Some(1.0)), [""; 0]);
        let slow = Quantiles { p99: 0.101, ..quick };
        let bad = [
            (Figures { playlist: slow, ..good.clone() }, None, "playlists come 101 ms late"),
            (Figures { part: Some(slow), ..good.clone() }, None, "parts come 101 ms late"),
            (Figures { missed: 2, stale: 1, ..good.clone() }, None, "3 refused, stale"),
            (
                Figures { requests: Some(2.5), ..good.clone() },
                None,
                "2.50 requests to the encoder per version",
            ),
            (good, Some(0.9), "0.90 with one edge"),
        ];
        for (figures, one_edge, complaint) in bad {
            let missed = missed(&figures, one_edge);
            assert!(missed.len() == 1 && missed[0].contains(complaint), "{missed:?}");
        }
    }
}
