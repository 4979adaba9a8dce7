//! Counts the distinct viewers of each stream and rung, in bounded memory.
//!
//! A viewer counts from its first request until [`VIEWER_WINDOW`] has passed since its last request, and on one rung:
//! the rung whose pictures the viewer asked for last. So the sum over the rungs counts each viewer once. Times are kept
//! in whole seconds, so a viewer leaves 15 to 16 s after its last request.
//!
//! **Memory.** [`Audience::new`] is told how many sessions to keep; each takes 40 to 50 bytes at the bound. Up to
//! the bound the counts are exact. From there on every other session is tracked, and every fourth session once the
//! bound is reached again, and so on (*adaptive sampling*): whether a session is tracked depends on bits of the session's
//! hash, so all requests of a viewer are tracked or none. Counts are then those of the sample times 2, 4, and so on. With a limit of 200,000 the
//! sample has 100,000 sessions or more while viewers come and 50,000 or more while they leave, so the standard error of
//! the sum is at most 0.5 %. The standard error of a rung's count is the square root of the count times the factor less
//! one: with a factor of 2, 1 % at 10,000 viewers and 10 % at 100. A stream with a handful of viewers may be absent.
//!
//! Each stream takes some 300 bytes more: the caller counts requests only for streams and rungs that exist.
//!
//! **Time.** A request takes one look-up in a hash table, below 0.1 µs. Sessions wait for their expiry in a ring of
//! seconds: each session is in one place of the ring, and is looked at once in 16 s, by the first request of a second.
//! If 100,000 viewers have come in the same second, that request takes 1 to 2 ms, and less with fewer viewers. Reading
//! counts takes a pass over the streams. Only a change of the sampled share, which is when the number of viewers has
//! doubled or halved, takes a pass over all sessions.
//!
//! The caller decides which requests count, and calls [`Audience::seen`] for each: for a viewer's request for a media
//! playlist, a segment or a part that was answered, not for requests of edges, which send reports ([`crate::report`]).
//! A request that is held for longer than [`VIEWER_WINDOW`] is also to be counted when it begins.

mod ring;
mod sampling;
mod streams;

use crate::identity::{KEY_LIFETIME, Key, Session, Viewer};
use crate::report::Report;
use ring::Ring;
use sampling::Sampling;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use streams::{Place, Streams};

pub use streams::MAX_STREAM_BYTES;

/// How long a viewer counts after its last request. Players ask at least once in a target duration (2 to 6 s), and a
/// held request is answered within three target durations, during which the player asks for parts or other renditions.
/// The window is longer than a segment and a held request together, so no viewer leaves the count while watching.
pub const VIEWER_WINDOW: Duration = Duration::from_secs(WINDOW_S as u64);

const WINDOW_S: u32 = 15;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Pictures: the playlist or media of this rung. The viewer moves to this rung.
    Rung(&'a str),
    /// Sound of this rendition, which a viewer of pictures asks for as well: it stays on its rung. A viewer who has
    /// asked for no pictures within the window listens, and counts on the sound's rendition.
    Sound(&'a str),
}

/// The viewers of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamViewers {
    /// The stream, as it was given to [`Audience::seen`].
    pub stream: Arc<str>,
    /// Viewers on all rungs.
    pub viewers: u64,
    /// The viewers of each rung that has some, by name.
    pub rungs: Vec<(String, u64)>,
}

/// The count. A caller with many threads puts it behind a lock; the module's page says how long calls take.
pub struct Audience {
    /// The sessions that are tracked, at most [`Sampling::limit`].
    sessions: HashMap<Session, Tracked, BuildHasherDefault<SessionHasher>>,
    ring: Ring,
    streams: Streams,
    sampling: Sampling,
    keys: Keys,
    start: Instant,
}

/// A session.
#[derive(Clone, Copy)]
struct Tracked {
    place: Place,
    /// Second of the last request.
    seen_s: u32,
    /// Second from which a request for sound moves the session to the sound's rendition: the window after the last
    /// request for pictures, 0 without one.
    sound_from_s: u32,
}

/// The key of the day, and the former key while sessions under the former key may still count.
struct Keys {
    key: Key,
    since_s: u32,
    former: Option<Key>,
}

