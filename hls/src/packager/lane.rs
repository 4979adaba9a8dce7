//! One rendition of an epoch: its samples in decode order, and which of them make the next segment, or the next part
//! of it.
//!
//! Decode times are given here. They are a segment's presentation times in rising order, so that tfdt is where the
//! segment starts, the durations are those of the pictures, and their sum is the segment's, whatever was lost or lasts
//! longer than others. Offsets may be negative (trun version 1, as CMAF allows). The encoder's own decode times give
//! none of this once pictures are not evenly spaced, and with them hls.js found a hole of the B-frames' delay before
//! the first picture and seeked over it. A part can be made as soon as the times of its samples and of the one behind
//! are certain: no picture comes any more that is shown before the newest decode time.

use super::{Counters, PushError};
use crate::fmp4::{FragmentKind, FragmentSample, VIDEO_TIMESCALE};
use crate::names::RungName;
use crate::time::{MediaSpan, MediaTime, TICKS_PER_SECOND};
use crate::timing::Timing;
use crate::track::{Sample, Track, TrackKind};
use bytes::Bytes;
use std::collections::VecDeque;

/// Keyframes of two renditions this far apart are at the same time: their times were rounded differently.
const ALIGNMENT: MediaSpan = MediaSpan::from_millis(2);

/// No segment is shorter, not even one that lies within a single frame of audio.
const ONE_TICK: MediaSpan = MediaSpan::from_ticks_90k(1);

#[derive(Debug)]
struct Queued {
    /// When it is shown; of audio as counted in samples.
    at: MediaTime,
    /// The same in the track's timescale.
    shown: i64,
    key: bool,
    data: Bytes,
}

/// Audio's clock: sample counts, kept near the timestamps.
#[derive(Debug)]
struct AudioClock {
    rate: u32,
    frame: u32,
    /// Where the next frame begins if nothing is lost.
    next: Option<i64>,
}

/// Samples that make one fragment.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The time that it stands for begins here.
    pub(super) start: MediaTime,
    pub(super) end: MediaTime,
    pub(super) base_decode_time: u64,
    /// Not empty.
    pub(super) samples: Vec<FragmentSample>,
}

/// What a rendition puts into a slot.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) start: MediaTime,
    pub(super) end: MediaTime,
    /// Up to here parts had it; `start` where there were none.
    pub(super) from: MediaTime,
    /// What no part had yet: `None` when parts had all, and for a gap.
    pub(super) rest: Option<Chunk>,
}

/// What is known of a slot when parts are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) start: MediaTime,
    pub(super) end: Option<MediaTime>,
    /// Up to here it is certain where is cut.
    pub(super) decided: MediaTime,
    /// Nothing more is waited for.
    pub(super) no_more: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    rung: RungName,
    /// `None` for video.
    audio: Option<AudioClock>,
    /// What a frame lasts when nothing follows it, in the track's timescale.
    frame_duration: u32,
    queue: VecDeque<Queued>,
    bytes: usize,
    /// Slot to be filled next.
    next_sequence: u64,
    last_dts: Option<MediaTime>,
    newest: Option<MediaTime>,
    /// Nothing can be decoded before the next keyframe.
    awaits_key: bool,
    /// Where the last slot really ended, when not at the common cut: audio's within a frame behind it.
    boundary: Option<MediaTime>,
    /// What of the next segment is in parts.
    parted: Option<Parted>,
    /// How far decode times were ahead of presentation times at most; they ought not to be.
    dts_lead: MediaSpan,
}

/// Samples in parts: they stay queued until their segment is taken.
#[derive(Clone, Copy, Debug)]
struct Parted {
    /// Index of the segment's first sample. Nothing before it leaves the queue meanwhile.
    first: usize,
    count: usize,
    /// Where the parts end.
    to: MediaTime,
}

impl Lane {
    pub(super) fn new(track: Track, next_sequence: u64) -> Self {
        let (audio, frame_duration) = match &track.kind {
            TrackKind::Video(video) => {
                let rate = if (1.0..=1000.0).contains(&video.frame_rate) { video.frame_rate } else { 30.0 };
                (None, (f64::from(VIDEO_TIMESCALE) / rate).round() as u32)
            }
            TrackKind::Audio(audio) => {
                let clock = AudioClock { rate: audio.sample_rate, frame: audio.frame_samples, next: None };
                (Some(clock), audio.frame_samples)
            }
        };
        Self {
            rung: track.rung,
            awaits_key: audio.is_none(),
            audio,
            frame_duration,
            queue: VecDeque::new(),
            bytes: 0,
            next_sequence,
            last_dts: None,
            newest: None,
            boundary: None,
            parted: None,
            dts_lead: MediaSpan::ZERO,
        }
    }

