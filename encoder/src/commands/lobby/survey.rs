//! Asks all encoders whether they are ready and decides what this means for the lobby. Acting on the result does not
//! belong here.

use crate::fleet::neighbour;
use crate::fleet::resolve::addresses;
use std::fmt;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

/// Concurrent requests: a bound on sockets, not on encoders.
const AT_ONCE: usize = 64;
/// Time-out of one request, equal to a kubelet's default time-out for a readiness probe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time-out of a whole round. It is enough for 72 names without an answer, or for 576 addresses.
pub(super) const ROUND_WITHIN: Duration = Duration::from_secs(10);

/// The result of one survey round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Encoders that would accept a stream.
    pub free: usize,
    /// Encoders that answered that they would not accept a stream.
    pub taken: usize,
    /// Addresses that did not answer.
    pub silent: usize,
    /// Host names that did not resolve.
    pub nameless: usize,
}

/// What the result of a round means for the lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known: no encoder has answered, or one may be free at an address that did not resolve.
    Unknown,
    /// Encoders are free to take publishers.
    SomeFree {
        /// The number of free encoders.
        free: usize,
    },
    /// No encoder is free.
    AllBusy {
        /// The number of encoders that answered; 0 when none are configured.
        encoders: usize,
    },
    /// The lobby itself is about to leave.
    Leaving,
}

impl Survey {
    /// An encoder that does not answer is not free, as for a kubelet. But if none answers, more likely the lobby
    /// itself is cut off from the network, and then it must not compete with free encoders.
    pub(crate) fn standing(self) -> Standing {
        match self {
            Self { free: 1.., .. } => Standing::SomeFree { free: self.free },
            Self { taken: 0, .. } => Standing::Unknown,
            // Free encoders may exist under a name that did not resolve.
            Self { nameless: 1.., .. } => Standing::Unknown,
            Self { taken, .. } => Standing::AllBusy { encoders: taken },
        }
    }
}

impl Standing {
    /// Whether the lobby should answer publishers.
    pub(crate) fn wants_lobby(self) -> bool {
        match self {
            Self::AllBusy { .. } => true,
            Self::Unknown | Self::SomeFree { .. } | Self::Leaving => false,
        }
    }

    /// The number of free encoders, if known.
    pub(crate) fn free(self) -> Option<usize> {
        match self {
            Self::SomeFree { free } => Some(free),
            Self::AllBusy { encoders: 1.. } => Some(0),
            Self::AllBusy { encoders: 0 } | Self::Unknown | Self::Leaving => None,
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no encoder has answered"),
            Self::SomeFree { free } => write!(f, "{free} free"),
            Self::AllBusy { encoders: 0 } => f.write_str("always ready: no encoders are asked"),
            Self::AllBusy { encoders } => write!(f, "all {encoders} encoders are busy"),
            Self::Leaving => f.write_str("leaving"),
        }
    }
}

/// Asks all encoders, one round at a time.
#[derive(Debug)]
pub(crate) struct Surveyor {
    encoders: Vec<String>,
    lost: bool,
}

impl Surveyor {
    /// For encoders' admin ports as `HOST:PORT`; a host name stands for all its addresses.
    pub(crate) fn new(encoders: Vec<String>) -> Self {
        Self { encoders, lost: false }
    }

    /// Runs one round; `None` if no encoders are configured. Takes a few seconds at most for a hundred encoders that
    /// do not answer, and ten seconds in any case.
    pub(crate) async fn round(&mut self) -> Option<Survey> {
        if self.encoders.is_empty() {
            return None;
        }
        Some(bounded(self.ask_all()).await)
    }

    async fn ask_all(&mut self) -> Survey {
        let (addresses, nameless) = addresses(&self.encoders, self.lost).await;
        self.lost = nameless > 0;
        let mut found = Survey { nameless, ..Survey::default() };
        let mut asked = JoinSet::new();
        for address in addresses {
            if asked.len() >= AT_ONCE
                && let Some(answer) = asked.join_next().await
            {
                found.count(answer.unwrap_or(None));
            }
            asked.spawn(async move {
                let answer = neighbour::get(address, "/readyz", PATIENCE).await;
                answer.inspect_err(|error| debug!(%address, %error, "encoder does not answer")).ok()
            });
        }
        while let Some(answer) = asked.join_next().await {
            found.count(answer.unwrap_or(None));
        }
        found
    }
}

/// Ends a round after [`ROUND_WITHIN`]. Nothing is known then, because an encoder that was not asked may be free.
async fn bounded(round: impl Future<Output = Survey>) -> Survey {
    timeout(ROUND_WITHIN, round).await.unwrap_or_else(|_| {
        warn!(
            limit_seconds = ROUND_WITHIN.as_secs(),
            "too many encoders do not answer: the round is cut short"
        );
        Survey::default()
    })
}

impl Survey {
    fn count(&mut self, status: Option<hyper::StatusCode>) {
        match status {
            Some(status) if status.is_success() => self.free += 1,
            Some(_) => self.taken += 1,
            None => self.silent += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn found(free: usize, taken: usize, silent: usize, nameless: usize) -> Standing {
        Survey { free, taken, silent, nameless }.standing()
    }

    #[test]
    fn only_when_encoders_say_that_they_are_busy_the_lobby_answers() {
        assert_eq!(found(0, 3, 0, 0), Standing::AllBusy { encoders: 3 });
        assert_eq!(found(0, 3, 2, 0), Standing::AllBusy { encoders: 3 }, "who is silent is not free");
        for (standing, why) in [
            (found(1, 3, 0, 0), "one is free"),
            (found(1, 0, 0, 1), "one is free, wherever the others are"),
            (found(0, 0, 3, 0), "it may be the lobby that is cut off"),
            (found(0, 0, 0, 1), "nothing is known"),
            (found(0, 2, 0, 1), "free ones may be behind the other name"),
            (Standing::Leaving, "it is leaving"),
        ] {
            assert!(!standing.wants_lobby(), "{why}: {standing:?}");
        }
    }

    #[tokio::test]
    async fn names_and_addresses_are_asked_once_each() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            io::Read::read(&mut socket, &mut [0; 1024]).unwrap();
            let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            io::Write::write_all(&mut socket, busy).unwrap();
        });
        let twice = vec![format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")];
        let found = Surveyor::new(twice).round().await.unwrap();
        asked.join().unwrap();
        assert_eq!(found, Survey { taken: 1, ..Survey::default() });
        assert_eq!(Surveyor::new(Vec::new()).round().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_without_end_is_cut_short_and_knows_nothing() {
        let began = tokio::time::Instant::now();
        let found = bounded(std::future::pending()).await;
        assert!(began.elapsed() <= ROUND_WITHIN + Duration::from_millis(100));
        assert_eq!(found.standing(), Standing::Unknown);
    }
}
