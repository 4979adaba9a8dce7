//! Published media on its way into the last run: the probe's findings, format changes, holes, and the access units
//! themselves.
//!
//! How runs are appended and advanced is in [`super::runs`]; which renditions are chosen is in [`super::source`].

use super::state::Flow;
use super::{Now, StreamCore};
use crate::logging::rounded;
use crate::stream::probe::Findings;
use crate::stream::restart::Restart;
use crate::stream::sound::SoundTrack;
use media::{AudioConfig, Media, MediaSpan, MediaTime, SoundTrackId, Unit, VideoConfig};
use tracing::{info, warn};

/// A hole in the published media longer than this ends the epoch: viewers skip the hole instead of waiting through
/// empty segments. Well below [`hls::packager::MAX_JUMP`], beyond which the packager refuses the samples after the
/// hole.
const MAX_HOLE: MediaSpan = MediaSpan::from_millis(10_000);

impl StreamCore {
    /// Acts on the probe's verdict, if media is probed and there is a verdict.
    pub(super) fn judge(&mut self, now: Now) {
        if let Some(findings) = self.state.probe().and_then(|probe| probe.verdict(now.instant)) {
            self.settle(findings, now);
        }
    }

    /// Acts on the probe's verdict: chooses renditions and feeds the held media.
    pub(super) fn settle(&mut self, findings: Findings, now: Now) {
        let Some(held) = self.state.start_flowing() else { return };
        self.source.adopt_findings(findings, &self.settings);
        let Some(start) = first_pts(&held, self.source.has_video()) else { return };
        self.append_run(start, now);
        self.runs.expect_backlog(self.source.newest() - start);
        for media in held {
            self.flow(media, now);
        }
    }

    /// Handles published media after probing.
    pub(super) fn flow(&mut self, media: Media, now: Now) {
        if let Some(flow) = self.state.flow_mut() {
            flow.gop.push(&media);
        }
        if let Media::Video(unit) | Media::Audio(unit) = &media
            && unit.pts - self.runs.fed_until() > MAX_HOLE
        {
            self.skip_hole(&media, now);
        }
        match media {
            Media::VideoConfig(config) => self.video_config(config),
            Media::AudioConfig(config) => self.audio_config(None, config, now),
            Media::TrackConfig(id, config) => {
                if self.has_rendition(id) {
                    self.audio_config(Some(id), config, now);
                }
            }
            Media::Video(unit) => self.video(unit, now),
            Media::Audio(unit) => self.audio(unit, now),
            Media::Track(id, unit) => self.track(id, unit, now),
        }
    }

    /// Whether a sound track beside the main sound has a rendition. A track without one is passed over and counted: a
    /// multivariant playlist cannot gain an audio rendition while people watch.
    fn has_rendition(&mut self, id: SoundTrackId) -> bool {
        if self.source.has_sound(Some(id)) {
            return true;
        }
        if self.state.flow_mut().is_some_and(|flow| flow.pass_over(id)) {
            warn!(
                track = id.number(),
                "a sound track comes too late to become a rendition: it is passed over; publish again with all sound \
                 tracks from the start"
            );
            self.figures.passed_over_track();
        }
        false
    }

    fn track(&mut self, id: SoundTrackId, unit: Unit, now: Now) {
        // A track far ahead of the others is wrong: its time belongs to no run.
        let fits = unit.pts - self.runs.fed_until() <= MAX_HOLE;
        if !self.has_rendition(id) || self.changes() || !fits {
            return;
        }
        self.feed(Media::Track(id, unit));
        self.restart_if_due(now);
    }

    fn video_config(&mut self, config: VideoConfig) {
        let Some(flow) = self.state.flow_mut() else { return };
        if flow.announced().or(self.source.video()) == Some(&config) {
            return;
        }
        info!(width = config.width, height = config.height, "published video changes its format");
        flow.announce(config);
    }

    /// Nothing was published for a long time, or timestamps jumped: the media that follows becomes a run of its own.
    fn skip_hole(&mut self, media: &Media, now: Now) {
        let Some(flow) = self.state.flow_mut() else { return };
        match media {
            Media::Video(unit) => {
                if !unit.key {
                    flow.gop.clear();
                }
                flow.change_at_keyframe();
            }
            Media::Audio(_) if self.source.has_video() => {
                flow.gop.clear();
                flow.change_at_keyframe();
            }
            Media::Audio(unit) if self.runs.live().is_some() => self.append_run(unit.pts, now),
            Media::Audio(_)
            | Media::Track(..)
            | Media::VideoConfig(_)
            | Media::AudioConfig(_)
            | Media::TrackConfig(..) => {}
        }
    }

