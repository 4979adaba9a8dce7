//! Decodes access units to pictures. Damaged units are counted and skipped. Not here: scaling, and the decision which
//! pictures are encoded.

use super::error::{TranscodeError, is_memory_for};
use super::raw;
use ffmpeg_next::codec::{self, packet, threading};
use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Dictionary, Error, Packet, decoder, frame};
use media::h264::Record;
use media::{MediaTime, Unit, VideoCodec};

/// A decoded picture.
pub(super) struct DecodedPicture {
    /// Pixels and properties.
    pub(super) frame: frame::Video,
    /// Presentation time.
    pub(super) pts: MediaTime,
}

/// A video decoder for one configuration.
pub(super) struct VideoDecoder {
    inner: decoder::Video,
    errors: u64,
    out_of_memory: bool,
}

impl VideoDecoder {
    /// Opens a decoder for the configuration record as published.
    ///
    /// With `threads` above 1 the slices of a picture are decoded in parallel. Unlike threads for whole frames, slice
    /// threads neither delay pictures nor multiply memory.
    /// The decoder refuses pictures of more than `max_pixels` (0: libav's own limit) before it allocates them: a second
    /// wall, because the publisher's parameter sets were judged before.
    pub(super) fn open(
        codec: VideoCodec,
        record: &[u8],
        threads: usize,
        max_pixels: u64,
    ) -> Result<Self, TranscodeError> {
        let id = match codec {
            VideoCodec::H264 => {
                // Validate the record first: libavcodec opens with any record and then decodes nothing.
                Record::read(record).map_err(TranscodeError::VideoRecord)?;
                codec::Id::H264
            }
            VideoCodec::Hevc => codec::Id::HEVC,
            VideoCodec::Av1 => codec::Id::AV1,
            VideoCodec::Vp9 => codec::Id::VP9,
            VideoCodec::Vp8 => codec::Id::VP8,
        };
        let open = || -> Result<decoder::Video, Error> {
            let parameters = raw::parameters(ffmpeg_next::media::Type::Video, id, record, None)?;
            let mut context = codec::Context::from_parameters(parameters)?;
            context.set_threading(threading::Config {
                kind: threading::Type::Slice,
                count: threads,
                ..Default::default()
            });
            let mut options = Dictionary::new();
            if max_pixels > 0 {
                options.set("max_pixels", &max_pixels.to_string());
            }
            if codec == VideoCodec::Av1 {
                // Threads for whole frames would delay pictures. Decoders other than libdav1d ignore this.
                options.set("max_frame_delay", "1");
            }
            let decoder = decoder::find(id).ok_or(Error::DecoderNotFound)?;
            context.decoder().open_as_with(decoder, options)?.video()
        };
        Ok(Self { inner: open().map_err(TranscodeError::VideoConfig)?, errors: 0, out_of_memory: false })
    }

    /// Submits one access unit. Fetch the pictures with [`Self::receive`] until it returns `None`.
    pub(super) fn submit(&mut self, unit: &Unit) {
        let mut packet = Packet::copy(&unit.data);
        packet.set_pts(Some(unit.pts.ticks_90k()));
        packet.set_dts(Some(unit.dts.ticks_90k()));
        if unit.key {
            packet.set_flags(packet::Flags::KEY);
        }
        // An empty packet would end the input.
        if unit.data.is_empty() {
            self.errors += 1;
        } else if let Err(error) = self.inner.send_packet(&packet) {
            self.failed(error);
        }
    }

    /// Ends the input: the pictures still inside the decoder come out of [`Self::receive`].
    pub(super) fn finish(&mut self) {
        // `send_eof` fails only when the end was signalled before, which changes nothing.
        let _ = self.inner.send_eof();
    }

    /// The next picture in display order, or `None` when none is ready.
    pub(super) fn receive(&mut self) -> Option<DecodedPicture> {
        loop {
            let mut frame = frame::Video::empty();
            match self.inner.receive_frame(&mut frame) {
                Ok(()) => {
                    if frame.is_corrupt() || frame.has_decode_errors() {
                        // Concealed by the decoder: shown all the same, as a player would.
                        self.errors += 1;
                    }
                    let Some(pts) = frame.pts().or(frame.timestamp()) else { continue };
                    return Some(DecodedPicture { frame, pts: MediaTime::from_ticks_90k(pts) });
                }
                Err(Error::Eof | Error::Other { errno: EAGAIN }) => return None,
                Err(error @ Error::Other { .. }) => {
                    self.out_of_memory |= self.is_memory(error);
                    return None;
                }
                Err(error) => self.failed(error),
            }
        }
    }

    fn failed(&mut self, error: Error) {
        self.errors += 1;
        self.out_of_memory |= self.is_memory(error);
    }

    /// Whether the error may come from the allocation of a picture: its largest plane, at up to two bytes a sample.
    fn is_memory(&self, error: Error) -> bool {
        let plane = u64::from(self.inner.width()) * u64::from(self.inner.height()) * 2;
        is_memory_for(error, usize::try_from(plane).unwrap_or(usize::MAX))
    }

    /// Fails once an allocation has failed: every further picture would.
    pub(super) fn check_memory(&self) -> Result<(), TranscodeError> {
        if self.out_of_memory { Err(TranscodeError::Memory("video decoding")) } else { Ok(()) }
    }

    /// Units that could not be decoded, or only in part, since the last call.
    pub(super) fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }
}
