//! A fleet as time passes: arrivals, starts of pods, ends of streams, retries and decisions, one after the other.

use crate::distribution::poisson;
use crate::fleet::{AfterStream, Fleet, Removal};
use crate::pods::{PodId, PodState, Pods};
use crate::publishers::next_arrival;
use crate::queue::Queue;
use crate::scaling::Scaling;
use fastrand::Rng;
use std::collections::VecDeque;
use std::time::Duration;

/// How long a simulation lasts, and which part of it counts. It starts with the mean number of busy pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Publishers who arrive from this time on are counted.
    pub from: Duration,
    /// Publishers who arrive later are not counted.
    pub until: Duration,
    /// The simulation goes on for this long, so that publishers who retry come to a decision.
    pub then: Duration,
}

impl Period {
    /// A period in which about this number of publishers arrives, after `settling`.
    #[must_use]
    pub fn of_publishers(fleet: &Fleet, publishers: u32, settling: Duration) -> Self {
        let retry = fleet.publishers.retry.map_or(Duration::ZERO, |retry| retry.after * (retry.times + 1));
        let length = Duration::from_secs_f64(f64::from(publishers) / fleet.publishers.rate);
        Self { from: settling, until: settling + length, then: retry }
    }
}

/// What happened in the counted period.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Publishers who arrived.
    pub publishers: u64,
    /// Publishers whose first attempt found no free pod: the lobby answered.
    pub found_none: u64,
    /// Publishers whose first attempt went to a pod that had just been taken, because of [`Fleet::rotation_lag`].
    pub found_taken: u64,
    /// Publishers who were refused and did not come back, or gave up.
    pub lost: u64,
    /// Publishers who got a pod after a refusal.
    pub waited: u64,
    /// The sum of the times that these publishers waited.
    pub waiting: Duration,
    /// The longest of these times.
    pub longest_wait: Duration,
    /// Mean number of free pods.
    pub free: f64,
    /// Mean number of busy pods, draining ones included.
    pub busy: f64,
    /// Mean number of pods.
    pub pods: f64,
    /// Mean number of nodes.
    pub nodes: f64,
    /// The largest number of pods.
    pub most_pods: u32,
    /// The smallest number of free pods.
    pub least_free: u32,
    /// For each number of starting pods: publishers who arrived while so many were starting.
    pub found_starting: Vec<u64>,
}

impl Outcome {
    /// The share of publishers that found no free pod at their first attempt.
    #[must_use]
    pub fn share_found_none(&self) -> f64 {
        share(self.found_none, self.publishers)
    }

    /// The share of publishers that were sent to a pod that had just been taken at their first attempt.
    #[must_use]
    pub fn share_found_taken(&self) -> f64 {
        share(self.found_taken, self.publishers)
    }

    /// The share of publishers that never got a pod.
    #[must_use]
    pub fn share_lost(&self) -> f64 {
        share(self.lost, self.publishers)
    }

    /// The mean wait, in seconds, of those who got a pod after a refusal.
    #[must_use]
    pub fn mean_wait(&self) -> f64 {
        if self.waited == 0 { 0.0 } else { self.waiting.as_secs_f64() / self.waited as f64 }
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Lets time pass for a fleet. The same seed gives the same outcome.
#[must_use]
pub fn simulate(fleet: &Fleet, period: Period, seed: u64) -> Outcome {
    let mut simulation = Simulation::new(fleet, period, seed);
    simulation.fill();
    simulation.run();
    simulation.finish()
}

/// A publisher between two attempts.
#[derive(Clone, Copy)]
struct Publisher {
    came: Duration,
    attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    StreamEnds(PodId),
    PodReady(PodId),
    /// The publisher that has waited for the longest time tries again.
    Retries,
    /// The number of busy pods is measured.
    Measures,
    /// The control loop decides.
    Decides,
}

/// Sums over time, for means.
#[derive(Default)]
struct Areas {
    since: Duration,
    free: f64,
    busy: f64,
    pods: f64,
    nodes: f64,
}

struct Simulation<'fleet> {
    fleet: &'fleet Fleet,
    period: Period,
    random: Rng,
    now: Duration,
    /// All events but arrivals, of which only the next one is known.
    events: Queue<Event>,
    next_arrival: Duration,
    /// Refused publishers who will try again. All pauses are the same, so that the first one is the next one.
    waiting: VecDeque<Publisher>,
    pods: Pods,
    replicas: u32,
    scaling: Scaling,
    measured_busy: u32,
    /// When pods were taken, within the rotation lag.
    taken: VecDeque<Duration>,
    areas: Areas,
    outcome: Outcome,
}

// === before and after ===

impl<'fleet> Simulation<'fleet> {
    fn new(fleet: &'fleet Fleet, period: Period, seed: u64) -> Self {
        Self {
            fleet,
            period,
            random: Rng::with_seed(seed),
            now: Duration::ZERO,
            events: Queue::new(),
            next_arrival: Duration::ZERO,
            waiting: VecDeque::new(),
            pods: Pods::new(fleet.pods_per_node),
            replicas: 0,
            scaling: Scaling::new(fleet.control),
            measured_busy: 0,
            taken: VecDeque::new(),
            areas: Areas::default(),
            outcome: Outcome { least_free: u32::MAX, ..Outcome::default() },
        }
    }

