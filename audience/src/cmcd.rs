//! Reads what a player says with its requests: Common Media Client Data, CTA-5004, from the query argument `CMCD` or
//! from four headers. Of version 2 (CTA-5004-A) the key `ltc` is read, and lists such as `br=(5000;v 128;a)`.
//!
//! Both ways carry members `key=value` with commas between them, a subset of a structured field (RFC 8941): numbers,
//! tokens, quoted strings, and a key alone for true. Keys that nothing here needs are skipped (`cid`, `d`, `dl`, `nor`,
//! `rtp`, `tb` and others, also those of vendors). A value that cannot be read or that is out of its range is as if it
//! had not been sent: a player's mistake never costs its viewer an answer.
//!
//! What the values are used for does not belong here.

use percent_encoding::percent_decode;
use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

/// The names of the headers that carry members, in lower case. A key may stand in any of these headers.
pub const HEADERS: [&str; 4] = ["cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"];
/// Longest session ID in characters, the specification's own bound.
pub const MAX_SID_CHARS: usize = 64;
/// Most bytes that are read of a query or of one header; the rest is ignored.
pub const MAX_BYTES: usize = 16 * 1024;
/// Most members that are read of one request; the rest is ignored. The specification has some 20 keys for requests.
pub const MAX_MEMBERS: usize = 64;

/// The query argument that carries members.
const ARGUMENT: &str = "CMCD=";
/// Bits in 1,000 bits a second: 1 kbit/s to 1 Tbit/s.
const KBPS: RangeInclusive<f64> = 1.0..=1e9;
/// Milliseconds of buffer or delay: up to a day.
const MILLISECONDS: RangeInclusive<f64> = 0.0..=86_400_000.0;
/// Speeds of playback; 0 is a paused player.
const RATES: RangeInclusive<f64> = 0.0..=100.0;
/// Longest number in characters: a structured field's decimal.
const MAX_NUMBER_CHARS: usize = 16;

/// What one request says. Everything may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cmcd {
    /// `sid`: the playback session.
    pub sid: Option<Sid>,
    /// `ot`: the kind of the requested object.
    pub object: Option<ObjectType>,
    /// `sf`: the protocol.
    pub format: Option<StreamingFormat>,
    /// `st`: live or on demand.
    pub stream_type: Option<StreamType>,
    /// `br`: the bitrate of the requested object in kbit/s.
    pub bitrate_kbps: Option<u32>,
    /// `bl`: the media in the player's buffer in milliseconds.
    pub buffer_ms: Option<u32>,
    /// `bs`: playback has stalled since the previous request.
    pub starved: bool,
    /// `mtp`: the throughput that the player has measured, in kbit/s.
    pub throughput_kbps: Option<u32>,
    /// `ltc` (version 2): the delay from the live edge's wall clock to the screen in milliseconds.
    pub latency_ms: Option<u32>,
    /// `pr`: the speed of playback, 1 for real time and 0 for a pause.
    pub rate: Option<f64>,
    /// `su`: the object is needed urgently, because of startup, a seek or an empty buffer.
    pub startup: bool,
}

/// A playback session's ID: 1 to [`MAX_SID_CHARS`] printable ASCII characters, usually a UUID. It tells viewers apart,
/// so it does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Sid(String);

/// `ot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// `m`: a playlist.
    Playlist,
    /// `a`: sound.
    Audio,
    /// `v`: pictures.
    Video,
    /// `av`: sound and pictures.
    Muxed,
    /// `i`: an initialization section.
    Init,
    /// `c`, `tt`, `k` and `o`: captions, timed text, keys, others.
    Other,
}

/// `sf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamingFormat {
    /// `h`.
    Hls,
    /// `d`, `s` and `o`: MPEG DASH, Smooth Streaming, others.
    Other,
}

/// `st`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamType {
    /// `l`, and `ll` (version 2).
    Live,
    /// `v`.
    OnDemand,
}

/// The members of one value: splits at commas outside quoted strings.
struct Members<'a> {
    rest: Option<&'a [u8]>,
}

// === impl Cmcd ===

impl Cmcd {
    /// Reads a request: the query (without `?`, as it was sent) and the values of its [`HEADERS`], in any order. Of a
    /// key that is there more than once the last value counts, and the query comes last.
    pub fn read<'a>(query: Option<&str>, headers: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut cmcd = Self::default();
        let mut members = MAX_MEMBERS;
        for value in headers {
            cmcd.read_members(value, &mut members);
        }
        if let Some(value) = query.and_then(argument) {
            cmcd.read_members(&value, &mut members);
        }
        cmcd
    }

    /// Reads at most so many members and subtracts those that were read.
    fn read_members(&mut self, value: &[u8], left: &mut usize) {
        for member in Members::of(value) {
            let Some(fewer) = left.checked_sub(1) else { return };
            *left = fewer;
            match member.iter().position(|byte| *byte == b'=') {
                Some(equals) => self.set(&member[..equals], Some(&member[equals + 1..])),
                None => self.set(member, None),
            }
        }
    }

    /// Takes the value of one key; an unknown key or a bad value changes nothing.
    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        let text = value.unwrap_or_default();
        match key {
            b"sid" => update(&mut self.sid, string(text).and_then(|sid| Sid::new(&sid))),
            b"ot" => update(&mut self.object, ObjectType::from_token(token(text))),
            b"sf" => update(&mut self.format, StreamingFormat::from_token(token(text))),
            b"st" => update(&mut self.stream_type, StreamType::from_token(token(text))),
            b"br" => update(&mut self.bitrate_kbps, number(text, KBPS).map(whole)),
            b"bl" => update(&mut self.buffer_ms, number(text, MILLISECONDS).map(whole)),
            b"mtp" => update(&mut self.throughput_kbps, number(text, KBPS).map(whole)),
            b"ltc" => update(&mut self.latency_ms, number(text, MILLISECONDS).map(whole)),
            b"pr" => update(&mut self.rate, number(text, RATES)),
            b"bs" => self.starved = boolean(value).unwrap_or(self.starved),
            b"su" => self.startup = boolean(value).unwrap_or(self.startup),
            _ => {}
        }
    }
}

