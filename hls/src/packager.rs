//! The packager: takes encoded samples and makes init and media segments, with all renditions cut at the same media
//! times.
//!
//! What belongs here: epochs, slots (the shared segment numbering), the assignment of samples to segments, counting of
//! misalignments. What does not: boxes (`fmp4`), cut decisions (`cut`), the window of listed segments (`presentation`),
//! playlist text (`playlist`).
//!
//! All renditions share one list of slots (sequence, start, end). The first keyframe of the reference renditions that
//! the cut rule accepts closes a slot; every rendition then fills the slot with its samples between the two times, or
//! with a gap. So sequence numbers agree by construction, and no rendition waits for another, with one exception: audio
//! waits for video to decide the cut, but not longer than [`Timing::stall`].
//!
//! With [`Timing::parts`], the packager emits a slot's segments in parts while the slot is open: each part as soon as
//! it is full and no cut can fall inside the part any more. A segment's body is then the concatenation of its parts'
//! bodies.
//!
//! A rendition without media in the last slot of an epoch gets its gap there only when the next epoch begins: at the end
//! of a stream its playlist is that much shorter instead, since players take a gap for a fault.
//!
//! Bounds: [`MAX_BUFFERED_BYTES`] over all renditions; [`Timing::stall`] beyond a segment in media time; [`MAX_JUMP`]
//! between a sample and the newest sample before it. Contract: after each call, [`Packager::poll`] until `None`.

mod lane;
mod types;

pub use types::{BeginError, CutRule, Epoch, InitSegment, Output, PackagerCounters, PushError};

use crate::cut::{Cut, Cutter};
use crate::fmp4;
use crate::names::{self, RungName};
use crate::resume::Past;
use crate::segment::{Part, PartInfo, Segment, SegmentInfo};
use crate::timing::Timing;
use crate::track::TrackKind;
use bytes::Bytes;
use lane::{Chunk, Lane, LaneProgress};
use media::{Anchor, MediaSpan, MediaTime, Unit, WallTime};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Bytes of coded data that all renditions together may hold back; see [`PushError::Full`]. Four renditions of 20
/// Mbit/s take more than 25 s to reach this.
pub const MAX_BUFFERED_BYTES: usize = 256 * 1024 * 1024;

/// A sample that is further ahead of the newest sample than this is refused: after a clock jump the caller begins a new
/// epoch.
pub const MAX_JUMP: MediaSpan = MediaSpan::from_millis(30_000);

/// Times beyond this (three thousand years) are corrupt and would overflow.
const MAX_TIME: MediaTime = MediaTime::from_ticks_90k(1 << 53);

/// A last slot of an epoch that is shorter than this is dropped if a rendition has no media in it: the tail is not
/// worth a segment of its own.
const SHORT_TAIL: MediaSpan = MediaSpan::from_millis(250);

/// One interval of media time, the same for all renditions: a segment of each.
#[derive(Clone, Copy, Debug)]
struct Slot {
    sequence: u64,
    start: MediaTime,
    /// `None` for the open slot, which is the last.
    end: Option<MediaTime>,
    wall: WallTime,
    discontinuity: bool,
}

/// The state that a rendition carries from one epoch to the next.
#[derive(Debug)]
struct Carry {
    init_name: String,
    init_body: Bytes,
    fragments: u32,
    /// The parts of the open segment so far.
    parts: PartCutter,
}

/// The parts of a segment that is not complete yet.
#[derive(Debug, Default)]
struct PartCutter {
    next_index: u32,
    bodies: Vec<Bytes>,
}

#[derive(Debug)]
struct OpenEpoch {
    epoch: Epoch,
    /// Media sequence number of the epoch's first slot.
    first_sequence: u64,
    /// `None` until the first slot opens.
    cutter: Option<Cutter>,
    /// The slots that at least one rendition has not filled yet, and the open slot.
    slots: VecDeque<Slot>,
    lanes: Vec<Lane>,
    /// The epoch has a video track, so video decides the cuts.
    has_video: bool,
}

/// The packager of one stream; see the module's documentation.
#[derive(Debug)]
pub struct Packager {
    timing: Timing,
    next_sequence: u64,
    open: Option<OpenEpoch>,
    carried: BTreeMap<RungName, Carry>,
    /// Wall-clock start and duration of the last closed slot.
    last_wall: Option<(WallTime, MediaSpan)>,
    out: VecDeque<Output>,
    /// Gaps in the last slot of the last epoch: emitted if another epoch follows.
    last_gaps: Vec<Segment>,
    counters: PackagerCounters,
}

