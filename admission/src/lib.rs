//! Who may publish: stream keys, signed tokens, and the questions that a back end is asked. Who may watch: viewers'
//! passes. Sans-IO: bytes and time in, verdicts and bytes out.
//!
//! What belongs here: the formats of the three sources of identity, the verdict that they all come to ([`Grant`]), the
//! formats of passes ([`pass`]) and of shared secrets ([`secret`]), and the signature on requests to other services
//! ([`signature`]). What does not: files, sockets, clocks, logging, and what a grant leads to.
//!
//! A stream key is a secret, and so is a pass. No error, log line or `Debug` of this crate contains one.
#![forbid(unsafe_code)]

#[cfg(feature = "testing")]
pub mod fuzzing;
mod grant;
pub mod hook;
pub mod keys;
pub mod pass;
pub mod remembered;
pub mod secret;
pub mod signature;
pub mod token;

pub use grant::{Grant, Terms, TermsError};

/// A stream key with its percent-escapes decoded; `None` if that changes nothing or is not UTF-8.
pub fn decoded(key: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(key).decode_utf8().ok()?;
    (decoded != key).then(|| decoded.into_owned())
}

/// The SHA-256 digest of some bytes.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}
