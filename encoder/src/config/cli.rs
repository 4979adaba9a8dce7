//! The command line as typed: flags, their environment variables and their help. Values from a configuration file
//! apply where neither a flag nor a variable is set. Only the syntax is checked here; [`crate::config`] validates all
//! values together.

use crate::config::{BadSetting, DEFAULT_ARCHIVE, file};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::Path;
#[cfg(feature = "testing")]
use transcode::confine::Wall;
use transcode::confine::{ConfineOptions, SandboxMode, WorkerTask};
use transcode::demux::{DemuxJob, DemuxOptions, PASSABLE};

/// Live encoder: RTMP in, adaptive-bitrate HLS out.
#[derive(Debug, Parser)]
#[command(name = "encoder", version, about, long_about = None, max_term_width = 100, propagate_version = true)]
pub(crate) struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of `encoder`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the encoder: take RTMP streams, encode them, serve and store them as HLS
    Serve(Box<ServeArgs>),
    /// Answer publishers while all encoders are busy: an RTMP status tells them to try again
    Lobby(LobbyArgs),
    /// Answer viewers for all encoders of a fleet: live from memory, afterwards from the store
    Edge(EdgeArgs),
    /// Publish a file or a test pattern to an RTMP server, in real time
    #[cfg(feature = "publish")]
    Publish(publisher::PublishArgs),
    /// Encode a file, standard input or one publisher to HLS in a directory
    Transcode(TranscodeArgs),
    /// Tell what a publisher sends, and what to change
    Inspect(InspectArgs),
    /// Inspect a Cloud Storage bucket
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Work on the archives of broadcasts
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// One stream's libav process; started by `serve` and `transcode`
    #[command(hide = true)]
    TranscodeWorker(WorkerArgs),
    /// The libav process that demuxes one file, its stdin; started by `transcode`, `inspect` and `publish`
    #[command(hide = true)]
    DemuxWorker(DemuxWorkerArgs),
}

/// How a worker confines itself; set by the supervisor.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArgs {
    /// `strict`, `best-effort` or `off`
    #[arg(long, default_value = "strict")]
    pub sandbox: SandboxMode,
    /// Bytes of writable memory
    #[arg(long)]
    pub memory: Option<u64>,
    /// The encoder needs device files
    #[arg(long)]
    pub devices: bool,
    /// Report as JSON what confines the process, and exit
    #[arg(long)]
    pub report: bool,
    /// Walls to leave out
    #[cfg(feature = "testing")]
    #[arg(long, value_delimiter = ',')]
    pub without: Vec<String>,
}

impl WorkerArgs {
    /// The same as an argument of the worker's function.
    pub(crate) fn options(&self) -> ConfineOptions {
        ConfineOptions {
            mode: self.sandbox,
            task: WorkerTask::Transcode,
            memory: self.memory,
            devices: self.devices,
            #[cfg(feature = "testing")]
            without: self.without.iter().filter_map(|name| Wall::named(name)).collect(),
        }
    }
}

/// What the process that demuxes a file is told; set by the process that starts it.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemuxWorkerArgs {
    /// How the process confines itself
    #[command(flatten)]
    pub worker: WorkerArgs,
    /// Leave the video out
    #[arg(long)]
    pub no_video: bool,
    /// Leave the audio out
    #[arg(long)]
    pub no_audio: bool,
    /// Bits per second of video that is encoded again
    #[arg(long, default_value_t = DemuxOptions::default().bitrate)]
    pub bitrate: u32,
    /// Codecs beside H.264 and AAC that are not encoded again
    #[arg(long = "pass", value_parser = clap::builder::PossibleValuesParser::new(PASSABLE))]
    pub pass: Vec<String>,
    /// The extension of the file's name
    #[arg(long)]
    pub extension: Option<String>,
    /// Look at the packets alone
    #[arg(long)]
    pub survey: bool,
}

impl DemuxWorkerArgs {
    /// The same as arguments of the process's function.
    pub(crate) fn options(self) -> (ConfineOptions, DemuxJob) {
        let confine = ConfineOptions { task: WorkerTask::Demux, ..self.worker.options() };
        let options = DemuxOptions {
            video: !self.no_video,
            audio: !self.no_audio,
            bitrate: self.bitrate,
            pass: self.pass,
        };
        (confine, DemuxJob { options, extension: self.extension, survey: self.survey })
    }
}

