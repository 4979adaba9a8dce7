//! Viewers at an edge: who asks, how many watch what, and what their players say about playback. The counting is the
//! crate `audience`'s; the requests, the clock and the metrics are here.

use super::stored::Named;
use crate::listener::EntryHandle;
use crate::origin::{self, StreamPath, ViewerAddress};
use audience::cmcd::{self, Cmcd};
use audience::identity::{Key, Viewer};
use audience::playback::{Playback, Sample};
use audience::viewers::{Asked, Audience, StreamViewers};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use ipnet::IpNet;
use metrics::{counter, gauge, histogram};
use ring::rand::SystemRandom;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Sessions that are counted exactly; beyond them a growing share is left out and the counts are estimates. Each takes
/// some 50 bytes.
const MOST_SESSIONS: usize = 200_000;
/// The viewers of an edge. Share it in an `Arc`.
pub(crate) struct Viewers {
    state: Mutex<ViewersState>,
    /// The proxies whose X-Forwarded-For is believed.
    proxies: Vec<IpNet>,
}

struct ViewersState {
    audience: Audience,
    playback: Playback,
    /// Rungs whose gauge is shown.
    shown: BTreeSet<String>,
}

/// What a request says about its viewer. The answer decides whether the viewer counts.
struct Observed {
    stream: String,
    rung: String,
    address: IpAddr,
    agent: Option<HeaderValue>,
    cmcd: Cmcd,
}

impl Viewers {
    /// A count without viewers. `proxies` are the proxies whose X-Forwarded-For is believed.
    pub(crate) fn new(proxies: Vec<IpNet>) -> Arc<Self> {
        let audience = Audience::new(MOST_SESSIONS, random_key(), Instant::now());
        let state = ViewersState { audience, playback: Playback::new(), shown: BTreeSet::new() };
        Arc::new(Self { state: Mutex::new(state), proxies })
    }

    /// The router, whose requests are observed.
    pub(crate) fn observe(self: &Arc<Self>, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::clone(self), observe))
    }

    /// The client of a request that came from `peer`: with trusted proxies the last address that none of them added.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let trusted = |address: &IpAddr| {
            let address = address.to_canonical();
            self.proxies.iter().any(|network| network.contains(&address))
        };
        if !trusted(&peer) {
            return peer;
        }
        let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let addresses: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        let read = addresses.iter().rev().map_while(|address| address.parse::<IpAddr>().ok());
        let mut client = peer;
        for address in read {
            client = address;
            if !trusted(&address) {
                break;
            }
        }
        client
    }

    fn saw(&self, observed: &Observed) {
        let now = Instant::now();
        let agent = observed.agent.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let viewer = Viewer { sid: observed.cmcd.sid.as_ref(), address: observed.address, agent };
        let rung = &observed.rung;
        // A viewer of pictures asks for a rendition of sound as well.
        let asked = if hls::names::is_audio(rung) { Asked::Sound(rung) } else { Asked::Rung(rung) };
        let samples: Vec<Sample> = {
            let mut state = self.lock();
            let session = state.audience.seen(&observed.stream, asked, &viewer, now);
            state.playback.heard(session, &observed.cmcd, now).collect()
        };
        for sample in samples {
            match sample {
                Sample::Stall => counter!("encoder_viewer_stalls_total").increment(1),
                Sample::BufferSeconds(seconds) => {
                    histogram!("encoder_viewer_buffer_seconds").record(seconds);
                }
                Sample::BitrateKbps(kbps) => {
                    histogram!("encoder_viewer_bitrate_bits").record(kbps * 1000.0);
                }
                Sample::LatencySeconds(seconds) => {
                    histogram!("encoder_viewer_latency_seconds").record(seconds);
                }
            }
        }
    }

    /// The value of the header that tells a stream's encoder about its viewers here; `None` if there are none.
    pub(super) fn report(&self, stream: &StreamPath) -> Option<HeaderValue> {
        let report = self.lock().audience.report(&stream.to_string(), Instant::now());
        (report.viewers() > 0).then(|| HeaderValue::try_from(report.to_string()).ok()).flatten()
    }

    /// The streams that are watched, those with the most viewers first.
    pub(crate) fn streams(&self) -> Vec<StreamViewers> {
        self.lock().audience.streams(Instant::now())
    }

    /// Shows the metrics, and changes the key when it is due.
    pub(super) fn show(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        if state.audience.is_key_due(now) {
            state.audience.replace_key(random_key(), now);
        }
        let rungs = state.audience.rungs(now);
        for gone in std::mem::take(&mut state.shown) {
            if !rungs.contains_key(&gone) {
                gauge!("encoder_viewers", "rung" => gone).set(0.0);
            }
        }
        state.shown = rungs.keys().cloned().collect();
        drop(state);
        for (rung, viewers) in rungs {
            gauge!("encoder_viewers", "rung" => rung).set(viewers as f64);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ViewersState> {
        // The crate does not panic, and a wrong count does no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random_key() -> Key {
    let random = ring::rand::generate::<[u8; 16]>(&SystemRandom::new());
    Key::from_random(random.map_or_else(|_| fastrand::u128(..).to_le_bytes(), |random| random.expose()))
}

async fn observe(State(viewers): State<Arc<Viewers>>, mut request: Request, next: Next) -> Response {
    let Some(peer) = request.extensions().get::<EntryHandle>().map(|entry| entry.address()) else {
        return next.run(request).await;
    };
    let address = viewers.client(peer, request.headers());
    request.extensions_mut().insert(ViewerAddress(address));
    let observed = Observed::of(&request, address);
    let response = next.run(request).await;
    // A name that does not exist is no rung, and must not become the label of a metric.
    if let Some(observed) = observed
        && (response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED)
    {
        viewers.saw(&observed);
    }
    response
}

impl Observed {
    fn of(request: &Request, address: IpAddr) -> Option<Self> {
        let (stream, path) = origin::split(request.uri().path())?;
        let rung = match Named::read(path)? {
            Named::Playlist(rung) => rung,
            Named::Media => path.split_once('/')?.0,
            Named::Multivariant | Named::Picture | Named::ArchivePlaylist | Named::Recording => return None,
        };
        let headers = request.headers();
        let said = cmcd::HEADERS.iter().filter_map(|name| headers.get(*name)).map(HeaderValue::as_bytes);
        Some(Self {
            stream: stream.to_string(),
            rung: rung.to_owned(),
            address,
            agent: headers.get(header::USER_AGENT).cloned(),
            cmcd: Cmcd::read(request.uri().query(), said),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_behind_trusted_proxies_is_the_last_address_that_is_not_theirs() {
        let viewers = Viewers::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let client = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            viewers.client(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(client("192.0.2.7", &["198.51.100.1"]), "192.0.2.7", "a stranger says so");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9, 198.51.100.1, 10.0.0.2"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["203.0.113.9", "198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.1, unknown"]), "10.0.0.1");
        assert_eq!(client("::ffff:10.0.0.1", &["2001:db8::1"]), "2001:db8::1");
    }
}
