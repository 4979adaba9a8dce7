//! How many viewers edges have, told to the encoder that has the stream: a header with each of an edge's requests, such
//! as `encoder-viewers: 1080p=12, 720p=30`.
//!
//! [`Report`] is one edge's count for one stream; [`Reports`] is the encoder's sum over all edges of one stream. A
//! viewer counts once for every edge that it has used within the window of [`crate::viewers`]: behind a balancer that
//! spreads the requests of one viewer over many edges the sum is too high. A balancer that keeps a connection at one
//! edge counts each viewer once.
//!
//! Who may send a report does not belong here.

use media::is_valid_name;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The header, in lower case.
pub const HEADER: &str = "encoder-viewers";
/// Most rungs of a report.
pub const MAX_RUNGS: usize = 32;
/// Longest value in bytes: for each rung a name, `=`, ten digits, a comma and a space.
pub const MAX_VALUE_BYTES: usize = MAX_RUNGS * (media::MAX_NAME_LEN + 13);
/// How long a report counts. Edges ask for a playlist every few seconds; a report that is older than this is of an edge
/// that has ended or has no viewers of the stream any longer.
pub const REPORT_LIFETIME: Duration = Duration::from_secs(15);
/// Most edges whose reports are kept for one stream.
pub const MAX_EDGES: usize = 256;

/// The viewers of one stream by rung. A report has no rungs without viewers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// At most [`MAX_RUNGS`] valid names.
    rungs: BTreeMap<String, u32>,
}

/// Why a value is not a report. The sender's fault; a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    /// The value has more than [`MAX_VALUE_BYTES`].
    #[error("a report of viewers has more than {MAX_VALUE_BYTES} bytes")]
    TooLong,
    /// There are more than [`MAX_RUNGS`] rungs.
    #[error("a report of viewers has more than {MAX_RUNGS} rungs")]
    TooManyRungs,
    /// A rung's name is not 1 to 64 characters of `A-Za-z0-9_-`.
    #[error("a report of viewers has a rung whose name is not 1 to 64 characters of A-Za-z0-9_-")]
    Name,
    /// A rung is there twice.
    #[error("a report of viewers has a rung twice")]
    Twice,
    /// A count is not a whole number from 0 to 4,294,967,295.
    #[error("a report of viewers has a count that is not a whole number below 4,294,967,296")]
    Count,
}

/// An edge: a random number that it chooses at its start, written as 16 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(u64);

/// Why a text is not an edge's ID. The sender's fault; a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an edge's ID is not 16 hexadecimal digits in lower case")]
pub struct BadEdgeId;

/// The latest reports about one stream: [`MAX_EDGES`] reports at most.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Each report, and when it came.
    edges: BTreeMap<EdgeId, (Report, Instant)>,
}

/// Why a report is not kept. The next one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_EDGES} edges report viewers of one stream already: the viewers of others are not counted")]
pub struct TooManyEdges;

// === impl Report ===

impl Report {
    /// A report of these counts. Names that are not valid, counts of zero, and rungs after the first [`MAX_RUNGS`] are
    /// left out; a count beyond `u32` is the largest `u32`.
    pub fn new<'a>(rungs: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let rungs = rungs.into_iter().filter(|(rung, viewers)| is_valid_name(rung) && *viewers > 0);
        let count = |viewers: u64| u32::try_from(viewers).unwrap_or(u32::MAX);
        Self {
            rungs: rungs.take(MAX_RUNGS).map(|(rung, viewers)| (rung.to_owned(), count(viewers))).collect(),
        }
    }

    /// Reads the header's value. An empty value reports a stream without viewers.
    ///
    /// # Errors
    ///
    /// The value is not what [`Report`]'s `Display` writes, but for white space and counts of zero.
    pub fn parse(value: &[u8]) -> Result<Self, BadReport> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(BadReport::TooLong);
        }
        let value = str::from_utf8(value).map_err(|_| BadReport::Name)?;
        let mut rungs = BTreeMap::new();
        for member in value.split(',').map(str::trim_ascii).filter(|_| !value.trim_ascii().is_empty()) {
            let (rung, viewers) = member.split_once('=').ok_or(BadReport::Count)?;
            let rung = Some(rung).filter(|rung| is_valid_name(rung)).ok_or(BadReport::Name)?;
            if rungs.len() == MAX_RUNGS {
                return Err(BadReport::TooManyRungs);
            }
            if rungs.insert(rung.to_owned(), count(viewers)?).is_some() {
                return Err(BadReport::Twice);
            }
        }
        rungs.retain(|_, viewers| *viewers > 0);
        Ok(Self { rungs })
    }

    /// The viewers of each rung that has some, by name.
    pub fn rungs(&self) -> impl Iterator<Item = (&str, u32)> {
        self.rungs.iter().map(|(rung, viewers)| (rung.as_str(), *viewers))
    }

    /// The viewers of all rungs.
    pub fn viewers(&self) -> u64 {
        self.rungs.values().copied().map(u64::from).sum()
    }
}

/// Digits alone: the standard library's parser takes a sign as well.
fn count(digits: &str) -> Result<u32, BadReport> {
    let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(BadReport::Count)
}

/// Writes the header's value.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (rung, viewers)) in self.rungs().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{rung}={viewers}")?;
        }
        Ok(())
    }
}

// === impl EdgeId ===

impl EdgeId {
    /// An ID from a random number.
    pub fn from_random(random: u64) -> Self {
        Self(random)
    }
}

impl fmt::Display for EdgeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for EdgeId {
    type Err = BadEdgeId;

    fn from_str(text: &str) -> Result<Self, BadEdgeId> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = Some(text).filter(|_| digits).and_then(|text| u64::from_str_radix(text, 16).ok());
        number.map(Self).ok_or(BadEdgeId)
    }
}

// === impl Reports ===

impl Reports {
    /// Takes an edge's report, which replaces that edge's former report. A report without viewers takes no place.
    ///
    /// # Errors
    ///
    /// There are [`MAX_EDGES`] other edges with viewers.
    pub fn record(&mut self, edge: EdgeId, report: Report, now: Instant) -> Result<(), TooManyEdges> {
        self.expire(now);
        if report.viewers() == 0 {
            self.edges.remove(&edge);
            return Ok(());
        }
        if self.edges.len() >= MAX_EDGES && !self.edges.contains_key(&edge) {
            return Err(TooManyEdges);
        }
        self.edges.insert(edge, (report, now));
        Ok(())
    }

    /// The viewers at all edges by rung.
    pub fn rungs(&mut self, now: Instant) -> BTreeMap<&str, u64> {
        self.expire(now);
        let mut sums = BTreeMap::new();
        for (rung, viewers) in self.edges.values().flat_map(|(report, _)| report.rungs()) {
            *sums.entry(rung).or_default() += u64::from(viewers);
        }
        sums
    }

    /// The viewers at all edges.
    pub fn viewers(&mut self, now: Instant) -> u64 {
        self.expire(now);
        self.edges.values().map(|(report, _)| report.viewers()).sum()
    }

    /// Edges that have viewers.
    pub fn edges(&mut self, now: Instant) -> usize {
        self.expire(now);
        self.edges.len()
    }

    fn expire(&mut self, now: Instant) {
        self.edges.retain(|_, (_, came)| now.saturating_duration_since(*came) < REPORT_LIFETIME);
    }
}

#[cfg(test)]
mod tests;
