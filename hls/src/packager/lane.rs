//! One rendition of an epoch (a lane): its queued samples in decode order, and the choice of samples for the next
//! segment or the next part. Cut decisions, slots and boxes do not belong here.
//!
//! The lane assigns decode times itself: a segment's decode times are its presentation times in rising order. So tfdt
//! is the segment's start, the durations are those of the pictures, and their sum is the segment's duration, even when
//! frames were lost or are unevenly spaced. Composition offsets may be negative (trun version 1, as CMAF allows). The
//! encoder's own decode times have none of these properties once pictures are unevenly spaced; with them hls.js found a
//! hole as long as the B-frame delay before the first picture and seeked over it.
//!
//! A part can be made as soon as the times of its samples and of the following sample are certain: no picture arrives
//! any more that is shown before the newest decode time.

use super::{PackagerCounters, PushError};
use crate::fmp4::{FragmentKind, FragmentSample, VIDEO_TIMESCALE};
use crate::names::RungName;
use crate::timing::Timing;
use crate::track::{Track, TrackKind};
use bytes::Bytes;
use media::time::TICKS_PER_SECOND;
use media::{MediaSpan, MediaTime, Unit};
use std::collections::VecDeque;

/// Keyframes of two renditions that are at most this far apart count as simultaneous: their times were rounded
/// differently.
const ALIGNMENT: MediaSpan = MediaSpan::from_millis(2);

/// The shortest segment, even for a slot inside a single audio frame.
const ONE_TICK: MediaSpan = MediaSpan::from_ticks_90k(1);

#[derive(Debug)]
struct Queued {
    /// Presentation time; for audio derived from the sample count.
    at: MediaTime,
    /// `at` in the track's timescale.
    shown: i64,
    key: bool,
    data: Bytes,
}

/// The audio clock: counts samples and follows the timestamps only when they deviate.
#[derive(Debug)]
struct AudioClock {
    rate: u32,
    frame: u32,
    /// Start of the next frame if nothing is lost, in samples.
    next: Option<i64>,
}

/// The samples of one fragment.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Start of the time that the fragment covers.
    pub(super) start: MediaTime,
    pub(super) end: MediaTime,
    pub(super) base_decode_time: u64,
    /// Never empty.
    pub(super) samples: Vec<FragmentSample>,
}

/// What a rendition puts into a slot: a segment or a gap.
#[derive(Debug)]
pub(super) struct TakenSamples {
    pub(super) start: MediaTime,
    pub(super) end: MediaTime,
    /// End of the last part; `start` where there are no parts.
    pub(super) from: MediaTime,
    /// The samples that are in no part yet; `None` when the parts contain all samples, and for a gap.
    pub(super) rest: Option<Chunk>,
}

/// State of a slot for which the next part is requested.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneProgress {
    pub(super) start: MediaTime,
    pub(super) end: Option<MediaTime>,
    /// Cuts before this time are final.
    pub(super) decided: MediaTime,
    /// No further samples are waited for.
    pub(super) no_more: bool,
    /// The slot is the last of its epoch: the segment ends where the rendition's own media ends.
    pub(super) last: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    rung: RungName,
    /// `None` for video.
    audio: Option<AudioClock>,
    /// Duration of a frame without a successor, in the track's timescale.
    frame_duration: u32,
    queue: VecDeque<Queued>,
    bytes: usize,
    /// Media sequence number of the next slot to fill.
    next_sequence: u64,
    last_dts: Option<MediaTime>,
    newest: Option<MediaTime>,
    /// The lane drops samples until the next keyframe, because they cannot be decoded.
    awaits_key: bool,
    /// Presentation time of the keyframe after dropped samples, until the next keyframe: pictures between these two in
    /// decode order that are shown before the former refer to dropped pictures (RASL in HEVC), and cannot be decoded.
    leading_before: Option<MediaTime>,
    /// End of the last segment where it differs from the common cut: audio ends up to one frame after the cut.
    boundary: Option<MediaTime>,
    /// The samples of the next segment that are already in parts.
    parted: Option<Parted>,
    /// Largest amount by which a decode time exceeded its presentation time; zero for a correct encoder.
    dts_lead: MediaSpan,
}

/// Samples in parts; they stay queued until their segment is taken.
#[derive(Clone, Copy, Debug)]
struct Parted {
    /// Queue index of the segment's first sample. Samples before it stay in the queue until the segment is taken.
    first: usize,
    count: usize,
    /// End of the last part.
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
            leading_before: None,
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

