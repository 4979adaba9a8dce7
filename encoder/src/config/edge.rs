//! Validates the settings of `edge`, and those settings of `serve` that are about edges.

use super::cli::{EdgeArgs, ServeArgs};
use super::{
    BadSetting, NEEDS_PROXIES, TlsConfig, Validator, check_log_format, encoders, given, identity, networks,
    output, web_url, webhook_secret,
};
use crate::edge::secret::EdgeSecret;
use crate::edge::{Advertised, EdgeAccess, PassHookConfig, ViewerAccess};
use admission::pass::PassSecret;
use ipnet::IpNet;
use reqwest::Url;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use store::Location;

/// The validated settings of `edge`.
#[derive(Clone, Debug)]
pub(crate) struct EdgeConfig {
    /// Address of the public HTTP listener.
    pub http_listen: SocketAddr,
    /// The listener with TLS, if there is one.
    pub tls: Option<TlsConfig>,
    /// Address of the internal HTTP listener.
    pub admin_listen: SocketAddr,
    /// The location of the store in common with the encoders.
    pub output: Option<Location>,
    /// Encoders' HTTP ports as `HOST:PORT`, which are asked for their streams.
    pub encoders: Vec<String>,
    /// The secret in common with the encoders.
    pub secret: Option<EdgeSecret>,
    /// Who may watch.
    pub viewer_access: ViewerAccess,
    /// Bytes of objects that are kept in memory.
    pub cache_bytes: u64,
    /// Connections of viewers for each port.
    pub connections: usize,
    /// How long an idle connection of a viewer is kept.
    pub http_idle_timeout: Duration,
    /// How long answers in progress may take after SIGTERM.
    pub drain_timeout: Duration,
    /// The proxies whose word about the client's address is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether their connections begin with a PROXY protocol header; otherwise they write X-Forwarded-For.
    pub proxy_protocol: bool,
}

/// What an encoder does about edges.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgesConfig {
    /// Where edges reach the encoder: its address, and the port if that is not the HTTP listener's.
    pub advertise: Option<(IpAddr, Option<u16>)>,
    /// Who may ask the HTTP port.
    pub access: EdgeAccess,
}

/// Validates the settings of `edge`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn edge(args: &EdgeArgs) -> Result<EdgeConfig, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let http_listen = validator.address("--http-listen", &args.http_listen);
    let https_listen = args.https_listen.as_ref().map(|value| validator.address("--https-listen", value));
    let admin_listen = validator.address("--admin-listen", &args.admin_listen);
    let listeners = [("--https-listen", &args.https_listen)];
    let identity = identity(&listeners, &args.tls, &mut validator);
    let endpoint = args.gcs_endpoint.as_deref();
    let location = given(&args.output).and_then(|text| output(text, endpoint, &mut validator));
    let encoders = encoders(args.encoders.as_deref().unwrap_or_default(), &mut validator);
    if given(&args.output).is_none() && given(&args.encoders).is_none() {
        validator.reject("--output", "", "or --encoders must say where streams are");
    }
    let secret = secret(args.shared.edge_secret.as_ref(), &mut validator);
    let viewer_access = viewer_access(args, &mut validator);
    let cache_mib = validator.number("--cache-size", &args.cache_size, 16u64, 1 << 20);
    let connections = validator.number("--connections", &args.connections, 16, 1 << 20);
    let http_idle_timeout = validator.number("--http-idle-timeout", &args.http_idle_timeout, 20.0, 3600.0);
    let drain_timeout = validator.number("--drain-timeout", &args.drain_timeout, 0.0, 3600.0);
    let trusted_proxies = networks(args.trusted_proxies.as_deref().unwrap_or_default(), &mut validator);
    if args.proxy_protocol && trusted_proxies.is_empty() {
        validator.reject("--proxy-protocol", "", NEEDS_PROXIES);
    }
    check_log_format(&args.log_format, &mut validator);
    let all = (|| {
        Some(EdgeConfig {
            http_listen: http_listen?,
            tls: identity.map(|identity| TlsConfig {
                rtmps_listen: None,
                https_listen: https_listen.flatten(),
                identity: Arc::new(identity),
            }),
            admin_listen: admin_listen?,
            output: location,
            encoders,
            secret,
            viewer_access,
            cache_bytes: cache_mib? << 20,
            connections: connections?,
            http_idle_timeout: Duration::from_secs_f64(http_idle_timeout?),
            drain_timeout: Duration::from_secs_f64(drain_timeout?),
            trusted_proxies,
            proxy_protocol: args.proxy_protocol,
        })
    })();
    match all {
        Some(config) if validator.bad.is_empty() => Ok(config),
        _ => Err(validator.bad),
    }
}

