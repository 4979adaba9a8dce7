//! Decides how a track is handled: passed through if a publisher could have sent it unchanged, otherwise decoded and
//! encoded again. The decision is made once, when the file is opened; [`super`] dispatches the packets.

use super::h264::Framing;
use super::recode::{AudioRecoder, VideoRecoder};
use super::{DemuxError, DemuxOptions, TrackInfo};
use crate::contribution::ContributionSettings;
use crate::raw;
use bytes::Bytes;
use ff::{Rational, codec, format};
use ffmpeg_next as ff;
use media::h264::LengthSize;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{AudioCodec, AudioConfig, MediaSpan, VideoCodec, VideoConfig, aac, av1, framing, hevc, sound};

/// How a file's video becomes a publisher's video.
pub(super) enum VideoPath {
    /// H.264, passed through.
    Copy {
        framing: Framing,
        shape: SourceShape,
        announced: bool,
    },
    /// HEVC or AV1, passed through.
    Pass {
        converter: Converter,
        config: VideoConfig,
        /// Duration of one picture.
        frame_span: MediaSpan,
        announced: bool,
    },
    Recode(Box<VideoRecoder>),
}

/// Brings access units from a container's form into a publisher's.
pub(super) enum Converter {
    /// NAL units of HEVC; the size of their lengths in the container, `None` for a byte stream.
    Hevc(Option<LengthSize>),
    /// Temporal units of AV1.
    Av1,
}

/// An access unit in a publisher's form.
pub(super) struct PassedUnit {
    pub(super) key: bool,
    pub(super) data: Bytes,
}

impl Converter {
    /// Converts an access unit; `None` without a picture.
    pub(super) fn convert(&self, data: &[u8]) -> Option<PassedUnit> {
        let data = Bytes::copy_from_slice(data);
        match self {
            Self::Hevc(size) => {
                let unit = framing::read_unit(&data, *size, hevc::facts)?;
                unit.has_picture.then_some(PassedUnit { key: unit.key, data: unit.data })
            }
            Self::Av1 => {
                let key = av1::read_unit(&data)?.key;
                Some(PassedUnit { key, data: av1::without_delimiters(&data) })
            }
        }
    }
}

/// How a file's audio becomes a publisher's audio.
pub(super) enum AudioPath {
    /// AAC, passed through. `adts` is true when frames come with ADTS headers; `record` is then the configuration of
    /// the last frame.
    Copy {
        adts: bool,
        record: Bytes,
        output_rate: u32,
        announced: bool,
    },
    /// Another codec, passed through. The configuration is the container's, or that of the first frame.
    Pass {
        codec: AudioCodec,
        given: Option<AudioConfig>,
        announced: bool,
    },
    Recode(Box<AudioRecoder>),
}

/// Properties of a video configuration that its record does not state.
#[derive(Clone, Debug)]
pub(super) struct SourceShape {
    width: u16,
    height: u16,
    sample_aspect: (u16, u16),
    frame_rate: Option<(u32, u32)>,
}

impl VideoPath {
    pub(super) fn open(
        stream: &format::stream::Stream<'_>,
        options: &DemuxOptions,
    ) -> Result<(Self, TrackInfo), DemuxError> {
        let parameters = stream.parameters();
        let id = parameters.id();
        let name = id.name();
        let extradata = raw::stream_extradata(&parameters);
        let decoder = codec::Context::from_parameters(parameters)
            .and_then(|context| context.decoder().video())
            .map_err(|error| DemuxError::Codec { codec: name, error })?;
        let rate = stream.avg_frame_rate();
        let shape = SourceShape::new(decoder.width(), decoder.height(), decoder.aspect_ratio(), rate)?;
        let passed = options.pass.iter().any(|passed| passed == name);
        if let Some((converter, config)) = passed.then(|| shape.passed(id, &extradata)).flatten() {
            let frame_span = shape.frame_span();
            let path = Self::Pass { converter, config, frame_span, announced: false };
            return Ok((path, TrackInfo { codec: name.to_owned(), recoded: false }));
        }
        let recoded = id != codec::Id::H264;
        let path = if recoded {
            let settings = ContributionSettings {
                width: shape.width & !1,
                height: shape.height & !1,
                sample_aspect: shape.sample_aspect,
                frame_rate: shape.frame_rate.unwrap_or((30, 1)),
                bitrate: options.bitrate,
                preset: "veryfast",
                zero_latency: false,
            };
            Self::Recode(Box::new(VideoRecoder::open(decoder, settings)?))
        } else {
            Self::Copy { framing: Framing::new(&extradata)?, shape, announced: false }
        };
        Ok((path, TrackInfo { codec: name.to_owned(), recoded }))
    }
}

