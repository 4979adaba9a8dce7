//! Which requests the admin port accepts: under which names the port may be asked, from which pages, and who may change
//! something. Decisions on a request's head; the routes are in [`crate::admin`].
//!
//! A browser on the operator's machine reaches the port on behalf of any page that it shows. Three rules keep such
//! pages out: the Host must be an address or a known name (a page whose name resolves to this machine sends its own
//! name: DNS rebinding), a change must not come from a page of another origin, and a change from another machine needs
//! the token.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Json, Response};
use ring::hmac;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What a browser says about the page that sent a request (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

/// The rules of one admin port. `Default` knows no name and no token: only this machine may change something.
#[derive(Clone, Debug, Default)]
pub struct Access {
    hosts: Vec<String>,
    token: Option<TokenCheck>,
}

/// Compares tokens in a time that does not depend on where they differ, nor on the length of the configured one.
#[derive(Clone, Debug)]
struct TokenCheck {
    key: hmac::Key,
    tag: hmac::Tag,
}

/// Why a request is refused. All are the client's mistakes or the operator's settings: a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denial {
    /// The Host is neither an address nor a known name.
    #[error(
        "this port answers to addresses, to localhost and to the names of --admin-hosts (ENCODER_ADMIN_HOSTS), and \
         was asked under another name: add that name there, or use the address"
    )]
    Host,
    /// A page of another origin wants to change something.
    #[error("a page of another origin cannot change anything here: use this port's own page, or curl")]
    CrossOrigin,
    /// A change without the token, or with a wrong one.
    #[error(
        "changes from another machine need the token of --admin-token (ENCODER_ADMIN_TOKEN): send the header \
         'Authorization: Bearer TOKEN'"
    )]
    Token,
    /// A change from another machine, and no token is configured.
    #[error(
        "only this machine may change something here: set --admin-token (ENCODER_ADMIN_TOKEN) to let others do so"
    )]
    NotLocal,
}

// === impl Access ===

impl Access {
    /// Rules with names under which the port may be asked, besides addresses and `localhost`, and with the token that
    /// changes from other machines must carry.
    pub fn new(hosts: Vec<String>, token: Option<&str>) -> Self {
        Self { hosts, token: token.map(TokenCheck::new) }
    }

    /// Whether other machines can change something, with the token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Judges a request from `peer`.
    fn judge(&self, request: &Parts, peer: IpAddr) -> Result<(), Denial> {
        // Without a Host it is no browser: HAProxy's checks speak HTTP/1.0.
        let host_headers = request.headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
        let target = request.uri.authority().map(|authority| authority.as_str().as_bytes());
        if !host_headers.chain(target).all(|host| self.knows(host)) {
            return Err(Denial::Host);
        }
        if matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        if !is_own_page(&request.headers) {
            return Err(Denial::CrossOrigin);
        }
        if peer.to_canonical().is_loopback() {
            return Ok(());
        }
        let Some(token) = &self.token else { return Err(Denial::NotLocal) };
        let presented = request.headers.get(header::AUTHORIZATION).and_then(bearer);
        if presented.is_some_and(|presented| token.fits(presented)) { Ok(()) } else { Err(Denial::Token) }
    }

    fn knows(&self, host: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(host) else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        if address.parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

impl TokenCheck {
    fn new(token: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes());
        let tag = hmac::sign(&key, token.as_bytes());
        Self { key, tag }
    }

    fn fits(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.key, presented, self.tag.as_ref()).is_ok()
    }
}

/// The token of an `Authorization: Bearer …` header.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// Whether a request comes from a page of this port, or from no page at all. Browsers name the page's origin with every
/// request that is neither GET nor HEAD.
fn is_own_page(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let is_own = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    };
    let same_site = |site: &HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
    headers.get_all(header::ORIGIN).iter().all(is_own)
        && headers.get_all(SEC_FETCH_SITE).iter().all(same_site)
}

/// Refuses what the rules do not allow, before any route sees the request.
pub(crate) async fn guard(
    State(access): State<Arc<Access>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    match access.judge(&head, peer.ip()) {
        Ok(()) => next.run(Request::from_parts(head, body)).await,
        Err(denial) => denial.into_response(),
    }
}

// === impl Denial ===