/// The commands for a bucket.
#[derive(Debug, Subcommand)]
pub(crate) enum BucketCommand {
    /// Report which settings of a bucket are wrong for live streams, and print the commands that correct them
    Check(BucketArgs),
}

/// The bucket to inspect.
#[derive(Clone, Debug, Args)]
pub(crate) struct BucketArgs {
    /// The location that `--output` will name
    #[arg(value_name = "gs://BUCKET/PREFIX")]
    pub location: String,
    /// The URL of a Cloud Storage emulator to use instead of Google's, without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
}

/// The commands for archives.
#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveCommand {
    /// Complete the archives of a stream whose encoder died: playlists and recordings of everything in the store.
    /// Harmless if nothing is left to do
    Seal(ArchiveArgs),
}

/// The stream whose archives are meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct ArchiveArgs {
    /// The stream, below the location that `--output` named
    #[arg(value_name = "DIR|gs://…/APP/NAME")]
    pub stream: String,
    /// The URL of a Cloud Storage emulator to use instead of Google's, without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
    /// A service that is told of each complete archive (CloudEvents, JSON over HTTP)
    #[arg(long, env = "ENCODER_EVENTS", value_name = "URL")]
    pub events: Option<String>,
    /// The secret that signs events (Standard Webhooks)
    #[arg(long, env = "ENCODER_EVENTS_SECRET", value_name = "FILE")]
    pub events_secret: Option<String>,
}

