//! The window of a presentation: which segments the viewers' playlists list, and which objects can be deleted.
//!
//! One instance serves one place that viewers read from. The origin adds the packager's outputs immediately; the
//! store's instance gets what the live cursor of the [ledger](crate::ledger) passes. Cutting, boxes, playlist text
//! (`playlist`) and waiting for uploads (`ledger`) do not belong here.
//!
//! Contract: **the segments of a rendition are added in order, each after its init segment**, a gap in the place of a
//! segment that cannot be read. [`Presentation::add`] says what becomes of a segment that breaks this.
//!
//! All renditions list the same window of sequence numbers; each rendition's list ends with its last segment. Time is
//! the duration of listed media, so retention is right for live streams, where media time is wall time; a pause of the
//! stream only lengthens retention.
//!
//! Parts are listed for the last two segments and for the open segment, and stay readable for three more target
//! durations (rfc8216bis 4.4.4.9).
//!
//! Bounds: the window; a lagging rendition holds it at [`MAX_WINDOWS`] windows at most.

pub(crate) mod rendition;

use crate::names::{self, RungName};
use crate::packager::InitSegment;
use crate::playlist::media::{LowLatency, MediaPlaylist, RenditionReport};
use crate::playlist::multivariant;
use crate::resume::Past;
use crate::segment::{PartInfo, SegmentInfo};
use crate::timing::Timing;
use crate::track::Track;
use media::MediaSpan;
use rendition::{Place, Rendition};
use std::collections::{BTreeMap, BTreeSet};

/// Maximum size of the window, in windows, while a rendition lags.
pub const MAX_WINDOWS: i64 = 3;

/// A new rendition with this many listed segments, all of them gaps, no longer delays the change to new tracks.
const GAPS_TO_GIVE_UP: usize = 3;

/// An object that no playlist references any more, after its retention.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expired {
    /// Its rendition.
    pub rung: RungName,
    /// File name.
    pub name: String,
}

/// The end of a rendition's playlist: a server compares it with blocking playlist requests (rfc8216bis 6.2.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Media sequence number of the last segment listed.
    pub last_sequence: u64,
    /// Number of parts of that segment; 0 where segments are not divided.
    pub last_parts: u32,
    /// Number of listed parts after that segment.
    pub open_parts: u32,
    /// Whether the playlist has its ENDLIST.
    pub ended: bool,
}

/// A segment or part that left the window but may still be read by viewers with an older playlist.
#[derive(Debug)]
struct Retained {
    rung: RungName,
    name: String,
    init: String,
    /// End of retention, on the axis of [`Presentation::elapsed`].
    until: MediaSpan,
}

/// The presentation of one stream in one place; see the module's documentation.
#[derive(Debug)]
pub struct Presentation {
    timing: Timing,
    /// The tracks of the multivariant playlist, in its order.
    tracks: Vec<Track>,
    /// The tracks that replace `tracks` once all of these can be played.
    next_tracks: Option<Vec<Track>>,
    renditions: BTreeMap<RungName, Rendition>,
    /// First listed sequence number; `None` before the first segment.
    first: Option<u64>,
    /// Number of discontinuities that have left the window.
    gone_discontinuities: u64,
    /// Sequence numbers in the window that have a discontinuity before them.
    discontinuities: BTreeSet<u64>,
    retained: Vec<Retained>,
    expired: Vec<Expired>,
    /// The highest sequence number listed so far.
    edge: Option<u64>,
    /// Duration of media listed so far: the clock of retention.
    elapsed: MediaSpan,
    /// Duration of the longest playlist so far.
    longest: MediaSpan,
    ended: bool,
    /// Whether the server holds blocking playlist reloads and requests for hinted parts.
    on_origin: bool,
    /// True until the first call of `set_tracks`: the earlier writer's renditions are shown unchanged.
    resuming: bool,
}

impl Presentation {
    /// An empty presentation for a store: lists no parts and does not announce blocking reloads.
    pub fn new(timing: &Timing) -> Self {
        Self {
            timing: timing.clone(),
            tracks: Vec::new(),
            next_tracks: None,
            renditions: BTreeMap::new(),
            first: None,
            gone_discontinuities: 0,
            discontinuities: BTreeSet::new(),
            retained: Vec::new(),
            expired: Vec::new(),
            edge: None,
            elapsed: MediaSpan::ZERO,
            longest: MediaSpan::ZERO,
            ended: false,
            on_origin: false,
            resuming: false,
        }
    }