    /// Starts with as many busy pods as there are on average at this hour, and with the wanted number of free pods.
    fn fill(&mut self) {
        let fleet = self.fleet;
        let hour = fleet.publishers.hourly.map_or(1.0, |hourly| hourly[0]);
        let busy = poisson(fleet.mean_busy() * hour, &mut self.random);
        for _ in 0..busy {
            let pod = self.pods.add(PodState::Busy);
            let remaining = fleet.stream.draw_remaining(fleet.hold, &mut self.random);
            self.plan(remaining, Event::StreamEnds(pod));
        }
        self.measured_busy = busy;
        self.replicas = fleet.control.wanted(busy);
        for _ in busy..self.replicas {
            self.pods.add(PodState::Free);
        }
        let control = fleet.control;
        if !control.every.is_zero() {
            self.plan(control.every.saturating_sub(control.metric_age), Event::Measures);
            self.plan(control.every, Event::Decides);
        }
        self.next_arrival = next_arrival(&fleet.publishers, self.now, &mut self.random);
    }

    fn run(&mut self) {
        let end = self.period.until + self.period.then;
        loop {
            let arrival = self.next_arrival;
            match self.events.next_before(arrival.min(end)) {
                Some((at, event)) => {
                    self.advance(at);
                    self.handle(event);
                }
                None if arrival < end => {
                    self.advance(arrival);
                    self.next_arrival = next_arrival(&self.fleet.publishers, arrival, &mut self.random);
                    self.arrives();
                }
                None => break,
            }
            if self.counts(self.now) {
                self.outcome.most_pods = self.outcome.most_pods.max(self.pods.existing());
                self.outcome.least_free = self.outcome.least_free.min(self.pods.count(PodState::Free));
            }
        }
    }

    fn finish(mut self) -> Outcome {
        self.advance(self.period.until.max(self.now));
        let length = (self.period.until - self.period.from).as_secs_f64();
        let Areas { free, busy, pods, nodes, .. } = self.areas;
        let least_free = self.outcome.least_free.min(self.pods.count(PodState::Free));
        Outcome {
            free: free / length,
            busy: busy / length,
            pods: pods / length,
            nodes: nodes / length,
            least_free,
            ..self.outcome
        }
    }

    fn counts(&self, at: Duration) -> bool {
        self.period.from <= at && at < self.period.until
    }