/// The settings of `serve`. All are text here, so that every mistake can be reported in one run.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// A file with settings in TOML, named like these flags; flags and environment variables override it
    #[arg(long, env = "ENCODER_CONFIG", value_name = "FILE")]
    pub config: Option<String>,
    /// The mistakes found in that file.
    #[arg(skip)]
    pub config_complaints: Vec<BadSetting>,
    /// Where publishers connect (RTMP)
    #[arg(long, env = "ENCODER_RTMP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:1935")]
    pub rtmp_listen: String,
    /// Where viewers connect: HLS and the player page; may be public
    #[arg(long, env = "ENCODER_HTTP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub http_listen: String,
    /// Where publishers connect with TLS (RTMPS)
    #[arg(long, env = "ENCODER_RTMPS_LISTEN", value_name = "ADDR:PORT")]
    pub rtmps_listen: Option<String>,
    /// Where viewers connect with TLS: the same content as on --http-listen
    #[arg(long, env = "ENCODER_HTTPS_LISTEN", value_name = "ADDR:PORT")]
    pub https_listen: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// Where operators connect: probes, metrics, status; not for the public
    #[arg(long, env = "ENCODER_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9090")]
    pub admin_listen: String,
    /// Where segments and playlists are kept: a directory, or `gs://bucket/prefix` in Cloud Storage. Several buckets, with
    /// commas between, share out the streams
    #[arg(long, env = "ENCODER_OUTPUT", value_name = "DIR|gs://…", default_value = "./media")]
    pub output: String,
    /// The URL of a Cloud Storage emulator to use instead of Google's, without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
    /// A folder on a local disk where segments wait when the store is slower than the stream; no spool if not set
    #[arg(long, env = "ENCODER_SPOOL", value_name = "DIR")]
    pub spool: Option<String>,
    /// Size of the spool in mebibytes, for all streams together
    #[arg(long, env = "ENCODER_SPOOL_SIZE", value_name = "MIB", default_value = "4096")]
    pub spool_size: String,
    /// What is kept of a broadcast: `hls,mp4` (playlists of all segments, and a recording), `hls`, or `none`: segments
    /// are removed once they leave the playlist window
    #[arg(long, env = "ENCODER_ARCHIVE", value_name = "WHAT", default_value = DEFAULT_ARCHIVE)]
    pub archive: String,
    /// Rungs to record as MP4, separated by commas; the top rung if not set
    #[arg(long, env = "ENCODER_ARCHIVE_RUNG", value_name = "RUNGS")]
    pub archive_rung: Option<String>,
    /// Concurrent streams; further publishers are refused
    #[arg(long, env = "ENCODER_CAPACITY", value_name = "N", default_value = "1")]
    pub capacity: String,
    /// Number of streams after which liveness fails, once their archives are complete, so that the container is
    /// restarted; 0 means never
    #[arg(long, env = "ENCODER_RECYCLE_AFTER", value_name = "N", default_value = "0")]
    pub recycle_after: String,
    /// Publishers beyond capacity: `tell` them that the encoder is busy, or `refuse` their connections, so that a
    /// balancer tries the next encoder
    #[arg(long, env = "ENCODER_WHEN_FULL", value_name = "HOW", default_value = "tell")]
    pub when_full: String,
    /// The system that places encoders and is told whether this one is free: `none`, or `agones`
    #[arg(long, env = "ENCODER_FLEET", value_name = "ENGINE", default_value = "none")]
    pub fleet: String,
    /// Seconds that a publisher may be disconnected before its stream ends
    #[arg(long, env = "ENCODER_RECONNECT_WINDOW", value_name = "SECONDS", default_value = "30")]
    pub reconnect_window: String,
    /// Seconds without a byte after which a publisher counts as gone
    #[arg(long, env = "ENCODER_PUBLISH_TIMEOUT", value_name = "SECONDS", default_value = "30")]
    pub publish_timeout: String,
    /// Seconds that publishers get to end their streams after SIGTERM; SIGINT ends streams within seconds
    #[arg(long, env = "ENCODER_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "3600")]
    pub drain_timeout: String,
    /// Where publishers that understand it (Enhanced RTMP 2) are asked to connect anew after SIGTERM, so that another
    /// encoder goes on with their streams: `same` address, `off`, or `rtmp://HOST:PORT`
    #[arg(long, env = "ENCODER_DRAIN_RECONNECT", value_name = "WHERE", default_value = "same")]
    pub drain_reconnect: String,
    /// Seconds from the streamer's camera to the viewer's screen, 2 to 15, fractions are fine; by application too:
    /// `4,live=3,concert=10`
    #[arg(long, env = "ENCODER_LATENCY", value_name = "SECONDS", default_value = "4")]
    pub latency: String,
    /// The lowest and highest latency that a publisher may request with `?latency=5` after its key; no requests are
    /// allowed if not set
    #[arg(long, env = "ENCODER_LATENCY_BOUNDS", value_name = "MIN-MAX")]
    pub latency_bounds: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub publishers: PublisherArgs,
    /// Most megabits per second that a publisher may send, over ten seconds
    #[arg(long, env = "ENCODER_MAX_BITRATE", value_name = "MBITS", default_value = "20")]
    pub max_bitrate: String,
    /// Seconds after which a broadcast is ended
    #[arg(long, env = "ENCODER_MAX_DURATION", value_name = "SECONDS", default_value = "86400")]
    pub max_duration: String,
    /// Where edges reach this encoder: its address, and the port if it is not that of --http-listen. Sealed with
    /// --edge-secret, the address is left in the store for edges
    #[arg(long, env = "ENCODER_ADVERTISE", value_name = "IP[:PORT]")]
    pub advertise: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shared: SharedArgs,
    /// Who is answered on the HTTP ports: `everyone`, or `edges` alone, which know the secret
    #[arg(long, env = "ENCODER_ORIGIN_FOR", value_name = "WHOM", default_value = "everyone")]
    pub origin_for: String,
    /// Seconds that an idle connection of a viewer is kept; longer than the proxies in front keep theirs
    #[arg(long, env = "ENCODER_HTTP_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "650")]
    pub http_idle_timeout: String,
    /// A secret that requests which change something on the admin port must carry (`Authorization: Bearer …`); without
    /// it only this machine can change something
    #[arg(long, env = "ENCODER_ADMIN_TOKEN", value_name = "FILE")]
    pub admin_token: Option<String>,
    /// Names under which the admin port may be asked, besides addresses and `localhost`
    #[arg(long, env = "ENCODER_ADMIN_HOSTS", value_name = "NAME,…")]
    pub admin_hosts: Option<String>,
    /// A service that is told what happens to streams (CloudEvents, JSON over HTTP)
    #[arg(long, env = "ENCODER_EVENTS", value_name = "URL")]
    pub events: Option<String>,
    /// The secret that signs events (Standard Webhooks)
    #[arg(long, env = "ENCODER_EVENTS_SECRET", value_name = "FILE")]
    pub events_secret: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub encoding: EncodingArgs,
    /// Format of log lines: `text`, or `json` for Google Cloud's structured logging
    #[arg(long, env = "ENCODER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
}

