//! Decides how a track is handled: passed through if a publisher could have sent it unchanged, otherwise decoded and
//! encoded again. The decision is made once, when the file is opened; [`super`] dispatches the packets.

use super::h264::Framing;
use super::recode::{AudioRecoder, VideoRecoder};
use super::{DemuxError, TrackInfo};
use crate::contribution::ContributionSettings;
use crate::raw;
use bytes::Bytes;
use ff::{Rational, codec, format};
use ffmpeg_next as ff;
use media::time::{TICKS_PER_SECOND, rescale};
use media::{MediaSpan, VideoCodec, VideoConfig, aac};

/// How a file's video becomes a publisher's video.
pub(super) enum VideoPath {
    /// H.264, passed through.
    Copy {
        framing: Framing,
        shape: SourceShape,
        announced: bool,
    },
    Recode(Box<VideoRecoder>),
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
        bitrate: u32,
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
        let recoded = id != codec::Id::H264;
        let path = if recoded {
            let settings = ContributionSettings {
                width: shape.width & !1,
                height: shape.height & !1,
                sample_aspect: shape.sample_aspect,
                frame_rate: shape.frame_rate.unwrap_or((30, 1)),
                bitrate,
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
    pub(super) fn open(stream: &format::stream::Stream<'_>) -> Result<(Self, TrackInfo), DemuxError> {
        let parameters = stream.parameters();
        let id = parameters.id();
        let name = id.name();
        let record = raw::stream_extradata(&parameters);
        let decoder = codec::Context::from_parameters(parameters)
            .and_then(|context| context.decoder().audio())
            .map_err(|error| DemuxError::Codec { codec: name, error })?;
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

    pub(super) fn config(&self, record: Bytes) -> VideoConfig {
        let Self { width, height, sample_aspect, frame_rate } = *self;
        VideoConfig { codec: VideoCodec::H264, record, width, height, sample_aspect, frame_rate }
    }
}