    /// Lets time pass until the next event.
    fn advance(&mut self, to: Duration) {
        let since = self.areas.since.max(self.period.from);
        let seconds = to.min(self.period.until).saturating_sub(since).as_secs_f64();
        if seconds > 0.0 {
            let free = f64::from(self.pods.count(PodState::Free));
            let existing = f64::from(self.pods.existing());
            self.areas.free += seconds * free;
            self.areas.busy += seconds * (existing - free - f64::from(self.pods.count(PodState::Starting)));
            self.areas.pods += seconds * existing;
            self.areas.nodes += seconds * f64::from(self.pods.nodes_in_use());
        }
        self.areas.since = to;
        self.now = to;
    }
}

// === events ===

impl Simulation<'_> {
    fn plan(&mut self, after: Duration, event: Event) {
        self.events.plan(self.now + after, event);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Retries => {
                if let Some(publisher) = self.waiting.pop_front() {
                    self.attempts(publisher);
                }
            }
            Event::StreamEnds(pod) => self.stream_ends(pod),
            Event::PodReady(pod) => {
                let cancelled = self.pods.state(pod) == PodState::Cancelled;
                self.pods.change(pod, if cancelled { PodState::Gone } else { PodState::Free });
            }
            Event::Measures => {
                self.measured_busy = self.pods.count(PodState::Busy);
                self.plan(self.fleet.control.every, Event::Measures);
            }
            Event::Decides => {
                self.plan(self.fleet.control.every, Event::Decides);
                self.decides();
            }
        }
    }

    fn arrives(&mut self) {
        if self.counts(self.now) {
            self.outcome.publishers += 1;
            let starting = self.pods.count(PodState::Starting) as usize;
            if self.outcome.found_starting.len() <= starting {
                self.outcome.found_starting.resize(starting + 1, 0);
            }
            self.outcome.found_starting[starting] += 1;
        }
        self.attempts(Publisher { came: self.now, attempts: 0 });
    }

    /// A publisher tries to get a pod.
    fn attempts(&mut self, publisher: Publisher) {
        let counts = self.counts(publisher.came);
        let first = counts && publisher.attempts == 0;
        let Some(pod) = self.pods.any(PodState::Free, &mut self.random) else {
            self.outcome.found_none += u64::from(first);
            return self.refused(publisher);
        };
        if self.is_sent_to_taken_pod() {
            self.outcome.found_taken += u64::from(first);
            return self.refused(publisher);
        }
        if counts && publisher.attempts > 0 {
            let wait = self.now - publisher.came;
            self.outcome.waited += 1;
            self.outcome.waiting += wait;
            self.outcome.longest_wait = self.outcome.longest_wait.max(wait);
        }
        self.takes(pod);
    }

    /// Whether the balancer chooses a pod that was taken so lately that the balancer does not know.
    fn is_sent_to_taken_pod(&mut self) -> bool {
        let lag = self.fleet.rotation_lag;
        if lag.is_zero() {
            return false;
        }
        while self.taken.front().is_some_and(|at| *at + lag <= self.now) {
            self.taken.pop_front();
        }
        let stale = self.taken.len();
        let free = self.pods.count(PodState::Free) as usize;
        self.random.usize(..stale + free) < stale
    }

    fn refused(&mut self, publisher: Publisher) {
        match self.fleet.publishers.retry.filter(|retry| publisher.attempts < retry.times) {
            Some(retry) => {
                self.waiting.push_back(Publisher { attempts: publisher.attempts + 1, ..publisher });
                self.plan(retry.after, Event::Retries);
            }
            None => self.outcome.lost += u64::from(self.counts(publisher.came)),
        }
    }

    fn takes(&mut self, pod: PodId) {
        self.pods.change(pod, PodState::Busy);
        if !self.fleet.rotation_lag.is_zero() {
            self.taken.push_back(self.now);
        }
        let busy_for = self.fleet.stream.draw(&mut self.random) + self.fleet.hold;
        self.plan(busy_for, Event::StreamEnds(pod));
        self.decides_at_once();
    }

    fn stream_ends(&mut self, pod: PodId) {
        let drains = self.pods.state(pod) == PodState::Draining;
        let next = match self.fleet.after_stream {
            AfterStream::Recycle if !drains => PodState::Free,
            AfterStream::Recycle | AfterStream::Replace => PodState::Gone,
        };
        self.pods.change(pod, next);
        self.decides_at_once();
    }
}

// === control ===

