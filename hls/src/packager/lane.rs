//! One rendition of an epoch: its samples in decode order, and which of them make the next segment.

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

/// What a rendition puts into a slot.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) start: MediaTime,
    pub(super) end: MediaTime,
    pub(super) base_decode_time: u64,
    /// Empty for a gap.
    pub(super) samples: Vec<FragmentSample>,
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
    /// Audio: where the last slot really ended, within a frame behind the common cut.
    boundary: Option<MediaTime>,
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

    /// Drops all that waits; says how many samples.
    pub(super) fn abandon(&mut self) -> u64 {
        self.skip_to_key();
        self.bytes = 0;
        let dropped = self.queue.len() as u64;
        self.queue.clear();
        dropped
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

    /// Drops what is shown at or after `at`; says how many.
    pub(super) fn drop_from(&mut self, at: MediaTime) -> u64 {
        let before = self.queue.len();
        self.queue.retain(|s| s.at < at);
        self.bytes = self.queue.iter().map(|s| s.data.len()).sum();
        (before - self.queue.len()) as u64
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
        let taken: Vec<Queued> = self.queue.drain(..behind - first).collect();
        self.bytes -= taken.iter().map(|s| s.data.len()).sum::<usize>();

        let (start, mut end) = self.span(slot_start, slot_end, timing);
        if let Some(shown) = taken.iter().map(|s| s.at).max().filter(|_| last) {
            end = (shown + self.frame_span()).min(slot_end).max(start + ONE_TICK);
        }
        self.next_sequence += 1;
        let (base_decode_time, samples) = self.in_decode_time(taken, end);
        Some(Taken { start, end, base_decode_time, samples })
    }

    /// Indices of the slot's first sample and of the first behind it; equal for a gap. `None` while more may come.
    fn find(&self, start: MediaTime, end: MediaTime, force: bool) -> Option<(usize, usize)> {
        let tolerance = self.tolerance();
        let key_from = |time: MediaTime, s: &Queued| s.key && s.at >= time - tolerance;
        let is_behind = |s: &Queued| s.at >= end || key_from(end, s);
        let behind = |from: usize| self.queue.iter().skip(from).position(is_behind).map(|i| from + i);
        match self.queue.iter().position(|s| key_from(start, s)) {
            Some(first) if is_behind(&self.queue[first]) => Some((first, first)),
            Some(first) => {
                let behind = behind(first).or(force.then_some(self.queue.len()))?;
                Some((first, behind))
            }
            None => {
                let behind = behind(0).or(force.then_some(self.queue.len()))?;
                Some((behind, behind))
            }
        }
    }

    /// The time that the segment stands for. Video has the slot's; audio frames do not end at video's cuts, so audio's
    /// begins and ends with the first frame behind each.
    fn span(
        &mut self,
        slot_start: MediaTime,
        slot_end: MediaTime,
        timing: &Timing,
    ) -> (MediaTime, MediaTime) {
        if self.is_video() {
            return (slot_start, slot_end);
        }
        let start = self.boundary.take().unwrap_or(slot_start);
        let end = self
            .first_at()
            .filter(|&at| {
                at >= slot_end && at - slot_end <= self.frame_span() && at - start <= timing.max_segment
            })
            .unwrap_or(slot_end)
            .max(start + ONE_TICK);
        self.boundary = Some(end);
        (start, end)
    }

    /// Decode times and durations of a segment's samples. The decode times are its presentation times in rising order,
    /// so that tfdt is where the segment starts, the durations are those of the pictures, and their sum is the
    /// segment's, whatever was lost or lasts longer than others. Offsets may be negative (trun version 1, as CMAF
    /// allows). The encoder's own decode times give none of this once pictures are not evenly spaced, and with them
    /// hls.js found a hole of the B-frames' delay before the first picture and seeked over it.
    fn in_decode_time(&self, taken: Vec<Queued>, end: MediaTime) -> (u64, Vec<FragmentSample>) {
        let mut times: Vec<i64> = taken.iter().map(|s| s.shown).collect();
        times.sort_unstable();
        // The last one lasts to the segment's end: for audio that is where the next frame begins.
        let timescale = self.audio.as_ref().map_or(VIDEO_TIMESCALE, |clock| clock.rate);
        let last = times.last().map(|last| duration(end.to_scaled(timescale) - last));
        let durations = times.windows(2).map(|pair| duration(pair[1] - pair[0])).chain(last);
        let samples = taken
            .iter()
            .zip(&times)
            .zip(durations)
            .map(|((s, decode), duration)| FragmentSample {
                duration,
                composition_offset: i32::try_from(s.shown - decode).unwrap_or(0),
                key: s.key,
                data: s.data.clone(),
            })
            .collect();
        (times.first().map_or(0, |first| u64::try_from(*first).unwrap_or(0)), samples)
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
