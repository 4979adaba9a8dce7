//! A ring of seconds in which sessions wait for their expiry. A request does not touch the ring: when a session's
//! second comes, the caller looks at the session's last request, and puts the session back if it is not due yet. So a
//! session is in one place and is looked at once in a window, whatever the number of its requests.
//!
//! When a session is due does not belong here.

use super::WINDOW_S;
use crate::identity::Session;

/// Seconds ahead for which there are places: a session expires at most `WINDOW_S + 1` seconds ahead.
const PLACES: usize = WINDOW_S as usize + 2;

/// Sessions by the second at which to look at them.
#[derive(Default)]
pub(super) struct Ring {
    /// The sessions of second `s` are in place `s % PLACES`. Bounded by the number of tracked sessions.
    places: [Vec<Session>; PLACES],
    now_s: u32,
}

impl Ring {
    /// The second up to which the ring has been read.
    pub(super) fn now_s(&self) -> u32 {
        self.now_s
    }

    /// Puts a session into a second after now.
    pub(super) fn push(&mut self, session: Session, due_s: u32) {
        debug_assert!((1..PLACES as u32).contains(&due_s.wrapping_sub(self.now_s)), "within the ring");
        self.places[due_s as usize % PLACES].push(session);
    }

    /// Takes all sessions of the seconds up to `to_s`, which is not before now.
    pub(super) fn advance(&mut self, to_s: u32) -> Vec<Session> {
        let passed = (to_s - self.now_s).min(PLACES as u32);
        let mut due = Vec::new();
        for second in to_s - passed + 1..=to_s {
            let place = &mut self.places[second as usize % PLACES];
            if due.is_empty() {
                due = std::mem::take(place);
            } else {
                due.append(place);
            }
        }
        self.now_s = to_s;
        due
    }

    /// Removes sessions for which `keep` is false.
    pub(super) fn retain(&mut self, keep: impl Fn(Session) -> bool) {
        for place in &mut self.places {
            place.retain(|session| keep(*session));
        }
    }

    /// The sessions in all places.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> impl Iterator<Item = Session> {
        self.places.iter().flatten().copied()
    }
}
