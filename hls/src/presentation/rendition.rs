//! One rendition's list, what waits to get into it, and what was measured of it.

use super::{PartInfo, SegmentInfo};
use crate::playlist::multivariant::Bandwidth;
use crate::time::{MediaSpan, TICKS_PER_SECOND};
use crate::track::{Track, TrackKind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A segment says nothing about the peak when it is shorter than this: rfc8216bis 4.4.6.2 measures stretches of half a
/// target duration at least.
pub(crate) const MIN_MEASURED: MediaSpan = MediaSpan::from_millis(500);

/// Of so many whole segments the parts are listed. With the one that is not whole these are three: hls-parser's strict
/// mode counts them so where rfc8216bis 4.4.4.9 says three target durations.
const DIVIDED_SEGMENTS: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct Rendition {
    listed: VecDeque<SegmentInfo>,
    /// Out of order, or without their init segment so far.
    waiting: BTreeMap<u64, SegmentInfo>,
    /// Parts by their segment's sequence number: of the segments listed last, and of the one that is not whole.
    parts: BTreeMap<u64, Vec<PartInfo>>,
    /// Next sequence number to list; `None` before the first.
    next: Option<u64>,
    /// Where the list began, at the start or anew.
    began: Option<u64>,
    /// What is before it was listed by an earlier writer.
    own_from: u64,
    /// The list begins anew at the next epoch; what is on its way of an earlier one is not listed any more.
    skips_to_epoch: bool,
    /// Init segments that can be read, oldest first.
    inits: Vec<String>,
    /// What the last segment listed needs.
    current_init: Option<String>,
    /// Not among the tracks of the present epoch.
    pub(super) gone: bool,
    has_media: bool,
    nominal: u64,
    peak: u64,
    /// The highest that the average ever was.
    average: u64,
    total_bits: u64,
    total: MediaSpan,
}

impl Rendition {
    /// As an earlier writer left it. Nothing was measured of it, and it can be played by what follows only when that is
    /// there.
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

    /// The rung is back after an epoch without it: its list begins anew. Returns what was listed; its parts are to be
    /// taken before.
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

    /// Keeps a segment until it can be listed. Returns one that never will be: of before the list began anew.
    pub(super) fn add(&mut self, segment: SegmentInfo) -> Option<SegmentInfo> {
        if self.next.is_none_or(|next| segment.sequence >= next) {
            self.waiting.entry(segment.sequence).or_insert(segment);
            return None;
        }
        (self.began.is_some_and(|began| segment.sequence < began)).then_some(segment)
    }

    /// Keeps a part until its segment has left the end of the playlist. One without the parts before it, or of a segment
    /// that is listed, is not kept.
    pub(super) fn add_part(&mut self, part: PartInfo) {
        if self.next.is_some_and(|next| part.sequence < next) {
            return;
        }
        let known = self.parts.entry(part.sequence).or_default();
        if usize::try_from(part.index) == Ok(known.len()) {
            known.push(part);
        }
    }

    /// Parts of listed segments.
    pub(super) fn parts(&self) -> &BTreeMap<u64, Vec<PartInfo>> {
        &self.parts
    }

    /// Parts behind the last segment, where they can be played.
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

    /// What waits of before the epoch at which the list begins anew, as soon as that epoch's first segment is there.
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

    /// Moves what became contiguous from the waiting to the listed; returns the new ones' sequence numbers, whether
    /// there is a discontinuity before them, and their durations.
    pub(super) fn list_contiguous(&mut self) -> Vec<(u64, bool, MediaSpan)> {
        let mut new = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            let segment = entry.get();
            let follows = match self.next {
                Some(next) => segment.sequence == next,
                // A list begins where an epoch does: at 0 or at a discontinuity.
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

    /// How many segments are listed that no earlier writer had.
    pub(super) fn own_listed(&self) -> usize {
        self.listed.iter().filter(|s| s.sequence >= self.own_from).count()
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.listed.front().map(|s| s.sequence)
    }

    /// How many segments from `sequence` on are listed, and their duration.
    pub(super) fn listed_from(&self, sequence: u64) -> (usize, MediaSpan) {
        let from = self.listed.iter().filter(|s| s.sequence >= sequence);
        from.fold((0, MediaSpan::ZERO), |(count, span), s| (count + 1, span + s.duration))
    }

    pub(super) fn is_playable(&self) -> bool {
        self.has_media
    }

    /// What the encoder was told until something larger was measured; never less than before.
    pub(super) fn bandwidth(&self) -> Bandwidth {
        Bandwidth { peak: self.peak.max(self.nominal), average: self.average.max(self.nominal) }
    }

    /// Takes everything up to `sequence` off the list, and gives up waiting for what is missing there.
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

    /// Forgets the init segments that only older segments needed, `retained` aside, and returns them. The last one
    /// stays even when nothing listed needs it: segments may be on their way.
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

    /// Names of all objects that exist.
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
