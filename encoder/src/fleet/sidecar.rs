//! The sidecar that Agones puts beside every game server, spoken to in its own gRPC (`sdk.proto`, package
//! `agones.dev.sdk`): empty messages to the same machine. What is said when is in [`super::agones`].
//!
//! Not the crate `agones` (1.61.0): it compiles the protocol with protoc while it is built, brings a second tonic and
//! prost along, and does not say when its connection or its stream of pings has broken. Four calls without a single
//! field need neither.

use super::agones::Call;
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

/// Where the sidecar listens for gRPC unless told otherwise.
pub const DEFAULT_PORT: u16 = 9357;

/// What the sidecar may take to answer: it only takes a note.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the sidecar was not told. Its fault, or it is not there; a later try may do.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Nobody listens, or what listens speaks something else.
    #[error("no connection: {}", cause(.0))]
    Connection(#[from] tonic::transport::Error),
    /// It answered that it cannot, or the connection broke in between.
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] Box<Status>),
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The stream of pings has ended.
    #[error("the connection is gone")]
    Gone,
}

/// A connection to the sidecar, and the stream of pings on it.
#[derive(Debug)]
pub struct Sidecar {
    grpc: Grpc<Channel>,
    /// One ping may wait for the stream to take it; that there is a second one means that the sidecar reads no more.
    pings: mpsc::Sender<()>,
    health: JoinHandle<()>,
}

// === impl Sidecar ===

impl Sidecar {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Result<Self, SidecarError> {
        // No pings of HTTP/2: gRPC servers in Go hang up on whoever sends them more often than every five minutes.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(PATIENCE);
        let channel = within(async { Ok(endpoint.connect().await?) }).await?;
        let (pings, pinged) = mpsc::channel(1);
        let health = tokio::spawn(health(Grpc::new(channel.clone()), pinged));
        Ok(Self { grpc: Grpc::new(channel), pings, health })
    }

    /// Says it. A ping is not answered; that nobody reads them shows in [`Sidecar::lost`].
    pub async fn tell(&mut self, call: Call) -> Result<(), SidecarError> {
        let path = match call {
            Call::Ready => "/agones.dev.sdk.SDK/Ready",
            Call::Allocate => "/agones.dev.sdk.SDK/Allocate",
            Call::Shutdown => "/agones.dev.sdk.SDK/Shutdown",
            Call::Health => return self.pings.try_send(()).map_err(|_| SidecarError::Gone),
        };
        within(async {
            self.grpc.ready().await?;
            let path = PathAndQuery::from_static(path);
            let answer = self.grpc.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await;
            answer.map(|_| ()).map_err(|status| Box::new(status).into())
        })
        .await
    }

    /// Waits until the connection is gone, as when the sidecar restarts: a new one may have forgotten what it was told.
    /// May be dropped and called again, but not once it has answered.
    pub async fn lost(&mut self) -> SidecarError {
        // How it ended makes no difference.
        let _ = (&mut self.health).await;
        SidecarError::Gone
    }
}

/// The stream of pings: lasts until its sender is dropped, or the sidecar or the connection ends it.
async fn health(mut grpc: Grpc<Channel>, pinged: mpsc::Receiver<()>) {
    let pings =
        stream::unfold(pinged, |mut pinged| async move { pinged.recv().await.map(|()| ((), pinged)) });
    if grpc.ready().await.is_ok() {
        let path = PathAndQuery::from_static("/agones.dev.sdk.SDK/Health");
        // An error is the end as well.
        let _ = grpc.client_streaming(Request::new(pings), path, ProstCodec::<(), ()>::default()).await;
    }
}

async fn within<T>(work: impl Future<Output = Result<T, SidecarError>>) -> Result<T, SidecarError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(SidecarError::Late(PATIENCE)))
}

/// tonic's own words for it are "transport error".
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

        // Somebody who takes the connection and says nothing.
        let mut silent = Sidecar::connect(address).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let answer = silent.tell(Call::Ready).await;
        assert!(matches!(answer, Err(SidecarError::Late(_))), "{answer:?}");

        // The end of a connection is noticed without anything being said.
        drop(socket);
        assert!(matches!(silent.lost().await, SidecarError::Gone));

        let mut nonsense = Sidecar::connect(address).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"SSH-2.0-nonsense\r\n").await.unwrap();
        assert!(nonsense.tell(Call::Allocate).await.is_err());

        drop(listener);
        let absent = Sidecar::connect(address).await.unwrap_err();
        assert!(absent.to_string().contains("refused"), "{absent}");
    }
}
