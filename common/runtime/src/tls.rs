//! TLS 1.3, with aws-lc-rs underneath; mutual where both ends are ours. RADIUS clients may be let in with TLS 1.2, where
//! the configuration says so.

mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use cloakway_types::Timestamp;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
pub use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;

/// Why TLS cannot be set up. Names the file; shows nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable, or not PEM of the kind wanted.
    #[error("{path}: {wanted} expected: {reason}")]
    File {
        /// The file.
        path: String,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The parts do not fit together, such as a key of another certificate.
    #[error("{path}: {reason}")]
    Mismatch {
        /// The certificate's file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// A certificate chain and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain, the own certificate first.
    pub certificate: PathBuf,
    /// The private key: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

type Parts = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    fn read(&self) -> Result<Parts, TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| TlsError::File {
            path: self.key.display().to_string(),
            wanted: "a private key in PEM",
            reason: e.to_string(),
        })?;
        Ok((certificates(&self.certificate)?, key))
    }

    fn mismatch(&self, error: &rustls::Error) -> TlsError {
        TlsError::Mismatch { path: self.certificate.display().to_string(), reason: error.to_string() }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed =
        |reason: String| TlsError::File { path: path.display().to_string(), wanted: "certificates in PEM", reason };
    let list: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e: rustls::pki_types::pem::Error| failed(e.to_string()))?;
    if list.is_empty() { Err(failed("there is none".to_owned())) } else { Ok(list) }
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|e| TlsError::File {
            path: path.display().to_string(),
            wanted: "certificates of an authority",
            reason: e.to_string(),
        })?;
    }
    Ok(Arc::new(store))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A server's side. With `client_ca`, only clients with a certificate of that authority get in.
///
/// # Errors
/// [`TlsError`].
pub fn server(identity: &Identity, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS13)
        .map_err(|e| identity.mismatch(&e))?;
    let (chain, key) = identity.read()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider())
                .build()
                .map_err(|e| TlsError::Mismatch { path: path.display().to_string(), reason: e.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| identity.mismatch(&e))?;
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}

const HTTP1: &[u8] = b"http/1.1";
/// The name of HTTP/2 (RFC 9113 §3.1).
pub(crate) const HTTP2: &[u8] = b"h2";

/// The same server's side, which speaks HTTP/2 where the client does.
pub(crate) fn with_http2(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Arc::new(config)
}

/// A server's side for RADIUS under TLS (RFC 6614): only clients with a certificate of `client_ca` get in. Equipment that
/// has no TLS 1.3 yet does with `tls12`; nothing older is spoken.
///
/// # Errors
/// [`TlsError`].
pub fn radius_server(identity: &Identity, client_ca: &Path, tls12: bool) -> Result<Arc<ServerConfig>, TlsError> {
    let versions = if tls12 { rustls::ALL_VERSIONS } else { TLS13 };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|e| identity.mismatch(&e))?;
    let (chain, key) = identity.read()?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(client_ca)?, provider())
        .build()
        .map_err(|e| TlsError::Mismatch { path: client_ca.display().to_string(), reason: e.to_string() })?;
    let builder = builder.with_client_cert_verifier(verifier);
    let mut config = builder.with_single_cert(chain, key).map_err(|e| identity.mismatch(&e))?;
    // These connections stay. FreeRADIUS 3.2 as a client reads a ticket and may leave the answer behind it unread.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The server's side that new connections are taken with; it can be exchanged while they come. Clones share it.
#[derive(Debug, Clone)]
pub struct Current(Arc<RwLock<Arc<ServerConfig>>>);

impl From<Arc<ServerConfig>> for Current {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(RwLock::new(config)))
    }
}

impl Current {
    /// What is in force now.
    #[must_use]
    pub fn get(&self) -> Arc<ServerConfig> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts `config` in force for connections from now on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = config;
    }
}