    pub(super) fn rung(&self) -> &RungName {
        &self.rung
    }

    pub(super) fn is_video(&self) -> bool {
        self.audio.is_none()
    }

    pub(super) fn fragment_kind(&self) -> FragmentKind {
        if self.is_video() { FragmentKind::Video } else { FragmentKind::Audio }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    pub(super) fn newest(&self) -> Option<MediaTime> {
        self.newest
    }

    pub(super) fn first_at(&self) -> Option<MediaTime> {
        self.queue.front().map(|s| s.at)
    }

    /// Where the media that arrived ends, queued or not.
    pub(super) fn newest_end(&self) -> Option<MediaTime> {
        self.newest.map(|at| at + self.frame_span())
    }

    /// Where the queued media ends.
    pub(super) fn end(&self) -> Option<MediaTime> {
        self.queue.iter().map(|s| s.at).max().map(|at| at + self.frame_span())
    }

    /// Whether a segment that starts at `start` would have something in it.
    pub(super) fn has_media_from(&self, start: MediaTime) -> bool {
        self.queue.iter().any(|s| s.key && s.at >= start - self.tolerance())
    }

    /// How many samples no slot took.
    pub(super) fn left_over(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Drops all that waits, but for what is in parts; says how many samples.
    pub(super) fn abandon(&mut self) -> u64 {
        self.skip_to_key();
        let kept = self.parted_len();
        let dropped = self.queue.len() - kept;
        self.queue.truncate(kept);
        self.bytes = self.queue.iter().map(|s| s.data.len()).sum();
        dropped as u64
    }

    /// Up to where the segment to be taken next is in parts.
    pub(super) fn parted_to(&self) -> Option<MediaTime> {
        self.parted.map(|parted| parted.to)
    }

    /// How many samples at the queue's front are in parts, or before what is.
    fn parted_len(&self) -> usize {
        self.parted.map_or(0, |parted| parted.first + parted.count)
    }

    /// After a loss: what comes before the next keyframe is useless.
    pub(super) fn skip_to_key(&mut self) {
        self.awaits_key = self.is_video();
    }

    /// Queues a sample; its time on the track's own clock and whether a segment can start with it. `None` when it was
    /// dropped for want of a keyframe.
    pub(super) fn push(
        &mut self,
        sample: Sample,
        counters: &mut Counters,
    ) -> Result<Option<(MediaTime, bool)>, PushError> {
        if self.last_dts.is_some_and(|last| sample.dts <= last) {
            return Err(PushError::NotGrowing);
        }
        self.dts_lead = self.dts_lead.max(sample.dts - sample.pts);
        if let Some(last) = self.last_dts.replace(sample.dts)
            && self.is_video()
        {
            self.frame_duration = duration((sample.dts - last).ticks_90k());
        }
        if self.awaits_key && !sample.key {
            counters.undecodable_samples += 1;
            return Ok(None);
        }
        self.awaits_key = false;
        let queued = match &mut self.audio {
            Some(clock) => {
                let shown = clock.place(sample.pts, counters);
                let at = MediaTime::from_scaled(shown, clock.rate);
                Queued { at, shown, key: true, data: sample.data }
            }
            None => {
                Queued { at: sample.pts, shown: sample.pts.ticks_90k(), key: sample.key, data: sample.data }
            }
        };
        let (at, key) = (queued.at, queued.key);
        self.newest = self.newest.max(Some(at));
        self.bytes += queued.data.len();
        self.queue.push_back(queued);
        Ok(Some((at, key)))
    }

    /// Drops what is shown at or after `at` and is in no part; says how many.
    pub(super) fn drop_from(&mut self, at: MediaTime) -> u64 {
        let before = self.queue.len();
        let mut kept = self.parted_len();
        self.queue.retain(|s| {
            let parted = kept > 0;
            kept = kept.saturating_sub(1);
            parted || s.at < at
        });
        self.bytes = self.queue.iter().map(|s| s.data.len()).sum();
        (before - self.queue.len()) as u64
    }

    /// Where the segment begins that fills the slot that starts there, as long as it is not taken.
    pub(super) fn segment_start(&self, slot_start: MediaTime) -> MediaTime {
        self.boundary.unwrap_or(slot_start)
    }

    /// The next part of the slot to be filled next, when all of it has arrived.
    pub(super) fn next_part(&mut self, slot: Progress, timing: &Timing) -> Option<Chunk> {
        let parts = timing.parts?;
        let (first, behind) = match slot.end {
            Some(end) => self.find(slot.start, end, slot.no_more),
            None => None,
        }
        .map_or_else(|| (self.find_first(slot.start), None), |(first, behind)| (Some(first), Some(behind)));
        let first = first?;
        let samples = self.queue.range(first..behind.unwrap_or(self.queue.len()));
        let mut times: Vec<MediaTime> = samples.map(|s| s.at).collect();
        times.sort_unstable();
        let start = self.segment_start(slot.start);
        let (count, from) = self.parted.map_or((0, start), |parted| (parted.count, parted.to));
        // Where the slot's end and all its samples are known, that end is one of the times at which can be cut.
        let certain = match (behind, slot.end) {
            (Some(_), Some(end)) => {
                times.push(end);
                end
            }
            _ if self.is_video() => (self.last_dts? - self.dts_lead).min(slot.decided),
            _ => slot.decided,
        };
        let grid = parts.grid.ticks_90k();
        let multiples = (from - start + ALIGNMENT).ticks_90k().div_euclid(grid) + 1;
        let due =
            (start + MediaSpan::from_ticks_90k(multiples * grid) - ALIGNMENT).max(from + parts.shortest());
        // The segment's last part comes with the segment.
        let last = times.len() - usize::from(behind.is_some());
        let mut to = None;
        for (index, &at) in times.iter().enumerate().skip(count + 1).take_while(|(_, at)| **at <= certain) {
            if at - from > parts.target {
                // Ends before the frame that would make it too long. A single frame may be longer all the same.
                to = Some((index - 1).max(count + 1));
                break;
            }
            if at >= due && index < last {
                to = Some(index);
                break;
            }
        }
        let to = to.filter(|&to| to < last)?;
        let end = times[to];
        let chunk = self.chunk(first, to, from, end, behind.unwrap_or(self.queue.len()))?;
        self.parted = Some(Parted { first, count: to, to: end });
        Some(chunk)
    }

    /// Fills the next slot, when all of it has arrived or `force` says that nothing more is waited for. `last` is an
    /// epoch's last slot, which ends where the rendition's own media does.
    pub(super) fn take(
        &mut self,
        slot_start: MediaTime,
        slot_end: MediaTime,
        force: bool,
        last: bool,
        timing: &Timing,
        counters: &mut Counters,
    ) -> Option<Taken> {
        let (first, behind) = self.find(slot_start, slot_end, force)?;
        let mut misaligned = false;
        for dropped in self.queue.drain(..first) {
            self.bytes -= dropped.data.len();
            if dropped.at < slot_start - ALIGNMENT || self.audio.is_some() {
                counters.late_samples += 1;
            } else {
                counters.undecodable_samples += 1;
                misaligned = true;
            }
        }
        counters.misaligned += u64::from(misaligned);
        let count = behind - first;
        let (start, mut end) = self.span(slot_start, slot_end, count, timing);
        if let Some(shown) = self.queue.range(..count).map(|s| s.at).max().filter(|_| last) {
            end = (shown + self.frame_span()).min(slot_end).max(start + ONE_TICK);
        }
        let from = self.parted.map_or(start, |parted| parted.to);
        // Its parts were listed before the others said where to cut. What is in none of them is a part all the same, or
        // the segment would not be what its parts are.
        let least = if count > self.parted_len() { from + ONE_TICK } else { from };
        if self.parted.is_some() && least > end {
            end = least;
            self.boundary = Some(end);
        }
        let rest = self.chunk(0, count, from, end, count);
        self.bytes -= self.queue.drain(..count).map(|s| s.data.len()).sum::<usize>();
        self.next_sequence += 1;
        self.parted = None;
        Some(Taken { start, end, from, rest })
    }

    /// Indices of the slot's first sample and of the first behind it; equal for a gap. `None` while more may come.
    fn find(&self, start: MediaTime, end: MediaTime, force: bool) -> Option<(usize, usize)> {
        let tolerance = self.tolerance();
        let key_from = |time: MediaTime, s: &Queued| s.key && s.at >= time - tolerance;
        let is_behind = |s: &Queued| s.at >= end || key_from(end, s);
        let behind = |from: usize| self.queue.iter().skip(from).position(is_behind).map(|i| from + i);
        match self.find_first(start) {
            Some(first) if self.parted.is_none() && is_behind(&self.queue[first]) => Some((first, first)),
            Some(first) => {
                let behind = behind(self.parted_len().max(first)).or(force.then_some(self.queue.len()))?;
                Some((first, behind))
            }
            None => {
                let behind = behind(0).or(force.then_some(self.queue.len()))?;
                Some((behind, behind))
            }
        }
    }

    /// The sample with which a segment that starts at `start` can begin. An epoch's audio begins with the frame that is
    /// heard at its start: with the one behind it hls.js found a hole of less than a frame, and seeked over it.
    fn find_first(&self, start: MediaTime) -> Option<usize> {
        if self.is_video() || self.boundary.is_some() {
            return self.queue.iter().position(|s| s.key && s.at >= start - self.tolerance());
        }
        self.queue.iter().position(|s| s.at + self.frame_span() > start)
    }

    /// Whether a sample shown at `at` lasts beyond `start`, or may: pictures have no duration of their own.
    pub(super) fn reaches(&self, at: MediaTime, start: MediaTime) -> bool {
        if self.is_video() { at >= start } else { at + self.frame_span() > start }
    }

    /// The time that the segment of the first `count` samples stands for. Video has the slot's; audio frames do not end
    /// at video's cuts, so audio's begins and ends with the first frame behind each.
    fn span(
        &mut self,
        slot_start: MediaTime,
        slot_end: MediaTime,
        count: usize,
        timing: &Timing,
    ) -> (MediaTime, MediaTime) {
        let start = self.boundary.take().unwrap_or(slot_start);
        if self.is_video() {
            return (start, slot_end.max(start + ONE_TICK));
        }
        let end = self
            .queue
            .get(count)
            .map(|s| s.at)
            .filter(|&at| {
                at >= slot_end && at - slot_end <= self.frame_span() && at - start <= timing.max_segment
            })
            .unwrap_or(slot_end)
            .max(start + ONE_TICK);
        self.boundary = Some(end);
        (start, end)
    }

    /// Those samples of a segment that are in no part yet, up to its `to`th, with their decode times and durations. The
    /// segment's samples are queued from `first` to `behind`, as far as they are known.
    fn chunk(
        &self,
        first: usize,
        to: usize,
        start: MediaTime,
        end: MediaTime,
        behind: usize,
    ) -> Option<Chunk> {
        let mut times: Vec<i64> = self.queue.range(first..behind).map(|s| s.shown).collect();
        times.sort_unstable();
        let timescale = self.audio.as_ref().map_or(VIDEO_TIMESCALE, |clock| clock.rate);
        // The last one lasts to the segment's end: for audio that is where the next frame begins.
        times.push(end.to_scaled(timescale));
        let count = self.parted.map_or(0, |parted| parted.count);
        let mut times = times.split_off(count);
        if count > 0 {
            // Not before the parts that are out, even if what was certain turned out not to be.
            let from = start.to_scaled(timescale);
            times.iter_mut().for_each(|time| *time = from.max(*time));
        }
        let samples: Vec<_> = self
            .queue
            .range(first + count..first + to)
            .zip(times.windows(2))
            .map(|(s, decode)| FragmentSample {
                duration: duration(decode[1] - decode[0]),
                composition_offset: i32::try_from(s.shown - decode[0]).unwrap_or(0),
                key: s.key,
                data: s.data.clone(),
            })
            .collect();
        let base_decode_time = u64::try_from(*times.first()?).unwrap_or(0);
        (!samples.is_empty()).then_some(Chunk { start, end, base_decode_time, samples })
    }

    fn tolerance(&self) -> MediaSpan {
        if self.is_video() { ALIGNMENT } else { MediaSpan::ZERO }
    }

    fn frame_span(&self) -> MediaSpan {
        let rate = self.audio.as_ref().map_or(TICKS_PER_SECOND, |clock| i64::from(clock.rate));
        MediaSpan::from_ticks_90k(crate::time::rescale(self.frame_duration.into(), rate, TICKS_PER_SECOND))
    }
}

impl AudioClock {
    /// Where a frame with this timestamp begins, in samples: behind the one before it, unless the timestamp says
    /// otherwise by more than half a frame. Timestamps in milliseconds would make holes and overlaps of one tick.
    fn place(&mut self, pts: MediaTime, counters: &mut Counters) -> i64 {
        let stamped = pts.to_scaled(self.rate);
        let place = match self.next {
            Some(next) if (stamped - next).abs() <= i64::from(self.frame / 2) => next,
            Some(next) => {
                counters.audio_resyncs += 1;
                // Never at or before the frame before this one.
                stamped.max(next - i64::from(self.frame) + 1)
            }
            None => stamped,
        };
        self.next = Some(place + i64::from(self.frame));
        place
    }
}

/// A sample's duration as trun holds it: never zero, never beyond 32 bits.
fn duration(ticks: i64) -> u32 {
    u32::try_from(ticks.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_duration_is_never_zero_and_never_overflows() {
        for (ticks, expected) in [(-5, 1), (0, 1), (3_000, 3_000), (1 << 32, u32::MAX), (i64::MAX, u32::MAX)]
        {
            assert_eq!(duration(ticks), expected);
        }
    }
}
