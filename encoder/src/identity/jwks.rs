//! The key set that verifies tokens: from a file, or fetched from a URL and renewed beside the streams. No request lies
//! on the path of a publish.

use super::StreamTerms;
use super::file::{FollowedFile, set_stale};
use crate::config::JwksLocation;
use crate::web;
use admission::Grant;
use admission::token::{KeySet, MAX_SET_BYTES, Verdict};
use reqwest::{Client, Url};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

/// Time-out of one request for the key set.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// The label of key sets in metrics.
const LABEL: &str = "jwks";

/// What a token came to.
#[derive(Debug, PartialEq)]
pub(super) enum TokenVerdict {
    /// The publisher may publish.
    Yes(Box<Grant>),
    /// The key is no token.
    NotAToken,
    /// The token does not count.
    No,
    /// The token has a good signature, but has expired.
    Expired,
    /// No key set has arrived yet.
    Unknown,
}

/// The source of the key set.
pub(super) enum TokenKeys {
    /// A file.
    File(Arc<FollowedFile<KeySet>>),
    /// A URL.
    Url(RemoteSet),
}

/// A key set at a URL.
pub(super) struct RemoteSet {
    url: Url,
    client: Client,
    pace: Pace,
    current: RwLock<Option<Arc<KeySet>>>,
    /// Wakes the renewal when a token names a key that is not in the set.
    missed: Notify,
}

/// How often a set is fetched.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// After a success.
    pub(super) renew_every: Duration,
    /// After a failure, and when a token names an unknown key.
    pub(super) at_most_every: Duration,
    /// While no set has arrived yet.
    pub(super) first_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            renew_every: Duration::from_secs(300),
            at_most_every: Duration::from_secs(10),
            first_every: Duration::from_secs(2),
        }
    }
}

impl TokenKeys {
    /// Opens the source; nothing is fetched before [`TokenKeys::attend`].
    ///
    /// # Errors
    /// The machine cannot make requests to the URL.
    pub(super) fn open(location: &JwksLocation, pace: Pace) -> Result<Self, String> {
        Ok(match location {
            JwksLocation::File(file) => Self::File(Arc::clone(file)),
            JwksLocation::Url(url) => {
                let client = web::client(url, FETCH_WITHIN)?;
                let (current, missed) = (RwLock::default(), Notify::new());
                Self::Url(RemoteSet { url: url.clone(), client, pace, current, missed })
            }
        })
    }

    /// Renews the key set as long as the future is polled.
    pub(super) async fn attend(&self) {
        match self {
            Self::File(file) => Arc::clone(file).follow().await,
            Self::Url(remote) => remote.renew().await,
        }
    }

    fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::File(file) => Some(file.current()),
            Self::Url(remote) => remote.current.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Judges a stream key that was sent to `app` at `now` (Unix time in seconds).
    pub(super) fn judge(&self, key: &str, app: &str, now: i64) -> TokenVerdict {
        let Some(keys) = self.current() else {
            return if admission::token::is_token(key) {
                TokenVerdict::Unknown
            } else {
                TokenVerdict::NotAToken
            };
        };
        match keys.judge(key, app, now, StreamTerms::check) {
            Verdict::Valid(grant) => TokenVerdict::Yes(grant),
            Verdict::NotAToken => TokenVerdict::NotAToken,
            Verdict::Expired => TokenVerdict::Expired,
            Verdict::Invalid(problem) => {
                info!(app, problem, "a token does not count");
                TokenVerdict::No
            }
            Verdict::UnknownKey => {
                if let Self::Url(remote) = self {
                    remote.missed.notify_one();
                }
                info!(app, "a token names a key that is not in the key set: the set is looked up again");
                TokenVerdict::No
            }
            Verdict::Unusable(problem) => {
                error!(app, %problem, "a signed token cannot be used: its signer must make it otherwise");
                TokenVerdict::No
            }
        }
    }
}

impl RemoteSet {
    async fn renew(&self) {
        let mut complaint = None;
        loop {
            let fetched = self.fetch().await;
            let (at, failed) = (Instant::now(), fetched.is_err());
            let has_set = self.take(fetched, &mut complaint);
            let pause = match (has_set, failed) {
                (false, _) => self.pace.first_every,
                (true, true) => self.pace.at_most_every,
                (true, false) => self.pace.renew_every,
            };
            tokio::select! {
                () = sleep_until(at + pause) => {}
                () = self.missed.notified() => sleep_until(at + pause.min(self.pace.at_most_every)).await,
            }
        }
    }

    /// Puts a fetched set into force. Logs the beginning, the changes and the end of a failure. Returns whether there
    /// is a set.
    fn take(&self, fetched: Result<KeySet, String>, complaint: &mut Option<String>) -> bool {
        let host = self.url.host_str();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(set) => {
                if current.is_none() || complaint.is_some() {
                    info!(host, keys = set.len(), "the key set of tokens is in force");
                }
                *current = Some(Arc::new(set));
                *complaint = None;
                set_stale(LABEL, false);
            }
            Err(problem) if complaint.as_ref() != Some(&problem) => {
                if current.is_some() {
                    warn!(host, problem, "the key set cannot be renewed: the last one stays in force");
                } else {
                    error!(
                        host,
                        problem,
                        "the key set cannot be fetched: no token counts until it can (--publish-jwks)"
                    );
                }
                *complaint = Some(problem);
                set_stale(LABEL, true);
            }
            Err(_) => {}
        }
        current.is_some()
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let response = request.send().await.map_err(web::describe)?;
        if !response.status().is_success() {
            return Err(format!("the answer has status {}", response.status().as_u16()));
        }
        let body = web::body(response, MAX_SET_BYTES).await?;
        let body = body.ok_or_else(|| admission::token::BadKeySet::TooLong.to_string())?;
        KeySet::parse(&body).map_err(|error| format!("the answer {error}"))
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKeys(..)")
    }
}
