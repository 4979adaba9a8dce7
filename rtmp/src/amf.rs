//! Makes AMF0 safe for `rml_amf0`: one iterative pass over the bytes bounds depth, count and size and rewrites the values
//! that the crate cannot read.
//!
//! Why: `rml_amf0` recurses without limit (rml_amf0-0.3.0/src/deserialization.rs:31,90,119), so 40 kB of nested arrays
//! crash the process. The crate also fails on Date, LongString and other legal values, so a Date in the metadata would
//! end the publish. The pass replaces values that this program does not use with Null.
//!
//! The pass is lenient, because recorded files and cameras send metadata that is long, cut or marked wrongly: values
//! beyond a bound are left out, and where the bytes cannot be read on, everything before that place counts. The caller
//! learns whether something was cut off ([`AmfMessage::cut`]).
//!
//! Not here: what commands and metadata mean ([`super::session`]).

use rml_amf0::Amf0Value;
use std::io::Cursor;

/// Maximum nesting depth of objects and arrays. What follows a deeper value is not read.
pub const MAX_DEPTH: usize = 16;
/// Maximum number of values kept of a message, including nested ones; further ones are left out.
pub const MAX_VALUES: usize = 1_000;
/// Maximum number of elements kept of a strict array; further ones are left out. Recorded files list the times and
/// positions of all keyframes in two arrays, which must not use up [`MAX_VALUES`].
pub const MAX_ELEMENTS: usize = 100;
/// Maximum message length in bytes.
pub const MAX_SIZE: usize = 1 << 20;
/// Longest text that is kept, in bytes; the rest is cut off. Longer than any stream key, and short enough that its
/// length fits 16 bits after the conversion to UTF-8.
const MAX_TEXT: usize = 16 << 10;

/// Why AMF was not read, or not to its end. The peer's fault; the same bytes will fail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    /// Longer than [`MAX_SIZE`].
    #[error("AMF message of {0} bytes, {MAX_SIZE} are allowed")]
    TooLong(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("AMF nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The bytes end inside a value.
    #[error("AMF ends inside a value")]
    Truncated,
    /// A marker that is not allowed at this position, or whose value has no known length.
    #[error("AMF marker {0:#04x} cannot be read")]
    BadMarker(u8),
    /// A command whose first value is not a name.
    #[error("a command begins with its name")]
    NotACommand,
}

/// AMF0 markers (AMF 0 specification, 2.1).
mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
}

/// What was read of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct AmfMessage {
    /// The values, without those beyond a bound. The last one is incomplete if the message is cut.
    pub values: Vec<Amf0Value>,
    /// Why the message could not be read to its end; `None` if it could.
    pub cut: Option<AmfError>,
}

/// What was read of a command.
#[derive(Clone, Debug, PartialEq)]
pub struct AmfCommand {
    /// Its name.
    pub name: String,
    /// Its transaction number; 0 if there is none, which means that no answer is awaited.
    pub transaction: f64,
    /// The values that follow, the command object first. Some clients send none.
    pub arguments: Vec<Amf0Value>,
    /// See [`AmfMessage::cut`].
    pub cut: Option<AmfError>,
}

/// Reads a message as far as it can be read: at most [`MAX_VALUES`], nested at most [`MAX_DEPTH`] deep.
pub fn read(bytes: &[u8]) -> AmfMessage {
    let (clean, cut) = sanitise(bytes);
    // The sanitised bytes contain nothing that the crate refuses. If it refuses them anyway, the message is unreadable.
    match rml_amf0::deserialize(&mut Cursor::new(clean)) {
        Ok(values) => AmfMessage { values, cut },
        Err(_) => AmfMessage { values: Vec::new(), cut: Some(AmfError::Truncated) },
    }
}

/// Reads a command as far as it can be read.
///
/// # Errors
/// No name could be read.
pub fn command(bytes: &[u8]) -> Result<AmfCommand, AmfError> {
    let AmfMessage { values, cut } = read(bytes);
    let mut values = values.into_iter();
    let Some(Amf0Value::Utf8String(name)) = values.next() else {
        return Err(cut.unwrap_or(AmfError::NotACommand));
    };
    let transaction = match values.next() {
        Some(Amf0Value::Number(transaction)) => transaction,
        Some(_) | None => 0.0,
    };
    Ok(AmfCommand { name, transaction, arguments: values.collect(), cut })
}

/// Checks and rewrites a message, up to where it cannot be read on. The result is at most four times as long as `bytes`.
fn sanitise(bytes: &[u8]) -> (Vec<u8>, Option<AmfError>) {
    if bytes.len() > MAX_SIZE {
        return (Vec::new(), Some(AmfError::TooLong(bytes.len())));
    }
    let mut scan =
        Scan { rest: bytes, out: Vec::with_capacity(bytes.len() + 16), values: 0, open: Vec::new() };
    let cut = loop {
        let written = scan.out.len();
        match scan.step() {
            Ok(true) => {}
            Ok(false) => break None,
            Err(error) => {
                scan.out.truncate(written);
                break Some(error);
            }
        }
    };
    while scan.close() {}
    (scan.out, cut)
}

/// A container that the scan has entered and not yet left.
struct Open {
    container: Container,
    /// Whether the container is written to the output. Its values are scanned anyway.
    kept: bool,
}

