//! What a call runs into. A rule sees every call and decides; rules made here are deterministic: the same calls in the
//! same order meet the same faults.

use std::time::Duration;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Writing an object, a piece of a resumable upload included.
    Insert,
    /// Reading one through the API.
    Read,
    /// Reading one as anybody may.
    Public,
    /// An object's metadata.
    Get,
    /// Removing one.
    Delete,
    /// A listing.
    List,
    /// Composing or copying.
    Compose,
    /// About the bucket.
    Bucket,
}

/// One call, as a rule sees it and as it is kept on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// Of which object; a listing's prefix; empty for a bucket.
    pub object: String,
    /// When it arrived, since the server's start.
    pub at: Duration,
}

impl Call {
    /// Whether a playlist is written.
    pub fn writes_playlist(&self) -> bool {
        self.operation == Operation::Insert && self.object.ends_with(".m3u8")
    }

    /// Whether a media segment is written.
    pub fn writes_segment(&self) -> bool {
        self.operation == Operation::Insert && self.object.ends_with(".m4s")
    }
}

/// What a call runs into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nothing, but it takes that long.
    Slow(Duration),
    /// This HTTP status, or what gRPC has for it; nothing is done.
    Status(u16),
    /// No answer ever; nothing is done.
    Hang,
    /// No answer ever, but it is done.
    HangAfter,
    /// The connection is cut; nothing is done.
    Cut,
    /// It is done, and the connection is cut before the answer.
    LostAnswer,
}

/// Decides what a call runs into.
pub type Rule = Box<dyn FnMut(&Call) -> Fault + Send>;

/// A part of all calls, chosen by a seed, meets a fault.
pub fn some(seed: u64, rate: f64, fault: Fault) -> impl FnMut(&Call) -> Fault + Send + 'static {
    let mut random = fastrand::Rng::with_seed(seed);
    move |call| {
        // Viewers are not what is tested.
        if call.operation != Operation::Public && random.f64() < rate { fault } else { Fault::None }
    }
}

/// All calls between two moments meet a fault.
pub fn between(from: Duration, to: Duration, fault: Fault) -> impl FnMut(&Call) -> Fault + Send + 'static {
    move |call| {
        if call.operation != Operation::Public && (from..to).contains(&call.at) { fault } else { Fault::None }
    }
}
