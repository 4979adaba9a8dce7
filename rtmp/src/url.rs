//! The publishing URL, `rtmp://HOST[:PORT]/{app}/{key}`, or `rtmps://` for RTMP inside TLS. The key is a secret and appears in no rendering of the type.

use crate::StreamKey;
use std::fmt;
use std::str::FromStr;

/// Port if the URL names none (IANA: macromedia-fcs).
const DEFAULT_PORT: u16 = 1935;
/// Port of `rtmps://` if the URL names none, as in FFmpeg and OBS.
const DEFAULT_TLS_PORT: u16 = 443;

/// A publishing URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RtmpUrl {
    /// Whether the connection is inside TLS (`rtmps://`).
    pub tls: bool,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Application: everything between the host and the last slash.
    pub app: String,
    /// The part after the last slash, including its query.
    pub key: StreamKey,
}

/// Why a publishing URL is invalid. Does not contain the URL, because the key is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Another scheme, or none.
    #[error("the URL must begin with rtmp:// or rtmps://")]
    Scheme,
    /// The host is empty, or contains a user name.
    #[error("the URL names no host")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is no number from 1 to 65535")]
    Port,
    /// The path has fewer than two parts.
    #[error("the URL must end with /APP/KEY")]
    Path,
}

impl RtmpUrl {
    /// The same key at another application, which is given as `connect` names it; `None` if that is no such URL, or if the
    /// key would leave TLS.
    pub fn moved_to(&self, tc_url: &str) -> Option<Self> {
        let moved: Self = format!("{}/{}", tc_url.trim_end_matches('/'), self.key.expose()).parse().ok()?;
        (moved.tls || !self.tls).then_some(moved)
    }

    /// The URL of the application, without the key, as `connect` names it.
    pub(crate) fn tc_url(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let (scheme, usual) = if self.tls { ("rtmps", DEFAULT_TLS_PORT) } else { ("rtmp", DEFAULT_PORT) };
        match self.port {
            port if port == usual => format!("{scheme}://{host}/{}", self.app),
            port => format!("{scheme}://{host}:{port}/{}", self.app),
        }
    }
}

impl FromStr for RtmpUrl {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let behind = |scheme: &str| {
            let (head, rest) = url.split_at_checked(scheme.len())?;
            head.eq_ignore_ascii_case(scheme).then_some(rest)
        };
        let (tls, rest) = match (behind("rtmp://"), behind("rtmps://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(BadUrl::Scheme),
        };
        let (authority, path) = rest.split_once('/').ok_or(BadUrl::Path)?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, behind) = bracketed.split_once(']').ok_or(BadUrl::Host)?;
                match behind.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if behind.is_empty() => (host, None),
                    None => return Err(BadUrl::Port),
                }
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() || host.contains('@') || host.contains(char::is_whitespace) {
            return Err(BadUrl::Host);
        }
        let port = match port.map(str::parse) {
            None if tls => DEFAULT_TLS_PORT,
            None => DEFAULT_PORT,
            Some(Ok(port)) if port > 0 => port,
            Some(_) => return Err(BadUrl::Port),
        };
        // The key's query may contain slashes of its own.
        let end_of_names = path.find('?').unwrap_or(path.len());
        let slash = path[..end_of_names].rfind('/').ok_or(BadUrl::Path)?;
        let (app, key) = (path[..slash].trim_matches('/'), &path[slash + 1..]);
        if app.is_empty() || key.is_empty() || key.starts_with('?') {
            return Err(BadUrl::Path);
        }
        Ok(Self { tls, host: host.into(), port, app: app.into(), key: StreamKey::new(key.into()) })
    }
}

impl fmt::Display for RtmpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/…", self.tc_url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> Result<(String, u16, String, String), BadUrl> {
        let url: RtmpUrl = url.parse()?;
        Ok((url.host, url.port, url.app, url.key.expose().to_owned()))
    }

    #[test]
    fn urls_and_their_parts() {
        let ok = |host: &str, port, app: &str, key: &str| Ok((host.into(), port, app.into(), key.into()));
        let table = [
            ("rtmp://example.org/live/abc", ok("example.org", 1935, "live", "abc")),
            ("RTMP://example.org:1936/live/abc", ok("example.org", 1936, "live", "abc")),
            ("rtmp://[::1]:1936/live/abc", ok("::1", 1936, "live", "abc")),
            ("rtmp://[::1]/live/abc", ok("::1", 1935, "live", "abc")),
            ("rtmp://h/live/eu/abc", ok("h", 1935, "live/eu", "abc")),
            ("rtmp://h/live/abc?latency=5&x=a/b", ok("h", 1935, "live", "abc?latency=5&x=a/b")),
            ("rtmps://h/live/abc", ok("h", 443, "live", "abc")),
            ("RTMPS://h:1936/live/abc", ok("h", 1936, "live", "abc")),
            ("rtmpt://h/live/abc", Err(BadUrl::Scheme)),
            ("http://h/live/abc", Err(BadUrl::Scheme)),
            ("live/abc", Err(BadUrl::Scheme)),
            ("rtmp:///live/abc", Err(BadUrl::Host)),
            ("rtmp://user@h/live/abc", Err(BadUrl::Host)),
            ("rtmp://[::1/live/abc", Err(BadUrl::Host)),
            ("rtmp://h:0/live/abc", Err(BadUrl::Port)),
            ("rtmp://h:70000/live/abc", Err(BadUrl::Port)),
            ("rtmp://[::1]1936/live/abc", Err(BadUrl::Port)),
            ("rtmp://h", Err(BadUrl::Path)),
            ("rtmp://h/live", Err(BadUrl::Path)),
            ("rtmp://h/live/", Err(BadUrl::Path)),
            ("rtmp://h/live/?a=b", Err(BadUrl::Path)),
        ];
        for (url, expected) in table {
            assert_eq!(parts(url), expected, "{url}");
        }
    }

    #[test]
    fn a_url_moves_with_its_key() {
        let url: RtmpUrl = "rtmp://h/live/abc?x=a/b".parse().unwrap();
        let moved = url.moved_to("rtmp://other:1936/app/").unwrap();
        assert_eq!((moved.host.as_str(), moved.port, moved.app.as_str()), ("other", 1936, "app"));
        assert_eq!(moved.key, url.key);
        assert_eq!((url.moved_to("other/app"), url.moved_to("rtmp://other")), (None, None));
        let inside_tls: RtmpUrl = "rtmps://h/live/abc".parse().unwrap();
        assert_eq!(inside_tls.moved_to("rtmp://other/app"), None, "the key stays inside TLS");
        assert!(inside_tls.moved_to("rtmps://other/app").is_some_and(|moved| moved.tls));
    }

    #[test]
    fn the_key_shows_nowhere() {
        let url: RtmpUrl = "rtmp://example.org:1936/live/secret?token=secret".parse().unwrap();
        assert_eq!(url.to_string(), "rtmp://example.org:1936/live/…");
        assert!(!format!("{url:?}").contains("secret"));
        assert!(!url.tc_url().contains("secret"));
        let url: RtmpUrl = "rtmps://example.org/live/secret".parse().unwrap();
        assert_eq!((url.to_string(), url.tls), ("rtmps://example.org/live/…".to_owned(), true));
    }
}
