//! Encodes pictures to H.264 access units for one rung: the encoder's settings, and its output in the form that is
//! packaged (length-prefixed NAL units, avcC). [`super::cadence`] decides which picture is an IDR.

use super::error::TranscodeError;
use super::raw;
use crate::wire::{VideoRung, VideoSettings, WireUnit};
use bytes::Bytes;
use ffmpeg_next::codec::packet::side_data::Type as SideData;
use ffmpeg_next::codec::{self, threading};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, encoder, format, frame, picture};
use media::h264::{self, ParameterSets};
use media::time::TICKS_PER_SECOND;
use media::{MediaTime, Unit};

/// Rungs whose shorter side has at most this many pixels get Main profile: such rungs exist for old devices, and the
/// 8x8 transform of High profile gains least at their size.
const MAIN_PROFILE_UP_TO: u16 = 270;

/// Luma samples per second that one x264 thread encodes at preset veryfast with half of its time to spare.
const PIXELS_PER_THREAD: f64 = 70e6;

/// Number of x264 threads for a rung. Rungs run in parallel already, and each frame thread costs memory and one frame
/// of delay. Only rungs that one thread could not encode in real time get more, and never more than there are
/// processors.
pub(super) fn threads(rung: &VideoRung, preset: &str, processors: usize) -> usize {
    let pixels = f64::from(rung.width) * f64::from(rung.height);
    let rate = crate::wire::rate_of(rung.frame_rate);
    let cost = match preset {
        "ultrafast" | "superfast" => 0.6,
        "faster" => 1.6,
        "fast" => 2.2,
        "medium" => 2.8,
        "slow" | "slower" | "veryslow" | "placebo" => 6.0,
        _ => 1.0,
    };
    let needed = (pixels * rate * cost / PIXELS_PER_THREAD).ceil().clamp(1.0, 16.0) as usize;
    needed.min(processors.max(1))
}

/// The encoder of one rung.
pub(super) struct VideoEncoder {
    inner: encoder::video::Encoder,
    packet: Packet,
    track: u8,
    last_pts: Option<i64>,
    last_dts: Option<i64>,
    work: EncodeWork,
}

/// Work that an encoder has done since [`VideoEncoder::take_work`] was last called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EncodeWork {
    /// Encoded pictures.
    pub(super) pictures: u64,
    /// Sum of the pictures' mean quantisers, where the encoder reports them.
    pub(super) quantisers: u64,
}

impl VideoEncoder {
    /// Opens an encoder for pictures with the format of `like`, which has the rung's size, and returns the encoder's
    /// avcC.
    pub(super) fn open(
        track: u8,
        rung: &VideoRung,
        settings: &VideoSettings,
        like: &frame::Video,
        processors: usize,
    ) -> Result<(Self, Bytes), TranscodeError> {
        let open_failed = |source| TranscodeError::open_encoder(&rung.name, source);
        let codec = encoder::find_by_name(&settings.encoder)
            .ok_or_else(|| TranscodeError::NoEncoder(settings.encoder.clone()))?;
        let mut video = codec::Context::new_with_codec(codec).encoder().video().map_err(open_failed)?;
        video.set_width(rung.width.into());
        video.set_height(rung.height.into());
        video.set_aspect_ratio(Rational(1, 1));
        video.set_format(format::Pixel::YUV420P);
        video.set_time_base(Rational(1, TICKS_PER_SECOND as i32));
        video.set_frame_rate(Some(Rational(rung.frame_rate.0 as i32, rung.frame_rate.1.max(1) as i32)));
        video.set_bit_rate(rung.bitrate as usize);
        video.set_max_bit_rate(rung.bitrate as usize);
        let buffer = u64::from(rung.bitrate) * u64::from(settings.vbv_ms) / 1000;
        raw::set_rate_buffer(&mut video, i32::try_from(buffer).unwrap_or(i32::MAX));
        // Keyframes come from the grid alone.
        video.set_gop(i32::MAX as u32);
        video.set_max_b_frames(settings.b_frames as usize);
        video.set_color_range(like.color_range());
        video.set_colorspace(like.color_space());
        video.set_color_primaries(like.color_primaries());
        video.set_color_transfer_characteristic(like.color_transfer_characteristic());
        video.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::CLOSED_GOP);
        video.set_threading(threading::Config {
            kind: threading::Type::Frame,
            count: threads(rung, &settings.preset, processors),
            ..Default::default()
        });

