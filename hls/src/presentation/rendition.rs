//! One rendition's list of segments and parts, and its measured bit rates. The common window and retention are in the
//! parent module.

use crate::playlist::multivariant::Bandwidth;
use crate::segment::{PartInfo, SegmentInfo};
use crate::track::{Track, TrackKind};
use media::MediaSpan;
use media::time::TICKS_PER_SECOND;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Shorter segments do not count for the peak bit rate: rfc8216bis 4.4.6.2 measures spans of at least half a target
/// duration.
pub(crate) const MIN_MEASURED: MediaSpan = MediaSpan::from_millis(500);

/// Number of complete segments whose parts are listed. With the open segment these are three: hls-parser's strict mode
/// counts three segments where rfc8216bis 4.4.4.9 says three target durations.
const DIVIDED_SEGMENTS: u64 = 2;

/// Number of init segments without a segment so far ([`ReadableInit::used`]) that a rendition keeps; beyond that, those
/// that were added first expire. An epoch whose segments were all listed as gaps before leaves one behind.
const MAX_UNUSED_INITS: usize = 64;

/// A readable init segment.
#[derive(Debug)]
struct ReadableInit {
    name: String,
    /// Whether a listed segment, or a gap in its place, has needed the init segment. A store may acknowledge init
    /// segments long before the segments that need them, and those of several epochs in any order.
    used: bool,
}

/// What becomes of a segment that is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It follows the last listed segment.
    Next,
    /// A list begins with it.
    First,
    /// It is listed already.
    Listed,
    /// It does not follow the last listed segment, and no list begins with it.
    Nowhere,
}

#[derive(Debug, Default)]
pub(super) struct Rendition {
    listed: VecDeque<SegmentInfo>,
    /// Parts by their segment's sequence number: of the last listed segments and of the open one.
    parts: BTreeMap<u64, Vec<PartInfo>>,
    /// Next sequence number to list; `None` before the first segment and after a restart.
    next: Option<u64>,
    /// Segments with lower numbers were listed by an earlier writer.
    own_from: u64,
    /// Readable init segments, in the order in which they were added.
    inits: Vec<ReadableInit>,
    /// Name of the init segment of the last listed segment, readable or a gap.
    current_init: Option<String>,
    /// The rendition is not among the tracks of the current epoch.
    pub(super) gone: bool,
    has_media: bool,
    nominal: u64,
    peak: u64,
    /// The highest average so far.
    average: u64,
    total_bits: u64,
    total: MediaSpan,
}

impl Rendition {
    /// A rendition as an earlier writer left it. Its bit rates are unknown, and it counts as playable only after a new
    /// segment is listed.
    pub(super) fn resume(segments: &[SegmentInfo]) -> Self {
        let mut resumed = Self {
            next: segments.last().map(|segment| segment.sequence + 1),
            own_from: segments.last().map_or(0, |segment| segment.sequence + 1),
            listed: segments.iter().cloned().collect(),
            ..Self::default()
        };
        for segment in segments.iter().filter(|segment| segment.bytes.is_some()) {
            resumed.add_init(&segment.init);
            resumed.use_init(&segment.init);
        }
        resumed
    }

    pub(super) fn set_track(&mut self, track: &Track) {
        self.nominal = match &track.kind {
            TrackKind::Video(video) => video.nominal_bitrate.into(),
            TrackKind::Audio(audio) => audio.nominal_bitrate.into(),
        };
    }

    /// Empties the list; the next one begins where [`Rendition::place`] says. Returns the segments that were listed.
    pub(super) fn restart(&mut self) -> VecDeque<SegmentInfo> {
        self.next = None;
        self.has_media = false;
        std::mem::take(&mut self.listed)
    }

    pub(super) fn add_init(&mut self, name: &str) {
        if !self.is_readable(name) {
            let used = self.current_init.as_deref() == Some(name);
            self.inits.push(ReadableInit { name: name.to_owned(), used });
        }
    }

    /// Whether the init segment was added and is not forgotten.
    pub(super) fn is_readable(&self, init: &str) -> bool {
        self.inits.iter().any(|known| known.name == init)
    }

    /// Where a segment belongs. A list begins at number 0 or at a discontinuity; after a hole, it begins anew there.
    pub(super) fn place(&self, segment: &SegmentInfo) -> Place {
        let begins = segment.sequence == 0 || segment.discontinuity;
        match self.next {
            Some(next) if segment.sequence == next => Place::Next,
            Some(next) if segment.sequence < next => match self.first() {
                Some(first) if segment.sequence >= first => Place::Listed,
                // The list began after this segment.
                Some(_) | None => Place::Nowhere,
            },
            Some(_) | None if begins => Place::First,
            Some(_) | None => Place::Nowhere,
        }
    }

    /// Lists a segment for which [`Rendition::place`] is [`Place::Next`], or [`Place::First`] after a restart. A
    /// readable segment's init segment must be readable.
    pub(super) fn list(&mut self, segment: SegmentInfo) {
        self.measure(&segment);
        self.use_init(&segment.init);
        self.next = Some(segment.sequence + 1);
        self.listed.push_back(segment);
    }

    fn use_init(&mut self, name: &str) {
        self.current_init = Some(name.to_owned());
        if let Some(init) = self.inits.iter_mut().find(|init| init.name == name) {
            init.used = true;
        }
    }

