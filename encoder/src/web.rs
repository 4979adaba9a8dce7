//! HTTP requests to other services: one client for each service, with time-outs and bounded answers. What is sent and
//! what the answers mean does not belong here.

use crate::identity::unix_now;
use admission::signature::WebhookSecret;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, Url};
use std::error::Error;
use std::time::Duration;

/// How long an idle connection is kept for the next request.
const KEEP_IDLE: Duration = Duration::from_secs(300);
/// Interval of TCP keepalive probes, which keep the state of firewalls and balancers alive.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Makes a client for the service at `url`. A request, with its answer, takes `within` at most. Redirects are not
/// followed.
///
/// # Errors
/// The machine has no certificates of authorities, and the URL begins with `https`.
pub(crate) fn client(url: &Url, within: Duration) -> Result<Client, String> {
    let builder = builder(within)
        .pool_idle_timeout(KEEP_IDLE)
        .tcp_keepalive(PROBE_EVERY)
        .user_agent(concat!("encoder/", env!("CARGO_PKG_VERSION")));
    // Without TLS no authorities are needed, and some containers have none.
    let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
    builder.build().map_err(describe)
}

/// Begins a client. A request, with its answer, takes `within` at most. Redirects are not followed.
pub(crate) fn builder(within: Duration) -> ClientBuilder {
    // The crates leave the choice of cryptography to the program. An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().redirect(Policy::none()).timeout(within)
}

/// The request with the headers of Standard Webhooks, if there is a secret. `id` names the request, `body` is what it
/// will send.
pub(crate) fn signed(
    request: RequestBuilder,
    secret: Option<&WebhookSecret>,
    id: &str,
    body: &[u8],
) -> RequestBuilder {
    let Some(secret) = secret else { return request };
    let timestamp = unix_now();
    request
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", secret.sign(id, timestamp, body))
}

/// The body of an answer; `None` if the body is longer than `most` bytes.
///
/// # Errors
/// The connection failed, or the body took too long.
pub(crate) async fn body(mut response: Response, most: usize) -> Result<Option<Vec<u8>>, String> {
    if response.content_length().is_some_and(|length| length > most as u64) {
        return Ok(None);
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(describe)? {
        if body.len() + piece.len() > most {
            return Ok(None);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Some(body))
}

/// An error and its causes, without the URL, which may contain a password.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
