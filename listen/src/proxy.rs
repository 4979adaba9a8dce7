//! Reads the header with which a proxy begins a connection: PROXY protocol, versions 1 and 2, as in HAProxy's
//! specification (haproxy.org/download/3.0/doc/proxy-protocol.txt). The crate `ppp` parses complete headers; how many
//! bytes belong to one, and how many are too many, is decided here.
//!
//! The TLVs of version 2 (names, TLS, a cloud's endpoint) are skipped. Whose headers are believed does not belong here.

use std::net::SocketAddr;

/// Longest header of version 1 in bytes, with its CR LF; the specification's own bound.
pub const MAX_V1_BYTES: usize = 107;
/// Longest header of version 2 in bytes: the fixed part, and 536 bytes of addresses and TLVs. The addresses take 216
/// bytes at most. The specification lets a receiver expect the header in one piece, and 536 bytes is the payload that
/// every IPv4 network carries in one segment. Proxies that send a whole client certificate as a TLV exceed the bound,
/// which their operator can turn off; all clouds' TLVs are below 100 bytes.
pub const MAX_V2_BYTES: usize = V2_FIXED_BYTES + 536;

/// The first bytes of a header of version 2.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, and the length of the rest.
const V2_FIXED_BYTES: usize = 16;
/// The first bytes of a header of version 1.
const V1_SIGNATURE: [u8; 6] = *b"PROXY ";
/// Length of the shortest header of version 1: `PROXY UNKNOWN` and CR LF.
const V1_SHORTEST: usize = 15;

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The connection was made on behalf of this client.
    Proxied(SocketAddr),
    /// The proxy itself made the connection, as for a health check (command LOCAL), or it does not tell an Internet
    /// address of its client (UNKNOWN, UNSPEC, AF_UNIX): the connection's own address counts.
    Local,
    /// The header has not ended yet.
    Incomplete,
}

/// Why bytes are not a header. The sender's fault; a retry does not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// The bytes begin neither as version 1 nor as version 2.
    #[error("does not begin with a PROXY protocol header")]
    Missing,
    /// Version 1: longer than [`MAX_V1_BYTES`]. Version 2: longer than [`MAX_V2_BYTES`].
    #[error("PROXY protocol header is too long: send fewer TLVs")]
    TooLong,
    /// The header's fields contradict the specification.
    #[error("PROXY protocol header is malformed")]
    Malformed,
}

/// Reads one header, which may arrive in pieces. Takes no byte beyond the header.
#[derive(Clone, Debug, Default)]
pub struct HeaderReader {
    /// At most [`MAX_V2_BYTES`].
    bytes: Vec<u8>,
}

/// Whether the first bytes of a connection begin a header of either version. `false` if there are too few bytes to say.
pub fn begins_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&V1_SIGNATURE) || bytes.starts_with(&V2_SIGNATURE)
}

// === impl HeaderReader ===

impl HeaderReader {
    /// Whether no byte has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes the header has at least beyond those already taken: so many may be read from a socket without
    /// taking a byte of what follows the header. At least 1 until the header is complete.
    pub fn wants(&self) -> usize {
        let have = self.bytes.len();
        let expected = match self.bytes.first() {
            Some(&first) if first == V2_SIGNATURE[0] => self.v2_length().unwrap_or(V2_FIXED_BYTES),
            // Until the end is seen, CR LF is still to come.
            Some(_) if have >= V1_SHORTEST => have + if self.bytes.ends_with(b"\r") { 1 } else { 2 },
            Some(_) => V1_SHORTEST,
            None => V2_SIGNATURE.len(),
        };
        expected.saturating_sub(have).max(1)
    }

