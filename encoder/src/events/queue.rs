//! Which event is sent next: the order within each stream, pauses after failures, and what is given up when memory runs
//! out. Sans-IO: time comes in, and what to send comes out. HTTP is in [`super::delivery`].
//!
//! Events of one stream are sent one after the other, so that they arrive in order; events of other streams do not wait
//! for them.

use crate::retry::Backoff;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Most bytes of all events, with [`OVERHEAD`] for each.
    pub bytes: usize,
    /// Most events.
    pub events: usize,
    /// Most events that are being sent at the same time, each of another stream.
    pub at_a_time: usize,
    /// Pauses of a stream after failed attempts.
    pub backoff: Backoff,
    /// An event that fails when it has waited for this long is given up, so that an event that the receiver can never
    /// take does not hold up its stream for ever.
    pub longest_wait: Duration,
}

impl Default for QueueLimits {
    /// 4 MiB and 10,000 events: hours of a fleet's streams. Pauses up to 15 s: a receiver that is back is noticed soon,
    /// and one that is away gets few requests. A day is what webhook senders commonly try for.
    fn default() -> Self {
        Self {
            bytes: 4 << 20,
            events: 10_000,
            at_a_time: 8,
            backoff: Backoff { first: Duration::from_millis(250), most: Duration::from_secs(15) },
            longest_wait: Duration::from_secs(24 * 3600),
        }
    }
}

/// What an event costs beside its texts: the queue's own entries.
pub(super) const OVERHEAD: usize = 256;

/// What is given up first when memory runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Importance {
    /// A sample of refused publishers.
    Refusal,
    /// The state of a stream that goes on.
    Health,
    /// Beginning and end of a stream and what lies between them, archives.
    Stream,
}

/// An event to deliver.
#[derive(Clone, Debug)]
pub(super) struct QueuedEvent {
    /// Unique; the receiver finds repetitions by it.
    pub id: Arc<str>,
    /// Events with the same stream are delivered in order.
    pub stream: Arc<str>,
    /// What is given up first.
    pub importance: Importance,
    /// What is sent.
    pub body: Bytes,
}

impl QueuedEvent {
    fn cost(&self) -> usize {
        self.id.len() + self.stream.len() + self.body.len() + OVERHEAD
    }
}

/// An attempt at an event, to be settled with [`EventQueue::settle`].
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// The event's number in the queue.
    number: u64,
    /// The event's ID.
    pub id: Arc<str>,
    /// What is sent.
    pub body: Bytes,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The receiver has the event.
    Delivered,
    /// A later attempt may succeed.
    Failed,
    /// The receiver refused the event for good.
    Refused,
}

/// What became of an event after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Delivered.
    Delivered,
    /// It will be sent again.
    Retried,
    /// Given up: the receiver refused it.
    Refused,
    /// Given up: it has failed for [`QueueLimits::longest_wait`].
    Expired,
}

/// Events that wait, in memory.
#[derive(Debug)]
pub(super) struct EventQueue {
    limits: QueueLimits,
    random: fastrand::Rng,
    /// By number: the order in which they came.
    events: BTreeMap<u64, Waiting>,
    next_number: u64,
    /// Streams with events. None is empty.
    lanes: HashMap<Arc<str>, Lane>,
    /// Streams whose first event may be sent, by that event's number.
    ready: BTreeMap<u64, Arc<str>>,
    /// Streams that pause, by the pause's end and their first event's number.
    paused: BTreeMap<(Instant, u64), Arc<str>>,
    /// Events that are not being sent, the least important and oldest first.
    disposable: BTreeSet<(Importance, u64)>,
    bytes: usize,
    sending: usize,
}

#[derive(Debug)]
struct Waiting {
    event: QueuedEvent,
    since: Instant,
}

/// One stream's events.
#[derive(Debug, Default)]
struct Lane {
    numbers: BTreeSet<u64>,
    state: LaneState,
    /// Failed attempts in a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LaneState {
    /// The first event may be sent.
    #[default]
    Ready,
    /// The first event is being sent.
    Sending,
    /// The first event is sent again at this time.
    Paused(Instant),
}

impl EventQueue {
    /// An empty queue. `seed` makes the pauses of different processes differ.
    pub(super) fn new(limits: QueueLimits, seed: u64) -> Self {
        Self {
            limits,
            random: fastrand::Rng::with_seed(seed),
            events: BTreeMap::new(),
            next_number: 0,
            lanes: HashMap::new(),
            ready: BTreeMap::new(),
            paused: BTreeMap::new(),
            disposable: BTreeSet::new(),
            bytes: 0,
            sending: 0,
        }
    }

