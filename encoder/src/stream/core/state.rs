//! What a stream's publisher is doing, with everything that is known only in that state. Pure.
//!
//! How the states follow one another is here; what each change of state does to the runs is in [`super`].

use super::source::SourceFacts;
use crate::stream::gop::Gop;
use crate::stream::probe::SourceProbe;
use crate::stream::restart::Restart;
use media::{Media, MediaTime, SoundTrackId, VideoConfig};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// State of a stream, by its publisher.
#[derive(Debug)]
pub(super) enum StreamState {
    /// No publisher is connected, since this instant. The next publisher may come within the reconnect window.
    Absent {
        /// When the last publisher left; at first when the stream was created.
        since: Instant,
    },
    /// No publisher is connected, since this instant, and none is accepted: the stream ends once all media is flushed.
    Flushing {
        /// When the last publisher left.
        since: Instant,
    },
    /// A publisher is connected.
    Published {
        /// What happens to its media.
        intake: Intake,
        /// Whether no further publisher is accepted.
        is_last: bool,
    },
    /// The stream has ended.
    Over,
}

/// What happens to published media.
#[derive(Debug)]
pub(super) enum Intake {
    /// The media is probed and held.
    Probing(Box<SourceProbe>),
    /// The last run receives the media.
    Flowing(Box<Flow>),
}

/// Published media on its way into the last run.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// The media since the last keyframe.
    pub gop: Gop,
    /// Time of the last published keyframe in the present format.
    pub last_key: Option<MediaTime>,
    /// Whether the media continues as before.
    pub change: Change,
    /// How the worker after a dead one starts; `None` while the last run receives media.
    pub restart: Option<Restart>,
    /// Sound tracks without a rendition; their number is bounded by what the publisher's messages are read into.
    passed_over: BTreeSet<SoundTrackId>,
}

/// Whether published media continues as before.
#[derive(Debug, Default)]
pub(super) enum Change {
    /// The media continues as before.
    #[default]
    None,
    /// The media does not continue: the next keyframe starts a new run.
    AtNextKeyframe {
        /// The video configuration that takes effect with that keyframe; `None` if it stays.
        video: Option<VideoConfig>,
    },
    /// Only the audio does not continue: the next keyframe starts a new run. Until then the video goes on in the present
    /// run, with silence.
    SoundAtNextKeyframe,
}

// === impl StreamState ===

impl StreamState {
    /// A publisher is connected, and its media is probed.
    pub(super) fn published(probe: SourceProbe) -> Self {
        Self::Published { intake: Intake::Probing(Box::new(probe)), is_last: false }
    }

    /// Whether a publisher is connected.
    pub(super) fn is_published(&self) -> bool {
        matches!(self, Self::Published { .. })
    }

    /// Whether the stream has ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Whether a publisher that comes now is accepted.
    pub(super) fn accepts_publisher(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Published { is_last: false, .. } => true,
            Self::Flushing { .. } | Self::Published { is_last: true, .. } | Self::Over => false,
        }
    }

    /// No further publisher is accepted.
    pub(super) fn accept_no_further(&mut self) {
        match self {
            Self::Absent { since } => *self = Self::Flushing { since: *since },
            Self::Published { is_last, .. } => *is_last = true,
            Self::Flushing { .. } | Self::Over => {}
        }
    }

    /// The publisher, if there is one, leaves.
    pub(super) fn publisher_leaves(&mut self, now: Instant) {
        *self = match self {
            Self::Absent { .. } | Self::Published { is_last: false, .. } => Self::Absent { since: now },
            Self::Flushing { .. } | Self::Published { is_last: true, .. } => Self::Flushing { since: now },
            Self::Over => Self::Over,
        };
    }

    /// When the stream ends if all media is flushed by then and no publisher comes; `None` while there is a publisher.
    pub(super) fn ends_at(&self, reconnect_window: Duration) -> Option<Instant> {
        match self {
            Self::Absent { since } => since.checked_add(reconnect_window),
            Self::Flushing { since } => Some(*since),
            Self::Published { .. } | Self::Over => None,
        }
    }

    fn intake(&self) -> Option<&Intake> {
        match self {
            Self::Published { intake, .. } => Some(intake),
            Self::Absent { .. } | Self::Flushing { .. } | Self::Over => None,
        }
    }

    fn intake_mut(&mut self) -> Option<&mut Intake> {
        match self {
            Self::Published { intake, .. } => Some(intake),
            Self::Absent { .. } | Self::Flushing { .. } | Self::Over => None,
        }
    }

    /// The probe, while media is probed.
    pub(super) fn probe(&self) -> Option<&SourceProbe> {
        match self.intake()? {
            Intake::Probing(probe) => Some(probe),
            Intake::Flowing(_) => None,
        }
    }

    /// See [`Self::probe`].
    pub(super) fn probe_mut(&mut self) -> Option<&mut SourceProbe> {
        match self.intake_mut()? {
            Intake::Probing(probe) => Some(probe),
            Intake::Flowing(_) => None,
        }
    }

    /// Ends probing. Returns the held media, in order of arrival; `None` if no media is probed.
    pub(super) fn start_flowing(&mut self) -> Option<Vec<Media>> {
        let Self::Published { intake, .. } = self else { return None };
        if matches!(intake, Intake::Flowing(_)) {
            return None;
        }
        match std::mem::replace(intake, Intake::Flowing(Box::default())) {
            Intake::Probing(probe) => Some(probe.into_held()),
            Intake::Flowing(_) => None,
        }
    }

    /// The published media, after probing.
    pub(super) fn flow(&self) -> Option<&Flow> {
        match self.intake()? {
            Intake::Flowing(flow) => Some(flow),
            Intake::Probing(_) => None,
        }
    }

    /// See [`Self::flow`].
    pub(super) fn flow_mut(&mut self) -> Option<&mut Flow> {
        match self.intake_mut()? {
            Intake::Flowing(flow) => Some(flow),
            Intake::Probing(_) => None,
        }
    }
}

