//! The command line of `encoder publish`.

use super::PublishSettings;
use super::source::Input;
use media::MediaSpan;
use rtmp::url::{BadUrl, RtmpUrl};
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use transcode::confine::SandboxMode;
use transcode::demux::FileReader;
use transcode::pattern::{FrameRate, PatternSettings};

/// Default video bit rate in bit/s.
const DEFAULT_BITRATE: u32 = 3_000_000;
/// Bytes of writable memory of the process that reads a file: the default of `encoder serve --worker-memory`.
const MAX_FILE_MEMORY: u64 = 1536 << 20;

/// A URL as given, valid or not. Parsing does not fail here: clap would print the text including the key, so the error
/// is reported later and without the key.
#[derive(Clone, Debug)]
pub struct UrlArg(Result<RtmpUrl, BadUrl>);

impl FromStr for UrlArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.parse()))
    }
}

/// Whether media in other codecs than H.264 and AAC is sent as it is, by Enhanced RTMP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EnhancedMode {
    /// Where the server says that it takes the codec.
    #[default]
    Auto,
    /// Whatever the server says.
    Always,
    /// Never: it is encoded to H.264 and AAC.
    Never,
}

/// Publish a file or a test pattern to an RTMP server, in real time
#[derive(Clone, Debug, clap::Args)]
#[command(
    allow_missing_positional = true,
    after_help = "Exit codes: 0 sent to its end, 64 bad settings, 66 bad input, 69 connection lost, \
                  77 refused by the server, 130 interrupted.\n\n\
                  Examples:\n  \
                  encoder publish --test-pattern rtmp://localhost/live/demo\n  \
                  encoder publish --loop film.mp4 rtmp://localhost/live/demo"
)]
pub struct PublishArgs {
    /// Media file to publish. H.264 and AAC are sent as they are, and so are HEVC, AV1, Opus, FLAC, AC-3 and E-AC-3 to
    /// servers that take them by Enhanced RTMP; anything else is encoded first
    #[arg(
        env = "ENCODER_PUBLISH_INPUT",
        required_unless_present = "test_pattern",
        conflicts_with = "test_pattern"
    )]
    pub input: Option<PathBuf>,

    /// Where to publish: rtmp://HOST:PORT/APP/KEY (port 1935 if left out), or rtmps:// inside TLS (port 443 if left out).
    /// The key is never shown
    #[arg(env = "ENCODER_PUBLISH_URL", hide_env_values = true)]
    pub url: UrlArg,

    /// Publish a moving picture with a clock and a beep every second instead of a file
    ///
    /// The clock is UTC, also as blocks for programs to read. Picture and beep mark every second together.
    #[arg(long, env = "ENCODER_PUBLISH_TEST_PATTERN")]
    pub test_pattern: bool,

    /// Start the file again at its end; timestamps continue without a jump
    #[arg(long = "loop", env = "ENCODER_PUBLISH_LOOP")]
    pub looped: bool,

    /// Retry when the connection is lost, or the server is not reachable yet
    ///
    /// The wait between attempts grows from half a second to ten seconds. A key that is refused on the first attempt is
    /// not retried.
    #[arg(long, env = "ENCODER_PUBLISH_RECONNECT")]
    pub reconnect: bool,

    /// Stop after this many seconds of media
    #[arg(long, env = "ENCODER_PUBLISH_DURATION", value_name = "SECONDS", value_parser = parse_seconds)]
    pub duration: Option<Duration>,

    /// Picture size of the test pattern
    #[arg(
        long, env = "ENCODER_PUBLISH_SIZE", value_name = "WIDTHxHEIGHT", default_value = "1280x720",
        value_parser = parse_size
    )]
    pub size: (u16, u16),

    /// Frames per second of the test pattern: 30, 29.97 or 30000/1001
    #[arg(
        long, env = "ENCODER_PUBLISH_FRAME_RATE", value_name = "FPS", default_value = "30",
        value_parser = parse_frame_rate
    )]
    pub frame_rate: FrameRate,

    /// Video bit rate in bit/s if video is encoded: 3000k, 3M or 3000000
    #[arg(
        long, env = "ENCODER_PUBLISH_BITRATE", value_name = "BITS", default_value_t = DEFAULT_BITRATE,
        value_parser = parse_bitrate
    )]
    pub bitrate: u32,

    /// PEM file with the certificates of the authorities that a server's certificate may be signed by (rtmps://); without
    /// it, those that the system trusts
    #[arg(long, env = "ENCODER_PUBLISH_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Whether HEVC, AV1, Opus, FLAC, AC-3 and E-AC-3 are sent as they are: `auto`, where the server says that it takes the
    /// codec; `always`, also to servers that do not say so, such as FFmpeg; `never`
    #[arg(long, env = "ENCODER_PUBLISH_ENHANCED", value_name = "MODE", default_value = "auto")]
    pub enhanced: EnhancedMode,

    /// Publish no audio
    #[arg(long, env = "ENCODER_PUBLISH_NO_AUDIO")]
    pub no_audio: bool,

    /// Publish no video
    #[arg(long, env = "ENCODER_PUBLISH_NO_VIDEO", conflicts_with = "no_audio")]
    pub no_video: bool,

    /// How the process is confined that reads the file: `strict`, or it does not start; `best-effort` takes what this
    /// kernel has; `off` reads the file in this process, and files that it names, such as a playlist's
    #[arg(long, env = "ENCODER_WORKER_SANDBOX", value_name = "MODE", default_value = "strict")]
    pub worker_sandbox: SandboxMode,

    /// Timestamp of the first message, to test how a server handles the wrap at 2^32 ms
    #[arg(long, env = "ENCODER_PUBLISH_START_TIMESTAMP", value_name = "MILLISECONDS", default_value_t = 0)]
    pub start_timestamp: u32,
}