    /// Number of events that are not delivered.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Adds an event. Returns the IDs of events that are given up for lack of memory; the new one may be among them.
    #[must_use]
    pub(super) fn push(&mut self, event: QueuedEvent, now: Instant) -> Vec<Arc<str>> {
        let number = self.next_number;
        self.next_number += 1;
        self.bytes += event.cost();
        self.disposable.insert((event.importance, number));
        let lane = self.lanes.entry(event.stream.clone()).or_default();
        lane.numbers.insert(number);
        if lane.numbers.len() == 1 {
            self.ready.insert(number, event.stream.clone());
        }
        self.events.insert(number, Waiting { event, since: now });
        let mut given_up = Vec::new();
        while self.bytes > self.limits.bytes || self.events.len() > self.limits.events {
            let Some((_, least)) = self.disposable.pop_first() else { break };
            given_up.extend(self.remove(least).map(|event| event.id));
        }
        given_up
    }

    /// The next event to send; `None` if none may be sent before [`Self::wake_at`] or the next
    /// [`Self::settle`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Attempt> {
        self.end_pauses(|until| until <= now);
        if self.sending >= self.limits.at_a_time {
            return None;
        }
        let (number, stream) = self.ready.pop_first()?;
        let event = &self.events.get(&number)?.event;
        self.lanes.get_mut(&stream)?.state = LaneState::Sending;
        self.disposable.remove(&(event.importance, number));
        self.sending += 1;
        Some(Attempt { number, id: event.id.clone(), body: event.body.clone() })
    }

    /// An attempt has ended.
    pub(super) fn settle(&mut self, attempt: &Attempt, outcome: Outcome, now: Instant) -> Settled {
        self.sending = self.sending.saturating_sub(1);
        let number = attempt.number;
        let waited = self.events.get(&number).map(|waiting| now.saturating_duration_since(waiting.since));
        let settled = match outcome {
            Outcome::Delivered => Settled::Delivered,
            Outcome::Refused => Settled::Refused,
            Outcome::Failed if waited.is_none_or(|waited| waited >= self.limits.longest_wait) => {
                Settled::Expired
            }
            Outcome::Failed => Settled::Retried,
        };
        match settled {
            Settled::Delivered | Settled::Refused | Settled::Expired => {
                self.remove(number);
            }
            Settled::Retried => self.pause(number, now),
        }
        settled
    }

    /// When [`Self::next`] may return an event although nothing was pushed or settled.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let (until, _) = self.paused.keys().next().filter(|_| self.sending < self.limits.at_a_time)?;
        Some(*until)
    }

    /// Ends all pauses: the process is about to end.
    pub(super) fn hurry(&mut self) {
        self.end_pauses(|_| true);
        self.lanes.values_mut().for_each(|lane| lane.failures = 0);
    }

    /// Ends the pauses that `is_over` says so of.
    fn end_pauses(&mut self, is_over: impl Fn(Instant) -> bool) {
        while let Some(first) = self.paused.first_entry()
            && is_over(first.key().0)
        {
            let ((_, number), stream) = first.remove_entry();
            if let Some(lane) = self.lanes.get_mut(&stream) {
                lane.state = LaneState::Ready;
                self.ready.insert(number, stream);
            }
        }
    }

    /// The stream of a failed event pauses.
    fn pause(&mut self, number: u64, now: Instant) {
        let Some(event) = self.events.get(&number).map(|waiting| &waiting.event) else { return };
        let Some(lane) = self.lanes.get_mut(&event.stream) else { return };
        lane.failures = lane.failures.saturating_add(1);
        let until = now + self.limits.backoff.pause(lane.failures, &mut self.random);
        lane.state = LaneState::Paused(until);
        self.paused.insert((until, number), event.stream.clone());
        self.disposable.insert((event.importance, number));
    }

    /// Removes an event. The next one of its stream, if there is one, takes its place; if the removed event was being
    /// sent, the stream is ready again.
    fn remove(&mut self, number: u64) -> Option<QueuedEvent> {
        let Waiting { event, .. } = self.events.remove(&number)?;
        self.bytes -= event.cost();
        self.disposable.remove(&(event.importance, number));
        let lane = self.lanes.get_mut(&event.stream)?;
        let was_first = lane.numbers.first() == Some(&number);
        lane.numbers.remove(&number);
        if !was_first {
            return Some(event);
        }
        match lane.state {
            LaneState::Ready => {
                self.ready.remove(&number);
            }
            LaneState::Sending => (lane.state, lane.failures) = (LaneState::Ready, 0),
            LaneState::Paused(until) => {
                self.paused.remove(&(until, number));
            }
        }
        let Some(first) = lane.numbers.first().copied() else {
            self.lanes.remove(&event.stream);
            return Some(event);
        };
        match lane.state {
            LaneState::Ready | LaneState::Sending => {
                self.ready.insert(first, event.stream.clone());
            }
            LaneState::Paused(until) => {
                self.paused.insert((until, first), event.stream.clone());
            }
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests;
