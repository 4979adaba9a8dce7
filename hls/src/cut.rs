//! Where segments are cut, decided on times alone. Samples, renditions and boxes do not belong here.
//!
//! One [`Cutter`] decides for all renditions of an epoch, so that renditions cannot disagree. The cutter never lets a
//! segment exceed `max_segment`, regardless of which keyframes arrive: so a rounded EXTINF cannot exceed
//! TARGETDURATION.
//!
//! Where segments are divided into parts, the cutter never cuts in hindsight: a listed part belongs to its segment
//! permanently, so a cut never lies before the time that was known when the last part was made.

use crate::packager::CutRule;
use crate::timing::Timing;
use media::{MediaSpan, MediaTime};

/// Margin for joining a short first segment to the next, in 1/90000 s (a tenth of a second). Slower frames are not
/// allowed for.
const SLOW_FRAME_90K: i64 = 9_000;

/// One boundary between segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) at: MediaTime,
    /// No keyframe came in time; decoding cannot start at this cut.
    pub(crate) forced: bool,
}

#[derive(Debug)]
pub(crate) struct Cutter {
    rule: CutRule,
    target: MediaSpan,
    max: MediaSpan,
    /// Cut immediately or not at all: no cut in hindsight, because parts are listed.
    at_once: bool,
    /// Start of the open segment.
    start: MediaTime,
    /// The latest keyframe since `start` at which a cut was possible but not made.
    candidate: Option<MediaTime>,
    last_key: MediaTime,
    /// The last distance between two keyframes: the expected distance to the next.
    gop: MediaSpan,
}

impl Cutter {
    /// Segments begin at `start`, which is a keyframe unless no video arrived.
    pub(crate) fn new(rule: CutRule, timing: &Timing, start: MediaTime) -> Self {
        Self {
            rule,
            target: timing.segment,
            max: timing.max_segment,
            at_once: timing.parts.is_some(),
            start,
            candidate: None,
            last_key: start,
            gop: MediaSpan::ZERO,
        }
    }

    /// Handles a keyframe (without video, any frame) shown at `at`. Appends the resulting cuts.
    pub(crate) fn on_key(&mut self, at: MediaTime, cuts: &mut Vec<Cut>) {
        self.on_progress(at, cuts);
        if at <= self.start || self.candidate.is_some_and(|c| at <= c) {
            return;
        }
        if at > self.last_key {
            self.gop = at - self.last_key;
            self.last_key = at;
        }
        if self.is_due(at) {
            self.cut(Cut { at, forced: false }, cuts);
        } else if self.may_start(at) && !self.at_once {
            self.candidate = Some(at);
        }
    }

    /// Handles progress: everything before `to` has arrived, and no keyframe before `to` can arrive any more.
    pub(crate) fn on_progress(&mut self, to: MediaTime, cuts: &mut Vec<Cut>) {
        while to - self.start > self.max {
            let cut = match self.candidate {
                Some(at) => Cut { at, forced: false },
                None if self.at_once => Cut { at: self.start + self.max, forced: true },
                None => Cut { at: self.start + self.target, forced: true },
            };
            self.cut(cut, cuts);
        }
    }

    fn cut(&mut self, cut: Cut, cuts: &mut Vec<Cut>) {
        debug_assert!(cut.at > self.start && cut.at - self.start <= self.max, "segments have a length");
        self.start = cut.at;
        self.candidate = None;
        cuts.push(cut);
    }

    /// Whether all renditions can be expected to have a keyframe at `at`.
    fn may_start(&self, at: MediaTime) -> bool {
        match self.rule {
            CutRule::Grid => at >= self.next_multiple(),
            CutRule::SourceKeys => true,
        }
    }

    fn is_due(&self, at: MediaTime) -> bool {
        let length = at - self.start;
        match self.rule {
            // A stream that begins just before a multiple would get a first segment of a few frames; join it to the
            // next segment where both fit into one.
            CutRule::Grid => {
                let joined = length + self.target + MediaSpan::from_ticks_90k(SLOW_FRAME_90K);
                self.may_start(at) && (joined > self.max || self.at_once)
            }
            // Cut where the target is reached, or where one more GOP as long as the last would exceed the maximum. With
            // parts there is no later chance to cut here, so allow for a GOP that is half as long again.
            CutRule::SourceKeys => {
                let expected = if self.at_once { self.gop.ticks_90k() * 3 / 2 } else { self.gop.ticks_90k() };
                length >= self.target || length + MediaSpan::from_ticks_90k(expected) > self.max
            }
        }
    }

