//! Validates settings: takes text from [`crate::config::cli`] and returns typed values or *all* mistakes. No port is
//! bound here, and the only files read are those that settings name: certificates and keys.

pub(crate) mod cli;
pub(crate) mod edge;
pub(crate) mod file;
pub(crate) mod input;

use crate::archive;
use crate::config::cli::{
    ArchiveArgs, BucketArgs, EncodingArgs, InspectArgs, LobbyArgs, PublisherArgs, ServeArgs, TlsArgs,
    TranscodeArgs,
};
use crate::config::edge::EdgesConfig;
use crate::config::input::Input;
use crate::fleet::Engine;
use crate::identity::FollowedFile;
use crate::ingest::ReconnectRequest;
use crate::ingest::tls::{self, Identity};
use crate::origin::StreamPath;
use crate::stream::StreamSettings;
use crate::stream::ladder::Ladder;
use crate::stream::latency::{Bounds, Latencies, video_settings};
use crate::stream::registry::WhenFull;
use admission::keys::KeyTable;
use admission::signature::WebhookSecret;
use admission::token::KeySet;
use hls::timing::Latency;
use hls::{RungName, Timing};
use ipnet::IpNet;
use reqwest::Url;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use store::Location;
use transcode::confine::{ConfineOptions, SandboxMode};

/// The x264 presets that make sense for live encoding, fastest first.
const PRESETS: [&str; 9] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"];
/// What is kept of a broadcast by default.
pub(crate) const DEFAULT_ARCHIVE: &str = "hls,mp4";
/// Interval between thumbnails for the player page, in milliseconds.
const THUMBNAIL_EVERY_MS: u32 = 4_000;
/// What the largest picture that is allowed may have, in pixels.
pub(crate) const PIXELS: RangeInclusive<u64> = 256..=8192 * 8192;
/// How long the lobby uses a back end's last answer while the back end is down: the default reconnect window.
const LOBBY_HOOK_CACHE: Duration = Duration::from_secs(30);

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line, with the field names that Google Cloud Logging knows.
    Json,
}

/// The validated settings of `serve`.
#[derive(Clone, Debug)]
pub(crate) struct ServeConfig {
    /// Address of the RTMP listener.
    pub rtmp_listen: SocketAddr,
    /// Address of the public HTTP listener.
    pub http_listen: SocketAddr,
    /// The listeners with TLS, if there are any.
    pub tls: Option<TlsConfig>,
    /// Address of the internal HTTP listener.
    pub admin_listen: SocketAddr,
    /// Who may publish.
    pub publishers: PublisherConfig,
    /// What one publisher may cost.
    #[allow(dead_code)]
    pub publish_limits: PublishLimits,
    /// How long an idle connection of a viewer is kept.
    pub http_idle_timeout: Duration,
    /// Who may change something through the admin port.
    pub admin_access: AdminAccess,
    /// What is done about edges.
    pub edges: EdgesConfig,
    /// Who is told what happens to streams.
    pub events: Option<EventsConfig>,
    /// The location of the store.
    pub output: Location,
    /// The archive settings; `None` if no archive is kept.
    pub archive: Option<archive::ArchiveSettings>,
    /// The number of concurrent streams.
    pub capacity: NonZeroU32,
    /// The number of streams after which liveness fails; `None` means never.
    pub recycle_after: Option<NonZeroU32>,
    /// How publishers beyond the capacity are refused.
    pub when_full: WhenFull,
    /// The system that places encoders.
    pub fleet: Engine,
    /// The time without a byte after which a publisher counts as gone.
    pub publish_timeout: Duration,
    /// Time for running streams to end after SIGTERM.
    pub drain_timeout: Duration,
    /// Where publishers that connect anew when they are asked to go at the beginning of a drain.
    pub drain_reconnect: DrainReconnect,
    /// The encoding settings of streams, at the default latency.
    pub stream: StreamSettings,
    /// The latency settings of all streams.
    pub latencies: Latencies,
    /// How workers are confined.
    pub workers: ConfineOptions,
    /// The spool's folder on a local disk, for segments that the store accepts too slowly, and its size in bytes for
    /// all streams together.
    pub spool: Option<(PathBuf, u64)>,
}

/// The validated settings of `lobby`.
#[derive(Clone, Debug)]
pub(crate) struct LobbyConfig {
    /// Address of the RTMP listener.
    pub rtmp_listen: SocketAddr,
    /// Address of the internal HTTP listener.
    pub admin_listen: SocketAddr,
    /// The encoders' admin ports as `HOST:PORT`; empty if the load balancer itself decides when to use the lobby.
    pub encoders: Vec<String>,
    /// Who may publish.
    pub publishers: PublisherConfig,
}

/// The validated settings of `archive seal`.
#[derive(Clone, Debug)]
pub(crate) struct SealConfig {
    /// The location of the store.
    pub output: Location,
    /// The stream in the store, `{app}/{name}`.
    pub stream: StreamPath,
    /// Who is told that an archive is complete.
    pub events: Option<EventsConfig>,
}

/// Who may publish: the sources of identity, in the order in which they are asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublisherConfig {
    /// The file with stream keys.
    pub keys: Option<Arc<FollowedFile<KeyTable>>>,
    /// The key set that verifies tokens.
    pub jwks: Option<JwksLocation>,
    /// The back end that is asked.
    pub hook: Option<HookConfig>,
    /// Whether the listeners for publishers are open to everybody although no source is given.
    pub anyone: bool,
    /// Whether a listener that was meant for every address listens on this machine's own, because no source is given.
    pub narrowed: bool,
    /// The proxies whose connections begin with a PROXY protocol header; `None` without that protocol.
    #[allow(dead_code)]
    pub trusted_proxies: Option<Vec<IpNet>>,
}