/// Who may publish: settings of `serve` and of `lobby`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PublisherArgs {
    /// A file with stream keys, the names that they publish and the settings of each (TOML); read again when the file
    /// changes
    #[arg(long, env = "ENCODER_PUBLISH_KEYS", value_name = "FILE")]
    pub publish_keys: Option<String>,
    /// Public keys (a JSON Web Key Set) of a back end whose signed tokens are stream keys
    #[arg(long, env = "ENCODER_PUBLISH_JWKS", value_name = "URL|FILE")]
    pub publish_jwks: Option<String>,
    /// A back end that is asked about each publisher, with one POST
    #[arg(long, env = "ENCODER_PUBLISH_HOOK", value_name = "URL")]
    pub publish_hook: Option<String>,
    /// What the back end is sent: `json` (as MediaMTX does), or `form` (as nginx-rtmp does)
    #[arg(long, env = "ENCODER_PUBLISH_HOOK_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub publish_hook_format: String,
    /// The secret that signs requests to the back end (Standard Webhooks)
    #[arg(long, env = "ENCODER_PUBLISH_HOOK_SECRET", value_name = "FILE")]
    pub publish_hook_secret: Option<String>,
    /// Seconds for which the back end's last answer about a key counts while the back end is down; the reconnect window
    /// if not set
    #[arg(long, env = "ENCODER_PUBLISH_HOOK_CACHE", value_name = "SECONDS")]
    pub publish_hook_cache: Option<String>,
    /// Let anybody publish under any name. Without this and without one of the sources above, only this machine can
    /// publish
    #[arg(long, env = "ENCODER_PUBLISH_ANYONE")]
    pub publish_anyone: bool,
    /// Connections of the trusted proxies begin with a PROXY protocol header (version 1 or 2), for publishers and
    /// viewers
    #[arg(long, env = "ENCODER_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,
    /// Addresses of the proxies whose headers are believed
    #[arg(long, env = "ENCODER_TRUSTED_PROXIES", value_name = "CIDR,…")]
    pub trusted_proxies: Option<String>,
}

/// The certificate of the listeners with TLS: settings of `serve` and of `edge`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TlsArgs {
    /// Certificates for TLS, the server's own first (PEM); read again when the file changes
    #[arg(long, env = "ENCODER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Private key of the first certificate (PEM)
    #[arg(long, env = "ENCODER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<String>,
}

/// What encoders and edges have in common: a setting of `serve` and of `edge`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SharedArgs {
    /// A secret that encoders and edges share: a line of 16 characters at least. Each further line is accepted too, so
    /// that the secret can be changed
    #[arg(long, env = "ENCODER_EDGE_SECRET", value_name = "FILE")]
    pub edge_secret: Option<String>,
}

/// The settings of `lobby`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LobbyArgs {
    /// Where publishers connect (RTMP)
    #[arg(long, env = "ENCODER_RTMP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:1935")]
    pub rtmp_listen: String,
    /// Where operators connect: probes and metrics; not for the public
    #[arg(long, env = "ENCODER_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9090")]
    pub admin_listen: String,
    /// Admin ports of the encoders as `HOST:PORT`, separated by commas; each name stands for all its addresses. Leave
    /// empty if the load balancer itself decides when to use the lobby: then the lobby is always ready
    #[arg(long, env = "ENCODER_LOBBY_ENCODERS", value_name = "HOST:PORT,…", default_value = "")]
    pub encoders: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub publishers: PublisherArgs,
    /// Format of log lines: `text`, or `json` for Google Cloud's structured logging
    #[arg(long, env = "ENCODER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
}

