//! Availability and liveness of this process, and the internal HTTP server that reports them.
//!
//! What belongs here: the busy state machine, liveness as progress, the metrics recorder, the admin router on its own
//! thread and runtime. What does not: streams, media, stores; they report to this crate and never wait for an answer.
#![forbid(unsafe_code)]

pub mod admin;
pub mod busy;
pub mod health;
pub mod metrics;
mod page;
pub mod probe;

pub use admin::{Admin, AdminError, AdminHandle, StatusSource};
pub use busy::{BusyEvent, BusyReason, BusyState, Denied, ProbeSettings};
pub use health::{Health, HealthVerdict};
pub use probe::{Liveness, Probe, StreamPermit};
