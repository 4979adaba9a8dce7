//! What probes ask of a process, whatever kind of process it is: an encoder ([`crate::Probe`]), or one that only stands
//! in for encoders. HTTP is in [`crate::admin`].

use serde_json::{Map, Value};

/// Good or not, and why, in words for people. Platforms look at the first, whoever is woken at the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// 200 or 503.
    pub good: bool,
    /// Never empty.
    pub why: String,
}

/// A process as its probes see it. Called on the admin thread: it may take a short lock and must not wait.
pub trait Health: Send + Sync + 'static {
    /// Whether a restart would not help. Busy and slow are alive; stuck is not.
    fn live(&self) -> Verdict;

    /// Whether the next connection is welcome.
    fn ready(&self) -> Verdict;

    /// Whether the start is over. Until then a platform leaves the other two alone.
    fn started(&self) -> Verdict;

    /// What the answers' bodies say beside the verdict.
    fn details(&self) -> Map<String, Value>;

    /// Sets its gauges afresh: the recorder may be younger than what it records.
    fn publish_gauges(&self) {}
}

// === impl Verdict ===

impl Verdict {
    /// All is well, because of that.
    pub fn good(why: impl Into<String>) -> Self {
        Self { good: true, why: why.into() }
    }

    /// It is not, because of that.
    pub fn bad(why: impl Into<String>) -> Self {
        Self { good: false, why: why.into() }
    }
}
