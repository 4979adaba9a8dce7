//! Certificates that nobody trusts.

use std::path::{Path, PathBuf};

/// A certificate for `localhost` and its key, written into files.
#[derive(Debug)]
pub struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    /// A new one.
    pub fn new() -> Self {
        let certificate = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        certificate.renew();
        certificate
    }

    /// Replaces both files.
    pub fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(self.file(), made.cert.pem()).expect("the file can be written");
        std::fs::write(self.key_file(), made.signing_key.serialize_pem()).expect("the file can be written");
    }

    /// The certificate's file.
    pub fn file(&self) -> PathBuf {
        self.path().join("tls.crt")
    }

    /// The key's file.
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
