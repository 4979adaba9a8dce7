//! Packager outputs to a store: order, pacing, retry, acknowledgement.
//!
//! What belongs here: when which object is written, and what happens when it cannot be. What does not: making segments
//! and playlists (`hls`), the store's own protocol ([`crate::store`]), the origin, which does not wait for a store.
//!
//! The rules, kept by the sans-IO [`Plan`] and driven by [`Publisher`]:
//!
//! - A playlist names only what the store acknowledged. Segments are written several at a time and listed in order;
//!   one that is not there by its deadline becomes a gap (EXT-X-GAP), and so does one whose init segment is not. Where
//!   an archive is kept it goes on being uploaded behind those that are on time.
//! - The multivariant playlist appears once every media playlist that it names was acknowledged.
//! - A playlist is rendered when its write starts, so the newest wins; two writes of one playlist start at least
//!   [`Settings::playlist_interval`] apart; the last one (EXT-X-ENDLIST) is tried until [`Settings::seal_within`]. A
//!   write replaces the version that the one before had made and no other: whoever finds somebody else's there stops.
//! - Live never waits: [`Publisher::input`] takes an event and returns. What waits to be written is bounded by
//!   [`Settings::max_waiting_bytes`]; beyond it segments that are not being written are given up, counted: late ones
//!   first, the largest rendition's first, the oldest first. With a [`Spool`] late ones go to a local disk before that.

mod driver;
mod plan;
mod settings;
mod spool;
#[cfg(test)]
mod testing;

pub use driver::Publisher;
pub use plan::{Answer, Job, JobId, Plan, SpoolId, Work};
pub use settings::{Counters, Gap, Settings};
pub use spool::Spool;

use crate::store::Version;
use hls::RungName;
use hls::packager::{InitSegment, Segment};
use hls::track::Track;

/// What there is to publish, in the packager's order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new epoch begins with these renditions.
    Tracks(Vec<Track>),
    /// An init segment; comes before the segments that need it.
    Init(InitSegment),
    /// A media segment, or a gap where its body is `None`.
    Segment(Segment),
    /// Objects that no playlist of anybody names any more. Removed or kept, as [`Settings::archive`] says; what
    /// the store's own playlists dropped needs no event.
    Expired(Vec<(RungName, String)>),
    /// Nothing follows. Playlists are written once more, with EXT-X-ENDLIST.
    End,
}

/// A rendition's playlist that this encoder has taken over: its former owner wrote this text, and this encoder wrote it
/// once more with a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Its rendition.
    pub rung: RungName,
    /// What it lists, without that comment.
    pub text: String,
    /// This encoder's writing.
    pub version: Version,
}

/// A stream's playlists as text, out of what the store acknowledged. Implemented by `hls::Presentation`'s adapter.
pub trait Playlists: Send + 'static {
    /// A new epoch's renditions.
    fn set_tracks(&mut self, tracks: &[Track]);

    /// An init segment is readable.
    fn add_init(&mut self, init: &InitSegment);

    /// The next segment of its rendition is settled: readable with that many bytes, or (`None`) a gap. `segment.body`
    /// is always `None` here, for nobody keeps bodies longer than needed.
    fn add(&mut self, segment: &Segment, bytes: Option<u64>);

    /// What became of a segment for good, for whoever keeps more than playlists list: readable, however late, or never.
    /// Once for each segment, in any order.
    fn settled(&mut self, _rung: &RungName, _sequence: u64, _stored: bool) {}

    /// Another encoder has taken the stream over: nothing more is written.
    fn fenced(&mut self) {}

    /// Nothing follows.
    fn end(&mut self);

    /// A rendition's playlist, once it has something to list.
    fn media_playlist(&self, rung: &RungName) -> Option<String>;

    /// The multivariant playlist, once it has something to name; names no rendition without a playlist.
    fn multivariant(&self) -> Option<String>;

    /// Names of files that left the playlists long enough ago that no player wants them. Each is given once.
    fn take_expired(&mut self) -> Vec<(RungName, String)>;
}