impl EdgesConfig {
    /// What the encoder leaves in the records of its streams. `http` is the address of its HTTP listener.
    pub(crate) fn advertised(&self, http: SocketAddr) -> Option<Advertised> {
        let ((ip, port), secret) = (self.advertise?, self.access.secret.clone()?);
        Some(Advertised { address: SocketAddr::new(ip, port.unwrap_or_else(|| http.port())), secret })
    }
}

/// The settings of `serve` that are about edges.
pub(super) fn edges(args: &ServeArgs, validator: &mut Validator) -> EdgesConfig {
    const ADVERTISE: &str = "--advertise";
    let secret = secret(args.shared.edge_secret.as_ref(), validator);
    let advertise = given(&args.advertise).and_then(|text| {
        let with_port = text.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
        let parsed = with_port.or_else(|_| text.parse::<IpAddr>().map(|address| (address, None)));
        let usable = |address: &(IpAddr, Option<u16>)| !address.0.is_unspecified() && address.1 != Some(0);
        let problem = "must be this encoder's address, as in 10.0.0.7 or 10.0.0.7:8080";
        let address = validator.take(ADVERTISE, text, parsed.ok().filter(usable).ok_or(problem));
        if args.shared.edge_secret.is_none() {
            validator.reject(
                ADVERTISE,
                text,
                "needs --edge-secret: the address is sealed, because viewers may read the store",
            );
        }
        address
    });
    let edges_alone = match args.origin_for.as_str() {
        "everyone" => false,
        "edges" => {
            if args.shared.edge_secret.is_none() {
                validator.reject(
                    "--origin-for",
                    "edges",
                    "needs --edge-secret, by which edges are recognised",
                );
            }
            true
        }
        other => {
            validator.reject("--origin-for", other, "must be everyone or edges");
            false
        }
    };
    EdgesConfig { advertise, access: EdgeAccess { secret, edges_alone, ..EdgeAccess::default() } }
}

/// Who may watch at an edge.
fn viewer_access(args: &EdgeArgs, validator: &mut Validator) -> ViewerAccess {
    const SECRET: &str = "--viewer-secret";
    const HOOK: &str = "--viewer-hook";
    const HOOK_SECRET: &str = "--viewer-hook-secret";
    let hook_secret = webhook_secret(HOOK_SECRET, args.viewer_hook_secret.as_deref(), validator);
    if let (Some(file), None) = (given(&args.viewer_hook_secret), given(&args.viewer_hook)) {
        validator.reject(HOOK_SECRET, file, "is not used without --viewer-hook");
    }
    match (given(&args.viewer_secret), given(&args.viewer_hook)) {
        (None, None) => ViewerAccess::Everybody,
        (Some(_), Some(_)) => {
            // The URL may contain a password.
            validator.reject(HOOK, "", "is given beside --viewer-secret: give one of them");
            ViewerAccess::Everybody
        }
        (Some(file), None) => {
            let text = validator.take(SECRET, file, std::fs::read_to_string(file));
            let secret = text.and_then(|text| validator.take(SECRET, file, PassSecret::parse(&text)));
            // Without a secret a mistake was reported, and the edge does not start.
            secret.map_or(ViewerAccess::Everybody, ViewerAccess::Secret)
        }
        (None, Some(url)) => match Url::parse(&web_url(HOOK, url, validator)) {
            Ok(url) => ViewerAccess::Hook(PassHookConfig { url, secret: hook_secret }.into()),
            Err(_) => ViewerAccess::Everybody,
        },
    }
}