/// The settings of `edge`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EdgeArgs {
    /// Where viewers or a CDN connect
    #[arg(long, env = "ENCODER_HTTP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub http_listen: String,
    /// Where they connect with TLS
    #[arg(long, env = "ENCODER_HTTPS_LISTEN", value_name = "ADDR:PORT")]
    pub https_listen: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub tls: TlsArgs,
    /// Where operators connect: probes, metrics, status; not for the public
    #[arg(long, env = "ENCODER_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:9090")]
    pub admin_listen: String,
    /// The store of the encoders, which is only read: it says where streams are, and has what is no longer live
    #[arg(long, env = "ENCODER_OUTPUT", value_name = "DIR|gs://…")]
    pub output: Option<String>,
    /// The URL of a Cloud Storage emulator to use instead of Google's, without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
    /// HTTP ports of encoders that are asked for their streams, where there is no store in common; a host name stands
    /// for all its addresses
    #[arg(long, env = "ENCODER_ENCODERS", value_name = "HOST:PORT,…")]
    pub encoders: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shared: SharedArgs,
    /// A secret that signs viewers' passes: a line of 16 characters at least, and while it changes further lines, which
    /// count too. Only viewers with a pass may watch, at `/pass/{token}/{app}/{name}/…`; the token is a JSON Web Token
    /// (HS256) with `exp` and `path`. For services without a CDN: each viewer has addresses of its own, which caches do
    /// not share
    #[arg(long, env = "ENCODER_VIEWER_SECRET", value_name = "FILE")]
    pub viewer_secret: Option<String>,
    /// A back end that is asked which viewers may watch, in place of the secret: once a minute for each pass and stream.
    /// The token may be any 1 to 1024 of `A-Z a-z 0-9 - . _ ~`
    #[arg(long, env = "ENCODER_VIEWER_HOOK", value_name = "URL")]
    pub viewer_hook: Option<String>,
    /// The secret that signs requests to that back end (Standard Webhooks)
    #[arg(long, env = "ENCODER_VIEWER_HOOK_SECRET", value_name = "FILE")]
    pub viewer_hook_secret: Option<String>,
    /// Mebibytes of segments and parts that are kept in memory
    #[arg(long, env = "ENCODER_CACHE_SIZE", value_name = "MIB", default_value = "512")]
    pub cache_size: String,
    /// Connections of viewers for each port; twice as many requests may be held
    #[arg(long, env = "ENCODER_CONNECTIONS", value_name = "N", default_value = "20000")]
    pub connections: String,
    /// Seconds that an idle connection is kept; longer than the proxies in front keep theirs
    #[arg(long, env = "ENCODER_HTTP_IDLE_TIMEOUT", value_name = "SECONDS", default_value = "650")]
    pub http_idle_timeout: String,
    /// Seconds that answers in progress get after SIGTERM; SIGINT ends them at once
    #[arg(long, env = "ENCODER_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30")]
    pub drain_timeout: String,
    /// Connections of the trusted proxies begin with a PROXY protocol header (version 1 or 2)
    #[arg(long, env = "ENCODER_PROXY_PROTOCOL")]
    pub proxy_protocol: bool,
    /// Addresses of the proxies whose word about a client's address is believed: in PROXY headers, or without those in
    /// X-Forwarded-For
    #[arg(long, env = "ENCODER_TRUSTED_PROXIES", value_name = "CIDR,…")]
    pub trusted_proxies: Option<String>,
    /// Format of log lines: `text`, or `json` for Google Cloud's structured logging
    #[arg(long, env = "ENCODER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
}

/// The settings of `transcode`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit codes: 0 encoded to its end (an interrupted publisher's stream is complete too), 64 bad settings, \
                  66 the input cannot be read or encoded, 71 a port, the directory or a process failed, 130 \
                  interrupted before a publisher came.\n\n\
                  Examples:\n  \
                  encoder transcode talk.mp4 ./talk\n  \
                  ffmpeg -i talk.mkv -c copy -f mpegts - | encoder transcode - ./talk\n  \
                  encoder transcode rtmp://127.0.0.1:1935/live/test ./test"
)]
pub(crate) struct TranscodeArgs {
    /// The media file to encode, as fast as it goes; `-` for standard input; or `rtmp://HOST[:PORT]/APP/KEY` to listen
    /// there for one publisher with this application and stream key, whose stream is encoded as it comes
    #[arg(value_name = "INPUT")]
    pub input: OsString,
    /// The directory for playlists and segments; created if it does not exist
    #[arg(value_name = "OUTDIR")]
    pub output: std::path::PathBuf,
    /// Seconds of latency, 2 to 15, of a live stream with the same segments and keyframes
    #[arg(long, env = "ENCODER_LATENCY", value_name = "SECONDS", default_value = "4")]
    pub latency: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub awaited: AwaitedArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub encoding: EncodingArgs,
}

