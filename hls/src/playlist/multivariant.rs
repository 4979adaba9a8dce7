//! Text of multivariant playlists, through m3u8-rs. Bit rates are measured in [`crate::presentation`].

use super::VERSION;
use crate::names::RungName;
use crate::track::{AudioTrack, DEFAULT_AUDIO_NAME, Track, TrackKind, VideoRange, VideoTrack};
use m3u8_rs::{
    AlternativeMedia, AlternativeMediaType, ClosedCaptionGroupId, InstreamId, MasterPlaylist,
    QuotedOrUnquoted, Resolution, VariantStream,
};
use media::captions::CaptionServices;

/// GROUP-ID of the only audio group.
const AUDIO_GROUP: &str = "audio";
/// GROUP-ID of the only group of closed captions.
const CAPTIONS_GROUP: &str = "captions";

/// Bits per second of one rendition by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    pub(crate) peak: u64,
    pub(crate) average: u64,
}

/// Renders the playlist: each video rendition is a variant with the audio renditions as its group, and the audio without
/// video is the last variant. The first audio rendition is the main one. `pictures` is a keyframe-only playlist with its
/// URI.
///
/// Caption services in any video rendition are announced for all variants. Without them every variant says that there
/// are none (rfc8216bis 4.4.6.2: `NONE` on all variants or on none), because players otherwise offer a track that stays
/// empty.
pub(crate) fn render(
    renditions: &[(&Track, Bandwidth)],
    uri: &dyn Fn(&RungName) -> String,
    pictures: Option<(&Track, Bandwidth, String)>,
) -> String {
    let pictures_range = pictures.as_ref().and_then(|(track, ..)| match &track.kind {
        TrackKind::Video(video) => Some(video.range()),
        TrackKind::Audio(_) => None,
    });
    let mut playlist =
        MasterPlaylist { version: Some(VERSION), independent_segments: true, ..MasterPlaylist::default() };
    let mut videos = Vec::new();
    let mut sounds = Vec::new();
    for (track, bandwidth) in renditions {
        match &track.kind {
            TrackKind::Video(video) => videos.push((*track, video, *bandwidth)),
            TrackKind::Audio(audio) => sounds.push((*track, audio, *bandwidth)),
        }
    }
    let group = AudioGroup::of(&sounds);
    // A single rendition that is a variant itself needs no group.
    if videos.is_empty() && sounds.len() == 1 {
        let (track, _, bandwidth) = sounds[0];
        playlist.variants.push(VariantStream {
            uri: uri(&track.rung),
            ..stream(bandwidth, track.codecs_string().into_iter().collect())
        });
    } else if let Some(group) = &group {
        let mut languages = Vec::new();
        for (index, (track, audio, _)) in sounds.iter().enumerate() {
            let (main, uri) = (index == 0, uri(&track.rung));
            // What players choose by themselves has a language of its own (rfc8216bis 4.4.6.1.1).
            let autoselect = main || audio.language.is_some() && !languages.contains(&&audio.language);
            languages.push(&audio.language);
            playlist.alternatives.push(alternative(audio, main, autoselect, uri));
        }
        playlist.variants.extend(videos.iter().map(|&(track, video, bandwidth)| VariantStream {
            uri: uri(&track.rung),
            ..variant(track, video, bandwidth, Some(group))
        }));
        playlist.variants.push(VariantStream {
            uri: uri(&sounds[0].0.rung),
            audio: Some(AUDIO_GROUP.to_owned()),
            ..stream(group.bandwidth, group.codecs.clone())
        });
    } else {
        playlist.variants.extend(videos.iter().map(|&(track, video, bandwidth)| VariantStream {
            uri: uri(&track.rung),
            ..variant(track, video, bandwidth, None)
        }));
    }
    let captions = videos.iter().fold(CaptionServices::NONE, |all, (_, video, _)| all.union(video.captions));
    playlist
        .alternatives
        .extend(captions.names().enumerate().map(|(at, name)| caption_service(name, at == 0)));
    for variant in &mut playlist.variants {
        variant.closed_captions = Some(if captions.is_empty() {
            ClosedCaptionGroupId::None
        } else {
            ClosedCaptionGroupId::GroupId(CAPTIONS_GROUP.to_owned())
        });
    }
    playlist.variants.extend(pictures.and_then(|(track, bandwidth, uri)| i_frames(track, bandwidth, uri)));
    // Without the attribute a variant is SDR (rfc8216bis 4.4.6.2), so it is left out where all are.
    if videos.iter().any(|(_, video, _)| video.range() != VideoRange::Sdr) {
        let mut ranges = videos.iter().map(|(_, video, _)| video.range());
        for variant in &mut playlist.variants {
            let range = match variant.resolution {
                // The audio without video.
                None => continue,
                Some(_) if variant.is_i_frame => pictures_range,
                Some(_) => ranges.next(),
            };
            let Some(range) = range else { continue };
            let value = QuotedOrUnquoted::Unquoted(range.name().to_owned());
            variant.other_attributes = Some([("VIDEO-RANGE".to_owned(), value)].into());
        }
    }
    let mut text = Vec::new();
    playlist.write_to(&mut text).expect("writing to memory does not fail");
    // Only NAME may have characters outside ASCII, and m3u8-rs writes strings as they are.
    String::from_utf8(text).expect("names, codecs and numbers are UTF-8")
}

