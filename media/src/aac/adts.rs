//! ADTS: a header before each AAC frame, as in MPEG-TS (ISO/IEC 14496-3 1.A.2).

use super::bits::SAMPLE_RATES;
use super::{AacError, specific_config};

/// One frame of an ADTS stream.
#[derive(Debug, PartialEq, Eq)]
pub struct AdtsFrame<'a> {
    /// The AudioSpecificConfig that the frame's header corresponds to.
    pub record: [u8; 2],
    /// The raw frame after the header.
    pub data: &'a [u8],
}

/// Splits a packet into its ADTS frames. After an error nothing follows. A raw AAC frame may begin with the bits of a
/// sync word by chance, so call this only where the frames are known to be ADTS.
///
/// # Errors
/// An item is [`AacError::Adts`] or [`AacError::AdtsChannels`].
pub fn adts_frames(packet: &[u8]) -> impl Iterator<Item = Result<AdtsFrame<'_>, AacError>> {
    let mut rest = packet;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let frame = adts_frame(rest);
        rest = frame.as_ref().map_or(&[], |(_, behind)| behind);
        Some(frame.map(|(frame, _)| frame))
    })
}

fn adts_frame(bytes: &[u8]) -> Result<(AdtsFrame<'_>, &[u8]), AacError> {
    if bytes.len() < 7 || bytes[0] != 0xff || bytes[1] & 0xf6 != 0xf0 {
        return Err(AacError::Adts);
    }
    let header_len = if bytes[1] & 1 == 1 { 7 } else { 9 };
    let (object_type, rate_index) = ((bytes[2] >> 6) + 1, bytes[2] >> 2 & 0xf);
    let channel_config = (bytes[2] & 1) << 2 | bytes[3] >> 6;
    let len = usize::from(bytes[3] & 3) << 11 | usize::from(bytes[4]) << 3 | usize::from(bytes[5] >> 5);
    if usize::from(rate_index) >= SAMPLE_RATES.len() || len <= header_len || len > bytes.len() {
        return Err(AacError::Adts);
    }
    if channel_config == 0 {
        return Err(AacError::AdtsChannels);
    }
    let (frame, behind) = bytes.split_at(len);
    let record = specific_config(object_type, rate_index, channel_config);
    Ok((AdtsFrame { record, data: &frame[header_len..] }, behind))
}
