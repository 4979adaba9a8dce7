use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> QueueLimits {
    QueueLimits {
        bytes: 3_000,
        events: 8,
        at_a_time: 3,
        backoff: Backoff { first: SECOND, most: 8 * SECOND },
        longest_wait: 60 * SECOND,
    }
}

fn event(id: &str, stream: &str, importance: Importance, size: usize) -> QueuedEvent {
    QueuedEvent { id: id.into(), stream: stream.into(), importance, body: vec![b'.'; size].into() }
}

/// A queue with a clock.
struct Show {
    queue: EventQueue,
    now: Instant,
}

impl Show {
    fn new(limits: QueueLimits) -> Self {
        Self { queue: EventQueue::new(limits, 7), now: Instant::now() }
    }

    fn push(&mut self, id: &str, stream: &str, importance: Importance) -> Vec<String> {
        let given_up = self.queue.push(event(id, stream, importance, 10), self.now);
        given_up.iter().map(ToString::to_string).collect()
    }

    fn next(&mut self) -> Option<Attempt> {
        self.queue.next(self.now)
    }

    fn settle(&mut self, attempt: &Attempt, outcome: Outcome) -> Settled {
        self.queue.settle(attempt, outcome, self.now)
    }

    /// IDs of all events that are delivered when nothing fails.
    fn drained(&mut self) -> Vec<String> {
        let mut ids = Vec::new();
        while let Some(attempt) = self.next() {
            ids.push(attempt.id.to_string());
            self.settle(&attempt, Outcome::Delivered);
        }
        ids
    }
}

#[test]
fn one_stream_waits_for_its_failed_event_and_the_others_go_on() {
    let mut show = Show::new(limits());
    for (id, stream) in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")] {
        assert_eq!(show.push(id, stream, Importance::Stream), [""; 0]);
    }
    let first = show.next().unwrap();
    assert_eq!(show.settle(&first, Outcome::Failed), Settled::Retried);
    assert_eq!(show.drained(), ["b1", "b2"]);
    let wake_at = show.queue.wake_at().unwrap();
    assert!((SECOND / 2..=SECOND).contains(&(wake_at - show.now)));
    show.now = wake_at;
    assert_eq!(show.drained(), ["a1", "a2"]);
    assert_eq!((show.queue.len(), show.queue.bytes, show.queue.wake_at()), (0, 0, None));
}

#[test]
fn a_refused_event_is_given_up_and_its_stream_goes_on_at_once() {
    let mut show = Show::new(limits());
    show.push("a1", "a", Importance::Stream);
    show.push("a2", "a", Importance::Stream);
    let first = show.next().unwrap();
    assert_eq!(show.settle(&first, Outcome::Refused), Settled::Refused);
    assert_eq!(show.drained(), ["a2"]);
}

#[test]
fn an_event_that_always_fails_is_given_up_in_the_end() {
    let mut show = Show::new(limits());
    show.push("a1", "a", Importance::Stream);
    show.push("a2", "a", Importance::Stream);
    let began = show.now;
    loop {
        let attempt = show.next().unwrap();
        assert_eq!(attempt.id.as_ref(), "a1");
        if show.settle(&attempt, Outcome::Failed) == Settled::Expired {
            break;
        }
        show.now = show.queue.wake_at().unwrap();
    }
    assert!((60 * SECOND..70 * SECOND).contains(&(show.now - began)));
    show.now += SECOND;
    assert_eq!(show.drained(), ["a2"]);
}

#[test]
fn streams_are_sent_side_by_side_up_to_the_bound() {
    let mut show = Show::new(limits());
    for stream in ["a", "b", "c", "d"] {
        show.push(stream, stream, Importance::Stream);
    }
    show.push("a again", "a", Importance::Stream);
    let attempts: Vec<_> = std::iter::from_fn(|| show.next()).collect();
    assert_eq!(attempts.iter().map(|attempt| attempt.id.as_ref()).collect::<Vec<_>>(), ["a", "b", "c"]);
    show.settle(&attempts[1], Outcome::Delivered);
    assert_eq!(show.next().unwrap().id.as_ref(), "d");
}

#[test]
fn the_least_important_is_given_up_first() {
    let mut show = Show::new(limits());
    show.push("start", "a", Importance::Stream);
    show.push("ill", "a", Importance::Health);
    show.push("refusal", "x", Importance::Refusal);
    for id in ["1", "2", "3", "4", "5"] {
        assert_eq!(show.push(id, "b", Importance::Stream), [""; 0]);
    }
    assert_eq!(show.push("6", "b", Importance::Stream), ["refusal"]);
    assert_eq!(show.push("7", "b", Importance::Stream), ["ill"]);
    assert_eq!(show.push("another", "x", Importance::Refusal), ["another"]);
    let sent = show.next().unwrap();
    assert_eq!(sent.id.as_ref(), "start");
    assert_eq!(show.push("8", "b", Importance::Stream), ["1"], "what is being sent stays");
    show.settle(&sent, Outcome::Delivered);
    assert_eq!(show.drained(), ["2", "3", "4", "5", "6", "7", "8"]);
}