/// Takes a session's hash as it is: it is keyed and random already.
#[derive(Default)]
struct SessionHasher(u64);

// === impl Audience ===

impl Audience {
    /// A count without viewers. At most `limit` sessions (at least 1) are kept. `now` is the earliest time of all calls.
    pub fn new(limit: usize, key: Key, now: Instant) -> Self {
        Self {
            sessions: HashMap::default(),
            ring: Ring::default(),
            streams: Streams::default(),
            sampling: Sampling::new(limit),
            keys: Keys { key, since_s: 0, former: None },
            start: now,
        }
    }

    /// A request of a viewer of `stream`, and the viewer's session. A stream's name beyond [`MAX_STREAM_BYTES`], a rung
    /// whose name is not valid, and a stream's rungs beyond the first [`crate::report::MAX_RUNGS`] are not counted.
    pub fn seen(&mut self, stream: &str, asked: Asked<'_>, viewer: &Viewer<'_>, now: Instant) -> Session {
        let now_s = self.advance(now);
        let session = self.keys.key.session(stream, viewer);
        if let Some(former) = self.keys.former {
            self.rename(former.session(stream, viewer), session);
        }
        if self.sampling.tracks(session) {
            match self.sessions.get_mut(&session) {
                Some(tracked) => {
                    let counts = self.sampling.counts(session);
                    tracked.renew(asked, now_s, counts, &mut self.streams);
                }
                None => self.enter(stream, asked, session, now_s),
            }
        }
        session
    }

    /// Whether the key has been used for [`KEY_LIFETIME`]: [`Audience::replace_key`] is due.
    pub fn is_key_due(&self, now: Instant) -> bool {
        u64::from(self.second(now) - self.keys.since_s) >= KEY_LIFETIME.as_secs()
    }

    /// Replaces the key by a new random key. The former key counts for [`VIEWER_WINDOW`], so that viewers count once; a
    /// key that comes within this time is ignored.
    pub fn replace_key(&mut self, key: Key, now: Instant) {
        let since_s = self.advance(now);
        if key != self.keys.key && self.keys.former.is_none() {
            self.keys = Keys { key, since_s, former: Some(self.keys.key) };
        }
    }

    /// The viewers of all streams.
    pub fn viewers(&mut self, now: Instant) -> u64 {
        self.advance(now);
        self.sampling.scaled(self.streams.iter().map(|stream| stream.counted()).sum())
    }

    /// The viewers of all streams by rung. Rungs without viewers are not in it.
    pub fn rungs(&mut self, now: Instant) -> BTreeMap<String, u64> {
        self.advance(now);
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for (rung, counted) in self.streams.iter().flat_map(|stream| stream.rungs()) {
            match sums.get_mut(rung) {
                Some(sum) => *sum += self.sampling.scaled(counted),
                None => drop(sums.insert(rung.to_owned(), self.sampling.scaled(counted))),
            }
        }
        sums
    }

    /// The streams that have viewers, those with the most first, and by name where they are equal.
    pub fn streams(&mut self, now: Instant) -> Vec<StreamViewers> {
        self.advance(now);
        let named = self.streams.iter().map(|stream| self.of_stream(stream));
        let mut streams: Vec<_> = named.filter(|stream| stream.viewers > 0).collect();
        streams.sort_by(|a, b| b.viewers.cmp(&a.viewers).then_with(|| a.stream.cmp(&b.stream)));
        streams
    }

    /// The viewers of one stream, for its encoder.
    pub fn report(&mut self, stream: &str, now: Instant) -> Report {
        self.advance(now);
        let rungs = self.streams.named(stream).into_iter().flat_map(|stream| stream.rungs());
        Report::new(rungs.map(|(rung, counted)| (rung, self.sampling.scaled(counted))))
    }

    fn of_stream(&self, stream: &streams::Stream) -> StreamViewers {
        let rungs = stream.rungs().map(|(rung, counted)| (rung.to_owned(), self.sampling.scaled(counted)));
        let mut rungs: Vec<_> = rungs.collect();
        rungs.sort();
        StreamViewers { stream: stream.id(), viewers: self.sampling.scaled(stream.counted()), rungs }
    }
}

