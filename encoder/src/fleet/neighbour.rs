//! The readiness of a neighbour in the cluster, from its admin port: one held request tells every change as it happens.
//! The choice of neighbours, and what their readiness means, belong to the callers.

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt as _;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The read buffer of a connection in bytes: an answer's head and an event are far smaller, and there may be thousands of
/// neighbours.
const READ_BUFFER: usize = 8 << 10;
/// Bytes kept of a line that has not ended; the lines that count are shorter.
const LONGEST_LINE: usize = 64;
/// A neighbour that is followed says something in this time (once in [`probes::FOLLOWERS_HEAR_EVERY`]).
const SILENCE: Duration = probes::FOLLOWERS_HEAR_EVERY.saturating_add(Duration::from_secs(5));

/// Why there was no answer. The fault is the neighbour's or the network's; a later attempt may succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NeighbourError {
    /// The address refuses connections, or the connection broke.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// The answer is not HTTP or is incomplete.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The answer's body broke off.
    #[error("{0}")]
    Body(#[from] axum::Error),
    /// There was no answer in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
}

/// A neighbour that is followed.
pub(crate) struct Neighbour {
    /// The verdict of the answer's status, until it has been told.
    first: Option<bool>,
    events: BodyDataStream,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Moves bytes; `None` once it has ended.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>>,
}

impl fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbour").field("first", &self.first).finish_non_exhaustive()
    }
}

impl Neighbour {
    /// Asks the admin port at `address` whether the neighbour is ready, waiting at most `patience`.
    pub(crate) async fn ask(address: SocketAddr, patience: Duration) -> Result<Self, NeighbourError> {
        let request = Request::get("/readyz?follow")
            .header(HOST, address.to_string())
            .body(Body::empty())
            .expect("the path is constant and addresses print as ASCII");
        timeout(patience, Self::send(address, request)).await.unwrap_or(Err(NeighbourError::Late(patience)))
    }

    async fn send(address: SocketAddr, request: Request<Body>) -> Result<Self, NeighbourError> {
        let socket = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(READ_BUFFER).handshake(TokioIo::new(socket)).await?;
        let mut connection = Box::pin(connection);
        let answer = std::pin::pin!(sender.send_request(request));
        // The connection may end together with the answer.
        let (answer, connection) = match futures_util::future::select(answer, &mut connection).await {
            futures_util::future::Either::Left((answer, _)) => (answer?, Some(connection as _)),
            futures_util::future::Either::Right((_, answer)) => (answer.await?, None),
        };
        Ok(Self {
            first: Some(answer.status() == StatusCode::OK),
            events: Body::new(answer.into_body()).into_data_stream(),
            line: Vec::new(),
            connection,
        })
    }

    /// Whether the neighbour is ready: at first at once, then with each change. `None` when the answer has ended as it
    /// should: a neighbour that cannot be followed has said all that it says.
    pub(crate) async fn next(&mut self) -> Result<Option<bool>, NeighbourError> {
        if let Some(ready) = self.first.take() {
            return Ok(Some(ready));
        }
        loop {
            let bytes = timeout(SILENCE, self.bytes()).await.unwrap_or(Err(NeighbourError::Late(SILENCE)))?;
            let Some(bytes) = bytes else { return Ok(None) };
            let mut told = None;
            for byte in bytes {
                if byte == b'\n' {
                    told = verdict(&self.line).or(told);
                    self.line.clear();
                } else if self.line.len() < LONGEST_LINE {
                    self.line.push(byte);
                }
            }
            if told.is_some() {
                return Ok(told);
            }
        }
    }

    async fn bytes(&mut self) -> Result<Option<bytes::Bytes>, NeighbourError> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Ok(self.events.next().await.transpose()?);
            };
            tokio::select! {
                biased;
                bytes = self.events.next() => return Ok(bytes.transpose()?),
                ended = connection => {
                    self.connection = None;
                    ended?;
                }
            }
        }
    }
}

/// What a line of the events says.
fn verdict(line: &[u8]) -> Option<bool> {
    match line {
        b"data: ready" => Some(true),
        b"data: unready" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Answers one connection with these pieces and closes it; the thread returns the request.
    fn neighbour(pieces: &'static [&'static str]) -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = [0; 4096];
            let length = socket.read(&mut asked).unwrap();
            for piece in pieces {
                socket.write_all(piece.as_bytes()).unwrap();
            }
            String::from_utf8(asked[..length].to_vec()).unwrap()
        });
        (address, thread)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    async fn told(address: SocketAddr) -> (Vec<bool>, Result<(), NeighbourError>) {
        let mut verdicts = Vec::new();
        let mut neighbour = match Neighbour::ask(address, PATIENCE).await {
            Ok(neighbour) => neighbour,
            Err(error) => return (verdicts, Err(error)),
        };
        loop {
            match neighbour.next().await {
                Ok(Some(ready)) => verdicts.push(ready),
                Ok(None) => return (verdicts, Ok(())),
                Err(error) => return (verdicts, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn a_neighbour_that_cannot_be_followed_says_what_it_is_now() {
        let (address, thread) =
            neighbour(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"]);
        let (verdicts, end) = told(address).await;
        assert!(verdicts == [false] && end.is_ok(), "{verdicts:?} {end:?}");
        let asked = thread.join().unwrap().to_lowercase();
        assert!(asked.starts_with("get /readyz?follow http/1.1\r\n"), "{asked}");
        assert!(asked.contains(&format!("host: {address}")), "{asked}");
    }

    #[tokio::test]
    async fn changes_are_told_however_their_bytes_come() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (address, _thread) = neighbour(&[
            HEAD,
            "7\r\ndata: u\r\n",
            "8\r\nnready\n\n\r\n",
            "3\r\n:\n\n\r\n",
            "d\r\ndata: ready\n\n\r\n",
            "0\r\n\r\n",
        ]);
        let (verdicts, end) = told(address).await;
        assert!(end.is_ok(), "{end:?}");
        assert_eq!((verdicts[0], verdicts.last()), (true, Some(&true)), "{verdicts:?}");
        assert!(
            verdicts.contains(&false) || verdicts.len() == 2,
            "only the last of those that came together"
        );
        let (address, _thread) = neighbour(&[HEAD, "f\r\ndata: unready\n\n\r\n"]);
        let (verdicts, end) = told(address).await;
        assert!(verdicts.last() == Some(&false) && end.is_err(), "it broke off: {verdicts:?} {end:?}");
    }

    #[tokio::test]
    async fn nonsense_silence_and_absence_are_errors() {
        let (address, _thread) = neighbour(&["SSH-2.0-nonsense\r\n"]);
        assert!(matches!(told(address).await.1, Err(NeighbourError::Http(_))));
        let (address, _thread) = neighbour(&[""]);
        assert!(told(address).await.1.is_err());
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let late = Neighbour::ask(silent.local_addr().unwrap(), Duration::from_millis(50)).await;
        assert!(matches!(late, Err(NeighbourError::Late(_))));
        let gone = silent.local_addr().unwrap();
        drop(silent);
        assert!(matches!(told(gone).await.1, Err(NeighbourError::Socket(_))));
    }
}
