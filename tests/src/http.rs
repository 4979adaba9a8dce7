//! A blocking HTTP client that returns responses as sent: it follows no redirects, does not decompress, and does not
//! turn error statuses into errors.

use anyhow::Context;
use bytes::Bytes;
use std::io::Read;
use std::time::{Duration, Instant};

/// Largest response body in bytes; a larger one is an error, because the encoder serves nothing larger.
const MAX_BODY: u64 = 64 << 20;

/// One complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers in the order sent, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as sent; compressed if `content-encoding` says so.
    pub body: Bytes,
    /// Time from sending the request to the last byte of the body.
    pub took: Duration,
}

impl Response {
    /// Value of the first header with this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text, decompressed if sent as gzip.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        match self.header("content-encoding") {
            None => text.push_str(std::str::from_utf8(&self.body)?),
            Some("gzip") => {
                flate2::read::GzDecoder::new(&self.body[..]).read_to_string(&mut text)?;
            }
            Some(other) => anyhow::bail!("content-encoding {other}"),
        }
        Ok(text)
    }
}

/// An HTTP client that keeps connections alive between requests, as players do.
#[derive(Clone, Debug)]
pub struct Client(ureq::Agent);

impl Default for Client {
    fn default() -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(10)))
            .build();
        Self(config.new_agent())
    }
}

impl Client {
    /// Sends a GET with extra headers.
    pub fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
        let mut request = self.0.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let asked = Instant::now();
        finish(request.call(), asked).with_context(|| format!("GET {url}"))
    }

    /// Sends a GET as players do: gzip accepted, from another origin.
    pub fn get(&self, url: &str) -> anyhow::Result<Response> {
        self.get_with(url, &[("accept-encoding", "gzip"), ("origin", "https://player.example")])
    }

    /// Sends a POST, as uploads do.
    pub fn post(&self, url: &str, content_type: &str, body: &[u8]) -> anyhow::Result<Response> {
        let asked = Instant::now();
        let request = self.0.post(url).header("content-type", content_type);
        finish(request.send(body), asked).with_context(|| format!("POST {url}"))
    }

    /// Sends a HEAD.
    pub fn head(&self, url: &str) -> anyhow::Result<Response> {
        let asked = Instant::now();
        finish(self.0.head(url).call(), asked).with_context(|| format!("HEAD {url}"))
    }
}

fn finish(
    answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    asked: Instant,
) -> anyhow::Result<Response> {
    let mut answer = answer?;
    let headers = answer
        .headers()
        .iter()
        .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
        .collect();
    let body = answer.body_mut().with_config().limit(MAX_BODY).read_to_vec()?;
    Ok(Response { status: answer.status().as_u16(), headers, body: body.into(), took: asked.elapsed() })
}

/// Resolves `reference` (relative, absolute path, or full URL) against the playlist URL `base`. Drops the query of the
/// base and resolves `.` and `..`.
pub fn join(base: &str, reference: &str) -> String {
    if reference.contains("://") {
        return reference.to_owned();
    }
    let base = base.split(['?', '#']).next().unwrap_or(base);
    let host_end =
        base.find("://").map_or(0, |at| base[at + 3..].find('/').map_or(base.len(), |p| at + 3 + p));
    let (host, path) = base.split_at(host_end);
    let mut parts: Vec<&str> = Vec::new();
    if !reference.starts_with('/') {
        parts.extend(path.split('/').skip(1));
        parts.pop();
    }
    for part in reference.trim_start_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("{host}/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_browsers_do() {
        let base = "http://h:1/live/x/index.m3u8?_HLS_msn=4";
        for (reference, url) in [
            ("720p/index.m3u8", "http://h:1/live/x/720p/index.m3u8"),
            ("./a.m4s", "http://h:1/live/x/a.m4s"),
            ("../y/a.m4s", "http://h:1/live/y/a.m4s"),
            ("/a.m4s", "http://h:1/a.m4s"),
            ("http://cdn/a.m4s", "http://cdn/a.m4s"),
        ] {
            assert_eq!(join(base, reference), url);
        }
    }
}
