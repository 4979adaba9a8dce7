//! Streams that nobody may publish for a while, because an operator said so. The table lasts as long as the process;
//! the same ban in the store, for other encoders and for later processes, is in [`crate::delivery::takeover`].

use crate::origin::StreamPath;
use chrono::{DateTime, SecondsFormat};
use media::WallTime;
use rtmp::Refusal;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Maximum number of bans; each has a name and a reason of some hundred bytes.
const MAX_BANS: usize = 1024;

/// The bans of a process.
#[derive(Debug, Default)]
pub(crate) struct Bans(Mutex<BTreeMap<StreamPath, Ban>>);

/// One ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ban {
    /// When the stream may be published again.
    pub until: WallTime,
    /// What publishers are told.
    pub reason: String,
}

/// Too many streams are banned. A retry succeeds once a ban is over or lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_BANS} streams are banned, and no more can be: lift bans that are no longer needed")]
pub(crate) struct TooManyBans;

/// What a publisher is told whose stream an operator ended, or keeps from starting until a time.
pub(crate) fn refusal(reason: &str, until: Option<WallTime>) -> Refusal {
    Refusal::EndedByOperator(match until {
        Some(until) => format!("{reason}; it may be published again from {}", rfc3339(until)),
        None => reason.to_owned(),
    })
}

/// A time in UTC, to the second, rounded up: at that time a ban is over.
pub(crate) fn rfc3339(time: WallTime) -> String {
    let seconds = time.unix_micros().div_euclid(1_000_000) + i64::from(time.unix_micros() % 1_000_000 != 0);
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::UNIX_EPOCH);
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

// === impl Bans ===

impl Bans {
    /// Bans a stream, or changes its ban.
    ///
    /// # Errors
    /// Too many other streams are banned.
    pub(crate) fn set(&self, stream: &StreamPath, ban: Ban, now: WallTime) -> Result<(), TooManyBans> {
        let mut bans = self.current(now);
        if bans.len() >= MAX_BANS && !bans.contains_key(stream) {
            return Err(TooManyBans);
        }
        bans.insert(stream.clone(), ban);
        Ok(())
    }

    /// Lifts a stream's ban; `false` if there is none.
    pub(crate) fn lift(&self, stream: &StreamPath, now: WallTime) -> bool {
        self.current(now).remove(stream).is_some()
    }

    /// A stream's ban.
    pub(crate) fn get(&self, stream: &StreamPath, now: WallTime) -> Option<Ban> {
        self.current(now).get(stream).cloned()
    }

    /// All bans.
    pub(crate) fn list(&self, now: WallTime) -> Vec<(StreamPath, Ban)> {
        self.current(now).iter().map(|(stream, ban)| (stream.clone(), ban.clone())).collect()
    }

    /// The bans that are not over.
    fn current(&self, now: WallTime) -> MutexGuard<'_, BTreeMap<StreamPath, Ban>> {
        // Nothing panics while the lock is held, and a map of values is always consistent.
        let mut bans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bans.retain(|_, ban| ban.until > now);
        bans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> WallTime {
        WallTime::from_unix_micros(1_795_348_800_000_000 + seconds * 1_000_000)
    }

    fn ban(seconds: i64) -> Ban {
        Ban { until: at(seconds), reason: "not today".into() }
    }

    fn stream(name: &str) -> StreamPath {
        StreamPath::new("live", name).unwrap()
    }

    #[test]
    fn a_ban_is_over_at_its_time_and_earlier_when_it_is_lifted() {
        let bans = Bans::default();
        bans.set(&stream("show"), ban(10), at(0)).unwrap();
        assert_eq!(bans.get(&stream("show"), at(9)), Some(ban(10)));
        assert_eq!(bans.get(&stream("other"), at(9)), None);
        assert_eq!(bans.get(&stream("show"), at(10)), None);
        bans.set(&stream("show"), ban(20), at(10)).unwrap();
        bans.set(&stream("show"), ban(30), at(11)).unwrap();
        assert_eq!(bans.list(at(12)), [(stream("show"), ban(30))]);
        assert!(bans.lift(&stream("show"), at(12)) && !bans.lift(&stream("show"), at(12)));
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_by_itself() {
        let bans = Bans::default();
        for number in 0..MAX_BANS {
            bans.set(&stream(&number.to_string()), ban(10), at(0)).unwrap();
        }
        assert_eq!(bans.set(&stream("more"), ban(10), at(0)), Err(TooManyBans));
        assert_eq!(bans.set(&stream("0"), ban(11), at(0)), Ok(()), "it is in the table already");
        assert_eq!(bans.set(&stream("more"), ban(20), at(10)), Ok(()));
    }

    #[test]
    fn publishers_are_told_when_they_may_come_back() {
        let Refusal::EndedByOperator(told) = refusal("not today", Some(at(-1))) else { panic!() };
        assert_eq!(told, "not today; it may be published again from 2026-11-22T11:59:59Z");
        assert_eq!(rfc3339(WallTime::from_unix_micros(1)), "1970-01-01T00:00:01Z", "rounded up");
        assert_eq!(refusal("not today", None), Refusal::EndedByOperator("not today".into()));
    }
}
