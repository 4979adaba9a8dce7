//! The one place where live media is dropped: the queue in front of the worker. What is dropped and when belongs here;
//! how fast the queue is read does not.

use bytes::Bytes;
use media::captions::{self, Triplet};
use media::{AudioConfig, MediaSpan, MediaTime, UNIT_OVERHEAD, Unit, VideoCodec, VideoConfig};
use std::collections::VecDeque;
use transcode::wire::protocol::MAX_UNIT;
use transcode::wire::{Request, WireUnit};

/// Maximum coded bytes in the queue: eight seconds at 16 Mbit/s. The bound in media time normally acts first; this
/// bound also holds when timestamps are wrong.
const MAX_BYTES: usize = 16 << 20;
/// Maximum number of caption triplets kept of dropped pictures, several seconds' worth; the oldest are dropped.
const MAX_LOST_CAPTIONS: usize = 1024;
// Audio units within this bound fit into a request.
const _: () = assert!(MAX_BYTES <= MAX_UNIT);

/// Units queued for one worker, bounded in media time and in bytes.
///
/// When the queue is full, video is dropped: all video older than the newest queued keyframe or, if no older video is
/// queued, all queued video and the video up to the next keyframe. Audio is dropped only at the byte bound. A picture
/// above [`MAX_UNIT`], which no worker can be sent, is dropped with the video up to the next keyframe.
/// Configurations and the end are never dropped. Every dropped unit is counted.
///
/// Captions of dropped pictures are put into the keyframe that follows, in the order of presentation: a viewer then misses
/// pictures, but no words. Where a cut separates B-frames from the later picture that precedes them in decode order, the
/// captions of these few pictures come after that picture's. AV1 pictures take their captions with them.
#[derive(Debug)]
pub(super) struct ShedQueue {
    items: VecDeque<Request>,
    bytes: usize,
    budget: MediaSpan,
    /// Allowed on top of the budget until the queue has been within the budget once.
    backlog: MediaSpan,
    until_key: bool,
    shed_units: u64,
    codec: Option<VideoCodec>,
    /// Captions of dropped pictures for the next keyframe, with their pictures' times.
    lost_captions: Vec<(MediaTime, Triplet)>,
}

