//! Whose certificates are good, wherever we are the client.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::admin::certificate;

/// Whom Debian trusts.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why there is no trust to begin with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of certificates is unusable.
    #[error(transparent)]
    Certificate(#[from] certificate::Error),
    /// TLS is unusable.
    #[error("cannot use TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Servers must have a certificate that leads to one in `ca`, or to one that Debian trusts; any will do if
/// `verify` is false. Reads files.
///
/// # Errors
///
/// When the file of certificates is unusable.
pub fn client(ca: Option<&Path>, verify: bool) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    if !verify {
        let anybody = Arc::new(Anybody(provider));
        let builder = builder.dangerous().with_custom_certificate_verifier(anybody);
        return Ok(builder.with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            for certificate in certificate::chain(file)? {
                roots.add(certificate)?;
            }
        }
        None => {
            let trusted = certificate::chain(TRUSTED.as_ref()).unwrap_or_default();
            let _ = roots.add_parsable_certificates(trusted); // how many were read
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Trusts any certificate, but still wants its owner at the other end.
#[derive(Debug)]
pub(crate) struct Anybody(pub Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
