//! The input of `transcode` and `inspect`: a file, standard input, or the address at which one publisher is awaited.

use super::Validator;
use rtmp::StreamKey;
use rtmp::url::RtmpUrl;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Name of the argument in messages.
const INPUT: &str = "INPUT";

/// Where media comes from.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A file, or standard input as `-`.
    File(PathBuf),
    /// One publisher.
    Publisher(AwaitedPublisher),
}

/// The publisher that is awaited.
#[derive(Clone, Debug)]
pub(crate) struct AwaitedPublisher {
    /// Where to listen.
    pub(crate) address: SocketAddr,
    /// The application that it has to name.
    pub(crate) app: String,
    /// The stream key that it has to name, without a query.
    pub(crate) key: StreamKey,
    /// Whether only this machine reaches the address.
    pub(crate) is_local: bool,
}

impl fmt::Display for AwaitedPublisher {
    /// The URL without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rtmp://{}/{}/…", self.address, self.app)
    }
}

impl Input {
    /// Reads the argument. `anyone` opts in to an address that other machines reach.
    pub(super) fn read(text: &std::ffi::OsStr, anyone: bool, validator: &mut Validator) -> Option<Self> {
        let scheme = text.to_str().and_then(|text| Some((text, text.split_once("://")?.0)));
        let Some((url, scheme)) = scheme else { return Some(Self::File(text.into())) };
        // What is shown of a URL has no key.
        let shown = format!("{scheme}://…");
        let mut refuse = |problem: &str| {
            validator.reject(INPUT, &shown, problem);
            None
        };
        if !scheme.eq_ignore_ascii_case("rtmp") {
            return refuse(
                "is not supported: give a file, - for standard input, or rtmp://HOST[:PORT]/APP/KEY",
            );
        }
        let RtmpUrl { host, port, app, key, tls: _ } = match url.parse() {
            Ok(url) => url,
            Err(error) => return refuse(&format!("cannot be listened at: {error}")),
        };
        if !media::is_valid_name(&app) {
            return refuse("the application's name is 1 to 64 of A-Z a-z 0-9 _ -");
        }
        // A publisher's query is not a part of its key.
        let key = key.expose().split('?').next().unwrap_or_default().to_owned();
        let Some(address) = (host.as_str(), port).to_socket_addrs().ok().and_then(|mut all| all.next())
        else {
            return refuse("names no address of this machine");
        };
        let is_local = address.ip().is_loopback();
        if !is_local && !anyone {
            return refuse(
                "would let other machines publish: name an address of this machine alone, such as 127.0.0.1, or say \
                 --publish-anyone",
            );
        }
        Some(Self::Publisher(AwaitedPublisher { address, app, key: StreamKey::new(key), is_local }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, anyone: bool) -> Result<Input, String> {
        let mut validator = Validator::default();
        let input = Input::read(text.as_ref(), anyone, &mut validator);
        input.ok_or_else(|| validator.bad.iter().map(ToString::to_string).collect())
    }

    fn publisher(text: &str, anyone: bool) -> Result<AwaitedPublisher, String> {
        match read(text, anyone)? {
            Input::Publisher(awaited) => Ok(awaited),
            Input::File(file) => panic!("{}", file.display()),
        }
    }

    #[test]
    fn files_standard_input_and_publishers() {
        for file in ["talk.mp4", "-", "/dev/stdin", "rtmp:/x", "a:b.flv"] {
            assert!(
                matches!(read(file, false), Ok(Input::File(path)) if path == std::path::Path::new(file)),
                "{file}"
            );
        }
        let awaited = publisher("RTMP://127.0.0.1:1936/live/secret?token=x", false).unwrap();
        assert_eq!((awaited.address, awaited.app.as_str()), ("127.0.0.1:1936".parse().unwrap(), "live"));
        assert_eq!((awaited.key.expose(), awaited.is_local), ("secret", true));
        assert_eq!(awaited.to_string(), "rtmp://127.0.0.1:1936/live/…");
        let default = publisher("rtmp://[::1]/live/x", false).unwrap();
        assert_eq!(default.address, "[::1]:1935".parse().unwrap());
        assert!(publisher("rtmp://localhost/live/x", false).unwrap().is_local);
    }

    #[test]
    fn other_machines_need_the_opt_in() {
        for url in ["rtmp://0.0.0.0/live/secret", "rtmp://192.0.2.1/live/secret", "rtmp://[::]/live/secret"] {
            assert!(publisher(url, false).unwrap_err().contains("--publish-anyone"), "{url}");
            assert!(!publisher(url, true).unwrap().is_local, "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_told_without_its_key() {
        for url in [
            "rtmps://127.0.0.1/live/secret",
            "http://127.0.0.1/secret.flv",
            "rtmp://127.0.0.1/secret",
            "rtmp://127.0.0.1:99999/live/secret",
            "rtmp://127.0.0.1/a/b/secret",
        ] {
            let told = publisher(url, true).unwrap_err();
            assert!(!told.contains("secret") && told.contains("INPUT"), "{told}");
        }
    }
}
