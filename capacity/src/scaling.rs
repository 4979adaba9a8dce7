//! One decision of the control loop: how many replicas there are to be. Which pods start and leave is in
//! [`crate::simulation`].

use crate::fleet::Control;
use std::collections::VecDeque;
use std::time::Duration;

pub(crate) struct Scaling {
    control: Control,
    /// What was wanted within [`crate::Shrinking::after`]: falling numbers, so that the first is the highest.
    wanted: VecDeque<(Duration, u32)>,
    shrunk_at: Option<Duration>,
}

impl Scaling {
    pub(crate) fn new(control: Control) -> Self {
        Self { control, wanted: VecDeque::new(), shrunk_at: None }
    }

    /// The new number of replicas, from the present number and the number of busy pods.
    pub(crate) fn decide(&mut self, now: Duration, replicas: u32, busy: u32) -> u32 {
        let mut wanted = self.control.wanted(busy);
        let change = (f64::from(wanted) / f64::from(replicas.max(1)) - 1.0).abs();
        if self.control.tolerance > 0.0 && change <= self.control.tolerance {
            wanted = replicas;
        }
        let highest = self.highest(now, wanted);
        if wanted > replicas {
            let growth = self.control.growth;
            growth.map_or(wanted, |growth| {
                let by_factor = (f64::from(replicas) * growth.factor) as u32;
                wanted.min(by_factor.max(replicas + growth.pods))
            })
        } else if highest < replicas {
            self.shrink(now, replicas, highest)
        } else {
            replicas
        }
    }

    /// The highest number that was wanted lately.
    fn highest(&mut self, now: Duration, wanted: u32) -> u32 {
        while self.wanted.back().is_some_and(|(_, earlier)| *earlier <= wanted) {
            self.wanted.pop_back();
        }
        self.wanted.push_back((now, wanted));
        let after = self.control.shrinking.after;
        // The last entry is from now, so it stays.
        while self.wanted.len() > 1 && self.wanted.front().is_some_and(|(at, _)| *at + after <= now) {
            self.wanted.pop_front();
        }
        self.wanted.front().map_or(wanted, |(_, highest)| *highest)
    }

    fn shrink(&mut self, now: Duration, replicas: u32, wanted: u32) -> u32 {
        let shrinking = self.control.shrinking;
        if self.shrunk_at.is_some_and(|at| now < at + shrinking.pause) {
            return replicas;
        }
        self.shrunk_at = Some(now);
        shrinking.at_most.map_or(wanted, |at_most| wanted.max(replicas.saturating_sub(at_most)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_buffer_is_kept_in_both_directions() {
        let mut scaling = Scaling::new(Control::agones(3));
        assert_eq!(scaling.decide(at(10), 5, 4), 7);
        assert_eq!(scaling.decide(at(20), 7, 0), 3);
    }

    #[test]
    fn the_autoscaler_ignores_small_changes_and_bounds_large_ones() {
        let mut scaling = Scaling::new(Control::autoscale(2));
        // 1.15 × 93 + 2 is 108.95: within a tenth of 100.
        assert_eq!(scaling.decide(at(15), 100, 93), 100);
        assert_eq!(scaling.decide(at(30), 100, 95), 112);
        assert_eq!(scaling.decide(at(45), 4, 4), 7);
        assert_eq!(scaling.decide(at(60), 4, 40), 14);
        assert_eq!(scaling.decide(at(75), 40, 200), 80);
    }

    #[test]
    fn the_autoscaler_removes_one_pod_a_minute_after_a_quarter_of_an_hour() {
        let mut scaling = Scaling::new(Control::autoscale(2));
        let mut replicas = scaling.decide(at(0), 100, 100);
        assert_eq!(replicas, 117);
        let mut changes = Vec::new();
        for seconds in (15..=1020).step_by(15) {
            let next = scaling.decide(at(seconds), replicas, 20);
            if next != replicas {
                changes.push((seconds, next));
            }
            replicas = next;
        }
        assert_eq!(changes, [(900, 116), (960, 115), (1020, 114)]);
    }
}
