//! Viewers' passes at an edge: which requests need a pass, where a request carries its pass, and what viewers without a
//! valid one are told. What a pass must be is judged by [`admission::pass`], what a back end says about passes is kept in
//! [`super::pass_hook`].
//!
//! A pass is a part of the path, so that the relative addresses in playlists inherit the pass, and playlists stay the
//! same for all viewers: `/pass/{token}/{app}/{name}/…`. The edge answers as it would without `/pass/{token}`. No shared
//! cache keeps such an answer: each viewer has addresses of its own, and an expired pass ends at once.

use super::flights::Flight;
use super::pass_hook::{BackEnd, Judged, Judgement, PassHook, PassHookConfig};
use super::viewers::Viewers;
use crate::listener::{EntryHandle, HeldRequest};
use crate::origin::{self, StreamPath};
use admission::pass::{BadPass, PassSecret, is_pass, question};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use metrics::counter;
use std::net::IpAddr;
use std::sync::Arc;

/// What the paths of requests with a pass begin with.
const PREFIX: &str = "/pass/";
/// Seconds after which a viewer may try again while the back end is down.
const TRY_AGAIN: HeaderValue = HeaderValue::from_static("2");

/// Who may watch.
#[derive(Clone, Debug)]
pub(crate) enum ViewerAccess {
    /// Everybody.
    Everybody,
    /// Viewers with a pass that the secret signed.
    Secret(PassSecret),
    /// Viewers with a pass that a back end accepts.
    Hook(Box<PassHookConfig>),
}

/// The check of viewers' passes. Share it in an `Arc`.
pub(crate) struct Passes {
    judge: Judge,
    viewers: Arc<Viewers>,
}

enum Judge {
    Secret(PassSecret),
    Hook(PassHook<BackEnd>),
}

/// A request's pass, and the stream that the request is for. Has no `Debug`: a pass is a secret.
struct Presented<'a> {
    token: &'a str,
    stream: StreamPath,
    /// The path without the pass.
    path: &'a str,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The request has no pass where it needs one.
    NoPass,
    /// The pass is not valid.
    Bad(BadPass),
    /// The back end does not accept the pass.
    No,
    /// The back end is down.
    Down,
    /// Too many requests wait, or too many unknown passes were asked about.
    TooMany,
}

/// What the judgement of a request waits for.
enum Waiting {
    /// For nothing: the pass is valid.
    No,
    /// For nothing: the back end has been asked.
    Over(Judgement),
    /// For the back end's answer.
    For(Flight<Judgement>, Option<HeldRequest>),
}

// === impl Passes ===

impl Passes {
    /// The check that `access` asks for; `None` if everybody may watch.
    ///
    /// # Errors
    /// The machine cannot make requests to the back end.
    pub(crate) fn open(access: &ViewerAccess, viewers: Arc<Viewers>) -> Result<Option<Arc<Self>>, String> {
        let judge = match access {
            ViewerAccess::Everybody => return Ok(None),
            ViewerAccess::Secret(secret) => Judge::Secret(secret.clone()),
            ViewerAccess::Hook(config) => Judge::Hook(PassHook::new(BackEnd::open(config)?)),
        };
        Ok(Some(Arc::new(Self { judge, viewers })))
    }

    /// The router behind the check. Layers that were added to the router see paths without passes.
    pub(crate) fn guard(self: &Arc<Self>, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::clone(self), check))
    }

    /// Judges a request, or says what the request has to wait for.
    fn judge(&self, request: &Request) -> Result<Waiting, Refusal> {
        let presented = Presented::read(request.uri().path()).ok_or(Refusal::NoPass)?;
        let hook = match &self.judge {
            Judge::Secret(secret) => {
                let now = crate::identity::unix_now();
                let StreamPath { app, name } = &presented.stream;
                let judged = secret.judge(presented.token, app, name, now);
                return judged.map(|()| Waiting::No).map_err(Refusal::Bad);
            }
            Judge::Hook(hook) => hook,
        };
        let entry = request.extensions().get::<EntryHandle>();
        let address = entry.map(|entry| self.viewers.client(entry.address(), request.headers()));
        let StreamPath { app, name } = &presented.stream;
        let digest = question::digest(app, name, presented.token);
        let question = |server: &str| presented.question(address, request.headers(), server);
        match hook.judge(&digest, question, address.map(Into::into)) {
            Judged::Now(judgement) => Ok(Waiting::Over(judgement)),
            Judged::Waits(flight) => {
                // Without a connection, as in tests of the router alone, nothing is counted.
                let held = entry.map(|entry| entry.hold().ok_or(Refusal::TooMany)).transpose()?;
                Ok(Waiting::For(flight, held))
            }
        }
    }
}

