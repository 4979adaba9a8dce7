//! The command line as typed: flags, their environment variables, their help. Nothing is judged here but spelling;
//! values are judged in [`crate::config`], all at once.

use clap::{Args, Parser, Subcommand};

/// Live encoder: RTMP in, adaptive-bitrate HLS out.
#[derive(Debug, Parser)]
#[command(name = "encoder", version, about, long_about = None, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the encoder: take RTMP streams, encode them, serve and store them as HLS
    Serve(Box<ServeArgs>),
    /// Publish a file or a test pattern to an RTMP server, in real time
    Publish(crate::broadcast::PublishArgs),
    /// Encode a file to HLS in a directory, as fast as it goes
    Transcode(TranscodeArgs),
    /// One stream's libav process; started by `serve` and `transcode`
    #[command(hide = true)]
    TranscodeWorker,
}

/// Settings of `serve`. All are text here so that every mistake can be told at once.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Where publishers connect (RTMP)
    #[arg(long, env = "ENCODER_RTMP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:1935")]
    pub rtmp_listen: String,
    /// Where viewers connect: HLS and the player page; may be public
    #[arg(long, env = "ENCODER_HTTP_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    pub http_listen: String,
    /// Where publishers connect with TLS (RTMPS)
    #[arg(long, env = "ENCODER_RTMPS_LISTEN", value_name = "ADDR:PORT")]
    pub rtmps_listen: Option<String>,
    /// Where viewers connect with TLS: the same as on --http-listen
    #[arg(long, env = "ENCODER_HTTPS_LISTEN", value_name = "ADDR:PORT")]
    pub https_listen: Option<String>,
    /// Certificates for TLS, the server's own first (PEM); read again when the file changes
    #[arg(long, env = "ENCODER_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Private key of the first certificate (PEM)
    #[arg(long, env = "ENCODER_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Where operators connect: probes, metrics, status; not for the public
    #[arg(long, env = "ENCODER_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:9090")]
    pub admin_listen: String,
    /// Where segments and playlists are kept: a directory
    #[arg(long, env = "ENCODER_OUTPUT", value_name = "DIR", default_value = "./media")]
    pub output: String,
    /// Streams at once; a publisher beyond that is refused
    #[arg(long, env = "ENCODER_CAPACITY", value_name = "N", default_value = "1")]
    pub capacity: String,
    /// After this many streams liveness fails, so that the container is restarted; 0 is never
    #[arg(long, env = "ENCODER_RECYCLE_AFTER", value_name = "N", default_value = "0")]
    pub recycle_after: String,
    /// Seconds that a publisher may be gone before its stream ends
    #[arg(long, env = "ENCODER_RECONNECT_WINDOW", value_name = "SECONDS", default_value = "30")]
    pub reconnect_window: String,
    /// Seconds without a byte after which a publisher counts as gone
    #[arg(long, env = "ENCODER_PUBLISH_TIMEOUT", value_name = "SECONDS", default_value = "30")]
    pub publish_timeout: String,
    /// Seconds that publishers get to end their streams after SIGTERM
    #[arg(long, env = "ENCODER_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "3600")]
    pub drain_timeout: String,
    /// Seconds from the streamer's camera to the viewer's screen, 2 to 15, fractions are fine; by application too:
    /// `4,live=3,concert=10`
    #[arg(long, env = "ENCODER_LATENCY", value_name = "SECONDS", default_value = "4")]
    pub latency: String,
    /// The least and the most that a publisher may ask for with `?latency=5` behind its key; nothing when it is not set
    #[arg(long, env = "ENCODER_LATENCY_BOUNDS", value_name = "MIN-MAX")]
    pub latency_bounds: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub encoding: EncodingArgs,
    /// How log lines look: `text`, or `json` as Google Cloud's structured logging reads it
    #[arg(long, env = "ENCODER_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
}

/// Settings of `transcode`.
#[derive(Clone, Debug, Args)]
pub struct TranscodeArgs {
    /// A media file
    #[arg(value_name = "INPUT")]
    pub input: std::path::PathBuf,
    /// Where the playlists and segments go; made if it is not there
    #[arg(value_name = "OUTDIR")]
    pub output: std::path::PathBuf,
    /// Latency in seconds, 2 to 15, that a live stream with the same segments and keyframes would have
    #[arg(long, env = "ENCODER_LATENCY", value_name = "SECONDS", default_value = "4")]
    pub latency: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub encoding: EncodingArgs,
}

/// How media is encoded.
#[derive(Clone, Debug, Args)]
pub struct EncodingArgs {
    /// `auto`, or rungs by their shorter side: `source,720p@2800k,480p@1400k`; `720p60@4500k` sets a frame rate;
    /// `source` passes the published video through
    #[arg(long, env = "ENCODER_LADDER", value_name = "RUNGS", default_value = "auto")]
    pub ladder: String,
    /// x264 preset, from `ultrafast` to `veryslow`: CPU for quality
    #[arg(long, env = "ENCODER_PRESET", value_name = "PRESET", default_value = "veryfast")]
    pub preset: String,
    /// libav's name of the H.264 encoder
    #[arg(long, env = "ENCODER_VIDEO_ENCODER", value_name = "NAME", default_value = "libx264")]
    pub video_encoder: String,
    /// Mebibytes of memory beyond which a stream's encoding process is killed (live: replaced)
    #[arg(long, env = "ENCODER_WORKER_MEMORY", value_name = "MIB", default_value = "1536")]
    pub worker_memory: String,
}