impl PublishArgs {
    /// Checks the settings and returns what to publish, and where.
    pub(super) fn plan(&self) -> Result<(RtmpUrl, Input, PublishSettings), String> {
        let url = self.url.0.clone().map_err(|error| error.to_string())?;
        let settings = PublishSettings {
            video: !self.no_video,
            audio: !self.no_audio,
            bitrate: self.bitrate,
            enhanced: self.enhanced,
            duration: self.duration.map_or(MediaSpan::from_ticks_90k(i64::MAX), MediaSpan::from),
        };
        let input = match (&self.input, self.test_pattern) {
            (None, true) => Input::Pattern(PatternSettings {
                width: self.size.0,
                height: self.size.1,
                frame_rate: self.frame_rate,
                bitrate: self.bitrate,
                video: settings.video,
                audio: settings.audio,
            }),
            (Some(path), false) => {
                let reader = FileReader::this_binary(self.worker_sandbox, MAX_FILE_MEMORY)
                    .map_err(|error| format!("cannot find this program: {error}"))?;
                Input::File { path: path.clone(), looped: self.looped, reader }
            }
            (None, false) => {
                return Err("there is nothing to publish: name a file, or use --test-pattern".into());
            }
            (Some(_), true) => return Err("a file and --test-pattern exclude each other".into()),
        };
        if !settings.video && !settings.audio {
            return Err("--no-video and --no-audio leave nothing to publish".into());
        }
        Ok((url, input, settings))
    }
}

fn parse_size(text: &str) -> Result<(u16, u16), String> {
    let range = 160..=4096;
    let side =
        |side: &str| side.parse().ok().filter(|side: &u16| range.contains(side) && side.is_multiple_of(2));
    text.split_once('x')
        .and_then(|(width, height)| Some((side(width)?, side(height)?)))
        .ok_or_else(|| "a size is WIDTHxHEIGHT, both even and from 160 to 4096".into())
}