    /// End of the media that has arrived, queued or not.
    pub(super) fn newest_end(&self) -> Option<MediaTime> {
        self.newest.map(|at| at + self.frame_span())
    }

    /// End of the queued media.
    pub(super) fn end(&self) -> Option<MediaTime> {
        self.queue.iter().map(|s| s.at).max().map(|at| at + self.frame_span())
    }

    /// Whether a segment that starts at `start` would have a keyframe to begin with.
    pub(super) fn has_media_from(&self, start: MediaTime) -> bool {
        self.queue.iter().any(|s| s.key && s.at >= start - self.tolerance())
    }

    /// Number of samples that no slot took.
    pub(super) fn left_over(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Drops all queued samples except those up to the last part; returns the number dropped.
    pub(super) fn abandon(&mut self) -> u64 {
        self.skip_to_key();
        let kept = self.parted_len();
        let dropped = self.queue.len() - kept;
        self.queue.truncate(kept);
        self.bytes = self.queue.iter().map(|s| s.data.len()).sum();
        dropped as u64
    }

    /// End of the last part of the next segment.
    pub(super) fn parted_to(&self) -> Option<MediaTime> {
        self.parted.map(|parted| parted.to)
    }

    /// Number of samples at the front of the queue that are in parts or precede the parts.
    fn parted_len(&self) -> usize {
        self.parted.map_or(0, |parted| parted.first + parted.count)
    }

    /// After a loss: skips video up to the next keyframe, since nothing before it can be decoded.
    pub(super) fn skip_to_key(&mut self) {
        self.awaits_key = self.is_video();
    }

    /// Queues a sample. Returns its presentation time on the track's own clock and whether a segment can start with the
    /// sample; `None` when the sample was dropped while waiting for a keyframe.
    pub(super) fn push(
        &mut self,
        sample: Unit,
        counters: &mut PackagerCounters,
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
        if sample.key {
            self.leading_before = Some(sample.pts).filter(|_| self.awaits_key);
            self.awaits_key = false;
        } else if self.awaits_key || self.leading_before.is_some_and(|key| sample.pts < key) {
            counters.undecodable_samples += 1;
            return Ok(None);
        }
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

    /// Drops the samples shown at or after `at` that are in no part; returns the number dropped.
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

    /// Start of this rendition's next segment, which fills the slot that starts at `slot_start`.
    pub(super) fn segment_start(&self, slot_start: MediaTime) -> MediaTime {
        self.boundary.unwrap_or(slot_start)
    }

    /// The next part of the next slot to fill, once all its samples have arrived.
    pub(super) fn next_part(&mut self, slot: LaneProgress, timing: &Timing) -> Option<Chunk> {
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
        // Where the slot's end and all its samples are known, a part may also end at the slot's end.
        let certain = match (behind, slot.end) {
            (Some(_), Some(end)) => {
                let end = if slot.last { self.own_end(times.last().copied(), end) } else { end };
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
        // The segment's last part is made together with the segment.
        let last = times.len() - usize::from(behind.is_some());
        let mut to = None;
        for (index, &at) in times.iter().enumerate().skip(count + 1).take_while(|(_, at)| **at <= certain) {
            if at - from > parts.target {
                // End the part before the frame that would make it too long. A single frame may still exceed the
                // target.
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

    /// Fills the next slot, once all its samples have arrived or `force` says that no further samples are waited for.
    /// `last` marks the epoch's last slot, whose segment ends where the rendition's own media ends.
    pub(super) fn take(
        &mut self,
        slot_start: MediaTime,
        slot_end: MediaTime,
        force: bool,
        last: bool,
        timing: &Timing,
        counters: &mut PackagerCounters,
    ) -> Option<TakenSamples> {
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
        if last && count > 0 {
            let shown = self.queue.range(..count).map(|s| s.at).max();
            end = self.own_end(shown, slot_end).max(start + ONE_TICK);
        }
        let from = self.parted.map_or(start, |parted| parted.to);
        // The parts were listed before the cut was known, so the segment may have to end after the slot. Samples that
        // are in no part still need a time of their own: the segment is the concatenation of its parts.
        let least = if count > self.parted_len() { from + ONE_TICK } else { from };
        if self.parted.is_some() && least > end {
            end = least;
            self.boundary = Some(end);
        }
        let rest = self.chunk(0, count, from, end, count);
        self.bytes -= self.queue.drain(..count).map(|s| s.data.len()).sum::<usize>();
        self.next_sequence += 1;
        self.parted = None;
        Some(TakenSamples { start, end, from, rest })
    }

    /// Queue indices of the slot's first sample and of the first sample after the slot; equal for a gap. `None` while
    /// more samples may come.
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
    /// audible at the epoch's start: when it began one frame later, hls.js found a hole shorter than a frame and seeked
    /// over it.
    fn find_first(&self, start: MediaTime) -> Option<usize> {
        if self.is_video() || self.boundary.is_some() {
            return self.queue.iter().position(|s| s.key && s.at >= start - self.tolerance());
        }
        self.queue.iter().position(|s| s.at + self.frame_span() > start)
    }

    /// Whether a sample shown at `at` lasts beyond `start`. Video frames have no duration of their own, so for video
    /// only the presentation time counts.
    pub(super) fn reaches(&self, at: MediaTime, start: MediaTime) -> bool {
        if self.is_video() { at >= start } else { at + self.frame_span() > start }
    }

    /// The time that the segment of the first `count` samples covers. A video segment covers its slot. Audio frames do
    /// not end at the video cuts, so an audio segment begins and ends at the first audio frame at or after each cut.
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

    /// The samples of a segment that are in no part yet, up to sample number `to`, with their decode times and
    /// durations. The segment's known samples are queued from index `first` to `behind`.
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
        if self.is_video()
            && let Some(key) = self.queue.get(first)
        {
            delay_leading(&mut times, key.shown);
        }
        // The last sample lasts to the segment's end; for audio, the next frame begins there.
        times.push(end.to_scaled(timescale));
        let count = self.parted.map_or(0, |parted| parted.count);
        let mut times = times.split_off(count);
        if count > 0 {
            // Decode times never precede the emitted parts, even if a time that counted as certain turns out wrong.
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

    /// End of an epoch's last segment: one frame after the last shown sample, but at most the slot's end.
    fn own_end(&self, shown: Option<MediaTime>, slot_end: MediaTime) -> MediaTime {
        shown.map_or(slot_end, |shown| (shown + self.frame_span()).min(slot_end))
    }

    fn tolerance(&self) -> MediaSpan {
        if self.is_video() { ALIGNMENT } else { MediaSpan::ZERO }
    }

    fn frame_span(&self) -> MediaSpan {
        let rate = self.audio.as_ref().map_or(TICKS_PER_SECOND, |clock| i64::from(clock.rate));
        MediaSpan::from_ticks_90k(media::time::rescale(self.frame_duration.into(), rate, TICKS_PER_SECOND))
    }
}

/// Pictures that are decoded after the keyframe that begins a segment and shown before it would take their decode times
/// from the segment before. Their times and the keyframe's own share what lies between the keyframe and the next picture.
/// `times` are presentation times in ascending order, one of which is the keyframe's.
fn delay_leading(times: &mut [i64], key: i64) {
    let leading = times.partition_point(|time| *time < key);
    if leading == 0 {
        return;
    }
    let frame = times.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| *step > 0).min().unwrap_or(1);
    let until = times.get(leading + 1).copied().unwrap_or(key + frame);
    let count = leading as i64 + 1;
    for (index, time) in (0..).zip(&mut times[..=leading]) {
        *time = key + (until - key) * index / count;
    }
}

impl AudioClock {
    /// Start of the frame with this timestamp, in samples: the end of the previous frame, unless the timestamp deviates
    /// by more than half a frame. Timestamps in milliseconds would make holes and overlaps of one tick.
    fn place(&mut self, pts: MediaTime, counters: &mut PackagerCounters) -> i64 {
        let stamped = pts.to_scaled(self.rate);
        let place = match self.next {
            Some(next) if (stamped - next).abs() <= i64::from(self.frame / 2) => next,
            Some(next) => {
                counters.audio_resyncs += 1;
                // Never at or before the start of the previous frame.
                stamped.max(next - i64::from(self.frame) + 1)
            }
            None => stamped,
        };
        self.next = Some(place + i64::from(self.frame));
        place
    }
}

/// A sample's duration in a trun: at least 1, at most 32 bits.
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
