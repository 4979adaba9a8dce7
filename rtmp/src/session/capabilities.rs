//! Enhanced RTMP 2: what a client says at `connect` that it can do, and what this server answers. How the media itself
//! is read is in [`crate::flv`].

use crate::flv::four_cc;
use rml_amf0::Amf0Value;
use std::collections::HashMap;

/// In a codec's entry of `videoFourCcInfoMap` and `audioFourCcInfoMap`: the codec can be decoded.
const CAN_DECODE: f64 = 1.0;

/// The bits of `capsEx`.
mod caps {
    pub(super) const RECONNECT: u32 = 1;
    pub(super) const MULTITRACK: u32 = 2;
    pub(super) const MOD_EX: u32 = 4;
    pub(super) const NANOSECOND_OFFSET: u32 = 8;
}

/// What a client says that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientCapabilities {
    /// Whether the client speaks Enhanced RTMP.
    pub(super) enhanced: bool,
    /// Whether the client connects anew when it is asked to.
    pub(super) can_reconnect: bool,
}

impl ClientCapabilities {
    /// Reads the command object of `connect`.
    pub(super) fn read(properties: &HashMap<String, Amf0Value>) -> Self {
        let names = ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"];
        let caps = match properties.get("capsEx") {
            Some(Amf0Value::Number(caps)) => *caps as u32,
            Some(_) | None => 0,
        };
        Self {
            enhanced: names.iter().any(|name| properties.contains_key(*name)),
            can_reconnect: caps & caps::RECONNECT != 0,
        }
    }
}

/// The properties of this server's answer to `connect` that Enhanced RTMP adds.
pub(super) fn of_this_server() -> [(&'static str, Amf0Value); 4] {
    let video: Vec<&str> = four_cc::VIDEO.iter().map(|(code, _)| *code).collect();
    let audio: Vec<&str> = four_cc::AUDIO.iter().map(|(code, _)| *code).collect();
    let name = |code: &&str| Amf0Value::Utf8String((*code).to_owned());
    let map = |codes: &[&str]| {
        Amf0Value::Object(
            codes.iter().map(|code| ((*code).to_owned(), Amf0Value::Number(CAN_DECODE))).collect(),
        )
    };
    let caps = caps::RECONNECT | caps::MULTITRACK | caps::MOD_EX | caps::NANOSECOND_OFFSET;
    [
        // The list of Enhanced RTMP 1 knows video alone, but version 2 allows codecs of both kinds.
        ("fourCcList", Amf0Value::StrictArray(video.iter().chain(&audio).map(name).collect())),
        ("videoFourCcInfoMap", map(&video)),
        ("audioFourCcInfoMap", map(&audio)),
        ("capsEx", Amf0Value::Number(caps.into())),
    ]
}
