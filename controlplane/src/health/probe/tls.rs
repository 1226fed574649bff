//! TLS to a server, whose certificate is looked at only where the operator wants it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::connect::{Alpn, Wire};
use super::tools::Roots;
use super::{Asking, Failure};
use crate::config::Tls;
use crate::net::Net;
use crate::trust::Anybody;

/// Whom the system trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The longest file of certificates that is read, in bytes.
const LONGEST_FILE: u64 = 4 << 20;

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

/// Who may have signed the certificate; the file is read again when it has changed.
async fn roots<N>(asking: &Asking<'_, N>, wanted: &Tls) -> Result<Arc<RootCertStore>, Failure> {
    let file = wanted.ca.clone().unwrap_or_else(|| SYSTEM.into());
    let failed = |why: String| Failure(format!("certificates in {} {why}", file.display()));
    let since = fs::metadata(&file).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let since = since.modified().ok();
    if let Some(known) = asking.tools.roots(&file).filter(|known| known.since == since) {
        return Ok(known.store);
    }
    let reading = tokio::task::spawn_blocking({
        let file: PathBuf = file.clone();
        move || read(&file)
    });
    let store = match reading.await {
        Ok(Ok(store)) => Arc::new(store),
        Ok(Err(error)) => return Err(failed(format!("cannot be read: {error}"))),
        Err(_) => return Err(failed("were not read".into())),
    };
    if store.is_empty() {
        return Err(failed("are none".into()));
    }
    asking.tools.remember(file, Roots { since, store: store.clone() });
    Ok(store)
}

fn read(file: &Path) -> io::Result<RootCertStore> {
    if fs::metadata(file)?.len() > LONGEST_FILE {
        return Err(io::Error::other("it is too long"));
    }
    let bytes = fs::read(file)?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&bytes).filter_map(Result::ok));
    Ok(store)
}
