//! The addresses of encoders: operators name hosts, and a host name (a headless Service) stands for all its addresses.
//! What is asked at the addresses belongs to the callers.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

/// Concurrent look-ups of names. Few: a look-up that timed out occupies a thread until the system's resolver gives up.
const LOOK_UPS_AT_ONCE: usize = 8;
/// Time-out of one look-up.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(1);

/// Every address of `HOST:PORT`s once, and the number of names that did not resolve. Those are logged unless `lost` says
/// that they were before: once per outage.
pub(crate) async fn addresses(names: &[String], lost: bool) -> (BTreeSet<SocketAddr>, usize) {
    let mut addresses = BTreeSet::new();
    let mut nameless = 0;
    let resolve = |name| async move { Ok(lookup_host(name).await?.collect()) };
    for (encoder, found) in look_up(names, resolve).await {
        match found {
            Ok(found) => addresses.extend(found),
            Err(error) => {
                nameless += 1;
                if !lost {
                    warn!(encoder, %error, "cannot resolve an encoder's name: check --encoders");
                }
            }
        }
    }
    (addresses, nameless)
}

/// The addresses of every name, in the order of the answers.
async fn look_up<W>(
    names: &[String],
    resolve: impl Fn(String) -> W,
) -> Vec<(String, io::Result<Vec<SocketAddr>>)>
where
    W: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    let mut found = Vec::new();
    let mut asked = JoinSet::new();
    for name in names {
        if asked.len() >= LOOK_UPS_AT_ONCE
            && let Some(answer) = asked.join_next().await
        {
            found.extend(answer.ok());
        }
        let (name, answer) = (name.clone(), resolve(name.clone()));
        asked.spawn(async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
            (name, timeout(LOOK_UP_WITHIN, answer).await.unwrap_or_else(|_| Err(late())))
        });
    }
    while let Some(answer) = asked.join_next().await {
        found.extend(answer.ok());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn names_without_an_answer_are_waited_for_side_by_side() {
        let names: Vec<_> = (0..40).map(|number| format!("encoder-{number}:9090")).collect();
        let began = tokio::time::Instant::now();
        let found = look_up(&names, |_| std::future::pending()).await;
        let took = began.elapsed();
        assert!(took <= LOOK_UP_WITHIN * 5 + Duration::from_millis(100), "{took:?}");
        assert!(found.len() == 40 && found.iter().all(|(_, addresses)| addresses.is_err()));
    }
}
