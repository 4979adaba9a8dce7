//! How old media is at each stage of a stream, for `/metrics` and `/status`, and the verdict when a stage keeps
//! breaking its budget. Pure but for the process's metrics.
//!
//! The camera's clock is unknown, so an age counts from the least delayed arrival of the last seconds: the constant
//! part of the delay before the encoder is not included, variations of that delay are. Ages add up from stage to stage,
//! and so do budgets ([`hls::Timing`]), so the first stage that breaks its own budget is the one to look at.

use crate::status::{RungDelays, StageDelays};
use hls::Timing;
use metrics::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a budget has to be broken before a line is logged, and kept before the breach is over.
pub(super) const SUSTAINED: Duration = Duration::from_secs(10);
/// Minimum number of observations in that time for a verdict; segments of 3 s give only three.
const ENOUGH: u32 = 2;

/// A stage that media passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Read from the publisher's connection.
    Arrived,
    /// Received from the worker. Media that is passed through has no such stage.
    Encoded,
    /// In a complete part or, where no parts are made, in a complete segment.
    Packaged,
    /// Listed in a playlist of the origin.
    Readable,
    /// In a segment that the store has acknowledged, as well as all segments before it.
    Stored,
}

/// Whether the stages keep their budgets.
#[derive(Clone, Debug, PartialEq)]
pub enum BudgetVerdict {
    /// Most media of the last [`SUSTAINED`] was too old.
    Broken {
        /// The first stage over its budget.
        stage: Stage,
        /// The rendition with the greatest age at that stage.
        rung: String,
        /// The greatest age of that rendition.
        worst: Duration,
        /// The greatest age that the stage's budget allows.
        budget: Duration,
    },
    /// No stage breaks its budget any more.
    Kept,
}

/// Ages of one stream's media, by stage and rendition.
#[derive(Debug)]
pub struct Delays {
    budgets: [Duration; 5],
    /// By stage and rendition.
    meters: [BTreeMap<String, Meter>; 5],
    since: Option<Instant>,
    broken: Option<Stage>,
}

/// One stage of one rendition.
#[derive(Debug)]
struct Meter {
    histogram: Histogram,
    last: Duration,
    /// Greatest age in the current window of [`SUSTAINED`].
    worst: Duration,
    seen: u32,
    over: u32,
    /// Greatest age in the previous window.
    former_worst: Duration,
    /// Whether the previous window broke the budget.
    breaks: bool,
}

impl Stage {
    /// All stages, in order.
    pub const ALL: [Self; 5] = [Self::Arrived, Self::Encoded, Self::Packaged, Self::Readable, Self::Stored];

    /// The stage's name as a metric label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arrived => "arrived",
            Self::Encoded => "encoded",
            Self::Packaged => "packaged",
            Self::Readable => "readable",
            Self::Stored => "stored",
        }
    }

    /// The likely cause when media is too old at this stage and was not at the previous stage.
    pub const fn suspect(self) -> &'static str {
        match self {
            Self::Arrived => "the publisher's network",
            Self::Encoded => "the encoder: too few cores for the ladder or the preset",
            Self::Packaged => "the publisher's timestamps or keyframes",
            Self::Readable => "this process: it gets no processor time",
            Self::Stored => "the store or the way to it",
        }
    }

    fn budget(self, timing: &Timing) -> Duration {
        let span = match self {
            Self::Arrived => timing.arrival_budget(),
            Self::Encoded | Self::Packaged | Self::Readable => timing.origin_budget(),
            Self::Stored => timing.store_budget(),
        };
        span.to_duration()
    }
}

impl Delays {
    /// Creates statistics without observations.
    pub fn new(timing: &Timing) -> Self {
        Self {
            budgets: Stage::ALL.map(|stage| stage.budget(timing)),
            meters: Default::default(),
            since: None,
            broken: None,
        }
    }

