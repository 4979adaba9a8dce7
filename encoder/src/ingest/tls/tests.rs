use super::*;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use std::fs;
use tokio_rustls::{TlsConnector, client};

/// Files with a certificate for `localhost` and its key.
pub(crate) struct Files {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = Self { cert: folder.path().join("tls.crt"), key: folder.path().join("tls.key"), folder };
        files.renew();
        files
    }

    pub(crate) fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&self.cert, made.cert.pem()).unwrap();
        fs::write(&self.key, made.signing_key.serialize_pem()).unwrap();
    }

    pub(crate) fn identity(&self) -> Result<Identity, TlsError> {
        let (chain, key) = (Chain::read(&self.cert)?, Key::read(&self.key)?);
        Identity::new((self.cert.clone(), chain), (self.key.clone(), key))
    }

    /// Connects a client that trusts only the certificate now in the file.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        protocols: &[&[u8]],
    ) -> io::Result<client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.cert).unwrap() {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
    }
}

/// Whether a client that trusts only `trusted` completes a handshake.
async fn shakes_hands(identity: &Arc<Identity>, trusted: &Files) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = identity.acceptor(&[b"h2"]).unwrap();
    let server = async { acceptor.accept(listener.accept().await.unwrap().0).await };
    let (server, client) = tokio::join!(server, trusted.connect(address, &[b"h2"]));
    if let Ok(client) = &client {
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }
    server.is_ok() && client.is_ok()
}

#[test]
fn each_mistake_is_named() {
    let files = Files::new();
    let problem = |cert: &str, key: &str| {
        let file = |name: &str, text: &str| {
            let path = files.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (cert, key) = (file("cert", cert), file("key", key));
        let read = Chain::read(&cert).and_then(|chain| Ok((chain, Key::read(&key)?)));
        read.and_then(|(chain, key_read)| Identity::new((cert, chain), (key, key_read)))
            .unwrap_err()
            .to_string()
    };
    let (cert, key) = (fs::read_to_string(&files.cert).unwrap(), fs::read_to_string(&files.key).unwrap());
    let other_key = {
        let other = Files::new();
        fs::read_to_string(&other.key).unwrap()
    };
    let not_der = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let cases = [
        (&*cert, &*other_key, "does not belong to the key in --tls-key"),
        (&cert, &cert, "has no private key"),
        (&key, &key, "has no certificate"),
        ("", &key, "has no certificate"),
        (&cert, "", "has no private key"),
        ("-----BEGIN CERTIFICATE-----\n$$$\n-----END CERTIFICATE-----\n", &key, "is not a PEM file"),
        (not_der, &key, "cannot be used: "),
        (&cert, &not_der.replace("CERTIFICATE", "PRIVATE KEY"), "cannot be used: "),
        (&" ".repeat(MAX_FILE_BYTES as usize + 1), &key, "is longer than 1 MiB: not a PEM file"),
    ];
    for (cert, key, expected) in cases {
        let told = problem(cert, key);
        assert!(told.starts_with(expected), "{told:?} is not {expected:?}");
    }
    let gone = Chain::read(&files.folder.path().join("none")).unwrap_err().to_string();
    assert!(gone.starts_with("cannot be read: "), "{gone}");
    assert!(Chain::read(Path::new("/dev/zero")).unwrap_err().to_string().contains("1 MiB"));
    assert!(files.identity().is_ok());
}

#[test]
fn the_key_is_not_printed() {
    let files = Files::new();
    let shown = format!("{:?} {:?}", Key::read(&files.key).unwrap(), files.identity().unwrap());
    let secret = fs::read_to_string(&files.key).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    assert!(!shown.contains(secret) && shown.len() < 300, "{shown}");
}

#[tokio::test]
async fn renewed_files_come_into_force_and_broken_ones_do_not() {
    let files = Files::new();
    let identity = Arc::new(files.identity().unwrap());
    let mut seen = Seen { taken: identity.taken, complaint: None };
    let mut look = |identity: &Identity| {
        identity.consider(identity.look(), &mut seen);
        seen.complaint.as_ref().is_some_and(|complaint| complaint.said)
    };
    assert!(!look(&identity), "nothing has changed");
    assert!(shakes_hands(&identity, &files).await);

    // The certificate and then the key, as a tool writes them that is not atomic.
    let old = Files::new();
    fs::copy(&files.cert, &old.cert).unwrap();
    let key = fs::read(&files.key).unwrap();
    files.renew();
    let new_key = fs::read(&files.key).unwrap();
    fs::write(&files.key, key).unwrap();
    assert!(!look(&identity), "between both files nothing is said yet");
    assert!(shakes_hands(&identity, &old).await, "the old one is in force");
    assert!(look(&identity), "it stays like that: said");
    fs::write(&files.key, new_key).unwrap();
    assert!(!look(&identity));
    assert!(shakes_hands(&identity, &files).await, "the new one is in force");
    assert!(!shakes_hands(&identity, &old).await, "and the old one is not");

    fs::copy(&files.cert, &old.cert).unwrap();
    fs::write(&files.cert, "rubbish").unwrap();
    assert!(!look(&identity));
    assert!(look(&identity), "said at the second look");
    assert!(shakes_hands(&identity, &old).await, "what was good stays in force");
    files.renew();
    assert!(!look(&identity));
    assert!(shakes_hands(&identity, &files).await);
}