/// What an operator must know about who can publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublisherReach {
    /// Sources of identity decide, or the operator named this machine's addresses.
    AsConfigured,
    /// Only this machine can publish, because no source of identity is given.
    ThisMachine,
    /// Everybody who reaches a listener can publish under any name.
    Everybody,
}

/// Where a JSON Web Key Set is.
#[derive(Clone)]
pub(crate) enum JwksLocation {
    /// An `http` or `https` URL.
    Url(Url),
    /// A file.
    File(Arc<FollowedFile<KeySet>>),
}

impl fmt::Debug for JwksLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The URL may contain a password.
            Self::Url(url) => f.debug_tuple("Url").field(&url.host_str()).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
        }
    }
}

/// A back end that is asked about each publisher. `Debug` does not show the URL, which may contain a password.
#[derive(Clone)]
pub(crate) struct HookConfig {
    /// An `http` or `https` URL.
    pub url: Url,
    /// What the back end is sent.
    pub format: HookFormat,
    /// Signs the requests.
    pub secret: Option<WebhookSecret>,
    /// How long an answer counts while the back end is down.
    pub cache: Duration,
}

impl fmt::Debug for HookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookConfig").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// What a back end is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HookFormat {
    /// JSON with MediaMTX's names.
    Json,
    /// The form of nginx-rtmp's `on_publish`.
    Form,
}

/// What one publisher may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PublishLimits {
    /// Most bits per second over ten seconds.
    pub bits_per_second: u64,
    /// Longest broadcast.
    pub duration: Duration,
}

/// Who may change something through the admin port.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdminAccess {
    /// The secret that writes must carry unless they come from this machine; `None`: only this machine may write.
    pub token: Option<AdminToken>,
    /// Names under which the port may be asked, besides addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// A secret that requests to the admin port carry. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AdminToken(String);

impl AdminToken {
    /// The secret, for the check of requests.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// Who is told what happens to streams.
#[derive(Clone, Debug)]
pub(crate) struct EventsConfig {
    /// An `http` or `https` URL.
    pub url: String,
    /// Signs the requests.
    pub secret: Option<WebhookSecret>,
}

/// The listeners with TLS, at least one of the two, and their certificate.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfig {
    /// Address of the RTMPS listener.
    pub rtmps_listen: Option<SocketAddr>,
    /// Address of the public HTTPS listener.
    pub https_listen: Option<SocketAddr>,
    /// The certificate and its key, which belong together.
    pub identity: Arc<Identity>,
}

/// One invalid setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadSetting {
    /// The flag.
    pub flag: &'static str,
    /// The value given.
    pub value: String,
    /// The problem with the value.
    pub problem: String,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.flag, self.value, self.problem)
    }
}

/// Collects invalid settings, so that one run reports all of them.
#[derive(Default)]
struct Validator {
    bad: Vec<BadSetting>,
}

impl Validator {
    fn reject(&mut self, flag: &'static str, value: &str, problem: impl fmt::Display) {
        self.bad.push(BadSetting { flag, value: value.to_owned(), problem: problem.to_string() });
    }

    fn take<T, E: fmt::Display>(
        &mut self,
        flag: &'static str,
        value: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|problem| self.reject(flag, value, problem)).ok()
    }

    fn number<T>(&mut self, flag: &'static str, value: &str, least: T, most: T) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        match value.trim().parse::<T>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                self.reject(flag, value, format!("must be a number from {least} to {most}"));
                None
            }
        }
    }

    fn address(&mut self, flag: &'static str, value: &str) -> Option<SocketAddr> {
        let problem = "must be an address and a port, as in 0.0.0.0:1935 or [::]:1935";
        self.take(flag, value, value.parse::<SocketAddr>().map_err(|_| problem))
    }
}

/// Where publishers are asked to connect anew when the encoder drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DrainReconnect {
    /// Nowhere: every publisher finishes here.
    Off,
    /// At the address of their URL, where a balancer knows another encoder.
    Same,
    /// At this address, `rtmp://HOST[:PORT]`, in the same application.
    To(String),
}

impl DrainReconnect {
    fn parse(value: &str) -> Result<Self, &'static str> {
        match value {
            "off" => return Ok(Self::Off),
            "same" => return Ok(Self::Same),
            _ => {}
        }
        let address = value.trim_end_matches('/');
        let host = address.strip_prefix("rtmp://").or_else(|| address.strip_prefix("rtmps://"));
        let is_host = |host: &str| {
            !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/@?#".contains(c))
        };
        match host.filter(|host| is_host(host)) {
            Some(_) => Ok(Self::To(address.to_owned())),
            None => Err(
                "must be same, off, or an address as in rtmp://live.example.org:1935, without an application",
            ),
        }
    }

    /// What a publisher of an application is asked; `None` if it is not asked.
    pub(crate) fn request(&self, app: &str) -> Option<ReconnectRequest> {
        match self {
            Self::Off => None,
            Self::Same => Some(ReconnectRequest { tc_url: None }),
            Self::To(address) => Some(ReconnectRequest { tc_url: Some(format!("{address}/{app}")) }),
        }
    }
}

