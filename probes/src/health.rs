//! The interface between probes and a process of any kind: an encoder ([`crate::Probe`]), or a process that only
//! answers in place of encoders. HTTP is in [`crate::admin`].

use serde_json::{Map, Value};
use std::future::Future;
use std::pin::Pin;

/// The result of a probe, with the reason in words. Platforms read the result, the operator on call reads the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthVerdict {
    /// The result: HTTP status 200 or 503.
    pub good: bool,
    /// The reason; never empty.
    pub why: String,
}

/// Health of a process. Called on the admin thread: implementations may take a short lock and must not wait.
pub trait Health: Send + Sync + 'static {
    /// Liveness: bad if a restart would help. Busy and slow processes are alive; a stuck one is not.
    fn live(&self) -> HealthVerdict;

    /// Readiness: whether the process takes the next connection.
    fn ready(&self) -> HealthVerdict;

    /// Whether start-up is complete. Until then a platform ignores liveness and readiness.
    fn started(&self) -> HealthVerdict;

    /// Fields that the response bodies contain in addition to the verdict.
    fn details(&self) -> Map<String, Value>;

    /// Resolves at the next change that may alter [`Health::ready`]. Changes before the call do not count, so call this
    /// first and read the verdict afterwards. Without an implementation nobody can follow the readiness.
    fn changed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }

    /// Sets the gauges again, because values set before the metrics recorder was installed are lost.
    fn publish_gauges(&self) {}
}

// === impl Verdict ===

impl HealthVerdict {
    /// A good verdict with its reason.
    pub fn good(why: impl Into<String>) -> Self {
        Self { good: true, why: why.into() }
    }

    /// A bad verdict with its reason.
    pub fn bad(why: impl Into<String>) -> Self {
        Self { good: false, why: why.into() }
    }
}
