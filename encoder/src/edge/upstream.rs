//! Requests to encoders: HTTP/2 with prior knowledge, two connections for each encoder, one for playlists and one for
//! objects, however many requests are held on them. What is asked and what answers mean belongs in [`super::stream`].

use super::access::EDGE;
use super::secret::EdgeSecret;
use super::warnings::OncePerMinute;
use crate::origin::source::ListedStream;
use crate::origin::{Reloadable, StreamPath, told};
use crate::web::{self, body, describe};
use audience::report::EdgeId;
use bytes::Bytes;
use metrics::counter;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use store::content_type;
use tracing::warn;

/// Time-out of a connection attempt: encoders are in the same network.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Time-out of a request with its answer: longer than the longest hold, of three target durations of three seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Interval and time-out of pings while requests are held: an encoder whose machine is gone is noticed after both.
const PING: Duration = Duration::from_secs(1);
/// Flow-control windows. A segment of a rung with a high bit rate fits in one, so that no round trip is waited for.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Most bytes of one answer: a segment of three seconds at 80 Mbit/s.
const MAX_BODY: usize = 32 << 20;
/// Most bytes of an encoder's list of streams.
const MAX_LISTING: usize = 4 << 20;
/// Time-out of an encoder's list of streams.
const LIST_WITHIN: Duration = Duration::from_secs(1);

/// The client of all encoders.
#[derive(Clone, Debug)]
pub(super) struct Upstream {
    /// Playlists and objects have connections of their own: an encoder bounds the requests on one connection, and
    /// requests for playlists are held all the time.
    playlists: Client,
    objects: Client,
    secret: Option<EdgeSecret>,
    /// This edge's identity.
    id: String,
    misconfigured: Arc<OncePerMinute>,
    silent: Arc<OncePerMinute>,
}

/// What is asked for, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Playlist,
    Object,
}

/// An encoder's answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// The object.
    Found {
        body: Bytes,
        content_type: &'static str,
        /// For a media playlist.
        reload: Option<Reloadable>,
    },
    /// The encoder has no such object.
    Missing,
    /// The object is not there yet, or the encoder is busy: ask again.
    NotYet,
}

/// Why there is no answer: the encoder or the network failed. A later attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("{0}")]
    Connection(String),
    #[error("answered with status {0}: give encoders and edges the same --edge-secret")]
    Refused(u16),
    #[error("answered with a status that an encoder does not use: {0}")]
    Unexpected(u16),
    #[error("sent more than an edge takes ({MAX_BODY} bytes, {MAX_LISTING} of a list of streams)")]
    TooLarge,
    #[error("did not describe its playlist: give encoders and edges the same --edge-secret and version")]
    Undescribed,
}

#[derive(Deserialize)]
struct Listing {
    streams: Vec<ListedStream>,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Playlist => "playlist",
            Self::Object => "object",
        }
    }
}

impl Upstream {
    /// # Errors
    /// The machine does not provide what an HTTP client needs.
    pub(super) fn new(secret: Option<EdgeSecret>) -> Result<Self, String> {
        Ok(Self {
            playlists: client()?,
            objects: client()?,
            secret,
            id: EdgeId::from_random(fastrand::u64(..)).to_string(),
            misconfigured: Arc::default(),
            silent: Arc::default(),
        })
    }

    /// Asks an encoder for an object of a stream. `report` tells the encoder about the stream's viewers here.
    pub(super) async fn get(
        &self,
        encoder: SocketAddr,
        stream: &StreamPath,
        path_and_query: &str,
        kind: Kind,
        report: Option<HeaderValue>,
    ) -> Result<Answer, UpstreamError> {
        let url = format!("http://{encoder}/{stream}/{path_and_query}");
        let client = match kind {
            Kind::Playlist => &self.playlists,
            Kind::Object => &self.objects,
        };
        let mut request = self.request(client, &url);
        if let Some(report) = report {
            request = request.header(audience::report::HEADER, report);
        }
        let answer = self.ask(request, kind).await;
        let result = match &answer {
            Ok(Answer::Found { body, .. }) => {
                counter!("encoder_edge_upstream_bytes_total").increment(body.len() as u64);
                "found"
            }
            Ok(Answer::Missing) => "missing",
            Ok(Answer::NotYet) => "not_yet",
            Err(error) => {
                self.warn_of(encoder, error);
                "failed"
            }
        };
        counter!("encoder_edge_upstream_requests_total", "kind" => kind.as_str(), "result" => result)
            .increment(1);
        answer
    }

