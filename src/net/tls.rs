//! Mutual TLS on the peer port: both ends show a certificate of the cluster's own authority that is valid for the
//! one name all its members have. Which member it is, the storage id in the requests tells.
//!
//! TLS 1.3 only, no resumption: every connection is judged anew, by the certificates of that moment. The files are
//! looked at before every handshake and read again when they have changed, so that renewed certificates need no
//! restart; whoever has no files hands renewed ones over. Connections that stand are left alone.
//! Invariant: what cannot be read never replaces what could.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerifier as _};
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme, crypto, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::pki::Identity;
use super::wire::Wire;

/// What HTTP/2 is called in a handshake.
const ALPN: &[u8] = b"h2";
/// The files of a certificate directory; also the keys of a Secret of type `kubernetes.io/tls`.
pub(crate) const CERTIFICATE: &str = "tls.crt";
pub(crate) const KEY: &str = "tls.key";
pub(crate) const AUTHORITY: &str = "ca.crt";

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the certificates in {place}: {reason}; wanted there are {CERTIFICATE}, {KEY} and {AUTHORITY}, PEM, of one cluster"
)]
pub struct TlsError {
    place: String,
    reason: String,
}

/// A handshake that came to nothing.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The connection broke.
    Broken(io::Error),
    /// The ends do not trust or understand each other; in words about the other end.
    Distrust(String),
}

/// The certificates of one end, and whom it believes.
pub struct PeerTls {
    source: Source,
    name: ServerName<'static>,
    loaded: Mutex<Loaded>,
}

/// Where the certificates come from.
enum Source {
    /// Files, looked at again and again.
    Dir(PathBuf),
    /// Handed over; in words for people.
    Given(String),
}

struct Loaded {
    stamp: Option<Stamp>,
    identity: Identity,
    configs: Configs,
}

/// What a handshake goes by.
#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// When each of the files was written; another stamp is another content.
type Stamp = [Option<(i64, i64, u64)>; 3];

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("source", &self.place()).field("name", &self.name).finish_non_exhaustive()
    }
}