impl Packager {
    /// `first_sequence` is 0, or continues the media sequence of an earlier presentation under the same names; in the
    /// second case the first segment is a discontinuity.
    pub fn new(timing: Timing, first_sequence: u64) -> Self {
        Self {
            timing,
            next_sequence: first_sequence,
            open: None,
            carried: BTreeMap::new(),
            last_wall: None,
            out: VecDeque::new(),
            last_gaps: Vec::new(),
            counters: PackagerCounters::default(),
        }
    }

    /// Like [`Packager::new`], but continues playlists that an earlier writer left: media sequence numbers and
    /// PROGRAM-DATE-TIME continue after what those playlists list.
    pub fn resume(timing: Timing, past: &Past) -> Self {
        Self {
            last_wall: Some((past.ended_at(), MediaSpan::ZERO)),
            ..Self::new(timing, past.next_sequence())
        }
    }

    /// Opens an epoch. The caller should have ended the previous epoch; if it is still open, this call ends it as
    /// `end_epoch(None)` does.
    ///
    /// The packager emits an init segment for every track whose init bytes differ from the last ones of its rung. The
    /// other tracks keep their earlier init segment, so that players keep their decoder configuration.
    ///
    /// # Errors
    /// See [`BeginError`].
    pub fn begin(&mut self, epoch: Epoch) -> Result<(), BeginError> {
        if epoch.tracks.is_empty() {
            return Err(BeginError::NoTracks);
        }
        let mut inits: BTreeMap<RungName, Bytes> = BTreeMap::new();
        for track in &epoch.tracks {
            let rung = &track.rung;
            let init = fmp4::init_segment(track)
                .map_err(|source| BeginError::Track { rung: rung.clone(), source })?;
            if inits.insert(rung.clone(), init).is_some() {
                return Err(BeginError::DuplicateRung(rung.clone()));
            }
        }
        self.end_epoch(None);
        self.fill_last_gaps();
        let name = names::init_name(&epoch.session);
        for (rung, body) in inits {
            let carried = self.carried.get(&rung);
            if carried.is_some_and(|c| c.init_body == body) {
                continue;
            }
            let fragments = carried.map_or(0, |c| c.fragments);
            let parts = PartCutter::default();
            self.out.push_back(Output::Init(InitSegment {
                rung: rung.clone(),
                name: name.clone(),
                body: body.clone(),
            }));
            self.carried.insert(rung, Carry { init_name: name.clone(), init_body: body, fragments, parts });
        }
        let lanes = epoch.tracks.iter().map(|track| Lane::new(track.clone(), self.next_sequence)).collect();
        let has_video = epoch.tracks.iter().any(|t| matches!(t.kind, TrackKind::Video(_)));
        self.open = Some(OpenEpoch {
            epoch,
            first_sequence: self.next_sequence,
            cutter: None,
            slots: VecDeque::new(),
            lanes,
            has_video,
        });
        Ok(())
    }

    /// Takes a sample of the open epoch. Samples before the epoch's start are dropped and counted, without an error.
    ///
    /// # Errors
    /// See [`PushError`]; the refused sample is dropped and counted.
    pub fn push(&mut self, rung: &RungName, sample: Unit) -> Result<(), PushError> {
        let pushed = self.try_push(rung, sample);
        if pushed.is_err() {
            self.counters.rejected_samples += 1;
        }
        pushed
    }

    fn try_push(&mut self, rung: &RungName, sample: Unit) -> Result<(), PushError> {
        let open = self.open.as_mut().ok_or(PushError::NoEpoch)?;
        let index = open.lanes.iter().position(|l| l.rung() == rung).ok_or(PushError::UnknownRung)?;
        if sample.data.is_empty() {
            return Err(PushError::Empty);
        }
        let times = MediaTime::ZERO..MAX_TIME;
        if !times.contains(&sample.pts)
            || !times.contains(&sample.dts)
            || (sample.pts - sample.dts).abs() > MAX_JUMP
        {
            return Err(PushError::OutOfRange);
        }
        if !open.lanes[index].reaches(sample.pts, open.epoch.start) {
            self.counters.late_samples += 1;
            return Ok(());
        }
        if sample.pts - open.newest().unwrap_or(open.epoch.start) > MAX_JUMP {
            return Err(PushError::TooFarAhead);
        }
        let buffered: usize = open.lanes.iter().map(Lane::bytes).sum();
        if buffered + sample.data.len() > MAX_BUFFERED_BYTES {
            // Refusing this sample alone would stall the packager: it would also refuse the keyframe that completes the
            // segment.
            if let Some(largest) = open.lanes.iter_mut().max_by_key(|lane| lane.bytes()) {
                self.counters.undecodable_samples += largest.abandon();
            }
            open.lanes[index].skip_to_key();
            return Err(PushError::Full);
        }
        let Some((at, key)) = open.lanes[index].push(sample, &mut self.counters)? else {
            return Ok(());
        };
        let cuts = open.decide(index, at, key, &self.timing);
        self.apply(&cuts);
        self.fill(false);
        Ok(())
    }

