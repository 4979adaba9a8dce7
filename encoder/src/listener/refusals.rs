//! Counts what a listener refused, by reason, and says so in the log: one line a minute at most, so that a flood of
//! connections does not become a flood of log lines.

use crate::logging::counts;
use listen::fairness::{Refused, Source};
use metrics::counter;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tracing::warn;

/// Time in which refusals are gathered before the first line about them.
const GATHER: Duration = Duration::from_secs(1);
/// Pause after a line.
const QUIET: Duration = Duration::from_secs(59);
/// Most sources that are told apart within a minute.
const MAX_SOURCES: usize = 10_000;

/// Why a connection was refused or closed, or a request was not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The source opened connections too fast.
    Rate,
    /// At random, before the bound was reached.
    EarlyDrop,
    /// Gave way to another connection.
    Evicted,
    /// No room.
    Full,
    /// No header from a trusted proxy, or a header from another address.
    ProxyHeader,
    /// A request that would have been held was answered with 503 at once.
    HeldRequest,
}

/// The refusals of one listener.
#[derive(Debug)]
pub(super) struct Refusals {
    listener: &'static str,
    pending: Mutex<Pending>,
    recorded: Notify,
}

/// Refusals that no log line has told yet.
#[derive(Debug, Default)]
struct Pending {
    by_reason: [u64; Reason::ALL.len()],
    sources: HashSet<Source>,
}

// === impl Reason ===

impl Reason {
    const ALL: [Self; 6] =
        [Self::Rate, Self::EarlyDrop, Self::Evicted, Self::Full, Self::ProxyHeader, Self::HeldRequest];

    /// The label of metrics and log lines.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::EarlyDrop => "early_drop",
            Self::Evicted => "evicted",
            Self::Full => "full",
            Self::ProxyHeader => "proxy_header",
            Self::HeldRequest => "held_request",
        }
    }

    fn count(self, listener: &'static str, count: u64) {
        match self {
            Self::Rate | Self::EarlyDrop | Self::Evicted | Self::Full | Self::ProxyHeader => {
                let reason = self.as_str();
                counter!("encoder_connections_refused_total", "listener" => listener, "reason" => reason)
                    .increment(count);
            }
            Self::HeldRequest => {
                counter!("encoder_held_requests_refused_total", "listener" => listener).increment(count);
            }
        }
    }
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Rate => Self::Rate,
            Refused::EarlyDrop => Self::EarlyDrop,
            Refused::Full => Self::Full,
        }
    }
}

// === impl Refusals ===

impl Refusals {
    /// Shows every counter from the start, as zero.
    pub(super) fn new(listener: &'static str) -> Self {
        Reason::ALL.iter().for_each(|reason| reason.count(listener, 0));
        Self { listener, pending: Mutex::default(), recorded: Notify::new() }
    }

    pub(super) fn record(&self, reason: Reason, source: Source) {
        reason.count(self.listener, 1);
        let mut pending = self.lock();
        pending.by_reason[reason as usize] += 1;
        if pending.sources.len() < MAX_SOURCES {
            pending.sources.insert(source);
        }
        drop(pending);
        self.recorded.notify_one();
    }

    /// Logs as the module says. Never resolves.
    pub(super) async fn report(&self) {
        loop {
            self.recorded.notified().await;
            tokio::time::sleep(GATHER).await;
            let Pending { by_reason, sources } = std::mem::take(&mut *self.lock());
            let reasons = counts(Reason::ALL.iter().map(|reason| reason.as_str()).zip(by_reason));
            // What was recorded while the last line was made may have been in that line.
            if reasons.is_some() {
                warn!(
                    listener = self.listener,
                    reasons,
                    sources = sources.len(),
                    "connections of strangers were refused or closed: if they are few sources, keep them away with a \
                     firewall; if they are a balancer, set --proxy-protocol and --trusted-proxies"
                );
                tokio::time::sleep(QUIET).await;
            }
        }
    }

    /// What no log line has told yet.
    #[cfg(test)]
    pub(super) fn total(&self) -> u64 {
        self.lock().by_reason.iter().sum()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // A panic elsewhere cannot leave numbers inconsistent.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn the_order_of_reasons_is_that_of_their_numbers() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_gathered_and_told_once_a_minute() {
        let refusals = Refusals::new("test");
        let source = |n: u8| IpAddr::from([192, 0, 2, n]).into();
        let waits = async |limit| tokio::time::timeout(limit, refusals.report()).await.unwrap_err();
        refusals.record(Reason::Rate, source(1));
        refusals.record(Reason::Rate, source(2));
        waits(Duration::from_millis(500)).await;
        assert_eq!(refusals.lock().by_reason[0], 2);
        assert_eq!(refusals.lock().sources.len(), 2);
        refusals.record(Reason::Evicted, source(2));
        let reporting = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(refusals.lock().by_reason, [0; 6], "told");
            refusals.record(Reason::Full, source(3));
            tokio::time::sleep(Duration::from_secs(57)).await;
            assert_eq!(refusals.lock().by_reason[3], 1, "not told within the minute");
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(refusals.lock().by_reason, [0; 6], "told in the next");
        };
        tokio::select! {
            () = refusals.report() => unreachable!("never resolves"),
            () = reporting => {}
        }
    }
}