    /// An empty presentation for a server that holds requests for segments and parts not listed yet (`_HLS_msn`,
    /// `_HLS_part`) and for hinted parts. Players poll excessively if the playlist announces this and the server does
    /// not hold requests.
    pub fn for_origin(timing: &Timing) -> Self {
        Self { on_origin: true, ..Self::new(timing) }
    }

    /// Continues the numbering of an earlier presentation under the same names, so that the DISCONTINUITY-SEQUENCE
    /// never decreases. `past` is the earlier presentation's [`Presentation::discontinuities`].
    pub fn with_past_discontinuities(mut self, past: u64) -> Self {
        self.gone_discontinuities = past;
        self
    }

    /// Continues the playlists that an earlier writer left in a store: their segments stay in the window and leave it
    /// as usual, numbering continues, and a rendition that no longer exists ends. `timing` must have the same target
    /// duration; the next segment is [`Past::next_sequence`], with a discontinuity.
    pub fn resume(timing: &Timing, past: &Past) -> Self {
        debug_assert_eq!(timing.target_duration, past.target_duration());
        let mut resumed = Self { resuming: true, ..Self::new(timing) };
        resumed.gone_discontinuities = past.gone_discontinuities();
        resumed.discontinuities = past.discontinuity_numbers().clone();
        for (rung, segments) in past.segments() {
            resumed.renditions.insert(rung.clone(), Rendition::resume(segments));
        }
        resumed.first = resumed.renditions.values().filter_map(Rendition::first).min();
        resumed.edge = past.next_sequence().checked_sub(1);
        resumed.advance();
        resumed
    }

    /// Number of discontinuities so far, listed or not.
    pub fn discontinuities(&self) -> u64 {
        self.gone_discontinuities + self.discontinuities.len() as u64
    }

    /// Sets the renditions of the epoch that begins now. The multivariant playlist changes to them once each can be
    /// played; until then it keeps the earlier ones. After that change, a rung that is gone has no playlist.
    pub fn set_tracks(&mut self, tracks: &[Track]) {
        self.resuming = false;
        for (rung, rendition) in &mut self.renditions {
            rendition.gone |= !tracks.iter().any(|t| t.rung == *rung);
        }
        let (mut removed, mut removed_parts) = (Vec::new(), Vec::new());
        for track in tracks {
            let rendition = self.renditions.entry(track.rung.clone()).or_default();
            if rendition.gone {
                removed_parts.extend(rendition.take_parts());
                removed.extend(rendition.restart());
                rendition.gone = false;
            }
            rendition.set_track(track);
        }
        removed.into_iter().for_each(|segment| self.retain(segment));
        removed_parts.into_iter().for_each(|part| self.retain_part(part));
        self.next_tracks = Some(tracks.to_vec());
        self.promote_tracks();
    }

    /// Reports a readable init segment, before the segments and parts that need it. Init segments of later epochs may
    /// come early, in any order.
    pub fn add_init(&mut self, init: &InitSegment) {
        self.renditions.entry(init.rung.clone()).or_default().add_init(&init.name);
        self.advance();
    }

    /// Lists the next segment of its rendition, or a gap for one that never can be read. Renditions need not keep step.
    ///
    /// A rendition's list begins at sequence number 0 or at a discontinuity: late segments of an epoch before it, which
    /// a rung that went and came back still has on its way, are not listed and expire; so do segments older than the
    /// window. The same happens to a segment that does not follow the one before it, unless it has a discontinuity:
    /// then the list begins anew. A segment whose init segment was not added is listed as a gap, and its object
    /// expires. A segment that is listed already is ignored.
    pub fn add(&mut self, segment: SegmentInfo) {
        if self.first.is_some_and(|first| segment.sequence < first) {
            self.retain(segment);
            return;
        }
        let rendition = self.renditions.entry(segment.rung.clone()).or_default();
        match rendition.place(&segment) {
            Place::Next => self.list(segment),
            Place::First => {
                rendition.restart().into_iter().for_each(|earlier| self.retain(earlier));
                self.list(segment);
            }
            Place::Listed => return,
            Place::Nowhere => self.retain(segment),
        }
        self.advance();
    }

    /// Lists a segment that has its place at the end of its rendition's list.
    fn list(&mut self, segment: SegmentInfo) {
        let SegmentInfo { sequence, discontinuity, duration, .. } = segment;
        self.first = self.first.or(Some(sequence));
        if discontinuity {
            self.discontinuities.insert(sequence);
        }
        if self.edge.is_none_or(|edge| sequence > edge) {
            self.edge = Some(sequence);
            self.elapsed = self.elapsed + duration;
        }
        let rendition = self.renditions.entry(segment.rung.clone()).or_default();
        if rendition.is_readable(&segment.init) {
            rendition.list(segment);
        } else {
            rendition.list(segment.clone().into_gap());
            self.retain(segment);
        }
    }

