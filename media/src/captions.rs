//! Closed captions that travel in coded pictures (CEA-608 and CEA-708, carried as ATSC A/53 part 4 user data): where they
//! are in an access unit, and which caption services they belong to.
//!
//! What belongs here: SEI messages of H.264 and HEVC and metadata OBUs of AV1 as far as captions, and names of services.
//! What does not: the text of captions; which pictures carry which bytes after encoding (the worker decides); playlists.

use crate::bits::{with_emulation_prevention, without_emulation_prevention};
use crate::framing::NalFacts;
use crate::h264::{LengthSize, length_prefixed_units};
use crate::{VideoCodec, av1, h264, hevc};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Longest SEI NAL unit or metadata OBU that is searched for captions, in bytes. 31 triplets take about a hundred.
const MAX_MESSAGE: usize = 4 << 10;
/// Maximum number of NAL units searched in an access unit. SEI messages precede the slices.
const MAX_UNITS: usize = 128;
/// Maximum number of triplets read in an access unit: several seconds' worth, as after pictures that were left out.
const MAX_IN_UNIT: usize = 2048;
/// Maximum number of triplets in one message: its count has five bits.
const MAX_TRIPLETS: usize = 31;
/// What precedes cc_data in user data: country code (United States), provider code (ATSC), `GA94`, and the type of
/// cc_data (A/53 part 4, 6.2.3).
const HEAD: [u8; 8] = [0xb5, 0x00, 0x31, b'G', b'A', b'9', b'4', 0x03];
/// SEI payload type user_data_registered_itu_t_t35 (ITU-T H.264 annex D, ITU-T H.265 annex D).
const REGISTERED_USER_DATA: usize = 4;
/// The highest number of a CEA-708 service that is read: that of the standard service block header.
const LAST_SERVICE: u8 = 6;

/// One construct of cc_data (CEA-708 4.4): a byte with validity and type, and two bytes of data.
pub type Triplet = [u8; 3];

/// What a triplet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TripletKind {
    /// A CEA-608 pair of field 1 or field 2.
    Line21 { field: u8 },
    /// The start of a CEA-708 packet.
    PacketStart,
    /// More of a CEA-708 packet.
    PacketData,
}

fn kind_of([head, ..]: Triplet) -> Option<TripletKind> {
    let valid = head & 4 != 0;
    valid.then_some(match head & 3 {
        0 => TripletKind::Line21 { field: 1 },
        1 => TripletKind::Line21 { field: 2 },
        2 => TripletKind::PacketData,
        _ => TripletKind::PacketStart,
    })
}

/// Whether a triplet says nothing: it is marked as invalid, or is a CEA-608 pair of null characters.
pub fn is_padding(triplet: Triplet) -> bool {
    match kind_of(triplet) {
        None => true,
        Some(TripletKind::Line21 { .. }) => triplet[1] & 0x7f == 0 && triplet[2] & 0x7f == 0,
        Some(TripletKind::PacketStart | TripletKind::PacketData) => false,
    }
}

/// A set of caption services: the four channels of CEA-608 (`CC1` to `CC4`) and the six standard services of CEA-708
/// (`SERVICE1` to `SERVICE6`), with the names that INSTREAM-ID uses. In the serialised form it is a list of these names;
/// other names are passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct CaptionServices {
    /// A bit for each name of [`NAMES`].
    bits: u16,
}

/// The names, CEA-608 first.
const NAMES: [&str; 10] =
    ["CC1", "CC2", "CC3", "CC4", "SERVICE1", "SERVICE2", "SERVICE3", "SERVICE4", "SERVICE5", "SERVICE6"];

impl CaptionServices {
    /// No service.
    pub const NONE: Self = Self { bits: 0 };

    /// The services with these INSTREAM-IDs; other names are passed over.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |name: &str| NAMES.iter().position(|known| *known == name).map_or(0, |at| 1 << at);
        Self { bits: names.into_iter().fold(0, |bits, name| bits | bit(name)) }
    }

    /// Whether there is no service.
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// The services in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits }
    }

    /// INSTREAM-IDs, CEA-608 first.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let bits = self.bits;
        NAMES.iter().enumerate().filter(move |(at, _)| bits & 1 << at != 0).map(|(_, name)| *name)
    }

    fn add_channel(&mut self, channel: u8) {
        self.bits |= 1 << (channel - 1);
    }

    fn add_service(&mut self, service: u8) {
        self.bits |= 1 << (3 + service);
    }
}

impl From<Vec<String>> for CaptionServices {
    fn from(names: Vec<String>) -> Self {
        Self::named(names.iter().map(String::as_str))
    }
}

impl From<CaptionServices> for Vec<String> {
    fn from(services: CaptionServices) -> Self {
        services.names().map(str::to_owned).collect()
    }
}

/// The caption triplets of an access unit as [`crate::Unit`] holds it, in their order: 2048 at most. Empty
/// for codecs without captions, and for messages that cannot be read.
pub fn triplets(codec: VideoCodec, unit: &[u8]) -> Vec<Triplet> {
    let mut found = Vec::new();
    match codec {
        VideoCodec::H264 => in_nal_units(unit, 1, h264::is_sei, h264::facts, &mut found),
        VideoCodec::Hevc => in_nal_units(unit, 2, hevc::is_prefix_sei, hevc::facts, &mut found),
        VideoCodec::Av1 => av1::t35_metadata(unit)
            .filter(|message| message.len() <= MAX_MESSAGE)
            .for_each(|message| in_user_data(message, &mut found)),
        VideoCodec::Vp9 | VideoCodec::Vp8 => {}
    }
    found.truncate(MAX_IN_UNIT);
    found
}