/// Validates the settings of `serve`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn serve(args: &ServeArgs) -> Result<ServeConfig, Vec<BadSetting>> {
    let mut validator = Validator { bad: args.config_complaints.clone() };
    let reconnect_window = validator.number("--reconnect-window", &args.reconnect_window, 0.0, 3600.0);
    let reconnect_window = Duration::from_secs_f64(reconnect_window.unwrap_or(0.0));
    let mut publishers = publishers(&args.publishers, reconnect_window, &mut validator);
    let rtmp_listen = validator.address("--rtmp-listen", &args.rtmp_listen);
    let rtmp_listen = rtmp_listen.and_then(|at| publishers.restricted("--rtmp-listen", at, &mut validator));
    let http_listen = validator.address("--http-listen", &args.http_listen);
    let admin_listen = validator.address("--admin-listen", &args.admin_listen);
    let rtmps_listen = args.rtmps_listen.as_ref().map(|value| {
        let at = validator.address("--rtmps-listen", value)?;
        publishers.restricted("--rtmps-listen", at, &mut validator)
    });
    let https_listen = args.https_listen.as_ref().map(|value| validator.address("--https-listen", value));
    let listeners = [
        ("--rtmp-listen", rtmp_listen),
        ("--rtmps-listen", rtmps_listen.flatten()),
        ("--http-listen", http_listen),
        ("--https-listen", https_listen.flatten()),
        ("--admin-listen", admin_listen),
    ];
    for (index, (flag, address)) in listeners.iter().enumerate() {
        if let Some(address) = address
            && address.port() != 0
            && listeners[..index].iter().any(|(_, other)| other.as_ref() == Some(address))
        {
            validator.reject(flag, &address.to_string(), "is taken by another of these listeners");
        }
    }
    let output = output(&args.output, args.gcs_endpoint.as_deref(), &mut validator);
    let spool_mib = validator.number("--spool-size", &args.spool_size, 1u64, 1 << 30);
    let archive = archive_settings(&args.archive, args.archive_rung.as_deref());
    let archive = archive.map_err(|bad| validator.bad.extend(bad)).ok();
    let tls_listeners = [("--https-listen", &args.https_listen), ("--rtmps-listen", &args.rtmps_listen)];
    let identity = identity(&tls_listeners, &args.tls, &mut validator);
    let edges = edge::edges(args, &mut validator);
    let capacity = validator.number("--capacity", &args.capacity, 1, 1000);
    let recycle_after = validator.number("--recycle-after", &args.recycle_after, 0, 1_000_000);
    let publish_timeout = validator.number("--publish-timeout", &args.publish_timeout, 1.0, 600.0);
    let drain_timeout = validator.number("--drain-timeout", &args.drain_timeout, 0.0, 604_800.0);
    let drain_reconnect = DrainReconnect::parse(&args.drain_reconnect);
    let drain_reconnect = validator.take("--drain-reconnect", &args.drain_reconnect, drain_reconnect);
    let when_full = match args.when_full.as_str() {
        "tell" => Some(WhenFull::Tell),
        "refuse" => Some(WhenFull::Refuse),
        other => {
            validator.reject("--when-full", other, "must be tell or refuse");
            None
        }
    };
    let fleet = match args.fleet.as_str() {
        "none" => Some(Engine::None),
        "agones" => validator.take("--fleet", "agones", Engine::agones_from_env()),
        other => {
            validator.reject("--fleet", other, "must be none or agones");
            None
        }
    };
    check_log_format(&args.log_format, &mut validator);
    let latencies = latencies(args, &mut validator);
    let default_latency = latencies.as_ref().map(|latencies| latencies.default);
    let max_bitrate = validator.number("--max-bitrate", &args.max_bitrate, 0.1, 1000.0);
    let max_duration = validator.number("--max-duration", &args.max_duration, 1.0, 31_536_000.0);
    let http_idle_timeout = validator.number("--http-idle-timeout", &args.http_idle_timeout, 20.0, 3600.0);
    let admin_access = admin_access(args, &mut validator);
    let (url, secret) = (given(&args.events), given(&args.events_secret));
    let events = events(url.map(String::as_str), secret.map(String::as_str), &mut validator);
    let stream = encoding(&args.encoding, default_latency, reconnect_window, &mut validator);
    let all = (|| {
        let (stream, workers) = stream?;
        Some(ServeConfig {
            rtmp_listen: rtmp_listen?,
            http_listen: http_listen?,
            tls: identity.map(|identity| TlsConfig {
                rtmps_listen: rtmps_listen.flatten(),
                https_listen: https_listen.flatten(),
                identity: Arc::new(identity),
            }),
            admin_listen: admin_listen?,
            publishers,
            publish_limits: PublishLimits {
                bits_per_second: (max_bitrate? * 1e6) as u64,
                duration: Duration::from_secs_f64(max_duration?),
            },
            http_idle_timeout: Duration::from_secs_f64(http_idle_timeout?),
            edges,
            admin_access,
            events,
            output: output?,
            archive: archive?,
            capacity: NonZeroU32::new(capacity?)?,
            recycle_after: NonZeroU32::new(recycle_after?),
            when_full: when_full?,
            fleet: fleet?,
            publish_timeout: Duration::from_secs_f64(publish_timeout?),
            drain_timeout: Duration::from_secs_f64(drain_timeout?),
            drain_reconnect: drain_reconnect?,
            stream,
            latencies: latencies?,
            workers,
            spool: args.spool.as_ref().map(PathBuf::from).zip(spool_mib.map(|mib| mib << 20)),
        })
    })();
    match all {
        Some(config) if validator.bad.is_empty() => Ok(config),
        _ => Err(validator.bad),
    }
}

