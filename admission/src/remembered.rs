//! What a back end said yes to, for the time when the back end is down.

use crate::Grant;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

/// Most answers that are kept; the oldest is given up first.
pub const MAX_ANSWERS: usize = 10_000;
/// Most bytes of all answers together, as the back end sent them.
pub const MAX_ANSWERS_BYTES: usize = 32 << 20;

/// The last answers "yes" of a back end, by the digest of the question
/// ([`crate::hook::Question::digest`]). `Debug` shows their number only.
#[derive(Default)]
pub struct Remembered {
    answers: HashMap<[u8; 32], Remembrance>,
    /// The keys of `answers`, the oldest answer first.
    order: BTreeMap<u64, [u8; 32]>,
    next: u64,
    bytes: usize,
}

struct Remembrance {
    order: u64,
    at: Instant,
    bytes: usize,
    grant: Grant,
}

impl Remembered {
    /// Keeps an answer of `bytes` bytes, in place of an earlier one to the same question.
    pub fn keep(&mut self, question: [u8; 32], grant: Grant, bytes: usize, now: Instant) {
        self.forget(&question);
        let order = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.order.insert(order, question);
        self.answers.insert(question, Remembrance { order, at: now, bytes, grant });
        while self.answers.len() > MAX_ANSWERS || self.bytes > MAX_ANSWERS_BYTES {
            let Some(oldest) = self.order.first_key_value().map(|(_, question)| *question) else { return };
            self.forget(&oldest);
        }
    }

    /// Gives an answer up.
    pub fn forget(&mut self, question: &[u8; 32]) {
        if let Some(found) = self.answers.remove(question) {
            self.order.remove(&found.order);
            self.bytes -= found.bytes;
        }
    }

    /// The answer to a question, if it is not older than `within`.
    pub fn find(&self, question: &[u8; 32], within: Duration, now: Instant) -> Option<&Grant> {
        let found = self.answers.get(question)?;
        (now.saturating_duration_since(found.at) < within).then_some(&found.grant)
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remembered").field("answers", &self.answers.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Terms, sha256};

    fn grant(name: &str) -> Grant {
        Grant { app: "live".into(), name: name.into(), proven: true, terms: Terms::default() }
    }

    fn digest(number: usize) -> [u8; 32] {
        sha256(&number.to_be_bytes())
    }

    #[test]
    fn an_answer_counts_for_a_while_and_until_it_is_forgotten() {
        let (mut kept, now) = (Remembered::default(), Instant::now());
        let within = Duration::from_secs(30);
        let name =
            |kept: &Remembered, now| kept.find(&digest(1), within, now).map(|grant| grant.name.clone());
        kept.keep(digest(1), grant("a"), 10, now);
        assert_eq!(name(&kept, now + Duration::from_secs(29)).as_deref(), Some("a"));
        assert_eq!(name(&kept, now + within), None);
        assert_eq!(kept.find(&digest(2), within, now), None);
        assert_eq!(kept.find(&digest(1), Duration::ZERO, now), None);
        kept.keep(digest(1), grant("b"), 10, now + within);
        assert_eq!(name(&kept, now + within).as_deref(), Some("b"));
        kept.forget(&digest(1));
        assert_eq!(name(&kept, now + within), None);
        assert_eq!((kept.bytes, kept.order.len()), (0, 0));
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let (mut kept, now) = (Remembered::default(), Instant::now());
        let within = Duration::from_secs(30);
        for number in 0..MAX_ANSWERS {
            kept.keep(digest(number), grant("a"), 1, now);
        }
        kept.keep(digest(0), grant("again"), 1, now);
        kept.keep(digest(MAX_ANSWERS), grant("a"), 1, now);
        assert_eq!(kept.answers.len(), MAX_ANSWERS);
        assert!(kept.find(&digest(0), within, now).is_some(), "it was asked again");
        assert!(kept.find(&digest(1), within, now).is_none());
        kept.keep(digest(2), grant("a"), MAX_ANSWERS_BYTES - 1, now);
        assert_eq!((kept.answers.len(), kept.order.len()), (2, 2), "the last and the one before");
        assert!(kept.bytes <= MAX_ANSWERS_BYTES);
    }
}