impl Simulation<'_> {
    /// Decides where the control loop has no interval, and keeps the number of replicas.
    fn decides_at_once(&mut self) {
        if self.fleet.control.every.is_zero() {
            self.measured_busy = self.pods.count(PodState::Busy);
            self.decides();
        } else {
            self.keep_replicas();
        }
    }

    fn decides(&mut self) {
        self.replicas = self.scaling.decide(self.now, self.replicas, self.measured_busy);
        self.keep_replicas();
    }

    /// Starts and removes pods until there are as many replicas as decided.
    fn keep_replicas(&mut self) {
        while self.pods.replicas() < self.replicas {
            let pod = self.pods.add(PodState::Starting);
            let start = self.fleet.start.draw(&mut self.random);
            self.plan(start, Event::PodReady(pod));
        }
        while self.pods.replicas() > self.replicas {
            let Some(pod) = self.chooses_for_removal() else { break };
            let next = match self.pods.state(pod) {
                PodState::Starting => PodState::Cancelled,
                PodState::Busy => PodState::Draining,
                PodState::Free | PodState::Draining | PodState::Cancelled | PodState::Gone => PodState::Gone,
            };
            self.pods.change(pod, next);
        }
    }

    fn chooses_for_removal(&mut self) -> Option<PodId> {
        let order: &[PodState] = match self.fleet.control.shrinking.removal {
            Removal::NotReadyFirst => &[PodState::Starting, PodState::Busy, PodState::Free],
            Removal::Waiting => {
                let starting = self.pods.count(PodState::Starting);
                let waiting = starting + self.pods.count(PodState::Free);
                if self.random.u32(..waiting.max(1)) < starting {
                    &[PodState::Starting]
                } else {
                    &[PodState::Free]
                }
            }
        };
        order.iter().find_map(|state| self.pods.any(*state, &mut self.random))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, StartTime};
    use crate::fleet::{Control, Publishers, Retry, Spike};
    use crate::formulas::{erlang_b, poisson_tail, refused_by_lag};
    use crate::statistics::{Estimate, estimate};

    const MEAN: Duration = Duration::from_secs(1800);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 360 streams: a publisher every five seconds.
    fn fleet(start: Duration, control: Control) -> Fleet {
        Fleet {
            publishers: Publishers::of(360, MEAN),
            stream: Distribution::Exponential(MEAN),
            hold: Duration::ZERO,
            start: StartTime::constant(start),
            after_stream: AfterStream::Replace,
            control,
            pods_per_node: 2,
            rotation_lag: Duration::ZERO,
        }
    }

    fn outcomes(fleet: &Fleet, publishers: u32) -> Vec<Outcome> {
        let period = Period::of_publishers(fleet, publishers, seconds(600));
        (1..=10).map(|seed| simulate(fleet, period, seed)).collect()
    }

    fn over(outcomes: &[Outcome], value: impl Fn(&Outcome) -> f64) -> Estimate {
        estimate(&outcomes.iter().map(value).collect::<Vec<_>>())
    }

    /// Half again as wide as the 95 % confidence interval, because a test looks at many intervals.
    fn assert_agrees(found: Estimate, formula: f64, what: &str) {
        let distance = (found.mean - formula).abs();
        assert!(distance <= 1.5 * found.half_width, "{what}: formula {formula}, simulated {found:?}");
        assert!(found.half_width < 0.2 * formula, "{what}: the interval is too wide to tell: {found:?}");
    }

    #[test]
    fn refusals_without_retries_are_erlang_b_for_every_distribution_of_start_times() {
        let starts = [
            StartTime::constant(seconds(30)),
            StartTime { warm: Distribution::Exponential(seconds(30)), ..StartTime::constant(seconds(1)) },
            StartTime {
                warm: Distribution::Constant(seconds(10)),
                cold: Distribution::LogNormal { mean: seconds(90), sigma: 0.5 },
                cold_share: 0.25,
            },
        ];
        for start in starts {
            for buffer in [4, 8, 11] {
                let fleet = Fleet { start, ..fleet(seconds(0), Control::at_once(buffer)) };
                let load = fleet.publishers.rate * start.mean().as_secs_f64();
                let found = over(&outcomes(&fleet, 20_000), Outcome::share_found_none);
                assert_agrees(found, erlang_b(load, buffer), &format!("{start:?}, buffer {buffer}"));
            }
        }
    }

    #[test]
    fn replacements_under_way_are_poisson_when_nobody_is_refused() {
        let fleet = fleet(seconds(30), Control::at_once(40));
        let outcomes = outcomes(&fleet, 20_000);
        assert!(outcomes.iter().all(|outcome| outcome.found_none == 0));
        for least in [4, 6, 10, 12] {
            let found = over(&outcomes, |outcome| {
                share(outcome.found_starting.iter().skip(least as usize).sum(), outcome.publishers)
            });
            assert_agrees(found, poisson_tail(6.0, least), &format!("{least} or more"));
        }
    }

    #[test]
    fn pods_in_use_are_streams_holds_and_buffer() {
        let fleet = Fleet { hold: seconds(30), pods_per_node: 3, ..fleet(seconds(30), Control::at_once(24)) };
        let outcomes = outcomes(&fleet, 20_000);
        assert_agrees(over(&outcomes, |outcome| outcome.busy), 366.0, "busy");
        assert_agrees(over(&outcomes, |outcome| outcome.pods), 390.0, "pods");
        // Six of the 24 are starting.
        assert_agrees(over(&outcomes, |outcome| outcome.free), 18.0, "free");
        assert!(outcomes.iter().all(|outcome| (130.0..150.0).contains(&outcome.nodes)), "{outcomes:?}");
    }

    /// The buffer is wide, so that the number of free pods hardly changes.
    #[test]
    fn a_slow_balancer_refuses_as_its_formula_says() {
        let fleet = Fleet { rotation_lag: seconds(2), ..fleet(seconds(0), Control::at_once(20)) };
        let found = over(&outcomes(&fleet, 20_000), Outcome::share_found_taken);
        assert_agrees(found, refused_by_lag(0.2, 2.0, 20.0), "refused by a taken pod");
    }

    #[test]
    fn a_control_loop_that_looks_rarely_refuses_more() {
        let refused = |every| {
            let control = Control { every, ..Control::at_once(8) };
            over(&outcomes(&fleet(seconds(10), control), 20_000), Outcome::share_found_none).mean
        };
        let rates = [seconds(1), seconds(15), seconds(60)].map(refused);
        assert!(rates[0] < rates[1] && rates[1] < rates[2], "{rates:?}");
    }

    #[test]
    fn recycled_pods_refuse_fewer_than_replaced_ones() {
        let refused = |after_stream| {
            let fleet = Fleet { after_stream, ..fleet(seconds(30), Control::at_once(6)) };
            over(&outcomes(&fleet, 20_000), Outcome::share_found_none).mean
        };
        assert!(refused(AfterStream::Recycle) < 0.7 * refused(AfterStream::Replace));
    }

    #[test]
    fn retries_turn_refusals_into_waits() {
        // Nine starts in 30 s are half again as many as there are publishers. With six, those who retry would never
        // become fewer.
        let mut fleet = fleet(seconds(30), Control::at_once(9));
        fleet.publishers.retry = Some(Retry { after: seconds(5), times: 12 });
        for outcome in outcomes(&fleet, 5_000) {
            assert!(outcome.found_none > 0 && outcome.lost < outcome.found_none / 20, "{outcome:?}");
            assert_eq!(outcome.waited + outcome.lost, outcome.found_none);
            assert!(outcome.mean_wait() >= 5.0 && outcome.longest_wait <= seconds(60));
        }
    }

    #[test]
    fn a_removed_busy_pod_finishes_its_stream_and_leaves() {
        // 100 pods for 36 streams: the autoscaler removes a pod a minute after the first quarter of an hour.
        let control = Control::autoscale(2);
        let mut fleet = Fleet { after_stream: AfterStream::Recycle, ..fleet(seconds(5), control) };
        fleet.publishers = Publishers::of(360, MEAN);
        fleet.publishers.hourly = Some(std::array::from_fn(|hour| if hour == 0 { 1.0 } else { 0.1 }));
        let period = Period { from: seconds(4 * 3600), until: seconds(8 * 3600), then: Duration::ZERO };
        let outcome = simulate(&fleet, period, 1);
        assert!(outcome.most_pods > 150 && outcome.pods < 300.0, "{outcome:?}");
        assert_eq!(outcome.found_none, 0);
        assert!((30.0..45.0).contains(&outcome.busy), "{outcome:?}");
    }

    #[test]
    fn a_spike_is_counted_and_one_seed_has_one_outcome() {
        let mut fleet = fleet(seconds(30), Control::agones(10));
        let publishers = 300.0;
        fleet.publishers.spike = Some(Spike { at: seconds(600), lasts: seconds(300), publishers });
        let period = Period { from: seconds(600), until: seconds(900), then: Duration::ZERO };
        let outcome = simulate(&fleet, period, 5);
        assert!((290..=430).contains(&outcome.publishers), "{outcome:?}");
        assert!(outcome.share_found_none() > 0.2 && outcome.least_free == 0);
        assert_eq!(outcome, simulate(&fleet, period, 5));
        assert_ne!(outcome, simulate(&fleet, period, 6));
    }
}
