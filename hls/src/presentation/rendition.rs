//! One rendition's list of segments and parts, its waiting segments and its measured bit rates. The common window and
//! retention are in the parent module.

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

#[derive(Debug, Default)]
pub(super) struct Rendition {
    listed: VecDeque<SegmentInfo>,
    /// Segments that arrived out of order, or whose init segment is not readable yet.
    waiting: BTreeMap<u64, SegmentInfo>,
    /// Parts by their segment's sequence number: of the last listed segments and of the open one.
    parts: BTreeMap<u64, Vec<PartInfo>>,
    /// Next sequence number to list; `None` before the first segment and after a restart.
    next: Option<u64>,
    /// Sequence number of the first segment since the start or the last restart of the list.
    began: Option<u64>,
    /// Segments with lower numbers were listed by an earlier writer.
    own_from: u64,
    /// The list restarts at the next epoch; late segments of an earlier epoch are not listed any more.
    skips_to_epoch: bool,
    /// Readable init segments, oldest first.
    inits: Vec<String>,
    /// Init segment of the last listed segment.
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
        let mut inits: Vec<String> = Vec::new();
        for segment in segments.iter().filter(|segment| segment.bytes.is_some()) {
            if !inits.contains(&segment.init) {
                inits.push(segment.init.clone());
            }
        }
        Self {
            began: segments.first().map(|segment| segment.sequence),
            next: segments.last().map(|segment| segment.sequence + 1),
            own_from: segments.last().map_or(0, |segment| segment.sequence + 1),
            current_init: inits.last().cloned(),
            inits,
            listed: segments.iter().cloned().collect(),
            ..Self::default()
        }
    }

    pub(super) fn set_track(&mut self, track: &Track) {
        self.nominal = match &track.kind {
            TrackKind::Video(video) => video.nominal_bitrate.into(),
            TrackKind::Audio(audio) => audio.nominal_bitrate.into(),
        };
    }

    /// Restarts the list when the rung returns after an epoch without it. Returns the segments that were listed; the
    /// caller must take the parts first.
    pub(super) fn restart(&mut self) -> VecDeque<SegmentInfo> {
        self.gone = false;
        self.next = None;
        self.skips_to_epoch = true;
        self.has_media = false;
        std::mem::take(&mut self.listed)
    }

    pub(super) fn add_init(&mut self, name: &str) {
        if !self.inits.iter().any(|known| known == name) {
            self.inits.push(name.to_owned());
        }
    }

    /// Keeps a segment until it can be listed. Returns a segment from before the restart of the list, which is never
    /// listed.
    pub(super) fn add(&mut self, segment: SegmentInfo) -> Option<SegmentInfo> {
        if self.next.is_none_or(|next| segment.sequence >= next) {
            self.waiting.entry(segment.sequence).or_insert(segment);
            return None;
        }
        (self.began.is_some_and(|began| segment.sequence < began)).then_some(segment)
    }

    /// Keeps a part until its segment is no longer among the last ones. A part with a missing predecessor, or of a
    /// segment that is already listed, is dropped.
    pub(super) fn add_part(&mut self, part: PartInfo) {
        if self.next.is_some_and(|next| part.sequence < next) {
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

    /// Parts of the open segment; empty unless their init segment is readable.
    pub(super) fn open_parts(&self) -> &[PartInfo] {
        let open = self.next.and_then(|next| self.parts.get(&next)).map(Vec::as_slice).unwrap_or_default();
        match open.first() {
            Some(part) if self.inits.contains(&part.init) => open,
            _ => &[],
        }
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

    /// After a restart, takes the waiting segments from before the new epoch, once that epoch's first segment has
    /// arrived.
    pub(super) fn take_skipped(&mut self) -> Vec<SegmentInfo> {
        if !self.skips_to_epoch {
            return Vec::new();
        }
        let Some(first) = self.waiting.values().find(|s| s.discontinuity).map(|s| s.sequence) else {
            return Vec::new();
        };
        self.skips_to_epoch = false;
        let kept = self.waiting.split_off(&first);
        std::mem::replace(&mut self.waiting, kept).into_values().collect()
    }

    /// Moves segments that became contiguous from the waiting list to the listed ones. Returns their sequence numbers,
    /// whether a discontinuity precedes them, and their durations.
    pub(super) fn list_contiguous(&mut self) -> Vec<(u64, bool, MediaSpan)> {
        let mut new = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            let segment = entry.get();
            let follows = match self.next {
                Some(next) => segment.sequence == next,
                // A list begins at the start of an epoch: at number 0 or at a discontinuity.
                None => segment.sequence == 0 || segment.discontinuity,
            };
            let readable = segment.bytes.is_none() || self.inits.contains(&segment.init);
            if !(follows && readable) {
                break;
            }
            let segment = entry.remove();
            self.measure(&segment);
            if self.next.is_none() {
                self.began = Some(segment.sequence);
            }
            self.next = Some(segment.sequence + 1);
            new.push((segment.sequence, segment.discontinuity, segment.duration));
            self.listed.push_back(segment);
        }
        new
    }

    fn measure(&mut self, segment: &SegmentInfo) {
        let Some(bytes) = segment.bytes else { return };
        self.has_media = true;
        self.current_init = Some(segment.init.clone());
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

    /// Removes all segments up to `sequence`, listed or waiting, and stops waiting for the missing ones among them.
    pub(super) fn remove_through(&mut self, sequence: u64) -> Vec<SegmentInfo> {
        let mut removed = Vec::new();
        while self.first().is_some_and(|first| first <= sequence) {
            removed.extend(self.listed.pop_front());
        }
        while let Some(entry) = self.waiting.first_entry()
            && *entry.key() <= sequence
        {
            removed.push(entry.remove());
        }
        if self.next.is_some() {
            self.next = self.next.max(Some(sequence + 1));
        }
        removed
    }

    /// Forgets and returns the init segments that only older segments needed, except those in `retained`. The current
    /// init segment stays even when no listed segment needs it, because more segments may arrive.
    pub(super) fn forget_inits(&mut self, retained: &BTreeSet<&str>) -> Vec<String> {
        let current = self.current_init.as_ref();
        let Some(current) = self.inits.iter().position(|init| Some(init) == current) else {
            return Vec::new();
        };
        let mut needed: BTreeSet<&str> = self.listed.iter().map(|s| s.init.as_str()).collect();
        needed.extend(self.waiting.values().map(|s| s.init.as_str()));
        needed.extend(self.parts.values().flatten().map(|p| p.init.as_str()));
        let old = self.inits.drain(..current).collect::<Vec<_>>();
        let (keep, over): (Vec<_>, Vec<_>) = old
            .into_iter()
            .partition(|init| needed.contains(init.as_str()) || retained.contains(init.as_str()));
        self.inits.splice(..0, keep);
        over
    }

    /// Names of all objects of this rendition that exist.
    pub(super) fn into_names(self) -> impl Iterator<Item = String> {
        let segments = self.listed.into_iter().chain(self.waiting.into_values());
        let parts = self.parts.into_values().flatten().filter(|p| !p.gap).map(|p| p.name);
        segments.filter(|s| s.bytes.is_some()).map(|s| s.name).chain(parts).chain(self.inits)
    }
}

pub(crate) fn bit_rate(bits: u64, duration: MediaSpan) -> u64 {
    let ticks = u128::from(duration.ticks_90k().max(1).unsigned_abs());
    let rate = (u128::from(bits) * u128::from(TICKS_PER_SECOND.unsigned_abs())).div_ceil(ticks);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
