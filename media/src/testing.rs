//! Helpers of this crate's own tests.

use bytes::Bytes;

/// The bytes that hexadecimal digits stand for; everything else in the text is ignored.
pub(crate) fn bytes(hex: &str) -> Bytes {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
