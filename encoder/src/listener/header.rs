//! The first bytes of a connection on a listener with `--proxy-protocol`: reads a trusted proxy's header from the
//! socket, and looks for a header that a stranger sent. The header's format is in [`listen::proxy`].

use listen::proxy::{BadHeader, Header, HeaderReader, MAX_V2_BYTES};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time-out of a header. Proxies send it with the first segment.
const WITHIN: Duration = Duration::from_secs(5);

/// How a trusted proxy began its connection.
#[derive(Debug)]
pub(super) enum FirstBytes {
    /// On behalf of this client.
    Client(SocketAddr),
    /// On its own behalf.
    Proxy,
    /// The proxy sent nothing and closed, or sent nothing for five seconds: a health check.
    Silence,
    /// Something else than a header.
    Bad(BadHeader),
}

/// Reads a header, and no byte beyond it.
pub(super) async fn read(socket: &mut TcpStream) -> FirstBytes {
    let mut reader = HeaderReader::default();
    let outcome = timeout(WITHIN, read_with(socket, &mut reader)).await;
    match outcome {
        Ok(Ok(Header::Proxied(client))) => FirstBytes::Client(client),
        Ok(Ok(Header::Local)) => FirstBytes::Proxy,
        Ok(Err(error)) => FirstBytes::Bad(error),
        // Closed, or too late.
        Ok(Ok(Header::Incomplete)) | Err(_) if reader.is_empty() => FirstBytes::Silence,
        Ok(Ok(Header::Incomplete)) | Err(_) => FirstBytes::Bad(BadHeader::Missing),
    }
}

/// [`Header::Incomplete`] if the peer closes.
async fn read_with(socket: &mut TcpStream, reader: &mut HeaderReader) -> Result<Header, BadHeader> {
    let mut buffer = [0; MAX_V2_BYTES];
    loop {
        let wanted = reader.wants().min(buffer.len());
        let count = socket.read(&mut buffer[..wanted]).await.unwrap_or(0);
        let header = reader.read(&mut &buffer[..count])?;
        if count == 0 || header != Header::Incomplete {
            return Ok(header);
        }
    }
}

/// Whether the connection begins with a whole signature of a header, as far as its first segment tells. Takes no byte.
/// A header in smaller pieces, or one that comes after five seconds, is not noticed: it reaches the server's protocol,
/// which refuses it like any other nonsense.
pub(super) async fn begins_header(socket: &TcpStream) -> bool {
    let mut first = [0; 12];
    match timeout(WITHIN, socket.peek(&mut first)).await {
        Ok(Ok(count)) => listen::proxy::begins_header(&first[..count]),
        Ok(Err(_)) | Err(_) => false,
    }
}
