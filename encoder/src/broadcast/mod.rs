//! `encoder publish`: sends a file or the test pattern to an RTMP server in real time, so that nobody needs other
//! software to try the system.
//!
//! What belongs here: the command line of `publish`, pacing, the client's side of RTMP, what to do when a connection
//! is lost, and what the person at the terminal sees. Reading files and making the pattern is in
//! [`crate::transcode`], as it needs libav. The server's side is in [`crate::rtmp`].

mod args;
mod connection;
mod pacer;
mod progress;
mod session;
mod source;
mod tag;
mod url;

pub use args::{PublishArgs, UrlArg};
pub use source::SourceError;
pub use url::{BadUrl, RtmpUrl};

use connection::{Broadcast, Ending};
use hls::MediaSpan;
use pacer::Backoff;
use progress::Progress;
use source::{Input, Source};
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

/// What we call ourselves towards servers.
const CLIENT_NAME: &str = concat!("encoder/", env!("CARGO_PKG_VERSION"));

/// What is taken of the source.
#[derive(Clone, Copy, Debug)]
struct StreamSettings {
    video: bool,
    audio: bool,
    /// Bits a second of video, where video is encoded.
    bitrate: u32,
    /// Ends the broadcast at this media time.
    duration: MediaSpan,
}

/// Why a broadcast did not come to its end. Every kind has its own exit code, so that scripts can tell them apart.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Settings that contradict each other. The caller's fault.
    #[error("{0}")]
    Settings(String),
    /// The file cannot be read, or the test pattern not be made. A retry does not help.
    #[error("{0}")]
    Input(#[from] SourceError),
    /// The server does not let us publish: a wrong key, or no place. Another key or another time may help.
    #[error("{url} refused: {reason}")]
    Refused {
        /// The server, without the key.
        url: String,
        /// In the server's words.
        reason: String,
    },
    /// No connection, or one that broke. A retry may help; `--reconnect` does that.
    #[error("{url}: {reason}")]
    Lost {
        /// The server, without the key.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Ctrl-C or SIGTERM. The server was told that the broadcast is over.
    #[error("interrupted")]
    Interrupted,
}

impl PublishError {
    /// For the process to exit with: as in sysexits.h, and 130 as shells report Ctrl-C.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 64,
            Self::Input(_) => 66,
            Self::Lost { .. } => 69,
            Self::Refused { .. } => 77,
            Self::Interrupted => 130,
        }
    }
}

/// Publishes until the source ends, or Ctrl-C or SIGTERM.
pub async fn run(args: PublishArgs) -> Result<(), PublishError> {
    Box::pin(run_until(args, interrupted())).await
}

/// Publishes until the source ends or `stop` resolves.
pub async fn run_until(args: PublishArgs, stop: impl Future<Output = ()>) -> Result<(), PublishError> {
    let (url, input, settings) = args.plan().map_err(PublishError::Settings)?;
    let total = match &input {
        Input::File { path, looped: false } => {
            let path = path.clone();
            let info = tokio::task::spawn_blocking(move || source::probe(&path)).await;
            let duration = info.map_err(|error| SourceError::Thread(error.into()))??.duration;
            duration.map(|duration| duration.min(settings.duration))
        }
        Input::File { looped: true, .. } | Input::Pattern(_) => None,
    };
    let mut source = Source::start(input, settings)?;
    let mut broadcast = Broadcast::new(args.start_timestamp);
    let mut progress = Progress::new(url.to_string(), total.or(args.duration.map(MediaSpan::from)));
    let mut stop = pin!(stop);

    let primed = tokio::select! {
        primed = broadcast.prime(&mut source) => primed,
        () = &mut stop => Err(Ending::Stopped),
    };
    let mut ending = primed.err();
    let mut backoff = Backoff::default();
    let mut ever_published = false;
    let ending = loop {
        if let Some(ending) = ending {
            break ending;
        }
        let published_before = progress.connections();
        let started = Instant::now();
        let attempt = connection::run(&url, &mut broadcast, &mut source, &mut progress, stop.as_mut()).await;
        let published = progress.connections() > published_before;
        ever_published |= published;
        let lasted = if published { started.elapsed() } else { Duration::ZERO };
        // A first refusal is final: most likely the key is wrong. Later ones are not: the server may still hold the
        // connection that was lost.
        let reason = match attempt {
            Ending::Lost(reason) if args.reconnect => reason,
            Ending::Refused(reason) if args.reconnect && ever_published => format!("refused: {reason}"),
            ending => break ending,
        };
        let wait = backoff.wait(lasted);
        progress.say(&format!("{url}: {reason}; next attempt in {:.1} s", wait.as_secs_f64()));
        ending = tokio::select! {
            () = tokio::time::sleep(wait) => None,
            () = &mut stop => Some(Ending::Stopped),
        };
    };
    progress.finish(source.dropped(), broadcast.late());
    match ending {
        Ending::Finished => Ok(()),
        Ending::Stopped => Err(PublishError::Interrupted),
        Ending::Refused(reason) => Err(PublishError::Refused { url: url.to_string(), reason }),
        Ending::Lost(reason) => Err(PublishError::Lost { url: url.to_string(), reason }),
        Ending::Source(error) => Err(PublishError::Input(error)),
    }
}

/// Resolves with the first Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let ctrl_c = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = ctrl_c => {}
                _ = terminate.recv() => {}
            }
        }
        // Without a handler the signal ends the process by itself.
        Err(_) => {
            let _ = ctrl_c.await;
        }
    }
}
