//! Audio tags: headers, old and enhanced, and the frames behind them.
//!
//! What belongs here: which codec a tag has, where its frames begin, and configurations that have to be made because none
//! was sent. What does not: video; the codecs' own bytes, which are read by the crate `media`.

use super::track::{self, Found, TrackPacket};
use super::{CodedAudio, FlvError, Tag, four_cc};
use crate::{MessageKind, Metadata};
use bytes::Bytes;
use media::{AudioCodec, AudioConfig, MAX_SOUND_TRACKS, SoundTrackId, aac, sound};

/// Packet types of Enhanced RTMP audio. The first two are also AACPacketType of FLV.
mod packet {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const MULTICHANNEL_CONFIG: u8 = 4;
    pub(super) const MULTITRACK: u8 = 5;
}

const SHORT: &str = "short audio tag";

/// Frames of AAC without a configuration that are passed over before one is assumed: a late configuration is waited for.
const AAC_WITHOUT_CONFIG: u32 = 10;

/// Reads the audio tags of one publisher.
#[derive(Clone, Debug, Default)]
pub(super) struct AudioReader {
    /// The present configuration.
    config: Option<AudioConfig>,
    /// Frames of AAC without a configuration so far.
    without_config: u32,
    /// `audiosamplerate` of `onMetaData` in Hz.
    metadata_rate: Option<u32>,
}

impl AudioReader {
    pub(super) fn metadata(&mut self, metadata: &Metadata) {
        let rate = metadata.audio_sample_rate.filter(|rate| (7_350.0..=96_000.0).contains(rate));
        self.metadata_rate = rate.map(|rate| rate as u32);
    }

    pub(super) fn read(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        let Some(&first) = body.first() else { return Ok(Tag::Nothing) };
        match first >> 4 {
            9 => self.enhanced(body),
            10 => match body.get(1) {
                None => Ok(Tag::Nothing),
                Some(&packet::SEQUENCE_START) => self.sequence_start(AudioCodec::Aac, &body.slice(2..)),
                Some(&packet::CODED_FRAMES) => self.frame(AudioCodec::Aac, &body.slice(2..)),
                Some(_) => Err(FlvError::Unreadable("unknown AAC packet type")),
            },
            format => self.legacy(format, first, &body.slice(1..)),
        }
    }

    /// Enhanced RTMP: sound format 9, 4 bits of packet type, FourCC.
    fn enhanced(&mut self, body: &Bytes) -> Result<Tag, FlvError> {
        /// No packet type of audio lacks the FourCC.
        const NONE: u8 = u8::MAX;
        let packet = match track::find(body, packet::MULTITRACK, NONE, SHORT)? {
            Found::Packet(packet) => packet,
            Found::Bare => return Ok(Tag::Nothing),
            Found::OtherTrack => return Ok(Tag::OtherTrack),
        };
        self.packet(packet)
    }

    /// Reads a packet of an enhanced message.
    fn packet(&mut self, packet: TrackPacket) -> Result<Tag, FlvError> {
        let codec = four_cc::find(&four_cc::AUDIO, &packet.four_cc)
            .ok_or(FlvError::Unreadable("audio of an unknown FourCC"))?;
        match packet.packet_type {
            packet::SEQUENCE_START => self.sequence_start(codec, &packet.data),
            packet::CODED_FRAMES => self.frame(codec, &packet.data),
            packet::SEQUENCE_END => Ok(Tag::EndOfSequence(MessageKind::Audio)),
            // The decoder finds the channels in the codec's own bytes.
            packet::MULTICHANNEL_CONFIG => Ok(Tag::Nothing),
            _ => Err(FlvError::Unreadable("unknown audio packet type")),
        }
    }

    /// FLV: four bits of sound format, two of rate, one of size, one of type (annex E.4.2.1).
    fn legacy(&mut self, format: u8, head: u8, data: &Bytes) -> Result<Tag, FlvError> {
        let rate = [5512, 11_025, 22_050, 44_100][usize::from(head >> 2 & 3)];
        let is_16_bit = head & 2 != 0;
        let channels = 1 + (head & 1);
        let config = match format {
            0 | 3 if is_16_bit => sound::config(AudioCodec::PcmS16, rate, channels, 0),
            0 | 3 => sound::config(AudioCodec::PcmU8, rate, channels, 0),
            1 => sound::config(AudioCodec::AdpcmFlash, rate, channels, 0),
            2 | 14 => return self.frame(AudioCodec::Mp3, data),
            4 => sound::config(AudioCodec::Nellymoser, 16_000, 1, 0),
            5 => sound::config(AudioCodec::Nellymoser, 8_000, 1, 0),
            6 => sound::config(AudioCodec::Nellymoser, rate, channels, 0),
            7 => sound::config(AudioCodec::Alaw, 8_000, channels, 0),
            8 => sound::config(AudioCodec::Mulaw, 8_000, channels, 0),
            11 => sound::config(AudioCodec::Speex, 16_000, 1, 0),
            _ => return Err(FlvError::Unreadable("audio of an unknown sound format")),
        };
        if data.is_empty() {
            return Ok(Tag::Nothing);
        }
        Ok(self.coded(config, vec![data.clone()]))
    }

