//! HTTP/1.1 responses as thousands of cheap clients read them: status, whether the body is gzip, the body. Pure, without
//! I/O. Nothing here is for servers that send more than one response to a request.

use anyhow::{Context, bail, ensure};
use memchr::memmem;

/// Largest head in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Largest body in bytes: the encoder serves nothing larger.
const MAX_BODY: usize = 64 << 20;

/// One complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Whether the body is compressed with gzip.
    pub gzip: bool,
    /// Value of Cache-Control in lower case; empty without that header.
    pub cache_control: String,
    /// The body as sent.
    pub body: Vec<u8>,
}

/// Reads one response after the other. Holds memory only while a response is incomplete.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing or a part of the head has been read.
    #[default]
    Empty,
    Head(Vec<u8>),
    Body(Response, Remaining),
}

/// What is missing of a body.
#[derive(Debug)]
enum Remaining {
    /// So many bytes.
    Bytes(usize),
    /// Chunks (RFC 9112 7.1): the bytes that have been read but not decoded.
    Chunks(Vec<u8>),
}

impl Reader {
    /// Takes bytes from the connection; returns the response when it is complete.
    ///
    /// # Errors
    /// The bytes are no response with a length or chunks, or more than one response.
    pub fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Option<Response>> {
        let (response, mut remaining) = match std::mem::take(&mut self.state) {
            State::Empty => match head(bytes)? {
                Some((response, remaining, length)) => {
                    return self.body(response, remaining, &bytes[length..]);
                }
                None => {
                    self.state = State::Head(bytes.to_vec());
                    return Ok(None);
                }
            },
            State::Head(mut had) => {
                had.extend_from_slice(bytes);
                return match head(&had)? {
                    Some((response, remaining, length)) => self.body(response, remaining, &had[length..]),
                    None => {
                        self.state = State::Head(had);
                        Ok(None)
                    }
                };
            }
            State::Body(response, remaining) => (response, remaining),
        };
        if let Remaining::Chunks(waiting) = &mut remaining {
            let mut all = std::mem::take(waiting);
            all.extend_from_slice(bytes);
            return self.body(response, remaining, &all);
        }
        self.body(response, remaining, bytes)
    }

    /// Takes bytes of the body.
    fn body(
        &mut self,
        mut response: Response,
        remaining: Remaining,
        bytes: &[u8],
    ) -> anyhow::Result<Option<Response>> {
        let remaining = match remaining {
            Remaining::Bytes(count) => {
                ensure!(bytes.len() <= count, "bytes follow a response that nobody asked for");
                response.body.extend_from_slice(bytes);
                match count - bytes.len() {
                    0 => return Ok(Some(response)),
                    left => Remaining::Bytes(left),
                }
            }
            Remaining::Chunks(_) => match chunks(&mut response.body, bytes)? {
                None => return Ok(Some(response)),
                Some(undecoded) => Remaining::Chunks(undecoded.to_vec()),
            },
        };
        ensure!(response.body.len() <= MAX_BODY, "a body of more than {MAX_BODY} bytes");
        self.state = State::Body(response, remaining);
        Ok(None)
    }
}

/// Reads the head; returns what is missing and the head's length, or `None` if the head is incomplete.
fn head(bytes: &[u8]) -> anyhow::Result<Option<(Response, Remaining, usize)>> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        ensure!(bytes.len() <= MAX_HEAD, "a head of more than {MAX_HEAD} bytes");
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..end]).context("a head that is not text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok()).context("no status line of HTTP/1.1")?;
    let mut response = Response { status, gzip: false, cache_control: String::new(), body: Vec::new() };
    let mut remaining = None;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            remaining = Some(Remaining::Bytes(value.parse().context("content-length")?));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            ensure!(value.eq_ignore_ascii_case("chunked"), "transfer-encoding {value}");
            remaining = Some(Remaining::Chunks(Vec::new()));
        } else if name.eq_ignore_ascii_case("content-encoding") {
            ensure!(value.eq_ignore_ascii_case("gzip"), "content-encoding {value}");
            response.gzip = true;
        } else if name.eq_ignore_ascii_case("cache-control") {
            response.cache_control = value.to_ascii_lowercase();
        }
    }
    let remaining = remaining.with_context(|| format!("status {status} without a body's length"))?;
    if let Remaining::Bytes(count) = remaining {
        ensure!(count <= MAX_BODY, "a body of {count} bytes");
        response.body.reserve_exact(count);
    }
    Ok(Some((response, remaining, end + 4)))
}

/// Appends the decoded chunks to the body; returns the bytes that are not decoded yet, or `None` after the last chunk.
fn chunks<'a>(body: &mut Vec<u8>, mut bytes: &'a [u8]) -> anyhow::Result<Option<&'a [u8]>> {
    loop {
        let Some(end) = memmem::find(bytes, b"\r\n") else { return Ok(Some(bytes)) };
        let size = std::str::from_utf8(&bytes[..end])?.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("a chunk of '{size}' bytes"))?;
        ensure!(size <= MAX_BODY, "a chunk of {size} bytes");
        let data = &bytes[end + 2..];
        let Some(after) = data.get(size..).filter(|after| after.len() >= 2) else { return Ok(Some(bytes)) };
        if &after[..2] != b"\r\n" {
            // The servers that are measured send no trailers after the last chunk.
            bail!("a chunk of {size} bytes that does not end there");
        }
        if size == 0 {
            return Ok(None);
        }
        body.extend_from_slice(&data[..size]);
        bytes = &after[2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nCache-Control: No-Store\r\n\r\nhello";
    const CHUNKS: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n\
                          3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";

    #[test]
    fn bodies_are_the_same_in_whatever_pieces_they_come() {
        for (text, gzip, cache_control) in [(LENGTH, false, "no-store"), (CHUNKS, true, "")] {
            for size in 1..=text.len() {
                let mut reader = Reader::default();
                for _ in 0..2 {
                    let mut pieces = text.as_bytes().chunks(size).peekable();
                    while let Some(piece) = pieces.next() {
                        let response = reader.read(piece).unwrap();
                        assert_eq!(response.is_some(), pieces.peek().is_none(), "{size}");
                        if let Some(response) = response {
                            let cache_control = cache_control.to_owned();
                            let body = b"hello".to_vec();
                            assert_eq!(response, Response { status: 200, gzip, cache_control, body });
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            assert!(Reader::default().read(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Reader::default().read(&[b'a'; MAX_HEAD + 1]).is_err());
    }
}
