//! Delivers events over HTTP: one POST for each, on connections that are kept. Which event is next is decided in
//! [`super::queue`].

use super::EventHub;
use super::event::CONTENT_TYPE;
use super::queue::{Attempt, Outcome, Settled};
use crate::config::EventsConfig;
use crate::logging::nonzero;
use crate::stream::driver::now;
use crate::wake::until;
use crate::web;
use admission::signature::WebhookSecret;
use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Client, StatusCode, Url};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracing::warn;

/// Time-out of one attempt, from the connection to the end of the answer.
pub(super) const ATTEMPT: Duration = Duration::from_secs(10);
/// Most bytes of an answer that are read, so that its connection can be used again.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Least time between two log lines about failures.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The service that is told.
pub(super) struct Receiver {
    client: Client,
    /// May hold credentials, so no log line has it.
    url: Url,
    secret: Option<WebhookSecret>,
}

/// How an attempt ended, for the log.
pub(super) enum Answer {
    Status(StatusCode),
    Failure(String),
}

/// What the log says about failures, once a minute.
#[derive(Debug, Default)]
struct Troubles {
    told: Option<Instant>,
    failed_attempts: u64,
    given_up: u64,
}

// === impl Receiver ===

impl Receiver {
    /// Prepares requests to the receiver, each with this time-out.
    ///
    /// # Errors
    /// TLS cannot be set up, or the URL cannot be used; without the URL.
    pub(super) fn new(config: &EventsConfig, attempt: Duration) -> Result<Self, String> {
        let url = Url::parse(&config.url).map_err(|error| error.to_string())?;
        let client = web::client(&url, attempt)?;
        Ok(Self { client, url, secret: config.secret.clone() })
    }

    pub(super) async fn post(&self, attempt: &Attempt) -> Answer {
        let timestamp = now().wall.unix_micros() / 1_000_000;
        let mut request = self
            .client
            .post(self.url.clone())
            .header("content-type", CONTENT_TYPE)
            .header("webhook-id", &*attempt.id)
            .header("webhook-timestamp", timestamp);
        if let Some(secret) = &self.secret {
            request = request.header("webhook-signature", secret.sign(&attempt.id, timestamp, &attempt.body));
        }
        let response = match request.body(attempt.body.clone()).send().await {
            Ok(response) => response,
            Err(error) if error.is_timeout() => return Answer::Failure("no answer in time".to_owned()),
            Err(error) => return Answer::Failure(web::describe(error)),
        };
        let status = response.status();
        // The status has said everything; a failure here costs the connection alone.
        let _ = web::body(response, MAX_ANSWER_BYTES).await;
        Answer::Status(status)
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Status(status) if status.is_success() => Outcome::Delivered,
            Self::Status(StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => Outcome::Failed,
            Self::Status(status) if status.is_server_error() => Outcome::Failed,
            // Redirects as well: they are not followed, and the URL is to be corrected.
            Self::Status(_) => Outcome::Refused,
            Self::Failure(_) => Outcome::Failed,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Failure(problem) => f.write_str(problem),
        }
    }
}

// === impl Troubles ===

impl Troubles {
    /// An attempt has ended otherwise than well. Logged at the first failure, then once a minute.
    fn note(&mut self, settled: Settled, answer: &Answer, hub: &EventHub, now: Instant) {
        match settled {
            Settled::Delivered => return,
            Settled::Retried => {}
            Settled::Refused | Settled::Expired => self.given_up += 1,
        }
        self.failed_attempts += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < LOG_EVERY) {
            return;
        }
        self.told = Some(now);
        warn!(
            failed_attempts = std::mem::take(&mut self.failed_attempts),
            given_up = nonzero(std::mem::take(&mut self.given_up)),
            given_up_full = nonzero(hub.overflowed.swap(0, Ordering::Relaxed)),
            waiting = *hub.waiting.borrow(),
            last_failure = %answer,
            "events are not delivered: check their receiver (--events); what it refuses is given up"
        );
    }
}

/// Delivers a hub's events for as long as the process runs.
pub(super) async fn deliver(hub: Arc<EventHub>, receiver: Receiver) {
    let receiver = &receiver;
    let mut sending = FuturesUnordered::new();
    let mut troubles = Troubles::default();
    loop {
        let wake_at = {
            let mut queue = hub.queue();
            while let Some(attempt) = queue.next(Instant::now()) {
                sending.push(async move { (receiver.post(&attempt).await, attempt) });
            }
            queue.wake_at()
        };
        tokio::select! {
            () = hub.wake.notified() => {}
            () = until(wake_at.map(Into::into)) => {}
            Some((answer, attempt)) = sending.next() => {
                let settled = hub.settle(&attempt, answer.outcome());
                troubles.note(settled, &answer, &hub, Instant::now());
            }
        }
    }
}