// === impl Waiting ===

impl Waiting {
    /// Waits; the back end answers within a second, or counts as down.
    async fn end(self) -> (&'static str, Result<(), Refusal>) {
        let judgement = match self {
            Self::No => return ("yes", Ok(())),
            Self::Over(judgement) => judgement,
            Self::For(flight, _held) => flight.landed().await.unwrap_or(Judgement::Down),
        };
        match judgement {
            Judgement::Yes => ("yes", Ok(())),
            Judgement::Cached => ("cached", Ok(())),
            Judgement::No => ("no", Err(Refusal::No)),
            Judgement::Down => ("down", Err(Refusal::Down)),
            Judgement::Refused => ("refused", Err(Refusal::TooMany)),
        }
    }
}

async fn check(State(passes): State<Arc<Passes>>, mut request: Request, next: Next) -> Response {
    // Preflights carry nothing but the path, and are answered alike for every path.
    if request.method() == Method::OPTIONS || is_open(request.uri().path()) {
        return next.run(request).await;
    }
    let judged = passes.judge(&request);
    let (result, judged) = match judged {
        Ok(waiting) => waiting.end().await,
        Err(refusal) => (refusal.result(), Err(refusal)),
    };
    counter!("encoder_viewer_passes_total", "result" => result).increment(1);
    let stripped = judged.and_then(|()| stripped(request.uri()).ok_or(Refusal::NoPass));
    match stripped {
        Ok(uri) => {
            *request.uri_mut() = uri;
            private(next.run(request).await)
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Whether a path needs no pass: the player page, which is the same for everybody. A path with one more slash below
/// `/assets/` is that of a stream.
fn is_open(path: &str) -> bool {
    path == "/" || path.strip_prefix("/assets/").is_some_and(|file| !file.contains('/'))
}

/// The address without its pass.
fn stripped(uri: &Uri) -> Option<Uri> {
    let path = Presented::read(uri.path())?.path;
    let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// The answer, which no shared cache may keep: a cache would go on with it after the pass has expired.
fn private(mut answer: Response) -> Response {
    let value = answer.headers().get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let rest = value.and_then(|value| value.strip_prefix("public"));
    if let Some(value) = rest.and_then(|rest| HeaderValue::try_from(format!("private{rest}")).ok()) {
        answer.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    answer
}

impl<'a> Presented<'a> {
    /// Reads a request's path. The path is compared as the client wrote it, as the names of objects are.
    fn read(path: &'a str) -> Option<Self> {
        let (token, _) = path.strip_prefix(PREFIX)?.split_once('/').filter(|(token, _)| is_pass(token))?;
        let path = &path[PREFIX.len() + token.len()..];
        let (stream, _) = origin::split(path)?;
        Some(Self { token, stream, path })
    }

    fn question(&self, address: Option<IpAddr>, headers: &HeaderMap, server: &str) -> question::Question {
        let agent = headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
        question::Question {
            app: self.stream.app.to_string(),
            name: self.stream.name.to_string(),
            token: self.token.to_owned(),
            address,
            user_agent: String::from_utf8_lossy(agent).into_owned(),
            server: server.to_owned(),
            id: format!("view_{:032x}", fastrand::u128(..)),
        }
    }
}

impl Refusal {
    /// The value of the metric's label.
    fn result(self) -> &'static str {
        match self {
            Self::Bad(BadPass::Expired) => "expired",
            Self::Bad(
                BadPass::Malformed
                | BadPass::Signature
                | BadPass::Claims
                | BadPass::OtherStream
                | BadPass::NotYet,
            )
            | Self::NoPass
            | Self::No => "no",
            Self::Down => "down",
            Self::TooMany => "refused",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        // Without the second header a browser hides the status from a player on another site.
        let common = [
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        ];
        let retry = [(header::RETRY_AFTER, TRY_AGAIN)];
        match self {
            Self::NoPass => (StatusCode::FORBIDDEN, common, "a pass is needed to watch\n").into_response(),
            Self::Bad(bad) => {
                (StatusCode::FORBIDDEN, common, format!("the pass does not count: {bad}\n")).into_response()
            }
            Self::No => (StatusCode::FORBIDDEN, common, "the pass does not count\n").into_response(),
            Self::Down | Self::TooMany => (
                StatusCode::SERVICE_UNAVAILABLE,
                common,
                retry,
                "the pass cannot be checked now: try again\n",
            )
                .into_response(),
        }
    }
}

#[cfg(test)]
mod tests;
