//! Init segments: ftyp and moov.

use super::{CMFC, FLAGS_KEY, FLAGS_NON_KEY, ISO6, TRACK_ID, VIDEO_TIMESCALE};
use crate::track::{AudioTrack, Track, TrackKind, VideoTrack};
use bytes::Bytes;
use media::{AudioCodec, Colour, VideoCodec};
use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec, Colr, Dinf, Dref, DrefEntry, Encode, Esds, FixedPoint,
    FourCC, Ftyp, Hdlr, Hvc1, Hvcc, Mdhd, Mdia, Minf, Moov, Mp4a, Mvex, Mvhd, Pasp, Smhd, Stbl, Stsd, Tkhd,
    Trak, Trex, Url, Visual, Vmhd, esds,
};

/// A track's parameters do not describe playable media. The publisher's fault; the same track fails again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTrack {
    /// The H.264 configuration record cannot be read or has no parameter sets.
    #[error("the AVCDecoderConfigurationRecord is damaged: {0}")]
    Avc(String),
    /// The HEVC configuration record cannot be read or has no parameter sets.
    #[error("the HEVCDecoderConfigurationRecord is damaged: {0}")]
    Hevc(String),
    /// The AV1 configuration record cannot be read or has no sequence header.
    #[error("the AV1CodecConfigurationRecord is damaged: {0}")]
    Av1(String),
    /// Tracks of this codec are not packaged.
    #[error("{0} is not packaged")]
    Codec(&'static str),
    /// The parameters are too large for their boxes.
    #[error("boxes cannot be written: {0}")]
    Boxes(String),
    /// The AudioSpecificConfig is missing or has an impossible length.
    #[error("the AudioSpecificConfig has {0} bytes, 2 to 64 are expected")]
    AudioConfig(usize),
    /// Sample rate, channels or samples per frame are zero or outside the limits of AAC.
    #[error("impossible audio: {0} Hz, {1} channels, {2} samples a frame")]
    AudioShape(u32, u8, u32),
}

/// The init segment of a track: equal tracks give equal bytes.
///
/// # Errors
/// When the track's parameters cannot be expressed in boxes; then the track cannot be packaged.
pub fn init_segment(track: &Track) -> Result<Bytes, InvalidTrack> {
    let (trak, default_flags) = match &track.kind {
        TrackKind::Video(video) => (video_trak(video)?, FLAGS_NON_KEY),
        TrackKind::Audio(audio) => (audio_trak(audio)?, FLAGS_KEY),
    };
    let ftyp = Ftyp { major_brand: CMFC, minor_version: 0, compatible_brands: vec![CMFC, ISO6] };
    let moov = Moov {
        mvhd: Mvhd {
            timescale: 1000,
            rate: FixedPoint::from(1),
            volume: FixedPoint::from(1),
            next_track_id: TRACK_ID + 1,
            ..Mvhd::default()
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex {
                track_id: TRACK_ID,
                default_sample_description_index: 1,
                default_sample_duration: 0,
                default_sample_size: 0,
                default_sample_flags: default_flags,
            }],
        }),
        trak: vec![trak],
        ..Moov::default()
    };
    let mut out = Vec::with_capacity(1024);
    ftyp.encode(&mut out).expect("three brands always encode");
    moov.encode(&mut out).map_err(|e| InvalidTrack::Boxes(e.to_string()))?;
    Ok(out.into())
}

fn video_trak(video: &VideoTrack) -> Result<Trak, InvalidTrack> {
    let (h_spacing, v_spacing) = (u32::from(video.sample_aspect.0), u32::from(video.sample_aspect.1));
    let square = h_spacing == v_spacing || h_spacing == 0 || v_spacing == 0;
    // tkhd has the size in square pixels (14496-12 8.3.2.3): keep the height, stretch the width.
    let shown_width =
        if square { u32::from(video.width) } else { u32::from(video.width) * h_spacing / v_spacing };
    let pasp = (!square).then_some(Pasp { h_spacing, v_spacing });
    let entry = match video.codec {
        VideoCodec::H264 => avc1(video, pasp)?,
        VideoCodec::Hevc => hvc1(video, pasp)?,
        VideoCodec::Av1 => av01(video, pasp)?,
        codec @ (VideoCodec::Vp9 | VideoCodec::Vp8) => return Err(InvalidTrack::Codec(codec.name())),
    };
    let tkhd = Tkhd {
        width: FixedPoint::from(u16::try_from(shown_width).unwrap_or(u16::MAX)),
        height: FixedPoint::from(video.height),
        ..tkhd()
    };
    let minf = Minf { vmhd: Some(Vmhd::default()), dinf: dinf(), stbl: stbl(entry), ..Minf::default() };
    Ok(trak(tkhd, VIDEO_TIMESCALE, b"vide", "video", minf))
}

/// The sample entry of H.264. mp4-atom reads the record here only to write the same record into the box.
fn avc1(video: &VideoTrack, pasp: Option<Pasp>) -> Result<Codec, InvalidTrack> {
    let avcc = Avcc::decode_body(&mut video.config.as_ref()).map_err(|e| InvalidTrack::Avc(e.to_string()))?;
    if avcc.sequence_parameter_sets.is_empty() || avcc.picture_parameter_sets.is_empty() {
        return Err(InvalidTrack::Avc("no parameter sets".into()));
    }
    Ok(Codec::Avc1(Avc1 { visual: visual(video), avcc, pasp, ..Avc1::default() }))
}

