//! Who may ask an encoder's HTTP port: everybody, or edges alone, and how an edge is recognised.

use super::reports::EdgeReports;
use super::secret::EdgeSecret;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The header with an edge's identity: a random number of its process, in 16 hexadecimal digits.
pub(crate) const EDGE: HeaderName = HeaderName::from_static("encoder-edge");

/// Who may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeAccess {
    /// The secret that edges prove to know. Without a secret, every client that says so is an edge.
    pub(crate) secret: Option<EdgeSecret>,
    /// Whether edges alone are answered.
    pub(crate) edges_alone: bool,
    /// What edges say about viewers.
    pub(crate) reports: EdgeReports,
}

impl EdgeAccess {
    /// Whether a request is answered at all.
    pub(crate) fn allows(&self, request: &HeaderMap) -> bool {
        !self.edges_alone || self.proves(request)
    }

    /// Whether an edge asks. An edge is told more about playlists, nothing of which is secret.
    pub(crate) fn is_edge(&self, request: &HeaderMap) -> bool {
        request.contains_key(EDGE) && (self.secret.is_none() || self.proves(request))
    }

    fn proves(&self, request: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return !self.edges_alone };
        let value = request.get(header::AUTHORIZATION).map(HeaderValue::to_str);
        let token = value.and_then(Result::ok).and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| secret.is_token(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_alone_means_that_a_token_is_needed() {
        let secret = EdgeSecret::parse("a secret of some length").unwrap();
        let request = |token: Option<&str>, edge: bool| {
            let mut headers = HeaderMap::new();
            if let Some(token) = token {
                headers.insert(header::AUTHORIZATION, format!("Bearer {token}").try_into().unwrap());
            }
            if edge {
                headers.insert(EDGE, HeaderValue::from_static("0123456789abcdef"));
            }
            headers
        };
        let (stranger, named) = (request(None, false), request(None, true));
        let (wrong, right) = (request(Some("x"), true), request(Some(secret.token()), true));
        let open = EdgeAccess::default();
        assert!(open.allows(&stranger) && !open.is_edge(&stranger) && open.is_edge(&named));
        let known = EdgeAccess { secret: Some(secret), ..EdgeAccess::default() };
        assert!(known.allows(&stranger) && !known.is_edge(&named) && known.is_edge(&right));
        let closed = EdgeAccess { edges_alone: true, ..known };
        assert!(closed.allows(&right) && closed.is_edge(&right));
        for request in [&stranger, &named, &wrong] {
            assert!(!closed.allows(request) && !closed.is_edge(request));
        }
        assert!(
            !EdgeAccess { edges_alone: true, ..EdgeAccess::default() }.allows(&named),
            "nobody can prove anything"
        );
    }
}
