//! Computes figures from a viewer's observations, and a verdict from the figures. Pure, without I/O.

use ::tests::viewer::{Seen, Shown, Viewed};
use serde::Serialize;
use std::collections::BTreeSet;

/// A stop of the video's clock for this many seconds is a stall for the viewer, with or without a `waiting` event.
const FREEZE: f64 = 0.25;

/// A distribution, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p5: f64,
    pub(crate) p95: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` for an empty list.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |q: f64| values[(last as f64 * q).round() as usize];
        Some(Self { median: at(0.5), p5: at(0.05), p95: at(0.95), max: values[last] })
    }
}

/// How much later a viewer may be through an edge than from the origin, in seconds.
const MOST_LATER: f64 = 0.1;

/// How much the latency that the page displays may differ from the picture's age, in seconds.
const MOST_WRONG: f64 = 0.1;

/// How much later a viewer is through an edge than the same player at the origin, in seconds; negative if earlier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Later {
    /// By the medians of the frames' ages. The page corrects its distance from live, and has no other difference.
    pub(crate) on_screen: f64,
    /// The same without the difference between the distances from the playlist's end at which hls.js plays. hls.js with
    /// its defaults keeps the distance at which it happened to start, up to a second more or less.
    pub(crate) in_playlist: f64,
}

impl Later {
    /// `None` if hls.js gave no estimate of a distance.
    pub(crate) fn of(figures: &Figures, at_origin: &Figures) -> Option<Self> {
        let on_screen = figures.age.median - at_origin.age.median;
        let distance = figures.hls_latency? - at_origin.hls_latency?;
        Some(Self { on_screen, in_playlist: on_screen - distance })
    }
}

/// The figures of one viewing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Age of the frames on screen, one value per frame shown.
    pub(crate) age: Spread,
    /// Frames shown; and below, those whose clock could not be read.
    pub(crate) frames: usize,
    pub(crate) unreadable: usize,
    /// Number of stalls: `waiting` events, or a freeze without one.
    pub(crate) stalls: u32,
    /// Longest stop of the video's clock, in seconds.
    pub(crate) freeze: f64,
    /// Published frames between the first and the last frame read that were never read, wherever they were lost.
    pub(crate) not_seen: usize,
    /// Frames that the browser reports as dropped.
    pub(crate) browser_dropped: u64,
    /// Frames that the browser showed while the reader was busy.
    pub(crate) reader_missed: u64,
    /// Median of hls.js's estimate of its distance to the playlist's end; and below, of its target distance; in
    /// seconds.
    pub(crate) hls_latency: Option<f64>,
    pub(crate) hls_target: Option<f64>,
    /// Latency displayed by the page minus the picture's age, if the page displays one.
    pub(crate) readout_error: Option<Spread>,
    /// Number of changes of the playback rate; and below, the share of time in which it was not 1.
    pub(crate) rate_changes: usize,
    pub(crate) rate_share: f64,
    /// Buffer ahead in seconds, 5th percentile.
    pub(crate) ahead_p5: Option<f64>,
    /// Stalls during the warm-up.
    pub(crate) warmup_stalls: u32,
    /// Errors of hls.js and of the page, including the warm-up.
    pub(crate) errors: Vec<String>,
}

impl Figures {
    /// Figures of a viewing; `codes` are the clocks of all published frames. `None` if no frame could be read.
    pub(crate) fn of(viewed: &Viewed, codes: &[u64]) -> Option<Self> {
        let seen = &viewed.measured;
        let read: Vec<_> = seen.frames.iter().filter(|f| f.code_ms > 0).collect();
        let age = |frame: &&Shown| (frame.at_ms - frame.code_ms as f64) / 1000.0;
        let distinct: BTreeSet<u64> = read.iter().map(|f| f.code_ms).collect();
        let (first, last) = (*distinct.first()?, *distinct.last()?);
        let readout = read.iter().filter_map(|f| Some(f.readout? - age(f))).collect::<Vec<_>>();
        let steps = seen.frames.windows(2).map(|pair| pair[1].presented.saturating_sub(pair[0].presented));
        let median = |values: Vec<f64>| Spread::of(values).map(|s| s.median);
        let mut errors = viewed.warmup.errors.clone();
        errors.extend(seen.errors.iter().chain(&viewed.console).cloned());
        let off = seen.hls.iter().filter(|e| e.rate != 1.0).count();
        Some(Self {
            age: Spread::of(read.iter().map(age).collect())?,
            frames: seen.frames.len(),
            unreadable: seen.frames.len() - read.len(),
            stalls: stalls(seen),
            freeze: seen.freeze,
            not_seen: codes
                .iter()
                .filter(|code| (first..=last).contains(*code) && !distinct.contains(*code))
                .count(),
            browser_dropped: seen.dropped,
            reader_missed: steps.map(|step| step.saturating_sub(1)).sum(),
            hls_latency: median(seen.hls.iter().map(|e| e.latency).collect()),
            hls_target: median(seen.hls.iter().filter_map(|e| e.target).collect()),
            readout_error: Spread::of(readout),
            rate_changes: seen.rates.len(),
            rate_share: off as f64 / seen.hls.len().max(1) as f64,
            ahead_p5: Spread::of(seen.hls.iter().map(|e| e.ahead).collect()).map(|s| s.p5),
            warmup_stalls: stalls(&viewed.warmup),
            errors,
        })
    }

    /// First and last code read during the measurement.
    pub(crate) fn range(viewed: &Viewed) -> Option<(u64, u64)> {
        let codes = viewed.measured.frames.iter().map(|f| f.code_ms).filter(|code| *code > 0);
        let codes: BTreeSet<u64> = codes.collect();
        Some((*codes.first()?, *codes.last()?))
    }
}

fn stalls(seen: &Seen) -> u32 {
    seen.waits.max(u32::from(seen.freeze > FREEZE))
}

/// Requirements for a viewer of the encoder's player page at a latency of `knob` seconds; returns those that are not
/// met.
pub(crate) fn missed(knob: f64, figures: &Figures, lost_by_us: Option<usize>) -> Vec<&'static str> {
    let wrong = [
        (figures.age.median < knob - 1.0, "median too low"),
        (figures.age.median > knob, "median too high"),
        (figures.age.p95 > knob, "p95 too high"),
        (figures.stalls > 0, "stalls"),
        (lost_by_us.is_none_or(|lost| lost > 0), "frames lost"),
    ];
    wrong.into_iter().filter_map(|(is, what)| is.then_some(what)).collect()
}

/// Requirements for a viewer through an edge; `later` is `None` if the same player at the origin was not measured.
/// `keeps_distance` says whether the player corrects its distance from live. Returns those that are not met.
pub(crate) fn missed_through_edge(
    later: Option<Later>,
    keeps_distance: bool,
    figures: &Figures,
) -> Vec<&'static str> {
    let late =
        |later: Later| later.in_playlist > MOST_LATER || (keeps_distance && later.on_screen > MOST_LATER);
    let wrong = [
        (later.is_none(), "nothing to compare with"),
        (later.is_some_and(late), "later than from the origin"),
        (figures.readout_error.is_some_and(|error| error.median.abs() > MOST_WRONG), "readout wrong"),
        (figures.stalls > 0, "stalls"),
    ];
    wrong.into_iter().filter_map(|(is, what)| is.then_some(what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::tests::viewer::Estimate;

    fn viewed(frames: &[(f64, u64, u64)]) -> Viewed {
        let frames = frames.iter().map(|(at_ms, code_ms, presented)| Shown {
            at_ms: *at_ms,
            code_ms: *code_ms,
            media: 0.0,
            presented: *presented,
            readout: Some(3.0),
        });
        let hls = [1.0, 1.0, 1.1, 1.0].map(|rate| Estimate {
            latency: 2.0,
            target: None,
            rate,
            ahead: 1.5,
            level: 0,
        });
        let measured = Seen {
            frames: frames.collect(),
            waits: 0,
            freeze: 0.05,
            rates: vec![(10.0, 1.1), (60.0, 1.0)],
            errors: Vec::new(),
            hls: hls.to_vec(),
            watched: 1.0,
            advanced: 1.0,
            decoded: 4,
            dropped: 1,
        };
        let warmup = Seen { frames: Vec::new(), waits: 2, ..measured.clone() };
        Viewed { first_frame: 1.0, warmup, measured, console: Vec::new() }
    }

    #[test]
    fn ages_losses_and_readout() {
        let shown = [(4000.0, 1000, 1), (4033.0, 1033, 2), (4100.0, 0, 3), (4133.0, 1133, 5)];
        let figures = Figures::of(&viewed(&shown), &[966, 1000, 1033, 1066, 1100, 1133, 1166]).unwrap();
        assert_eq!(figures.age, Spread { median: 3.0, p5: 3.0, p95: 3.0, max: 3.0 });
        assert_eq!((figures.frames, figures.unreadable, figures.not_seen), (4, 1, 2));
        assert_eq!((figures.reader_missed, figures.browser_dropped), (1, 1));
        assert_eq!(figures.readout_error.unwrap().median, 0.0);
        assert_eq!((figures.rate_changes, figures.rate_share), (2, 0.25));
        assert_eq!((figures.stalls, figures.warmup_stalls), (0, 2));
    }

    #[test]
    fn nothing_read_is_no_figure() {
        assert!(Figures::of(&viewed(&[(4000.0, 0, 1)]), &[1000]).is_none());
        assert!(Figures::of(&viewed(&[]), &[]).is_none());
    }

    #[test]
    fn a_setting_is_met_within_a_second_below_it() {
        let figures = Figures::of(&viewed(&[(4000.0, 1000, 1)]), &[1000]).unwrap();
        assert!(missed(3.0, &figures, Some(0)).is_empty());
        assert!(missed(4.0, &figures, Some(0)).is_empty());
        assert_eq!(missed(2.9, &figures, Some(0)), ["median too high", "p95 too high"]);
        assert_eq!(missed(4.1, &figures, Some(3)), ["median too low", "frames lost"]);
        assert_eq!(missed(3.5, &figures, None), ["frames lost"]);
    }

    #[test]
    fn an_edge_adds_a_tenth_of_a_second_at_most() {
        let at_origin = Figures::of(&viewed(&[(4000.0, 1000, 1)]), &[1000]).unwrap();
        // So much older pictures, at so much more distance from the playlist's end.
        let through = |age: f64, distance: f64| {
            let mut figures = at_origin.clone();
            figures.age.median += age;
            figures.hls_latency = Some(at_origin.hls_latency.unwrap() + distance);
            figures
        };
        let missed = |age, distance, keeps_distance| {
            let figures = through(age, distance);
            missed_through_edge(Later::of(&figures, &at_origin), keeps_distance, &figures)
        };
        assert!(missed(0.09, 0.0, true).is_empty());
        assert!(missed(-0.5, -0.5, true).is_empty());
        assert_eq!(missed(0.11, 0.0, true), ["later than from the origin"]);
        // The player started further from live, and stays there.
        assert_eq!(missed(0.5, 0.5, true), ["later than from the origin"]);
        assert!(missed(0.5, 0.5, false).is_empty());
        // The player started closer to live, which hides what the edge adds.
        assert_eq!(missed(-0.3, -0.5, false), ["later than from the origin"]);
        let wrong = Some(Spread { median: -0.4, p5: -0.4, p95: -0.4, max: -0.4 });
        let wrong = Figures { readout_error: wrong, ..through(0.0, 0.0) };
        assert_eq!(missed_through_edge(Later::of(&wrong, &at_origin), true, &wrong), ["readout wrong"]);
        let stalled = Figures { stalls: 1, ..through(0.0, 0.0) };
        assert_eq!(missed_through_edge(None, true, &stalled), ["nothing to compare with", "stalls"]);
    }
}