/// What the audio renditions add to every variant: players choose any one of them.
struct AudioGroup {
    /// The highest bit rates of a rendition (rfc8216bis 4.4.6.2: of any playable combination).
    bandwidth: Bandwidth,
    /// The CODECS entries of all renditions, each once.
    codecs: Vec<String>,
}

impl AudioGroup {
    fn of(sounds: &[(&Track, &AudioTrack, Bandwidth)]) -> Option<Self> {
        let highest =
            |rate: fn(&Bandwidth) -> u64| sounds.iter().map(|(.., bandwidth)| rate(bandwidth)).max();
        let bandwidth = Bandwidth { peak: highest(|b| b.peak)?, average: highest(|b| b.average)? };
        let mut codecs: Vec<String> = Vec::new();
        for codec in sounds.iter().filter_map(|(track, ..)| track.codecs_string()) {
            if !codecs.contains(&codec) {
                codecs.push(codec);
            }
        }
        Some(Self { bandwidth, codecs })
    }
}

fn variant(
    track: &Track,
    video: &VideoTrack,
    bandwidth: Bandwidth,
    audio: Option<&AudioGroup>,
) -> VariantStream {
    let total = audio.map_or(bandwidth, |audio| Bandwidth {
        peak: bandwidth.peak + audio.bandwidth.peak,
        average: bandwidth.average + audio.bandwidth.average,
    });
    let codecs = track.codecs_string().into_iter().chain(audio.iter().flat_map(|audio| audio.codecs.clone()));
    VariantStream {
        resolution: Some(Resolution { width: video.width.into(), height: video.height.into() }),
        // Rounded to three decimals (rfc8216bis 4.4.6.2); m3u8-rs writes all decimals.
        frame_rate: (video.frame_rate > 0.0).then(|| (video.frame_rate * 1000.0).round() / 1000.0),
        audio: audio.map(|_| AUDIO_GROUP.to_owned()),
        ..stream(total, codecs.collect())
    }
}

/// EXT-X-I-FRAME-STREAM-INF: no FRAME-RATE, and of the groups only VIDEO would be allowed (rfc8216bis 4.4.6.3).
fn i_frames(track: &Track, bandwidth: Bandwidth, uri: String) -> Option<VariantStream> {
    let TrackKind::Video(video) = &track.kind else { return None };
    Some(VariantStream {
        is_i_frame: true,
        uri,
        resolution: Some(Resolution { width: video.width.into(), height: video.height.into() }),
        ..stream(bandwidth, track.codecs_string().into_iter().collect())
    })
}

fn stream(bandwidth: Bandwidth, codecs: Vec<String>) -> VariantStream {
    let peak = round_up(bandwidth.peak.max(1));
    VariantStream {
        bandwidth: peak,
        average_bandwidth: Some(round_up(bandwidth.average.max(1)).min(peak)),
        codecs: (!codecs.is_empty()).then(|| codecs.join(",")),
        ..VariantStream::default()
    }
}

/// EXT-X-MEDIA of an audio rendition. Players begin with the main one, unless the viewer's language is that of another
/// one with AUTOSELECT.
fn alternative(audio: &AudioTrack, main: bool, autoselect: bool, uri: String) -> AlternativeMedia {
    AlternativeMedia {
        media_type: AlternativeMediaType::Audio,
        uri: Some(uri),
        group_id: AUDIO_GROUP.to_owned(),
        name: audio.name.clone().unwrap_or_else(|| DEFAULT_AUDIO_NAME.to_owned()),
        language: audio.language.clone(),
        default: main,
        autoselect,
        channels: Some(audio.channels.to_string()),
        ..AlternativeMedia::default()
    }
}

/// A caption service. Only the first is `first`: of the members that players choose by themselves, two must not be alike
/// (rfc8216bis 4.4.6.1.1), and languages are not known.
fn caption_service(name: &str, first: bool) -> AlternativeMedia {
    AlternativeMedia {
        media_type: AlternativeMediaType::ClosedCaptions,
        group_id: CAPTIONS_GROUP.to_owned(),
        name: name.to_owned(),
        autoselect: first,
        instream_id: name.parse::<InstreamId>().ok(),
        ..AlternativeMedia::default()
    }
}

/// Rounds up to three digits, so that the text does not change with every small new peak.
fn round_up(bits: u64) -> u64 {
    let step = 10u64.pow(bits.max(1).ilog10().saturating_sub(2));
    bits.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::round_up;

    #[test]
    fn bandwidth_is_rounded_up_to_three_digits() {
        for (bits, shown) in
            [(1, 1), (999, 999), (1_001, 1_010), (2_928_000, 2_930_000), (9_999_999, 10_000_000)]
        {
            assert_eq!(round_up(bits), shown);
        }
    }
}