        let mut options = Dictionary::new();
        options.set("preset", &settings.preset);
        options.set("forced-idr", "1");
        if settings.encoder == "libx264" {
            let main = rung.width.min(rung.height) <= MAIN_PROFILE_UP_TO;
            options.set("profile", if main { "main" } else { "high" });
            options.set("x264-params", &x264_params(settings));
        }
        let unknown = raw::open(&mut video, &codec, options).map_err(open_failed)?;
        for option in unknown {
            super::log(format_args!("encoder {} does not know the option {option}", settings.encoder));
        }
        let inner = encoder::video::Encoder(video);
        let record = ParameterSets::of_annex_b(raw::extradata(&inner))
            .record()
            .map_err(|source| TranscodeError::EncoderConfig { name: rung.name.clone(), source })?;
        let packet = Packet::empty();
        Ok((
            Self { inner, packet, track, last_pts: None, last_dts: None, work: EncodeWork::default() },
            record,
        ))
    }

    /// Encodes a picture and passes the units that are ready to `out`.
    ///
    /// A picture that is not later than the previous one is dropped: neither an encoder nor a playlist can use it.
    pub(super) fn encode(
        &mut self,
        mut picture: frame::Video,
        pts: MediaTime,
        key: bool,
        out: &mut dyn FnMut(WireUnit) -> Result<(), TranscodeError>,
    ) -> Result<(), TranscodeError> {
        let ticks = pts.ticks_90k();
        if self.last_pts.is_some_and(|last| ticks <= last) {
            return Ok(());
        }
        self.last_pts = Some(ticks);
        picture.set_pts(Some(ticks));
        // The decoder leaves the source's picture type in the frame, and the encoder would obey that type.
        picture.set_kind(if key { picture::Type::I } else { picture::Type::None });
        self.inner.send_frame(&picture).map_err(failed)?;
        self.drain(out)
    }

    /// Ends the input: passes the remaining units to `out`.
    pub(super) fn finish(
        &mut self,
        out: &mut dyn FnMut(WireUnit) -> Result<(), TranscodeError>,
    ) -> Result<(), TranscodeError> {
        self.inner.send_eof().map_err(failed)?;
        self.drain(out)
    }

    /// Returns and resets the work done since the last call.
    pub(super) fn take_work(&mut self) -> EncodeWork {
        std::mem::take(&mut self.work)
    }

    fn drain(
        &mut self,
        out: &mut dyn FnMut(WireUnit) -> Result<(), TranscodeError>,
    ) -> Result<(), TranscodeError> {
        loop {
            match self.inner.receive_packet(&mut self.packet) {
                Ok(()) => {}
                Err(Error::Eof) => return Ok(()),
                Err(Error::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            let Some(data) = self.packet.data() else { continue };
            let pts = self.packet.pts().unwrap_or_default();
            let dts = self.packet.dts().unwrap_or(pts);
            // x264's dts grow strictly by themselves; for other encoders this enforces it.
            let dts = self.last_dts.map_or(dts, |last| dts.max(last + 1));
            self.last_dts = Some(dts);
            self.work.pictures += 1;
            self.work.quantisers += quantiser(&self.packet).unwrap_or(0);
            let unit = Unit {
                pts: MediaTime::from_ticks_90k(pts),
                dts: MediaTime::from_ticks_90k(dts),
                key: self.packet.is_key(),
                data: h264::annex_b_to_length_prefixed(data),
            };
            out(WireUnit { track: self.track, unit })?;
        }
    }
}

/// A picture's mean quantiser as reported by its encoder: AV_PKT_DATA_QUALITY_STATS (libavcodec/packet.h) begins with
/// the quality as a 32-bit number, 118 per quantiser step (FF_QP2LAMBDA, libavutil/avutil.h).
fn quantiser(packet: &Packet) -> Option<u64> {
    let stats = packet.side_data().find(|data| data.kind() == SideData::QualityStats)?;
    let quality = u32::from_le_bytes(*stats.data().first_chunk()?);
    Some((u64::from(quality) + 59) / 118)
}

/// x264 settings for which libav has no option; the lookahead comes from the job.
///
/// No B-pyramid: it adds a picture of delay and 19 MB to a ladder of 720p, 480p and 360p, for SSIM within 0.13 dB
/// either way at three B-frames (Big Buck Bunny at 2.8, 1.4 and 0.8 Mbit/s).
fn x264_params(settings: &VideoSettings) -> String {
    format!(
        "keyint=infinite:scenecut=0:open-gop=0:nal-hrd=none:b-pyramid=none:rc-lookahead={}:sync-lookahead=0",
        settings.lookahead_frames,
    )
}

fn failed(source: Error) -> TranscodeError {
    TranscodeError::libav("encoding", source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(width: u16, height: u16, rate: u32) -> VideoRung {
        VideoRung { name: "r".into(), width, height, frame_rate: (rate, 1), bitrate: 1_000_000 }
    }

    #[test]
    fn threads_follow_the_work_and_the_processors() {
        assert_eq!(threads(&rung(1280, 720, 30), "veryfast", 8), 1);
        assert_eq!(threads(&rung(1920, 1080, 60), "veryfast", 8), 2);
        assert_eq!(threads(&rung(1920, 1080, 60), "veryfast", 1), 1);
        assert_eq!(threads(&rung(3840, 2160, 60), "medium", 64), 16);
        assert_eq!(threads(&rung(2, 2, 0), "veryfast", 0), 1);
    }
}