/// Who reaches the address at which a publisher is awaited: a setting of `transcode` and of `inspect`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct AwaitedArgs {
    /// Listen at an address that other machines reach, where whoever knows the application and the key may publish
    #[arg(long, env = "ENCODER_PUBLISH_ANYONE")]
    pub publish_anyone: bool,
}

/// The settings of `inspect`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit codes: 0 there is a report, 64 bad settings, 66 the input has no video or audio that can be read, \
                  71 a port or a process failed, 130 interrupted before a publisher came.\n\n\
                  Examples:\n  \
                  encoder inspect rtmp://127.0.0.1:1935/live/test    # then publish there; Ctrl-C ends\n  \
                  encoder inspect --json recording.flv\n  \
                  encoder inspect --json --live --duration 60 rtmp://127.0.0.1/live/test"
)]
pub(crate) struct InspectArgs {
    /// A media file; `-` for standard input; or `rtmp://HOST[:PORT]/APP/KEY` to listen there for one publisher with this
    /// application and stream key
    #[arg(value_name = "INPUT")]
    pub input: OsString,
    /// Print the report as one JSON document, at the end
    #[arg(long)]
    pub json: bool,
    /// With --json: print the report of a publisher as a line of JSON every second as well; the last line is the final
    /// report
    #[arg(long, requires = "json")]
    pub live: bool,
    /// End after this many seconds of media
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub awaited: AwaitedArgs,
    /// Pixels of the largest picture that a publisher may send (width times height, before cropping); the default is
    /// 4096x2304
    #[arg(long, env = "ENCODER_MAX_PIXELS", value_name = "PIXELS", default_value = "9437184")]
    pub max_pixels: String,
    /// How the process is confined that reads a file: `strict`, or it does not start; `best-effort` takes what this
    /// kernel has; `off` reads the file in this process
    #[arg(long, env = "ENCODER_WORKER_SANDBOX", value_name = "MODE", default_value = "strict")]
    pub worker_sandbox: String,
}

/// Settings of the encoding.
#[derive(Clone, Debug, Args)]
pub(crate) struct EncodingArgs {
    /// `auto`, or rungs by their shorter side: `source,720p@2800k,480p@1400k`; `720p60@4500k` sets a frame rate;
    /// `source` passes published H.264 through, `source+hevc+av1` these codecs too, with a rung in H.264 beside them
    #[arg(long, env = "ENCODER_LADDER", value_name = "RUNGS", default_value = "auto")]
    pub ladder: String,
    /// x264 preset, from `ultrafast` to `veryslow`: slower presets trade CPU time for quality
    #[arg(long, env = "ENCODER_PRESET", value_name = "PRESET", default_value = "veryfast")]
    pub preset: String,
    /// libav's name of the H.264 encoder to use
    #[arg(long, env = "ENCODER_VIDEO_ENCODER", value_name = "NAME", default_value = "libx264")]
    pub video_encoder: String,
    /// Mebibytes of memory for all encoding processes of a stream together; one that needs more ends (live: and is
    /// replaced)
    #[arg(long, env = "ENCODER_WORKER_MEMORY", value_name = "MIB", default_value = "1536")]
    pub worker_memory: String,
    /// Pixels of the largest picture that a publisher may send (width times height, before cropping); the default is
    /// 4096x2304. Larger pictures end the publish with a message
    #[arg(long, env = "ENCODER_MAX_PIXELS", value_name = "PIXELS", default_value = "9437184")]
    pub max_pixels: String,
    /// How the encoding process is confined, which decodes what strangers send: `strict`, or it does not start;
    /// `best-effort` takes what this kernel has; `off` trusts every publisher
    #[arg(long, env = "ENCODER_WORKER_SANDBOX", value_name = "MODE", default_value = "strict")]
    pub worker_sandbox: String,
}

impl Cli {
    /// Reads the command line, the environment, and the configuration file that either of them names. Values in the
    /// file become the defaults of their flags.
    ///
    /// # Errors
    /// clap's errors; the output of `--help` and `--version` arrives as an error too.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        let (command, from_file) = with_file(&Self::command().try_get_matches_from(&arguments)?);
        let mut cli = Self::from_arg_matches(&command.try_get_matches_from(&arguments)?)?;
        if let Command::Serve(serve) = &mut cli.command {
            serve.config_complaints = from_file;
        }
        Ok(cli)
    }
}

