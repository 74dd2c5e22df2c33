//! Owns the HTTP connections to buckets, and when one counts as dead.
//!
//! Always: a request may take as long as it likes while bytes move, however slowly, and ends when none have moved for a while. Never: a time-out on
//! the whole of a request, which would fail every pack on a slow link (16 MiB at 1 Mbit/s are 134 s); a retry, which is `object_store`'s and, for
//! creates, [`super::create`]'s; tried again once the store is away ([`super::presence`]).

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};

use super::presence::{Away, Presence, Try};
use crate::limits;

/// How often it is looked whether bytes move.
const TICK: Duration = Duration::from_secs(1);

/// Makes connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connector {
    /// How long no byte may move on one connection.
    pub(super) stall: Duration,
    /// How long the store may give no sign of life.
    pub(super) patience: Duration,
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a real network is silent: nothing of what is stored or decided rests on it"
)]
fn now() -> Instant {
    Instant::now()
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let text = |key| options.get_config_value(&key);
        let is_set = |key| text(key).is_some_and(|value| value == "true");
        let failed = |e: reqwest::Error| object_store::Error::Generic {
            store: "HTTP",
            source: Box::new(e),
        };
        let mut client = reqwest::Client::builder()
            .https_only(!is_set(ClientConfigKey::AllowHttp))
            .tls_danger_accept_invalid_certs(is_set(ClientConfigKey::AllowInvalidCertificates))
            // Where a bucket lies is said by who uses it: a server that sends requests elsewhere is an error with a name.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("cryostore/", env!("CARGO_PKG_VERSION")))
            // The kernel's part of the same rule: what was sent and is not acknowledged for so long ends the connection.
            .tcp_user_timeout(self.stall)
            .tcp_keepalive(self.stall / 2);
        if let Some(limit) = text(ClientConfigKey::ConnectTimeout).and_then(|t| duration(&t)) {
            client = client.connect_timeout(limit);
        }
        if let Some(url) = text(ClientConfigKey::ProxyUrl) {
            client = client.proxy(reqwest::Proxy::all(url).map_err(failed)?);
        }
        Ok(HttpClient::new(Connection {
            client: client.build().map_err(failed)?,
            stall: self.stall,
            presence: Presence::new(self.patience),
        }))
    }
}

/// `object_store` hands durations on as it writes them: `5s`, `1m 30s`, `250ms`.
fn duration(text: &str) -> Option<Duration> {
    text.split_whitespace().map(super::options::duration).sum()
}

#[derive(Debug)]
struct Connection {
    client: reqwest::Client,
    stall: Duration,
    presence: Arc<Presence>,
}

#[async_trait]
impl HttpService for Connection {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let mut this_try = self.presence.begin(now()).map_err(away)?;
        let response = match self.answer(request, &mut this_try).await {
            Ok(response) => response,
            Err(e) => {
                this_try.failed();
                return Err(e);
            }
        };
        this_try.heard(now());
        let (parts, body) = response.into_parts();
        let body = Incoming {
            body,
            this_try,
            tick: None,
            quiet: Duration::ZERO,
            stall: self.stall,
        };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Connection {
    /// The head of the answer to a request.
    async fn answer(
        &self,
        request: HttpRequest,
        this_try: &mut Try,
    ) -> Result<http::Response<reqwest::Body>, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts
            .uri
            .to_string()
            .parse()
            .map_err(|e| HttpError::new(HttpErrorKind::Decode, io::Error::other(e)))?;
        let len = body.content_length() as u64;
        let sent = Arc::new(AtomicU64::new(0));
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(reqwest::Body::wrap(Outgoing {
            rest: Bytes::new(),
            body,
            sent: Arc::clone(&sent),
        }));
        let mut answer = pin!(self.client.execute(request));
        let (mut seen, mut quiet) = (0, Duration::ZERO);
        let tick = TICK.min(self.stall / 4);
        loop {
            if let Ok(answer) = tokio::time::timeout(tick, answer.as_mut()).await {
                return answer.map(Into::into).map_err(explain);
            }
            let moved = sent.load(Ordering::Relaxed);
            quiet = if moved == seen { quiet + tick } else { tick };
            // The kernel takes some bytes for a connection at whose other end there is nobody any more.
            if moved > seen && moved > limits::SOCKET_BUFFER {
                this_try.heard(now());
            }
            seen = moved;
            // What is handed over may wait in the kernel's buffer for as long as the link needs for it.
            let behind = len.min(limits::SOCKET_BUFFER) / limits::SLOWEST_LINK;
            let more = Duration::from_secs(if moved >= len { behind } else { 0 });
            if quiet >= self.stall + more {
                return Err(stalled(quiet));
            }
            this_try.is_over(now()).map_or(Ok(()), |e| Err(away(e)))?;
        }
    }
}

fn stalled(quiet: Duration) -> HttpError {
    let text = format!("no byte moved for {} s", quiet.as_secs());
    HttpError::new(HttpErrorKind::Timeout, timed_out(text))
}

/// Of a kind that is not tried again.
fn away(Away(silent): Away) -> HttpError {
    let text = format!(
        "the store has given no sign of life for {} s",
        silent.as_secs()
    );
    HttpError::new(HttpErrorKind::Unknown, timed_out(text))
}

fn timed_out(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// What a failure says about retrying: a request that may have reached the store is never called unsent.
fn explain(error: reqwest::Error) -> HttpError {
    let kind = if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_builder() || error.is_decode() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Interrupted
    };
    if kind == HttpErrorKind::Connect && error.is_timeout() {
        return HttpError::new(
            kind,
            timed_out("no connection could be made in time".to_owned()),
        );
    }
    // The address stands in the error around it, unless it holds a secret.
    HttpError::new(kind, error.without_url())
}

/// A body on its way out, in small pieces, so that progress can be seen.
struct Outgoing {
    rest: Bytes,
    body: HttpRequestBody,
    sent: Arc<AtomicU64>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let len = self.rest.len().min(limits::SEND_LEN);
        let piece = self.rest.split_to(len);
        self.sent.fetch_add(len as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        self.body
            .size_hint()
            .exact()
            .map_or_else(SizeHint::default, |more| SizeHint::with_exact(rest + more))
    }
}

/// A body on its way in.
struct Incoming {
    body: reqwest::Body,
    this_try: Try,
    tick: Option<Pin<Box<tokio::time::Sleep>>>,
    quiet: Duration,
    stall: Duration,
}

impl Incoming {
    fn fails(&mut self, error: HttpError) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.this_try.failed();
        Poll::Ready(Some(Err(error)))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Err(e))) => return self.fails(explain(e)),
            Poll::Ready(frame) => {
                self.this_try.heard(now());
                (self.tick, self.quiet) = (None, Duration::ZERO);
                return Poll::Ready(frame.map(|frame| frame.map_err(explain)));
            }
            Poll::Pending => {}
        }
        let tick = TICK.min(self.stall / 4);
        loop {
            let waiting = self
                .tick
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(tick)));
            ready!(waiting.as_mut().poll(context));
            self.tick = None;
            self.quiet += tick;
            if self.quiet >= self.stall {
                let quiet = self.quiet;
                return self.fails(stalled(quiet));
            }
            if let Some(silent) = self.this_try.is_over(now()) {
                return self.fails(away(silent));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
