//! Transcodes audio of any codec and layout to AAC-LC for the audio rendition: decode, downmix and resample, encode.
//! Output times come from counting samples; the count is kept in step with the source's own times.

use super::error::{TranscodeError, is_memory};
use super::raw;
use crate::wire::{AudioRung, WireUnit};
use bytes::Bytes;
use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::software::resampling;
use ffmpeg_next::{
    ChannelLayout, Dictionary, Error, Packet, Rational, codec, decoder, encoder, format, frame,
};
use media::time::{TICKS_PER_SECOND, rescale};
use media::{AudioCodec, MediaTime, Unit};
use std::collections::VecDeque;

/// The source's times and the sample count may differ by this much (40 ms) before silence is inserted or samples are
/// dropped: RTMP rounds times to milliseconds, and some publishers let them jitter by a frame. An AAC frame lasts 21
/// ms at 48 kHz.
const TOLERANCE_TICKS: i64 = TICKS_PER_SECOND * 40 / 1000;

/// Holes up to this length (2 s) are filled with silence; longer ones become a jump in the output times.
const LONGEST_SILENCE_TICKS: i64 = TICKS_PER_SECOND * 2;

const PLANAR: format::Sample = format::Sample::F32(format::sample::Type::Planar);

/// Position on the media axis of the samples that wait for the encoder. Pure counting.
#[derive(Debug)]
struct SampleClock {
    rate: i64,
    /// Media time of sample 0, the sample that `taken` counts from, in 1/90000 s; `None` before the first frame.
    origin: Option<i64>,
    /// Samples taken in since the origin.
    taken: i64,
}

/// How to place decoded samples that carry a certain media time.
#[derive(Debug, PartialEq, Eq)]
enum Fix {
    /// Append them.
    None,
    /// Append this many samples of silence first.
    Silence(i64),
    /// Drop this many of their first samples.
    Skip(i64),
    /// Finish the samples taken so far, and restart the count at the new samples' own time.
    Resync,
}

impl SampleClock {
    fn new(rate: u32) -> Self {
        Self { rate: i64::from(rate.max(1)), origin: None, taken: 0 }
    }

    /// Media time of sample `index` since the origin, in 1/90000 s.
    fn at(&self, index: i64) -> i64 {
        self.origin.unwrap_or(0) + rescale(index, self.rate, TICKS_PER_SECOND)
    }

    fn fix(&self, pts: i64) -> Fix {
        self.fix_within(pts, TOLERANCE_TICKS)
    }

    /// Like [`Self::fix`], with another tolerance.
    fn fix_within(&self, pts: i64, tolerance: i64) -> Fix {
        if self.origin.is_none() {
            return Fix::Resync;
        }
        let late = pts - self.at(self.taken);
        let samples = rescale(late.saturating_abs().min(1 << 40), TICKS_PER_SECOND, self.rate);
        if late.saturating_abs() <= tolerance {
            Fix::None
        } else if late.saturating_abs() > LONGEST_SILENCE_TICKS {
            Fix::Resync
        } else if late > 0 {
            Fix::Silence(samples)
        } else {
            Fix::Skip(samples)
        }
    }
}

/// The published audio.
pub(super) struct AudioFormat {
    /// Codec.
    pub(super) codec: AudioCodec,
    /// Sample rate in Hz, for codecs whose frames do not tell.
    pub(super) sample_rate: u32,
    /// Number of channels, for codecs whose frames do not tell.
    pub(super) channels: u8,
    /// The decoder configuration.
    pub(super) record: Bytes,
}

/// A sound rendition.
pub(super) struct AudioTranscoder {
    /// The track that encoded units are sent as.
    track: u8,
    /// `None` if libav does not take the configuration: the rendition is silent then.
    decoder: Option<decoder::Audio>,
    resampler: Option<resampling::Context>,
    encoder: encoder::audio::Encoder,
    packet: Packet,
    rung: AudioRung,
    layout: ChannelLayout,
    frame_samples: usize,
    clock: SampleClock,
    /// Anchors of the encoder's sample count on the media axis: (sample, media time), one pair for each resync whose
    /// packets may still come.
    anchors: VecDeque<(i64, i64)>,
    /// Samples that wait until a frame is full, one `Vec` per channel.
    waiting: Vec<Vec<f32>>,
    /// Samples sent to the encoder since it was opened.
    encoded: i64,
    last_pts: Option<i64>,
    /// The newest samples are silence up to a mark: the next frame has its exact place, however near it is.
    is_marked: bool,
    errors: u64,
}

