//! One sound rendition of a run: whether the published audio is passed through or transcoded, and what fills the time in
//! which there is none. The main sound and the sound tracks beside it follow the same rules.
//!
//! Not here: which sound tracks a stream has ([`super::core`]), silent AAC ([`super::silence`]).

use super::shed::ShedQueue;
use super::silence::{AudioFiller, SilenceMarks, silent_config};
use hls::{AudioTrack, RungName, Track, TrackKind};
use media::{AudioCodec, AudioConfig, MAX_SOUND_TRACKS, MediaTime, SoundTrackId, Unit, aac};
use rtmp::SoundTrackInfo;
use transcode::wire::{AUDIO_TRACK, AudioRung, ENCODED_AUDIO};

/// Format of transcoded audio: AAC-LC, stereo, which every player accepts.
pub(super) const TRANSCODED_AUDIO: AudioRung =
    AudioRung { bitrate: 128_000, sample_rate: 48_000, channels: 2 };
/// Bit/s assumed for AAC-LC that is passed through, until its bitrate is measured.
const NOMINAL_AUDIO_BITRATE: u32 = 128_000;

/// Source of a sound rendition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AudioSource {
    /// Published AAC-LC that every player accepts: passed through.
    Copy(AudioConfig),
    /// Any other published audio: transcoded once, in the worker.
    Transcode(AudioConfig),
    /// No audio has been published yet: silent frames.
    Silence,
}

impl AudioSource {
    /// How audio of this configuration is handled; `None` if no audio was published.
    pub(super) fn of(config: Option<AudioConfig>) -> Self {
        match config {
            None => Self::Silence,
            Some(config) if fits(&config) => Self::Copy(config),
            Some(config) => Self::Transcode(config),
        }
    }

    fn copied(&self) -> Option<AudioConfig> {
        match self {
            Self::Copy(config) => Some(config.clone()),
            Self::Silence => Some(silent_config()),
            Self::Transcode(_) => None,
        }
    }

    /// Whether the worker makes this rendition.
    pub(super) fn is_transcoded(&self) -> bool {
        matches!(self, Self::Transcode(_))
    }
}

/// AAC-LC with one or two channels at a sample rate that browsers and phones accept, through MSE and natively. Channels
/// in a program config element (channel configuration 0) do not fit: Chrome's and Firefox's MSE refuse them.
fn fits(config: &AudioConfig) -> bool {
    match config.codec {
        AudioCodec::Aac => {
            config.core_type == aac::LC
                && config.extension.is_none()
                && (1..=2).contains(&config.channel_config)
                && config.frame_samples == 1024
                && (22_050..=48_000).contains(&config.sample_rate)
        }
        AudioCodec::Mp3
        | AudioCodec::Opus
        | AudioCodec::Flac
        | AudioCodec::Ac3
        | AudioCodec::Eac3
        | AudioCodec::Speex
        | AudioCodec::Alaw
        | AudioCodec::Mulaw
        | AudioCodec::PcmS16
        | AudioCodec::PcmU8
        | AudioCodec::Nellymoser
        | AudioCodec::AdpcmFlash => false,
    }
}

/// Whether a decoder for one configuration of AAC-LC decodes the frames of the other.
fn have_one_shape(one: &AudioConfig, other: &AudioConfig) -> bool {
    (one.codec, one.sample_rate, one.channels, one.frame_samples)
        == (other.codec, other.sample_rate, other.channels, other.frame_samples)
}

/// The publisher's sound track behind a rendition: `None` is the main sound.
pub(super) type SoundTrack = Option<SoundTrackId>;

/// What viewers see of a sound rendition. It stays for the life of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SoundLabel {
    /// The rendition's folder.
    pub rung: RungName,
    /// Name in playlists, unlike that of any other sound rendition; `None` for the main sound without a name.
    pub name: Option<String>,
    /// Language tag (BCP 47).
    pub language: Option<String>,
}

