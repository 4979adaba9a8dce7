//! Decode times that grow and are never after presentation, whatever publishers send: negative composition offsets,
//! presentation times in place of decode times, and the same time twice.
//!
//! What belongs here: the order of pictures of one track. What does not: jumps, gaps and the frame grid, which are dealt
//! with before.

use super::{MAX_COMPOSITION, MIN_STEP, Repairs};

/// Of this many pictures, [`OUT_OF_ORDER`] have to go back in time before times are taken for presentation times.
const HISTORY: u32 = 16;
/// B-frames go back in time with every second picture or so; single disorder does not count.
const OUT_OF_ORDER: u32 = 3;
/// Time by which decode times are moved ahead beyond the depth of reordering seen, in ticks (20 ms): room for
/// [`MIN_STEP`] between the pictures of a group.
const MARGIN: i64 = 20 * 90;
/// A step between pictures above this, in ticks (200 ms), is no frame duration.
const LONGEST_FRAME: i64 = 200 * 90;

/// Decode order of one track.
#[derive(Clone, Debug)]
pub(super) struct DecodeOrder {
    /// Decode time of the last picture, in ticks; no picture is decoded earlier.
    last: Option<i64>,
    /// The time that the last picture came with, in ticks.
    came: Option<i64>,
    /// Step between the last two pictures whose times grew plausibly, in ticks.
    step: i64,
    /// Decode times are moved ahead by this, so that negative offsets become positive ones, in ticks.
    lead: i64,
    /// A composition offset was sent: times are decode times.
    composed: bool,
    /// Newest time so far, and how far another one was behind the newest at most, in ticks.
    newest: i64,
    depth: i64,
    /// The last pictures, one bit each: set if the picture went back in time.
    history: u32,
    /// The publisher sends presentation times.
    sorts: bool,
}

impl DecodeOrder {
    /// An order in which every picture comes after `floor`.
    pub(super) fn behind(floor: Option<i64>) -> Self {
        Self {
            last: floor,
            came: None,
            step: 0,
            lead: 0,
            composed: false,
            newest: i64::MIN,
            depth: 0,
            history: 0,
            sorts: false,
        }
    }

    /// Forgets what was found out about the publisher's times, because the next picture does not continue the previous
    /// ones.
    pub(super) fn restart(&mut self) {
        *self = Self::behind(self.last);
    }

    /// Decode and presentation time of the next picture, in ticks, from its own.
    pub(super) fn place(&mut self, dts: i64, pts: i64, repairs: &mut Repairs) -> (i64, i64) {
        let composition = pts - dts;
        let most = MAX_COMPOSITION.ticks_90k();
        let (composition, is_sane) =
            if (-most..=most).contains(&composition) { (composition, true) } else { (0, false) };
        repairs.compositions += u64::from(!is_sane);
        if composition < -self.lead {
            repairs.compositions += 1;
            self.lead = -composition;
        }
        self.composed |= composition != 0;
        self.recognise(dts, repairs);
        let came = self.came.replace(dts);
        let mut place = if self.sorts { self.newest - self.lead } else { dts - self.lead };
        let mut pts = dts + composition;
        if let Some(last) = self.last
            && place <= last
        {
            repairs.reordered += u64::from(!self.sorts);
            let even = last + self.step;
            if came == Some(dts) && self.step > 0 && even - place <= 2 * self.step {
                // The same time twice: half-way to the next picture is nearer to what was meant.
                pts += even - place;
                place = even;
            } else {
                place = last + MIN_STEP.ticks_90k();
            }
        } else if let Some(came) = came
            && (1..=LONGEST_FRAME).contains(&(dts - came))
        {
            self.step = dts - came;
        }
        self.last = Some(place);
        (place, pts.max(place))
    }

    /// Recognises presentation times: pictures go back in time again and again, and none has an offset.
    fn recognise(&mut self, time: i64, repairs: &mut Repairs) {
        if self.composed {
            self.sorts = false;
            return;
        }
        let back = self.newest.saturating_sub(time);
        self.history = (self.history << 1 | u32::from(back > 0)) & ((1 << HISTORY) - 1);
        self.newest = self.newest.max(time);
        if back > 0 {
            self.depth = self.depth.max(back.min(MAX_COMPOSITION.ticks_90k()));
        }
        if !self.sorts && self.history.count_ones() >= OUT_OF_ORDER {
            self.sorts = true;
            repairs.presentation_times += 1;
        }
        if self.sorts {
            self.lead = self.lead.max(self.depth + MARGIN);
        }
    }
}