    /// Ends the epoch and emits everything that is still queued, except the gaps of renditions that have no media in the
    /// last slot: these come when the next epoch begins. Samples shown at or after `at` are dropped, because they
    /// belong to the next epoch; segments that were already emitted stay. Does nothing when no epoch is open.
    pub fn end_epoch(&mut self, at: Option<MediaTime>) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if let Some(at) = at {
            for lane in &mut open.lanes {
                self.counters.surplus_samples += lane.drop_from(at);
            }
        }
        let mut cuts = Vec::new();
        let end = open.lanes.iter().filter_map(Lane::end).max();
        let end = end.map(|end| at.map_or(end, |at| end.min(at)));
        let end = end.max(open.lanes.iter().filter_map(Lane::parted_to).max());
        if let Some(end) = end {
            if open.cutter.is_none() {
                let first = open.lanes.iter().filter_map(Lane::first_at).min();
                cuts.extend(first.and_then(|first| open.start(first, &self.timing)));
            }
            if let Some(cutter) = &mut open.cutter {
                cutter.on_progress(end, &mut cuts);
            }
        }
        self.apply(&cuts);
        self.close_last_slot(end);
        self.fill(true);
        if let Some(open) = self.open.take() {
            for lane in open.lanes {
                self.counters.surplus_samples += lane.left_over();
            }
        }
    }

    /// Emits the gaps that [`Packager::end_epoch`] has kept back. [`Packager::begin`] does that too; this is for callers
    /// that tell of the next epoch before they take the output of `begin`.
    pub fn fill_last_gaps(&mut self) {
        self.counters.gaps += self.last_gaps.len() as u64;
        self.out.extend(self.last_gaps.drain(..).map(Output::Segment));
    }

    /// End of the gaps that [`Packager::end_epoch`] has kept back: another epoch may not begin before this.
    pub fn last_gaps_end(&self) -> Option<MediaTime> {
        self.last_gaps.iter().map(|gap| gap.info().end()).max()
    }

    /// Sets a new mapping to the wall clock for slots that open from now on. PROGRAM-DATE-TIME never goes backwards:
    /// where the new mapping is earlier than the old one, PROGRAM-DATE-TIME advances at half speed until the new
    /// mapping catches up.
    pub fn re_anchor(&mut self, anchor: Anchor) {
        if let Some(open) = &mut self.open {
            open.epoch.anchor = anchor;
        }
    }

    /// The next output; `None` until more samples are pushed.
    pub fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// End of the open epoch's video as far as it has arrived. After an encoder failure the epoch has to end at this
    /// time: audio that is passed through without encoding is ahead of the video, and viewers would get audio without
    /// pictures.
    pub fn video_end(&self) -> Option<MediaTime> {
        let lanes = self.open.iter().flat_map(|open| &open.lanes);
        lanes.filter(|lane| lane.is_video()).filter_map(Lane::newest_end).max()
    }

    /// Counters since the packager was created.
    pub fn counters(&self) -> PackagerCounters {
        self.counters
    }

    /// Media sequence number of the next slot.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Closes the open slot at each cut and opens the next one. The first cut of an epoch only opens a slot.
    fn apply(&mut self, cuts: &[Cut]) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        for cut in cuts {
            if let Some(last) = open.slots.back_mut() {
                last.end = Some(cut.at);
                self.last_wall = Some((last.wall, cut.at - last.start));
            }
            self.counters.forced_cuts += u64::from(cut.forced);
            let mapped = open.epoch.anchor.wall_at(cut.at);
            let wall = match self.last_wall {
                Some((wall, duration)) => {
                    let half = MediaSpan::from_ticks_90k(duration.ticks_90k() / 2);
                    mapped.max(wall + half)
                }
                None => mapped,
            };
            open.slots.push_back(Slot {
                sequence: self.next_sequence,
                start: cut.at,
                end: None,
                wall,
                discontinuity: self.next_sequence > 0 && self.next_sequence == open.first_sequence,
            });
            self.next_sequence += 1;
        }
    }

    /// At the end of an epoch: closes the open slot where the media ends, or gives the slot's number back when it has
    /// no media.
    fn close_last_slot(&mut self, end: Option<MediaTime>) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let Some(last) = open.slots.back_mut().filter(|slot| slot.end.is_none()) else {
            return;
        };
        let (start, sequence) = (last.start, last.sequence);
        // A gap in one rendition costs players more than the few frames of a short tail are worth.
        let short = end.is_some_and(|end| end - start < SHORT_TAIL);
        let playable = open.lanes.iter().filter(|l| l.has_media_from(start)).count();
        // A slot of which parts are listed keeps its number.
        let listed = open.lanes.iter().any(|lane| lane.parted_to().is_some());
        let worth = listed || playable > 0 && (!short || playable == open.lanes.len());
        match end.filter(|&end| end > start && worth) {
            Some(end) => {
                last.end = Some(end);
                self.last_wall = Some((last.wall, end - start));
            }
            None => {
                self.next_sequence = sequence;
                open.slots.pop_back();
            }
        }
    }

    /// Each rendition fills the closed slots for which all its samples have arrived or are no longer waited for.
    fn fill(&mut self, finish: bool) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let Some(first_sequence) = open.slots.front().map(|slot| slot.sequence) else {
            return;
        };
        let newest = open.newest();
        let decided = open.decided(&self.timing);
        for lane in &mut open.lanes {
            while let Some(slot) = open.slots.get((lane.next_sequence() - first_sequence) as usize) {
                let stalled = |end| newest.is_some_and(|newest| newest - end >= self.timing.stall);
                let no_more = finish || slot.end.is_some_and(stalled);
                let carry =
                    self.carried.get_mut(lane.rung()).expect("begin() carries an init for every track");
                let mut writer = Writer { epoch: &open.epoch, slot, timing: &self.timing, carry };
                let last = finish && slot.sequence + 1 == self.next_sequence;
                if let Some(decided) = decided {
                    let progress = LaneProgress { start: slot.start, end: slot.end, decided, no_more, last };
                    while let Some(chunk) = lane.next_part(progress, &self.timing) {
                        let start = lane.segment_start(slot.start);
                        self.out.extend(writer.part(lane, &chunk, start).into_iter().map(Output::Part));
                    }
                }
                let Some(end) = slot.end else { break };
                let Some(taken) = lane.take(slot.start, end, no_more, last, &self.timing, &mut self.counters)
                else {
                    break;
                };
                let rest = match &taken.rest {
                    Some(chunk) => writer.part(lane, chunk, taken.start),
                    // List a gap for the time of video frames that arrived too late for their part.
                    None => writer.list(lane, taken.start, taken.from..taken.end, false, None),
                };
                self.out.extend(rest.into_iter().map(Output::Part));
                let segment = writer.segment(lane, taken.start, taken.end);
                if last && segment.body().is_none() {
                    self.last_gaps.push(segment);
                } else {
                    self.counters.gaps += u64::from(segment.body().is_none());
                    self.out.push_back(Output::Segment(segment));
                }
            }
        }
        let unfilled = open.lanes.iter().map(Lane::next_sequence).min().unwrap_or(self.next_sequence);
        while open.slots.front().is_some_and(|slot| slot.sequence < unfilled) {
            open.slots.pop_front();
        }
    }
}

