//! CEA-608 captions for publishers under test: a text as the pairs of bytes that a decoder shows it for, and a publisher's
//! messages with these pairs in their pictures.
//!
//! What belongs here: making captions. What does not: reading them back, which hls.js and FFmpeg do.

use crate::sender::Message;
use bytes::Bytes;
use rtmp::MessageKind;

/// Null characters of CEA-608: a field that says nothing.
const NULLS: [u8; 2] = [0x80, 0x80];

/// A byte with odd parity.
fn with_parity(byte: u8) -> u8 {
    byte & 0x7f | u8::from(byte.count_ones().is_multiple_of(2)) << 7
}

/// The pairs that show `text` as a pop-on caption in channel CC1, in place of the caption before: load, address the last
/// row, write, show. Control codes are sent twice, as the standard asks.
pub fn pop_on(text: &str) -> Vec<[u8; 2]> {
    const LOAD: [u8; 2] = [0x14, 0x20];
    const CLEAR_LOADED: [u8; 2] = [0x14, 0x2e];
    const LAST_ROW: [u8; 2] = [0x14, 0x70];
    const SHOW: [u8; 2] = [0x14, 0x2f];
    let mut pairs = Vec::new();
    let twice = |pairs: &mut Vec<[u8; 2]>, code| pairs.extend([code, code]);
    twice(&mut pairs, LOAD);
    twice(&mut pairs, CLEAR_LOADED);
    twice(&mut pairs, LAST_ROW);
    for pair in text.as_bytes().chunks(2) {
        pairs.push([pair[0], pair.get(1).copied().unwrap_or(0)]);
    }
    twice(&mut pairs, SHOW);
    pairs.into_iter().map(|pair| pair.map(with_parity)).collect()
}

/// Puts `pairs` into the H.264 pictures of `messages`, one pair in each picture in presentation order, from the time
/// `from_ms` on; null characters follow the last pair. Pictures before that time get nothing.
pub fn caption(messages: &mut [Message], pairs: &[[u8; 2]], from_ms: u32) {
    let mut pictures: Vec<(i64, &mut Message)> = messages.iter_mut().filter_map(picture).collect();
    pictures.sort_by_key(|(at_ms, _)| *at_ms);
    let mut pairs = pairs.iter().copied();
    for (_, message) in pictures.into_iter().skip_while(|(at_ms, _)| *at_ms < i64::from(from_ms)) {
        let sei = sei(pairs.next().unwrap_or(NULLS));
        let (head, units) = message.body.split_at(AVC_HEADER);
        let length = u32::try_from(sei.len()).expect("a small message").to_be_bytes();
        message.body = Bytes::from([head, &length, &sei, units].concat());
    }
}

/// Bytes of an AVC video tag before its first NAL unit's length.
const AVC_HEADER: usize = 5;

/// A message with a picture, and the picture's presentation time in milliseconds.
fn picture(message: &mut Message) -> Option<(i64, &mut Message)> {
    let is_picture = message.kind == MessageKind::Video
        && message.body.len() > AVC_HEADER
        && message.body[..2].ends_with(&[1]);
    let offset = i64::from(i32::from_be_bytes([message.body[2], message.body[3], message.body[4], 0]) >> 8);
    is_picture.then_some((i64::from(message.at_ms) + offset, message))
}

/// An SEI NAL unit with a pair of field 1, and with field 2 marked as empty.
fn sei([first, second]: [u8; 2]) -> Vec<u8> {
    let cc_data = [0xfc, first, second, 0xf9, 0x80, 0x80];
    let head = [0xb5, 0x00, 0x31, b'G', b'A', b'9', b'4', 0x03, 0x42, 0xff];
    let payload = [&head[..], &cc_data, &[0xff]].concat();
    [&[0x06, 0x04, u8::try_from(payload.len()).expect("a small message")], &payload[..], &[0x80]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pop_on_caption_is_these_bytes() {
        let expected: [[u8; 2]; 10] = [
            [0x94, 0x20],
            [0x94, 0x20],
            [0x94, 0xae],
            [0x94, 0xae],
            [0x94, 0x70],
            [0x94, 0x70],
            [0xc8, 0x49],
            [0xa1, 0x80],
            [0x94, 0x2f],
            [0x94, 0x2f],
        ];
        assert_eq!(pop_on("HI!"), expected);
    }
}