    /// Warns, once a minute, of encoders that do not answer or are not set up for this edge.
    fn warn_of(&self, encoder: SocketAddr, error: &UpstreamError) {
        match error {
            UpstreamError::Connection(_) if self.silent.is_due() => warn!(
                %encoder,
                %error,
                "an encoder does not answer: its playlists stand still until another encoder has the stream; if the \
                 encoder is well, check that the network lets edges ask its HTTP port"
            ),
            UpstreamError::Refused(_)
            | UpstreamError::Unexpected(_)
            | UpstreamError::TooLarge
            | UpstreamError::Undescribed
                if self.misconfigured.is_due() =>
            {
                warn!(%encoder, %error, "an encoder cannot be asked: viewers get its streams from the store, if at all");
            }
            UpstreamError::Connection(_)
            | UpstreamError::Refused(_)
            | UpstreamError::Unexpected(_)
            | UpstreamError::TooLarge
            | UpstreamError::Undescribed => {}
        }
    }

    async fn ask(&self, request: RequestBuilder, kind: Kind) -> Result<Answer, UpstreamError> {
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Answer::Missing),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_REQUEST => return Ok(Answer::NotYet),
            status => return Err(refused(status)),
        }
        let reload = response.headers().get(&told::RELOAD).and_then(told::read);
        if kind == Kind::Playlist && reload.is_none() {
            return Err(UpstreamError::Undescribed);
        }
        let content_type = known_type(response.headers());
        let body = body(response, MAX_BODY)
            .await
            .map_err(UpstreamError::Connection)?
            .ok_or(UpstreamError::TooLarge)?;
        // Without the room that a growing buffer has to spare: the cache counts the bytes that it keeps.
        Ok(Answer::Found { body: body.into_boxed_slice().into(), content_type, reload })
    }

    /// The streams that an encoder has.
    pub(super) async fn listing(&self, encoder: SocketAddr) -> Result<Vec<ListedStream>, UpstreamError> {
        let listing = self.ask_for_listing(encoder).await;
        listing.inspect_err(|error| self.warn_of(encoder, error))
    }

    async fn ask_for_listing(&self, encoder: SocketAddr) -> Result<Vec<ListedStream>, UpstreamError> {
        let url = format!("http://{encoder}/streams.json");
        let response = self.request(&self.objects, &url).timeout(LIST_WITHIN).send().await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => {}
            status => return Err(refused(status)),
        }
        let body = body(response, MAX_LISTING).await.map_err(UpstreamError::Connection)?;
        let body = body.ok_or(UpstreamError::TooLarge)?;
        let listing: Result<Listing, _> = serde_json::from_slice(&body);
        listing.map(|listing| listing.streams).map_err(|_| UpstreamError::Undescribed)
    }

    fn request(&self, client: &Client, url: &str) -> RequestBuilder {
        let request = client.get(url).header(EDGE, &self.id);
        match &self.secret {
            Some(secret) => request.header(AUTHORIZATION, format!("Bearer {}", secret.token())),
            None => request,
        }
    }
}

fn refused(status: StatusCode) -> UpstreamError {
    match status {
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => UpstreamError::Refused(status.as_u16()),
        _ => UpstreamError::Unexpected(status.as_u16()),
    }
}

/// A client with one connection to each encoder.
fn client() -> Result<Client, String> {
    web::builder(ANSWER_WITHIN)
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .no_proxy()
        // Encoders are asked without TLS, inside their network, so no authorities are needed.
        .tls_certs_only([])
        .user_agent(concat!("encoder-edge/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(describe)
}

fn failed(error: reqwest::Error) -> UpstreamError {
    UpstreamError::Connection(describe(error))
}

/// The content type of an answer, as one of those that encoders use: the value is not passed on as it came.
fn known_type(headers: &HeaderMap) -> &'static str {
    let sent = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let known = [
        content_type::PLAYLIST,
        content_type::VIDEO_SEGMENT,
        content_type::VIDEO_INIT,
        content_type::AUDIO,
        content_type::JPEG,
    ];
    known.into_iter().find(|known| *known == sent).unwrap_or("application/octet-stream")
}