/// Sees to it that clients may believe the certificate of `identity` at the time `now`: that it is valid then, and for
/// all `names`. Gives the time until which it is.
///
/// # Errors
/// [`TlsError`].
pub fn valid_until(identity: &Identity, names: &[String], now: Timestamp) -> Result<Timestamp, TlsError> {
    let path = &identity.certificate;
    let wrong = |reason: String| TlsError::Mismatch { path: path.display().to_string(), reason };
    let chain = certificates(path)?;
    let mut until = Timestamp::from_millis(u64::MAX);
    for certificate in &chain {
        let (from, to) = validity::of(certificate).ok_or_else(|| wrong("a certificate without dates".to_owned()))?;
        if now < from {
            return Err(wrong(format!("a certificate in it is valid from {from} on, and it is {now}")));
        }
        if to < now {
            return Err(wrong(format!("a certificate in it was valid until {to}, and it is {now}")));
        }
        until = until.min(to);
    }
    let own = chain.first().and_then(|own| webpki::EndEntityCert::try_from(own).ok());
    let own = own.ok_or_else(|| wrong("the first certificate in it is none of a server".to_owned()))?;
    for name in names {
        let name_of = ServerName::try_from(name.as_str());
        if !name_of.is_ok_and(|name| own.verify_is_valid_for_subject_name(&name).is_ok()) {
            return Err(wrong(format!("the certificate is not valid for {name}")));
        }
    }
    Ok(until)
}

/// A client's side: trusts the authorities in the file `ca`, shows `identity` when the server asks.
///
/// # Errors
/// [`TlsError`].
pub fn client(ca: &Path, identity: Option<&Identity>) -> Result<ClientConfig, TlsError> {
    let failed = |e: rustls::Error| TlsError::Mismatch { path: ca.display().to_string(), reason: e.to_string() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS13)
        .map_err(failed)?
        .with_root_certificates(roots(ca)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let (chain, key) = identity.read()?;
            builder.with_client_auth_cert(chain, key).map_err(|e| identity.mismatch(&e))
        }
    }
}

/// A connection under TLS, of either end.
pub type Stream = tokio_rustls::TlsStream<TcpStream>;

/// Takes a connection of a protocol of ours from a client, which has to name the protocol too (ALPN, RFC 7301), so that what
/// is said in one is never heard in another.
///
/// # Errors
/// The client is not let in.
pub async fn accept(config: &Arc<ServerConfig>, protocol: &[u8], stream: TcpStream) -> io::Result<Stream> {
    let mut config = ServerConfig::clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    speaks(protocol, stream.get_ref().1.alpn_protocol())?;
    Ok(stream.into())
}

/// Opens a connection of a protocol of ours to the server of that name; see [`accept`].
///
/// # Errors
/// The server is not who it should be, or lets us not in. It may say so only when something is read.
pub async fn connect(config: &ClientConfig, name: &str, protocol: &[u8], stream: TcpStream) -> io::Result<Stream> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut config = config.clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    speaks(protocol, stream.get_ref().1.alpn_protocol())?;
    Ok(stream.into())
}

fn speaks(wanted: &[u8], agreed: Option<&[u8]>) -> io::Result<()> {
    if agreed == Some(wanted) { Ok(()) } else { Err(io::Error::other("the other end speaks another protocol")) }
}

/// Takes a connection of a protocol that names itself by its port.
///
/// # Errors
/// The client is not let in.
pub async fn accept_any(config: &Arc<ServerConfig>, stream: TcpStream) -> io::Result<Stream> {
    Ok(tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await?.into())
}

/// The certificate that the other end showed, as DER.
#[must_use]
pub fn peer_certificate(stream: &Stream) -> Option<&CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates()?.first()
}

/// Whether `name` can be that of a server's certificate.
#[must_use]
pub fn is_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// The first of `names` that `certificate` is valid for.
#[must_use]
pub fn name_of<'n>(certificate: &CertificateDer<'_>, names: &'n [String]) -> Option<&'n str> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    names.iter().map(String::as_str).find(|name| {
        ServerName::try_from(*name).is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    })
}
