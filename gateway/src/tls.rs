//! TLS with rustls: builds the configuration of the server from a PEM chain and key (`rules/http.md#tls`).

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio_rustls::TlsAcceptor;

/// The ALPN protocol ID of HTTP/2 (RFC 9113).
pub(crate) const H2: &[u8] = b"h2";
/// The ALPN protocol ID of HTTP/1.1 (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";

/// A certificate chain with its key, ready for connections: TLS 1.2 and 1.3.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    expires_unix_seconds: i64,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("expires", &self.expires_unix_seconds).finish_non_exhaustive()
    }
}

/// Why a chain and a key cannot be used. Each message follows `<path>: `.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The chain holds no certificate.
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    /// A certificate of the chain cannot be read.
    #[error("holds a certificate that cannot be read: {0}")]
    Certificate(String),
    /// The key file holds no readable private key.
    #[error("holds no readable private key in PEM form")]
    NoKey,
    /// The key is not that of the certificate, or rustls does not support it.
    #[error("does not fit the certificate, or is not supported: {0}")]
    Key(String),
    /// The library offers none of the versions of TLS that are needed.
    #[error("cannot be used: TLS 1.2 and 1.3 are not available: {0}")]
    Versions(String),
}

impl TlsError {
    /// Whether the key is at fault rather than the chain.
    #[must_use]
    pub fn concerns_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::Key(_))
    }
}

impl Tls {
    /// Reads a certificate chain and a key, both PEM. Offers HTTP/2 only with `keep_alive`.
    ///
    /// # Errors
    /// Fails when one of them is missing or unreadable, or they do not belong together.
    pub fn from_pem(chain: &[u8], key: &[u8], keep_alive: bool) -> Result<Self, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let expires = expiry(chain.first().ok_or(TlsError::NoCertificate)?)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| TlsError::Versions(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::Key(error.to_string()))?;
        let protocols = if keep_alive { &[H2, HTTP_1_1][..] } else { &[HTTP_1_1] };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self { config: Arc::new(config), expires_unix_seconds: expires })
    }

    /// The moment after which clients refuse the certificate, in seconds since 1970.
    #[must_use]
    pub fn expires_unix_seconds(&self) -> i64 {
        self.expires_unix_seconds
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let read = x509_parser::parse_x509_certificate(certificate);
    let (_, certificate) = read.map_err(|error| TlsError::Certificate(error.to_string()))?;
    Ok(certificate.validity().not_after.timestamp())
}
