//! Writes the packager's outputs to a store: order, pacing, retry, acknowledgement.
//!
//! What belongs here: when which object is written, and what happens when a write fails. What does not: making
//! segments and playlists (`hls`), the store's own protocol ([`store`]), the origin, which does not wait for a
//! store.
//!
//! The rules, decided by the sans-IO [`DeliveryPlan`] and carried out by [`Delivery`]:
//!
//! - A playlist names only what the store acknowledged. Several segments are written at a time and listed in order; a
//!   segment that is not acknowledged by its deadline becomes a gap (EXT-X-GAP), and so does a segment whose init
//!   segment is not acknowledged by then. Where an archive is kept, the late segment is still uploaded, with lower
//!   priority than segments that are on time. What becomes of each segment stands in the [`hls::ledger`], which the
//!   playlists and the archive read.
//! - The multivariant playlist appears once every media playlist that it names was acknowledged.
//! - A playlist is rendered when its write starts, so the newest text wins; two writes of one playlist start at least
//!   [`DeliverySettings::playlist_interval`] apart; the last one (EXT-X-ENDLIST) is retried until
//!   [`DeliverySettings::seal_within`]. A write replaces only the version that this encoder's previous write made: an
//!   encoder that finds another writer's version stops.
//! - Live never waits: [`Delivery::input`] takes an event and returns. [`DeliverySettings::max_waiting_bytes`] bounds
//!   what waits to be written; beyond that limit, segments that are not being written are given up, counted: late ones
//!   first, the largest rendition's first, the oldest first. With a [`Spool`], late segments go to a local disk before
//!   that.

pub(crate) mod driver;
pub(crate) mod outputs;
mod plan;
mod settings;
mod spool;
pub(crate) mod takeover;
#[cfg(test)]
mod testing;

pub(crate) use driver::{Delivery, FateListeners, Readers, show_counters};
pub(crate) use plan::{Answer, DeliveryPlan, ListedSegment, SpoolId, StoreJob, StoreJobId, StoreWork};
pub use settings::{DeliveryCounters, DeliverySettings, Gap};
pub use spool::Spool;

use hls::packager::InitSegment;
use hls::track::Track;
use hls::{Presentation, RungName, Segment, SegmentInfo};
use store::Version;

/// Input of [`Delivery`], in the packager's order.
#[derive(Clone, Debug, PartialEq)]
pub enum DeliveryEvent {
    /// A new epoch begins with these renditions.
    Tracks(Vec<Track>),
    /// An init segment; precedes the segments that need it.
    Init(InitSegment),
    /// A media segment, or a gap where its body is `None`.
    Segment(Segment),
    /// End of the stream. Playlists are written once more, with EXT-X-ENDLIST.
    End,
}

/// A rendition's playlist that this encoder has taken over: its former owner wrote this text, and this encoder wrote
/// it once more with an added comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The rendition of this playlist.
    pub rung: RungName,
    /// The playlist's text without the added comment.
    pub text: String,
    /// The version that this encoder's write made.
    pub version: Version,
}

/// A stream's playlists as text: [`Presentation`], or short texts in tests.
pub trait Playlists: Send + 'static {
    /// Sets the renditions of a new epoch.
    fn set_tracks(&mut self, tracks: &[Track]);

    /// An init segment is readable.
    fn add_init(&mut self, init: &InitSegment);

    /// Lists the next segment of its rendition: readable, or a gap.
    fn add(&mut self, segment: SegmentInfo);

    /// The stream has ended.
    fn end(&mut self);

    /// A rendition's playlist; `None` before it has something to list.
    fn media_playlist(&self, rung: &RungName) -> Option<String>;

    /// The multivariant playlist; `None` before it has something to name. It names no rendition without a playlist.
    fn multivariant(&self) -> Option<String>;

    /// Names of files that left the playlists long enough ago that no player requests them. Each name is returned
    /// once.
    fn take_expired(&mut self) -> Vec<(RungName, String)>;
}

impl Playlists for Presentation {
    fn set_tracks(&mut self, tracks: &[Track]) {
        self.set_tracks(tracks);
    }

    fn add_init(&mut self, init: &InitSegment) {
        self.add_init(init);
    }

    fn add(&mut self, segment: SegmentInfo) {
        self.add(segment);
    }

    fn end(&mut self) {
        self.end();
    }

    fn media_playlist(&self, rung: &RungName) -> Option<String> {
        self.media_playlist(rung)
    }

    fn multivariant(&self) -> Option<String> {
        self.multivariant()
    }

    fn take_expired(&mut self) -> Vec<(RungName, String)> {
        self.take_expired().into_iter().map(|expired| (expired.rung, expired.name)).collect()
    }
}