fn parse_frame_rate(text: &str) -> Result<FrameRate, String> {
    let message = || "a frame rate is from 1 to 120: 30, 29.97 or 30000/1001".to_owned();
    let (num, den) = match text.split_once('/') {
        Some((num, den)) => (num.parse().map_err(|_| message())?, den.parse().map_err(|_| message())?),
        None => {
            let rate: f64 = text.parse().map_err(|_| message())?;
            // NTSC rates are written with two or three digits but mean the exact ratio.
            match [24_000, 30_000, 60_000]
                .into_iter()
                .find(|num| (f64::from(*num) / 1001.0 - rate).abs() < 0.005)
            {
                Some(num) => (num, 1_001),
                None if rate.fract() == 0.0 => (rate as u32, 1),
                None => ((rate * 1000.0).round() as u32, 1_000),
            }
        }
    };
    let in_range = den > 0 && num >= den && u64::from(num) <= 120 * u64::from(den) && num <= 1_000_000;
    if in_range { Ok(FrameRate { num, den }) } else { Err(message()) }
}

fn parse_bitrate(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['k', 'K', 'm', 'M']) {
        Some(number) if text.ends_with(['k', 'K']) => (number, 1e3),
        Some(number) => (number, 1e6),
        None => (text, 1.0),
    };
    let bits = number.parse::<f64>().unwrap_or(f64::NAN) * unit;
    if (50_000.0..=100_000_000.0).contains(&bits) {
        Ok(bits as u32)
    } else {
        Err("a bit rate is from 50k to 100M".into())
    }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| !duration.is_zero() && duration.as_secs() < 1 << 32)
        .ok_or_else(|| "a duration is a number of seconds above 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn parse(words: &[&str]) -> Result<PublishArgs, clap::Error> {
        Cli::try_parse_from([&["publish"], words].concat()).map(|cli| cli.args)
    }

    #[test]
    fn a_file_or_the_test_pattern() {
        let args = parse(&["--loop", "a.mp4", "rtmp://h/live/x"]).unwrap();
        assert!(matches!(args.plan(), Ok((_, Input::File { looped: true, .. }, _))));
        let args = parse(&["--test-pattern", "rtmp://h/live/x"]).unwrap();
        assert!(
            matches!(args.plan(), Ok((_, Input::Pattern(pattern), _)) if (pattern.width, pattern.height) == (1280, 720))
        );
        assert!(parse(&["rtmp://h/live/x"]).is_err(), "no input");
        assert!(parse(&["--test-pattern", "a.mp4", "rtmp://h/live/x"]).is_err(), "both");
        assert!(parse(&["--no-audio", "--no-video", "a.mp4", "rtmp://h/live/x"]).is_err());
    }

    #[test]
    fn a_bad_url_is_told_without_its_key() {
        let args = parse(&["a.mp4", "http://h/live/secret"]).unwrap();
        assert_eq!(args.plan().unwrap_err(), "the URL must begin with rtmp:// or rtmps://");
        assert!(!format!("{args:?}").contains("secret"));
    }

    #[test]
    fn values() {
        assert_eq!(parse_size("1280x720"), Ok((1280, 720)));
        assert!(
            ["1281x720", "100x100", "1280", "x", "1280x9000"].iter().all(|size| parse_size(size).is_err())
        );
        let rate = |text| parse_frame_rate(text).map(|rate| (rate.num, rate.den)).ok();
        assert_eq!(rate("30"), Some((30, 1)));
        assert_eq!(rate("29.97"), Some((30_000, 1_001)));
        assert_eq!(rate("23.976"), Some((24_000, 1_001)));
        assert_eq!(rate("12.5"), Some((12_500, 1_000)));
        assert_eq!(rate("60000/1001"), Some((60_000, 1_001)));
        assert!(["0", "121", "1/0", "x", "-5", "NaN"].iter().all(|text| rate(text).is_none()));
        assert_eq!(parse_bitrate("3000k"), Ok(3_000_000));
        assert_eq!(parse_bitrate("2.5M"), Ok(2_500_000));
        assert!(["1", "x", "1G", "-3M", ""].iter().all(|text| parse_bitrate(text).is_err()));
        assert_eq!(parse_seconds("1.5"), Ok(Duration::from_millis(1500)));
        assert!(["0", "-1", "x", "inf", "NaN"].iter().all(|text| parse_seconds(text).is_err()));
    }
}
