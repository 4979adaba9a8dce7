//! Published media on its way into the last run: the probe's findings and the renditions chosen by them, format
//! changes, holes, and the access units themselves.
//!
//! How runs are appended and advanced is in [`super::runs`].

use super::state::Flow;
use super::{MAX_RUNS, Now, StreamCore};
use crate::logging::rounded;
use crate::stream::ladder::{self, SourceVideo};
use crate::stream::probe::Findings;
use crate::stream::restart::Restart;
use crate::stream::run::AudioSource;
use crate::stream::silence;
use media::{AudioConfig, Media, MediaSpan, MediaTime, Unit, VideoConfig};
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
        let video_start = held.iter().find_map(|media| match media {
            Media::Video(unit) if unit.key => Some(unit.pts),
            _ => None,
        });
        let audio_start = held.iter().find_map(|media| match media {
            Media::Audio(unit) => Some(unit.pts),
            _ => None,
        });
        self.audio = findings.audio;
        self.video = None;
        if let Some((config, source, fits)) = findings.video {
            self.adopt(config, source, fits);
        }
        let Some(start) = (if self.video.is_some() { video_start } else { audio_start }) else { return };
        self.append_run(start, now);
        self.expect_backlog(self.newest - start);
        for media in held {
            if let Some(flow) = self.state.flow_mut() {
                flow.gop.push(&media);
            }
            self.flow(media, now);
        }
    }

    /// Adopts a video configuration: chooses renditions, or fits the renditions already chosen to the new source.
    pub(super) fn adopt(&mut self, config: VideoConfig, source: SourceVideo, fits: bool) {
        let plan = match &self.plan {
            Some(former) => ladder::replan(former, &source, fits && former.source),
            None => ladder::plan(&self.settings.ladder, &source, fits, self.settings.cores),
        };
        let rungs: Vec<String> = plan
            .rungs
            .iter()
            .map(|rung| {
                let fps = transcode::wire::rate_of(rung.frame_rate);
                format!("{} {}x{} {:.2}fps {}k", rung.name, rung.width, rung.height, fps, rung.bitrate / 1000)
            })
            .collect();
        info!(
            source = format!("{}x{}", source.width, source.height),
            fps = rounded(source.fps()),
            passed_through = plan.source,
            rungs = rungs.join(", "),
            reasons = Some(plan.reasons.join("; ")).filter(|reasons| !reasons.is_empty()),
            "renditions chosen"
        );
        self.plan = Some(plan);
        self.source = Some(source);
        self.source_fits = fits;
        self.video = Some(config);
    }

    /// Handles published media after probing.
    pub(super) fn flow(&mut self, media: Media, now: Now) {
        if let Media::Video(unit) | Media::Audio(unit) = &media
            && unit.pts - self.fed_until > MAX_HOLE
        {
            self.skip_hole(&media, now);
        }
        match media {
            Media::VideoConfig(config) => self.video_config(config),
            Media::AudioConfig(config) => self.audio_config(config),
            Media::Video(unit) => self.video(unit, now),
            Media::Audio(unit) => self.audio(unit, now),
        }
    }

    fn video_config(&mut self, config: VideoConfig) {
        let Some(flow) = self.state.flow_mut() else { return };
        if flow.announced().or(self.video.as_ref()) == Some(&config) {
            return;
        }
        info!(width = config.width, height = config.height, "published video changes its format");
        flow.announce(config);
    }

    /// Nothing was published for a long time, or timestamps jumped: the media that follows becomes a run of its own.
    fn skip_hole(&mut self, media: &Media, now: Now) {
        let (has_video, has_run) = (self.video.is_some(), self.live_run().is_some());
        let Some(flow) = self.state.flow_mut() else { return };
        match media {
            Media::Video(unit) => {
                if !unit.key {
                    flow.gop.clear();
                }
                flow.change_at_keyframe();
            }
            Media::Audio(_) if has_video => {
                flow.gop.clear();
                flow.change_at_keyframe();
            }
            Media::Audio(unit) if has_run => self.append_run(unit.pts, now),
            Media::Audio(_) | Media::VideoConfig(_) | Media::AudioConfig(_) => {}
        }
    }

    /// Starts the pending run, in the announced video format if there is one.
    fn switch_run(&mut self, start: MediaTime, now: Now) {
        if let Some(config) = self.state.flow_mut().and_then(Flow::take_change) {
            self.adopt_changed(config);
        }
        self.append_run(start, now);
    }

    fn adopt_changed(&mut self, config: VideoConfig) {
        let former = self.source;
        let source = SourceVideo {
            width: config.width,
            height: config.height,
            sample_aspect: config.sample_aspect,
            frame_rate: config.frame_rate.or(former.map(|source| source.frame_rate)).unwrap_or((30, 1)),
            bitrate: former.and_then(|source| source.bitrate),
        };
        self.adopt(config, source, self.source_fits);
    }

    fn audio_config(&mut self, config: AudioConfig) {
        if self.audio.as_ref() == Some(&config) {
            return;
        }
        self.audio = Some(config.clone());
        let Some(flow) = self.state.flow_mut() else { return };
        let Some(run) = self.runs.back_mut().filter(|run| run.input_ended.is_none()) else {
            flow.gop.forget_audio();
            return;
        };
        if run.audio == AudioSource::Silence && config == silence::silent_config() {
            info!("audio has come, in place of the silence");
            run.unmute(config);
            return;
        }
        info!(
            sample_rate = config.sample_rate,
            channels = config.channels,
            "published audio changes its format"
        );
        flow.gop.forget_audio();
        flow.change_at_keyframe();
    }

    fn video(&mut self, unit: Unit, now: Now) {
        if self.changes() {
            if !unit.key || self.runs.len() >= MAX_RUNS {
                return;
            }
            self.switch_run(unit.pts, now);
        }
        if unit.key
            && let Some(flow) = self.state.flow_mut()
        {
            flow.last_key = Some(unit.pts);
        } else if self.stopped_fitting(&unit) {
            // The next run is fed everything since the last keyframe, this unit included.
            self.encode_source(now);
            return;
        }
        self.feed(Media::Video(unit));
        self.restart_if_due(now);
    }

    fn audio(&mut self, unit: Unit, now: Now) {
        if self.changes() {
            // While announced video has not arrived yet, audio continues alone.
            let wanted = AudioSource::of(self.audio.clone());
            let changed =
                self.runs.back().is_some_and(|run| run.input_ended.is_none() && run.audio != wanted);
            if self.video.is_some() || (changed && self.runs.len() >= MAX_RUNS) {
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
        let follows = self.runs.back().is_some_and(|run| run.input_ended.is_none() && run.follows_source());
        let bound = self.settings.timing.max_source_gop;
        let last_key = self.state.flow().and_then(|flow| flow.last_key);
        follows && last_key.is_some_and(|key| unit.pts - key > bound)
    }

    /// Stops passing the video through: the rung `source` is encoded from the last published keyframe on.
    fn encode_source(&mut self, now: Now) {
        let (Some(source), Some(config)) = (self.source, self.video.clone()) else { return };
        warn!(
            bound_seconds = rounded(self.settings.timing.max_source_gop.as_secs_f64()),
            "published keyframes have become too far apart to pass the video through: it is encoded; set a shorter \
             keyframe interval in the publisher"
        );
        self.adopt(config, source, false);
        self.end_input(now.instant);
        if let Some(flow) = self.state.flow_mut() {
            flow.restart = Some(Restart { at: now.instant, replay: true });
        }
        self.restart_if_due(now);
    }

    /// Feeds a published unit to the last run, unless that run's input has ended.
    pub(super) fn feed(&mut self, media: Media) {
        let Some(run) = self.runs.back_mut().filter(|run| run.input_ended.is_none()) else { return };
        let mut packaged = Vec::new();
        if let Media::Video(unit) | Media::Audio(unit) = &media {
            self.fed_until = self.fed_until.max(unit.pts);
        }
        match media {
            Media::Video(unit) => run.video(&unit, &mut packaged),
            Media::Audio(unit) => run.audio(unit, &mut packaged),
            Media::VideoConfig(_) | Media::AudioConfig(_) => {}
        }
        let shed = run.queue.take_shed();
        if shed > 0 {
            self.counters.shed_units += shed;
            metrics::counter!("encoder_shed_units_total").increment(shed);
        }
        let (silent, late) = run.take_audio_repairs();
        self.counters.silent_frames += silent;
        self.counters.late_audio_frames += late;
        let id = run.id;
        for (rung, sample) in packaged {
            self.package(id, rung, sample);
        }
    }
}