/// Makes the parts and the segment of one rendition in one slot.
struct Writer<'a> {
    epoch: &'a Epoch,
    slot: &'a Slot,
    timing: &'a Timing,
    carry: &'a mut Carry,
}

impl Writer<'_> {
    /// Writes a fragment and returns the parts to list: none where segments are not divided, otherwise the fragment as
    /// a part. Where the fragment is a single frame longer than PART-TARGET, gap parts cover the rest of its time,
    /// because players stop for good at a part longer than PART-TARGET.
    fn part(&mut self, lane: &Lane, chunk: &Chunk, segment_start: MediaTime) -> Vec<Part> {
        let Carry { fragments, parts, .. } = &mut *self.carry;
        *fragments = fragments.wrapping_add(1);
        let begins = parts.bodies.is_empty();
        let body =
            fmp4::fragment(begins, lane.fragment_kind(), *fragments, chunk.base_decode_time, &chunk.samples);
        parts.bodies.push(body.clone());
        // Players begin at the first sample: a keyframe behind it does not help them.
        let independent = chunk.samples.first().is_some_and(|sample| sample.key);
        self.list(lane, segment_start, chunk.start..chunk.end, independent, Some(body))
    }

    /// The next part to list, followed by gap parts for the time above PART-TARGET. Empty before a segment's first
    /// fragment.
    fn list(
        &mut self,
        lane: &Lane,
        segment_start: MediaTime,
        span: Range<MediaTime>,
        independent: bool,
        mut body: Option<Bytes>,
    ) -> Vec<Part> {
        let Carry { init_name, parts, .. } = &mut *self.carry;
        let Some(timing) = self.timing.parts.filter(|_| !parts.bodies.is_empty()) else {
            return Vec::new();
        };
        let mut start = span.start;
        let mut made = Vec::new();
        while start < span.end {
            let duration = (span.end - start).min(timing.target);
            let index = parts.next_index;
            let body = body.take();
            let info = PartInfo {
                rung: lane.rung().clone(),
                sequence: self.slot.sequence,
                index,
                session: self.epoch.session.clone(),
                discontinuity: self.slot.discontinuity,
                start,
                duration,
                wall: self.slot.wall + (segment_start - self.slot.start),
                independent,
                name: names::part_name(&self.epoch.session, self.slot.sequence, index),
                init: init_name.clone(),
                gap: body.is_none(),
            };
            made.push(Part::new(info, body));
            parts.next_index += 1;
            start += duration;
        }
        made
    }

    fn segment(&mut self, lane: &Lane, start: MediaTime, end: MediaTime) -> Segment {
        let PartCutter { bodies, .. } = std::mem::take(&mut self.carry.parts);
        let body = match bodies.as_slice() {
            [] => None,
            [whole] => Some(whole.clone()),
            parts => Some(Bytes::from(parts.concat())),
        };
        let info = SegmentInfo {
            rung: lane.rung().clone(),
            sequence: self.slot.sequence,
            session: self.epoch.session.clone(),
            discontinuity: self.slot.discontinuity,
            start,
            duration: end - start,
            wall: self.slot.wall + (start - self.slot.start),
            name: names::segment_name(&self.epoch.session, self.slot.sequence),
            init: self.carry.init_name.clone(),
            bytes: None,
        };
        Segment::new(info, body)
    }
}

