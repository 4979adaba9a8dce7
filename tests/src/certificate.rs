//! Self-signed certificates, which no client trusts by default.

use std::path::{Path, PathBuf};

/// A certificate for `localhost` and its key, stored in files.
#[derive(Debug)]
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    /// Generates a certificate and a key.
    pub fn new() -> Self {
        let certificate = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        certificate.renew();
        certificate
    }

    /// Replaces both files with a new certificate and key.
    pub fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.file(), made.cert.pem()).expect("the file can be written");
        std::fs::write(self.key_file(), made.signing_key.serialize_pem()).expect("the file can be written");
    }

    /// Path of the certificate file.
    pub fn file(&self) -> PathBuf {
        self.path().join("tls.crt")
    }

    /// Path of the key file.
    pub fn key_file(&self) -> PathBuf {
        self.path().join("tls.key")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}