impl ShedQueue {
    /// Creates a queue that may hold `budget` of video, in media time.
    pub(super) fn new(budget: MediaSpan) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            budget,
            backlog: MediaSpan::ZERO,
            until_key: false,
            shed_units: 0,
            codec: None,
            lost_captions: Vec::new(),
        }
    }

    /// Allows `span` on top of the budget until the worker has caught up: media from before its start.
    pub(super) fn expect_backlog(&mut self, span: MediaSpan) {
        self.backlog = span;
    }

    /// Appends a decoder configuration for video.
    pub(super) fn video_config(&mut self, config: &VideoConfig) {
        self.codec = Some(config.codec);
        self.items.push_back(Request::VideoConfig { codec: config.codec, record: config.record.clone() });
    }

    /// Appends a decoder configuration for an audio track.
    pub(super) fn audio_config(&mut self, track: u8, config: &AudioConfig) {
        let AudioConfig { codec, sample_rate, channels, record, .. } = config.clone();
        self.items.push_back(Request::AudioConfig { track, codec, sample_rate, channels, record });
    }

    /// Appends the end of the input.
    pub(super) fn finish(&mut self) {
        self.items.push_back(Request::Finish);
    }

    /// Appends a video unit, and sheds video if the queue is over a bound.
    pub(super) fn video(&mut self, unit: &Unit) {
        if unit.data.len() > MAX_UNIT {
            self.shed_units += 1;
            self.until_key = true;
            self.keep_captions(unit);
            return;
        }
        self.push(unit, 0);
        if self.video_span() > self.budget + self.backlog || self.bytes > MAX_BYTES {
            self.shed();
        }
    }

    /// Appends the mark up to which an audio track is silent where nothing else was queued for it.
    pub(super) fn silence(&mut self, track: u8, until: MediaTime) {
        self.audio(track, &Unit { pts: until, dts: until, key: true, data: Bytes::new() });
    }

    /// Appends a unit of an audio track, or drops it at the byte bound.
    pub(super) fn audio(&mut self, track: u8, unit: &Unit) {
        if self.bytes + unit.data.len() + UNIT_OVERHEAD > MAX_BYTES {
            self.shed_units += 1;
            return;
        }
        self.push(unit, track);
    }

    fn push(&mut self, unit: &Unit, track: u8) {
        let mut unit = unit.clone();
        if track == 0 {
            if unit.key {
                self.until_key = false;
                self.return_captions(&mut unit);
            } else if self.until_key {
                self.shed_units += 1;
                self.keep_captions(&unit);
                return;
            }
        }
        self.bytes += unit.data.len() + UNIT_OVERHEAD;
        self.items.push_back(Request::Unit(WireUnit { track, unit }));
    }

    /// A picture is dropped: keeps its captions.
    fn keep_captions(&mut self, unit: &Unit) {
        let Some(codec) = self.codec else { return };
        let said = captions::triplets(codec, &unit.data).into_iter();
        let said = said.filter(|triplet| !captions::is_padding(*triplet));
        self.lost_captions.extend(said.map(|triplet| (unit.pts, triplet)));
        let surplus = self.lost_captions.len().saturating_sub(MAX_LOST_CAPTIONS);
        self.lost_captions.drain(..surplus);
    }

    /// Puts the captions of dropped pictures into the keyframe after them.
    fn return_captions(&mut self, key: &mut Unit) {
        let Some(codec) = self.codec.filter(|_| !self.lost_captions.is_empty()) else { return };
        self.lost_captions.sort_by_key(|(at, _)| *at);
        let lost: Vec<Triplet> = self.lost_captions.drain(..).map(|(_, triplet)| triplet).collect();
        let whole = captions::with_captions_before(codec, &key.data, &lost);
        if let Some(data) = whole.filter(|data| data.len() <= MAX_UNIT) {
            key.data = data;
        }
    }

    /// Takes the next request for the worker.
    pub(super) fn pop(&mut self) -> Option<Request> {
        let request = self.items.pop_front()?;
        if let Request::Unit(WireUnit { unit, .. }) = &request {
            self.bytes -= unit.data.len() + UNIT_OVERHEAD;
            if self.backlog > MediaSpan::ZERO && self.video_span() <= self.budget {
                self.backlog = MediaSpan::ZERO;
            }
        }
        Some(request)
    }

    /// Number of queued requests.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the queue is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Units dropped since the last call.
    pub(super) fn take_shed(&mut self) -> u64 {
        std::mem::take(&mut self.shed_units)
    }

    /// Decode time from the oldest to the newest queued video unit.
    pub(super) fn video_span(&self) -> MediaSpan {
        let mut video = self.items.iter().filter_map(|request| match request {
            Request::Unit(WireUnit { track: 0, unit }) => Some(unit.dts),
            _ => None,
        });
        match (video.next(), video.next_back()) {
            (Some(first), Some(last)) => last - first,
            _ => MediaSpan::ZERO,
        }
    }

    fn shed(&mut self) {
        let newest_key = self
            .items
            .iter()
            .rposition(|request| matches!(request, Request::Unit(WireUnit { track: 0, unit }) if unit.key));
        // If the newest keyframe is the oldest queued video unit, nothing older can be dropped: the keyframe is dropped
        // as well.
        let keep_from = match newest_key {
            Some(at) if self.items.iter().take(at).any(is_video) => at,
            _ => {
                self.until_key = true;
                self.items.len()
            }
        };
        let mut index = 0;
        let mut dropped = Vec::new();
        self.items.retain(|request| {
            let drop = index < keep_from && is_video(request);
            index += 1;
            if let (true, Request::Unit(WireUnit { unit, .. })) = (drop, request) {
                dropped.push(unit.clone());
            }
            !drop
        });
        self.shed_units += dropped.len() as u64;
        for unit in dropped {
            self.bytes -= unit.data.len() + UNIT_OVERHEAD;
            self.keep_captions(&unit);
        }
        // The first picture that is left is a keyframe.
        let at = self.items.iter().position(is_video);
        if let Some(at) = at.filter(|_| !self.lost_captions.is_empty())
            && let Some(Request::Unit(WireUnit { track, unit })) = self.items.get(at).cloned()
        {
            let mut key = unit.clone();
            self.return_captions(&mut key);
            self.bytes += key.data.len() - unit.data.len();
            self.items[at] = Request::Unit(WireUnit { track, unit: key });
        }
    }
}

