//! Decodes codecs that publishers do not send, and encodes the result again as H.264 and AAC.

use super::super::captions::captions_of;
use super::super::contribution::{
    ContributionAudio, ContributionSettings, ContributionVideo, EncodeError, FRAME_SAMPLES, SAMPLE_RATE,
    received,
};
use super::super::raw;
use super::super::tonemap::{HdrSource, ToneMapper};
use super::DemuxError;
use ff::format::{Pixel, Sample, sample};
use ff::{ChannelLayout, codec, frame, software};
use ffmpeg_next as ff;
use media::time::TICKS_PER_SECOND;
use media::{Media, MediaSpan, MediaTime};

/// Bit rate of encoded audio, in bits per second.
const AUDIO_BITRATE: u32 = 160_000;
/// Audio holes from this length on (in samples; 0.1 s) are filled with silence, so that audio stays in sync with
/// video.
const HOLE: i64 = SAMPLE_RATE as i64 / 10;
/// Holes from this length on (in samples; 10 s) are left open, so that a broken clock does not make hours of silence:
/// the audio after such a hole keeps its time.
const LONGEST_HOLE: i64 = SAMPLE_RATE as i64 * 10;

/// Encodes decoded video of any codec to H.264, HDR as SDR. Captions stay.
pub(super) struct VideoRecoder {
    decoder: codec::decoder::Video,
    scaler: Option<software::scaling::Context>,
    /// Present while the pictures are HDR.
    mapper: Option<ToneMapper>,
    encoder: ContributionVideo,
    settings: ContributionSettings,
    last: Option<MediaTime>,
}

impl VideoRecoder {
    pub(super) fn open(
        decoder: codec::decoder::Video,
        settings: ContributionSettings,
    ) -> Result<Self, EncodeError> {
        let encoder = ContributionVideo::open(settings.clone())?;
        Ok(Self { decoder, scaler: None, mapper: None, encoder, settings, last: None })
    }

    pub(super) fn packet(
        &mut self,
        packet: &ff::Packet,
        pts: MediaTime,
        dts: MediaTime,
        out: &mut Vec<Media>,
    ) -> Result<(), DemuxError> {
        let mut placed = packet.clone();
        placed.set_pts(Some(pts.ticks_90k()));
        placed.set_dts(Some(dts.ticks_90k()));
        self.decoder.send_packet(&placed).map_err(DemuxError::Broken)?;
        self.drain(out)
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Media>) -> Result<(), DemuxError> {
        self.decoder.send_eof().map_err(DemuxError::Broken)?;
        self.drain(out)?;
        Ok(self.encoder.finish(out)?)
    }

    fn drain(&mut self, out: &mut Vec<Media>) -> Result<(), DemuxError> {
        let mut decoded = frame::Video::empty();
        while received(self.decoder.receive_frame(&mut decoded)).map_err(DemuxError::Broken)? {
            let (num, den) = self.settings.frame_rate;
            let step = MediaSpan::from_ticks_90k(TICKS_PER_SECOND * i64::from(den) / i64::from(num));
            let expected = self.last.map(|last| last + step);
            let stamped = decoded.timestamp().map(MediaTime::from_ticks_90k);
            let Some(mut pts) = stamped.or(expected) else { continue };
            if let Some(last) = self.last
                && pts <= last
            {
                // Encoders refuse two pictures with the same time.
                pts = last + MediaSpan::from_ticks_90k(1);
            }
            self.last = Some(pts);
            let mut picture = self.scaled(&decoded).map_err(EncodeError::from)?;
            self.encoder.encode(&mut picture, pts, out)?;
        }
        Ok(())
    }

    fn scaled(&mut self, decoded: &frame::Video) -> Result<frame::Video, ff::Error> {
        let former = self.mapper.as_ref().map(ToneMapper::source);
        let hdr = HdrSource::of(decoded).map(|hdr| hdr.like(former));
        if former != hdr {
            self.mapper = hdr.map(|hdr| ToneMapper::new(hdr, 1));
        }
        let target = if hdr.is_some() { Pixel::YUV420P10LE } else { Pixel::YUV420P };
        let (format, width, height) = (decoded.format(), decoded.width(), decoded.height());
        let fits = self.scaler.as_ref().is_some_and(|scaler| {
            let input = scaler.input();
            (input.format, input.width, input.height) == (format, width, height)
                && scaler.output().format == target
        });
        if !fits {
            let (to_width, to_height) = (self.settings.width.into(), self.settings.height.into());
            let flags = software::scaling::Flags::BICUBIC;
            let scaler =
                software::scaling::Context::get(format, width, height, target, to_width, to_height, flags)?;
            self.scaler = Some(scaler);
        }
        let mut picture = frame::Video::empty();
        if let Some(scaler) = &mut self.scaler {
            scaler.run(decoded, &mut picture)?;
        }
        if let Some(mapper) = &self.mapper {
            let mut mapped = raw::allocate(Pixel::YUV420P, picture.width(), picture.height())?;
            mapper.map(&picture, &mut mapped)?;
            picture = mapped;
        }
        raw::set_captions(&mut picture, captions_of(decoded).as_flattened())?;
        Ok(picture)
    }
}