    /// Adds a part that can be read. Parts must be added before their segment and after the earlier segments and parts,
    /// and after their init segment; a part with a missing predecessor is not listed. Does nothing in a presentation
    /// for a store.
    pub fn add_part(&mut self, part: PartInfo) {
        if self.on_origin {
            self.renditions.entry(part.rung.clone()).or_default().add_part(part);
        }
    }

    /// Marks the stream as over: playlists have ENDLIST from now on.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The playlist at `{rung}/index.m3u8`; `None` for an unknown rung (404) and for a rung that lists nothing yet.
    pub fn media_playlist(&self, rung: &RungName) -> Option<String> {
        let rendition = self.shown(rung)?;
        let first = rendition.listed().front()?;
        let playlist = MediaPlaylist {
            timing: &self.timing,
            media_sequence: first.sequence,
            discontinuity_sequence: self.discontinuity_sequence(first.sequence),
            segments: rendition.listed(),
            ended: self.ended,
            on_origin: self.on_origin,
            low_latency: self.low_latency(rung, rendition),
        };
        Some(playlist.render())
    }

    fn low_latency<'a>(&'a self, rung: &RungName, rendition: &'a Rendition) -> Option<LowLatency<'a>> {
        let timing = self.timing.parts.filter(|_| self.on_origin)?;
        let hint = self.hint(rung).filter(|_| !self.ended);
        let others = self.tracks.iter().filter(|track| track.rung != *rung);
        let reports = others.filter_map(|track| {
            let edge = self.edge(&track.rung)?;
            let (sequence, parts) = match edge.open_parts {
                0 => (edge.last_sequence, edge.last_parts),
                open => (edge.last_sequence + 1, open),
            };
            Some(RenditionReport { rung: &track.rung, sequence, last_part: parts.checked_sub(1) })
        });
        let reports = reports.collect();
        Some(LowLatency { timing, parts: rendition.parts(), open: rendition.open_parts(), hint, reports })
    }

    /// Name of a rung's next part, unless the next segment begins first (EXT-X-PRELOAD-HINT): the server holds requests
    /// for it. `None` where there are no parts.
    pub fn hint(&self, rung: &RungName) -> Option<String> {
        self.timing.parts.filter(|_| self.on_origin && !self.ended)?;
        let rendition = self.shown(rung)?;
        let last = rendition.listed().back()?;
        Some(match rendition.open_parts().last() {
            Some(part) => names::part_name(&part.session, part.sequence, part.index + 1),
            None => names::part_name(&last.session, last.sequence + 1, 0),
        })
    }

    /// End of the current [`Presentation::media_playlist`]; `None` where there is no playlist.
    pub fn edge(&self, rung: &RungName) -> Option<Edge> {
        let rendition = self.shown(rung)?;
        let last = rendition.listed().back()?.sequence;
        let count = |parts: &[PartInfo]| u32::try_from(parts.len()).unwrap_or(u32::MAX);
        Some(Edge {
            last_sequence: last,
            last_parts: rendition.parts().get(&last).map_or(0, |parts| count(parts)),
            open_parts: count(rendition.open_parts()),
            ended: self.ended,
        })
    }

    /// The rendition of a rung that viewers can see.
    fn shown(&self, rung: &RungName) -> Option<&Rendition> {
        let shown = |tracks: &[Track]| tracks.iter().any(|t| t.rung == *rung);
        if !self.resuming && !shown(&self.tracks) && !self.next_tracks.as_deref().is_some_and(shown) {
            return None;
        }
        self.renditions.get(rung)
    }

    /// The playlist at `index.m3u8`; `None` until every rendition can be played. Renditions that list only gaps are
    /// left out.
    pub fn multivariant(&self) -> Option<String> {
        let playable: Vec<_> = self
            .tracks
            .iter()
            .filter_map(|track| Some((track, self.renditions.get(&track.rung)?)))
            .filter(|(_, rendition)| rendition.is_playable())
            .map(|(track, rendition)| (track, rendition.bandwidth()))
            .collect();
        (!playable.is_empty())
            .then(|| multivariant::render(&playable, &|rung| format!("{rung}/index.m3u8"), None))
    }

    /// Objects whose retention has ended since the last call (rfc8216bis 6.2.2: after removal, a segment's own duration
    /// plus that of the longest playlist that listed it). Init segments expire after the last segment that needs them.
    pub fn take_expired(&mut self) -> Vec<Expired> {
        std::mem::take(&mut self.expired)
    }

