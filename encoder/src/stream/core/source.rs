//! What is known of the published media, and the renditions chosen for it.

use super::StreamSettings;
use crate::logging::rounded;
use crate::stream::ladder::{self, Plan, SourceVideo};
use crate::stream::probe::Findings;
use crate::stream::run::{RunId, RunSetup, source_track};
use crate::stream::sound::{self, AudioSource, SoundLabel, SoundSetup, SoundTrack};
use hls::RungName;
use hls::fmp4::init_segment;
use media::captions::{self, CaptionServices};
use media::{AudioConfig, MAX_SOUND_TRACKS, Media, MediaTime, SoundTrackId, VideoCodec, VideoConfig};
use std::collections::BTreeSet;
use tracing::info;

/// What is known of the published media.
///
/// With a video configuration there are always properties and renditions. Renditions and properties outlive a
/// publisher: the next publisher's media is fitted to them.
#[derive(Debug, Default)]
pub(super) struct SourceFacts {
    /// The renditions; `None` until there was video.
    plan: Option<Plan>,
    /// Properties of the newest published video.
    properties: Option<SourceVideo>,
    /// Whether published keyframes are close enough together to pass the video through.
    fits: bool,
    /// Configuration of the video; `None` if none is published.
    video: Option<VideoConfig>,
    /// Measured bits per second of the video.
    video_bitrate: Option<u32>,
    /// The sound renditions, the main sound first; empty until they are chosen with the first publisher's media.
    sounds: Vec<SourceSound>,
    /// Sound tracks whose renditions an earlier writer of the stream has left.
    expected: BTreeSet<SoundTrackId>,
    /// Newest presentation time.
    newest: MediaTime,
    /// Codec of the newest video configuration, adopted or not.
    newest_codec: Option<VideoCodec>,
    /// Caption services announced so far. None is taken back: players that know of a service keep it.
    captions: CaptionServices,
}

/// What is known of the sound behind a rendition. The labels outlive a publisher, like the renditions of video.
#[derive(Debug)]
struct SourceSound {
    track: SoundTrack,
    label: SoundLabel,
    /// Configuration; `None` if none is published.
    config: Option<AudioConfig>,
}

impl SourceFacts {
    /// The renditions; `None` until they are chosen.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Properties of the published video; `None` until they are known.
    pub(super) fn properties(&self) -> Option<&SourceVideo> {
        self.properties.as_ref()
    }

    /// Configuration of the video; `None` if none is published.
    pub(super) fn video(&self) -> Option<&VideoConfig> {
        self.video.as_ref()
    }

    /// Whether video is published.
    pub(super) fn has_video(&self) -> bool {
        self.video.is_some()
    }

    /// How the published audio becomes renditions.
    pub(super) fn sounds(&self) -> Vec<SoundSetup> {
        let setup = |sound: &SourceSound| SoundSetup {
            track: sound.track,
            label: sound.label.clone(),
            source: AudioSource::of(sound.config.clone()),
        };
        self.sounds.iter().map(setup).collect()
    }

    /// Whether a sound track has a rendition.
    pub(super) fn has_sound(&self, track: SoundTrack) -> bool {
        self.sounds.iter().any(|sound| sound.track == track)
    }

    /// Newest presentation time.
    pub(super) fn newest(&self) -> MediaTime {
        self.newest
    }

