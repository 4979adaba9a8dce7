//! One HTTP request to a neighbour in the cluster: the admin port of another encoder. Each request uses its own
//! connection and reads no body, only the status. The choice of requests and the reaction to answers belong to the
//! callers.

use axum::body::Body;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Most bytes of an answer's head; real answers are far smaller.
const MAX_HEAD: usize = 16 << 10;

/// Why there was no answer. The fault is the neighbour's or the network's; a later attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NeighbourError {
    /// The address refuses connections, or the connection broke.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The answer is not HTTP or is incomplete.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// There was no answer in time.
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// Sends a GET and returns the status of the answer, waiting at most `patience`.
pub(crate) async fn get(
    address: SocketAddr,
    path: &'static str,
    patience: Duration,
) -> Result<StatusCode, NeighbourError> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Body::empty())
        .expect("paths are constants and addresses print as ASCII");
    timeout(patience, ask(address, request)).await.unwrap_or(Err(NeighbourError::Late(patience)))
}

async fn ask(address: SocketAddr, request: Request<Body>) -> Result<StatusCode, NeighbourError> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(socket)).await?;
    let mut answer = pin!(sender.send_request(request));
    // Drives the connection until the answer arrives, then closes it. The connection may end together with the
    // answer.
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    Ok(answer?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Answers one connection with `answer`; the thread returns the request.
    fn neighbour(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let length = socket.read(&mut asked).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        });
        (address, thread)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn the_status_is_what_counts() {
        let (address, thread) =
            neighbour("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy");
        assert_eq!(get(address, "/readyz", PATIENCE).await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
        let asked = thread.join().unwrap().to_lowercase();
        assert!(asked.starts_with("get /readyz http/1.1\r\n") && asked.contains(&format!("host: {address}")));
    }

    #[tokio::test]
    async fn nonsense_silence_and_absence_are_errors() {
        let (address, _thread) = neighbour("SSH-2.0-nonsense\r\n");
        assert!(matches!(get(address, "/", PATIENCE).await, Err(NeighbourError::Http(_))));
        let (address, _thread) = neighbour("");
        assert!(get(address, "/", PATIENCE).await.is_err());
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let late = get(silent.local_addr().unwrap(), "/", Duration::from_millis(50)).await;
        assert!(matches!(late, Err(NeighbourError::Late(_))));
        let gone = silent.local_addr().unwrap();
        drop(silent);
        assert!(matches!(get(gone, "/", PATIENCE).await, Err(NeighbourError::Socket(_))));
    }
}
