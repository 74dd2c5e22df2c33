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
        Self::with(Client::builder(), account, place, trust)
    }

    /// One whose connections can become web sockets.
    pub(crate) fn upgrading(account: &Arc<Account>, place: &Place, trust: &Trust) -> Result<Self> {
        Self::with(Client::builder().http1_only(), account, place, trust)
    }

    fn with(
        builder: reqwest::ClientBuilder,
        account: &Arc<Account>,
        place: &Place,
        trust: &Trust,
    ) -> Result<Self> {
        let mut builder = builder
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
        let request = self.request(method, path, body)?.timeout(patience);
        whole(request.send().await.map_err(explain)?).await
    }

    /// Asks once. The lines of an answer that says 200 are handed on as they come, empty ones too; another answer is given back. `patience`: for each
    /// piece of it.
    pub(crate) async fn lines(
        &self,
        path: &str,
        body: &serde_json::Value,
        patience: Duration,
        mut line: impl FnMut(&[u8]),
    ) -> std::result::Result<Answer, Failed> {
        let in_time = |_| Failed::TimedOut;
        let request = self.request(Method::POST, path, Some(body))?;
        let sent = tokio::time::timeout(patience, request.send()).await;
        let mut response = sent.map_err(in_time)?.map_err(explain)?;
        let status = response.status().as_u16();
        if status != 200 {
            return whole(response).await;
        }
        let mut left: Vec<u8> = Vec::new();
        loop {
            let piece = tokio::time::timeout(patience, response.chunk()).await;
            let Some(piece) = piece.map_err(in_time)?.map_err(explain)? else {
                break;
            };
            left.extend_from_slice(&piece);
            while let Some(end) = left.iter().position(|b| *b == b'\n') {
                let rest = left.split_off(end + 1);
                line(&left[..end]);
                left = rest;
            }
            if left.len() > ANSWER_LEN {
                return Err(too_long());
            }
        }
        Ok(Answer {
            status,
            body: String::new(),
        })
    }

    /// Makes a web socket of a connection; another answer than that is given back. `key`: some 16 bytes, in base64.
    pub(crate) async fn web_socket(
        &self,
        path: &str,
        key: &str,
        protocol: &'static str,
        patience: Duration,
    ) -> std::result::Result<std::result::Result<reqwest::Upgraded, Answer>, Failed> {
        let request = self
            .request(Method::GET, path, None)?
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", key)
            .header("Sec-WebSocket-Protocol", protocol);
        let sent = tokio::time::timeout(patience, request.send()).await;
        let response = sent.map_err(|_| Failed::TimedOut)?.map_err(explain)?;
        if response.status().as_u16() != 101 {
            return whole(response).await.map(Err);
        }
        // Whoever repeats the protocol has understood it; TLS says who it is.
        let said = response.headers().get("Sec-WebSocket-Protocol");
        if said.and_then(|said| said.to_str().ok()) != Some(protocol) {
            let text = format!("the other side of the web socket does not speak {protocol}");
            return Err(Failed::Broken(text));
        }
        response.upgrade().await.map(Ok).map_err(explain)
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> std::result::Result<reqwest::RequestBuilder, Failed> {
        let url = format!("{}{path}", self.url);
        let kind = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut request = self.client.request(method, url);
        if let Some(token) = self.account.bearer().map_err(Failed::Other)? {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.header("Content-Type", kind).body(body.to_string());
        }
        Ok(request)
    }
}

fn too_long() -> Failed {
    Failed::Broken(format!("its answer has more than {ANSWER_LEN} bytes"))
}

async fn whole(mut response: reqwest::Response) -> std::result::Result<Answer, Failed> {
    let status = response.status().as_u16();
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(explain)? {
        if body.len() + piece.len() > ANSWER_LEN {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

pub(crate) fn explain(e: reqwest::Error) -> Failed {
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

/// Without line breaks.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use cryostore_engine::Silent;

    use super::*;

    /// Asks a server that does this with the connection, and gives what came of it.
    fn asked(
        serve: impl FnOnce(&mut TcpStream) + Send + 'static,
    ) -> std::result::Result<Answer, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Place {
            url: format!("http://{}", listener.local_addr().unwrap()),
            at: None,
            proxy: None,
        };
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = connection.read(&mut request).unwrap();
            serve(&mut connection);
        });
        let link = Link::new(&Arc::new(Account::nobody()), &place, &Trust::System).unwrap();
        let patience = Duration::from_millis(500);
        let waiting = Waiting::new().unwrap();
        let answer = waiting.wait(&Silent, link.ask(Method::POST, "/x", None, patience));
        // The connection ends with the runtime, and the server with the connection.
        drop(waiting);
        server.join().unwrap();
        answer.unwrap()
    }

    #[test]
    fn an_answer_that_does_not_come_and_one_that_breaks_off_are_told_apart() {
        let late = asked(|_| std::thread::sleep(Duration::from_secs(1)));
        assert!(matches!(late, Err(Failed::TimedOut)), "{late:?}");
        let half = asked(|c| {
            c.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                .unwrap();
        });
        assert!(matches!(half, Err(Failed::Broken(_))), "{half:?}");
        let nothing = asked(|_| ());
        assert!(matches!(nothing, Err(Failed::Broken(_))), "{nothing:?}");
        let late = asked(|c| {
            c.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                .unwrap();
            std::thread::sleep(Duration::from_secs(1));
        });
        assert!(matches!(late, Err(Failed::TimedOut)), "{late:?}");
    }

    #[test]
    fn an_answer_without_end_is_not_taken_into_memory() {
        let endless = asked(|c| {
            let _ = c.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let piece = [b"100000\r\n".as_slice(), &[b'x'; 1 << 20], b"\r\n"].concat();
            while c.write_all(&piece).is_ok() {}
        });
        assert!(
            matches!(&endless, Err(Failed::Broken(text)) if text.contains("more than 8388608 bytes"))
                || matches!(endless, Err(Failed::TimedOut)),
        );
    }

    #[test]
    fn a_redirection_is_an_answer_and_leads_nowhere() {
        let moved = asked(|c| {
            let text =
                b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            c.write_all(text).unwrap();
        });
        assert_eq!(moved.unwrap().status, 307);
    }

    #[test]
    fn nobody_there_means_that_nothing_was_asked() {
        let place = Place {
            url: "http://127.0.0.1:1".to_owned(),
            at: None,
            proxy: None,
        };
        let link = Link::new(&Arc::new(Account::nobody()), &place, &Trust::System).unwrap();
        let waiting = Waiting::new().unwrap();
        let answer = waiting.wait(&Silent, link.ask(Method::POST, "/x", None, CONNECT));
        assert!(matches!(answer, Some(Err(Failed::Away(_)))), "{answer:?}");
    }
}
