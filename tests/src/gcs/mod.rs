//! A Cloud Storage that behaves like Google's where it matters to a live stream, and misbehaves on demand.
//!
//! [`Objects`] is the store itself, sans-IO: names, generations, preconditions, checksums, the limit of one write a second
//! and name, permissions. [`json`] and [`grpc`] are the two protocols of google-cloud-storage, and the public URLs that
//! players read; requests in, responses out. [`faults`] says what a call runs into. [`server`] is the rim with sockets,
//! [`direct`] one without: an `encoder::store::Store` for tests on paused time. [`audit`] reads every version of every
//! playlist and everything that it names. [`emulator`] is somebody else's Cloud Storage, for what it can judge.
//!
//! What is known of the real one is from its documentation; where a test needs an answer that is not documented, the
//! choice is written down where it is made.

pub mod audit;
pub mod direct;
pub mod emulator;
pub mod faults;
pub mod grpc;
pub mod json;
mod multipart;
pub mod objects;
pub mod server;

#[cfg(test)]
mod tests;

pub use direct::DirectStore;
pub use emulator::Emulator;
pub use faults::{Call, Fault, Operation};
pub use objects::Objects;
pub use server::FakeGcs;
