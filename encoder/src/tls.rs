//! TLS below both public servers: PEM files to handshakes, and new files to new handshakes without a restart. What is
//! spoken inside is in [`crate::origin`] and [`crate::rtmp`]; which files, and what an operator reads when they are bad,
//! is in [`crate::config`].
//!
//! Cryptography is ring's, named wherever rustls asks for a provider: nothing depends on a process-wide default.

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

/// A chain of certificates is some kilobytes; what is longer is another file, or a device that never ends.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Between two looks at the files. Certificates are renewed days before they expire.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why certificate and key cannot be used. The operator's to correct.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, or not readable for us.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// More than a mebibyte.
    #[error("is longer than 1 MiB: not a PEM file")]
    TooLong,
    /// Broken PEM.
    #[error("is not a PEM file")]
    NotPem,
    /// PEM without what is looked for.
    #[error("has no {0}")]
    Missing(&'static str),
    /// A key or certificate that rustls cannot use.
    #[error("cannot be used: {0}")]
    Unusable(rustls::Error),
    /// Each is good by itself.
    #[error("does not belong to the key in --tls-key")]
    Mismatch,
}

/// What a file held, and a hash of it to see that it has changed.
#[derive(Debug)]
struct Pem<T> {
    value: T,
    hash: u64,
}

/// Certificates, the server's own first, out of a file.
#[derive(Debug)]
pub struct Chain(Pem<Vec<CertificateDer<'static>>>);

/// A private key out of a file. `Debug` does not show it.
#[derive(Debug)]
pub struct Key(Pem<PrivateKeyDer<'static>>);

/// The certificate in force, for every handshake from now on. Share it in an `Arc`.
pub struct Identity {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
    /// Hash of the files that `current` is from.
    taken: u64,
}

/// Makes TLS connections out of TCP connections.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

/// A bound port, with or without TLS.
pub struct Listener {
    /// The port.
    pub socket: TcpListener,
    /// With TLS when given.
    pub tls: Option<Acceptor>,
}

// === impl Chain, Key ===

impl Chain {
    /// Reads a file of certificates.
    ///
    /// # Errors
    /// What is wrong with the file.
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
    /// What is wrong with the file.
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

/// Both files as rustls wants them, and a hash of both.
fn certified(chain: Chain, key: &Key) -> Result<(Arc<CertifiedKey>, u64), TlsError> {
    let hash = chain.0.hash ^ key.0.hash.rotate_left(1);
    let certified = CertifiedKey::new(chain.0.value, key.signing()?);
    match certified.keys_match() {
        // ring can tell for every kind of key; what cannot be told is not an error.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(TlsError::Mismatch),
        Err(error) => return Err(TlsError::Unusable(error)),
    }
    Ok((Arc::new(certified), hash))
}

impl Identity {
    /// With what was read from these files.
    ///
    /// # Errors
    /// What is wrong with the certificate: that it cannot be read, or is for another key.
    pub fn new(
        (cert_file, chain): (PathBuf, Chain),
        (key_file, key): (PathBuf, Key),
    ) -> Result<Self, TlsError> {
        let (current, taken) = certified(chain, &key)?;
        Ok(Self { cert_file, key_file, current: RwLock::new(current), taken })
    }

    /// Makes handshakes with whatever certificate is in force then, and these protocols (ALPN), most wanted first.
    ///
    /// # Errors
    /// The machine gives no random numbers.
    pub fn acceptor(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<Acceptor, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        // A player that comes back is spared the key exchange, and we keep nothing for it.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// Looks at the files every ten seconds for as long as it is polled: what has changed and is good comes into force,
    /// what is not leaves the old in force and is logged once.
    pub async fn follow_files(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let mut seen = Seen { taken: self.taken, complaint: None };
        loop {
            looks.tick().await;
            let identity = Arc::clone(&self);
            // The files may be on a network.
            let Ok(found) = tokio::task::spawn_blocking(move || identity.look()).await else { return };
            self.consider(found, &mut seen);
        }
    }

    /// What the files hold now, or what is wrong with which of them.
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
                        error!(problem = found, "new certificate cannot be used: the old one stays in force");
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

/// What was seen of the files.
struct Seen {
    /// Hash of those in force.
    taken: u64,
    /// What was wrong at the last look.
    complaint: Option<Complaint>,
}

/// Said at the second look that finds it, once: the first may have come between the writing of both files.
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
    /// Makes one handshake. Drop it to give up: how long a client may take is the caller's to say.
    ///
    /// # Errors
    /// The client's connection or its idea of TLS.
    pub async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(socket).await
    }
}

// === impl Listener ===

impl Listener {
    /// The next TCP connection. The handshake is left to its task, so that no client holds up another.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }
}

impl From<TcpListener> for Listener {
    fn from(socket: TcpListener) -> Self {
        Self { socket, tls: None }
    }
}

#[cfg(test)]
pub(crate) mod tests;
