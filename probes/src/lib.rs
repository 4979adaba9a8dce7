//! Availability and liveness of this process, and the internal HTTP server that reports them.
//!
//! What belongs here: the busy state machine, liveness as progress, the metrics recorder, the admin server on its own
//! thread and runtime, and who may use it. What does not: streams, media, stores; they report to this crate and never
//! wait for an answer.
#![forbid(unsafe_code)]

mod access;
pub mod admin;
pub mod busy;
pub mod health;
pub mod metrics;
mod page;
pub mod probe;
mod serve;

pub use access::Access;
pub use admin::{Admin, AdminError, AdminHandle, AdminRoutes, FOLLOWERS_HEAR_EVERY, StatusSource};
pub use busy::{BusyEvent, BusyReason, BusyState, Denied, ProbeSettings};
pub use health::{Health, HealthVerdict};
pub use probe::{Liveness, Probe, StreamPermit};
