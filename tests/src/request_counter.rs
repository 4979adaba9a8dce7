//! Counts the requests that a cache or an edge sends to an HTTP server, without asking either of them: forwards their
//! connections to the server and reads HTTP/1.1 heads and HTTP/2 frames on the way.

use crate::local_address::runtime;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Forwards connections to a server; ends when dropped.
pub struct RequestCounter {
    _runtime: Runtime,
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl RequestCounter {
    /// Listens on a port of 127.0.0.1 that the kernel chooses.
    pub fn start(server: SocketAddr) -> Self {
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("a bound port has an address");
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, Arc::clone(&counter)));
            }
        });
        Self { _runtime: runtime, address, requests }
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that have been forwarded so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn forward(client: TcpStream, server: SocketAddr, counter: Arc<AtomicU64>) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, mut to_client), (mut from_server, to_server)) =
        (client.into_split(), server.into_split());
    // Each direction ends by itself, as between a client and a server.
    tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
    requests(from_client, to_server, &counter).await
}

async fn requests(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counter: &AtomicU64) -> io::Result<()> {
    let (mut protocol, mut buffer) = (Protocol::default(), vec![0; 16 * 1024]);
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        counter.fetch_add(
            buffer[..count].iter().filter(|byte| protocol.begins_request(**byte)).count() as u64,
            Ordering::Relaxed,
        );
        to.write_all(&buffer[..count]).await?;
    }
}

/// What a client begins an HTTP/2 connection with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The end of a head in HTTP/1.1. The requests have no bodies.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Type of the frame that begins an HTTP/2 request (RFC 9113 6.2).
const HEADERS: u8 = 1;
/// Length of an HTTP/2 frame's header.
const FRAME_HEADER: usize = 9;

/// The protocol that a client speaks, and how far its bytes have been read.
#[derive(Debug)]
enum Protocol {
    /// So many bytes agree with the preface of HTTP/2.
    Preface(usize),
    /// So many bytes of the end of a head have been read.
    Http1(usize),
    /// The header of a frame is being read: so many bytes, with the payload's length and the type so far.
    FrameHeader { read: usize, length: usize, kind: u8 },
    /// So many bytes of a frame's payload are left.
    Payload(usize),
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Protocol {
    const FRAME: Self = Self::FrameHeader { read: 0, length: 0, kind: 0 };

    /// Takes a byte; returns whether it makes another request known.
    fn begins_request(&mut self, byte: u8) -> bool {
        let mut begins = false;
        *self = match *self {
            Self::Preface(read) if byte == PREFACE[read] => match read + 1 {
                all if all == PREFACE.len() => Self::FRAME,
                read => Self::Preface(read),
            },
            // No request of HTTP/1.1 has come to its head's end within the bytes that agree with the preface.
            Self::Preface(_) => Self::Http1(0),
            Self::Http1(read) if byte == HEAD_END[read] => {
                begins = read + 1 == HEAD_END.len();
                Self::Http1(if begins { 0 } else { read + 1 })
            }
            Self::Http1(_) => Self::Http1(usize::from(byte == HEAD_END[0])),
            Self::FrameHeader { read, length, kind } => {
                let length = if read < 3 { length << 8 | usize::from(byte) } else { length };
                let kind = if read == 3 { byte } else { kind };
                match read + 1 {
                    FRAME_HEADER => {
                        begins = kind == HEADERS;
                        if length == 0 { Self::FRAME } else { Self::Payload(length) }
                    }
                    read => Self::FrameHeader { read, length, kind },
                }
            }
            Self::Payload(1) => Self::FRAME,
            Self::Payload(left) => Self::Payload(left - 1),
        };
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(bytes: &[u8]) -> usize {
        let mut protocol = Protocol::default();
        bytes.iter().filter(|byte| protocol.begins_request(**byte)).count()
    }

    #[test]
    fn requests_of_both_protocols_are_counted() {
        assert_eq!(count(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n"), 2);
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x01\0\0\0\0";
        let acknowledged = b"\0\0\0\x04\x01\0\0\0\0";
        let headers = b"\0\0\x03\x01\x05\0\0\0\x01\r\n\r";
        let window = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01";
        let all = [PREFACE, settings, acknowledged, headers, window, headers].concat();
        assert_eq!(count(&all), 2);
    }

    #[test]
    fn bytes_pass_in_both_directions_and_so_does_the_end() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let counter = RequestCounter::start(server.local_addr().expect("a bound port"));
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            io::copy(&mut stream.try_clone().expect("a descriptor"), &mut stream).expect("an echo");
        });
        let mut client = std::net::TcpStream::connect(counter.address()).expect("a connection");
        let request = b"GET / HTTP/1.1\r\n\r\n";
        io::Write::write_all(&mut client, request).expect("bytes are taken");
        client.shutdown(std::net::Shutdown::Write).expect("an end");
        let mut back = Vec::new();
        io::Read::read_to_end(&mut client, &mut back).expect("an end");
        echo.join().expect("the echo ends");
        assert_eq!((back.as_slice(), counter.requests()), (&request[..], 1));
    }
}
