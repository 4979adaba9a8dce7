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

/// Addresses for one name from which on some may be missing: a DNS message has 64 kB, and 4,092 addresses came of 5,000,
/// without an error.
const MOST_OF_A_MESSAGE: usize = 4_000;
/// Exactly so many addresses: GKE's kube-dns gives no more for one headless Service.
const MOST_OF_KUBE_DNS: usize = 1_000;

/// What names stand for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Every address once.
    pub(crate) addresses: BTreeSet<SocketAddr>,
    /// Names that did not resolve.
    pub(crate) nameless: usize,
    /// Names that may have more addresses than the answer has room for.
    pub(crate) cut_off: usize,
}

/// The addresses of `HOST:PORT`s. Names that do not resolve, or whose addresses may be cut off, are logged unless `warned`
/// says that they were before: once per outage.
pub(crate) async fn addresses(names: &[String], warned: bool) -> Resolved {
    let resolve = |name| async move { Ok(lookup_host(name).await?.collect()) };
    let mut resolved = Resolved::default();
    for (encoder, found) in look_up(names, resolve).await {
        match found {
            Ok(found) => {
                if may_be_cut_off(found.len()) {
                    resolved.cut_off += 1;
                    if !warned {
                        warn!(
                            encoder,
                            addresses = found.len(),
                            "an encoder's name may have more addresses than its answer has room for: give each thousand \
                             encoders a name of their own (--encoders)"
                        );
                    }
                }
                resolved.addresses.extend(found);
            }
            Err(error) => {
                resolved.nameless += 1;
                if !warned {
                    warn!(encoder, %error, "cannot resolve an encoder's name: check --encoders");
                }
            }
        }
    }
    resolved
}

fn may_be_cut_off(addresses: usize) -> bool {
    addresses >= MOST_OF_A_MESSAGE || addresses == MOST_OF_KUBE_DNS
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

    #[test]
    fn answers_of_the_largest_size_may_be_cut_off() {
        let sizes = [0, 1, 999, 1_000, 1_001, 3_999, 4_000, 4_092, 5_000];
        let cut_off: Vec<_> = sizes.into_iter().filter(|addresses| may_be_cut_off(*addresses)).collect();
        assert_eq!(cut_off, [1_000, 4_000, 4_092, 5_000]);
    }

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