type Out<'a> = &'a mut dyn FnMut(WireUnit) -> Result<(), TranscodeError>;

impl AudioTranscoder {
    /// Opens the decoder and the encoder, and returns the encoder's AudioSpecificConfig. A decoder that does not open is
    /// logged, and the rendition is silent: sound that cannot be decoded must not end the pictures.
    pub(super) fn open(
        track: u8,
        format: &AudioFormat,
        rung: &AudioRung,
    ) -> Result<(Self, Bytes), TranscodeError> {
        let sound = format.record.is_empty().then(|| (format.sample_rate, format.channels.clamp(1, 8)));
        let decoder =
            raw::parameters(ffmpeg_next::media::Type::Audio, decoder_id(format.codec), &format.record, sound)
                .and_then(codec::Context::from_parameters)
                .and_then(|context| {
                    let mut decoder = context.decoder();
                    decoder.set_packet_time_base(Rational(1, TICKS_PER_SECOND as i32));
                    decoder.audio()
                })
                .inspect_err(|error| {
                    super::log(format_args!("audio decoder does not take the configuration: {error}"));
                })
                .ok();
        let layout = if rung.channels == 1 { ChannelLayout::MONO } else { ChannelLayout::STEREO };
        let (encoder, config) = open_encoder(rung, layout)?;
        let frame_samples = match encoder.frame_size() {
            0 => 1024,
            samples => samples as usize,
        };
        let transcoder = Self {
            track,
            decoder,
            resampler: None,
            encoder,
            packet: Packet::empty(),
            rung: rung.clone(),
            layout,
            frame_samples,
            clock: SampleClock::new(rung.sample_rate),
            anchors: VecDeque::new(),
            waiting: vec![Vec::new(); layout.channels() as usize],
            encoded: 0,
            last_pts: None,
            is_marked: false,
            errors: 0,
        };
        Ok((transcoder, config))
    }

    /// Decodes one access unit and passes the encoded units that are ready to `out`. Silence takes the place of what
    /// cannot be decoded, and fills the time up to a unit without data.
    pub(super) fn submit(&mut self, unit: &Unit, out: Out<'_>) -> Result<(), TranscodeError> {
        if unit.data.is_empty() {
            self.is_marked = true;
            return self.be_silent_until(unit.pts.ticks_90k(), out);
        }
        let mut packet = Packet::copy(&unit.data);
        packet.set_pts(Some(unit.pts.ticks_90k()));
        packet.set_dts(Some(unit.pts.ticks_90k()));
        let sent = match &mut self.decoder {
            Some(decoder) => decoder.send_packet(&packet),
            None => Err(Error::InvalidData),
        };
        let errors = self.errors;
        match sent {
            Ok(()) => self.take_decoded(out)?,
            Err(error) if is_memory(error) => return Err(TranscodeError::Memory("audio decoding")),
            Err(_) => self.errors += 1,
        }
        if self.errors > errors { self.be_silent_until(unit.pts.ticks_90k(), out) } else { Ok(()) }
    }

    /// Fills the time up to `pts` with silence, if it is too long to be jitter.
    fn be_silent_until(&mut self, pts: i64, out: Out<'_>) -> Result<(), TranscodeError> {
        match self.clock.fix(pts) {
            Fix::None | Fix::Skip(_) => Ok(()),
            Fix::Silence(samples) => {
                self.insert_silence(samples);
                self.encode_waiting(false, out)
            }
            Fix::Resync => self.resync(pts, out),
        }
    }

    fn insert_silence(&mut self, samples: i64) {
        for channel in &mut self.waiting {
            channel.resize(channel.len() + samples as usize, 0.0);
        }
        self.clock.taken += samples;
    }

    /// Pads the waiting samples with silence to the end of a frame, and restarts the count of samples at `origin`.
    fn resync(&mut self, origin: i64, out: Out<'_>) -> Result<(), TranscodeError> {
        self.flush_resampler()?;
        self.encode_waiting(true, out)?;
        self.clock.origin = Some(origin);
        self.clock.taken = 0;
        self.anchors.push_back((self.encoded, origin));
        Ok(())
    }

