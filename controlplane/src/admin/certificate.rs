//! The certificate that the admin server shows: the operator's, or one made here at first start.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tracing::{info, warn};

use crate::store::{self, Store};

/// The certificate made here.
pub const CERTIFICATE: &str = "admin-cert.pem";
/// Its private key.
const KEY: &str = "admin-key.pem";

/// Why there is no certificate to show.
#[derive(Debug, Error)]
pub enum Error {
    /// The operator's file cannot be used.
    #[error("{}: {cause}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Certificate and key do not fit together, or are of a kind that TLS cannot use.
    #[error("{} with {}: {cause}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong with them.
        cause: rustls::Error,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Making(#[from] rcgen::Error),
    /// A certificate that was made here cannot be kept.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// TLS with the operator's certificate and key.
///
/// # Errors
///
/// When a file cannot be read, holds no certificate or key, or the two do not fit together.
pub fn given(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, Error> {
    let chain = chain(certificate)?;
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|_| unusable(key, "holds no private key in PEM form"))?;
    server(chain, secret).map_err(|cause| Error::Pair {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        cause,
    })
}

/// TLS with a self-signed certificate, made at the first start and kept from then on.
///
/// # Errors
///
/// When it can be neither read nor made and kept.
pub fn own(store: &Store, node: &str, listen: &[SocketAddr]) -> Result<Arc<ServerConfig>, Error> {
    let (certificate, key) = (store.path(CERTIFICATE), store.path(KEY));
    if certificate.exists() && key.exists() {
        match given(&certificate, &key) {
            Ok(server) => return Ok(server),
            Err(error) => warn!("{error}; a new certificate takes its place"),
        }
    }
    let secret = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let made = parameters(node, listen)?.self_signed(&secret)?;
    // The key first: a certificate without its key is made anew, as above.
    store.write(KEY, secret.serialize_pem().as_bytes())?;
    store.write(CERTIFICATE, made.pem().as_bytes())?;
    info!("made a self-signed certificate for the admin server: {}", certificate.display());
    given(&certificate, &key)
}

/// The validity is left as wide as it can be: at the first start the clock may be far off.
fn parameters(node: &str, listen: &[SocketAddr]) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(vec!["localhost".to_owned()])?;
    parameters.distinguished_name.push(DnType::CommonName, node);
    if let Ok(name) = node.try_into() {
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    let own = listen.iter().map(SocketAddr::ip).filter(|address| !address.is_unspecified());
    let mut addresses: Vec<_> = loopback.into_iter().chain(own).collect();
    addresses.sort();
    addresses.dedup();
    parameters.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
    Ok(parameters)
}

/// The certificates in a PEM file, the server's own first.
pub(crate) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(unusable(path, "holds no certificate in PEM form")),
    }
}

fn server(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| unusable(path, error))
}

fn unusable(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), cause: cause.to_string() }
}
