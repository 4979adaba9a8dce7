//! What will happen when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Planned events. Events of the same time come in the order in which they were planned.
pub(crate) struct Queue<E> {
    // Small entries, because most of a simulation's time is spent on moving them: nanoseconds, number, event.
    events: BinaryHeap<Reverse<(u64, u64, E)>>,
    planned: u64,
}

impl<E: Ord> Queue<E> {
    pub(crate) fn new() -> Self {
        Self { events: BinaryHeap::new(), planned: 0 }
    }

    /// Plans an event. Simulated time ends after 584 years.
    pub(crate) fn plan(&mut self, at: Duration, event: E) {
        self.planned += 1;
        self.events.push(Reverse((at.as_nanos() as u64, self.planned, event)));
    }

    /// Takes the next event, if there is one before this time.
    pub(crate) fn next_before(&mut self, end: Duration) -> Option<(Duration, E)> {
        let Reverse((at, ..)) = self.events.peek()?;
        if u128::from(*at) >= end.as_nanos() {
            return None;
        }
        let Reverse((at, _, event)) = self.events.pop()?;
        Some((Duration::from_nanos(at), event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_as_planned() {
        let mut queue = Queue::new();
        for (seconds, event) in [(2, 'c'), (1, 'b'), (1, 'a'), (3, 'd')] {
            queue.plan(Duration::from_secs(seconds), event);
        }
        let order: Vec<char> = std::iter::from_fn(|| queue.next_before(Duration::from_secs(3)))
            .map(|(_, event)| event)
            .collect();
        assert_eq!(order, ['b', 'a', 'c']);
    }
}