enum Container {
    /// Keys and values in turn, then an end marker.
    Object,
    /// An array.
    Array {
        /// Number of values still to come.
        left: u32,
        /// Number of values written to the output.
        written: u32,
        /// Where the output holds the array's count.
        count_at: usize,
    },
}

struct Scan<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    /// Number of values written to the output.
    values: usize,
    open: Vec<Open>,
}

impl<'a> Scan<'a> {
    /// Reads one key with its value, one value, or one end marker. Returns `false` when the input is used up.
    fn step(&mut self) -> Result<bool, AmfError> {
        let has_room = self.values < MAX_VALUES;
        let parent = self.open.len().checked_sub(1);
        let keep = match self.open.last_mut() {
            None if self.rest.is_empty() => return Ok(false),
            None => has_room,
            Some(Open { container: Container::Array { left: 0, .. }, .. }) => return Ok(self.close()),
            Some(Open { container: Container::Array { left, written, .. }, kept }) => {
                *left -= 1;
                *kept && has_room && (*written as usize) < MAX_ELEMENTS
            }
            Some(Open { container: Container::Object, kept }) => {
                let keep = *kept && has_room;
                let key = self.string16()?;
                if key.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                    self.take(1)?;
                    return Ok(self.close());
                }
                if keep {
                    // The crate refuses empty keys.
                    self.put_string(if key.is_empty() { b"_" } else { key });
                }
                keep
            }
        };
        self.value(keep)?;
        if keep {
            self.values += 1;
            if let Some(Open { container: Container::Array { written, .. }, .. }) =
                parent.and_then(|parent| self.open.get_mut(parent))
            {
                *written += 1;
            }
        }
        Ok(true)
    }

    /// Leaves the innermost container. Returns `false` if there is none.
    fn close(&mut self) -> bool {
        match self.open.pop() {
            None => return false,
            Some(Open { kept: false, .. }) => {}
            Some(Open { container: Container::Object, .. }) => {
                self.out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
            }
            Some(Open { container: Container::Array { written, count_at, .. }, .. }) => {
                if let Some(count) = self.out.get_mut(count_at..count_at + 4) {
                    count.copy_from_slice(&written.to_be_bytes());
                }
            }
        }
        true
    }

    /// Reads one value, or the beginning of a container, and writes it to the output if it is to be kept.
    fn value(&mut self, keep: bool) -> Result<(), AmfError> {
        match self.take(1)?[0] {
            marker::NUMBER => {
                let number = self.take(8)?;
                self.put(keep, &[&[marker::NUMBER], number]);
            }
            marker::BOOLEAN => {
                let value = self.take(1)?[0];
                self.put(keep, &[&[marker::BOOLEAN, u8::from(value != 0)]]);
            }
            marker::STRING => {
                let text = self.string16()?;
                self.put_text(keep, text);
            }
            marker::LONG_STRING | marker::XML => {
                let length = self.u32()?;
                let text = self.take(length as usize)?;
                self.put_text(keep, text);
            }
            marker::OBJECT => self.enter(Container::Object, keep)?,
            marker::TYPED_OBJECT => {
                self.string16()?;
                self.enter(Container::Object, keep)?;
            }
            marker::ECMA_ARRAY => {
                // The count is only a hint; the end marker ends the array.
                self.u32()?;
                self.enter(Container::Object, keep)?;
            }
            marker::STRICT_ARRAY => {
                let left = self.u32()?;
                self.enter(Container::Array { left, written: 0, count_at: self.out.len() + 1 }, keep)?;
            }
            marker::NULL | marker::UNDEFINED | marker::UNSUPPORTED => self.put(keep, &[&[marker::NULL]]),
            marker::REFERENCE => {
                self.take(2)?;
                self.put(keep, &[&[marker::NULL]]);
            }
            marker::DATE => {
                self.take(10)?;
                self.put(keep, &[&[marker::NULL]]);
            }
            // An object end outside an object, a reserved marker, or the switch to AMF3.
            other => return Err(AmfError::BadMarker(other)),
        }
        Ok(())
    }

    fn enter(&mut self, container: Container, kept: bool) -> Result<(), AmfError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(AmfError::TooDeep);
        }
        match container {
            Container::Object => self.put(kept, &[&[marker::OBJECT]]),
            // The count is written when the array is left.
            Container::Array { .. } => self.put(kept, &[&[marker::STRICT_ARRAY, 0, 0, 0, 0]]),
        }
        self.open.push(Open { container, kept });
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], AmfError> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(AmfError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32, AmfError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string16(&mut self) -> Result<&'a [u8], AmfError> {
        let bytes = self.take(2)?;
        self.take(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn put(&mut self, keep: bool, parts: &[&[u8]]) {
        if keep {
            parts.iter().for_each(|part| self.out.extend_from_slice(part));
        }
    }

    fn put_text(&mut self, keep: bool, text: &[u8]) {
        if keep {
            self.out.push(marker::STRING);
            self.put_string(text);
        }
    }

    /// Writes a string with its 16-bit length, converted to UTF-8 because some encoders send Latin-1. One input byte
    /// becomes at most three bytes, so the result is at most 48 kB and its length fits 16 bits.
    fn put_string(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
        self.out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        self.out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests;
