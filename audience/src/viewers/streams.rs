//! The streams and rungs that have sessions, and how many. A stream without sessions is not there, so there are no more
//! streams than tracked sessions.
//!
//! Which session is where, and for how long, does not belong here.

use crate::report::MAX_RUNGS;
use media::is_valid_name;
use std::collections::HashMap;
use std::sync::Arc;

/// Longest name of a stream in bytes: an application, a slash, and a name.
pub const MAX_STREAM_BYTES: usize = 2 * media::MAX_NAME_LEN + 1;

/// All streams. Their number and that of their rungs is bounded by the number of sessions.
#[derive(Default)]
pub(super) struct Streams {
    indices: HashMap<Arc<str>, u32>,
    /// `None` where a stream has ended; `free` has the indices of these.
    slots: Vec<Option<Stream>>,
    free: Vec<u32>,
}

/// One stream.
pub(super) struct Stream {
    id: Arc<str>,
    /// At most [`MAX_RUNGS`]. A rung keeps its index while it has sessions.
    rungs: Vec<Tally>,
    sessions: u32,
}

/// One rung.
struct Tally {
    rung: String,
    /// Sessions that are tracked.
    tracked: u32,
    /// The tracked sessions that are counted.
    counted: u32,
}

/// A rung of a stream, as indices. Valid while a session is there.
#[derive(Clone, Copy)]
pub(super) struct Place {
    stream: u32,
    rung: u8,
}

// === impl Streams ===

impl Streams {
    /// Lets a session in. `None` if the stream or the rung is not one that is counted.
    pub(super) fn enter(&mut self, id: &str, rung: &str, counted: bool) -> Option<Place> {
        if id.len() > MAX_STREAM_BYTES || !is_valid_name(rung) {
            return None;
        }
        let index = self.indices.get(id).copied().unwrap_or_else(|| self.begin(id));
        let stream = self.slots[index as usize].as_mut()?;
        let rung = stream.enter(rung, counted)?;
        stream.sessions += 1;
        Some(Place { stream: index, rung })
    }

    /// Lets a session out.
    pub(super) fn leave(&mut self, place: Place, counted: bool) {
        let Some(stream) = self.at(place) else { return };
        stream.leave(place.rung, counted);
        stream.sessions -= 1;
        if stream.sessions == 0 {
            let id = Arc::clone(&stream.id);
            self.indices.remove(&id);
            self.slots[place.stream as usize] = None;
            self.free.push(place.stream);
        }
    }

    /// Moves a session to another rung of its stream. It stays where it is if the rung is not one that is counted.
    pub(super) fn move_to(&mut self, place: &mut Place, rung: &str, counted: bool) {
        let Some(stream) = self.at(*place) else { return };
        if stream.rungs[usize::from(place.rung)].rung == rung || !is_valid_name(rung) {
            return;
        }
        if let Some(entered) = stream.enter(rung, counted) {
            stream.leave(place.rung, counted);
            place.rung = entered;
        }
    }

    /// Counts a session that was not counted, or the other way round.
    pub(super) fn recount(&mut self, place: Place, before: bool, after: bool) {
        let Some(stream) = self.at(place) else { return };
        let tally = &mut stream.rungs[usize::from(place.rung)];
        tally.counted = tally.counted - u32::from(before) + u32::from(after);
    }

    /// All streams, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().flatten()
    }

    /// The stream of this name.
    pub(super) fn named(&self, id: &str) -> Option<&Stream> {
        self.indices.get(id).and_then(|index| self.slots[*index as usize].as_ref())
    }

    fn at(&mut self, place: Place) -> Option<&mut Stream> {
        let stream = self.slots[place.stream as usize].as_mut();
        debug_assert!(stream.is_some(), "a stream is there while it has a session");
        stream
    }

    /// A new stream without sessions. The caller lets one in.
    fn begin(&mut self, id: &str) -> u32 {
        let id: Arc<str> = id.into();
        let stream = Stream { id: Arc::clone(&id), rungs: Vec::new(), sessions: 0 };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        self.slots[index as usize] = Some(stream);
        self.indices.insert(id, index);
        index
    }
}

// === impl Stream ===

impl Stream {
    pub(super) fn id(&self) -> Arc<str> {
        Arc::clone(&self.id)
    }

    /// Counted sessions on all rungs.
    pub(super) fn counted(&self) -> u64 {
        self.rungs().map(|(_, counted)| counted).sum()
    }

    /// Counted sessions of each rung that has some, in no order.
    pub(super) fn rungs(&self) -> impl Iterator<Item = (&str, u64)> {
        let counted = self.rungs.iter().filter(|tally| tally.counted > 0);
        counted.map(|tally| (tally.rung.as_str(), u64::from(tally.counted)))
    }

    /// The index of the rung, which has one more session. `None` if there are too many rungs.
    fn enter(&mut self, rung: &str, counted: bool) -> Option<u8> {
        let index = self.index(rung)?;
        let tally = &mut self.rungs[index];
        tally.tracked += 1;
        tally.counted += u32::from(counted);
        u8::try_from(index).ok()
    }

    fn leave(&mut self, rung: u8, counted: bool) {
        let tally = &mut self.rungs[usize::from(rung)];
        tally.tracked -= 1;
        tally.counted -= u32::from(counted);
    }

    /// Finds the rung, or a place for it: a new one, or that of a rung without sessions.
    fn index(&mut self, rung: &str) -> Option<usize> {
        let named = self.rungs.iter().position(|tally| tally.rung == rung);
        if named.is_some() {
            return named;
        }
        let tally = Tally { rung: rung.to_owned(), tracked: 0, counted: 0 };
        if self.rungs.len() < MAX_RUNGS {
            self.rungs.push(tally);
            return Some(self.rungs.len() - 1);
        }
        let empty = self.rungs.iter().position(|tally| tally.tracked == 0)?;
        self.rungs[empty] = tally;
        Some(empty)
    }
}