fn secret(file: Option<&String>, validator: &mut Validator) -> Option<EdgeSecret> {
    const FLAG: &str = "--edge-secret";
    let file = file.filter(|file| !file.is_empty())?;
    let text = validator.take(FLAG, file, std::fs::read_to_string(file))?;
    validator.take(FLAG, file, EdgeSecret::parse(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::{Cli, Command};
    use crate::config::{serve, tests::args};
    use clap::Parser;

    fn judged(more: &[&str]) -> Result<EdgeConfig, Vec<BadSetting>> {
        let all = ["encoder", "edge"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Edge(args) => edge(&args),
            _ => unreachable!("`edge` was given"),
        }
    }

    fn flags<T: std::fmt::Debug>(result: Result<T, Vec<BadSetting>>) -> Vec<&'static str> {
        result.unwrap_err().iter().map(|bad| bad.flag).collect()
    }

    #[test]
    fn an_edge_needs_to_know_where_streams_are() {
        assert_eq!(flags(judged(&[])), ["--output"]);
        let config = judged(&["--encoders=origin:8080"]).unwrap();
        assert_eq!((config.encoders.len(), config.cache_bytes, config.output), (1, 512 << 20, None));
        let config = judged(&["--output=/srv/media", "--cache-size=64"]).unwrap();
        assert_eq!((config.cache_bytes, config.output), (64 << 20, Some(Location::directory("/srv/media"))));
        let bad =
            judged(&["--encoders=a", "--cache-size=1", "--edge-secret=/none", "--https-listen=0.0.0.0:1"]);
        let expected = ["--https-listen", "--https-listen", "--encoders", "--edge-secret", "--cache-size"];
        assert_eq!(flags(bad), expected);
    }

    #[test]
    fn everybody_may_watch_unless_a_secret_or_a_back_end_says_who() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a secret of twenty-four characters\n").unwrap();
        let [secret, signing] = ["--viewer-secret", "--viewer-hook-secret"]
            .map(|flag| format!("{flag}={}", file.path().display()));
        let judged = |more: &[&str]| judged(&[&["--encoders=origin:80"], more].concat());
        let access = |more: &[&str]| judged(more).unwrap().viewer_access;
        let hook = "--viewer-hook=http://user:p4ss@example.org/view";
        assert!(matches!(access(&[]), ViewerAccess::Everybody));
        assert!(matches!(access(&["--viewer-secret=", "--viewer-hook="]), ViewerAccess::Everybody));
        assert!(matches!(access(&[&secret]), ViewerAccess::Secret(_)));
        assert!(matches!(access(&[hook]), ViewerAccess::Hook(hook) if hook.secret.is_none()));
        let signed = access(&[hook, &signing]);
        assert!(matches!(&signed, ViewerAccess::Hook(hook) if hook.secret.is_some()));
        let shown = format!("{signed:?} {:?}", access(&[&secret]));
        assert!(!shown.contains("p4ss") && !shown.contains("twenty"), "{shown}");
        assert_eq!(flags(judged(&[&secret, hook])), ["--viewer-hook"], "one of them");
        assert_eq!(flags(judged(&[&signing])), ["--viewer-hook-secret"]);
        assert_eq!(flags(judged(&["--viewer-hook=example.org"])), ["--viewer-hook"]);
        assert_eq!(flags(judged(&["--viewer-secret=/none"])), ["--viewer-secret"]);
        std::fs::write(file.path(), "short\n").unwrap();
        assert_eq!(flags(judged(&[&secret])), ["--viewer-secret"]);
    }

    #[test]
    fn an_encoder_advertises_an_address_and_seals_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a secret of some length\n").unwrap();
        let secret = format!("--edge-secret={}", file.path().display());
        let advertised = |text: &str| {
            let config = serve(&args(&[&secret, &format!("--advertise={text}")]))?;
            let http = "0.0.0.0:8080".parse().unwrap();
            Ok::<_, Vec<BadSetting>>(config.edges.advertised(http).unwrap().address.to_string())
        };
        assert_eq!(advertised("10.0.0.7").unwrap(), "10.0.0.7:8080");
        assert_eq!(advertised("2001:db8::7").unwrap(), "[2001:db8::7]:8080");
        assert_eq!(advertised("10.0.0.7:81").unwrap(), "10.0.0.7:81");
        for bad in ["0.0.0.0", "encoder-7", "10.0.0.7:0"] {
            assert_eq!(flags(advertised(bad)), ["--advertise"], "{bad}");
        }
        assert_eq!(flags(serve(&args(&["--advertise=10.0.0.7"]))), ["--advertise"], "without a secret");
        assert_eq!(flags(serve(&args(&["--origin-for=edges"]))), ["--origin-for"]);
        assert_eq!(flags(serve(&args(&["--origin-for=nobody"]))), ["--origin-for"]);
        let config = serve(&args(&[&secret, "--origin-for=edges"])).unwrap();
        assert!(config.edges.access.edges_alone && config.edges.advertise.is_none());
    }
}
