//! Who watches, and how well. Sans-IO: bytes, time and random keys in, counts out.
//!
//! - [`viewers`] counts the distinct viewers of each stream and rung, in bounded memory.
//! - [`identity`] says which requests come from the same viewer.
//! - [`cmcd`] reads what a player says with its requests (Common Media Client Data, CTA-5004).
//! - [`playback`] turns this into samples for counters and histograms.
//! - [`report`] carries the counts of one stream from an edge to the stream's encoder in an HTTP header.
//!
//! What is kept of a viewer is a 64-bit keyed hash (SipHash) for some 16 s after the last request: never the address,
//! the user agent or the CMCD session ID. The key is random, is made for one process, and is replaced daily
//! ([`identity::KEY_LIFETIME`]), so hashes can be compared neither across processes nor across days. Nothing of a
//! viewer appears in a `Debug` output.
//!
//! Every number here rests on what clients say. A stranger who sends a new session ID with each request counts as many
//! viewers. The numbers are for operators, and no admission, refusal or bill may depend on them.
//!
//! Sockets, clocks, logging and metrics do not belong here, nor the choice of which requests are a viewer's.
#![forbid(unsafe_code)]

pub mod cmcd;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
pub mod identity;
pub mod playback;
pub mod report;
pub mod viewers;