/// The command with the configuration file's values as defaults, and the mistakes in the file.
fn with_file(matches: &ArgMatches) -> (clap::Command, Vec<BadSetting>) {
    let command = Cli::command();
    let Some(("serve", serve)) = matches.subcommand() else { return (command, Vec::new()) };
    let Some(path) = serve.get_one::<String>("config") else { return (command, Vec::new()) };
    let flags: Vec<String> = serve_flags(&command);
    let file::FromFile { values, bad } = file::read(Path::new(path), |name| flags.iter().any(|f| f == name));
    let command = command.mut_subcommand("serve", |serve| {
        // clap's derive names an argument after its field.
        let with = |serve: clap::Command, (name, value): (String, String)| {
            serve.mut_arg(name.replace('-', "_"), |arg| arg.default_value(value))
        };
        values.into_iter().fold(serve, with)
    });
    (command, bad)
}

/// The names of the flags that a configuration file can set.
fn serve_flags(command: &clap::Command) -> Vec<String> {
    let serve = command.find_subcommand("serve");
    let arguments = serve.into_iter().flat_map(clap::Command::get_arguments);
    let names = arguments.filter_map(|argument| argument.get_long()).filter(|name| *name != "config");
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(arguments: &[&str]) -> ServeArgs {
        let all = ["encoder", "serve"].iter().chain(arguments).map(OsString::from);
        match Cli::read(all).unwrap().command {
            Command::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "capacity = 3\nhttps-listen = '[::]:443'\nlatency = { live = 3 }\npreset = 'fast'\nhelp = true\n";
        std::fs::write(file.path(), text).unwrap();
        let config = format!("--config={}", file.path().display());
        let args = serve(&[&config, "--capacity=5"]);
        assert_eq!((&*args.capacity, &*args.latency, &*args.rtmp_listen), ("5", "live=3", "0.0.0.0:1935"));
        assert_eq!((args.https_listen.as_deref(), &*args.encoding.preset), (Some("[::]:443"), "fast"));
        let names: Vec<_> = args.config_complaints.iter().map(|bad| bad.value.as_str()).collect();
        assert_eq!(names, ["help"]);
        let bad = crate::config::serve(&serve(&[&config, "--ladder=720"])).unwrap_err();
        let flags: Vec<_> = bad.iter().map(|bad| bad.flag).collect();
        assert!(flags.contains(&"--config") && flags.contains(&"--ladder"), "all at once: {flags:?}");
    }

    /// The sample file is the manual: it contains every setting, with its default if there is one.
    #[test]
    fn the_sample_file_has_every_setting_and_its_default() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/encoder.toml");
        let text = std::fs::read_to_string(&sample).unwrap();
        let command = Cli::command();
        let flags = serve_flags(&command);
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .fold(String::new(), |all, line| all + line + "\n");
        let whole = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(whole.path(), &uncommented).unwrap();
        let file::FromFile { values, bad } = file::read(whole.path(), |name| flags.iter().any(|f| f == name));
        assert_eq!(bad, []);
        for flag in &flags {
            assert!(values.iter().any(|(name, _)| name == flag), "{flag} is not in the sample");
        }
        let serve = command.find_subcommand("serve").unwrap();
        for (name, value) in file::read(&sample, |_| true).values {
            let argument = serve.get_arguments().find(|argument| argument.get_long() == Some(&name)).unwrap();
            let takes_no_value = !argument.get_action().takes_values();
            let default =
                if takes_no_value { vec!["false".into()] } else { argument.get_default_values().to_vec() };
            assert_eq!(default, [OsString::from(value)], "{name}");
        }
    }

    /// A secret that is a value of a setting would be in the process's command line and environment.
    #[test]
    fn every_secret_is_in_a_file() {
        let cli = Cli::command();
        let mut secrets = 0;
        for command in cli.get_subcommands().flat_map(|command| command.get_subcommands().chain([command])) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                if ["secret", "token", "key", "keys", "password"]
                    .iter()
                    .any(|word| name.split('_').any(|w| w == *word))
                {
                    let values: Vec<_> =
                        argument.get_value_names().unwrap().iter().map(|name| name.as_str()).collect();
                    assert_eq!(values, ["FILE"], "{} of {}", argument.get_id(), command.get_name());
                    secrets += 1;
                }
            }
        }
        assert!(secrets >= 9, "{secrets}");
    }
}
