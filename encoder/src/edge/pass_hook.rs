//! Asks a back end about viewers' passes, and keeps the answers for as long as they count. The formats of question and
//! answer are in [`admission::pass::question`]; which requests need a pass is decided in [`super::passes`].
//!
//! | the last answer about a pass and a stream | what a request gets |
//! |---|---|
//! | none, or it counts no longer | it waits for the answer to one question, together with all others |
//! | counts for less than a fifth of its time | the last answer; the back end is asked meanwhile |
//! | counts | the last answer |
//! | a "yes" of the last ten minutes, and the back end is down | the last answer; every ten seconds the back end is asked meanwhile |

use super::budget::LookUpBudget;
use super::flights::{Boarded, Flight, Flights};
use super::lock;
use crate::web;
use admission::pass::question::{Answer, MAX_ANSWER_BYTES, Question};
use admission::signature::WebhookSecret;
use listen::fairness::Source;
use metrics::histogram;
use quick_cache::sync::Cache;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Longest time for a question and its answer, with the time that the question waits for its turn.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Most questions under way.
const MOST_QUESTIONS: usize = 128;
/// How long a "yes" counts after it was said while the back end is down.
const COUNTS_WHILE_DOWN: Duration = Duration::from_secs(600);
/// Pause between questions about the same pass while the back end is down.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Most answers that are kept. Each takes some 100 bytes.
const MOST_KEPT: usize = 65_536;

/// The back end that is asked about viewers. `Debug` does not show the URL, which may contain a password.
#[derive(Clone)]
pub(crate) struct PassHookConfig {
    /// An `http` or `https` URL.
    pub(crate) url: Url,
    /// Signs the requests.
    pub(crate) secret: Option<WebhookSecret>,
}

/// What a pass comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The back end said "yes".
    Yes,
    /// The back end is down; its last answer was "yes".
    Cached,
    /// The back end said "no".
    No,
    /// The back end is down, and has not said "yes" lately.
    Down,
    /// The back end is not asked: too many unknown passes came from the client's group, or too much is under way.
    Refused,
}

/// A judgement, or the wait for one.
#[derive(Debug)]
pub(super) enum Judged {
    Now(Judgement),
    Waits(Flight<Judgement>),
}

/// Who answers questions.
pub(super) trait Ask: Send + Sync + 'static {
    /// Asks a question.
    ///
    /// # Errors
    /// The back end does not answer. Holds the reason, without URL and pass.
    fn ask(&self, question: Question) -> impl Future<Output = Result<Answer, String>> + Send;

    /// The host names of this machine and of the back end.
    fn hosts(&self) -> (&str, Option<&str>);
}

/// What a back end says about passes.
pub(super) struct PassHook<A> {
    state: Arc<HookState<A>>,
    flights: Flights<Judgement>,
}

struct HookState<A> {
    back_end: A,
    /// The last answers, by the digest of the question.
    kept: Cache<[u8; 32], Kept>,
    turns: Semaphore,
    budget: Mutex<LookUpBudget>,
    /// Whether the last question found the back end down.
    down: AtomicBool,
}

/// A kept answer.
#[derive(Clone, Copy, Debug)]
struct Kept {
    yes: bool,
    said: Instant,
    counts_until: Instant,
    /// The back end is asked again by the first request from then on.
    ask_from: Instant,
}

/// What to do with a kept answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Answer(Judgement),
    AnswerAndAsk(Judgement),
    Ask,
}

// === impl Kept ===

impl Kept {
    fn new(yes: bool, counts: Duration, now: Instant) -> Self {
        // A viewer who may watch does not wait for the next answer. A "no" is asked again only when it counts no longer.
        let ask_from = now + if yes { counts * 4 / 5 } else { counts };
        Self { yes, said: now, counts_until: now + counts, ask_from }
    }

    fn step(&self, now: Instant, down: bool) -> Step {
        let judgement = if now < self.counts_until {
            if self.yes { Judgement::Yes } else { Judgement::No }
        } else if down && self.counts_while_down(now) {
            Judgement::Cached
        } else {
            return Step::Ask;
        };
        if now < self.ask_from { Step::Answer(judgement) } else { Step::AnswerAndAsk(judgement) }
    }

    fn counts_while_down(&self, now: Instant) -> bool {
        self.yes && now < self.said + COUNTS_WHILE_DOWN
    }
}

// === impl PassHook ===

impl<A: Ask> PassHook<A> {
    pub(super) fn new(back_end: A) -> Self {
        let state = HookState {
            back_end,
            kept: Cache::new(MOST_KEPT),
            turns: Semaphore::new(MOST_QUESTIONS),
            budget: Mutex::new(LookUpBudget::new(std::time::Instant::now())),
            down: AtomicBool::new(false),
        };
        Self { state: Arc::new(state), flights: Flights::default() }
    }

