//! Owns who asks: the user of the kubeconfig's context, or the service account of the pod that this runs in.
//!
//! Always: tokens from files are read for each request, since they are renewed. Never: shows a token or a key.

use std::path::PathBuf;

use cryostore_engine::{Error, Kind, Result};
use kube::Config;
use kube::config::KubeConfigOptions;
use reqwest::{Certificate, Identity};
use secrecy::{ExposeSecret, SecretString};

use crate::plugin;

#[derive(Debug)]
enum Token {
    None,
    Fixed(SecretString),
    File(PathBuf),
}

/// A user, and the API server that knows it.
#[derive(Debug)]
pub(crate) struct Account {
    /// Without a slash at its end.
    pub(crate) url: String,
    pub(crate) namespace: String,
    /// None: those of the system.
    pub(crate) roots: Option<Vec<Certificate>>,
    pub(crate) insecure: bool,
    pub(crate) server_name: Option<String>,
    pub(crate) proxy: Option<String>,
    pub(crate) identity: Option<Identity>,
    token: Token,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, text).hint("`kubectl config view --minify` shows what is used")
}

impl Account {
    /// As `kubectl` has it: $KUBECONFIG, ~/.kube/config, else the pod's account. `context` is another one than the current.
    pub(crate) async fn find(context: Option<&str>) -> Result<Self> {
        let found = match context {
            None => Config::infer().await.map_err(|e| e.to_string()),
            Some(context) => {
                let options = KubeConfigOptions {
                    context: Some(context.to_owned()),
                    ..KubeConfigOptions::default()
                };
                let config = Config::from_kubeconfig(&options).await;
                config.map_err(|e| e.to_string())
            }
        };
        let config = found.map_err(|e| {
            Error::new(Kind::NotFound, format!("no cluster is configured: {e}")).hint(
                "set KUBECONFIG to a kubeconfig that is right on this machine; on a node of kubeadm: export KUBECONFIG=/etc/kubernetes/admin.conf",
            )
        })?;
        Self::new(&config)
    }

    fn new(config: &Config) -> Result<Self> {
        let auth = &config.auth_info;
        // A kubelet does not know impersonation: the call would be made as somebody else than was said.
        if auth.impersonate.is_some() || auth.impersonate_groups.is_some() {
            return Err(invalid(
                "the kubeconfig's user impersonates another one, which kubelets do not know",
            )
            .hint("use a kubeconfig whose user has the rights itself"));
        }
        if auth.auth_provider.is_some() {
            return Err(invalid(
                "the kubeconfig's user has an `auth-provider`, which Kubernetes gave up in 1.26",
            )
            .hint("make the kubeconfig anew with the cloud's tool: it will have `exec`"));
        }
        let mut token = match (&auth.token_file, &auth.token) {
            (Some(path), _) => Token::File(PathBuf::from(path)),
            (None, Some(token)) => Token::Fixed(token.clone()),
            (None, None) => Token::None,
        };
        let mut pair = key_pair(auth)?;
        if let (Some(exec), Token::None, None) = (&auth.exec, &token, &pair) {
            let given = plugin::run(exec)?;
            token = given.token.map_or(Token::None, Token::Fixed);
            pair = given.identity.map(|(certificate, key)| {
                format!("{}\n{certificate}", key.expose_secret()).into_bytes()
            });
        }
        let identity = pair
            .map(|pem| Identity::from_pem(&pem))
            .transpose()
            .map_err(|_| invalid("the kubeconfig's client certificate or key is no PEM"))?;
        let roots = config.root_cert.as_ref().map(|roots| {
            let roots = roots.iter().map(|der| Certificate::from_der(der));
            roots.collect::<reqwest::Result<Vec<_>>>()
        });
        let roots = roots
            .transpose()
            .map_err(|_| invalid("the kubeconfig's certificate authority is no certificate"))?;
        Ok(Self {
            url: config
                .cluster_url
                .to_string()
                .trim_end_matches('/')
                .to_owned(),
            namespace: config.default_namespace.clone(),
            roots,
            insecure: config.accept_invalid_certs,
            server_name: config.tls_server_name.clone(),
            proxy: config.proxy_url.as_ref().map(ToString::to_string),
            identity,
            token,
        })
    }

    /// Somebody without credentials, for tests.
    #[cfg(test)]
    pub(crate) fn nobody() -> Self {
        Self::new(&Config::new(http::Uri::from_static("https://127.0.0.1:1"))).unwrap()
    }

    /// What goes into the header of a request.
    pub(crate) fn bearer(&self) -> Result<Option<SecretString>> {
        match &self.token {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| {
                    Error::io(path.display(), e).hint("the kubeconfig's user has its token there")
                })?;
                Ok(Some(SecretString::from(text.trim())))
            }
        }
    }
}

/// Key and certificate, one after the other.
fn key_pair(auth: &kube::config::AuthInfo) -> Result<Option<Vec<u8>>> {
    let data = |what: &str, data: Option<&str>, path: Option<&String>| match (data, path) {
        (Some(data), _) => crate::http::from_base64(data)
            .map(Some)
            .ok_or_else(|| invalid(format!("the kubeconfig's {what} is no base64"))),
        (None, Some(path)) => std::fs::read(path)
            .map(Some)
            .map_err(|e| Error::io(path, e).hint(format!("the kubeconfig has its {what} there"))),
        (None, None) => Ok(None),
    };
    let certificate = data(
        "client-certificate",
        auth.client_certificate_data.as_deref(),
        auth.client_certificate.as_ref(),
    )?;
    let key = data(
        "client-key",
        auth.client_key_data
            .as_ref()
            .map(ExposeSecret::expose_secret),
        auth.client_key.as_ref(),
    )?;
    match (key, certificate) {
        (Some(mut key), Some(certificate)) => {
            key.push(b'\n');
            key.extend(certificate);
            Ok(Some(key))
        }
        (None, None) => Ok(None),
        _ => Err(invalid(
            "the kubeconfig's user has a client certificate without its key, or a key without its certificate",
        )),
    }
}