/// Validates the settings of `lobby`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn lobby(args: &LobbyArgs) -> Result<LobbyConfig, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let mut publishers = publishers(&args.publishers, LOBBY_HOOK_CACHE, &mut validator);
    let rtmp_listen = validator.address("--rtmp-listen", &args.rtmp_listen);
    let rtmp_listen = rtmp_listen.and_then(|at| publishers.restricted("--rtmp-listen", at, &mut validator));
    let admin_listen = validator.address("--admin-listen", &args.admin_listen);
    let encoders = encoders(&args.encoders, &mut validator);
    check_log_format(&args.log_format, &mut validator);
    let all = (|| {
        Some(LobbyConfig { rtmp_listen: rtmp_listen?, admin_listen: admin_listen?, encoders, publishers })
    })();
    match all {
        Some(config) if validator.bad.is_empty() => Ok(config),
        _ => Err(validator.bad),
    }
}

/// Encoders as `HOST:PORT`, separated by commas.
fn encoders(given: &str, validator: &mut Validator) -> Vec<String> {
    let encoders: Vec<String> =
        given.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
    for encoder in &encoders {
        let port = encoder.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            validator.reject("--encoders", encoder, "must be a host and a port, as in encoders:9090");
        }
    }
    encoders
}

/// Validates the settings of `bucket check`: the location, and an emulator's URL.
///
/// # Errors
/// All invalid settings.
pub(crate) fn bucket(args: &BucketArgs) -> Result<Location, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let endpoint = gcs_endpoint(args.gcs_endpoint.as_deref(), &mut validator);
    let location = match args.location.strip_prefix("gs://") {
        Some(_) => Location::parse(&args.location, endpoint),
        None => Err("must begin with gs://"),
    };
    match validator.take("bucket", &args.location, location) {
        Some(location) if validator.bad.is_empty() => Ok(location),
        _ => Err(validator.bad),
    }
}

/// Validates the settings of `archive seal`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn archived(args: &ArchiveArgs) -> Result<SealConfig, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let mut parts = args.stream.trim_end_matches('/').rsplitn(3, '/');
    let (name, app) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let place = match parts.next() {
        Some("") => "/",
        Some(place) => place,
        None => ".",
    };
    let stream = StreamPath::new(app, name).ok().filter(|_| !place.ends_with("gs:/"));
    if stream.is_none() {
        validator.reject(
            "seal",
            &args.stream,
            "must end with APP/NAME behind a directory or gs://BUCKET/PREFIX",
        );
    }
    let output = output(place, args.gcs_endpoint.as_deref(), &mut validator);
    let events = events(args.events.as_deref(), args.events_secret.as_deref(), &mut validator);
    match (output, stream) {
        (Some(output), Some(stream)) if validator.bad.is_empty() => Ok(SealConfig { output, stream, events }),
        _ => Err(validator.bad),
    }
}

/// The archive settings that `kinds` (as `--archive`) and `rungs` (as `--archive-rung`) stand for; `None` means that no
/// archive is kept.
///
/// # Errors
/// All invalid settings.
pub(crate) fn archive_settings(
    kinds: &str,
    rungs: Option<&str>,
) -> Result<Option<archive::ArchiveSettings>, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let recordings = rungs.filter(|rungs| !rungs.is_empty()).map(|rungs| {
        let rung = |name: &str| validator.take("--archive-rung", name, RungName::new(name.trim()));
        rungs.split(',').filter_map(rung).collect::<Vec<_>>()
    });
    let mut sorted: Vec<&str> = kinds.split(',').map(str::trim).collect();
    sorted.sort_unstable();
    let defaults = archive::ArchiveSettings::default();
    let settings = match sorted.as_slice() {
        ["none"] => None,
        ["hls"] => Some(archive::ArchiveSettings { mp4: false, ..defaults }),
        ["hls", "mp4"] => Some(archive::ArchiveSettings { recordings, ..defaults }),
        _ => {
            validator.reject("--archive", kinds, "must be hls,mp4 or hls or none");
            None
        }
    };
    if validator.bad.is_empty() { Ok(settings) } else { Err(validator.bad) }
}

/// The sources of identity, and the proxies in front of the listeners.
fn publishers(
    args: &PublisherArgs,
    reconnect_window: Duration,
    validator: &mut Validator,
) -> PublisherConfig {
    let format = match args.publish_hook_format.as_str() {
        "form" => HookFormat::Form,
        "json" => HookFormat::Json,
        other => {
            validator.reject("--publish-hook-format", other, "must be json or form");
            HookFormat::Json
        }
    };
    let seconds = args.publish_hook_cache.as_ref();
    let seconds = seconds.and_then(|text| validator.number("--publish-hook-cache", text, 0.0, 86_400.0));
    let secret = webhook_secret("--publish-hook-secret", args.publish_hook_secret.as_deref(), validator);
    let hook = given(&args.publish_hook).and_then(|url| {
        let url = Url::parse(&web_url("--publish-hook", url, validator)).ok()?;
        let cache = seconds.map_or(reconnect_window, Duration::from_secs_f64);
        Some(HookConfig { url, format, secret, cache })
    });
    let jwks = given(&args.publish_jwks).and_then(|place| match place.contains("://") {
        true => Url::parse(&web_url("--publish-jwks", place, validator)).ok().map(JwksLocation::Url),
        false => {
            validator.take("--publish-jwks", place, FollowedFile::open(place.into())).map(JwksLocation::File)
        }
    });
    let keys = given(&args.publish_keys);
    let keys = keys.and_then(|file| validator.take("--publish-keys", file, FollowedFile::open(file.into())));
    // A source that cannot be used is one mistake, not a second one at every listener.
    let unusable = (given(&args.publish_keys).is_some() && keys.is_none())
        || (given(&args.publish_jwks).is_some() && jwks.is_none())
        || (given(&args.publish_hook).is_some() && hook.is_none());
    PublisherConfig {
        keys,
        jwks,
        hook,
        anyone: args.publish_anyone || unusable,
        narrowed: false,
        trusted_proxies: trusted_proxies(args.proxy_protocol, args.trusted_proxies.as_deref(), validator),
    }
}

