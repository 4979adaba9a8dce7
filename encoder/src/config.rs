//! Settings, judged: text from [`crate::cli`] in, typed values or *all* complaints out. No port is bound and no file
//! touched here.

use crate::cli::{BucketArgs, EncodingArgs, ServeArgs};
use crate::ladder::Ladder;
use crate::store::gcs;
use crate::stream::Settings;
use crate::worker::{Keyframes, VideoSettings};
use hls::Timing;
use hls::timing::Latency;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// x264's presets that make sense live, fastest first.
const PRESETS: [&str; 9] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"];
/// A picture of the stream this often, for the player page.
const THUMBNAIL_EVERY_MS: u32 = 4_000;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, with the field names that Google Cloud Logging knows.
    Json,
}

/// Where segments and playlists are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A directory.
    Directory(PathBuf),
    /// Cloud Storage.
    Bucket {
        /// Where in it.
        location: gcs::Location,
        /// An emulator's URL; `None` is Google's.
        endpoint: Option<String>,
    },
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket { location, .. } => location.fmt(f),
        }
    }
}

/// Settings of `serve`.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// RTMP listener.
    pub rtmp_listen: SocketAddr,
    /// Public HTTP listener.
    pub http_listen: SocketAddr,
    /// Internal HTTP listener.
    pub admin_listen: SocketAddr,
    /// The store.
    pub output: Output,
    /// Streams at once.
    pub capacity: NonZeroU32,
    /// Streams in all before liveness fails; `None` is never.
    pub recycle_after: Option<NonZeroU32>,
    /// Silence after which a publisher counts as gone.
    pub publish_timeout: Duration,
    /// Time for running streams after SIGTERM.
    pub drain_timeout: Duration,
    /// How streams are encoded.
    pub stream: Settings,
    /// Worker's memory bound in bytes.
    pub worker_memory_bytes: u64,
    /// Log lines.
    pub log_format: LogFormat,
}

/// One bad setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    /// The flag.
    pub flag: &'static str,
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.flag, self.value, self.problem)
    }
}

/// Collects complaints so that all are told at once.
#[derive(Default)]
struct Judge {
    bad: Vec<BadSetting>,
}

impl Judge {
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

/// Judges the settings of `serve`.
pub fn serve(args: &ServeArgs) -> Result<ServeConfig, Vec<BadSetting>> {
    let mut judge = Judge::default();
    let rtmp_listen = judge.address("--rtmp-listen", &args.rtmp_listen);
    let http_listen = judge.address("--http-listen", &args.http_listen);
    let admin_listen = judge.address("--admin-listen", &args.admin_listen);
    for (flag, a, b) in [
        ("--http-listen", rtmp_listen, http_listen),
        ("--admin-listen", rtmp_listen, admin_listen),
        ("--admin-listen", http_listen, admin_listen),
    ] {
        if let (Some(a), Some(b)) = (a, b)
            && a == b
            && a.port() != 0
        {
            judge.reject(flag, &b.to_string(), "is taken by another of these listeners");
        }
    }
    let output = output(&args.output, args.gcs_endpoint.as_deref(), &mut judge);
    let capacity = judge.number("--capacity", &args.capacity, 1, 1000);
    let recycle_after = judge.number("--recycle-after", &args.recycle_after, 0, 1_000_000);
    let reconnect_window = judge.number("--reconnect-window", &args.reconnect_window, 0.0, 3600.0);
    let publish_timeout = judge.number("--publish-timeout", &args.publish_timeout, 1.0, 600.0);
    let drain_timeout = judge.number("--drain-timeout", &args.drain_timeout, 0.0, 604_800.0);
    let log_format = match args.log_format.as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        other => {
            judge.reject("--log-format", other, "must be text or json");
            None
        }
    };
    let stream =
        encoding(&args.encoding, Duration::from_secs_f64(reconnect_window.unwrap_or(0.0)), &mut judge);
    let all = (|| {
        let (stream, worker_memory_bytes) = stream?;
        Some(ServeConfig {
            rtmp_listen: rtmp_listen?,
            http_listen: http_listen?,
            admin_listen: admin_listen?,
            output: output?,
            capacity: NonZeroU32::new(capacity?)?,
            recycle_after: NonZeroU32::new(recycle_after?),
            publish_timeout: Duration::from_secs_f64(publish_timeout?),
            drain_timeout: Duration::from_secs_f64(drain_timeout?),
            stream,
            worker_memory_bytes,
            log_format: log_format?,
        })
    })();
    match all {
        Some(config) if judge.bad.is_empty() => Ok(config),
        _ => Err(judge.bad),
    }
}