impl IntoResponse for Denial {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.to_string() }));
        match self {
            Self::Host => (StatusCode::MISDIRECTED_REQUEST, [NO_STORE], body).into_response(),
            Self::CrossOrigin | Self::NotLocal => (StatusCode::FORBIDDEN, [NO_STORE], body).into_response(),
            Self::Token => {
                let scheme = (header::WWW_AUTHENTICATE, "Bearer");
                (StatusCode::UNAUTHORIZED, [NO_STORE, scheme], body).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a token of some length";
    const HERE: &str = "127.0.0.1";
    const ELSEWHERE: &str = "10.2.3.4";

    fn access() -> Access {
        Access::new(vec!["encoder.example.org".into()], Some(TOKEN))
    }

    fn judge(access: &Access, method: &str, peer: &str, headers: &[(&str, &str)]) -> Result<(), Denial> {
        let request =
            headers.iter().fold(axum::http::Request::builder().method(method).uri("/"), |request, header| {
                request.header(header.0, header.1)
            });
        access.judge(&request.body(()).unwrap().into_parts().0, peer.parse().unwrap())
    }

    #[test]
    fn addresses_and_known_names_are_answered_and_no_other() {
        let known = [
            "10.1.2.3",
            "10.1.2.3:9090",
            "[::1]:9090",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "encoder.example.org",
            "Encoder.Example.org:9090",
        ];
        for host in known {
            assert_eq!(judge(&access(), "GET", ELSEWHERE, &[("host", host)]), Ok(()), "{host}");
        }
        let unknown = [
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x@127.0.0.1",
            "example.org",
            "xencoder.example.org",
            "",
            "127.0.0.1 ",
            "[evil]",
            "2130706433",
        ];
        for host in unknown {
            for method in ["GET", "PUT"] {
                let told = judge(&access(), method, HERE, &[("host", host)]);
                assert_eq!(told, Err(Denial::Host), "{method} {host:?}");
            }
        }
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(judge(&access(), "GET", HERE, &two), Err(Denial::Host));
        let absolute = axum::http::Request::get("http://evil.example/").header("host", "localhost");
        let head = absolute.body(()).unwrap().into_parts().0;
        assert_eq!(access().judge(&head, HERE.parse().unwrap()), Err(Denial::Host));
        assert_eq!(judge(&access(), "GET", ELSEWHERE, &[]), Ok(()), "HTTP/1.0");
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let host = ("host", "localhost:9090");
        for own in [
            ("origin", "http://localhost:9090"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(judge(&access(), "DELETE", HERE, &[host, own]), Ok(()), "{own:?}");
        }
        let foreign = [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:8080"),
            ("origin", ""),
            ("origin", "localhost:9090"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ];
        for foreign in foreign {
            for method in ["PUT", "POST", "DELETE", "PATCH", "ANY"] {
                let told = judge(&access(), method, HERE, &[host, foreign]);
                assert_eq!(told, Err(Denial::CrossOrigin), "{method} {foreign:?}");
            }
            assert_eq!(judge(&access(), "GET", HERE, &[host, foreign]), Ok(()), "reading changes nothing");
        }
    }

    #[test]
    fn changes_from_another_machine_need_the_token() {
        let host = ("host", "10.1.2.3:9090");
        let right = format!("Bearer {TOKEN}");
        assert_eq!(judge(&access(), "PUT", ELSEWHERE, &[host, ("authorization", &right)]), Ok(()));
        let lower = format!("bearer {TOKEN}");
        assert_eq!(judge(&access(), "PUT", ELSEWHERE, &[host, ("authorization", &lower)]), Ok(()));
        for wrong in
            ["Bearer", "Bearer ", "Bearer another token", TOKEN, "Basic YTpi", &right[..right.len() - 1]]
        {
            let told = judge(&access(), "PUT", ELSEWHERE, &[host, ("authorization", wrong)]);
            assert_eq!(told, Err(Denial::Token), "{wrong}");
        }
        assert_eq!(judge(&access(), "PUT", ELSEWHERE, &[host]), Err(Denial::Token));
        assert_eq!(judge(&access(), "GET", ELSEWHERE, &[host]), Ok(()));
        for local in [HERE, "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(judge(&access(), "PUT", local, &[host]), Ok(()), "{local}");
        }
        let without = Access::default();
        assert_eq!(
            judge(&without, "PUT", ELSEWHERE, &[host, ("authorization", &right)]),
            Err(Denial::NotLocal)
        );
        assert_eq!(judge(&without, "PUT", HERE, &[host]), Ok(()));
    }

    #[test]
    fn the_token_is_not_printed() {
        assert!(!format!("{:?}", access()).contains(TOKEN));
        assert!(!format!("{:?}", access()).contains(&format!("{:?}", TOKEN.as_bytes())));
    }
}