/// The members in a query, decoded.
fn argument(query: &str) -> Option<Cow<'_, [u8]>> {
    let value = query.split('&').find_map(|argument| argument.strip_prefix(ARGUMENT))?.as_bytes();
    Some(percent_decode(&value[..value.len().min(MAX_BYTES)]).into())
}

fn update<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

// === values ===

/// A quoted string of printable ASCII characters, with `\"` and `\\` for `"` and `\`.
fn string(value: &[u8]) -> Option<String> {
    let mut quoted = value.strip_prefix(b"\"")?.iter();
    let mut text = String::new();
    loop {
        match *quoted.next()? {
            b'"' => break,
            b'\\' => text.push(quoted.next().copied().filter(|byte| matches!(byte, b'"' | b'\\'))?.into()),
            byte @ b' '..=b'~' => text.push(byte.into()),
            _ => return None,
        }
    }
    quoted.as_slice().is_empty().then_some(text)
}

/// A key alone is true; `?1` and `?0` are a structured field's true and false.
fn boolean(value: Option<&[u8]>) -> Option<bool> {
    match value {
        None | Some(b"?1") => Some(true),
        Some(b"?0") => Some(false),
        Some(_) => None,
    }
}

/// A value without its parameters, which stand after semicolons.
fn token(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default()
}

/// A number within the bounds. Of a list it is that of the pictures (parameter `v` or `av`), or else the first.
fn number(value: &[u8], bounds: RangeInclusive<f64>) -> Option<f64> {
    let item = match value.strip_prefix(b"(") {
        Some(list) => {
            let items = || list.strip_suffix(b")").unwrap_or(list).split(|byte| *byte == b' ');
            let of_pictures = |item: &&[u8]| item.split(|byte| *byte == b';').skip(1).any(is_pictures);
            items().find(of_pictures).or_else(|| items().find(|item| !item.is_empty()))?
        }
        None => value,
    };
    let digits = token(item);
    let numeric = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let digits = Some(digits).filter(|digits| numeric && digits.len() <= MAX_NUMBER_CHARS)?;
    let number = str::from_utf8(digits).ok()?.parse().ok()?;
    bounds.contains(&number).then_some(number)
}

fn is_pictures(parameter: &[u8]) -> bool {
    matches!(parameter, b"v" | b"av")
}

/// The nearest whole number. The bounds of all values lie within `u32`.
fn whole(number: f64) -> u32 {
    number.round() as u32
}

// === impl Sid ===

impl Sid {
    /// A session's ID, if this is one.
    pub fn new(sid: &str) -> Option<Self> {
        let printable = sid.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        (printable && (1..=MAX_SID_CHARS).contains(&sid.len())).then(|| Self(sid.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Prints nothing of the ID.
impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sid(..)")
    }
}

// === impl tokens ===

impl ObjectType {
    fn from_token(token: &[u8]) -> Option<Self> {
        match token {
            b"m" => Some(Self::Playlist),
            b"a" => Some(Self::Audio),
            b"v" => Some(Self::Video),
            b"av" => Some(Self::Muxed),
            b"i" => Some(Self::Init),
            b"c" | b"tt" | b"k" | b"o" => Some(Self::Other),
            _ => None,
        }
    }
}

impl StreamingFormat {
    fn from_token(token: &[u8]) -> Option<Self> {
        match token {
            b"h" => Some(Self::Hls),
            b"d" | b"s" | b"o" => Some(Self::Other),
            _ => None,
        }
    }
}

impl StreamType {
    fn from_token(token: &[u8]) -> Option<Self> {
        match token {
            b"l" | b"ll" => Some(Self::Live),
            b"v" => Some(Self::OnDemand),
            _ => None,
        }
    }
}

// === impl Members ===

impl<'a> Members<'a> {
    fn of(value: &'a [u8]) -> Self {
        Self { rest: Some(&value[..value.len().min(MAX_BYTES)]) }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (mut quoted, mut escaped) = (false, false);
        let comma = rest.iter().position(|byte| {
            let literal = std::mem::take(&mut escaped);
            match byte {
                b'"' if !literal => quoted = !quoted,
                b'\\' if quoted && !literal => escaped = true,
                _ => {}
            }
            *byte == b',' && !quoted
        });
        self.rest = comma.map(|comma| &rest[comma + 1..]);
        Some(rest[..comma.unwrap_or(rest.len())].trim_ascii())
    }
}

#[cfg(test)]
mod tests;
