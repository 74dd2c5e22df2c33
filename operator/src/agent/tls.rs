//! Owns the agent's side of TLS: its certificate, and whose clients' certificates it takes.
//!
//! Always: the private key of a certificate that it makes itself stays in memory and ends with the process. Never: speaks without TLS.
//!
//! **How a client knows the agent.** Nodes have no certificate that a client could know: a kubelet's own is signed by itself, and the cluster's authority
//! signs others only on request and by approval. So the agent makes one for its lifetime, and writes it (it is no secret) into the ConfigMap
//! `cryostore-agents` of its namespace, one key for each node; a client trusts exactly that certificate. A role lets the agents patch this one object
//! and nothing else. One agent could write another's key with it; that gets it nothing, unless it can sit in between as well, and the way to a node leads
//! through the API server and that node's kubelet. An annotation of its own pod would need the right to patch pods, which RBAC cannot narrow to one's
//! own. With `--tls-cert` an authority of the site's stands for all nodes, and nothing is written.

use std::path::PathBuf;
use std::sync::Arc;

use cryostore_engine::{Error, Kind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// The name that each agent's own certificate has, wherever it runs.
pub const NAME: &str = "cryostore-agent";

/// The agent's certificate and key.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// Of one that it made itself: what a client trusts.
    pub(crate) own: Option<String>,
}

/// Files with a certificate and its key, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Identity {
    pub(crate) fn read(files: &TlsFiles) -> Result<Self> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|e| Error::io(path.display(), e));
        let wrong = |path: &PathBuf, what: &str| {
            Error::new(
                Kind::Invalid,
                format!("{}: it holds no {what}", path.display()),
            )
            .hint("--tls-cert and --tls-key are to name PEM files of one certificate")
        };
        let chain: std::result::Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&read(&files.certificate)?).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?);
        Ok(Self {
            chain: chain.ok_or_else(|| wrong(&files.certificate, "certificate"))?,
            key: key.map_err(|_| wrong(&files.key, "private key"))?,
            own: None,
        })
    }

    /// One that is for this node, until the process ends.
    pub(crate) fn make(node: &str) -> Result<Self> {
        let failed =
            |e: rcgen::Error| Error::new(Kind::Internal, format!("making a certificate: {e}"));
        let mut names = vec![
            NAME.to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ];
        // A node's name may be none that a certificate can have.
        if crate::pod::check_name("node", node).is_ok() && !names.iter().any(|name| name == node) {
            names.push(node.to_owned());
        }
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        let mut wanted = rcgen::CertificateParams::new(names).map_err(failed)?;
        wanted.distinguished_name = rcgen::DistinguishedName::new();
        wanted
            .distinguished_name
            .push(rcgen::DnType::CommonName, format!("{NAME} {node}"));
        wanted.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let made = wanted.self_signed(&key).map_err(failed)?;
        Ok(Self {
            own: Some(made.pem()),
            chain: vec![made.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// What a connection is made with. `clients`: authorities of clients' certificates, PEM; none: no such certificate is asked for.
    pub(crate) fn server(&self, clients: Option<&str>) -> Result<Arc<ServerConfig>> {
        let failed = |e: &dyn std::fmt::Display| {
            Error::new(Kind::Invalid, format!("the agent's TLS: {e}"))
                .hint("--tls-cert and --tls-key are to name PEM files of one certificate")
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| failed(&e))?;
        let mut roots = RootCertStore::empty();
        // One that cannot be read signs nobody, nor does what follows it.
        let pem = clients.unwrap_or_default().as_bytes();
        for found in CertificateDer::pem_slice_iter(pem).map_while(std::result::Result::ok) {
            let _ = roots.add(found);
        }
        let builder = if roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|e| failed(&e))?)
        };
        let config = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        Ok(Arc::new(config.map_err(|e| failed(&e))?))
    }
}
