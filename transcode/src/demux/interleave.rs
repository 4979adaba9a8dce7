//! Merges two tracks into one sequence ordered by dts. Pure.

use media::{Media, MediaTime};
use std::collections::VecDeque;

/// Limit of access units of one track that wait for the other track; beyond it, bounded memory takes precedence over
/// order. It covers several seconds of pictures, and more than an encoder's lookahead.
const MAX_WAITING: usize = 512;

#[derive(Debug)]
pub(super) struct Interleaver {
    video: VecDeque<Media>,
    audio: VecDeque<Media>,
    /// Whether both tracks exist and have not ended: then an access unit leaves only once the other track's next time
    /// is known.
    wait_for_both: bool,
}

impl Interleaver {
    pub(super) fn new(video: bool, audio: bool) -> Self {
        Self { video: VecDeque::new(), audio: VecDeque::new(), wait_for_both: video && audio }
    }

    /// Queues media. Within a track, media must arrive in order.
    pub(super) fn push(&mut self, media: Media) {
        match media {
            Media::VideoConfig(_) | Media::Video(_) => self.video.push_back(media),
            Media::AudioConfig(_) | Media::Audio(_) | Media::TrackConfig(..) | Media::Track(..) => {
                self.audio.push_back(media)
            }
        }
    }

    /// Ends the input: all queued media may leave.
    pub(super) fn finish(&mut self) {
        self.wait_for_both = false;
    }

    pub(super) fn pop(&mut self) -> Option<Media> {
        let (video, audio) = (self.video.front().map(order), self.audio.front().map(order));
        let must_leave =
            !self.wait_for_both || self.video.len() > MAX_WAITING || self.audio.len() > MAX_WAITING;
        match (video, audio) {
            (Some(video), Some(audio)) if video <= audio => self.video.pop_front(),
            (Some(_), Some(_)) => self.audio.pop_front(),
            // A configuration has no time, so it leaves immediately.
            (Some(None), None) => self.video.pop_front(),
            (None, Some(None)) => self.audio.pop_front(),
            (Some(Some(_)), None) if must_leave => self.video.pop_front(),
            (None, Some(Some(_))) if must_leave => self.audio.pop_front(),
            (Some(Some(_)), None) | (None, Some(Some(_))) | (None, None) => None,
        }
    }
}

/// Sort key of media: the dts; configurations sort before all access units.
fn order(media: &Media) -> Option<MediaTime> {
    match media {
        Media::VideoConfig(_) | Media::AudioConfig(_) | Media::TrackConfig(..) => None,
        Media::Video(unit) | Media::Audio(unit) | Media::Track(_, unit) => Some(unit.dts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use media::Unit;

    fn unit(ticks: i64) -> Unit {
        let dts = MediaTime::from_ticks_90k(ticks);
        Unit { pts: dts, dts, key: true, data: Bytes::new() }
    }

    fn drained(ready: &mut Interleaver) -> Vec<i64> {
        std::iter::from_fn(|| ready.pop())
            .map(|media| order(&media).map_or(-1, MediaTime::ticks_90k))
            .collect()
    }

    #[test]
    fn ordered_across_tracks_whatever_the_order_in_the_file() {
        let mut ready = Interleaver::new(true, true);
        for ticks in [0, 30, 60] {
            ready.push(Media::Video(unit(ticks)));
        }
        assert_eq!(drained(&mut ready), [] as [i64; 0], "audio may still be earlier");
        for ticks in [10, 40, 70] {
            ready.push(Media::Audio(unit(ticks)));
        }
        assert_eq!(drained(&mut ready), [0, 10, 30, 40, 60]);
        ready.finish();
        assert_eq!(drained(&mut ready), [70]);
    }

    #[test]
    fn a_track_that_falls_silent_does_not_hold_everything() {
        let mut ready = Interleaver::new(true, true);
        for ticks in 0..600 {
            ready.push(Media::Video(unit(ticks)));
        }
        assert_eq!(drained(&mut ready).len(), 600 - MAX_WAITING);
    }

    #[test]
    fn one_track_alone_waits_for_nothing() {
        let mut ready = Interleaver::new(true, false);
        ready.push(Media::Video(unit(1)));
        assert_eq!(drained(&mut ready), [1]);
    }
}