/// Labels of a stream's sound renditions, the main sound first. The rung of a track follows from its number, so that it
/// is the same after a takeover.
pub(super) fn labels(
    tracks: impl IntoIterator<Item = SoundTrackId>,
    infos: &[SoundTrackInfo],
) -> Vec<(SoundTrack, SoundLabel)> {
    let info = |number: u8| infos.iter().find(|info| info.number == number).cloned().unwrap_or_default();
    let SoundTrackInfo { name, language, .. } = info(0);
    let mut labels = vec![(None, SoundLabel { rung: RungName::audio(), name, language })];
    for id in tracks.into_iter().take(MAX_SOUND_TRACKS - 1) {
        let SoundTrackInfo { name, language, .. } = info(id.number());
        let position = u16::from(id.number()) + 1;
        let wanted = name.unwrap_or_else(|| format!("Track {position}"));
        let taken = |name: &str| {
            labels.iter().any(|(_, label)| label.name.as_deref().unwrap_or(hls::DEFAULT_AUDIO_NAME) == name)
        };
        // A name is unique within its group (rfc8216bis 4.4.6.1.1).
        let name = if taken(&wanted) { format!("{wanted} ({position})") } else { wanted };
        labels.push((
            Some(id),
            SoundLabel { rung: RungName::audio_track(position), name: Some(name), language },
        ));
    }
    labels
}

/// How the time without audio is filled.
#[derive(Debug)]
enum Silence {
    /// Not at all: this sound is the clock of a run without video.
    None,
    /// By silent frames, where audio is passed through.
    Frames(AudioFiller),
    /// By the worker, which is told how far.
    Marks(SilenceMarks),
}

/// Parameters of a sound rendition of a run.
#[derive(Clone, Debug)]
pub(super) struct SoundSetup {
    /// The publisher's track.
    pub track: SoundTrack,
    /// What viewers see.
    pub label: SoundLabel,
    /// Where the sound comes from.
    pub source: AudioSource,
}

/// One sound rendition of a run.
#[derive(Debug)]
pub(super) struct Sound {
    /// The publisher's track.
    pub track: SoundTrack,
    /// Where the sound comes from.
    pub source: AudioSource,
    label: SoundLabel,
    /// Number of the track on the worker's pipes.
    wire_track: u8,
    silence: Silence,
}

impl Sound {
    /// The rendition number `index` of a run, 0 for the main sound. `leads` says whether it is the clock of a run
    /// without video. Queues the configuration for the worker.
    pub(super) fn new(setup: SoundSetup, index: u8, leads: bool, queue: &mut ShedQueue) -> Self {
        let SoundSetup { track, label, source } = setup;
        let silence = match source.copied() {
            _ if leads => Silence::None,
            Some(config) => Silence::Frames(AudioFiller::new(&config)),
            None => Silence::Marks(SilenceMarks::default()),
        };
        let sound = Self { track, source, label, wire_track: AUDIO_TRACK - index, silence };
        if let AudioSource::Transcode(config) = &sound.source {
            queue.audio_config(sound.wire_track, config);
        }
        sound
    }

    /// The rendition's folder.
    pub(super) fn rung(&self) -> &RungName {
        &self.label.rung
    }

    /// The number of the track on the worker's pipes, if the worker makes this rendition.
    pub(super) fn encoded_track(&self) -> Option<u8> {
        self.source.is_transcoded().then_some(self.wire_track)
    }

    /// Takes published audio of this track: queues it for the worker, or appends the samples to be packaged to `out`.
    pub(super) fn audio(
        &mut self,
        start: MediaTime,
        unit: Unit,
        queue: &mut ShedQueue,
        out: &mut Vec<(RungName, Unit)>,
    ) {
        let mut units = Vec::new();
        match (&self.source, &mut self.silence) {
            // Audio without a configuration cannot be packaged.
            (AudioSource::Silence, _) => {}
            (AudioSource::Transcode(_), silence) => {
                if let Silence::Marks(marks) = silence {
                    marks
                        .audio(start, unit.pts)
                        .into_iter()
                        .for_each(|at| queue.silence(self.wire_track, at));
                }
                queue.audio(self.wire_track, &unit);
            }
            (AudioSource::Copy(_), Silence::Frames(filler)) => filler.audio(start, unit, &mut units),
            (AudioSource::Copy(_), Silence::None | Silence::Marks(_)) => units.push(unit),
        }
        out.extend(units.into_iter().map(|unit| (self.label.rung.clone(), unit)));
    }

    /// The media that leads the run, its video or else its main sound, has come to `pts`: fills the time in which this
    /// track has no audio.
    pub(super) fn lead_at(
        &mut self,
        start: MediaTime,
        pts: MediaTime,
        queue: &mut ShedQueue,
        out: &mut Vec<(RungName, Unit)>,
    ) {
        match &mut self.silence {
            Silence::None => {}
            Silence::Frames(filler) => {
                let has_audio = matches!(self.source, AudioSource::Copy(_));
                let mut silent = Vec::new();
                filler.video_at(start, pts, has_audio, &mut silent);
                out.extend(silent.into_iter().map(|unit| (self.label.rung.clone(), unit)));
            }
            Silence::Marks(marks) => {
                marks.lead_at(start, pts).into_iter().for_each(|at| queue.silence(self.wire_track, at));
            }
        }
    }

