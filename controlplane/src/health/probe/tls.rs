//! TLS to a server, whose certificate is looked at only where the operator wants it.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::connect::{Alpn, Wire};
use super::{Asking, Failure};
use crate::config::Tls;
use crate::net::Net;
use crate::trust::Anybody;

/// Whom the system trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A conversation inside `stream`.
pub(super) async fn inside<N: Net>(
    asking: &Asking<'_, N>,
    stream: N::Stream,
    wanted: &Tls,
    host: Option<&str>,
    alpn: Alpn,
) -> Result<Wire, Failure> {
    let at = asking.target.at;
    let config = client(asking, wanted, alpn).await?;
    let name = name(asking, wanted, host);
    let connector = TlsConnector::from(Arc::new(config));
    match connector.connect(name, stream).await {
        Ok(stream) => Ok(Wire::over(stream)),
        Err(error) => Err(Failure(format!("TLS with {at} failed: {error}"))),
    }
}

/// The name that the server is asked for, and that its certificate must have.
fn name<N>(asking: &Asking<'_, N>, wanted: &Tls, host: Option<&str>) -> ServerName<'static> {
    let host = host.map(|host| host.trim_matches(['[', ']']));
    let named = wanted.name.as_deref().or(host);
    let named = named.and_then(|name| ServerName::try_from(name.to_owned()).ok());
    named.unwrap_or_else(|| asking.target.at.ip().into())
}

async fn client<N>(
    asking: &Asking<'_, N>,
    wanted: &Tls,
    alpn: Alpn,
) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure(format!("TLS cannot be spoken: {error}")))?;
    let builder = if wanted.verify {
        builder.with_root_certificates(roots(asking, wanted).await?)
    } else {
        // Whether a server is well does not depend on who vouches for it.
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    };
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled(); // each question is whole
    config.alpn_protocols = match &wanted.alpn {
        Some(own) => own.iter().map(|name| name.clone().into_bytes()).collect(),
        None => alpn.names().iter().map(|name| name.as_bytes().to_vec()).collect(),
    };
    Ok(config)
}

/// Who may have signed the certificate.
async fn roots<N>(asking: &Asking<'_, N>, wanted: &Tls) -> Result<Arc<RootCertStore>, Failure> {
    let file = wanted.ca.as_deref().unwrap_or_else(|| Path::new(SYSTEM));
    let failed = |why| Failure(format!("certificates in {} {why}", file.display()));
    asking.tools.roots(file).await.map_err(failed)
}
