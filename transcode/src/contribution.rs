//! Contribution encoders: they produce the H.264 and AAC that `encoder publish` sends when the material has other
//! codecs or is a test pattern. One picture size, one bit rate, a keyframe every second. Not here: the encoders of a
//! stream's renditions.

use super::demux::h264::Framing;
use bytes::Bytes;
use ff::format::{Pixel, Sample, sample};
use ff::{ChannelLayout, Dictionary, Rational, codec, color, frame, picture};
use ffmpeg_next as ff;
use media::h264::H264Error;
use media::time::TICKS_PER_SECOND;
use media::{AudioConfig, Media, MediaSpan, MediaTime, Unit, VideoCodec, VideoConfig, aac};

/// Sample rate of encoded audio, in Hz.
pub(super) const SAMPLE_RATE: u32 = 48_000;
/// Channels of encoded audio.
pub(super) const CHANNELS: u8 = 2;
/// Samples in one AAC frame.
pub(super) const FRAME_SAMPLES: usize = 1024;

/// Why a contribution encoder failed. The fault lies in the build or in the settings; a retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The loaded libav has no such encoder.
    #[error("this libav has no {0} encoder")]
    Missing(&'static str),
    /// libav refused the settings or a picture.
    #[error("libav: {0}")]
    Libav(#[from] ff::Error),
    /// The encoder's output is not H.264.
    #[error("encoder output: {0}")]
    Output(String),
}

impl From<H264Error> for EncodeError {
    fn from(error: H264Error) -> Self {
        Self::Output(error.to_string())
    }
}

/// Settings of a contribution video encoder.
#[derive(Clone, Debug)]
pub(super) struct ContributionSettings {
    /// Width in pixels; even.
    pub(super) width: u16,
    /// Height in pixels; even.
    pub(super) height: u16,
    /// Sample aspect ratio.
    pub(super) sample_aspect: (u16, u16),
    /// Frames per second, as (numerator, denominator).
    pub(super) frame_rate: (u32, u32),
    /// Average and maximum bit rate, in bits per second.
    pub(super) bitrate: u32,
    /// x264 preset.
    pub(super) preset: &'static str,
    /// Whether latency matters more than quality: no lookahead, no frame threads.
    pub(super) zero_latency: bool,
}

/// An x264 encoder without B-frames, so dts equals pts.
pub(super) struct ContributionVideo {
    encoder: codec::encoder::video::Encoder,
    framing: Framing,
    settings: ContributionSettings,
    next_key: Option<MediaTime>,
}

impl ContributionVideo {
    pub(super) fn open(settings: ContributionSettings) -> Result<Self, EncodeError> {
        let name = "libx264";
        let codec = codec::encoder::find_by_name(name).ok_or(EncodeError::Missing(name))?;
        let mut video = codec::Context::new_with_codec(codec).encoder().video()?;
        video.set_width(settings.width.into());
        video.set_height(settings.height.into());
        video.set_format(Pixel::YUV420P);
        video.set_aspect_ratio(Rational(settings.sample_aspect.0.into(), settings.sample_aspect.1.into()));
        video.set_time_base(Rational(1, TICKS_PER_SECOND as i32));
        video.set_frame_rate(Some(Rational(settings.frame_rate.0 as i32, settings.frame_rate.1 as i32)));
        video.set_bit_rate(settings.bitrate as usize);
        video.set_max_bit_rate(settings.bitrate as usize);
        video.set_max_b_frames(0);
        // `encode` forces a keyframe each second of media time; the encoder inserts none of its own.
        video.set_gop(10_000);
        video.set_colorspace(color::Space::BT709);
        video.set_color_primaries(color::Primaries::BT709);
        video.set_color_transfer_characteristic(color::TransferCharacteristic::BT709);
        video.set_color_range(color::Range::MPEG);
        let mut options = Dictionary::new();
        options.set("preset", settings.preset);
        if settings.zero_latency {
            options.set("tune", "zerolatency");
        }
        options.set("bufsize", &settings.bitrate.to_string());
        options.set("forced-idr", "1");
        options.set("x264-params", "scenecut=0:open-gop=0");
        let encoder = video.open_with(options)?;
        Ok(Self { encoder, framing: Framing::new(&[])?, settings, next_key: None })
    }

    /// Encodes a YUV 4:2:0 picture and appends the encoder's output to `out`.
    pub(super) fn encode(
        &mut self,
        picture: &mut frame::Video,
        pts: MediaTime,
        out: &mut Vec<Media>,
    ) -> Result<(), EncodeError> {
        let second = MediaSpan::from_ticks_90k(TICKS_PER_SECOND);
        let due = *self.next_key.get_or_insert(pts);
        let key = pts >= due;
        if key {
            // After a late frame, return to the keyframe grid; after a gap, restart the grid at this frame.
            self.next_key = Some(if due + second > pts { due + second } else { pts + second });
        }
        picture.set_kind(if key { picture::Type::I } else { picture::Type::None });
        picture.set_pts(Some(pts.ticks_90k()));
        self.encoder.send_frame(picture)?;
        self.drain(out)
    }

    /// Flushes the encoder and appends the remaining output to `out`.
    pub(super) fn finish(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        self.encoder.send_eof()?;
        self.drain(out)
    }

    fn drain(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        let mut packet = ff::Packet::empty();
        while received(self.encoder.receive_packet(&mut packet))? {
            let (Some(data), Some(pts)) = (packet.data(), packet.pts()) else { continue };
            let converted = self.framing.convert(data)?;
            if let Some(record) = converted.record {
                out.push(Media::VideoConfig(VideoConfig {
                    codec: VideoCodec::H264,
                    record,
                    width: self.settings.width,
                    height: self.settings.height,
                    sample_aspect: self.settings.sample_aspect,
                    frame_rate: Some(self.settings.frame_rate),
                }));
            }
            out.push(Media::Video(Unit {
                pts: MediaTime::from_ticks_90k(pts),
                dts: MediaTime::from_ticks_90k(packet.dts().unwrap_or(pts)),
                key: packet.is_key(),
                data: converted.data,
            }));
        }
        Ok(())
    }
}

/// AAC-LC, 48 kHz stereo.
pub(super) struct ContributionAudio {
    encoder: codec::encoder::audio::Encoder,
    config: Option<AudioConfig>,
}

impl ContributionAudio {
    pub(super) fn open(bitrate: u32) -> Result<Self, EncodeError> {
        let codec = codec::encoder::find(codec::Id::AAC).ok_or(EncodeError::Missing("aac"))?;
        let mut audio = codec::Context::new_with_codec(codec).encoder().audio()?;
        audio.set_rate(SAMPLE_RATE as i32);
        audio.set_channel_layout(ChannelLayout::STEREO);
        audio.set_format(Sample::F32(sample::Type::Planar));
        audio.set_bit_rate(bitrate as usize);
        audio.set_time_base(Rational(1, SAMPLE_RATE as i32));
        let config = aac::lc_config(SAMPLE_RATE, CHANNELS).expect("48 kHz has an index");
        Ok(Self { encoder: audio.open()?, config: Some(config) })
    }

    /// Encodes [`FRAME_SAMPLES`] samples of each channel; the first sample plays `at` samples after the origin of the
    /// media axis. The output lags by one frame. The very first output frame is the encoder's priming, which plays
    /// before the first sample.
    pub(super) fn encode(
        &mut self,
        channels: [&[f32]; 2],
        at: i64,
        out: &mut Vec<Media>,
    ) -> Result<(), EncodeError> {
        let format = Sample::F32(sample::Type::Planar);
        let mut samples = frame::Audio::new(format, FRAME_SAMPLES, ChannelLayout::STEREO);
        samples.set_rate(SAMPLE_RATE);
        samples.set_pts(Some(at));
        for (index, channel) in channels.into_iter().enumerate() {
            samples.plane_mut::<f32>(index).copy_from_slice(channel);
        }
        self.encoder.send_frame(&samples)?;
        self.drain(out)
    }

    /// Flushes the encoder and appends the remaining output to `out`.
    pub(super) fn finish(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        self.encoder.send_eof()?;
        self.drain(out)
    }

    fn drain(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        let mut packet = ff::Packet::empty();
        while received(self.encoder.receive_packet(&mut packet))? {
            let (Some(data), Some(pts)) = (packet.data(), packet.pts()) else { continue };
            out.extend(self.config.take().map(Media::AudioConfig));
            let pts = MediaTime::from_scaled(pts, SAMPLE_RATE);
            let data = Bytes::copy_from_slice(data);
            out.push(Media::Audio(Unit { pts, dts: pts, key: true, data }));
        }
        Ok(())
    }
}

/// Whether a codec returned a frame or packet; "not yet" and "no more" are not errors.
pub(super) fn received(result: Result<(), ff::Error>) -> Result<bool, ff::Error> {
    match result {
        Ok(()) => Ok(true),
        Err(ff::Error::Eof) => Ok(false),
        Err(ff::Error::Other { errno: ff::util::error::EAGAIN }) => Ok(false),
        Err(error) => Err(error),
    }
}