    /// Judges a pass by the digest of its question. `question` makes the question, with the host name of this machine.
    pub(super) fn judge(
        &self,
        digest: &[u8; 32],
        question: impl FnOnce(&str) -> Question,
        client: Option<Source>,
    ) -> Judged {
        let known = match self.state.step(digest) {
            Step::Answer(judgement) => return Judged::Now(judgement),
            Step::AnswerAndAsk(judgement) => Some(judgement),
            Step::Ask => None,
        };
        let done = || match self.state.step(digest) {
            Step::Answer(judgement) => Some(judgement),
            Step::AnswerAndAsk(_) | Step::Ask => None,
        };
        let work = || {
            let question = question(self.state.back_end.hosts().0);
            Arc::clone(&self.state).asked(*digest, question, client)
        };
        let boarded = self.flights.board(flight_name(digest), done, work);
        match (known, boarded) {
            (Some(judgement), _) | (None, Boarded::Done(judgement)) => Judged::Now(judgement),
            (None, Boarded::Joined(flight) | Boarded::Begun(flight)) => Judged::Waits(flight),
            (None, Boarded::Full) => Judged::Now(Judgement::Refused),
        }
    }
}

/// The name of a question among those under way.
fn flight_name(digest: &[u8; 32]) -> Arc<str> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest).into()
}

impl<A: Ask> HookState<A> {
    fn step(&self, digest: &[u8; 32]) -> Step {
        let down = self.down.load(Ordering::Relaxed);
        self.kept.get(digest).map_or(Step::Ask, |kept| kept.step(Instant::now(), down))
    }

    /// Asks the back end, and keeps the answer. Questions about passes that turn out not to count are paid for, so that
    /// a stranger who makes passes up uses up its own group's budget and not the back end.
    async fn asked(
        self: Arc<Self>,
        digest: [u8; 32],
        question: Question,
        client: Option<Source>,
    ) -> Judgement {
        let known = self.kept.get(&digest).is_some_and(|kept| kept.yes);
        let paid = if known { None } else { lock(&self.budget).pay(client, std::time::Instant::now()) };
        if paid.is_none() && !known {
            return Judgement::Refused;
        }
        let began = Instant::now();
        let answer = timeout(ANSWER_WITHIN, async {
            let _turn = self.turns.acquire().await.map_err(|_| "the edge leaves".to_owned())?;
            self.back_end.ask(question).await
        });
        let answer = answer.await.unwrap_or_else(|_| Err("no answer within a second".to_owned()));
        let (judgement, result) = self.consider(&digest, answer);
        histogram!("encoder_viewer_hook_seconds", "result" => result).record(began.elapsed().as_secs_f64());
        if let Some(paid) = paid
            && judgement != Judgement::No
        {
            lock(&self.budget).refund(paid);
        }
        judgement
    }

    /// What an answer, or the failure to get one, comes to, and the label of that in metrics.
    fn consider(&self, digest: &[u8; 32], answer: Result<Answer, String>) -> (Judgement, &'static str) {
        let now = Instant::now();
        let problem = match answer {
            Ok(Answer::Yes(counts)) => {
                self.is_up();
                self.kept.insert(*digest, Kept::new(true, counts, now));
                return (Judgement::Yes, "yes");
            }
            Ok(Answer::No(counts)) => {
                self.is_up();
                self.kept.insert(*digest, Kept::new(false, counts, now));
                return (Judgement::No, "no");
            }
            Ok(Answer::Down(status)) => format!("the answer has status {status}"),
            Err(problem) => problem,
        };
        if !self.down.swap(true, Ordering::Relaxed) {
            let host = self.back_end.hosts().1;
            warn!(
                host,
                problem,
                "the back end that says who may watch is down (--viewer-hook): its \"yes\" of the last ten minutes \
                 counts, other viewers are refused until it answers"
            );
        }
        match self.kept.get(digest) {
            Some(kept) if kept.counts_while_down(now) => {
                self.kept.insert(*digest, Kept { ask_from: now + RETRY_AFTER, ..kept });
                (Judgement::Cached, "cached")
            }
            Some(_) | None => (Judgement::Down, "down"),
        }
    }

    fn is_up(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            info!(host = self.back_end.hosts().1, "the back end that says who may watch answers again");
        }
    }
}

// === impl BackEnd ===

/// The back end, over HTTP.
pub(super) struct BackEnd {
    config: PassHookConfig,
    client: Client,
    server: String,
}

impl BackEnd {
    /// Prepares the questions.
    ///
    /// # Errors
    /// The machine cannot make requests to the URL.
    pub(super) fn open(config: &PassHookConfig) -> Result<Self, String> {
        let client = web::client(&config.url, ANSWER_WITHIN)?;
        Ok(Self { config: config.clone(), client, server: crate::archive::host() })
    }
}

impl Ask for BackEnd {
    async fn ask(&self, question: Question) -> Result<Answer, String> {
        let body = question.json();
        let request = self.client.post(self.config.url.clone()).header(CONTENT_TYPE, "application/json");
        let request = web::signed(request, self.config.secret.as_ref(), &question.id, &body);
        let response = request.body(body).send().await.map_err(web::describe)?;
        let status = response.status().as_u16();
        // The status is a whole answer: the body says no more than how long the answer counts.
        let body = web::body(response, MAX_ANSWER_BYTES).await.ok().flatten();
        Ok(Answer::read(status, body.as_deref()))
    }

    fn hosts(&self) -> (&str, Option<&str>) {
        (&self.server, self.config.url.host_str())
    }
}

impl fmt::Debug for PassHookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassHookConfig").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