    fn sequence_start(&mut self, codec: AudioCodec, record: &Bytes) -> Result<Tag, FlvError> {
        if record.is_empty() {
            return Ok(Tag::Nothing);
        }
        let config = match codec {
            AudioCodec::Aac => {
                aac::read_config(record, None).map_err(|error| FlvError::Unreadable(error.reason()))?
            }
            AudioCodec::Opus => {
                sound::opus(record).ok_or(FlvError::Unreadable("Opus configuration cannot be read"))?
            }
            AudioCodec::Flac => {
                sound::flac(record).ok_or(FlvError::Unreadable("FLAC configuration cannot be read"))?
            }
            // Their frames tell everything.
            AudioCodec::Mp3
            | AudioCodec::Ac3
            | AudioCodec::Eac3
            | AudioCodec::Speex
            | AudioCodec::Alaw
            | AudioCodec::Mulaw
            | AudioCodec::PcmS16
            | AudioCodec::PcmU8
            | AudioCodec::Nellymoser
            | AudioCodec::AdpcmFlash => return Ok(Tag::Nothing),
        };
        self.config = Some(config.clone());
        Ok(Tag::AudioConfig(config))
    }

    fn frame(&mut self, codec: AudioCodec, data: &Bytes) -> Result<Tag, FlvError> {
        if data.is_empty() {
            return Ok(Tag::Nothing);
        }
        let present = self.config.clone().filter(|config| config.codec == codec);
        let config = match codec {
            AudioCodec::Aac => return self.aac_frame(present, data),
            AudioCodec::Mp3 => sound::mpeg_audio(data).or(present),
            AudioCodec::Ac3 | AudioCodec::Eac3 => sound::ac3(data).or(present),
            AudioCodec::Opus => present.or_else(|| sound::opus_of_packet(data)),
            AudioCodec::Flac
            | AudioCodec::Speex
            | AudioCodec::Alaw
            | AudioCodec::Mulaw
            | AudioCodec::PcmS16
            | AudioCodec::PcmU8
            | AudioCodec::Nellymoser
            | AudioCodec::AdpcmFlash => present,
        };
        let config = config.ok_or(FlvError::Unreadable("audio before its configuration"))?;
        Ok(self.coded(config, vec![data.clone()]))
    }

    /// AAC: raw frames, or frames with ADTS headers, which some senders leave before each of them.
    fn aac_frame(&mut self, present: Option<AudioConfig>, data: &Bytes) -> Result<Tag, FlvError> {
        if let Some((record, frames)) = adts(data) {
            // The configuration that was sent says more than the header, such as SBR.
            let config = match present {
                Some(config) => config,
                None => aac::read_config(&Bytes::copy_from_slice(&record), None)
                    .map_err(|error| FlvError::Unreadable(error.reason()))?,
            };
            return Ok(self.coded(config, frames));
        }
        if let Some(config) = present {
            return Ok(self.coded(config, vec![data.clone()]));
        }
        self.without_config += 1;
        if self.without_config < AAC_WITHOUT_CONFIG {
            return Err(FlvError::Unreadable("audio before its configuration"));
        }
        // AAC-LC at the rate that onMetaData gives, with as many channels as the frame's first element: 0 is a single
        // channel, 1 a pair (ISO/IEC 14496-3 table 4.85).
        let channels = if data[0] >> 5 == 0 { 1 } else { 2 };
        let config = aac::lc_config(self.metadata_rate.unwrap_or(44_100), channels)
            .ok_or(FlvError::Unreadable("audio before its configuration"))?;
        Ok(self.coded(config, vec![data.clone()]))
    }

    /// Frames of this configuration, which comes with them if it is not the present one.
    fn coded(&mut self, config: AudioConfig, frames: Vec<Bytes>) -> Tag {
        let changes = self.config.as_ref() != Some(&config);
        if changes {
            self.config = Some(config.clone());
        }
        Tag::Audio(CodedAudio { frames, config: changes.then_some(config) })
    }
}

/// Reads the sound tracks beside the first one: [`MAX_SOUND_TRACKS`] with the first.
#[derive(Clone, Debug, Default)]
pub(super) struct OtherTracks {
    readers: Vec<(SoundTrackId, AudioReader)>,
}

/// What an audio message has for the tracks beside the first one.
#[derive(Debug, Default)]
pub struct OtherSound {
    /// Tags of the tracks that are read, in the order of the message.
    pub tags: Vec<(SoundTrackId, Result<Tag, FlvError>)>,
    /// Number of packets of further tracks, which are passed over.
    pub passed_over: u64,
}

impl OtherTracks {
    /// Reads an audio tag. A track is taken up with its first packet that can be read, if there is room.
    pub(super) fn read(&mut self, body: &Bytes) -> OtherSound {
        let mut found = OtherSound::default();
        if body.first().is_none_or(|first| first >> 4 != 9) {
            return found;
        }
        for (number, packet) in track::others(body, packet::MULTITRACK, SHORT) {
            let Some(id) = SoundTrackId::new(number) else { continue };
            if let Some((_, reader)) = self.readers.iter_mut().find(|(known, _)| *known == id) {
                found.tags.push((id, reader.packet(packet)));
                continue;
            }
            if self.readers.len() + 1 >= MAX_SOUND_TRACKS {
                found.passed_over += 1;
                continue;
            }
            let mut reader = AudioReader::default();
            let tag = reader.packet(packet);
            if matches!(tag, Ok(Tag::AudioConfig(_) | Tag::Audio(_))) {
                self.readers.push((id, reader));
            }
            found.tags.push((id, tag));
        }
        found
    }
}

/// Splits a message into ADTS frames: the AudioSpecificConfig of the first header, and the raw frames. `None` unless the
/// message consists of whole ADTS frames: a raw frame may begin with the bits of a sync word by chance.
fn adts(data: &Bytes) -> Option<([u8; 2], Vec<Bytes>)> {
    let mut record = None;
    let mut frames = Vec::new();
    for frame in aac::adts_frames(data) {
        let frame = frame.ok()?;
        record.get_or_insert(frame.record);
        frames.push(data.slice_ref(frame.data));
    }
    Some((record?, frames))
}