/// A setting's text; an empty environment variable counts as not set.
fn given(text: &Option<String>) -> Option<&String> {
    text.as_ref().filter(|text| !text.is_empty())
}

const NEEDS_PROXIES: &str = "needs --trusted-proxies: without it anybody could claim any address";

/// The networks of `--trusted-proxies`.
fn networks(given: &str, validator: &mut Validator) -> Vec<IpNet> {
    let mut network = |text: &str| {
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let problem = "must be addresses or networks, as in 10.0.0.0/8";
        validator.take("--trusted-proxies", text, parsed.map_err(|_| problem))
    };
    given.split(',').map(str::trim).filter(|item| !item.is_empty()).filter_map(&mut network).collect()
}

fn trusted_proxies(
    proxy_protocol: bool,
    given: Option<&str>,
    validator: &mut Validator,
) -> Option<Vec<IpNet>> {
    const FLAG: &str = "--trusted-proxies";
    let given = given.unwrap_or_default();
    let networks = networks(given, validator);
    match (proxy_protocol, given.is_empty()) {
        (true, true) => validator.reject("--proxy-protocol", "", NEEDS_PROXIES),
        (false, false) => validator.reject(FLAG, given, "is not used without --proxy-protocol"),
        (true, false) | (false, true) => {}
    }
    proxy_protocol.then_some(networks)
}

impl PublisherConfig {
    /// Whether no source says who may publish.
    pub(crate) fn has_no_source(&self) -> bool {
        self.keys.is_none() && self.jwks.is_none() && self.hook.is_none()
    }

    /// Who can publish through these listeners.
    pub(crate) fn reach(&self, listeners: &[SocketAddr]) -> PublisherReach {
        if self.narrowed {
            PublisherReach::ThisMachine
        } else if self.has_no_source() && listeners.iter().any(|address| !address.ip().is_loopback()) {
            PublisherReach::Everybody
        } else {
            PublisherReach::AsConfigured
        }
    }

    /// The proxies whose connections begin with a PROXY header, for all listeners to share.
    pub(crate) fn proxies(&self) -> Option<Arc<[IpNet]>> {
        self.trusted_proxies.as_deref().map(Arc::from)
    }

    /// The address that publishers may reach: without a source of identity, only this machine's.
    fn restricted(
        &mut self,
        flag: &'static str,
        address: SocketAddr,
        validator: &mut Validator,
    ) -> Option<SocketAddr> {
        if !self.has_no_source() || self.anyone || address.ip().is_loopback() {
            return Some(address);
        }
        if address.ip().is_unspecified() {
            let loopback: IpAddr = match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            self.narrowed = true;
            return Some(SocketAddr::new(loopback, address.port()));
        }
        validator.reject(
            flag,
            &address.to_string(),
            "would let anybody publish: give --publish-keys, --publish-jwks or --publish-hook, or say \
             --publish-anyone",
        );
        None
    }
}

/// The receiver of events, if one is given.
fn events(url: Option<&str>, secret: Option<&str>, validator: &mut Validator) -> Option<EventsConfig> {
    const FLAG: &str = "--events-secret";
    // An empty environment variable counts as not set.
    let (url, secret) = (url.filter(|url| !url.is_empty()), secret.filter(|file| !file.is_empty()));
    match (url, secret) {
        (None, Some(file)) => {
            validator.reject(FLAG, file, "is not used without --events");
            None
        }
        (url, secret) => url.map(|url| EventsConfig {
            url: web_url("--events", url, validator),
            secret: webhook_secret(FLAG, secret, validator),
        }),
    }
}

/// A URL of another service; a mistake is reported and leaves the text as it is.
fn web_url(flag: &'static str, url: &str, validator: &mut Validator) -> String {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if authority.is_none_or(|authority| authority.trim_start_matches('/').is_empty())
        || Url::parse(url).is_err()
    {
        validator.reject(flag, url, "must be a URL, as in https://example.org/publish");
    }
    url.to_owned()
}

fn webhook_secret(
    flag: &'static str,
    file: Option<&str>,
    validator: &mut Validator,
) -> Option<WebhookSecret> {
    let file = file.filter(|file| !file.is_empty())?;
    let text = validator.take(flag, file, std::fs::read_to_string(file))?;
    validator.take(flag, file, WebhookSecret::parse(&text))
}

