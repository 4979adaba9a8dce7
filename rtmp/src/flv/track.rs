//! What Enhanced RTMP puts before a FourCC: ModEx and multitrack.
//!
//! What belongs here: finding the packets of the tracks in a message. What does not: the packets.

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
    match head(body, multitrack, bare, short)? {
        Head::Packet(packet) => Ok(Found::Packet(packet)),
        Head::Bare => Ok(Found::Bare),
        Head::Tracks(tracks) => {
            for packet in tracks {
                let (id, packet) = packet?;
                if id == FIRST {
                    return Ok(Found::Packet(packet));
                }
            }
            Ok(Found::OtherTrack)
        }
    }
}

/// The packets of the tracks beside the first one in an enhanced message; see [`find`]. Empty where the message cannot
/// be read, and after a packet that is cut.
pub(super) fn others(
    body: &Bytes,
    multitrack: u8,
    short: &'static str,
) -> impl Iterator<Item = (u8, TrackPacket)> {
    // No message has this type, so a message without tracks counts as one of the first track.
    const NO_TYPE: u8 = u8::MAX;
    let tracks = match head(body, multitrack, NO_TYPE, short) {
        Ok(Head::Tracks(tracks)) => Some(tracks),
        Ok(Head::Packet(_) | Head::Bare) | Err(_) => None,
    };
    tracks.into_iter().flatten().map_while(Result::ok).filter(|(id, _)| *id != FIRST)
}

/// How an enhanced message begins.
enum Head<'a> {
    /// A packet of a message without tracks.
    Packet(TrackPacket),
    /// The message has no FourCC.
    Bare,
    /// Packets with their tracks.
    Tracks(Tracks<'a>),
}

fn head<'a>(body: &'a Bytes, multitrack: u8, bare: u8, short: &'static str) -> Result<Head<'a>, FlvError> {
    let short = FlvError::Unreadable(short);
    let first = *body.first().ok_or(short.clone())?;
    let (packet_type, at) = skip_mod_ex(body, first & 0x0f, 1)?;
    if packet_type == bare {
        return Ok(Head::Bare);
    }
    if packet_type != multitrack {
        let four_cc = code_at(body, at).ok_or(short)?;
        return Ok(Head::Packet(TrackPacket { packet_type, four_cc, data: body.slice(at + 4..) }));
    }
    let kinds = *body.get(at).ok_or(short.clone())?;
    let mut tracks = Tracks {
        body,
        short,
        kind: kinds >> 4,
        packet_type: kinds & 0x0f,
        four_cc: [0; 4],
        at: at + 1,
        seen: 0,
    };
    if tracks.kind != MANY_CODECS {
        tracks.four_cc = code_at(body, tracks.at).ok_or(tracks.short.clone())?;
        tracks.at += 4;
    }
    Ok(Head::Tracks(tracks))
}

fn code_at(body: &[u8], at: usize) -> Option<[u8; 4]> {
    body.get(at..)?.first_chunk::<4>().copied()
}

/// The packets of a message with tracks, at least one.
struct Tracks<'a> {
    body: &'a Bytes,
    /// The error of a message that is cut.
    short: FlvError,
    /// The multitrack type.
    kind: u8,
    packet_type: u8,
    four_cc: [u8; 4],
    /// Where the next track begins.
    at: usize,
    /// Number of packets so far.
    seen: usize,
}

impl Tracks<'_> {
    fn read(&mut self) -> Result<(u8, TrackPacket), FlvError> {
        if self.kind == MANY_CODECS {
            self.four_cc = code_at(self.body, self.at).ok_or(self.short.clone())?;
            self.at += 4;
        }
        let id = *self.body.get(self.at).ok_or(self.short.clone())?;
        self.at += 1;
        let end = match self.kind {
            ONE_TRACK => self.body.len(),
            MANY_TRACKS | MANY_CODECS => {
                let size = self.body.get(self.at..).and_then(|rest| rest.first_chunk::<3>());
                let &[a, b, c] = size.ok_or(self.short.clone())?;
                self.at += 3;
                self.at + u32::from_be_bytes([0, a, b, c]) as usize
            }
            _ => return Err(FlvError::Unreadable("unknown kind of multitrack message")),
        };
        if end > self.body.len() {
            return Err(self.short.clone());
        }
        let data = self.body.slice(self.at..end);
        self.at = end;
        Ok((id, TrackPacket { packet_type: self.packet_type, four_cc: self.four_cc, data }))
    }
}

impl Iterator for Tracks<'_> {
    type Item = Result<(u8, TrackPacket), FlvError>;

    fn next(&mut self) -> Option<Self::Item> {
        let over = self.seen > 0 && self.at == self.body.len();
        if over || self.seen >= MAX_TRACKS {
            return None;
        }
        self.seen += 1;
        let read = self.read();
        if read.is_err() {
            self.seen = MAX_TRACKS;
        }
        Some(read)
    }
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