    /// Media of a rendition has passed a stage at this age. Returns the verdict when it has changed.
    pub fn passed(&mut self, stage: Stage, rung: &str, age: Duration, now: Instant) -> Option<BudgetVerdict> {
        let budget = self.budgets[stage as usize];
        let meters = &mut self.meters[stage as usize];
        if !meters.contains_key(rung) {
            meters.insert(rung.to_owned(), Meter::new(stage, rung));
        }
        let meter = meters.get_mut(rung)?;
        meter.histogram.record(age.as_secs_f64());
        meter.last = age;
        meter.worst = meter.worst.max(age);
        meter.seen += 1;
        meter.over += u32::from(age > budget);
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < SUSTAINED {
            return None;
        }
        self.since = Some(now);
        self.judge()
    }

    /// The publisher has left: starts a new window, because ages that its absence causes are no fault of any stage.
    pub fn paused(&mut self) {
        self.since = None;
        for meter in self.meters.iter_mut().flat_map(BTreeMap::values_mut) {
            meter.restart();
        }
    }

    /// The first stage that breaks its budget.
    pub fn broken(&self) -> Option<Stage> {
        self.broken
    }

    /// Budget and ages by rendition of every stage, for `/status`.
    pub fn status(&self) -> Vec<StageDelays> {
        let ages = |meter: &Meter| RungDelays {
            last_seconds: meter.last.as_secs_f64(),
            worst_seconds: meter.worst.max(meter.former_worst).as_secs_f64(),
        };
        let stage = |stage: Stage| {
            let meters = &self.meters[stage as usize];
            StageDelays {
                stage: stage.name().to_owned(),
                budget_seconds: self.budgets[stage as usize].as_secs_f64(),
                broken: meters.values().any(|meter| meter.breaks),
                rungs: meters.iter().map(|(rung, meter)| (rung.clone(), ages(meter))).collect(),
            }
        };
        Stage::ALL.map(stage).to_vec()
    }

    fn judge(&mut self) -> Option<BudgetVerdict> {
        for meter in self.meters.iter_mut().flat_map(BTreeMap::values_mut) {
            meter.judge();
        }
        let worst = Stage::ALL.into_iter().find_map(|stage| {
            let breaking = self.meters[stage as usize].iter().filter(|(_, meter)| meter.breaks);
            breaking.max_by_key(|(_, meter)| meter.former_worst).map(|(rung, meter)| (stage, rung, meter))
        });
        let broken = worst.map(|(stage, _, _)| stage);
        if broken == self.broken {
            return None;
        }
        self.broken = broken;
        Some(worst.map_or(BudgetVerdict::Kept, |(stage, rung, meter)| BudgetVerdict::Broken {
            stage,
            rung: rung.clone(),
            worst: meter.former_worst,
            budget: self.budgets[stage as usize],
        }))
    }
}

impl Meter {
    fn new(stage: Stage, rung: &str) -> Self {
        Self {
            histogram: metrics::histogram!(
                "encoder_stage_delay_seconds", "stage" => stage.name(), "rung" => rung.to_owned()
            ),
            last: Duration::ZERO,
            worst: Duration::ZERO,
            seen: 0,
            over: 0,
            former_worst: Duration::ZERO,
            breaks: false,
        }
    }

    /// Ends a window. A meter breaks its budget when more than half of the observations are too old, and recovers only
    /// when fewer than a tenth are, so that a stage at its limit is not reported again and again.
    fn judge(&mut self) {
        if self.seen >= ENOUGH {
            self.breaks = if self.breaks { self.over * 10 >= self.seen } else { self.over * 2 > self.seen };
        }
        self.former_worst = self.worst;
        self.restart();
    }