// === impl Flow ===

impl Flow {
    /// The next keyframe starts a new run, in a new video configuration.
    pub(super) fn announce(&mut self, video: VideoConfig) {
        self.change = Change::AtNextKeyframe { video: Some(video) };
        self.gop.clear();
        self.last_key = None;
    }

    /// The next keyframe starts a new run. A configuration that was announced before stays announced.
    pub(super) fn change_at_keyframe(&mut self) {
        if matches!(self.change, Change::None | Change::SoundAtNextKeyframe) {
            self.change = Change::AtNextKeyframe { video: None };
        }
    }

    /// The next keyframe starts a new run; the video goes on until then.
    pub(super) fn change_sound_at_keyframe(&mut self) {
        if matches!(self.change, Change::None) {
            self.change = Change::SoundAtNextKeyframe;
        }
    }

    /// The video configuration that takes effect at the next keyframe, if one was announced.
    pub(super) fn announced(&self) -> Option<&VideoConfig> {
        match &self.change {
            Change::AtNextKeyframe { video } => video.as_ref(),
            Change::None | Change::SoundAtNextKeyframe => None,
        }
    }

    /// Whether the next keyframe starts a new run.
    pub(super) fn changes(&self) -> bool {
        match self.change {
            Change::AtNextKeyframe { .. } | Change::SoundAtNextKeyframe => true,
            Change::None => false,
        }
    }

    /// Whether the video waits for the keyframe that starts a new run.
    pub(super) fn holds_video(&self) -> bool {
        match self.change {
            Change::AtNextKeyframe { .. } => true,
            Change::None | Change::SoundAtNextKeyframe => false,
        }
    }

    /// A new run begins. That is the change, or the restart, that was waited for; only an announced video configuration
    /// still waits for its keyframe.
    pub(super) fn run_begins(&mut self) {
        self.restart = None;
        if self.announced().is_none() {
            self.change = Change::None;
        }
    }

    /// A sound track without a rendition sends media. Returns whether this is the first time.
    pub(super) fn pass_over(&mut self, id: SoundTrackId) -> bool {
        self.passed_over.insert(id)
    }

    /// The keyframe has come: returns the announced video configuration, if any.
    pub(super) fn take_change(&mut self) -> Option<VideoConfig> {
        match std::mem::take(&mut self.change) {
            Change::AtNextKeyframe { video } => video,
            Change::None | Change::SoundAtNextKeyframe => None,
        }
    }

    /// The worker died: another one starts. The media since the last keyframe may be what kills workers.
    pub(super) fn worker_died(&mut self, restart: Restart) {
        self.restart = Some(restart);
        if !restart.replay {
            self.gop.clear();
        }
    }

    /// When the run that follows a dead one starts; `None` if no such run is due, or if there is no media to start
    /// from.
    pub(super) fn restart_at(&self, source: &SourceFacts) -> Option<Instant> {
        let restart = self.restart?;
        self.restart_from(source).map(|_| restart.at)
    }

    /// The media time from which a run could be started now. With video that is the last published keyframe; `None`
    /// until the next one if it is not kept, and until a pending change.
    pub(super) fn restart_from(&self, source: &SourceFacts) -> Option<MediaTime> {
        if !source.has_video() {
            return Some(source.newest());
        }
        match self.gop.since_keyframe().first().filter(|_| !self.holds_video())? {
            Media::Video(unit) => Some(unit.pts),
            Media::Audio(_)
            | Media::Track(..)
            | Media::VideoConfig(_)
            | Media::AudioConfig(_)
            | Media::TrackConfig(..) => None,
        }
    }
}
