//! Whether a stream has problems, with hysteresis: a problem is told when it begins, and that all is well again once
//! there has been no problem for a while. Sans-IO.

use super::event::{Happening, Problem};
use crate::stream::delays::Stage;
use std::time::{Duration, Instant};

/// How long a stream without problems stays unhealthy.
const QUIET: Duration = Duration::from_secs(30);
/// The kinds of problems: see [`Problem`].
const KINDS: usize = 3;

/// What tells problems of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HealthSigns {
    /// The first stage that breaks its budget.
    pub late: Option<Stage>,
    /// Worker processes that died or hung since the stream's start.
    pub worker_restarts: u64,
    /// Segments that became gaps in the store since the stream's start.
    pub missing_segments: u64,
}

/// The health of one stream.
#[derive(Debug, Default)]
pub(super) struct Health {
    before: HealthSigns,
    /// When each kind of problem was seen last.
    seen: [Option<Instant>; KINDS],
    /// Kinds of problems that were told since the stream became unhealthy.
    told: [bool; KINDS],
    since: Option<Instant>,
    /// The stage that was late when this was seen last.
    stage: Option<Stage>,
}

impl Health {
    /// Looks at a stream; returns what has to be told.
    pub(super) fn look(&mut self, signs: HealthSigns, now: Instant) -> Option<Happening> {
        let before = std::mem::replace(&mut self.before, signs);
        self.stage = signs.late.or(self.stage);
        let present = [
            signs.late.is_some(),
            signs.worker_restarts > before.worker_restarts,
            signs.missing_segments > before.missing_segments,
        ];
        for (seen, present) in self.seen.iter_mut().zip(present) {
            let is_recent = |at: &Instant| now.saturating_duration_since(*at) < QUIET;
            *seen = if present { Some(now) } else { seen.filter(is_recent) };
        }
        if self.seen.iter().all(Option::is_none) {
            self.told = [false; KINDS];
            let since = self.since.take()?;
            let unhealthy_seconds = now.saturating_duration_since(since).as_secs_f64();
            return Some(Happening::Healthy { unhealthy_seconds });
        }
        let is_new = self.seen.iter().zip(self.told).any(|(seen, told)| seen.is_some() && !told);
        if !is_new {
            return None;
        }
        self.since.get_or_insert(now);
        for (told, seen) in self.told.iter_mut().zip(self.seen) {
            *told |= seen.is_some();
        }
        Some(Happening::Unhealthy { problems: self.problems() })
    }

    fn problems(&self) -> Vec<Problem> {
        let [late, restarts, missing] = self.seen.map(|seen| seen.is_some());
        let late = self.stage.filter(|_| late);
        let late = late.map(|stage| Problem::Late { stage: stage.name(), suspect: stage.suspect() });
        let restarts = restarts.then_some(Problem::WorkerRestarts { count: self.before.worker_restarts });
        let missing = missing.then_some(Problem::SegmentsMissing { count: self.before.missing_segments });
        [late, restarts, missing].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told when a stream shows these signs, one look a second.
    fn told(signs: impl IntoIterator<Item = HealthSigns>) -> Vec<(u64, Happening)> {
        let (mut health, began) = (Health::default(), Instant::now());
        let look = |(second, signs)| {
            let happening = health.look(signs, began + Duration::from_secs(second))?;
            Some((second, happening))
        };
        (0..).zip(signs).filter_map(look).collect()
    }

    const WELL: HealthSigns = HealthSigns { late: None, worker_restarts: 0, missing_segments: 0 };

    #[test]
    fn a_stream_without_problems_is_not_worth_a_word() {
        assert_eq!(told([WELL; 100]), []);
    }

    #[test]
    fn a_problem_is_told_once_and_its_end_after_a_while() {
        let late = HealthSigns { late: Some(Stage::Stored), ..WELL };
        let signs = [[WELL; 5].as_slice(), &[late; 20], &[WELL; 10], &[late; 5], &[WELL; 60]].concat();
        let problem = Problem::Late { stage: "stored", suspect: Stage::Stored.suspect() };
        let expected = [
            (5, Happening::Unhealthy { problems: vec![problem] }),
            (39 + 30, Happening::Healthy { unhealthy_seconds: 64.0 }),
        ];
        assert_eq!(told(signs), expected);
    }

    #[test]
    fn a_further_kind_of_problem_is_told_with_those_that_remain() {
        let dead = HealthSigns { worker_restarts: 1, ..WELL };
        let both = HealthSigns { missing_segments: 4, ..dead };
        let signs = [
            [WELL; 1].as_slice(),
            &[dead; 10],
            &[both; 10],
            &[HealthSigns { missing_segments: 9, ..both }; 99],
        ];
        let happenings = told(signs.concat());
        let counts: Vec<_> = happenings.iter().map(|(second, _)| *second).collect();
        assert_eq!(counts, [1, 11, 21 + 30]);
        let problems = vec![Problem::WorkerRestarts { count: 1 }, Problem::SegmentsMissing { count: 4 }];
        assert_eq!(happenings[1].1, Happening::Unhealthy { problems });
    }
}