    /// Ends the input: pads the waiting samples to a whole frame and drains decoder and encoder into `out`.
    pub(super) fn finish(&mut self, out: Out<'_>) -> Result<(), TranscodeError> {
        if let Some(decoder) = &mut self.decoder {
            // `send_eof` fails only when the end was signalled before.
            let _ = decoder.send_eof();
        }
        self.take_decoded(out)?;
        self.flush_resampler()?;
        self.encode_waiting(true, out)?;
        self.encoder.send_eof().map_err(failed)?;
        self.drain(out)
    }

    /// Decode errors since the last call.
    pub(super) fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }

    fn take_decoded(&mut self, out: Out<'_>) -> Result<(), TranscodeError> {
        loop {
            let mut decoded = frame::Audio::empty();
            let Some(decoder) = &mut self.decoder else { return Ok(()) };
            match decoder.receive_frame(&mut decoded) {
                Ok(()) => {}
                Err(Error::Eof | Error::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) if is_memory(error) => {
                    return Err(TranscodeError::Memory("audio decoding"));
                }
                Err(Error::Other { .. }) => return Ok(()),
                Err(_) => {
                    self.errors += 1;
                    continue;
                }
            }
            if decoded.samples() == 0 || decoded.rate() == 0 || decoded.channels() == 0 {
                continue;
            }
            if decoded.channel_layout().is_empty() {
                decoded.set_channel_layout(ChannelLayout::default(decoded.channels().into()));
            }
            self.take_frame(&decoded, out)?;
        }
    }

    fn take_frame(&mut self, decoded: &frame::Audio, out: Out<'_>) -> Result<(), TranscodeError> {
        let tolerance = if std::mem::take(&mut self.is_marked) { 0 } else { TOLERANCE_TICKS };
        let fix = decoded.pts().map_or(Fix::None, |pts| self.clock.fix_within(pts, tolerance));
        match fix {
            Fix::None => self.resample(decoded)?,
            Fix::Silence(samples) => {
                self.insert_silence(samples);
                self.resample(decoded)?;
            }
            Fix::Skip(samples) => {
                let before = self.waiting[0].len();
                self.resample(decoded)?;
                let came = self.waiting[0].len() - before;
                let drop = came.min(samples as usize);
                for channel in &mut self.waiting {
                    channel.drain(before..before + drop);
                }
                self.clock.taken -= drop as i64;
            }
            Fix::Resync => {
                self.resync(decoded.pts().unwrap_or(0), out)?;
                self.resample(decoded)?;
            }
        }
        self.encode_waiting(false, out)
    }

    fn resample(&mut self, decoded: &frame::Audio) -> Result<(), TranscodeError> {
        let fits = self.resampler.as_ref().is_some_and(|r| {
            let made_for = r.input();
            made_for.format == decoded.format()
                && made_for.rate == decoded.rate()
                && made_for.channel_layout == decoded.channel_layout()
        });
        if !fits {
            // HE-AAC with implicit signalling changes its sample rate after the first frames; publishers change their
            // channel layout.
            self.flush_resampler()?;
            // Without `rematrix_maxval`, libswresample's downmix sums channels beyond full scale when its output is
            // float.
            let options = Dictionary::from_iter([("rematrix_maxval", "1.0")]);
            let made = resampling::Context::get_with(
                decoded.format(),
                decoded.channel_layout(),
                decoded.rate(),
                PLANAR,
                self.layout,
                self.rung.sample_rate,
                options,
            );
            self.resampler = Some(made.map_err(|source| TranscodeError::libav("resampling", source))?);
        }
        self.convert(Some(decoded))
    }

    fn flush_resampler(&mut self) -> Result<(), TranscodeError> {
        self.convert(None)?;
        self.resampler = None;
        Ok(())
    }

    fn convert(&mut self, decoded: Option<&frame::Audio>) -> Result<(), TranscodeError> {
        let Some(resampler) = &mut self.resampler else { return Ok(()) };
        let before = self.waiting[0].len();
        raw::convert(resampler, decoded, &mut self.waiting)
            .map_err(|source| TranscodeError::libav("resampling", source))?;
        self.clock.taken += (self.waiting[0].len() - before) as i64;
        Ok(())
    }

    /// Encodes all whole frames that wait. With `all`, also encodes the remaining samples, padded with silence.
    fn encode_waiting(&mut self, all: bool, out: Out<'_>) -> Result<(), TranscodeError> {
        let mut done = 0;
        loop {
            let left = self.waiting[0].len() - done;
            if left == 0 || (left < self.frame_samples && !all) {
                break;
            }
            let samples = left.min(self.frame_samples);
            let mut frame = frame::Audio::new(PLANAR, self.frame_samples, self.layout);
            frame.set_rate(self.rung.sample_rate);
            for (index, channel) in self.waiting.iter().enumerate() {
                let plane = frame.plane_mut::<f32>(index);
                plane[..samples].copy_from_slice(&channel[done..done + samples]);
                plane[samples..].fill(0.0);
            }
            // Times in samples keep the encoder's own arithmetic exact; `drain` adds the origin afterwards.
            frame.set_pts(Some(self.encoded));
            done += samples;
            self.encoder.send_frame(&frame).map_err(failed)?;
            self.encoded += self.frame_samples as i64;
            self.drain(out)?;
        }
        for channel in &mut self.waiting {
            channel.drain(..done);
        }
        Ok(())
    }

    fn drain(&mut self, out: Out<'_>) -> Result<(), TranscodeError> {
        loop {
            match self.encoder.receive_packet(&mut self.packet) {
                Ok(()) => {}
                Err(Error::Eof | Error::Other { .. }) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let (Some(data), Some(samples)) = (self.packet.data(), self.packet.pts()) else { continue };
            while self.anchors.get(1).is_some_and(|&(from, _)| from <= samples) {
                self.anchors.pop_front();
            }
            let Some(&(from, origin)) = self.anchors.front() else { continue };
            let rate = i64::from(self.rung.sample_rate.max(1));
            let pts = origin + rescale(samples - from, rate, TICKS_PER_SECOND);
            // The packet before sample 0 is the encoder's priming (its `initial_padding`), not audio of the stream:
            // dropping it keeps audio from beginning before the source did.
            if samples < 0 || self.last_pts.is_some_and(|last| pts <= last) {
                continue;
            }
            self.last_pts = Some(pts);
            let pts = MediaTime::from_ticks_90k(pts);
            let unit = Unit { pts, dts: pts, key: true, data: Bytes::copy_from_slice(data) };
            out(WireUnit { track: self.track, unit })?;
        }
    }
}

