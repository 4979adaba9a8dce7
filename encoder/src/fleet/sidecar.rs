//! Client of the sidecar that Agones adds to every game server, in Agones' own gRPC (`sdk.proto`, package
//! `agones.dev.sdk`): empty messages to the same machine. When to send which call is decided in [`super::agones`].
//!
//! The crate `agones` (1.61.0) is not used: it compiles the protocol with protoc at build time, adds a second tonic
//! and prost, and does not report that its connection or its stream of pings has broken. Four calls without any field
//! need none of this.

use super::agones::SidecarCall;
use futures_util::stream;
use hyper::http::uri::PathAndQuery;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// The sidecar's default gRPC port.
pub(crate) const DEFAULT_PORT: u16 = 9357;

/// Time-out of a call: the sidecar only records it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call failed. The sidecar is at fault or absent; a later attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    /// The port refuses connections, or the server does not speak gRPC.
    #[error("no connection: {}", cause(.0))]
    Connection(#[from] tonic::transport::Error),
    /// The sidecar answered with an error, or the connection broke during the call.
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] Box<Status>),
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The stream of pings has ended.
    #[error("the connection is gone")]
    Gone,
}

/// A connection to the sidecar with its stream of pings.
#[derive(Debug)]
pub(crate) struct Sidecar {
    grpc: Grpc<Channel>,
    /// Holds one ping that waits for the stream. A second waiting ping means that the sidecar no longer reads.
    pings: mpsc::Sender<()>,
    health: JoinHandle<()>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Connects to the sidecar.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, SidecarError> {
        // No HTTP/2 keep-alive pings: gRPC servers in Go close connections that send pings more often than every five
        // minutes.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(PATIENCE);
        let channel = within(async { Ok(endpoint.connect().await?) }).await?;
        let (pings, pinged) = mpsc::channel(1);
        let health = tokio::spawn(health(Grpc::new(channel.clone()), pinged));
        Ok(Self { grpc: Grpc::new(channel), pings, health })
    }

    /// Sends a call. A ping has no answer; a sidecar that no longer reads pings shows in [`Sidecar::lost`].
    pub(crate) async fn tell(&mut self, call: SidecarCall) -> Result<(), SidecarError> {
        let path = match call {
            SidecarCall::Ready => "/agones.dev.sdk.SDK/Ready",
            SidecarCall::Allocate => "/agones.dev.sdk.SDK/Allocate",
            SidecarCall::Shutdown => "/agones.dev.sdk.SDK/Shutdown",
            SidecarCall::Health => return self.pings.try_send(()).map_err(|_| SidecarError::Gone),
        };
        within(async {
            self.grpc.ready().await?;
            let path = PathAndQuery::from_static(path);
            let answer = self.grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await;
            answer.map(|_| ()).map_err(|status| Box::new(status).into())
        })
        .await
    }

    /// Waits until the connection is gone, for example because the sidecar restarts: a new sidecar may not know the
    /// state. The future may be dropped and the method called again, but not after it has returned.
    pub(crate) async fn lost(&mut self) -> SidecarError {
        // The way the stream ended makes no difference.
        let _ = (&mut self.health).await;
        SidecarError::Gone
    }
}

/// Runs the stream of pings until its sender is dropped or the sidecar or the connection ends the stream.
async fn health(mut grpc: Grpc<Channel>, pinged: mpsc::Receiver<()>) {
    let pings =
        stream::unfold(pinged, |mut pinged| async move { pinged.recv().await.map(|()| ((), pinged)) });
    if grpc.ready().await.is_ok() {
        let path = PathAndQuery::from_static("/agones.dev.sdk.SDK/Health");
        // An error ends the stream as well.
        let _ = grpc.client_streaming(Request::new(pings), path, ProstCodec::<(), ()>::default()).await;
    }
}

async fn within<T>(work: impl Future<Output = Result<T, SidecarError>>) -> Result<T, SidecarError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(SidecarError::Late(PATIENCE)))
}

/// The root cause of an error; tonic's own message is only "transport error".
fn cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn absence_silence_and_nonsense_are_errors() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();

        // A server that accepts the connection and sends nothing.
        let mut silent = Sidecar::connect(address).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let answer = silent.tell(SidecarCall::Ready).await;
        assert!(matches!(answer, Err(SidecarError::Late(_))), "{answer:?}");

        // The client notices the end of a connection without sending anything.
        drop(socket);
        assert!(matches!(silent.lost().await, SidecarError::Gone));

        let mut nonsense = Sidecar::connect(address).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"SSH-2.0-nonsense\r\n").await.unwrap();
        assert!(nonsense.tell(SidecarCall::Allocate).await.is_err());

        drop(listener);
        let absent = Sidecar::connect(address).await.unwrap_err();
        assert!(absent.to_string().contains("refused"), "{absent}");
    }
}
