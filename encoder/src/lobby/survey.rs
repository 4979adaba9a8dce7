//! Asks all encoders whether they are ready, and says what follows for the lobby. Who is told is not in here.

use crate::fleet::neighbour;
use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

/// Answers that may be awaited at once: a bound on sockets, not on encoders.
const AT_ONCE: usize = 64;
/// As long as a kubelet waits for a readiness probe by default.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a round of asking found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Encoders that would take a stream.
    pub free: usize,
    /// Encoders that said that they would not.
    pub taken: usize,
    /// Addresses that did not answer.
    pub silent: usize,
    /// Names without an address.
    pub nameless: usize,
}

/// What it means for the lobby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing can be said: no encoder has answered.
    Unknown,
    /// Somebody else is there for publishers.
    SomeFree {
        /// How many.
        free: usize,
    },
    /// Nobody else is there.
    AllBusy {
        /// How many said so; 0 when nobody is asked.
        encoders: usize,
    },
    /// The lobby itself is about to leave.
    Leaving,
}

impl Found {
    /// Encoders that do not answer are not free, as for a kubelet. But where none answers it is rather the lobby that
    /// is cut off, and it must not stand beside free encoders then.
    pub fn standing(self) -> Standing {
        match self {
            Self { free: 1.., .. } => Standing::SomeFree { free: self.free },
            Self { taken: 0, .. } => Standing::Unknown,
            // There may be free ones behind a name that could not be looked up.
            Self { nameless: 1.., .. } => Standing::Unknown,
            Self { taken, .. } => Standing::AllBusy { encoders: taken },
        }
    }
}

impl Standing {
    /// Whether the lobby is to answer publishers.
    pub fn wants_lobby(self) -> bool {
        match self {
            Self::AllBusy { .. } => true,
            Self::Unknown | Self::SomeFree { .. } | Self::Leaving => false,
        }
    }

    /// Encoders that are free, where that is known.
    pub fn free(self) -> Option<usize> {
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

/// Asks, round by round.
#[derive(Debug)]
pub struct Surveyor {
    encoders: Vec<String>,
    lost: bool,
}

impl Surveyor {
    /// Of encoders' admin ports as `HOST:PORT`; a name stands for all its addresses.
    pub fn new(encoders: Vec<String>) -> Self {
        Self { encoders, lost: false }
    }

    /// One round; `None` when there is nobody to ask. Takes a few seconds at most for a hundred silent encoders.
    pub async fn round(&mut self) -> Option<Found> {
        if self.encoders.is_empty() {
            return None;
        }
        let (addresses, nameless) = self.addresses().await;
        let mut found = Found { nameless, ..Found::default() };
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
        Some(found)
    }

    /// Every address once, and how many names have none.
    async fn addresses(&mut self) -> (BTreeSet<SocketAddr>, usize) {
        let mut addresses = BTreeSet::new();
        let mut nameless = 0;
        for encoder in &self.encoders {
            match timeout(PATIENCE, lookup_host(encoder)).await {
                Ok(Ok(found)) => addresses.extend(found),
                Ok(Err(error)) => {
                    nameless += 1;
                    if !self.lost {
                        warn!(encoder, %error, "no address");
                    }
                }
                Err(_) => nameless += 1,
            }
        }
        // Once for each outage.
        self.lost = nameless > 0;
        (addresses, nameless)
    }
}

impl Found {
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

    fn found(free: usize, taken: usize, silent: usize, nameless: usize) -> Standing {
        Found { free, taken, silent, nameless }.standing()
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
            std::io::Read::read(&mut socket, &mut [0; 1024]).unwrap();
            let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            std::io::Write::write_all(&mut socket, busy).unwrap();
        });
        let twice = vec![format!("127.0.0.1:{port}"), format!("127.0.0.1:{port}")];
        let found = Surveyor::new(twice).round().await.unwrap();
        asked.join().unwrap();
        assert_eq!(found, Found { taken: 1, ..Found::default() });
        assert_eq!(Surveyor::new(Vec::new()).round().await, None);
    }
}