impl PeerTls {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` in `dir`; `name` is what every certificate of the cluster is valid
    /// for.
    pub fn open(dir: &Path, name: &str) -> Result<Self, TlsError> {
        let stamp = stamp(dir);
        let error = |reason: String| TlsError { place: dir.display().to_string(), reason };
        let identity = read(dir).map_err(error)?;
        Self::load(Source::Dir(dir.to_owned()), Some(stamp), identity, name).map_err(error)
    }

    /// With the certificates in `identity`, which are from `place`; see [`Self::renew`].
    pub fn given(identity: Identity, place: String, name: &str) -> Result<Self, TlsError> {
        let error = |reason: String| TlsError { place: place.clone(), reason };
        Self::load(Source::Given(place.clone()), None, identity, name).map_err(error)
    }

    fn load(source: Source, stamp: Option<Stamp>, identity: Identity, name: &str) -> Result<Self, String> {
        let name = server_name(name)?;
        let configs = configs(&identity, &name)?;
        Ok(Self { source, name, loaded: Mutex::new(Loaded { stamp, identity, configs }) })
    }

    fn place(&self) -> String {
        match &self.source {
            Source::Dir(dir) => dir.display().to_string(),
            Source::Given(place) => place.clone(),
        }
    }

    /// New connections use the certificates in `identity` from now on; if they cannot be used, the ones before.
    pub fn renew(&self, identity: Identity) -> Result<(), TlsError> {
        self.take(&mut self.loaded.lock(), identity).map_err(|reason| TlsError { place: self.place(), reason })
    }

    fn take(&self, loaded: &mut Loaded, identity: Identity) -> Result<(), String> {
        if identity != loaded.identity {
            loaded.configs = configs(&identity, &self.name)?;
            loaded.identity = identity;
            tracing::info!(place = self.place(), "certificates were renewed: new connections use them");
        }
        Ok(())
    }

    /// What is in the directory now; what was read before if that cannot be used.
    fn current(&self) -> Configs {
        let mut loaded = self.loaded.lock();
        if let Source::Dir(dir) = &self.source {
            // Taken before reading: what changes meanwhile is read again the next time.
            let stamp = Some(stamp(dir));
            if stamp != loaded.stamp {
                loaded.stamp = stamp;
                if let Err(reason) = read(dir).and_then(|identity| self.take(&mut loaded, identity)) {
                    tracing::warn!(
                        place = self.place(),
                        reason,
                        "changed certificates cannot be used (yet): new connections use the ones before"
                    );
                }
            }
        }
        loaded.configs.clone()
    }

    /// The accepting end of a handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Wire, HandshakeError> {
        let stream = TlsAcceptor::from(self.current().server).accept(stream).await.map_err(|e| self.failed(e))?;
        Ok(Wire::Tls { first: bytes::Bytes::new(), stream: Box::new(stream.into()) })
    }

    /// The dialling end of a handshake.
    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<Wire, HandshakeError> {
        let connector = TlsConnector::from(self.current().client);
        let mut stream = connector.connect(self.name.clone(), stream).await.map_err(|e| self.failed(e))?;
        // This end is through before the other one has seen its certificate. A server of HTTP/2 speaks first: what
        // comes tells whether it was accepted.
        let mut first = BytesMut::with_capacity(256);
        if stream.read_buf(&mut first).await.map_err(|e| self.failed(e))? == 0 {
            return Err(HandshakeError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Wire::Tls { first: first.freeze(), stream: Box::new(stream.into()) })
    }

    fn failed(&self, error: io::Error) -> HandshakeError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(tls) => HandshakeError::Distrust(words(tls, &self.name)),
            None => HandshakeError::Broken(error),
        }
    }
}

/// What a failure of TLS says about the other end.
fn words(error: &Error, name: &ServerName<'_>) -> String {
    use CertificateError as Bad;
    let name = name.to_str();
    match error {
        Error::NoCertificatesPresented => "it shows no certificate".into(),
        // An authority of another cluster may have the same name: then it is the signature that is wrong.
        Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            format!("its certificate is not of an authority in {AUTHORITY} here: it is of another cluster")
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            format!("its certificate is not valid for {name}: it is of another cluster")
        }
        Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "its certificate has expired: renew it, or set the clock of this machine".into()
        }
        Error::InvalidCertificate(_) => format!("its certificate is refused: {error}"),
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            format!("it refuses the certificate of this side: that is not of an authority in its {AUTHORITY}")
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it refuses the certificate of this side: that has expired".into()
        }
        Error::AlertReceived(AlertDescription::BadCertificate) => {
            format!("it refuses the certificate of this side: is that valid for its cluster's name? (here {name})")
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => "it wants a certificate of this side".into(),
        Error::AlertReceived(alert) => format!("it ended the handshake: {alert:?}"),
        Error::InvalidMessage(_) => "it does not speak TLS (members with --secret-file speak plainly)".into(),
        Error::PeerIncompatible(_) => format!("it speaks another TLS than 1.3: {error}"),
        other => other.to_string(),
    }
}

fn stamp(dir: &Path) -> Stamp {
    // Followed through links: a mounted Secret changes by switching one.
    [CERTIFICATE, KEY, AUTHORITY].map(|file| {
        let meta = std::fs::metadata(dir.join(file)).ok()?;
        Some((meta.mtime(), meta.mtime_nsec(), meta.ino()))
    })
}

fn read(dir: &Path) -> Result<Identity, String> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).map_err(|e| format!("{name}: {e}"));
    Ok(Identity { certificate_pem: read(CERTIFICATE)?, key_pem: read(KEY)?, authority_pem: read(AUTHORITY)? })
}

fn certificates(pem: &str, file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("{file}: {e}"))?;
    if certificates.is_empty() {
        return Err(format!("{file} holds no certificate"));
    }
    Ok(certificates)
}

fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned()).map_err(|e| format!("the name {name:?}: {e}"))
}

impl Identity {
    /// Whether members of the cluster whose certificates are valid for `name` believe it at the time `at`, if they
    /// believe the authorities in it; why not.
    pub fn check(&self, name: &str, at: SystemTime) -> Result<(), String> {
        let name = server_name(name)?;
        configs(self, &name)?;
        let at = at.duration_since(SystemTime::UNIX_EPOCH).map_err(|e| e.to_string())?;
        let chain = certificates(&self.certificate_pem, CERTIFICATE)?;
        let provider = Arc::new(crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(authorities(self)?), provider)
            .build()
            .map_err(|e| format!("{AUTHORITY}: {e}"))?;
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::since_unix_epoch(at))
            .map_err(|e| words(&e, &name))?;
        Ok(())
    }
}

fn authorities(identity: &Identity) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(&identity.authority_pem, AUTHORITY)? {
        roots.add(authority).map_err(|e| format!("{AUTHORITY}: {e}"))?;
    }
    Ok(roots)
}

fn configs(identity: &Identity, name: &ServerName<'static>) -> Result<Configs, String> {
    let chain = certificates(&identity.certificate_pem, CERTIFICATE)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| format!("{KEY}: {e}"))?;
    let roots = Arc::new(authorities(identity)?);
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|e| format!("{AUTHORITY}: {e}"))?;
    let verifier = Arc::new(NamedClients { of_the_authority: verifier, name: name.clone() });
    let versions = &[&version::TLS13];
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|e| format!("{CERTIFICATE} and {KEY}: {e}"))?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| format!("{CERTIFICATE} and {KEY}: {e}"))?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
}

/// Believes a dialling end that shows a certificate of the authority, valid for the name: an authority that people
/// share between clusters does not let one cluster's members into another.
#[derive(Debug)]
struct NamedClients {
    of_the_authority: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for NamedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.of_the_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.of_the_authority.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_the_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_the_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_the_authority.supported_verify_schemes()
    }
}

/// Writes the files that [`PeerTls::open`] reads.
#[cfg(test)]
pub(crate) fn write_identity(dir: &Path, identity: &Identity) {
    std::fs::create_dir_all(dir).expect("made");
    for (file, text) in
        [(CERTIFICATE, &identity.certificate_pem), (KEY, &identity.key_pem), (AUTHORITY, &identity.authority_pem)]
    {
        let new = dir.join(format!("{file}.new"));
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, dir.join(file)).expect("renamed");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::pki::Authority;

    const NAME: &str = "member.kv-nodes.ns.svc";

    fn issue(authority: &Authority, names: &str) -> Identity {
        let until = SystemTime::now() + Duration::from_secs(3600);
        authority.issue(&[names.into()], "armdb://77/member", until).expect("issued")
    }

    fn tls(identity: &Identity) -> PeerTls {
        PeerTls::given(identity.clone(), "a test".into(), NAME).expect("usable")
    }

    /// What each end says of the other: the accepting one, the dialling one.
    async fn shake(accepting: &PeerTls, dialling: &PeerTls) -> (String, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let accepted = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let wire = accepting.accept(stream).await;
            if let Ok(mut wire) = wire {
                wire.write_all(b"hello").await.expect("sent");
                wire.flush().await.expect("sent");
                let _ = wire.read(&mut [0]).await;
                return String::new();
            }
            told(wire)
        };
        let dialled = async {
            let stream = TcpStream::connect(address).await.expect("connected");
            let wire = dialling.connect(stream).await;
            if let Ok(mut wire) = wire {
                let mut greeting = [0; 5];
                wire.read_exact(&mut greeting).await.expect("the first bytes are not lost");
                assert_eq!(&greeting, b"hello");
                return String::new();
            }
            told(wire)
        };
        tokio::join!(accepted, dialled)
    }

    fn told(wire: Result<Wire, HandshakeError>) -> String {
        match wire {
            Ok(_) => String::new(),
            Err(HandshakeError::Distrust(why)) => why,
            Err(HandshakeError::Broken(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn both_ends_say_what_is_wrong_with_the_other() {
        let authority = Authority::new("kv").expect("made");
        let (certificate, key) = (authority.certificate_pem().to_owned(), authority.key_pem().to_owned());
        let authority = Authority::from_pem("kv", certificate, key);
        let own = tls(&issue(&authority, "*.kv-nodes.ns.svc"));
        assert_eq!(shake(&own, &own).await, (String::new(), String::new()));

        let forged = issue(&Authority::new("kv").expect("made"), "*.kv-nodes.ns.svc");
        let forger = tls(&Identity { authority_pem: authority.certificate_pem().into(), ..forged });
        let (here, there) = shake(&own, &forger).await;
        assert!(here.contains("not of an authority in ca.crt here"), "{here}");
        assert!(there.contains("not of an authority in its ca.crt"), "{there}");
        let (there, here) = shake(&forger, &own).await;
        assert!(here.contains("not of an authority in ca.crt here"), "{here}");
        assert!(there.contains("not of an authority in its ca.crt"), "{there}");

        let neighbour = tls(&issue(&authority, "*.other-nodes.ns.svc"));
        let (here, there) = shake(&own, &neighbour).await;
        assert!(here.contains("not valid for member.kv-nodes.ns.svc"), "{here}");
        assert!(there.contains("valid for its cluster's name"), "{there}");
    }

    #[tokio::test]
    async fn an_end_without_a_certificate_is_told_to_show_one() {
        let identity = issue(&Authority::new("kv").expect("made"), "*.kv-nodes.ns.svc");
        let (own, bare) = (tls(&identity), tls(&identity));
        let mut roots = RootCertStore::empty();
        for authority in certificates(&identity.authority_pem, AUTHORITY).expect("PEM") {
            roots.add(authority).expect("an authority");
        }
        let mut client = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .expect("known")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        bare.loaded.lock().configs.client = Arc::new(client);
        let (here, there) = shake(&own, &bare).await;
        assert_eq!(here, "it shows no certificate");
        assert_eq!(there, "it wants a certificate of this side");
    }

    #[test]
    fn a_directory_that_cannot_be_used_says_which_file_is_wrong() {
        let dir = tempfile::tempdir().expect("a directory");
        let authority = Authority::new("kv").expect("made");
        let identity = issue(&authority, "*.kv-nodes.ns.svc");
        let wrong = |change: &dyn Fn(&mut Identity)| {
            let mut identity = identity.clone();
            change(&mut identity);
            write_identity(dir.path(), &identity);
            PeerTls::open(dir.path(), NAME).expect_err("not usable").to_string()
        };
        let other = issue(&authority, "*.kv-nodes.ns.svc").key_pem;
        for (why, file) in [
            (wrong(&|identity| identity.certificate_pem = "x".into()), "tls.crt holds no certificate"),
            (wrong(&|identity| identity.authority_pem = String::new()), "ca.crt holds no certificate"),
            (wrong(&|identity| identity.key_pem = "x".into()), "tls.key: "),
            (wrong(&|identity| identity.key_pem.clone_from(&other)), "tls.crt and tls.key: "),
        ] {
            assert!(why.contains(file), "{why}");
        }
        std::fs::remove_file(dir.path().join("tls.key")).expect("removed");
        let why = PeerTls::open(dir.path(), NAME).expect_err("not there").to_string();
        assert!(why.contains("tls.key: ") && why.contains(&*dir.path().display().to_string()), "{why}");
    }

    #[tokio::test]
    async fn who_is_handed_renewed_certificates_uses_them_and_never_ones_that_are_no_good() {
        let (old, new) = (Authority::new("kv").expect("made"), Authority::new("kv").expect("made"));
        let (here, there) = (tls(&issue(&old, "*.kv-nodes.ns.svc")), tls(&issue(&new, "*.kv-nodes.ns.svc")));
        assert_ne!(shake(&here, &there).await.0, "");
        let mut fresh = issue(&new, "*.kv-nodes.ns.svc");
        here.renew(fresh.clone()).expect("usable");
        assert_eq!(shake(&here, &there).await, (String::new(), String::new()));
        fresh.key_pem = issue(&new, "*.kv-nodes.ns.svc").key_pem;
        let error = here.renew(fresh).expect_err("another key").to_string();
        assert!(error.contains("a test") && error.contains("tls.key"), "{error}");
        assert_eq!(shake(&here, &there).await, (String::new(), String::new()));
    }

    #[test]
    fn a_certificate_is_good_until_its_end_for_its_name_and_of_its_authority() {
        let authority = Authority::new("kv").expect("made");
        let now = SystemTime::now();
        let until = now + Duration::from_secs(3600);
        let identity = authority.issue(&["*.kv-nodes.ns.svc".into()], "armdb://77/member", until).expect("issued");
        assert_eq!(identity.check(NAME, now), Ok(()));
        assert_eq!(identity.check(NAME, until - Duration::from_secs(1)), Ok(()));
        let why = |identity: &Identity, name, at| identity.check(name, at).expect_err("no good");
        assert!(why(&identity, NAME, until + Duration::from_secs(2)).contains("expired"));
        assert!(why(&identity, "member.other-nodes.ns.svc", now).contains("not valid for"));
        assert!(why(&identity, "no name", now).contains("no name"));
        let other = Authority::new("kv").expect("made").certificate_pem().to_owned();
        assert!(why(&Identity { authority_pem: other.clone(), ..identity.clone() }, NAME, now).contains("not of an"));
        // Of one of several that are believed.
        let both = other + authority.certificate_pem();
        assert_eq!(Identity { authority_pem: both, ..identity }.check(NAME, now), Ok(()));
    }

    #[test]
    fn keys_are_not_told_to_logs() {
        let authority = Authority::new("kv").expect("made");
        let identity = issue(&authority, "*.kv-nodes.ns.svc");
        assert!(!format!("{authority:?} {identity:?} {:?}", tls(&identity)).contains("PRIVATE"));
    }
}