/// Judges the settings of `bucket check`: where, and an emulator's URL.
pub fn bucket(args: &BucketArgs) -> Result<(gcs::Location, Option<String>), Vec<BadSetting>> {
    let mut judge = Judge::default();
    let endpoint = gcs_endpoint(args.gcs_endpoint.as_deref(), &mut judge);
    match judge.take("bucket", &args.location, args.location.parse()) {
        Some(location) if judge.bad.is_empty() => Ok((location, endpoint)),
        _ => Err(judge.bad),
    }
}

fn output(output: &str, endpoint: Option<&str>, judge: &mut Judge) -> Option<Output> {
    let endpoint = gcs_endpoint(endpoint, judge);
    if output.is_empty() {
        judge.reject("--output", "''", "must name a directory or a bucket");
        return None;
    }
    if output.starts_with("gs://") {
        let location = judge.take("--output", output, output.parse::<gcs::Location>());
        return Some(Output::Bucket { location: location?, endpoint });
    }
    if output.contains("://") {
        judge.reject("--output", output, "must be a directory or gs://BUCKET/PREFIX");
        return None;
    }
    Some(Output::Directory(output.into()))
}

fn gcs_endpoint(endpoint: Option<&str>, judge: &mut Judge) -> Option<String> {
    // An empty environment variable is one that is not set.
    let endpoint = endpoint.filter(|endpoint| !endpoint.is_empty())?;
    let authority = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    if authority.is_none_or(|authority| authority.trim_end_matches('/').is_empty()) {
        judge.reject("--gcs-endpoint", endpoint, "must be a URL, as in http://127.0.0.1:9000");
    }
    Some(endpoint.trim_end_matches('/').to_owned())
}

/// Judges the settings of `transcode`: how to encode, and the worker's memory bound in bytes.
pub fn transcode(args: &EncodingArgs) -> Result<(Settings, u64), Vec<BadSetting>> {
    let mut judge = Judge::default();
    match encoding(args, Duration::ZERO, &mut judge) {
        Some(settings) if judge.bad.is_empty() => Ok(settings),
        _ => Err(judge.bad),
    }
}

fn encoding(args: &EncodingArgs, reconnect_window: Duration, judge: &mut Judge) -> Option<(Settings, u64)> {
    let latency = judge.take("--latency", &args.latency, args.latency.parse::<Latency>());
    let ladder = judge.take("--ladder", &args.ladder, args.ladder.parse::<Ladder>());
    let worker_memory = judge.number("--worker-memory", &args.worker_memory, 64u64, 1 << 20);
    if !PRESETS.contains(&args.preset.as_str()) {
        judge.reject("--preset", &args.preset, format!("must be one of {}", PRESETS.join(", ")));
    }
    if !crate::transcode::has_video_encoder(&args.video_encoder) {
        judge.reject(
            "--video-encoder",
            &args.video_encoder,
            "libav on this machine has no such H.264 encoder",
        );
    }
    let timing = Timing::new(latency?);
    let video = VideoSettings {
        encoder: args.video_encoder.clone(),
        preset: args.preset.clone(),
        keyframes: Keyframes::Grid { ticks_90k: timing.gop.ticks_90k() },
        lookahead_frames: timing.lookahead_frames,
        b_frames: timing.b_frames,
        vbv_ms: timing.vbv_ms,
    };
    let settings = Settings {
        ladder: ladder?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        timing,
        video,
        reconnect_window,
        thumbnail_every_ms: THUMBNAIL_EVERY_MS,
    };
    Some((settings, worker_memory? << 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(more: &[&str]) -> ServeArgs {
        let all = ["encoder", "serve"].iter().chain(more);
        match Cli::try_parse_from(all).unwrap().command {
            Command::Serve(args) => args,
            _ => unreachable!("`serve` was given"),
        }
    }

    #[test]
    fn the_defaults_are_good() {
        let config = serve(&args(&[])).unwrap();
        assert_eq!(config.rtmp_listen.port(), 1935);
        assert_eq!(config.stream.ladder, Ladder::Auto);
        assert_eq!(config.recycle_after, None);
    }

    #[test]
    fn an_output_is_a_directory_or_a_bucket() {
        let directory = serve(&args(&["--output=/srv/media"])).unwrap().output;
        assert_eq!(directory, Output::Directory("/srv/media".into()));
        let more = ["--output=gs://live/tv", "--gcs-endpoint=http://127.0.0.1:9/"];
        let bucket = serve(&args(&more)).unwrap().output;
        let location = "gs://live/tv".parse().unwrap();
        assert_eq!(bucket, Output::Bucket { location, endpoint: Some("http://127.0.0.1:9".into()) });
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
            "--reconnect-window=long",
            "--latency=1",
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
            "--reconnect-window",
            "--latency",
            "--ladder",
            "--preset",
            "--video-encoder",
            "--worker-memory",
            "--log-format",
        ] {
            assert!(flags.contains(&flag), "{flag} is missing in {flags:?}");
        }
    }
}