fn admin_access(args: &ServeArgs, validator: &mut Validator) -> AdminAccess {
    const LEAST: usize = 16;
    let token = given(&args.admin_token).and_then(|file| {
        let text = validator.take("--admin-token", file, std::fs::read_to_string(file))?;
        let token = text.trim().to_owned();
        if token.len() < LEAST {
            validator.reject("--admin-token", file, format!("holds fewer than {LEAST} characters"));
        }
        Some(AdminToken(token))
    });
    let hosts = args.admin_hosts.as_deref().unwrap_or_default().split(',').map(str::trim);
    AdminAccess { token, hosts: hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect() }
}

/// The log format itself is chosen before the settings are validated; see [`LogFormat`].
fn check_log_format(given: &str, validator: &mut Validator) {
    if !matches!(given, "text" | "json") {
        validator.reject("--log-format", given, "must be text or json");
    }
}

fn output(output: &str, endpoint: Option<&str>, validator: &mut Validator) -> Option<Location> {
    let endpoint = gcs_endpoint(endpoint, validator);
    let shown = if output.is_empty() { "''" } else { output };
    validator.take("--output", shown, Location::parse(output, endpoint))
}

fn gcs_endpoint(endpoint: Option<&str>, validator: &mut Validator) -> Option<String> {
    // An empty environment variable counts as not set.
    let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty())?;
    let authority = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    if authority.is_none_or(|authority| authority.trim_end_matches('/').is_empty()) {
        validator.reject("--gcs-endpoint", endpoint, "must be a URL, as in http://127.0.0.1:9000");
    }
    Some(endpoint.trim_end_matches('/').to_owned())
}