    /// Takes bytes from the front of `input` until the header is complete. The remaining input follows the header.
    ///
    /// # Errors
    /// The bytes are not a header, or the header is longer than the bounds.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Header, BadHeader> {
        loop {
            let (taken, rest) = input.split_at(self.wants().min(input.len()));
            *input = rest;
            self.bytes.extend_from_slice(taken);
            let header = self.judge()?;
            if header != Header::Incomplete || input.is_empty() {
                return Ok(header);
            }
        }
    }

    fn judge(&self) -> Result<Header, BadHeader> {
        let begins = |signature: &[u8]| {
            let common = signature.len().min(self.bytes.len());
            self.bytes[..common] == signature[..common]
        };
        if begins(&V2_SIGNATURE) {
            return self.judge_v2();
        }
        if !begins(&V1_SIGNATURE) {
            return Err(BadHeader::Missing);
        }
        match self.bytes.iter().position(|&byte| byte == b'\n') {
            Some(_) if self.bytes.len() > MAX_V1_BYTES => Err(BadHeader::TooLong),
            Some(end) if end + 1 == self.bytes.len() && self.bytes.ends_with(b"\r\n") => v1(&self.bytes),
            // A line feed alone: bytes of what follows may have been taken.
            Some(_) => Err(BadHeader::Malformed),
            None if self.bytes.len() >= MAX_V1_BYTES => Err(BadHeader::TooLong),
            None => Ok(Header::Incomplete),
        }
    }

    fn judge_v2(&self) -> Result<Header, BadHeader> {
        match self.v2_length() {
            Some(length) if length > MAX_V2_BYTES => Err(BadHeader::TooLong),
            Some(length) if self.bytes.len() >= length => v2(&self.bytes),
            Some(_) | None => Ok(Header::Incomplete),
        }
    }

    /// Length of a whole header of version 2, once its fixed part is there.
    fn v2_length(&self) -> Option<usize> {
        let length = self.bytes.get(V2_FIXED_BYTES - 2..V2_FIXED_BYTES)?;
        Some(V2_FIXED_BYTES + usize::from(u16::from_be_bytes([length[0], length[1]])))
    }
}

fn v1(bytes: &[u8]) -> Result<Header, BadHeader> {
    use ppp::v1::{Addresses, Header as Parsed};
    let parsed = Parsed::try_from(bytes).map_err(|_| BadHeader::Malformed)?;
    Ok(match parsed.addresses {
        Addresses::Tcp4(of) => Header::Proxied((of.source_address, of.source_port).into()),
        Addresses::Tcp6(of) => Header::Proxied((of.source_address, of.source_port).into()),
        Addresses::Unknown => Header::Local,
    })
}

