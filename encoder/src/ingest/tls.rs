//! TLS for both public servers: loads PEM files, makes handshakes, and uses renewed files without a restart. The
//! protocols inside TLS are in [`crate::origin`] and [`rtmp`]; the choice of files and the operator's error
//! messages are in [`crate::config`].
//!
//! The cryptography is ring's, passed explicitly wherever rustls takes a provider: nothing depends on a process-wide
//! default.

use crate::listener::ListenerSettings;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info};

/// Largest file that is read, in bytes. A certificate chain is some kilobytes; a longer file is not one, or is an
/// endless device.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Interval between checks of the files. Certificates are renewed days before they expire.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why a certificate and a key cannot be used. The operator has to correct the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file does not exist or may not be read by this process.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is larger than 1 MiB.
    #[error("is longer than 1 MiB: not a PEM file")]
    TooLong,
    /// The PEM is broken.
    #[error("is not a PEM file")]
    NotPem,
    /// The PEM lacks a certificate or a private key.
    #[error("has no {0}")]
    Missing(&'static str),
    /// rustls cannot use the key or the certificate.
    #[error("cannot be used: {0}")]
    Unusable(rustls::Error),
    /// Certificate and key are each valid but do not belong together.
    #[error("does not belong to the key in --tls-key")]
    Mismatch,
}

/// The content of a file and its hash, to notice changes.
#[derive(Debug)]
struct Pem<T> {
    value: T,
    hash: u64,
}