/// Encodes decoded audio of any codec to AAC-LC, 48 kHz stereo.
pub(super) struct AudioRecoder {
    decoder: codec::decoder::Audio,
    resampler: Option<software::resampling::Context>,
    encoder: ContributionAudio,
    /// Resampled samples that do not fill a frame yet, per channel.
    waiting: [Vec<f32>; 2],
    /// Index of the sample after the last encoded one, counted from the origin of the media axis.
    next: Option<i64>,
}

impl AudioRecoder {
    pub(super) fn open(decoder: codec::decoder::Audio) -> Result<Self, EncodeError> {
        let encoder = ContributionAudio::open(AUDIO_BITRATE)?;
        Ok(Self { decoder, resampler: None, encoder, waiting: [Vec::new(), Vec::new()], next: None })
    }

    pub(super) fn packet(
        &mut self,
        packet: &ff::Packet,
        pts: MediaTime,
        out: &mut Vec<Media>,
    ) -> Result<(), DemuxError> {
        let mut placed = packet.clone();
        placed.set_pts(Some(pts.ticks_90k()));
        placed.set_dts(Some(pts.ticks_90k()));
        self.decoder.send_packet(&placed).map_err(DemuxError::Broken)?;
        self.drain(out)
    }

    pub(super) fn finish(&mut self, out: &mut Vec<Media>) -> Result<(), DemuxError> {
        self.decoder.send_eof().map_err(DemuxError::Broken)?;
        self.drain(out)?;
        self.encode_rest(out)?;
        Ok(self.encoder.finish(out)?)
    }

    fn drain(&mut self, out: &mut Vec<Media>) -> Result<(), DemuxError> {
        let mut decoded = frame::Audio::empty();
        while received(self.decoder.receive_frame(&mut decoded)).map_err(DemuxError::Broken)? {
            if let Some(ticks) = decoded.timestamp() {
                self.place(MediaTime::from_ticks_90k(ticks).to_scaled(SAMPLE_RATE), out)?;
            }
            self.resample(&mut decoded).map_err(EncodeError::from)?;
            self.encode(out)?;
        }
        Ok(())
    }

    /// Places the next samples at sample `at`: the first call sets the start, later calls fill holes with silence or,
    /// from [`LONGEST_HOLE`] on, jump over them.
    fn place(&mut self, at: i64, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        let hole = at - *self.next.get_or_insert(at) - self.waiting[0].len() as i64;
        if hole >= LONGEST_HOLE {
            self.encode_rest(out)?;
            self.next = Some(at);
        } else if hole >= HOLE {
            for channel in &mut self.waiting {
                channel.resize(channel.len() + hole as usize, 0.0);
            }
        }
        Ok(())
    }

    /// Encodes the waiting samples, with silence up to the end of their frame.
    fn encode_rest(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        let whole = self.waiting[0].len().next_multiple_of(FRAME_SAMPLES);
        for channel in &mut self.waiting {
            channel.resize(whole, 0.0);
        }
        self.encode(out)
    }

    fn resample(&mut self, decoded: &mut frame::Audio) -> Result<(), ff::Error> {
        if decoded.channel_layout().is_empty() {
            decoded.set_channel_layout(ChannelLayout::default(decoded.channels().into()));
        }
        let (format, layout, rate) = (decoded.format(), decoded.channel_layout(), decoded.rate());
        let fits = self.resampler.as_ref().is_some_and(|resampler| {
            let input = resampler.input();
            (input.format, input.channel_layout, input.rate) == (format, layout, rate)
        });
        let planar = Sample::F32(sample::Type::Planar);
        if !fits {
            let (to, rate_to) = (ChannelLayout::STEREO, SAMPLE_RATE);
            self.resampler =
                Some(software::resampling::Context::get(format, layout, rate, planar, to, rate_to)?);
        }
        let Some(resampler) = &mut self.resampler else { return Ok(()) };
        // Allocate room for all output: samples that do not fit stay inside the resampler and accumulate.
        let room = decoded.samples() * SAMPLE_RATE as usize / (rate as usize).max(1) + 256;
        let mut resampled = frame::Audio::new(planar, room, ChannelLayout::STEREO);
        resampler.run(decoded, &mut resampled)?;
        for (index, channel) in self.waiting.iter_mut().enumerate() {
            channel.extend_from_slice(resampled.plane::<f32>(index));
        }
        Ok(())
    }

    fn encode(&mut self, out: &mut Vec<Media>) -> Result<(), EncodeError> {
        while self.waiting[0].len() >= FRAME_SAMPLES {
            let next = self.next.get_or_insert(0);
            let at = *next;
            *next += FRAME_SAMPLES as i64;
            let [left, right] = &self.waiting;
            self.encoder.encode([&left[..FRAME_SAMPLES], &right[..FRAME_SAMPLES]], at, out)?;
            for channel in &mut self.waiting {
                channel.drain(..FRAME_SAMPLES);
            }
        }
        Ok(())
    }
}
