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
    Serve(ServeArgs),
    /// Publish a file or a test pattern to an RTMP server, in real time
    Publish(crate::broadcast::PublishArgs),
    /// Encode a file to HLS in a directory, as fast as it goes
    Transcode(TranscodeArgs),
    /// Look at a Cloud Storage bucket
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// One stream's libav process; started by `serve` and `transcode`
    #[command(hide = true)]
    TranscodeWorker,
}

/// What to do with a bucket.
#[derive(Debug, Subcommand)]
pub enum BucketCommand {
    /// Say what about a bucket is wrong for live streams, and print the commands that mend it
    Check(BucketArgs),
}

/// Which bucket.
#[derive(Clone, Debug, Args)]
pub struct BucketArgs {
    /// The place that `--output` will name
    #[arg(value_name = "gs://BUCKET/PREFIX")]
    pub location: String,
    /// A Cloud Storage emulator instead of Google's, asked without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
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
    /// Where operators connect: probes, metrics, status; not for the public
    #[arg(long, env = "ENCODER_ADMIN_LISTEN", value_name = "ADDR:PORT", default_value = "0.0.0.0:9090")]
    pub admin_listen: String,
    /// Where segments and playlists are kept: a directory, or `gs://bucket/prefix` in Cloud Storage
    #[arg(long, env = "ENCODER_OUTPUT", value_name = "DIR|gs://…", default_value = "./media")]
    pub output: String,
    /// A Cloud Storage emulator instead of Google's, asked without credentials
    #[arg(long, env = "ENCODER_GCS_ENDPOINT", value_name = "URL")]
    pub gcs_endpoint: Option<String>,
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
    #[command(flatten)]
    #[allow(missing_docs)]
    pub encoding: EncodingArgs,
}

/// How media is encoded.
#[derive(Clone, Debug, Args)]
pub struct EncodingArgs {
    /// Seconds from the streamer's camera to the viewer's screen, 2 to 15; fractions are fine
    #[arg(long, env = "ENCODER_LATENCY", value_name = "SECONDS", default_value = "4")]
    pub latency: String,
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