impl AudioPath {
    pub(super) fn open(
        stream: &format::stream::Stream<'_>,
        options: &DemuxOptions,
    ) -> Result<(Self, TrackInfo), DemuxError> {
        let parameters = stream.parameters();
        let id = parameters.id();
        let name = id.name();
        let record = raw::stream_extradata(&parameters);
        let decoder = codec::Context::from_parameters(parameters)
            .and_then(|context| context.decoder().audio())
            .map_err(|error| DemuxError::Codec { codec: name, error })?;
        if options.pass.iter().any(|passed| passed == name)
            && let Some(path) = Self::passed(id, &record)
        {
            return Ok((path, TrackInfo { codec: name.to_owned(), recoded: false }));
        }
        let output_rate = decoder.rate();
        // AAC without a configuration in the container is ADTS. Channels that are named in a program config element
        // alone (configuration 0) are downmixed by encoding again: many players refuse such a configuration.
        let copied = id == codec::Id::AAC
            && (record.is_empty()
                || aac::read_config(&record, Some(output_rate))
                    .is_ok_and(|config| config.channel_config != 0))
            && decoder.channels() > 0;
        let path = if copied {
            Self::Copy { adts: record.is_empty(), record, output_rate, announced: false }
        } else {
            Self::Recode(Box::new(AudioRecoder::open(decoder)?))
        };
        Ok((path, TrackInfo { codec: name.to_owned(), recoded: !copied }))
    }
}

impl AudioPath {
    /// The path of audio that is passed through; `None` where the container lacks what the codec needs.
    fn passed(id: codec::Id, record: &Bytes) -> Option<Self> {
        let (codec, given) = match id {
            codec::Id::OPUS => (AudioCodec::Opus, Some(sound::opus(record)?)),
            codec::Id::FLAC => (AudioCodec::Flac, Some(sound::flac(record)?)),
            codec::Id::AC3 => (AudioCodec::Ac3, None),
            codec::Id::EAC3 => (AudioCodec::Eac3, None),
            _ => return None,
        };
        Some(Self::Pass { codec, given, announced: false })
    }
}

/// The configuration that a frame of AC-3 or E-AC-3 gives.
pub(super) fn config_of_frame(codec: AudioCodec, frame: &[u8]) -> Option<AudioConfig> {
    sound::ac3(frame).filter(|config| config.codec == codec)
}

impl SourceShape {
    fn new(width: u32, height: u32, aspect: Rational, rate: Rational) -> Result<Self, DemuxError> {
        let size = |pixels: u32| u16::try_from(pixels).ok().filter(|pixels| *pixels >= 2);
        let (Some(w), Some(h)) = (size(width), size(height)) else {
            return Err(DemuxError::PictureSize(width, height));
        };
        let aspect = (u16::try_from(aspect.numerator()), u16::try_from(aspect.denominator()));
        let (num, den) =
            (u32::try_from(rate.numerator()).unwrap_or(0), u32::try_from(rate.denominator()).unwrap_or(0));
        Ok(Self {
            width: w,
            height: h,
            sample_aspect: match aspect {
                (Ok(num @ 1..), Ok(den @ 1..)) => (num, den),
                (Ok(_) | Err(_), _) => (1, 1),
            },
            frame_rate: (den > 0 && num >= den && u64::from(num) <= 240 * u64::from(den))
                .then_some((num, den)),
        })
    }

    /// Duration of one picture; 1/25 s if the frame rate is unknown.
    pub(super) fn frame_span(&self) -> MediaSpan {
        let (num, den) = self.frame_rate.unwrap_or((25, 1));
        MediaSpan::from_ticks_90k(rescale(den.into(), num.into(), TICKS_PER_SECOND))
    }

    /// How video of this codec is passed through; `None` where the container lacks the configuration.
    fn passed(&self, id: codec::Id, extradata: &Bytes) -> Option<(Converter, VideoConfig)> {
        let (converter, config) = match id {
            codec::Id::HEVC => {
                let size = (self.width.into(), self.height.into());
                let (config, length_size) = hevc::read_config(extradata, Some(size)).ok()?;
                // A record begins with its version, a byte stream with a start code.
                let is_record = extradata.first() == Some(&1);
                (Converter::Hevc(is_record.then_some(length_size)), config)
            }
            codec::Id::AV1 => (Converter::Av1, av1::read_config(extradata).ok()??),
            _ => return None,
        };
        let Self { sample_aspect, frame_rate, .. } = *self;
        Some((
            converter,
            VideoConfig { sample_aspect, frame_rate: frame_rate.or(config.frame_rate), ..config },
        ))
    }

    pub(super) fn config(&self, record: Bytes) -> VideoConfig {
        let Self { width, height, sample_aspect, frame_rate } = *self;
        VideoConfig { codec: VideoCodec::H264, record, width, height, sample_aspect, frame_rate }
    }
}