    /// Starts the pending run, in the announced video format if there is one.
    fn switch_run(&mut self, start: MediaTime, now: Now) {
        if let Some(config) = self.state.flow_mut().and_then(Flow::take_change) {
            self.source.adopt_changed(config, &self.settings);
        }
        self.append_run(start, now);
    }

    /// Audio of a sound track comes, or changes its format. Where the rendition can stay as it is, the run goes on. Otherwise a new run
    /// starts: at once, from the media since the last keyframe, if the video is encoded anyway; else at the next keyframe.
    fn audio_config(&mut self, track: SoundTrack, config: AudioConfig, now: Now) {
        if !self.source.change_audio(track, &config) {
            return;
        }
        let Some(flow) = self.state.flow_mut() else { return };
        let Some(run) = self.runs.live_mut() else {
            flow.gop.forget_audio(track);
            return;
        };
        info!(
            codec = config.codec.name(),
            sample_rate = config.sample_rate,
            channels = config.channels,
            track = track.map_or(0, SoundTrackId::number),
            "published audio comes, or changes its format"
        );
        flow.gop.forget_audio(track);
        if run.take_audio_config(track, config) {
            return;
        }
        let passed_through = run.follows_source();
        if !self.source.has_video() {
            // The next audio frame starts the run.
            flow.change_at_keyframe();
        } else if passed_through || self.runs.is_full() || flow.restart_from(&self.source).is_none() {
            flow.change_sound_at_keyframe();
        } else {
            flow.restart = Some(Restart { at: now.instant, replay: true });
            self.runs.end_input(now.instant);
            self.restart_if_due(now);
        }
    }

    fn video(&mut self, unit: Unit, now: Now) {
        let may_switch = unit.key && !self.runs.is_full();
        if self.changes() && may_switch {
            self.switch_run(unit.pts, now);
        } else if self.state.flow().is_some_and(Flow::holds_video) {
            return;
        }
        if self.stopped_fitting(&unit) {
            // The next run is fed everything since the last keyframe, this unit included.
            self.encode_source(now);
            return;
        }
        if unit.key
            && let Some(flow) = self.state.flow_mut()
        {
            flow.last_key = Some(unit.pts);
        }
        self.feed(Media::Video(unit));
        self.restart_if_due(now);
    }

    fn audio(&mut self, unit: Unit, now: Now) {
        if self.changes() {
            // While announced video has not arrived yet, audio continues alone.
            let wanted = self.source.sounds();
            let changed = self.runs.live().is_some_and(|run| !run.plays(&wanted));
            if self.source.has_video() || (changed && self.runs.is_full()) {
                return;
            }
            if changed {
                self.append_run(unit.pts, now);
            }
        }
        self.feed(Media::Audio(unit));
        self.restart_if_due(now);
    }

    /// Whether the next keyframe starts a new run.
    fn changes(&self) -> bool {
        self.state.flow().is_some_and(Flow::changes)
    }

    /// Whether segments are cut at published keyframes and the next of these keyframes is overdue.
    fn stopped_fitting(&self, unit: &Unit) -> bool {
        let follows = self.runs.live().is_some_and(|run| run.follows_source());
        let last_key = self.state.flow().and_then(|flow| flow.last_key).filter(|_| !unit.key);
        follows && last_key.is_some_and(|key| unit.pts - key > self.settings.timing.max_source_gop)
    }

    /// Stops passing the video through: the rung `source` is encoded from the last published keyframe on.
    fn encode_source(&mut self, now: Now) {
        if !self.source.has_video() {
            return;
        }
        warn!(
            bound_seconds = rounded(self.settings.timing.max_source_gop.as_secs_f64()),
            "published keyframes have become too far apart to pass the video through: it is encoded; set a shorter \
             keyframe interval in the publisher"
        );
        self.source.encode_all(&self.settings);
        self.runs.end_input(now.instant);
        if let Some(flow) = self.state.flow_mut() {
            flow.restart = Some(Restart { at: now.instant, replay: true });
        }
        self.restart_if_due(now);
    }
}

/// Presentation time of the first unit that a run can begin with: a video keyframe, or without video an audio frame.
fn first_pts(held: &[Media], has_video: bool) -> Option<MediaTime> {
    held.iter().find_map(|media| match media {
        Media::Video(unit) if has_video && unit.key => Some(unit.pts),
        Media::Audio(unit) if !has_video => Some(unit.pts),
        Media::Video(_)
        | Media::Audio(_)
        | Media::Track(..)
        | Media::VideoConfig(_)
        | Media::AudioConfig(_)
        | Media::TrackConfig(..) => None,
    })
}
