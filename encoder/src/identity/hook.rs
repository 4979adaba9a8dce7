//! Asks a back end about publishers, and falls back on the back end's earlier answers while it is down. The formats of
//! question and answer are in [`admission::hook`].

use super::StreamTerms;
use crate::config::{HookConfig, HookFormat};
use crate::web;
use admission::Grant;
use admission::hook::{Answer, MAX_ANSWER_BYTES, Question, Response};
use admission::remembered::Remembered;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use rtmp::{PublishRequest, StreamKey};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// Longest time for a question and its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What a question came to.
#[derive(Debug, PartialEq)]
pub(super) enum HookVerdict {
    /// The publisher may publish.
    Yes(Box<Grant>),
    /// The publisher may not publish. Holds what the back end said about that.
    No(Option<String>),
    /// The back end is down or answers garbage.
    Unknown,
}

/// The back end that is asked about each publisher.
pub(super) struct Hook {
    config: HookConfig,
    client: Client,
    remembered: Mutex<Remembered>,
    /// The host name of this machine.
    server: String,
    asked: AtomicU64,
    /// Whether the last question found the back end down.
    down: AtomicBool,
}

/// An answer as it came in.
struct Heard {
    status: u16,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
}

impl Hook {
    /// Prepares the questions.
    ///
    /// # Errors
    /// The machine cannot make requests to the URL.
    pub(super) fn open(config: &HookConfig, within: Option<Duration>) -> Result<Self, String> {
        let client = web::client(&config.url, within.unwrap_or(ANSWER_WITHIN))?;
        Ok(Self {
            config: config.clone(),
            client,
            remembered: Mutex::default(),
            server: crate::archive::host(),
            asked: AtomicU64::new(1),
            down: AtomicBool::new(false),
        })
    }

    /// Asks about a publisher with this key.
    pub(super) async fn ask(&self, request: &PublishRequest, key: &StreamKey) -> HookVerdict {
        let question = self.question(request, key);
        let began = Instant::now();
        let heard = self.send(&question).await;
        let answer = heard.map(|heard| (heard.read(&question), heard.length()));
        let (verdict, result) = self.consider(&question, answer);
        metrics::histogram!("encoder_publish_hook_seconds", "result" => result)
            .record(began.elapsed().as_secs_f64());
        verdict
    }

    fn question(&self, request: &PublishRequest, key: &StreamKey) -> Question {
        let details = request.details.clone();
        Question {
            app: request.app.clone(),
            key: key.expose().to_owned(),
            query: request.query.clone(),
            app_query: details.app_query,
            peer: request.peer,
            client: request.client.clone(),
            tc_url: details.tc_url,
            swf_url: details.swf_url,
            page_url: details.page_url,
            publish_type: details.publish_type,
            server: self.server.clone(),
            id: format!("publish_{:032x}", fastrand::u128(..)),
            number: self.asked.fetch_add(1, Ordering::Relaxed),
        }
    }

    async fn send(&self, question: &Question) -> Result<Heard, String> {
        let (content_type, body) = match self.config.format {
            HookFormat::Json => ("application/json", question.json()),
            HookFormat::Form => ("application/x-www-form-urlencoded", question.form()),
        };
        let request = self.client.post(self.config.url.clone()).header(CONTENT_TYPE, content_type);
        let request = web::signed(request, self.config.secret.as_ref(), &question.id, &body);
        let response = request.body(body).send().await.map_err(web::describe)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = match web::body(response, MAX_ANSWER_BYTES).await {
            // The status is a whole "no", and says as well that the back end cannot answer.
            Err(_) if !(200..300).contains(&status) => None,
            body => body?,
        };
        Ok(Heard { status, headers, body })
    }

    /// What the answer, or the failure to get one, comes to, and the label of that in metrics.
    fn consider(
        &self,
        question: &Question,
        answer: Result<(Answer, usize), String>,
    ) -> (HookVerdict, &'static str) {
        let host = self.config.url.host_str();
        let (app, peer) = (&question.app, question.peer);
        let problem = match answer {
            Ok((Answer::Yes(grant), bytes)) => {
                self.is_up();
                self.remembered().keep(question.digest(), grant.clone(), bytes, Instant::now());
                return (HookVerdict::Yes(Box::new(grant)), "yes");
            }
            Ok((Answer::No(words), _)) => {
                self.is_up();
                self.remembered().forget(&question.digest());
                return (HookVerdict::No(words), "no");
            }
            Ok((Answer::Garbage(problem), _)) => {
                self.is_up();
                error!(host, app, %peer, %problem, "the back end's answer cannot be used (--publish-hook)");
                return (HookVerdict::Unknown, "garbage");
            }
            Ok((Answer::Down(status), _)) => format!("the answer has status {status}"),
            Err(problem) => problem,
        };
        let remembered =
            self.remembered().find(&question.digest(), self.config.cache, Instant::now()).cloned();
        if !self.down.swap(true, Ordering::Relaxed) {
            warn!(host, problem, "the back end that says who may publish is down (--publish-hook)");
        }
        match remembered {
            Some(grant) => {
                info!(app, name = grant.name, %peer, "the back end is down: its last answer counts");
                (HookVerdict::Yes(Box::new(grant)), "cached")
            }
            None => (HookVerdict::Unknown, "down"),
        }
    }

    fn is_up(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            info!(host = self.config.url.host_str(), "the back end that says who may publish answers again");
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        // A panic elsewhere cannot interrupt a change: the methods do not panic.
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn read(&self, question: &Question) -> Answer {
        let header = |name| self.headers.get(name).map(|value| value.to_str().unwrap_or_default());
        let response = Response {
            status: self.status,
            content_type: header(CONTENT_TYPE),
            location: header(LOCATION),
            body: self.body.as_deref(),
        };
        Answer::read(question, response, StreamTerms::check)
    }

    fn length(&self) -> usize {
        self.body.as_ref().map_or(0, Vec::len)
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook(..)")
    }
}
