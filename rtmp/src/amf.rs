//! Makes AMF0 safe for `rml_amf0`: one iterative pass over the bytes checks depth, count and size and rewrites the
//! values that the crate cannot read.
//!
//! Why: `rml_amf0` recurses without limit (rml_amf0-0.3.0/src/deserialization.rs:31,90,119), so 40 kB of nested arrays
//! crash the process. The crate also fails on Date, LongString and other legal values, so a Date in the metadata would
//! end the publish. The pass replaces values that this program does not use with Null.
//!
//! Not here: what commands and metadata mean ([`super::session`]).

use rml_amf0::Amf0Value;
use std::io::Cursor;

/// Maximum nesting depth of objects and arrays.
pub const MAX_DEPTH: usize = 16;
/// Maximum number of values in a message, including nested ones.
pub const MAX_VALUES: usize = 1_000;
/// Maximum message length in bytes.
pub const MAX_SIZE: usize = 16 << 10;

/// Why AMF was not read. The peer's fault; the same bytes will fail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmfError {
    /// Longer than [`MAX_SIZE`].
    #[error("AMF message of {0} bytes, {MAX_SIZE} are allowed")]
    TooLong(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("AMF nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More values than [`MAX_VALUES`].
    #[error("more than {MAX_VALUES} AMF values")]
    TooMany,
    /// The bytes end inside a value.
    #[error("AMF ends inside a value")]
    Truncated,
    /// A marker that is not allowed at this position, or whose value has no known length.
    #[error("AMF marker {0:#04x} cannot be read")]
    BadMarker(u8),
    /// A command with fewer than three values, or whose first two values are not a name and a number.
    #[error("a command is a name, a number and an object")]
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

/// A container that the scan has entered and not yet left.
enum Container {
    /// Keys and values in turn, then an end marker.
    Object,
    /// An array with this number of values still to come.
    Array(u32),
}

/// Reads a message's values: at most [`MAX_VALUES`], nested at most [`MAX_DEPTH`] deep.
pub fn values(bytes: &[u8]) -> Result<Vec<Amf0Value>, AmfError> {
    let clean = sanitise(bytes)?;
    // The sanitised bytes contain nothing that the crate refuses. If it refuses them anyway, the message is unreadable.
    rml_amf0::deserialize(&mut Cursor::new(clean)).map_err(|_| AmfError::Truncated)
}

/// Reads a command: its name, its transaction number, and the remaining values, at least one.
pub fn command(bytes: &[u8]) -> Result<(String, f64, Vec<Amf0Value>), AmfError> {
    let mut values = values(bytes)?.into_iter();
    match (values.next(), values.next(), values.len()) {
        (Some(Amf0Value::Utf8String(name)), Some(Amf0Value::Number(transaction)), 1..) => {
            Ok((name, transaction, values.collect()))
        }
        _ => Err(AmfError::NotACommand),
    }
}

/// Checks and rewrites a message. The result is at most four times as long as `bytes`.
fn sanitise(bytes: &[u8]) -> Result<Vec<u8>, AmfError> {
    if bytes.len() > MAX_SIZE {
        return Err(AmfError::TooLong(bytes.len()));
    }
    let mut scan =
        Scan { rest: bytes, out: Vec::with_capacity(bytes.len() + 16), values: 0, open: Vec::new() };
    while scan.step()? {}
    Ok(scan.out)
}

struct Scan<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    values: usize,
    open: Vec<Container>,
}

impl<'a> Scan<'a> {
    /// Reads one key, value or end marker. Returns `false` when the input is used up.
    fn step(&mut self) -> Result<bool, AmfError> {
        match self.open.last_mut() {
            None if self.rest.is_empty() => return Ok(false),
            None => {}
            Some(Container::Array(0)) => {
                self.open.pop();
                return Ok(true);
            }
            Some(Container::Array(left)) => *left -= 1,
            Some(Container::Object) => {
                let key = self.string16()?;
                if key.is_empty() && self.rest.first() == Some(&marker::OBJECT_END) {
                    self.take(1)?;
                    self.out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
                    self.open.pop();
                    return Ok(true);
                }
                // The crate refuses empty keys.
                self.put_string(if key.is_empty() { b"_" } else { key });
            }
        }
        self.value()?;
        Ok(true)
    }

    fn value(&mut self) -> Result<(), AmfError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(AmfError::TooMany);
        }
        match self.take(1)?[0] {
            marker::NUMBER => {
                let number = self.take(8)?;
                self.out.push(marker::NUMBER);
                self.out.extend_from_slice(number);
            }
            marker::BOOLEAN => {
                let value = self.take(1)?[0];
                self.out.extend_from_slice(&[marker::BOOLEAN, u8::from(value != 0)]);
            }
            marker::STRING => {
                let text = self.string16()?;
                self.out.push(marker::STRING);
                self.put_string(text);
            }
            marker::LONG_STRING | marker::XML => {
                let length = self.u32()?;
                let text = self.take(length as usize)?;
                // At most MAX_SIZE bytes, so it fits a short string.
                self.out.push(marker::STRING);
                self.put_string(text);
            }
            marker::OBJECT => self.open(Container::Object, &[marker::OBJECT])?,
            marker::TYPED_OBJECT => {
                self.string16()?;
                self.open(Container::Object, &[marker::OBJECT])?;
            }
            marker::ECMA_ARRAY => {
                // The count is only a hint; the end marker ends the array.
                self.u32()?;
                self.open(Container::Object, &[marker::OBJECT])?;
            }
            marker::STRICT_ARRAY => {
                let count = self.u32()?;
                let [a, b, c, d] = count.to_be_bytes();
                self.open(Container::Array(count), &[marker::STRICT_ARRAY, a, b, c, d])?;
            }
            marker::NULL | marker::UNDEFINED | marker::UNSUPPORTED => self.out.push(marker::NULL),
            marker::REFERENCE => {
                self.take(2)?;
                self.out.push(marker::NULL);
            }
            marker::DATE => {
                self.take(10)?;
                self.out.push(marker::NULL);
            }
            // An object end outside an object, a reserved marker, or the switch to AMF3.
            other => return Err(AmfError::BadMarker(other)),
        }
        Ok(())
    }

    fn open(&mut self, container: Container, head: &[u8]) -> Result<(), AmfError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(AmfError::TooDeep);
        }
        self.open.push(container);
        self.out.extend_from_slice(head);
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

    /// Writes a string with its 16-bit length, converted to UTF-8 because some encoders send Latin-1. One input byte
    /// becomes at most three bytes, so the result is at most 48 kB and its length fits 16 bits.
    fn put_string(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        self.out.extend_from_slice(&(text.len() as u16).to_be_bytes());
        self.out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests;
