//! The packager, and what of a stream is packaged: at most one epoch at a time, which belongs to the first run.

use super::Effect;
use crate::logging::rounded;
use crate::stream::anchor::{AnchorTracker, Now};
use crate::stream::run::{Run, WorkerState};
use hls::packager::{BeginError, CutRule, Epoch, Output, Packager, PackagerCounters};
use hls::{RungName, SessionId};
use media::{Anchor, MediaTime, Unit, WallTime};
use std::collections::VecDeque;
use tracing::info;

/// A stream's packager and its clock.
#[derive(Debug)]
pub(super) struct Packaging {
    packager: Packager,
    /// The wall-clock times of the present publisher's media.
    anchors: AnchorTracker,
    /// Number of epochs begun.
    epochs: u32,
    /// End of the newest segment, or of a gap that the packager keeps back.
    until: MediaTime,
}

impl Packaging {
    /// Nothing is packaged yet.
    pub(super) fn new(packager: Packager) -> Self {
        Self { packager, anchors: AnchorTracker::default(), epochs: 0, until: MediaTime::ZERO }
    }

    /// End of the newest segment: the next epoch begins no earlier.
    pub(super) fn until(&self) -> MediaTime {
        self.until
    }

    /// The packager's counters.
    pub(super) fn counters(&self) -> PackagerCounters {
        self.packager.counters()
    }

    /// The media that follows is from another publisher, whose clock is unknown.
    pub(super) fn publisher_came(&mut self) {
        self.anchors = AnchorTracker::default();
    }

    /// Published media arrived: the dates of segments follow the publisher's clock.
    pub(super) fn arrived(&mut self, media: MediaTime, wall: WallTime) {
        if let Some(anchor) = self.anchors.arrived(media, wall) {
            self.packager.re_anchor(anchor);
        }
    }

    /// The least delayed arrival of the present publisher's media.
    pub(super) fn least_delayed(&self) -> Option<Anchor> {
        self.anchors.least_delayed()
    }

    /// Begins a run's epoch at `start`, with the samples that the run has held. Returns the number of refused samples.
    ///
    /// # Errors
    /// The run's tracks cannot be packaged.
    pub(super) fn begin(
        &mut self,
        run: &mut Run,
        start: MediaTime,
        now: Now,
        effects: &mut VecDeque<Effect>,
    ) -> Result<u64, BeginError> {
        let anchor = self.anchors.best().unwrap_or(Anchor { media: start, wall: now.wall });
        let session = SessionId::from_start(now.wall.unix_micros(), self.epochs);
        let Some(tracks) = run.tracks.clone() else { return Ok(0) };
        let cuts = if run.follows_source() { CutRule::SourceKeys } else { CutRule::Grid };
        run.begun = true;
        let held = run.take_held();
        self.epochs += 1;
        info!(
            epoch = self.epochs,
            %session,
            at_seconds = rounded(start.as_secs_f64()),
            renditions = tracks.len(),
            "epoch begins"
        );
        self.packager.fill_last_gaps();
        self.drain(effects);
        self.packager.begin(Epoch { session, start, anchor, tracks: tracks.clone(), cuts })?;
        effects.push_back(Effect::Epoch(tracks));
        self.drain(effects);
        let refused = held.into_iter().filter_map(|(rung, sample)| self.packager.push(&rung, sample).err());
        let refused = refused.count() as u64;
        self.drain(effects);
        Ok(refused)
    }

    /// Packages a sample of the present epoch. Returns the number of refused samples.
    pub(super) fn push(&mut self, rung: &RungName, sample: Unit, effects: &mut VecDeque<Effect>) -> u64 {
        let refused = self.packager.push(rung, sample).is_err();
        self.drain(effects);
        refused.into()
    }

    /// Ends the epoch of a run that is done. A worker that flushed has brought all renditions to the same end. After a
    /// dead worker, copied audio is ahead of the video: the epoch ends with the video.
    pub(super) fn end(&mut self, run: &Run, effects: &mut VecDeque<Effect>) {
        let end = if run.worker == WorkerState::Dead { self.packager.video_end() } else { None };
        self.packager.end_epoch(end);
        self.drain(effects);
        self.until = self.until.max(self.packager.last_gaps_end().unwrap_or(self.until));
    }

    fn drain(&mut self, effects: &mut VecDeque<Effect>) {
        while let Some(output) = self.packager.poll() {
            if let Output::Segment(segment) = &output {
                self.until = self.until.max(segment.info().end());
            }
            effects.push_back(Effect::Packaged(output));
        }
    }
}
