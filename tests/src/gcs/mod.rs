//! A Cloud Storage that behaves like Google's where a live stream depends on it, and fails on demand.
//!
//! [`Objects`] is the store itself, sans-IO: names, generations, preconditions, checksums, the limit of one write per
//! second and name, permissions. [`json`] and [`grpc`] are the two protocols of google-cloud-storage, and the public
//! URLs that players read; requests go in, responses come out. [`faults`] decides which fault a call meets. [`server`]
//! adds sockets; [`direct`] works without sockets: an `store::Store` for tests on paused time. [`audit`] reads
//! every version of every playlist and checks every object that it names. [`emulator`] is a third-party Cloud Storage,
//! for what that can judge.
//!
//! The behaviour follows Google's documentation. Where a test needs an answer that is not documented, a comment at that
//! place states the choice.

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
