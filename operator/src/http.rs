//! Owns requests over TLS to the API server and to kubelets: who is asked, as whom, for how long; and the door to tokio.
//!
//! Always: a request ends when the user wants to stop; an answer has a longest length. Never: sends one twice, or follows a redirection: what is
//! asked for here is not done twice without harm, and goes to nobody else.

use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryostore_engine::{Error, Kind, Monitor, Result};
use reqwest::{Certificate, Client, Method};
use secrecy::ExposeSecret;

use crate::account::Account;

/// 10 s: who has not taken the connection by then is away.
const CONNECT: Duration = Duration::from_secs(10);
/// 8 MiB: the API server keeps no object of more than 1.5 MiB.
const ANSWER_LEN: usize = 8 << 20;
/// The wish to stop is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is trusted on the other side.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Whom the system trusts.
    System,
    /// These authorities alone.
    Only(Vec<Certificate>),
    /// Anybody.
    Nobody,
}

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Without a slash at its end.
    pub(crate) url: String,
    /// The name in the URL is not looked up: it is there.
    pub(crate) at: Option<(String, SocketAddr)>,
    pub(crate) proxy: Option<String>,
}

/// An answer: status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The other side's certificate is not the one that is wanted: nothing was asked.
    Certificate { text: String, is_the_name: bool },
    /// Nobody there: nothing was asked.
    Away(String),
    /// It was asked and did not answer in time.
    TimedOut,
    /// It may have been asked.
    Broken(String),
    /// Something of ours.
    Other(Error),
}

/// A server, and who asks it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    client: Client,
    url: String,
    account: Arc<Account>,
}

/// What the client for TLS does not take: a certificate of another form, or a proxy's address.
fn unusable(e: &reqwest::Error) -> Error {
    Error::new(
        Kind::Invalid,
        format!("the kubeconfig cannot be used: {}", deepest(e)),
    )
    .hint("look at the client certificate and the proxy that the kubeconfig's user and cluster have; certificates have to be of version 3")
}

/// The deepest cause says most.
fn deepest(e: &reqwest::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

impl Link {
    pub(crate) fn new(account: &Arc<Account>, place: &Place, trust: &Trust) -> Result<Self> {
        let mut builder = Client::builder()
            .user_agent(concat!("cryostore/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT);
        builder = match &place.proxy {
            Some(url) => builder.proxy(reqwest::Proxy::all(url).map_err(|e| unusable(&e))?),
            None => builder.no_proxy(),
        };
        builder = match trust {
            Trust::System => builder,
            Trust::Only(roots) => builder.tls_certs_only(roots.iter().cloned()),
            Trust::Nobody => builder.tls_danger_accept_invalid_certs(true),
        };
        if let Some((name, at)) = &place.at {
            builder = builder.resolve(name, *at);
        }
        if let Some(identity) = &account.identity {
            builder = builder.identity(identity.clone());
        }
        Ok(Self {
            client: builder.build().map_err(|e| unusable(&e))?,
            url: place.url.clone(),
            account: Arc::clone(account),
        })
    }

    /// Asks once. `path` begins with a slash, and may have a query.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        patience: Duration,
    ) -> std::result::Result<Answer, Failed> {
        let url = format!("{}{path}", self.url);
        let mut request = self.client.request(method, url).timeout(patience);
        if let Some(token) = self.account.bearer().map_err(Failed::Other)? {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request
                .header("Content-Type", "application/json")
                .body(body.to_string());
        }
        let mut response = request.send().await.map_err(explain)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(explain)? {
            if body.len() + piece.len() > ANSWER_LEN {
                return Err(Failed::Broken(format!(
                    "its answer has more than {ANSWER_LEN} bytes"
                )));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

fn explain(e: reqwest::Error) -> Failed {
    // The URL is said by whoever asked.
    let e = e.without_url();
    let text = deepest(&e);
    let lower = text.to_lowercase();
    if lower.contains("certificate") {
        let is_the_name = lower.contains("not valid for name");
        return Failed::Certificate { text, is_the_name };
    }
    match (e.is_connect(), e.is_timeout()) {
        (true, _) => Failed::Away(text),
        (_, true) => Failed::TimedOut,
        _ => Failed::Broken(text),
    }
}

/// Decodes, line breaks left out.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    STANDARD.decode(text).ok()
}

/// The certificates in a file's content.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<Certificate>> {
    let found = Certificate::from_pem_bundle(pem).ok()?;
    (!found.is_empty()).then_some(found)
}

/// Runs what waits for the network.
#[derive(Debug)]
pub(crate) struct Waiting(tokio::runtime::Runtime);

impl Waiting {
    pub(crate) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.map(Self).map_err(|e| Error::io("threads", e))
    }

    /// Waits for it; none if the user wants to stop.
    pub(crate) fn wait<T>(
        &self,
        monitor: &dyn Monitor,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let stopped = async {
            while !monitor.stop() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        self.0.block_on(async {
            tokio::select! {
                done = work => Some(done),
                () = stopped => None,
            }
        })
    }
}
