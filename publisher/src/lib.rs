//! `encoder publish`: sends a file or the test pattern to an RTMP server in real time, so that the system can be tried
//! without other software.
//!
//! What belongs here: the command line of `publish`, pacing, the client side of RTMP, reconnecting, and the terminal
//! output. Reading files and generating the pattern is in [`transcode`], because both need libav. The server
//! side is in [`rtmp`].
#![forbid(unsafe_code)]

mod args;
mod connection;
mod pacer;
mod progress;
mod source;
mod tls;

pub use args::{EnhancedMode, PublishArgs, UrlArg};
pub use source::SourceError;

use connection::{Broadcast, BroadcastEnding};
use media::MediaSpan;
use pacer::ReconnectBackoff;
use progress::ProgressDisplay;
use source::{Input, PendingSource};
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};
use tls::Connector;

/// How long attempts to connect are repeated after a server has asked for a new connection.
const MOVES_WITHIN: Duration = Duration::from_secs(30);

/// Which media of the source is published.
#[derive(Clone, Copy, Debug)]
struct PublishSettings {
    video: bool,
    audio: bool,
    /// Video bit rate in bit/s, if video is encoded.
    bitrate: u32,
    /// Whether other codecs than H.264 and AAC are sent as they are.
    enhanced: EnhancedMode,
    /// The broadcast ends at this media time.
    duration: MediaSpan,
}

/// Why a broadcast ended early. Every kind has its own exit code, so that scripts can distinguish them.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Settings that contradict each other. The caller's fault.
    #[error("{0}")]
    Settings(String),
    /// The file cannot be read, or the test pattern cannot be generated. A retry does not help.
    #[error("{0}")]
    Input(#[from] SourceError),
    /// The server refused the publish: a wrong key, or no free place. Another key or a later attempt may succeed.
    #[error("{url} refused: {reason}")]
    Refused {
        /// The server, without the key.
        url: String,
        /// The server's text.
        reason: String,
    },
    /// The connection failed or broke. A retry may succeed; `--reconnect` retries.
    #[error("{url}: {reason}")]
    Lost {
        /// The server, without the key.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Ctrl-C or SIGTERM. The server was told that the broadcast has ended.
    #[error("interrupted")]
    Interrupted,
}

impl PublishError {
    /// The exit code of the process: as in sysexits.h, and 130 as shells report Ctrl-C.
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

/// Publishes until the source ends or Ctrl-C or SIGTERM arrives.
pub async fn run(args: PublishArgs) -> Result<(), PublishError> {
    Box::pin(run_until(args, interrupted())).await
}

/// Publishes until the source ends or `stop` resolves.
pub async fn run_until(args: PublishArgs, stop: impl Future<Output = ()>) -> Result<(), PublishError> {
    let (mut url, input, settings) = args.plan().map_err(PublishError::Settings)?;
    let tls = if url.tls { Some(Connector::new(args.tls_ca.as_deref())) } else { None };
    let mut tls = tls.transpose().map_err(PublishError::Settings)?;
    let info = match &input {
        Input::File { path, reader, .. } => {
            let (path, reader) = (path.clone(), reader.clone());
            let info = tokio::task::spawn_blocking(move || source::probe(&reader, &path)).await;
            Some(info.map_err(|error| SourceError::Thread(error.into()))??)
        }
        Input::Pattern(_) => None,
    };
    let looped = matches!(&input, Input::File { looped: true, .. });
    let total = info.as_ref().filter(|_| !looped).and_then(|info| info.duration);
    let total = total.map(|duration| duration.min(settings.duration));
    let mut source = PendingSource::new(input, settings, info.as_ref());
    let mut broadcast = Broadcast::new(args.start_timestamp);
    let mut progress = ProgressDisplay::new(url.to_string(), total.or(args.duration.map(MediaSpan::from)));
    let mut stop = pin!(stop);

    let mut ending = None;
    if !source.asks_the_server() {
        let primed = async {
            let source = source.start(None, &mut progress).map_err(BroadcastEnding::Source)?;
            broadcast.prime(source).await
        };
        ending = tokio::select! {
            primed = primed => primed.err(),
            () = &mut stop => Some(BroadcastEnding::Stopped),
        };
    }
    let mut backoff = ReconnectBackoff::default();
    let mut ever_published = false;
    let mut moved_at: Option<Instant> = None;
    let ending = loop {
        if let Some(ending) = ending {
            break ending;
        }
        let published_before = progress.connections();
        let started = Instant::now();
        let attempt =
            connection::run(&url, tls.as_ref(), &mut broadcast, &mut source, &mut progress, stop.as_mut())
                .await;
        let published = progress.connections() > published_before;
        ever_published |= published;
        let attempt = match attempt {
            BroadcastEnding::Moved(to) => {
                progress.say(&format!("{url}: the server asks for a new connection"));
                url = to.and_then(|to| url.moved_to(&to)).unwrap_or(url);
                if url.tls && tls.is_none() {
                    tls = Some(Connector::new(args.tls_ca.as_deref()).map_err(PublishError::Settings)?);
                }
                moved_at = Some(Instant::now());
                continue;
            }
            attempt => attempt,
        };
        // The server that was asked for may still be starting.
        let reconnects = args.reconnect || moved_at.is_some_and(|at| at.elapsed() < MOVES_WITHIN);
        let lasted = if published { started.elapsed() } else { Duration::ZERO };
        // A refusal on the first attempt is final: most likely the key is wrong. Later refusals are retried, because
        // the server may still hold the connection that was lost.
        let reason = match attempt {
            BroadcastEnding::Lost(reason) if reconnects => reason,
            BroadcastEnding::Refused(reason) if reconnects && ever_published => {
                format!("refused: {reason}")
            }
            ending => break ending,
        };
        let wait = backoff.wait(lasted);
        progress.say(&format!("{url}: {reason}; next attempt in {:.1} s", wait.as_secs_f64()));
        ending = tokio::select! {
            () = tokio::time::sleep(wait) => None,
            () = &mut stop => Some(BroadcastEnding::Stopped),
        };
    };
    progress.finish(source.dropped(), broadcast.late());
    match ending {
        // A move is followed by another attempt, so it ends no broadcast.
        BroadcastEnding::Finished | BroadcastEnding::Moved(_) => Ok(()),
        BroadcastEnding::Stopped => Err(PublishError::Interrupted),
        BroadcastEnding::Refused(reason) => Err(PublishError::Refused { url: url.to_string(), reason }),
        BroadcastEnding::Lost(reason) => Err(PublishError::Lost { url: url.to_string(), reason }),
        BroadcastEnding::Source(error) => Err(PublishError::Input(error)),
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
        // Without a handler the signal itself ends the process.
        Err(_) => {
            let _ = ctrl_c.await;
        }
    }
}
