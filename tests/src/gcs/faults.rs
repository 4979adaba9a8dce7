//! Faults that calls meet. A rule sees every call and decides. The rules made here are deterministic: the same calls in
//! the same order meet the same faults.

use std::time::Duration;

/// Kind of operation that a call requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Writes an object, or a piece of a resumable upload.
    Insert,
    /// Reads an object through the API.
    Read,
    /// Reads an object through its public URL.
    Public,
    /// Reads an object's metadata.
    Get,
    /// Deletes an object.
    Delete,
    /// Lists objects.
    List,
    /// Composes or copies objects.
    Compose,
    /// Reads bucket metadata or permissions.
    Bucket,
}

/// One call, as a rule sees it and as the log of calls keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The requested operation.
    pub operation: Operation,
    /// Name of the object, or prefix of a listing; empty for a bucket.
    pub object: String,
    /// Arrival time since the server's start.
    pub at: Duration,
}

impl Call {
    /// Whether the call writes a playlist.
    pub fn writes_playlist(&self) -> bool {
        self.operation == Operation::Insert && self.object.ends_with(".m3u8")
    }

    /// Whether the call writes a media segment.
    pub fn writes_segment(&self) -> bool {
        self.operation == Operation::Insert && self.object.ends_with(".m4s")
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    None,
    /// No fault, but the response takes this long.
    Slow(Duration),
    /// This HTTP status, or its gRPC equivalent; the call is not carried out.
    Status(u16),
    /// The call is neither carried out nor ever answered.
    Hang,
    /// The call is carried out but never answered.
    HangAfter,
    /// The connection is cut; the call is not carried out.
    Cut,
    /// The call is carried out, and the connection is cut before the response.
    LostAnswer,
}

/// Decides which fault a call meets.
pub type Rule = Box<dyn FnMut(&Call) -> Fault + Send>;

/// A rule in which a random share `rate` of all calls, chosen by `seed`, meets a fault.
pub fn some(seed: u64, rate: f64, fault: Fault) -> impl FnMut(&Call) -> Fault + Send + 'static {
    let mut random = fastrand::Rng::with_seed(seed);
    move |call| {
        // Public reads are spared: they are viewers, not the client under test.
        if call.operation != Operation::Public && random.f64() < rate { fault } else { Fault::None }
    }
}

/// A rule in which all calls between two times meet a fault, except public reads.
pub fn between(from: Duration, to: Duration, fault: Fault) -> impl FnMut(&Call) -> Fault + Send + 'static {
    move |call| {
        if call.operation != Operation::Public && (from..to).contains(&call.at) { fault } else { Fault::None }
    }
}