    /// Published audio comes or changes its format. Returns whether the rendition stays as it is, so that the audio
    /// continues in the same epoch: it is transcoded anyway, or it is passed through and has the shape of the audio, or of
    /// the silence, before it.
    pub(super) fn take_config(&mut self, config: AudioConfig, queue: &mut ShedQueue) -> bool {
        match &self.source {
            AudioSource::Transcode(_) => {
                queue.audio_config(self.wire_track, &config);
                self.source = AudioSource::Transcode(config);
            }
            AudioSource::Copy(_) | AudioSource::Silence => {
                let continues = fits(&config)
                    && self.source.copied().is_some_and(|present| have_one_shape(&present, &config));
                if !continues {
                    return false;
                }
                self.source = AudioSource::Copy(config);
            }
        }
        true
    }

    /// Number of silent frames inserted, and of published frames dropped as late, since the last call.
    pub(super) fn take_repairs(&mut self) -> (u64, u64) {
        match &mut self.silence {
            Silence::Frames(filler) => (filler.take_filled(), filler.take_late()),
            Silence::None | Silence::Marks(_) => (0, 0),
        }
    }

    /// The rendition as it is packaged; `None` until the worker has opened its encoder. `config_of` gives the
    /// configuration of a track that the worker has opened.
    pub(super) fn rendition(&self, config_of: impl Fn(u8) -> Option<bytes::Bytes>) -> Option<Track> {
        let SoundLabel { rung, name, language } = self.label.clone();
        let audio = match self.source.copied() {
            Some(config) => AudioTrack {
                codec: config.codec,
                config: config.record,
                sample_rate: config.sample_rate,
                channels: config.channels,
                frame_samples: config.frame_samples,
                nominal_bitrate: NOMINAL_AUDIO_BITRATE,
                name,
                language,
            },
            None => AudioTrack {
                codec: ENCODED_AUDIO,
                config: config_of(self.wire_track)?,
                sample_rate: TRANSCODED_AUDIO.sample_rate,
                channels: TRANSCODED_AUDIO.channels,
                frame_samples: 1024,
                nominal_bitrate: TRANSCODED_AUDIO.bitrate,
                name,
                language,
            },
        };
        Some(Track { rung, kind: TrackKind::Audio(audio) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::audio_config;

    #[test]
    fn only_plain_aac_lc_in_mono_or_stereo_is_copied() {
        for channels in [1, 2] {
            assert!(fits(&audio_config(2, 48_000, channels)), "{channels}");
        }
        let stereo = audio_config(2, 48_000, 2);
        let sbr = Some(media::AacExtension::Sbr);
        for other in [
            audio_config(1, 48_000, 2),
            audio_config(2, 48_000, 6),
            AudioConfig { channel_config: 0, ..stereo.clone() },
            AudioConfig { extension: sbr, ..stereo.clone() },
            AudioConfig { frame_samples: 960, ..stereo },
        ] {
            assert!(!fits(&other), "{other:?}");
        }
    }

    #[test]
    fn every_sound_rendition_has_a_name_of_its_own_and_a_folder_by_its_number() {
        let ids = [1, 4, 5, 6].map(|number| SoundTrackId::new(number).unwrap());
        let info =
            |number, name: &str| SoundTrackInfo { number, name: Some(name.to_owned()), language: None };
        let shown = |infos: &[SoundTrackInfo]| -> Vec<(String, Option<String>)> {
            labels(ids, infos).into_iter().map(|(_, label)| (label.rung.to_string(), label.name)).collect()
        };
        let named = |names: [Option<&str>; 4]| -> Vec<(String, Option<String>)> {
            let rungs = ["audio", "audio_2", "audio_5", "audio_6"].map(str::to_owned);
            rungs.into_iter().zip(names.map(|name| name.map(str::to_owned))).collect()
        };
        assert_eq!(shown(&[]), named([None, Some("Track 2"), Some("Track 5"), Some("Track 6")]));
        let infos = [info(0, "English"), info(1, "English"), info(5, "Track 5")];
        assert_eq!(
            shown(&infos),
            named([Some("English"), Some("English (2)"), Some("Track 5"), Some("Track 5 (6)")])
        );
        assert_eq!(shown(&[info(1, "Audio")])[1].1.as_deref(), Some("Audio (2)"));
    }
}