fn is_video(request: &Request) -> bool {
    matches!(request, Request::Unit(WireUnit { track: 0, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use transcode::wire::AUDIO_TRACK;

    fn unit(ms: i64, key: bool, size: usize) -> Unit {
        let at = MediaTime::from_ticks_90k(ms * 90);
        Unit { pts: at, dts: at, key, data: Bytes::from(vec![0; size]) }
    }

    fn waiting(queue: &mut ShedQueue) -> Vec<(i64, bool)> {
        std::iter::from_fn(|| queue.pop())
            .filter_map(|request| match request {
                Request::Unit(WireUnit { track: 0, unit }) => Some((unit.dts.ticks_90k() / 90, unit.key)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn within_the_budget_nothing_is_lost() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(1000));
        for ms in (0..=1000).step_by(100) {
            queue.video(&unit(ms, ms == 0, 10));
        }
        assert_eq!(waiting(&mut queue).len(), 11);
        assert_eq!(queue.take_shed(), 0);
        assert_eq!(queue.bytes, 0);
    }

    #[test]
    fn over_the_budget_it_skips_to_the_newest_keyframe() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(1000));
        for ms in (0..=1100).step_by(100) {
            queue.video(&unit(ms, ms % 500 == 0, 10));
            queue.audio(AUDIO_TRACK, &unit(ms, true, 1));
        }
        assert_eq!(queue.take_shed(), 10);
        let audio = queue.items.iter().filter(|request| !is_video(request)).count();
        assert_eq!(audio, 12, "audio stays");
        assert_eq!(waiting(&mut queue), [(1000, true), (1100, false)]);
    }

    #[test]
    fn without_a_keyframe_it_waits_for_the_next_one() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(500));
        for ms in (0..=900).step_by(100) {
            queue.video(&unit(ms, ms == 0, 10));
        }
        assert!(queue.is_empty());
        queue.video(&unit(1000, true, 10));
        queue.video(&unit(1100, false, 10));
        assert_eq!(waiting(&mut queue), [(1000, true), (1100, false)]);
        assert_eq!(queue.take_shed(), 10);
    }

    /// Decode order is not presentation order here: each second picture is presented before the one that it follows.
    #[test]
    fn captions_of_dropped_pictures_come_in_order_with_the_next_keyframe() {
        let pair = |number: u8| [0xfc, 0x94, 0x80 | number];
        let said = |number: u8, key: bool| {
            let mut unit = unit(i64::from(number) * 100, key, 0);
            let shift = MediaSpan::from_millis(if number.is_multiple_of(2) { 100 } else { -100 });
            unit.pts += if key { MediaSpan::ZERO } else { shift };
            let own = captions::with_captions_before(VideoCodec::H264, &[0, 0, 0, 1, 0x65], &[pair(number)]);
            Unit { data: own.unwrap(), ..unit }
        };
        for (next_key, end) in [(5, 8), (10, 11)] {
            let mut queue = ShedQueue::new(MediaSpan::from_millis(600));
            queue.video_config(&crate::stream::tests::video_config(1280, 720));
            for number in 0..end {
                queue.video(&said(number, number == 0 || number == next_key));
            }
            assert_eq!(queue.take_shed(), u64::from(next_key));
            assert!(matches!(queue.pop(), Some(Request::VideoConfig { .. })));
            let Some(Request::Unit(WireUnit { unit, .. })) = queue.pop() else { panic!("a keyframe") };
            let mut expected: Vec<_> = (0..next_key).map(|number| said(number, number == 0)).collect();
            expected.sort_by_key(|unit| unit.pts);
            expected.push(said(next_key, true));
            let triplets = |unit: &Unit| captions::triplets(VideoCodec::H264, &unit.data);
            assert_eq!(triplets(&unit), expected.iter().flat_map(triplets).collect::<Vec<_>>());
            std::iter::from_fn(|| queue.pop()).for_each(drop);
            assert_eq!(queue.bytes, 0);
        }
    }

    #[test]
    fn a_backlog_from_before_the_start_is_not_shed_but_only_once() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(500));
        queue.expect_backlog(MediaSpan::from_millis(2000));
        for ms in (0..=2000).step_by(100) {
            queue.video(&unit(ms, ms == 0, 10));
        }
        assert_eq!(waiting(&mut queue).len(), 21);
        for ms in (2100..=2700).step_by(100) {
            queue.video(&unit(ms, false, 10));
        }
        assert!(queue.take_shed() > 0);
    }

    #[test]
    fn bytes_are_bounded_when_timestamps_stand_still() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(1000));
        for _ in 0..40 {
            queue.video(&unit(0, true, 1 << 20));
            queue.audio(AUDIO_TRACK, &unit(0, true, 1 << 20));
            assert!(queue.bytes <= MAX_BYTES + (1 << 20));
        }
        assert!(queue.take_shed() > 40);
    }

    #[test]
    fn a_picture_that_no_worker_can_be_sent_is_dropped_up_to_the_next_keyframe() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(1000));
        queue.video(&unit(0, true, 10));
        queue.video(&unit(100, true, MAX_UNIT + 1));
        queue.video(&unit(200, false, 10));
        queue.video(&unit(300, true, 10));
        assert_eq!(queue.take_shed(), 2);
        assert_eq!(waiting(&mut queue), [(0, true), (300, true)]);
    }

    #[test]
    fn configurations_and_the_end_survive_shedding() {
        let mut queue = ShedQueue::new(MediaSpan::from_millis(100));
        queue.video_config(&crate::stream::tests::video_config(1280, 720));
        for ms in (0..1000).step_by(50) {
            queue.video(&unit(ms, ms == 0, 10));
        }
        queue.finish();
        assert!(matches!(queue.pop(), Some(Request::VideoConfig { .. })));
        assert!(matches!(queue.pop(), Some(Request::Finish)));
    }
}