impl OpenEpoch {
    /// The latest presentation time over all renditions.
    fn newest(&self) -> Option<MediaTime> {
        self.lanes.iter().filter_map(Lane::newest).max()
    }

    /// Whether a rendition's keyframes may cut segments.
    fn is_reference(&self, index: usize) -> bool {
        match self.epoch.cuts {
            // Without video, the main audio: the first track.
            _ if !self.has_video => index == 0,
            CutRule::Grid => self.lanes[index].is_video(),
            CutRule::SourceKeys => self.lanes.iter().position(Lane::is_video) == Some(index),
        }
    }

    /// Opens the first slot of the epoch.
    fn start(&mut self, at: MediaTime, timing: &Timing) -> Option<Cut> {
        let rule = if self.has_video { self.epoch.cuts } else { CutRule::Grid };
        self.cutter = Some(Cutter::new(rule, timing, at));
        Some(Cut { at, forced: false })
    }

    /// The cuts that follow from a new sample of rendition `index`.
    fn decide(&mut self, index: usize, at: MediaTime, key: bool, timing: &Timing) -> Vec<Cut> {
        let mut cuts = Vec::new();
        let reference = self.is_reference(index);
        if self.cutter.is_none() {
            if reference && key {
                cuts.extend(self.start(at, timing));
            } else if let Some(first) = self.lanes[index].first_at()
                && at - first >= timing.stall
            {
                // No video arrived within the stall time: the other renditions begin without it.
                cuts.extend(self.start(first, timing));
            }
        }
        let known = self.decided(timing);
        let Some(cutter) = &mut self.cutter else {
            return cuts;
        };
        if reference && key {
            cutter.on_key(at, &mut cuts);
        }
        if let Some(known) = known {
            cutter.on_progress(known, &mut cuts);
        }
        cuts
    }

    /// Cuts before this time are final: no earlier keyframe can arrive, or it is no longer waited for.
    fn decided(&self, timing: &Timing) -> Option<MediaTime> {
        let newest_reference = (0..self.lanes.len())
            .filter(|&i| self.is_reference(i))
            .filter_map(|i| self.lanes[i].newest())
            .max();
        let patience = self.newest().map(|newest| newest - timing.stall);
        newest_reference.max(patience)
    }
}

#[cfg(test)]
mod tests;