fn decoder_id(codec: AudioCodec) -> codec::Id {
    match codec {
        AudioCodec::Aac => codec::Id::AAC,
        AudioCodec::Mp3 => codec::Id::MP3,
        AudioCodec::Opus => codec::Id::OPUS,
        AudioCodec::Flac => codec::Id::FLAC,
        AudioCodec::Ac3 => codec::Id::AC3,
        AudioCodec::Eac3 => codec::Id::EAC3,
        AudioCodec::Speex => codec::Id::SPEEX,
        AudioCodec::Alaw => codec::Id::PCM_ALAW,
        AudioCodec::Mulaw => codec::Id::PCM_MULAW,
        AudioCodec::PcmS16 => codec::Id::PCM_S16LE,
        AudioCodec::PcmU8 => codec::Id::PCM_U8,
        AudioCodec::Nellymoser => codec::Id::NELLYMOSER,
        AudioCodec::AdpcmFlash => codec::Id::ADPCM_SWF,
    }
}

fn open_encoder(
    rung: &AudioRung,
    layout: ChannelLayout,
) -> Result<(encoder::audio::Encoder, Bytes), TranscodeError> {
    let codec = encoder::find(codec::Id::AAC).ok_or_else(|| TranscodeError::NoEncoder("aac".into()))?;
    let open_failed = |source| TranscodeError::open_encoder("audio", source);
    let mut audio = codec::Context::new_with_codec(codec).encoder().audio().map_err(open_failed)?;
    audio.set_rate(rung.sample_rate as i32);
    audio.set_format(PLANAR);
    audio.set_channel_layout(layout);
    audio.set_bit_rate(rung.bitrate as usize);
    audio.set_time_base(Rational(1, rung.sample_rate as i32));
    audio.set_flags(codec::Flags::GLOBAL_HEADER);
    let unknown = raw::open(&mut audio, &codec, Dictionary::new()).map_err(open_failed)?;
    for option in unknown {
        super::log(format_args!("encoder aac does not know the option {option}"));
    }
    let encoder = encoder::audio::Encoder(audio);
    let config = Bytes::copy_from_slice(raw::extradata(&encoder));
    Ok((encoder, config))
}

fn failed(source: Error) -> TranscodeError {
    TranscodeError::libav("audio encoding", source)
}

#[cfg(test)]
mod tests;