    /// Keeps a part until its segment is no longer among the last ones. A part with a missing predecessor or init
    /// segment, or of a segment that is already listed, is dropped.
    pub(super) fn add_part(&mut self, part: PartInfo) {
        if self.next.is_some_and(|next| part.sequence < next) || !self.is_readable(&part.init) {
            return;
        }
        let known = self.parts.entry(part.sequence).or_default();
        if usize::try_from(part.index) == Ok(known.len()) {
            known.push(part);
        }
    }

    /// Parts of listed segments and of the open segment.
    pub(super) fn parts(&self) -> &BTreeMap<u64, Vec<PartInfo>> {
        &self.parts
    }

    /// Parts of the open segment.
    pub(super) fn open_parts(&self) -> &[PartInfo] {
        self.next.and_then(|next| self.parts.get(&next)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes the parts of all segments but the last [`DIVIDED_SEGMENTS`].
    pub(super) fn take_old_parts(&mut self) -> Vec<PartInfo> {
        let oldest = self.next.unwrap_or_default().saturating_sub(DIVIDED_SEGMENTS);
        if self.parts.first_key_value().is_none_or(|(sequence, _)| *sequence >= oldest) {
            return Vec::new();
        }
        let kept = self.parts.split_off(&oldest);
        std::mem::replace(&mut self.parts, kept).into_values().flatten().collect()
    }

    /// Takes all parts.
    pub(super) fn take_parts(&mut self) -> Vec<PartInfo> {
        std::mem::take(&mut self.parts).into_values().flatten().collect()
    }

    fn measure(&mut self, segment: &SegmentInfo) {
        let Some(bytes) = segment.bytes else { return };
        self.has_media = true;
        self.total_bits = self.total_bits.saturating_add(bytes.saturating_mul(8));
        self.total = self.total + segment.duration;
        if segment.duration >= MIN_MEASURED {
            self.peak = self.peak.max(bit_rate(bytes.saturating_mul(8), segment.duration));
            self.average = self.average.max(bit_rate(self.total_bits, self.total));
        }
    }

    pub(super) fn listed(&self) -> &VecDeque<SegmentInfo> {
        &self.listed
    }

    /// Number of listed segments that were not listed by an earlier writer.
    pub(super) fn own_listed(&self) -> usize {
        self.listed.iter().filter(|s| s.sequence >= self.own_from).count()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.listed.front().map(|s| s.sequence)
    }

    /// Number and total duration of the listed segments from `sequence` on.
    pub(super) fn listed_from(&self, sequence: u64) -> (usize, MediaSpan) {
        let from = self.listed.iter().filter(|s| s.sequence >= sequence);
        from.fold((0, MediaSpan::ZERO), |(count, span), s| (count + 1, span + s.duration))
    }

    pub(super) fn is_playable(&self) -> bool {
        self.has_media
    }

    /// The encoder's target bit rate, or the highest measured bit rate where that is larger.
    pub(super) fn bandwidth(&self) -> Bandwidth {
        Bandwidth { peak: self.peak.max(self.nominal), average: self.average.max(self.nominal) }
    }

    /// Removes all segments up to `sequence`. A rendition that lags continues after that number.
    pub(super) fn remove_through(&mut self, sequence: u64) -> Vec<SegmentInfo> {
        let mut removed = Vec::new();
        while self.first().is_some_and(|first| first <= sequence) {
            removed.extend(self.listed.pop_front());
        }
        if self.next.is_some() {
            self.next = self.next.max(Some(sequence + 1));
        }
        removed
    }

    /// Forgets and returns the init segments that only older segments needed, except those in `retained`, and the
    /// first unused ones beyond [`MAX_UNUSED_INITS`]. The current init segment stays even when no listed segment needs
    /// it, because more segments may arrive.
    pub(super) fn forget_inits(&mut self, retained: &BTreeSet<&str>) -> Vec<String> {
        let mut needed: BTreeSet<&str> = self.listed.iter().map(|s| s.init.as_str()).collect();
        needed.extend(self.parts.values().flatten().map(|p| p.init.as_str()));
        needed.extend(self.current_init.as_deref());
        let unused = self.inits.iter().filter(|init| !init.used).count();
        let mut surplus = unused.saturating_sub(MAX_UNUSED_INITS);
        let over = self.inits.extract_if(.., |init| {
            let is_surplus = !init.used && surplus > 0;
            surplus -= usize::from(is_surplus);
            let is_needed = needed.contains(init.name.as_str()) || retained.contains(init.name.as_str());
            (init.used || is_surplus) && !is_needed
        });
        over.map(|init| init.name).collect()
    }

    /// Names of all objects of this rendition that exist.
    pub(super) fn into_names(self) -> impl Iterator<Item = String> {
        let segments = self.listed.into_iter().filter(|s| s.bytes.is_some()).map(|s| s.name);
        let parts = self.parts.into_values().flatten().filter(|p| !p.gap).map(|p| p.name);
        segments.chain(parts).chain(self.inits.into_iter().map(|init| init.name))
    }
}

pub(crate) fn bit_rate(bits: u64, duration: MediaSpan) -> u64 {
    let ticks = u128::from(duration.ticks_90k().max(1).unsigned_abs());
    let rate = (u128::from(bits) * u128::from(TICKS_PER_SECOND.unsigned_abs())).div_ceil(ticks);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