/// An access unit of H.264 or HEVC with captions in front of its own, in as many messages as they need; `None` for codecs
/// whose access units are not made of NAL units.
pub fn with_captions_before(codec: VideoCodec, unit: &[u8], earlier: &[Triplet]) -> Option<Bytes> {
    let header: &[u8] = match codec {
        VideoCodec::H264 => &[h264::nal_type::SEI],
        VideoCodec::Hevc => &hevc::PREFIX_SEI_HEADER,
        VideoCodec::Av1 | VideoCodec::Vp9 | VideoCodec::Vp8 => return None,
    };
    let mut out = BytesMut::with_capacity(unit.len() + 5 * earlier.len() + 64);
    for triplets in earlier.chunks(MAX_TRIPLETS) {
        let nal = [header, &with_emulation_prevention(&sei_message(triplets))].concat();
        out.put_u32(nal.len() as u32);
        out.put_slice(&nal);
    }
    out.put_slice(unit);
    Some(out.freeze())
}

/// An SEI message with up to 31 triplets, and the trailing bits of its NAL unit.
fn sei_message(triplets: &[Triplet]) -> Vec<u8> {
    let mut message = vec![REGISTERED_USER_DATA as u8, (HEAD.len() + 3 + 3 * triplets.len()) as u8];
    message.extend(HEAD);
    // process_cc_data_flag and cc_count; em_data; at the end marker_bits.
    message.extend([0x40 | triplets.len() as u8, 0xff]);
    message.extend(triplets.as_flattened());
    message.extend([0xff, 0x80]);
    message
}

/// Reads the SEI NAL units, whose headers have `header` bytes, up to the first slice.
fn in_nal_units(
    unit: &[u8],
    header: usize,
    is_sei: impl Fn(&[u8]) -> bool,
    facts: impl Fn(&[u8]) -> Option<NalFacts>,
    found: &mut Vec<Triplet>,
) {
    for nal in length_prefixed_units(unit, LengthSize::Four).take(MAX_UNITS).map_while(Result::ok) {
        if facts(nal).is_some_and(|facts| facts.slice) {
            return;
        }
        if is_sei(nal) && nal.len() <= MAX_MESSAGE && is_likely(nal) {
            in_sei(&without_emulation_prevention(&nal[header..]), found);
        }
    }
}

/// Whether `GA94` is in a NAL unit; emulation prevention does not touch these four bytes.
fn is_likely(nal: &[u8]) -> bool {
    nal.windows(4).any(|bytes| bytes == b"GA94")
}

/// Reads SEI messages (ITU-T H.264, 7.3.2.3.1; the same in ITU-T H.265).
fn in_sei(mut rest: &[u8], found: &mut Vec<Triplet>) {
    while let Some((kind, behind)) = sei_number(rest)
        && let Some((size, behind)) = sei_number(behind)
        && let Some((payload, behind)) = behind.split_at_checked(size)
    {
        if kind == REGISTERED_USER_DATA {
            in_user_data(payload, found);
        }
        rest = behind;
    }
}

/// A number as SEI messages write it: bytes of 255, and a last byte.
fn sei_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let full = bytes.iter().take_while(|byte| **byte == 0xff).count();
    Some((full * 255 + usize::from(*bytes.get(full)?), &bytes[full + 1..]))
}

/// Reads cc_data behind the head of user data.
fn in_user_data(data: &[u8], found: &mut Vec<Triplet>) {
    let Some([flags, _em_data, data @ ..]) = data.strip_prefix(&HEAD) else { return };
    if flags & 0x40 == 0 {
        // process_cc_data_flag
        return;
    }
    let count = usize::from(flags & 0x1f).min(MAX_TRIPLETS);
    found.extend(data.as_chunks::<3>().0.iter().take(count));
}

/// Adds the services that triplets belong to, as far as triplets tell by themselves, in any order: CEA-608 by its control
/// codes, CEA-708 by the first service block of a packet. A pair of field 1 without a control code, even of null
/// characters, counts as `CC1`: the publisher keeps captions open, and players learn of services only at their start.
pub fn note_services(triplets: &[Triplet], services: &mut CaptionServices) {
    for &triplet in triplets {
        let [_, first, second] = triplet;
        match kind_of(triplet) {
            Some(TripletKind::Line21 { field }) => match first & 0x7f {
                code @ 0x10..=0x1f => services.add_channel(2 * field - 1 + u8::from(code & 8 != 0)),
                _ if field == 1 => services.add_channel(1),
                _ => {}
            },
            Some(TripletKind::PacketStart) => {
                // service_number and block_size; 0 is a null block, 7 announces an extended number.
                let (service, size) = (second >> 5, second & 0x1f);
                if (1..=LAST_SERVICE).contains(&service) && size > 0 {
                    services.add_service(service);
                }
            }
            Some(TripletKind::PacketData) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