/// A certificate chain from a file, the server's own certificate first.
#[derive(Debug)]
pub struct Chain(Pem<Vec<CertificateDer<'static>>>);

/// A private key from a file. `Debug` does not show the key.
#[derive(Debug)]
pub struct Key(Pem<PrivateKeyDer<'static>>);

/// The certificate in force for all new handshakes. Share it in an `Arc`.
pub struct Identity {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    /// The hash of the files from which `current` was first read.
    taken: u64,
}

/// Turns TCP connections into TLS connections.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// A bound port, with or without TLS.
pub struct Listener {
    /// The listening socket.
    pub socket: TcpListener,
    /// Set for a port with TLS.
    pub tls: Option<Acceptor>,
    /// The listener's name, and the proxies in front.
    pub settings: ListenerSettings,
}

// === impl Chain, Key ===

impl Chain {
    /// Reads a file of certificates.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 1 MiB, is not PEM, or has no certificate.
    pub fn read(file: &Path) -> Result<Self, TlsError> {
        let bytes = read(file)?;
        let value: Vec<_> =
            CertificateDer::pem_slice_iter(&bytes).collect::<Result<_, _>>().map_err(|_| TlsError::NotPem)?;
        if value.is_empty() {
            return Err(TlsError::Missing("certificate"));
        }
        Ok(Self(Pem { value, hash: hash(&bytes) }))
    }
}

impl Key {
    /// Reads a file with a private key: PKCS #8, PKCS #1 or SEC1.
    ///
    /// # Errors
    /// The file cannot be read, is longer than 1 MiB, is not PEM, has no private key, or has a key that rustls cannot
    /// use.
    pub fn read(file: &Path) -> Result<Self, TlsError> {
        let bytes = read(file)?;
        let value = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::Missing("private key"),
            _ => TlsError::NotPem,
        })?;
        let key = Self(Pem { value, hash: hash(&bytes) });
        key.signing()?;
        Ok(key)
    }

    fn signing(&self) -> Result<Arc<dyn rustls::sign::SigningKey>, TlsError> {
        provider().key_provider.load_private_key(self.0.value.clone_key()).map_err(TlsError::Unusable)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(TlsError::TooLong) } else { Ok(bytes) }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

// === impl Identity ===

/// Both files as rustls needs them, and a hash of both.
fn certified(chain: Chain, key: &Key) -> Result<(Arc<CertifiedKey>, u64), TlsError> {
    let hash = chain.0.hash ^ key.0.hash.rotate_left(1);
    let certified = CertifiedKey::new(chain.0.value, key.signing()?);
    match certified.keys_match() {
        // ring can compare every kind of key; a pair that cannot be compared is not an error.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(TlsError::Mismatch),
        Err(error) => return Err(TlsError::Unusable(error)),
    }
    Ok((Arc::new(certified), hash))
}

impl Identity {
    /// Makes an identity from the contents of these files.
    ///
    /// # Errors
    /// The certificate or the key cannot be used, or they do not belong together.
    pub fn new(
        (cert_file, chain): (PathBuf, Chain),
        (key_file, key): (PathBuf, Key),
    ) -> Result<Self, TlsError> {
        let (current, taken) = certified(chain, &key)?;
        Ok(Self { cert_file, key_file, current: RwLock::new(current), taken })
    }

    /// Makes handshakes with the certificate in force at that time and with these protocols (ALPN), most preferred
    /// first.
    ///
    /// # Errors
    /// The machine provides no random numbers.
    pub fn acceptor(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<Acceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // Session tickets: a returning player is spared the full handshake, and the server keeps no state per
        // session.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// Checks the files every ten seconds as long as the future is polled. A valid change comes into force; an
    /// invalid one leaves the old certificate in force and is logged once.
    pub async fn follow_files(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut seen = Seen { taken: self.taken, complaint: None };
        loop {
            looks.tick().await;
            let identity = Arc::clone(&self);
            // Reading may block: the files may be on a network.
            let Ok(found) = tokio::task::spawn_blocking(move || identity.look()).await else { return };
            self.consider(found, &mut seen);
        }
    }

    /// Reads both files; the error names the bad file and the problem.
    fn look(&self) -> Result<(Arc<CertifiedKey>, u64), String> {
        let of = |file: &Path, error: TlsError| format!("{} {error}", file.display());
        let chain = Chain::read(&self.cert_file).map_err(|error| of(&self.cert_file, error))?;
        let key = Key::read(&self.key_file).map_err(|error| of(&self.key_file, error))?;
        certified(chain, &key).map_err(|error| of(&self.cert_file, error))
    }

    fn consider(&self, found: Result<(Arc<CertifiedKey>, u64), String>, seen: &mut Seen) {
        match found {
            Ok((_, hash)) if hash == seen.taken => seen.complaint = None,
            Ok((certified, hash)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified;
                *seen = Seen { taken: hash, complaint: None };
                count("taken");
                info!(certificate = %self.cert_file.display(), "new certificate is in force");
            }
            Err(found) => match &mut seen.complaint {
                Some(complaint) if complaint.text == found => {
                    if !complaint.said {
                        complaint.said = true;
                        count("refused");
                        error!(
                            problem = found,
                            "new certificate cannot be used: the old one stays in force until the files are mended"
                        );
                    }
                }
                complaint => *complaint = Some(Complaint { text: found, said: false }),
            },
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("encoder_certificate_changes_total", "outcome" => outcome).increment(1);
}

/// What the checks of the files have found.
struct Seen {
    /// The hash of the files in force.
    taken: u64,
    /// The problem found by the last check.
    complaint: Option<Complaint>,
}

/// A problem with the files. It is logged once, when a second check finds it again: the first check may have happened
/// between the writes of the two files.
struct Complaint {
    text: String,
    said: bool,
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert_file", &self.cert_file).finish_non_exhaustive()
    }
}

// === impl Acceptor ===

impl Acceptor {
    /// Makes one handshake. The caller sets the time-out: dropping the future gives up.
    ///
    /// # Errors
    /// The client's connection failed, or the client violates TLS or shares no version, cipher suite or protocol with
    /// the server.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(socket).await
    }
}

// === impl Listener ===

impl Listener {
    /// Accepts the next TCP connection. The handshake belongs in the connection's own task, so that no client delays
    /// another.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None, settings: ListenerSettings::direct("plain") }
    }
}

#[cfg(test)]
pub(crate) mod tests;