    fn restart(&mut self) {
        (self.worst, self.seen, self.over) = (Duration::ZERO, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream whose media passes the stages at given ages, ten times a second.
    struct Show {
        delays: Delays,
        now: Instant,
    }

    impl Show {
        fn new(latency: f64) -> Self {
            let latency = hls::timing::Latency::from_secs_f64(latency).unwrap();
            Self { delays: Delays::new(&Timing::new(latency)), now: Instant::now() }
        }

        fn run(&mut self, seconds: u32, ages: &[(Stage, &str, u64)]) -> Vec<BudgetVerdict> {
            let mut verdicts = Vec::new();
            for _ in 0..seconds * 10 {
                self.now += Duration::from_millis(100);
                for (stage, rung, ms) in ages {
                    verdicts.extend(self.delays.passed(*stage, rung, Duration::from_millis(*ms), self.now));
                }
            }
            verdicts
        }
    }

    const GOOD: [(Stage, &str, u64); 5] = [
        (Stage::Arrived, "published", 20),
        (Stage::Encoded, "360p", 340),
        (Stage::Encoded, "720p", 350),
        (Stage::Readable, "720p", 360),
        (Stage::Stored, "720p", 900),
    ];

    #[test]
    fn budgets_add_up_along_the_way() {
        for latency in [2.0, 3.0, 4.0, 6.0, 10.0, 15.0] {
            let budgets = Show::new(latency).delays.budgets;
            assert!(budgets.is_sorted(), "{latency}: {budgets:?}");
            assert!(budgets[4].as_secs_f64() < latency);
        }
    }

    #[test]
    fn a_stream_in_time_is_not_worth_a_word() {
        let mut show = Show::new(4.0);
        assert_eq!(show.run(60, &GOOD), []);
    }

    #[test]
    fn a_short_breach_is_not_told_and_a_long_one_is_told_once_with_its_stage() {
        let mut show = Show::new(4.0);
        let slow = [
            (Stage::Arrived, "published", 20),
            (Stage::Encoded, "360p", 1_200),
            (Stage::Encoded, "720p", 1_500),
            (Stage::Readable, "720p", 1_600),
            (Stage::Stored, "720p", 3_000),
        ];
        show.run(20, &GOOD);
        assert_eq!(show.run(3, &slow), []);
        assert_eq!(show.run(17, &GOOD), []);
        let told = show.run(60, &slow);
        let [BudgetVerdict::Broken { stage: Stage::Encoded, rung, worst, budget }] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((rung.as_str(), worst.as_millis()), ("720p", 1_500));
        assert!(*budget < *worst);
        assert!(show.delays.status()[1].broken);
        assert_eq!(show.run(60, &GOOD), [BudgetVerdict::Kept]);
    }

    #[test]
    fn a_publisher_with_a_bad_network_is_named_and_not_the_encoder() {
        let mut show = Show::new(4.0);
        let jammed = [(Stage::Arrived, "published", 900), (Stage::Encoded, "720p", 1_250)];
        let told = show.run(15, &jammed);
        assert!(matches!(told[..], [BudgetVerdict::Broken { stage: Stage::Arrived, .. }]), "{told:?}");
    }

    #[test]
    fn a_stage_at_its_limit_is_told_of_once() {
        let mut show = Show::new(4.0);
        show.run(20, &[(Stage::Encoded, "720p", 5_000)]);
        let mut told = Vec::new();
        for _ in 0..30 {
            told.extend(show.run(2, &[(Stage::Encoded, "720p", 5_000)]));
            told.extend(show.run(8, &GOOD));
        }
        assert_eq!(told, []);
    }

    #[test]
    fn a_pause_starts_the_stretch_anew() {
        let mut show = Show::new(4.0);
        show.run(9, &[(Stage::Arrived, "published", 5_000)]);
        show.delays.paused();
        assert_eq!(show.run(20, &GOOD), []);
    }

    #[test]
    fn status_has_every_stage_with_its_budget() {
        let mut show = Show::new(2.0);
        show.run(12, &GOOD);
        show.run(1, &[(Stage::Encoded, "720p", 400)]);
        let status = serde_json::to_value(show.delays.status()).unwrap();
        assert_eq!(status.as_array().unwrap().len(), 5);
        assert_eq!(status[1]["stage"], "encoded");
        assert_eq!(status[1]["rungs"]["720p"]["last_seconds"], 0.4);
        assert_eq!(status[1]["rungs"]["720p"]["worst_seconds"], 0.4);
        assert_eq!(status[1]["broken"], false);
        assert!(status[1]["budget_seconds"].as_f64().unwrap() > 0.4);
    }
}
