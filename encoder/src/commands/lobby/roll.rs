//! What each encoder has said, and which encoder is asked next. Sockets belong to [`super::follow`], and what the answers
//! mean to [`super::survey`].
//!
//! Every encoder is asked once and then followed, so that a thousand encoders cost connections and not questions. The
//! order is random: where one in seven is free, about seven questions find one. A new connection is made at most once in
//! [`PACE`], whatever happens: each takes an entry in the connection tables of its nodes, and a full table drops
//! publishers.

use super::survey::Survey;
use crate::fleet::resolve::Resolved;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Least interval between two new connections: 40 a second.
pub(super) const PACE: Duration = Duration::from_millis(25);
/// An encoder that answers and cannot be followed (of an older version) is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// A silent address is asked again after the first of these times, at last always after the last: a pod that starts has
/// its address before it answers.
const RETRIES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// All encoders.
#[derive(Debug, Default)]
pub(super) struct Roll {
    encoders: BTreeMap<SocketAddr, Known>,
    /// Those that were never asked.
    unasked: Vec<SocketAddr>,
    /// Those that are asked again, by time.
    again: BTreeSet<(Instant, SocketAddr)>,
    nameless: usize,
    cut_off: usize,
    /// When the last connection began.
    last: Option<Instant>,
}

/// What is known of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing yet.
    Nothing,
    /// It takes a stream, or does not.
    Ready(bool),
    /// It did not answer so many times in a row.
    Silent(usize),
}

impl Roll {
    /// Takes over what names stand for now. Returns the addresses that are gone.
    pub(super) fn resolve(&mut self, resolved: Resolved) -> Vec<SocketAddr> {
        let Resolved { addresses, nameless, cut_off } = resolved;
        (self.nameless, self.cut_off) = (nameless, cut_off);
        for address in &addresses {
            if !self.encoders.contains_key(address) {
                self.encoders.insert(*address, Known::Nothing);
                self.unasked.push(*address);
            }
        }
        // While a name does not resolve, the addresses that it had stay: their encoders still run.
        if nameless + cut_off > 0 {
            return Vec::new();
        }
        let gone: Vec<_> =
            self.encoders.keys().filter(|address| !addresses.contains(address)).copied().collect();
        self.encoders.retain(|address, _| addresses.contains(address));
        self.unasked.retain(|address| addresses.contains(address));
        self.again.retain(|(_, address)| addresses.contains(address));
        gone
    }

