//! The secret that encoders and edges share: it seals the addresses that encoders leave in the store, and lets edges ask
//! encoders. What is sealed and who is asked does not belong here.
//!
//! From each line of the secret two keys are derived (HKDF, RFC 5869), so that the token, which travels in requests,
//! opens no sealed address. An address is sealed with ChaCha20-Poly1305 (RFC 8439) under a random nonce, together with
//! the name of its stream: viewers may read the store, and neither learn the address nor move it to another stream.

use admission::secret::{self, BadSecret};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Bytes of a derived key.
const KEY: usize = 32;

/// A secret that encoders and edges share. The first line seals and asks, every line opens and is answered: so a new
/// line can be added everywhere before it is moved to the front. `Debug` shows nothing of it.
#[derive(Clone)]
pub(crate) struct EdgeSecret(Arc<[Line]>);

struct Line {
    seal: LessSafeKey,
    token: String,
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY
    }
}

impl EdgeSecret {
    /// Reads a secret: one line, or during a change several.
    ///
    /// # Errors
    /// See [`BadSecret`].
    pub(crate) fn parse(text: &str) -> Result<Self, BadSecret> {
        Ok(Self(secret::lines(text)?.into_iter().map(Line::derive).collect()))
    }

    /// Seals an encoder's address for the record of the stream `{app}/{name}`.
    pub(crate) fn seal(&self, stream: &str, address: SocketAddr) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut text = address.to_string().into_bytes();
        let key = &self.0.first()?.seal;
        let aad = Aad::from(stream.as_bytes());
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat()))
    }

    /// Opens an address that was sealed with any line, for the same stream. `None` if it was not.
    pub(crate) fn open(&self, stream: &str, sealed: &str) -> Option<SocketAddr> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|line| {
            let mut text = text.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let opened = line.seal.open_in_place(nonce, Aad::from(stream.as_bytes()), &mut text).ok()?;
            std::str::from_utf8(opened).ok()?.parse().ok()
        })
    }

    /// What an edge sends with its requests.
    pub(crate) fn token(&self) -> &str {
        self.0.first().map_or("", |line| &line.token)
    }

    /// Whether `token` was derived from one of the lines. Digests are compared, so that the time which the comparison
    /// takes says nothing about the token.
    pub(crate) fn is_token(&self, token: &str) -> bool {
        let hashed = |text: &str| digest(&SHA256, text.as_bytes());
        let given = hashed(token);
        self.0.iter().any(|line| hashed(&line.token).as_ref() == given.as_ref())
    }
}

impl fmt::Debug for EdgeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EdgeSecret(..)")
    }
}

impl Line {
    fn derive(line: &str) -> Self {
        let derived = |purpose: &[u8]| {
            let mut key = [0; KEY];
            let prk = Salt::new(HKDF_SHA256, b"encoder edge").extract(line.as_bytes());
            let purposes = [purpose];
            let okm = prk.expand(&purposes, KeyLength).expect("32 bytes are fewer than HKDF can give");
            okm.fill(&mut key).expect("the lengths are equal");
            key
        };
        let seal = UnboundKey::new(&CHACHA20_POLY1305, &derived(b"seal")).expect("a key has 32 bytes");
        Self { seal: LessSafeKey::new(seal), token: URL_SAFE_NO_PAD.encode(derived(b"token")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "the secret of last year";
    const NEW: &str = "the secret of this year";

    #[test]
    fn an_address_opens_for_its_own_stream_with_the_same_secret() {
        let secret = EdgeSecret::parse(OLD).unwrap();
        for address in ["10.0.0.7:8080", "[2001:db8::7]:8080"] {
            let address = address.parse().unwrap();
            let sealed = secret.seal("live/demo", address).unwrap();
            assert!(!sealed.contains("10.0") && sealed.is_ascii());
            assert_eq!(secret.open("live/demo", &sealed), Some(address));
            assert_eq!(secret.open("live/other", &sealed), None, "moved to another stream");
            assert_eq!(EdgeSecret::parse(NEW).unwrap().open("live/demo", &sealed), None);
            assert_ne!(secret.seal("live/demo", address), Some(sealed), "sealed alike twice");
        }
        for nonsense in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ä"] {
            assert_eq!(secret.open("live/demo", nonsense), None);
        }
    }

    #[test]
    fn a_secret_changes_without_a_moment_in_which_one_side_does_not_know_the_other() {
        let [old, both, turned, new] =
            [OLD.to_owned(), format!("{OLD}\n{NEW}\n"), format!("{NEW}\n{OLD}"), NEW.to_owned()]
                .map(|text| EdgeSecret::parse(&text).unwrap());
        let steps = [old, both, turned, new];
        for pair in steps.windows(2) {
            for (one, other) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                assert!(one.is_token(other.token()));
                let address = "10.0.0.7:1".parse().unwrap();
                assert_eq!(one.open("a/b", &other.seal("a/b", address).unwrap()), Some(address));
            }
        }
        assert!(!steps[0].is_token(steps[3].token()) && !steps[0].is_token(""));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_a_secret_is_not_shown() {
        let refused = |text: &str| EdgeSecret::parse(text).unwrap_err();
        assert_eq!(refused(" \n\n"), BadSecret::Empty);
        assert_eq!(refused("short\n"), BadSecret::Short);
        assert_eq!(refused(&format!("{OLD}\n").repeat(9)), BadSecret::Long);
        assert!(!format!("{:?}", EdgeSecret::parse(OLD).unwrap()).contains("year"));
    }
}