    /// An earlier writer of the stream has left these renditions: those of sound tracks stay, even if the track is no
    /// longer published.
    pub(super) fn expect_renditions<'a>(&mut self, rungs: impl Iterator<Item = &'a RungName>) {
        let positions = rungs.filter_map(|rung| hls::names::audio_position(rung.as_str()));
        let numbers = positions.filter_map(|position| u8::try_from(position.checked_sub(1)?).ok());
        self.expected = numbers.filter_map(SoundTrackId::new).take(MAX_SOUND_TRACKS - 1).collect();
    }

    /// Published media arrived.
    pub(super) fn arrived(&mut self, media: MediaTime) {
        self.newest = self.newest.max(media);
    }

    /// Caption services that an earlier writer of the stream announced.
    pub(super) fn inherit_captions(&mut self, services: CaptionServices) {
        self.captions = self.captions.union(services);
    }

    /// Looks for captions in published media. Returns all services if there is one that was not seen before.
    pub(super) fn watch_captions(&mut self, media: &Media) -> Option<CaptionServices> {
        let unit = match media {
            Media::VideoConfig(config) => {
                self.newest_codec = Some(config.codec);
                return None;
            }
            Media::Video(unit) => unit,
            Media::AudioConfig(_) | Media::Audio(_) | Media::TrackConfig(..) | Media::Track(..) => {
                return None;
            }
        };
        let before = self.captions;
        captions::note_services(&captions::triplets(self.newest_codec?, &unit.data), &mut self.captions);
        (before != self.captions).then_some(self.captions)
    }

    /// Audio of this configuration is published on a sound track. False if it was before, and for a track without a
    /// rendition.
    pub(super) fn change_audio(&mut self, track: SoundTrack, config: &AudioConfig) -> bool {
        let sound = self.sounds.iter_mut().find(|sound| sound.track == track);
        let Some(sound) = sound.filter(|sound| sound.config.as_ref() != Some(config)) else { return false };
        sound.config = Some(config.clone());
        true
    }

    /// Adopts what the probe found of a publisher's media.
    pub(super) fn adopt_findings(&mut self, findings: Findings, settings: &StreamSettings) {
        let Findings { audio, tracks, labels, .. } = &findings;
        if self.sounds.is_empty() {
            let found = tracks.iter().map(|(id, _)| *id).filter(|id| !self.expected.contains(id));
            let room = MAX_SOUND_TRACKS - 1 - self.expected.len();
            let ids: BTreeSet<_> = self.expected.iter().copied().chain(found.take(room)).collect();
            let labels = sound::labels(ids, labels);
            let sound = |(track, label)| SourceSound { track, label, config: None };
            self.sounds = labels.into_iter().map(sound).collect();
        }
        for sound in &mut self.sounds {
            sound.config = match sound.track {
                None => audio.clone(),
                Some(id) => tracks.iter().find(|(of, _)| *of == id).map(|(_, config)| config.clone()),
            };
        }
        self.video_bitrate = findings.video_bitrate;
        self.video = None;
        if let Some((config, source, fits)) = findings.video {
            self.adopt(config, source, fits, settings);
        }
    }

    /// Adopts a video configuration that replaces the one before. Bitrate and, unless announced, the frame rate stay.
    pub(super) fn adopt_changed(&mut self, config: VideoConfig, settings: &StreamSettings) {
        let former = self.properties;
        let source = SourceVideo {
            codec: config.codec,
            width: config.width,
            height: config.height,
            sample_aspect: config.sample_aspect,
            frame_rate: config.frame_rate.or(former.map(|source| source.frame_rate)).unwrap_or((30, 1)),
            bitrate: former.and_then(|source| source.bitrate),
        };
        self.adopt(config, source, self.fits, settings);
    }

    /// The video, if there is any, is no longer passed through: the rung `source` is encoded.
    pub(super) fn encode_all(&mut self, settings: &StreamSettings) {
        if let (Some(source), Some(config)) = (self.properties, self.video.clone()) {
            self.adopt(config, source, false, settings);
        }
    }

    /// Parameters of a run that begins at `first_pts`.
    pub(super) fn run_setup(&self, id: RunId, first_pts: MediaTime, settings: &StreamSettings) -> RunSetup {
        let empty = Plan { source: None, rungs: Vec::new(), reasons: Vec::new() };
        RunSetup {
            id,
            video: self.video.clone(),
            frame_rate: self.properties.map_or((30, 1), |source| source.frame_rate),
            video_bitrate: self.video_bitrate.or(self.properties.and_then(|source| source.bitrate)),
            captions: self.captions,
            sounds: self.sounds(),
            plan: self.plan.clone().filter(|_| self.has_video()).unwrap_or(empty),
            first_pts,
            shed_budget: settings.timing.shed_queue,
        }
    }

    /// Adopts a video configuration: chooses renditions, or fits the renditions already chosen to the new source.
    fn adopt(&mut self, config: VideoConfig, source: SourceVideo, fits: bool, settings: &StreamSettings) {
        let fits = fits && can_be_packaged(&config, &source);
        let plan = match &self.plan {
            Some(former) => ladder::replan(former, &source, fits && former.source.is_some()),
            None => ladder::plan(&settings.ladder, &source, fits, settings.cores),
        };
        log_plan(&plan, &source);
        self.plan = Some(plan);
        self.properties = Some(source);
        self.fits = fits;
        self.video = Some(config);
    }
}

/// Whether an init segment can be made of the configuration. The worker decodes more than players can be told of: streams
/// whose headers cannot be read as a whole.
fn can_be_packaged(config: &VideoConfig, source: &SourceVideo) -> bool {
    match config.codec {
        VideoCodec::H264 => true,
        VideoCodec::Hevc | VideoCodec::Av1 => {
            let track = source_track(config, source.frame_rate, 0);
            config.picture_format().is_some() && init_segment(&track).is_ok()
        }
        VideoCodec::Vp9 | VideoCodec::Vp8 => false,
    }
}

fn log_plan(plan: &Plan, source: &SourceVideo) {
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
        passed_through = plan.source.map(VideoCodec::name),
        rungs = rungs.join(", "),
        reasons = Some(plan.reasons.join("; ")).filter(|reasons| !reasons.is_empty()),
        "renditions chosen"
    );
}