#[test]
fn before_the_end_nothing_pauses() {
    let mut show = Show::new(limits());
    show.push("a1", "a", Importance::Stream);
    let attempt = show.next().unwrap();
    show.settle(&attempt, Outcome::Failed);
    assert!(show.next().is_none());
    show.queue.hurry();
    assert_eq!(show.drained(), ["a1"]);
}

/// What happens to a queue.
#[derive(Clone, Debug)]
enum Step {
    Push {
        stream: u8,
        importance: Importance,
        size: usize,
    },
    Next,
    /// Settles one of the attempts in progress.
    Settle {
        which: usize,
        outcome: Outcome,
    },
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let importance =
        prop_oneof![Just(Importance::Refusal), Just(Importance::Health), Just(Importance::Stream)];
    let outcome = prop_oneof![
        4 => Just(Outcome::Delivered),
        4 => Just(Outcome::Failed),
        1 => Just(Outcome::Refused)
    ];
    prop_oneof![
        4 => (0..4u8, importance, 0..400usize)
            .prop_map(|(stream, importance, size)| Step::Push { stream, importance, size }),
        5 => Just(Step::Next),
        4 => (0..8usize, outcome).prop_map(|(which, outcome)| Step::Settle { which, outcome }),
        1 => (0..20_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A queue, and what is expected of it.
struct Model {
    show: Show,
    attempts: Vec<Attempt>,
    pushed: Vec<(String, String)>,
    delivered: Vec<String>,
    given_up: HashSet<String>,
}

impl Model {
    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Push { stream, importance, size } => {
                let (id, stream) = (self.pushed.len().to_string(), stream.to_string());
                let given_up = self.show.queue.push(event(&id, &stream, importance, size), self.show.now);
                self.pushed.push((stream, id));
                self.given_up.extend(given_up.iter().map(ToString::to_string));
            }
            Step::Next => self.attempts.extend(self.show.next()),
            Step::Settle { which, outcome } if !self.attempts.is_empty() => {
                let attempt = self.attempts.remove(which % self.attempts.len());
                self.settle(&attempt, outcome);
            }
            Step::Settle { .. } => {}
            Step::Wait { ms } => self.show.now += Duration::from_millis(ms),
        }
    }

    fn settle(&mut self, attempt: &Attempt, outcome: Outcome) {
        match self.show.settle(attempt, outcome) {
            Settled::Delivered => self.delivered.push(attempt.id.to_string()),
            Settled::Refused | Settled::Expired => {
                self.given_up.insert(attempt.id.to_string());
            }
            Settled::Retried => {}
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let queue = &self.show.queue;
        let bytes: usize = queue.events.values().map(|waiting| waiting.event.cost()).sum();
        prop_assert_eq!(bytes, queue.bytes);
        prop_assert!(queue.bytes <= queue.limits.bytes && queue.len() <= queue.limits.events);
        prop_assert!(self.attempts.len() <= queue.limits.at_a_time);
        prop_assert_eq!(queue.sending, self.attempts.len());
        prop_assert_eq!(queue.ready.len() + queue.paused.len() + queue.sending, queue.lanes.len());
        prop_assert_eq!(queue.disposable.len() + queue.sending, queue.len());
        let settled = self.delivered.len() + self.given_up.len();
        prop_assert_eq!(queue.len() + settled, self.pushed.len());
        Ok(())
    }

    /// Delivers the rest, and compares what was delivered with what was pushed.
    fn finish(mut self) -> Result<(), TestCaseError> {
        for attempt in std::mem::take(&mut self.attempts) {
            self.settle(&attempt, Outcome::Failed);
        }
        loop {
            while let Some(attempt) = self.show.next() {
                self.settle(&attempt, Outcome::Delivered);
            }
            let Some(wake_at) = self.show.queue.wake_at() else { break };
            self.show.now = wake_at;
        }
        self.check()?;
        prop_assert_eq!(self.show.queue.len(), 0);
        for stream in ["0", "1", "2", "3"] {
            let expected: Vec<_> = (self.pushed.iter())
                .filter(|(of, id)| of == stream && !self.given_up.contains(id))
                .map(|(_, id)| id)
                .collect();
            let of_stream = |id: &&String| self.pushed[id.parse::<usize>().unwrap()].0 == stream;
            prop_assert_eq!(self.delivered.iter().filter(of_stream).collect::<Vec<_>>(), expected);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Whatever fails: what is delivered of a stream is in order, nothing is missing that was not given up, and memory
    /// stays within its bound.
    #[test]
    fn nothing_is_lost_or_out_of_order(steps in proptest::collection::vec(step(), 0..200)) {
        let mut model = Model {
            show: Show::new(limits()),
            attempts: Vec::new(),
            pushed: Vec::new(),
            delivered: Vec::new(),
            given_up: HashSet::new(),
        };
        for step in steps {
            model.carry_out(step);
            model.check()?;
        }
        model.finish()?;
    }
}
