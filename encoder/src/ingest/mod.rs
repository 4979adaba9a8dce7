//! Listening sockets for publishers, with and without TLS. Published media is handed on unparsed, as
//! [`rtmp::MediaMessage`]s. The RTMP conversation itself is in the crate `rtmp`; the implementation of [`Admission`]
//! decides whether a publisher is admitted.

mod gate;
mod rate;
pub(crate) mod server;
pub(crate) mod single;
pub(crate) mod tls;

pub(crate) use server::{Publishers, ServerOptions, serve, show_counters};

use rtmp::{EndReason, MediaMessage, Metadata, PublishRequest, Refusal};
use std::future::Future;
use tokio::sync::watch;

/// What a publisher is asked when it is to connect anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReconnectRequest {
    /// The URL of the application to connect to; `None` for the present one.
    pub tc_url: Option<String>,
}

/// Decides who may publish.
pub trait Admission: Send + Sync + 'static {
    /// Receives what an admitted publisher sends.
    type Sink: MediaSink;

    /// Decides about a request before the server sends `NetStream.Publish.Start`. With an `Ok` the place is taken.
    fn admit(&self, request: PublishRequest) -> impl Future<Output = Result<Self::Sink, Refusal>> + Send;

    /// Whether a publisher could be admitted now. While the value is `false`, the kernel refuses connections, including
    /// those in the backlog. `None`: every connection is accepted, and a refused publisher receives the reason.
    fn open(&self) -> Option<watch::Receiver<bool>> {
        None
    }
}

/// Receives what one publisher sends. No method may block, because the socket is always read.
pub trait MediaSink: Send + 'static {
    /// Takes a media message, and returns whether it could be read as media: only such messages show that the publisher
    /// is there. An error ends the publish with that refusal.
    fn media(&mut self, message: MediaMessage) -> Result<bool, Refusal>;

    /// Most bits per second that the publisher may send, over ten seconds.
    fn most_bits_per_second(&self) -> u64;

    /// Takes an `onMetaData` message; publishers may send many per second.
    fn metadata(&mut self, metadata: Metadata);

    /// Resolves when the server should end the publish, with the reason to send to the publisher. Pending until then.
    fn sent_off(&mut self) -> impl Future<Output = Refusal> + Send;

    /// Asks the publisher to connect anew once a value is there; `None` if this publisher never is asked.
    fn reconnect(&self) -> Option<watch::Receiver<Option<ReconnectRequest>>> {
        None
    }

    /// The publisher has said goodbye. It may publish again for a moment, on this connection or on another one;
    /// [`Self::end`] follows.
    fn said_goodbye(&mut self) {}

    /// Reports the end of the publish. No other call follows.
    fn end(self, reason: EndReason);
}
