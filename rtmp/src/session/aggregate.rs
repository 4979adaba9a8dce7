//! Aggregate messages (RTMP 1.0, 7.1.6): several FLV tags in one message, returned one at a time.

use crate::MessageKind;
use crate::chunk::message_type;
use bytes::Bytes;

/// Bytes of a tag header (FLV, annex E.4.1).
const TAG_HEADER: usize = 11;

/// An aggregate message being read. Returns its audio and video tags and skips others; a tag that does not parse ends
/// the message.
pub(super) struct Aggregate {
    rest: Bytes,
    /// Offset to add to a tag's time: the message's time minus the first tag's time.
    offset_ms: Option<u32>,
    timestamp_ms: u32,
}

/// An audio or video tag of an aggregate message, as if it had been sent in its own message.
pub(super) struct SubMessage {
    pub(super) kind: MessageKind,
    pub(super) timestamp_ms: u32,
    pub(super) payload: Bytes,
}

impl Aggregate {
    /// An iterator over the tags of a message with this payload and time.
    pub(super) fn new(payload: Bytes, timestamp_ms: u32) -> Self {
        Self { rest: payload, offset_ms: None, timestamp_ms }
    }
}

impl Iterator for Aggregate {
    type Item = SubMessage;

    fn next(&mut self) -> Option<SubMessage> {
        loop {
            let tag = &self.rest;
            if tag.len() < TAG_HEADER {
                return None;
            }
            let type_id = tag[0];
            let length = u32::from_be_bytes([0, tag[1], tag[2], tag[3]]) as usize;
            // Low 24 bits first, then the high 8 (FLV, annex E.4.1).
            let time = u32::from_be_bytes([tag[7], tag[4], tag[5], tag[6]]);
            if tag.len() < TAG_HEADER + length {
                return None;
            }
            let payload = tag.slice(TAG_HEADER..TAG_HEADER + length);
            // Each tag is followed by its size again, in four bytes.
            self.rest = tag.slice((TAG_HEADER + length + 4).min(tag.len())..);
            let offset = *self.offset_ms.get_or_insert(self.timestamp_ms.wrapping_sub(time));
            let timestamp_ms = time.wrapping_add(offset);
            let kind = match type_id {
                message_type::AUDIO => MessageKind::Audio,
                message_type::VIDEO => MessageKind::Video,
                _ => continue,
            };
            return Some(SubMessage { kind, timestamp_ms, payload });
        }
    }
}