/// Certificate and key, if both are given and valid. Rejects settings that give listeners without files or files
/// without listeners.
fn identity(
    listeners: &[(&'static str, &Option<String>)],
    args: &TlsArgs,
    validator: &mut Validator,
) -> Option<Identity> {
    let TlsArgs { tls_cert: cert, tls_key: key } = args;
    let listener = listeners.iter().find_map(|(flag, value)| value.as_ref().map(|value| (*flag, value)));
    for (flag, file) in [("--tls-cert", cert), ("--tls-key", key)] {
        match (listener, file) {
            (Some((listener, address)), None) => {
                validator.reject(listener, address, format!("needs {flag} as well"));
            }
            (None, Some(file)) => {
                let flags: Vec<_> = listeners.iter().map(|(flag, _)| *flag).collect();
                validator.reject(flag, file, format!("is not used without {}", flags.join(" or ")));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    let (cert_file, key_file) = (cert.as_ref()?, key.as_ref()?);
    let chain = validator.take("--tls-cert", cert_file, tls::Chain::read(cert_file.as_ref()));
    let key = validator.take("--tls-key", key_file, tls::Key::read(key_file.as_ref()));
    let identity = Identity::new((cert_file.into(), chain?), (key_file.into(), key?));
    validator.take("--tls-cert", cert_file, identity)
}

fn latencies(args: &ServeArgs, validator: &mut Validator) -> Option<Latencies> {
    let bounds = match &args.latency_bounds {
        Some(value) => validator.take("--latency-bounds", value, value.parse::<Bounds>()).map(Some),
        None => Some(None),
    };
    match Latencies::parse(&args.latency, bounds.flatten()) {
        Ok(latencies) => bounds.map(|_| latencies),
        Err(bad) => {
            for bad in bad {
                validator.reject("--latency", &bad.item, &bad.problem);
            }
            None
        }
    }
}

/// What `transcode` does.
pub(crate) struct TranscodeConfig {
    /// Where media comes from.
    pub input: Input,
    /// The directory for playlists and segments.
    pub output: PathBuf,
    /// Settings of the stream.
    pub settings: StreamSettings,
    /// How the processes that call libav are confined.
    pub workers: ConfineOptions,
}

/// Validates the settings of `transcode`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn transcode(args: &TranscodeArgs) -> Result<TranscodeConfig, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let input = Input::read(&args.input, args.awaited.publish_anyone, &mut validator);
    let latency = validator.take("--latency", &args.latency, args.latency.parse::<Latency>());
    let encoding = encoding(&args.encoding, latency, Duration::ZERO, &mut validator);
    match (input, encoding) {
        (Some(input), Some((settings, workers))) if validator.bad.is_empty() => {
            Ok(TranscodeConfig { input, output: args.output.clone(), settings, workers })
        }
        _ => Err(validator.bad),
    }
}

/// What `inspect` does.
pub(crate) struct InspectConfig {
    /// Where media comes from.
    pub input: Input,
    /// How the report is printed.
    pub print: PrintReport,
    /// Media time after which the inspection ends.
    pub duration: Option<Duration>,
    /// Pixels of the largest coded picture that is accepted from a publisher.
    pub max_pixels: u64,
    /// How the process that reads a file is confined.
    pub sandbox: SandboxMode,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrintReport {
    /// In words: one screen every second on a terminal, and once at the end.
    Words,
    /// As one JSON document at the end.
    Json,
    /// As a line of JSON every second, and one at the end.
    JsonLines,
}

/// Validates the settings of `inspect`.
///
/// # Errors
/// All invalid settings.
pub(crate) fn inspect(args: &InspectArgs) -> Result<InspectConfig, Vec<BadSetting>> {
    let mut validator = Validator::default();
    let input = Input::read(&args.input, args.awaited.publish_anyone, &mut validator);
    let duration = args.duration.as_ref();
    let duration = duration.and_then(|text| validator.number("--duration", text, 0.1, 31_536_000.0));
    let max_pixels = validator.number("--max-pixels", &args.max_pixels, *PIXELS.start(), *PIXELS.end());
    let sandbox = args.worker_sandbox.parse::<SandboxMode>();
    let sandbox = validator.take("--worker-sandbox", &args.worker_sandbox, sandbox);
    let print = match (args.json, args.live) {
        (false, _) => PrintReport::Words,
        (true, false) => PrintReport::Json,
        (true, true) => PrintReport::JsonLines,
    };
    match (input, max_pixels, sandbox) {
        (Some(input), Some(max_pixels), Some(sandbox)) if validator.bad.is_empty() => {
            let duration = duration.map(Duration::from_secs_f64);
            Ok(InspectConfig { input, print, duration, max_pixels, sandbox })
        }
        _ => Err(validator.bad),
    }
}

fn encoding(
    args: &EncodingArgs,
    latency: Option<Latency>,
    reconnect_window: Duration,
    validator: &mut Validator,
) -> Option<(StreamSettings, ConfineOptions)> {
    let ladder = validator.take("--ladder", &args.ladder, args.ladder.parse::<Ladder>());
    let worker_memory = validator.number("--worker-memory", &args.worker_memory, 64u64, 1 << 20);
    let max_pixels = validator.number("--max-pixels", &args.max_pixels, *PIXELS.start(), *PIXELS.end());
    let sandbox = args.worker_sandbox.parse::<SandboxMode>();
    let sandbox = validator.take("--worker-sandbox", &args.worker_sandbox, sandbox);
    if !PRESETS.contains(&args.preset.as_str()) {
        validator.reject("--preset", &args.preset, format!("must be one of {}", PRESETS.join(", ")));
    }
    if !transcode::has_video_encoder(&args.video_encoder) {
        validator.reject(
            "--video-encoder",
            &args.video_encoder,
            "libav on this machine has no such H.264 encoder",
        );
    }
    let timing = Timing::new(latency?);
    let video = video_settings(args.video_encoder.clone(), args.preset.clone(), &timing);
    let settings = StreamSettings {
        ladder: ladder?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        timing,
        video,
        reconnect_window,
        thumbnail_every_ms: THUMBNAIL_EVERY_MS,
        max_pixels: max_pixels?,
        live: true,
    };
    let workers = ConfineOptions {
        mode: sandbox?,
        memory: Some(worker_memory? << 20),
        devices: transcode::needs_devices(&args.video_encoder),
        ..ConfineOptions::default()
    };
    Some((settings, workers))
}

#[cfg(test)]
mod publisher_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cli::{Cli, Command};
    use clap::Parser;

    pub(super) fn args(more: &[&str]) -> ServeArgs {
        let all = ["encoder", "serve"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Serve(args) => *args,
            _ => unreachable!("`serve` was given"),
        }
    }

    #[test]
    fn the_defaults_are_good() {
        let config = serve(&args(&[])).unwrap();
        assert_eq!(config.rtmp_listen.port(), 1935);
        assert_eq!(config.stream.ladder, Ladder::Auto);
        assert_eq!(config.recycle_after, None);
        assert!(config.tls.is_none());
    }

    #[test]
    fn tls_is_all_there_or_not_at_all() {
        let files = tls::tests::Files::new();
        let cert = format!("--tls-cert={}", files.cert.display());
        let key = format!("--tls-key={}", files.key.display());
        let swapped =
            [format!("--tls-cert={}", files.key.display()), format!("--tls-key={}", files.cert.display())];
        let https = "--https-listen=0.0.0.0:443";
        let config = serve(&args(&[&cert, &key, https])).unwrap();
        let tls = config.tls.unwrap();
        assert_eq!((tls.https_listen.unwrap().port(), tls.rtmps_listen), (443, None));

        let flags = |given: &[&str]| -> Vec<_> {
            serve(&args(given)).unwrap_err().iter().map(|bad| bad.flag).collect()
        };
        assert_eq!(flags(&[https]), ["--https-listen", "--https-listen"], "one for each missing file");
        assert_eq!(flags(&["--rtmps-listen=[::]:443", &key]), ["--rtmps-listen"]);
        assert_eq!(flags(&[&cert, &key]), ["--tls-cert", "--tls-key"]);
        assert_eq!(flags(&[https, &swapped[0], &swapped[1]]), ["--tls-cert", "--tls-key"]);
        assert_eq!(flags(&[https, "--tls-cert=/none", "--tls-key=/none"]), ["--tls-cert", "--tls-key"]);
        assert_eq!(flags(&["--http-listen=0.0.0.0:443", https, &cert, &key]), ["--https-listen"]);
        let other = tls::tests::Files::new();
        let told = serve(&args(&[https, &cert, &format!("--tls-key={}", other.key.display())])).unwrap_err();
        assert!(told[0].to_string().ends_with("does not belong to the key in --tls-key"), "{}", told[0]);
    }

    pub(super) fn judged(more: &[&str]) -> Result<LobbyConfig, Vec<BadSetting>> {
        let all = ["encoder", "lobby"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Lobby(args) => lobby(&args),
            _ => unreachable!("`lobby` was given"),
        }
    }

    #[test]
    fn sources_of_identity_are_read_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.toml");
        let flag = format!("--publish-keys={}", file.display());
        std::fs::write(&file, "[[key]]\nkey = \"secretsecret\"\nname = \"camera\"\n").unwrap();
        let config =
            serve(&args(&[&flag, "--publish-hook=http://u:p4ss@h/", "--rtmp-listen=0.0.0.0:1"])).unwrap();
        assert_eq!(config.publishers.keys.as_ref().unwrap().current().len(), 1);
        assert_eq!(config.rtmp_listen.ip(), Ipv4Addr::UNSPECIFIED);
        let shown = format!("{:?}", config.publishers);
        assert!(!shown.contains("secret") && !shown.contains("p4ss"), "{shown}");

        std::fs::write(&file, "[[key]]\nkey = \"secretsecret\"\nname = \"a/b\"\n").unwrap();
        let bad = serve(&args(&[
            &flag,
            "--publish-jwks=/none",
            "--publish-hook=http://[",
            "--rtmp-listen=0.0.0.0:1",
        ]));
        let bad = bad.unwrap_err();
        let mut flags: Vec<_> = bad.iter().map(|bad| bad.flag).collect();
        flags.sort_unstable();
        assert_eq!(flags, ["--publish-hook", "--publish-jwks", "--publish-keys"], "one mistake each");
        let told: Vec<_> = bad.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains("[[key]] number 1: name")), "{told:?}");
        assert!(!told.iter().any(|told| told.contains("secretsecret")), "{told:?}");
    }

    #[test]
    fn a_lobby_takes_names_and_addresses() {
        assert!(judged(&[]).unwrap().encoders.is_empty());
        let config = judged(&["--encoders=encoders.live.svc:9090, 10.0.0.1:9090,[::1]:9090"]).unwrap();
        assert_eq!(config.encoders, ["encoders.live.svc:9090", "10.0.0.1:9090", "[::1]:9090"]);
        let bad = judged(&["--encoders=http://a:9090,b,:9090,c:port", "--rtmp-listen=x"]).unwrap_err();
        assert_eq!(bad.len(), 5, "{bad:?}");
    }

    #[test]
    fn events_go_to_a_url_and_their_secret_is_long_enough() {
        let folder = tempfile::tempdir().unwrap();
        let secret = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            format!("--events-secret={}", file.display())
        };
        let (good, short) = (secret("good", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), secret("short", "x"));
        let url = "--events=https://example.org/events";
        let events = serve(&args(&[url, &good])).unwrap().events.unwrap();
        assert_eq!((events.url.as_str(), events.secret.is_some()), ("https://example.org/events", true));
        assert!(serve(&args(&["--events="])).unwrap().events.is_none(), "an empty variable is not set");
        let flags = |given: &[&str]| -> Vec<_> {
            serve(&args(given)).unwrap_err().iter().map(|bad| bad.flag).collect()
        };
        assert_eq!(flags(&[&good]), ["--events-secret"], "is not used");
        assert_eq!(flags(&["--events=http://[", &short]), ["--events", "--events-secret"]);
    }

    #[test]
    fn an_output_is_a_directory_or_a_bucket() {
        let directory = serve(&args(&["--output=/srv/media"])).unwrap().output;
        assert_eq!(directory, Location::directory("/srv/media"));
        let more = ["--output=gs://live/tv", "--gcs-endpoint=http://127.0.0.1:9/"];
        let bucket = serve(&args(&more)).unwrap().output;
        let endpoint = Some("http://127.0.0.1:9".into());
        assert_eq!(bucket, Location::parse("gs://live/tv", endpoint).unwrap());
        assert_eq!(serve(&args(&["--output=gs://NO"])).unwrap_err()[0].flag, "--output");
    }

    #[test]
    fn every_bad_setting_is_told_at_once() {
        let bad = serve(&args(&[
            "--rtmp-listen=nowhere",
            "--http-listen=0.0.0.0:80",
            "--admin-listen=0.0.0.0:80",
            "--output=s3://x",
            "--gcs-endpoint=localhost",
            "--capacity=0",
            "--recycle-after=-1",
            "--when-full=queue",
            "--fleet=nomad",
            "--reconnect-window=long",
            "--latency=1,live=3,concert=16,a.b=3",
            "--latency-bounds=10-3",
            "--ladder=720",
            "--preset=placebo",
            "--video-encoder=nonesuch",
            "--worker-memory=1",
            "--log-format=xml",
        ]))
        .unwrap_err();
        let flags: Vec<_> = bad.iter().map(|bad| bad.flag).collect();
        for flag in [
            "--rtmp-listen",
            "--admin-listen",
            "--output",
            "--gcs-endpoint",
            "--capacity",
            "--recycle-after",
            "--when-full",
            "--fleet",
            "--reconnect-window",
            "--latency",
            "--latency-bounds",
            "--ladder",
            "--preset",
            "--video-encoder",
            "--worker-memory",
            "--log-format",
        ] {
            assert!(flags.contains(&flag), "{flag} is missing in {flags:?}");
        }
        assert_eq!(flags.iter().filter(|flag| **flag == "--latency").count(), 3, "each application's own");
    }

    #[test]
    fn latencies_are_for_all_or_by_application() {
        let config = serve(&args(&["--latency=live=2.5,concert=10", "--latency-bounds=2-6"])).unwrap();
        assert_eq!(config.stream.timing.latency.as_secs_f64(), 4.0);
        assert_eq!(config.latencies.to_string(), "4,concert=10,live=2.5");
        assert_eq!(config.latencies.bounds, "2-6".parse().ok());
        assert_eq!(serve(&args(&["--latency=3"])).unwrap().stream.timing.latency.as_secs_f64(), 3.0);
    }
}