    /// When [`Self::next`] has somebody to ask, if nothing else happens.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        let due = if self.unasked.is_empty() { self.again.first()?.0 } else { now };
        Some(self.last.map_or(due, |last| due.max(last + PACE)))
    }

    /// The encoder to ask now: one that was never asked comes first, and chance decides which.
    pub(super) fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if self.next_at(now)? > now {
            return None;
        }
        let address = match self.unasked.len() {
            0 => self.again.pop_first()?.1,
            several => self.unasked.swap_remove(fastrand::usize(..several)),
        };
        self.last = Some(now);
        Some(address)
    }

    /// An encoder says whether it takes a stream.
    pub(super) fn told(&mut self, address: SocketAddr, ready: bool) {
        if let Some(known) = self.encoders.get_mut(&address) {
            *known = Known::Ready(ready);
        }
    }

    /// An encoder is not followed any more: its answer was complete, or broke off or never came (`broken`).
    pub(super) fn ended(&mut self, address: SocketAddr, broken: bool, now: Instant) {
        let Some(known) = self.encoders.get_mut(&address) else { return };
        let wait = if broken {
            let failures = if let Known::Silent(failures) = known { *failures + 1 } else { 0 };
            *known = Known::Silent(failures);
            RETRIES[failures.min(RETRIES.len() - 1)]
        } else {
            ASK_AGAIN
        };
        self.again.insert((now + wait, address));
    }

    /// What is known of all of them.
    pub(super) fn survey(&self) -> Survey {
        let mut survey = Survey { nameless: self.nameless, cut_off: self.cut_off, ..Survey::default() };
        for known in self.encoders.values() {
            match known {
                Known::Nothing => survey.unasked += 1,
                Known::Ready(true) => survey.free += 1,
                Known::Ready(false) => survey.taken += 1,
                Known::Silent(_) => survey.silent += 1,
            }
        }
        survey
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn resolved(count: u16) -> Resolved {
        Resolved { addresses: (0..count).map(encoder).collect(), ..Resolved::default() }
    }

    /// Asks everybody, with that readiness, and returns how long it took.
    fn ask_all(roll: &mut Roll, mut now: Instant, ready: impl Fn(SocketAddr) -> bool) -> Duration {
        let began = now;
        while roll.survey().unasked > 0 {
            now = roll.next_at(now).unwrap();
            let address = roll.next(now).unwrap();
            roll.told(address, ready(address));
        }
        now - began
    }

    #[test]
    fn five_thousand_are_asked_once_each_at_forty_a_second() {
        let mut roll = Roll::default();
        roll.resolve(resolved(5_000));
        let took = ask_all(&mut roll, Instant::now(), |address| address.port() == 4_999);
        assert_eq!(took, PACE * 4_999);
        assert_eq!(roll.survey(), Survey { free: 1, taken: 4_999, ..Survey::default() });
        assert_eq!(roll.next_at(Instant::now()), None, "they are followed now");
    }

    #[test]
    fn where_one_in_seven_is_free_a_few_questions_find_one() {
        let mut asked = 0;
        let now = Instant::now();
        for _ in 0..100 {
            let mut roll = Roll::default();
            roll.resolve(resolved(1_000));
            let mut at = now;
            while roll.survey().free == 0 {
                at = roll.next_at(at).unwrap();
                let address = roll.next(at).unwrap();
                roll.told(address, address.port() < 143);
                asked += 1;
            }
        }
        assert!(asked < 100 * 14, "{asked} questions for a hundred lobbies");
    }

    #[test]
    fn a_silent_address_is_asked_again_and_counts_as_silent_meanwhile() {
        let mut roll = Roll::default();
        let mut now = Instant::now();
        roll.resolve(resolved(1));
        let mut waits = Vec::new();
        for _ in 0..5 {
            assert_eq!(roll.next(now), Some(encoder(0)));
            roll.ended(encoder(0), true, now);
            assert_eq!(roll.survey().silent, 1);
            let next = roll.next_at(now).unwrap();
            assert_eq!(roll.next(now + PACE), None);
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 4, 4]);
        roll.next(now).unwrap();
        roll.told(encoder(0), true);
        assert_eq!(roll.survey().free, 1);
        roll.ended(encoder(0), true, now);
        assert_eq!(roll.survey(), Survey { silent: 1, ..Survey::default() }, "it has gone");
        assert_eq!(roll.next_at(now), Some(now + RETRIES[0]), "at first soon");
    }

    #[test]
    fn one_that_cannot_be_followed_counts_as_it_said() {
        let mut roll = Roll::default();
        let now = Instant::now();
        roll.resolve(resolved(1));
        roll.next(now).unwrap();
        roll.told(encoder(0), false);
        roll.ended(encoder(0), false, now);
        assert_eq!(roll.survey().taken, 1);
        assert_eq!(roll.next_at(now), Some(now + ASK_AGAIN));
    }

    #[test]
    fn who_leaves_the_name_is_forgotten_unless_the_name_is_lost() {
        let mut roll = Roll::default();
        let now = Instant::now();
        roll.resolve(resolved(3));
        ask_all(&mut roll, now, |_| false);
        roll.ended(encoder(2), true, now);
        assert_eq!(roll.resolve(Resolved { nameless: 1, ..Resolved::default() }), []);
        assert_eq!(roll.survey(), Survey { taken: 2, silent: 1, nameless: 1, ..Survey::default() });
        assert_eq!(roll.resolve(resolved(1)), [encoder(1), encoder(2)]);
        assert_eq!(roll.survey(), Survey { taken: 1, ..Survey::default() });
        assert_eq!(roll.next_at(now), None, "nobody is left to ask");
        // News that were on their way.
        roll.told(encoder(2), true);
        roll.ended(encoder(2), true, now);
        assert_eq!((roll.survey().free, roll.next_at(now)), (0, None));
    }
}
