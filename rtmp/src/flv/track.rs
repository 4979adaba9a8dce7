//! What Enhanced RTMP puts before a FourCC: ModEx and multitrack.
//!
//! What belongs here: finding the packet of the first track in a message. What does not: the packet.

use super::FlvError;
use bytes::Bytes;

/// The packet type for an extension that precedes the real packet type; the same for video and audio.
const MOD_EX: u8 = 7;
/// The multitrack types: one track; many tracks of one codec; many tracks of many codecs.
const ONE_TRACK: u8 = 0;
const MANY_TRACKS: u8 = 1;
const MANY_CODECS: u8 = 2;
/// The default track.
const FIRST: u8 = 0;
/// Maximum number of tracks looked at in a message.
const MAX_TRACKS: usize = 256;

/// A packet of one track.
pub(super) struct TrackPacket {
    /// Packet type, without ModEx and multitrack.
    pub(super) packet_type: u8,
    /// The codec's FourCC.
    pub(super) four_cc: [u8; 4],
    /// What follows.
    pub(super) data: Bytes,
}

/// What a message has for the first track.
pub(super) enum Found {
    /// A packet of the first track, or of a message without tracks.
    Packet(TrackPacket),
    /// The message has no FourCC, as its packet type says.
    Bare,
    /// Only other tracks.
    OtherTrack,
}

/// Finds the first track's packet in an enhanced message. `multitrack` is the packet type of messages with tracks, and
/// packets of the type `bare` have no FourCC.
pub(super) fn find(body: &Bytes, multitrack: u8, bare: u8, short: &'static str) -> Result<Found, FlvError> {
    let short = FlvError::Unreadable(short);
    let first = *body.first().ok_or(short.clone())?;
    let (packet_type, at) = skip_mod_ex(body, first & 0x0f, 1)?;
    if packet_type == bare {
        return Ok(Found::Bare);
    }
    let code_at = |at: usize| body.get(at..)?.first_chunk::<4>().copied();
    if packet_type != multitrack {
        let four_cc = code_at(at).ok_or(short)?;
        return Ok(Found::Packet(TrackPacket { packet_type, four_cc, data: body.slice(at + 4..) }));
    }
    let kinds = *body.get(at).ok_or(short.clone())?;
    let (tracks, packet_type) = (kinds >> 4, kinds & 0x0f);
    let mut at = at + 1;
    let mut four_cc = [0; 4];
    if tracks != MANY_CODECS {
        four_cc = code_at(at).ok_or(short.clone())?;
        at += 4;
    }
    for _ in 0..MAX_TRACKS {
        if tracks == MANY_CODECS {
            four_cc = code_at(at).ok_or(short.clone())?;
            at += 4;
        }
        let id = *body.get(at).ok_or(short.clone())?;
        at += 1;
        let end = match tracks {
            ONE_TRACK => body.len(),
            MANY_TRACKS | MANY_CODECS => {
                let Some(&[a, b, c]) = body.get(at..).and_then(|rest| rest.first_chunk::<3>()) else {
                    return Err(short);
                };
                at += 3;
                at + u32::from_be_bytes([0, a, b, c]) as usize
            }
            _ => return Err(FlvError::Unreadable("unknown kind of multitrack message")),
        };
        if end > body.len() {
            return Err(short);
        }
        if id == FIRST {
            return Ok(Found::Packet(TrackPacket { packet_type, four_cc, data: body.slice(at..end) }));
        }
        if end == body.len() {
            return Ok(Found::OtherTrack);
        }
        at = end;
    }
    Ok(Found::OtherTrack)
}

/// Skips Enhanced RTMP's ModEx prefixes: the data size minus one in one byte (255: in the next two bytes), the data,
/// then four bits of extension type and four bits of the next packet type. Returns the real packet type and the offset
/// behind. Every iteration consumes at least three bytes.
fn skip_mod_ex(body: &[u8], mut packet_type: u8, mut at: usize) -> Result<(u8, usize), FlvError> {
    const SHORT: FlvError = FlvError::Unreadable("short ModEx");
    while packet_type == MOD_EX {
        let mut size = usize::from(*body.get(at).ok_or(SHORT)?) + 1;
        at += 1;
        if size == 256 {
            let long = body.get(at..at + 2).ok_or(SHORT)?;
            size = usize::from(u16::from_be_bytes([long[0], long[1]])) + 1;
            at += 2;
        }
        packet_type = body.get(at + size).ok_or(SHORT)? & 0x0f;
        at += size + 1;
    }
    Ok((packet_type, at))
}