    /// The first multiple of the target after the segment's start.
    fn next_multiple(&self) -> MediaTime {
        let target = self.target.ticks_90k();
        let multiples = self.start.ticks_90k().div_euclid(target) + 1;
        MediaTime::from_ticks_90k(multiples.saturating_mul(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::Latency;
    use proptest::prelude::*;

    fn timing(seconds: f64) -> Timing {
        Timing::new(Latency::from_secs_f64(seconds).unwrap())
    }

    fn at(ms: i64) -> MediaTime {
        MediaTime::ZERO + MediaSpan::from_millis(ms)
    }

    fn run(rule: CutRule, latency: f64, keys: &[i64], end: i64) -> Vec<(i64, bool)> {
        run_with(&timing(latency).without_parts(), rule, keys, end)
    }

    fn run_with(timing: &Timing, rule: CutRule, keys: &[i64], end: i64) -> Vec<(i64, bool)> {
        let mut cutter = Cutter::new(rule, timing, at(keys[0]));
        let mut cuts = Vec::new();
        for &key in keys {
            cutter.on_key(at(key), &mut cuts);
        }
        cutter.on_progress(at(end), &mut cuts);
        cuts.iter().map(|c| (c.at.ticks_90k() / 90, c.forced)).collect()
    }

    #[test]
    fn grid_cuts_at_the_first_key_at_or_after_each_multiple() {
        assert_eq!(
            run(CutRule::Grid, 4.0, &[10_000, 11_000, 12_033, 13_000], 13_100),
            [(11_000, false), (12_033, false), (13_000, false)]
        );
    }

    #[test]
    fn a_first_segment_of_a_few_frames_is_joined_to_the_next() {
        assert_eq!(run(CutRule::Grid, 4.0, &[10_900, 11_000, 12_000], 12_100), [(12_000, false)]);
        // If the next keyframe does not arrive, the cut falls where it would have been without joining.
        assert_eq!(
            run(CutRule::Grid, 4.0, &[10_900, 11_000, 12_500], 12_500),
            [(11_000, false), (12_000, true), (12_500, false)].as_slice()[..2].to_vec()
        );
    }

    #[test]
    fn grid_ignores_keys_between_multiples() {
        assert_eq!(
            run(CutRule::Grid, 10.5, &[10_000, 10_700, 12_000, 13_000, 14_000], 14_100),
            [(12_000, false), (14_000, false)]
        );
    }

    #[test]
    fn a_missing_key_is_not_waited_for() {
        assert_eq!(run(CutRule::Grid, 4.0, &[10_000, 12_000], 12_100), [(11_000, true), (12_000, false)]);
        assert_eq!(run(CutRule::SourceKeys, 4.0, &[10_000], 13_000), [(11_000, true), (12_000, true)]);
    }

    #[test]
    fn source_keys_gather_short_gops_up_to_the_target() {
        assert_eq!(
            run(CutRule::SourceKeys, 4.0, &[0, 500, 1_000, 1_500, 2_000], 2_100),
            [(1_000, false), (2_000, false)]
        );
        // GOPs of 0.8 s: two make 1.6 s, above the maximum of 1.45 s.
        assert_eq!(run(CutRule::SourceKeys, 4.0, &[0, 800, 1_600], 1_700), [(800, false), (1_600, false)]);
    }

    #[test]
    fn source_keys_fall_back_on_the_key_before_when_a_gop_grows() {
        assert_eq!(run(CutRule::SourceKeys, 4.0, &[0, 400, 1_500], 1_600), [(400, false), (1_500, false)]);
    }

    #[test]
    fn with_parts_nothing_is_cut_in_hindsight() {
        let timing = timing(3.0);
        assert_eq!(
            run_with(&timing, CutRule::Grid, &[10_900, 11_000, 12_500], 13_000),
            [(11_000, false), (12_450, true)],
            "the first segment is short instead, and the longest is waited for"
        );
        assert_eq!(
            run_with(&timing, CutRule::SourceKeys, &[0, 400, 1_500], 1_600),
            [(1_450, true), (1_500, false)]
        );
        assert_eq!(
            run_with(&timing, CutRule::SourceKeys, &[0, 600, 1_300], 1_400),
            [(600, false), (1_300, false)]
        );
    }

    proptest! {
        #[test]
        fn no_segment_is_empty_or_too_long(
            source in any::<bool>(),
            latency in 2.0..15.0f64,
            start in 0i64..5_000,
            steps in prop::collection::vec((1i64..4_000, any::<bool>()), 1..200),
        ) {
            let timing = timing(latency);
            let rule = if source { CutRule::SourceKeys } else { CutRule::Grid };
            let mut cutter = Cutter::new(rule, &timing, at(start));
            let mut cuts = Vec::new();
            let mut now = start;
            for (step, key) in steps {
                now += step;
                let (known, decided) = (cutter.start, cuts.len());
                if key { cutter.on_key(at(now), &mut cuts) } else { cutter.on_progress(at(now), &mut cuts) }
                if timing.parts.is_some() {
                    // The time known before this step lies in the segment that was open then.
                    let before = at(now - step);
                    prop_assert!(cuts[decided..].iter().all(|cut| cut.at >= before.max(known)));
                }
            }
            let mut last = at(start);
            for cut in &cuts {
                prop_assert!(cut.at > last && cut.at - last <= timing.max_segment);
                prop_assert!(cut.at <= at(now));
                last = cut.at;
            }
            prop_assert!(at(now) - last <= timing.max_segment);
        }
    }
}
