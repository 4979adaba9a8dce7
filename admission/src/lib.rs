//! Who may publish: stream keys, signed tokens, and the questions that a back end is asked. Sans-IO: bytes and time in,
//! verdicts and bytes out.
//!
//! What belongs here: the formats of the three sources of identity, the verdict that they all come to ([`Grant`]), and
//! the signature on requests to other services ([`signature`]). What does not: files, sockets, clocks, logging, and
//! what a grant leads to.
//!
//! A stream key is a secret. No error, log line or `Debug` of this crate contains one.
#![forbid(unsafe_code)]

mod grant;
pub mod signature;

pub use grant::{Grant, Terms};