    /// All objects that are still listed or retained, for removing a stream that has ended.
    pub fn take_all(&mut self) -> Vec<Expired> {
        let mut all: BTreeSet<Expired> = self.take_expired().into_iter().collect();
        for retained in std::mem::take(&mut self.retained) {
            all.insert(Expired { rung: retained.rung, name: retained.name });
        }
        for (rung, rendition) in std::mem::take(&mut self.renditions) {
            all.extend(rendition.into_names().map(|name| Expired { rung: rung.clone(), name }));
        }
        all.into_iter().collect()
    }

    /// The DISCONTINUITY-SEQUENCE of a playlist that begins with `first`: discontinuities before `first`, excluding its
    /// own.
    fn discontinuity_sequence(&self, first: u64) -> u64 {
        self.gone_discontinuities + self.discontinuities.range(..first).count() as u64
    }

    /// Updates the window after every addition: moves the window, ends retentions.
    fn advance(&mut self) {
        self.promote_tracks();
        let longest = self.renditions.values().map(|r| r.listed_from(0).1).max();
        self.longest = self.longest.max(longest.unwrap_or_default());
        while let Some(first) = self.first
            && self.may_remove(first)
        {
            self.remove(first);
        }
        self.expire();
    }

    fn promote_tracks(&mut self) {
        let ready = |track: &Track| {
            let rendition = self.renditions.get(&track.rung);
            rendition.is_some_and(|r| r.is_playable() || r.own_listed() >= GAPS_TO_GIVE_UP)
        };
        if self.next_tracks.as_ref().is_some_and(|tracks| tracks.iter().all(ready))
            && let Some(tracks) = self.next_tracks.take()
        {
            self.tracks = tracks;
        }
    }

    /// Whether every rendition that lists the segment `first` keeps a full window without it.
    fn may_remove(&self, first: u64) -> bool {
        // Keep the earlier writer's window unchanged until the renditions of the new epoch are known.
        if self.resuming || self.edge.is_none_or(|edge| first >= edge) {
            return false;
        }
        let limit = MediaSpan::from_ticks_90k(self.timing.window.ticks_90k().saturating_mul(MAX_WINDOWS));
        let current = self.next_tracks.as_ref().unwrap_or(&self.tracks);
        let mut all_full = true;
        for rendition in current.iter().filter_map(|track| self.renditions.get(&track.rung)) {
            let (count, span) = rendition.listed_from(first + 1);
            if span >= limit {
                return true;
            }
            // A rung that was added later does not list `first` and loses nothing.
            let affected = rendition.first().is_none_or(|own| own <= first);
            all_full &= !affected || count >= self.timing.min_window_segments && span >= self.timing.window;
        }
        all_full
    }

    fn remove(&mut self, sequence: u64) {
        let removed: Vec<_> =
            self.renditions.values_mut().flat_map(|rendition| rendition.remove_through(sequence)).collect();
        self.first = Some(sequence + 1);
        if self.discontinuities.remove(&sequence) {
            self.gone_discontinuities += 1;
        }
        removed.into_iter().for_each(|segment| self.retain(segment));
    }

    /// Retains a part for three target durations (rfc8216bis 4.4.4.9).
    fn retain_part(&mut self, part: PartInfo) {
        if !part.gap {
            let span = MediaSpan::from_millis(3_000 * i64::from(self.timing.target_duration));
            let until = self.elapsed + span;
            self.retained.push(Retained { rung: part.rung, name: part.name, init: part.init, until });
        }
    }

    fn retain(&mut self, segment: SegmentInfo) {
        if segment.bytes.is_none() {
            return;
        }
        let measured = segment.duration + self.longest;
        let until = self.elapsed + measured.max(self.timing.retention);
        self.retained.push(Retained { rung: segment.rung, name: segment.name, init: segment.init, until });
    }

    fn expire(&mut self) {
        let old: Vec<_> = self.renditions.values_mut().flat_map(Rendition::take_old_parts).collect();
        old.into_iter().for_each(|part| self.retain_part(part));
        let elapsed = self.elapsed;
        for over in self.retained.extract_if(.., |r| r.until <= elapsed) {
            self.expired.push(Expired { rung: over.rung, name: over.name });
        }
        for (rung, rendition) in &mut self.renditions {
            let retained =
                self.retained.iter().filter(|r| r.rung == *rung).map(|r| r.init.as_str()).collect();
            let over = rendition.forget_inits(&retained).into_iter();
            self.expired.extend(over.map(|name| Expired { rung: rung.clone(), name }));
        }
    }
}

#[cfg(test)]
mod tests;