/// The parts of a request.
impl Audience {
    /// Begins to track a session.
    fn enter(&mut self, stream: &str, asked: Asked<'_>, session: Session, now_s: u32) {
        while self.sessions.len() >= self.sampling.limit() {
            let before = self.sampling;
            if !self.sampling.halve() {
                return;
            }
            self.forget_untracked(before);
        }
        let counts = self.sampling.counts(session);
        if !self.sampling.tracks(session) {
            return;
        }
        let Some(place) = self.streams.enter(stream, asked.rung(), counts) else { return };
        self.sessions
            .insert(session, Tracked { place, seen_s: now_s, sound_from_s: asked.sound_from_s(now_s) });
        self.ring.push(session, now_s + WINDOW_S + 1);
    }

    /// Ends tracking the sessions that have left the sample.
    fn forget_untracked(&mut self, before: Sampling) {
        let (sampling, streams) = (&self.sampling, &mut self.streams);
        self.sessions.retain(|session, tracked| {
            let keep = sampling.tracks(*session);
            if !keep {
                streams.leave(tracked.place, before.counts(*session));
            }
            keep
        });
        self.ring.retain(|session| sampling.tracks(session));
    }

    /// A session whose key was replaced gets its new hash.
    fn rename(&mut self, former: Session, session: Session) {
        let Some(tracked) = self.sessions.remove(&former) else { return };
        if self.sampling.tracks(session) && !self.sessions.contains_key(&session) {
            self.streams.recount(tracked.place, self.sampling.counts(former), self.sampling.counts(session));
            self.sessions.insert(session, tracked);
            self.ring.push(session, tracked.seen_s + WINDOW_S + 1);
        } else {
            self.streams.leave(tracked.place, self.sampling.counts(former));
        }
    }

    /// Whole seconds since the start.
    fn second(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.start).as_secs();
        u32::try_from(since).unwrap_or(u32::MAX - WINDOW_S - 1).max(self.ring.now_s())
    }

    /// Lets sessions expire, and returns the second. A time before an earlier call's counts as that one.
    fn advance(&mut self, now: Instant) -> u32 {
        let now_s = self.second(now);
        if now_s == self.ring.now_s() {
            return now_s;
        }
        for session in self.ring.advance(now_s) {
            let Some(tracked) = self.sessions.get(&session).copied() else { continue };
            if now_s > tracked.seen_s + WINDOW_S {
                self.sessions.remove(&session);
                self.streams.leave(tracked.place, self.sampling.counts(session));
            } else {
                self.ring.push(session, tracked.seen_s + WINDOW_S + 1);
            }
        }
        if now_s - self.keys.since_s > WINDOW_S {
            self.keys.former = None;
        }
        self.resample(now_s);
        now_s
    }

    /// Enlarges the sample when there is room again.
    fn resample(&mut self, now_s: u32) {
        self.sampling.grow(self.sessions.len(), now_s);
        let before = self.sampling;
        if self.sampling.settle(now_s) {
            for (session, tracked) in &self.sessions {
                self.streams.recount(tracked.place, before.counts(*session), self.sampling.counts(*session));
            }
        }
    }
}

/// Prints no session.
impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audience").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

// === impl Tracked ===

impl Tracked {
    /// One more request.
    fn renew(&mut self, asked: Asked<'_>, now_s: u32, counts: bool, streams: &mut Streams) {
        self.seen_s = now_s;
        match asked {
            Asked::Rung(_) => self.sound_from_s = asked.sound_from_s(now_s),
            Asked::Sound(_) if now_s < self.sound_from_s => return,
            Asked::Sound(_) => {}
        }
        streams.move_to(&mut self.place, asked.rung(), counts);
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    fn rung(self) -> &'a str {
        match self {
            Self::Rung(rung) | Self::Sound(rung) => rung,
        }
    }

    /// See [`Tracked::sound_from_s`].
    fn sound_from_s(self, now_s: u32) -> u32 {
        match self {
            Self::Rung(_) => now_s + WINDOW_S + 1,
            Self::Sound(_) => 0,
        }
    }
}

// === impl SessionHasher ===

impl Hasher for SessionHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    /// Sessions write a `u64`; this is for other types only.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests;