fn v2(bytes: &[u8]) -> Result<Header, BadHeader> {
    use ppp::v2::{Addresses, Command, Header as Parsed, Protocol};
    let parsed = Parsed::try_from(bytes).map_err(|_| BadHeader::Malformed)?;
    if parsed.command == Command::Local || parsed.protocol != Protocol::Stream {
        return Ok(Header::Local);
    }
    Ok(match parsed.addresses {
        Addresses::IPv4(of) => Header::Proxied((of.source_address, of.source_port).into()),
        Addresses::IPv6(of) => Header::Proxied((of.source_address, of.source_port).into()),
        Addresses::Unspecified | Addresses::Unix(_) => Header::Local,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppp::v2::{self, Builder, Command, Protocol, Type, Version};

    const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 50123 1935\r\n";

    fn v2_of(command: Command, addresses: impl Into<v2::Addresses>, tlv: &[u8]) -> Vec<u8> {
        let builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
        builder.write_tlv(Type::NoOp, tlv).unwrap().build().unwrap()
    }

    fn client() -> (SocketAddr, SocketAddr) {
        ("[2001:db8::7]:50123".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap())
    }

    /// The result and what follows the header, with the input in pieces of this size.
    fn read(bytes: &[u8], piece: usize) -> (Result<Header, BadHeader>, Vec<u8>) {
        let mut reader = HeaderReader::default();
        let mut at = 0;
        loop {
            let mut input = &bytes[at..(at + piece).min(bytes.len())];
            let given = input.len();
            let header = reader.read(&mut input);
            at += given - input.len();
            if header != Ok(Header::Incomplete) || at == bytes.len() {
                return (header, bytes[at..].to_vec());
            }
        }
    }

    #[test]
    fn headers_arrive_in_any_pieces_and_what_follows_is_left() {
        let of = |text: &str| Header::Proxied(text.parse().unwrap());
        let cases: [(&[u8], Header); 6] = [
            (V1, of("203.0.113.7:50123")),
            (b"PROXY TCP6 2001:db8::7 ::1 50123 1935\r\n", of("[2001:db8::7]:50123")),
            (b"PROXY UNKNOWN\r\n", Header::Local),
            (b"PROXY UNKNOWN ::1 ::1 1 2\r\n", Header::Local),
            (&v2_of(Command::Proxy, client(), &[7; 200]), of("[2001:db8::7]:50123")),
            (&v2_of(Command::Local, client(), b""), Header::Local),
        ];
        for (bytes, expected) in cases {
            let whole = [bytes, b"\x03 what follows"].concat();
            for piece in 1..=whole.len() {
                let (header, rest) = read(&whole, piece);
                assert_eq!(header, Ok(expected), "in pieces of {piece}");
                assert_eq!(rest, b"\x03 what follows", "in pieces of {piece}");
            }
            for cut in 0..bytes.len() {
                let mut reader = HeaderReader::default();
                assert_eq!(reader.read(&mut &bytes[..cut]), Ok(Header::Incomplete), "{cut} bytes");
                assert!((1..=bytes.len() - cut).contains(&reader.wants()), "{cut} bytes");
            }
        }
    }

    #[test]
    fn families_without_an_internet_address_are_local() {
        let unix = v2::Unix::new([b'a'; 108], [b'b'; 108]);
        assert_eq!(read(&v2_of(Command::Proxy, unix, b""), 9).0, Ok(Header::Local));
        let unspecified = v2_of(Command::Proxy, v2::Addresses::Unspecified, b"x");
        assert_eq!(read(&unspecified, 9).0, Ok(Header::Local));
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_first_wrong_byte() {
        for bytes in [&b"\x03"[..], b"GET / HTTP/1.1", b"PRI * HTTP/2.0", b"PUT", b"\r\n\r\nX"] {
            assert_eq!(read(bytes, 1).0, Err(BadHeader::Missing));
        }
        for bytes in [
            &b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"[..],
            b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\n\0\r\n",
            b"PROXY UNKNOWN\n\0\r\n",
            b"PROXY UNKNOWN \n",
            b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n",
            b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c            ",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b           ",
        ] {
            assert_eq!(read(bytes, 5).0, Err(BadHeader::Malformed));
        }
    }

    #[test]
    fn long_headers_are_refused_before_they_are_read() {
        let endless = [b"PROXY ", &[b'x'; 500][..]].concat();
        let (header, rest) = read(&endless, endless.len());
        assert_eq!((header, endless.len() - rest.len() <= MAX_V1_BYTES + 1), (Err(BadHeader::TooLong), true));

        let longest = MAX_V2_BYTES - V2_FIXED_BYTES - 36 - 3;
        assert!(matches!(
            read(&v2_of(Command::Proxy, client(), &vec![0; longest]), 64).0,
            Ok(Header::Proxied(_))
        ));
        let mut longer = &v2_of(Command::Proxy, client(), &vec![0; longest + 1])[..];
        assert_eq!(HeaderReader::default().read(&mut longer), Err(BadHeader::TooLong));
        assert_eq!(longer.len(), MAX_V2_BYTES + 1 - V2_FIXED_BYTES, "only the fixed part was taken");
    }

    #[test]
    fn a_header_is_told_by_its_signature() {
        assert!(begins_header(V1) && begins_header(&v2_of(Command::Local, client(), b"")));
        assert!(!begins_header(b"PROXYTCP4 ") && !begins_header(b"PRO") && !begins_header(b""));
    }
}