/// The sample entry of HEVC. The arrays of parameter sets are complete, as `hvc1` requires (ISO 14496-15 8.4.1.1).
fn hvc1(video: &VideoTrack, pasp: Option<Pasp>) -> Result<Codec, InvalidTrack> {
    /// VPS, SPS, PPS.
    const PARAMETER_SETS: [u8; 3] = [32, 33, 34];
    let mut hvcc =
        Hvcc::decode_body(&mut video.config.as_ref()).map_err(|e| InvalidTrack::Hevc(e.to_string()))?;
    for kind in PARAMETER_SETS {
        let mut arrays = hvcc.arrays.iter_mut().filter(|array| array.nal_unit_type == kind);
        let array = arrays.find(|array| !array.nalus.is_empty());
        array.ok_or_else(|| InvalidTrack::Hevc("no parameter sets".into()))?.completeness = true;
    }
    Ok(Codec::Hvc1(Hvc1 { visual: visual(video), hvcc, pasp, colr: colr(video), ..Hvc1::default() }))
}

/// The sample entry of AV1.
fn av01(video: &VideoTrack, pasp: Option<Pasp>) -> Result<Codec, InvalidTrack> {
    let av1c = Av1c::decode_body(&mut video.config.as_ref()).map_err(|e| InvalidTrack::Av1(e.to_string()))?;
    if media::av1::picture_format(&video.config).is_none() {
        return Err(InvalidTrack::Av1("no sequence header".into()));
    }
    Ok(Codec::Av01(Av01 { visual: visual(video), av1c, pasp, colr: colr(video), ..Av01::default() }))
}

fn visual(video: &VideoTrack) -> Visual {
    Visual { data_reference_index: 1, width: video.width, height: video.height, ..Visual::default() }
}

/// The box with the stream's colours; `None` where the stream says nothing of them.
fn colr(video: &VideoTrack) -> Option<Colr> {
    let colour = video.colour().filter(|colour| *colour != Colour::UNSPECIFIED)?;
    Some(Colr::Nclx {
        colour_primaries: colour.primaries.into(),
        transfer_characteristics: colour.transfer.into(),
        matrix_coefficients: colour.matrix.into(),
        full_range_flag: colour.full_range,
    })
}

fn audio_trak(audio: &AudioTrack) -> Result<Trak, InvalidTrack> {
    let entry = match audio.codec {
        AudioCodec::Aac => mp4a(audio)?,
        other => return Err(InvalidTrack::Codec(other.name())),
    };
    let tkhd = Tkhd { volume: FixedPoint::from(1), ..tkhd() };
    let minf = Minf { smhd: Some(Smhd::default()), dinf: dinf(), stbl: stbl(entry), ..Minf::default() };
    Ok(trak(tkhd, audio.sample_rate, b"soun", "audio", minf))
}

/// The sample entry of AAC.
fn mp4a(audio: &AudioTrack) -> Result<Codec, InvalidTrack> {
    if !(2..=64).contains(&audio.config.len()) {
        return Err(InvalidTrack::AudioConfig(audio.config.len()));
    }
    if !(1_000..=192_000).contains(&audio.sample_rate)
        || audio.channels == 0
        || !(128..=8_192).contains(&audio.frame_samples)
    {
        return Err(InvalidTrack::AudioShape(audio.sample_rate, audio.channels, audio.frame_samples));
    }
    Ok(Codec::Mp4a(Mp4a {
        audio: Audio {
            data_reference_index: 1,
            channel_count: audio.channels.into(),
            sample_size: 16,
            // 16.16 fixed point ends at 65535 Hz; above that the timescale and the AudioSpecificConfig state the rate.
            sample_rate: FixedPoint::from(u16::try_from(audio.sample_rate).unwrap_or(0)),
        },
        esds: Esds {
            es_desc: esds::EsDescriptor {
                es_id: TRACK_ID as u16,
                dec_config: esds::DecoderConfig {
                    // MPEG-4 audio, audio stream (14496-1 tables 5 and 6)
                    object_type_indication: 0x40,
                    stream_type: 5,
                    max_bitrate: audio.nominal_bitrate,
                    avg_bitrate: audio.nominal_bitrate,
                    dec_specific: Some(esds::DecoderSpecific {
                        raw: audio.config.to_vec(),
                        ..esds::DecoderSpecific::default()
                    }),
                    ..esds::DecoderConfig::default()
                },
                ..esds::EsDescriptor::default()
            },
        },
        btrt: None,
        taic: None,
    }))
}

fn tkhd() -> Tkhd {
    Tkhd { track_id: TRACK_ID, enabled: true, in_movie: true, ..Tkhd::default() }
}

fn trak(tkhd: Tkhd, timescale: u32, handler: &[u8; 4], name: &str, minf: Minf) -> Trak {
    let mdia = Mdia {
        mdhd: Mdhd { timescale, language: "und".into(), ..Mdhd::default() },
        hdlr: Hdlr { handler: FourCC::new(handler), name: name.into() },
        minf,
    };
    Trak { tkhd, mdia, ..Trak::default() }
}

fn dinf() -> Dinf {
    // The media is in the same file.
    Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } }
}

fn stbl(entry: Codec) -> Stbl {
    Stbl { stsd: Stsd { codecs: vec![entry] }, stco: Some(mp4_atom::Stco::default()), ..Stbl::default() }
}
