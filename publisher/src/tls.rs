//! TLS to a server: which authorities are trusted, and what went wrong, in words. RTMP inside TLS does not belong here.
//!
//! The cryptography is ring's, passed explicitly: nothing depends on a process-wide default.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes TLS connections to servers whose certificates trusted authorities have signed.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl Connector {
    /// Trusts the certificates in a PEM file, or without one the authorities that the system trusts.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate, or the system trusts nobody; in words.
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match authorities {
            Some(file) => {
                let named = |what: &str| format!("--tls-ca {}: {what}", file.display());
                let text = std::fs::read(file).map_err(|error| named(&error.to_string()))?;
                for certificate in CertificateDer::pem_slice_iter(&text) {
                    let certificate = certificate.map_err(|_| named("is not a PEM file"))?;
                    roots.add(certificate).map_err(|error| named(&error.to_string()))?;
                }
                if roots.is_empty() {
                    return Err(named("has no certificate"));
                }
            }
            None => {
                // What cannot be read is left out, as in browsers: the rest may be enough.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    return Err(
                        "this system has no certificates of authorities: name some with --tls-ca".into()
                    );
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Makes the handshake with the server of this name.
    ///
    /// # Errors
    /// The reason, in words.
    pub(super) async fn connect(
        &self,
        host: &str,
        socket: TcpStream,
    ) -> Result<Box<TlsStream<TcpStream>>, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| "a certificate cannot be for a host of this name".to_owned())?;
        self.0.connect(name, socket).await.map(Box::new).map_err(|error| reason(&error))
    }
}

fn reason(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(wrong)) => match wrong {
            CertificateError::UnknownIssuer => {
                "its certificate is signed by nobody whom this machine trusts (--tls-ca FILE trusts others)"
                    .into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet, or this machine's clock is wrong".into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another host".into()
            }
            other => format!("its certificate cannot be trusted: {other:?}"),
        },
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS at this port".into(),
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the TLS handshake: it may not speak TLS at this port".into()
        }
        None => error.to_string(),
    }
}
