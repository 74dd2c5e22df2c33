//! Owns the agent's connections: TLS, HTTP/1.1, how much and how long.
//!
//! Always: one request a connection; head, body, time and number have a limit; what is asked runs on threads of its own, where it may block. Never:
//! panics by what comes in, or lets one connection hold up another.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use cryostore_engine::{Error, Kind, Result};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use secrecy::SecretString;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::audit::Line;
use super::body::Answer;
use super::caller::Shown;
use super::calls::{self, Report};
use super::grace::Grace;
use super::jobs::{self, Call, Head, Out, Shared};
use super::tls::Identity;
use super::{Agent, Watcher, publish, sweep, watch};

/// Handshakes and heads take milliseconds; 10 s is a slow network.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// 16 KiB: a token has 1 to 4 KiB.
const HEAD_LEN: usize = 16 << 10;
/// A client sends six or so.
const HEADERS: usize = 64;
/// 64 KiB: a call is names and labels.
const BODY_LEN: usize = 64 << 10;
/// 1 MiB of a body that is too long is read all the same: who is still writing does not hear the answer.
const PASSED_BY: usize = 1 << 20;
/// A connection takes some 50 KiB: all of them 3 MiB.
const CONNECTIONS: usize = 64;
/// Calls that are looked at or worked on, each on a thread: those whose callers went away among them. [`super::slots`] says how many may work.
const CALLS: usize = 128;
/// Lines that wait for a slow reader; more of them are left out.
const LINES: usize = 256;
/// After the work is done, for an answer to be taken.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// For answers on their way when the agent ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After the watch could not be kept.
const WATCH_AGAIN: Duration = Duration::from_secs(30);
/// The wish to stop is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The cluster's authority of clients may be renewed.
const AUTHORITIES_EVERY: Duration = Duration::from_secs(600);

/// What an agent says when it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where.
    pub address: SocketAddr,
    /// The certificate that it made, PEM; a client trusts exactly this one.
    pub certificate: Option<String>,
}

/// Serves until the monitor wants it to stop; calls that run then are waited for, up to nine minutes.
pub fn serve(agent: Arc<Agent>, monitor: Watcher, ready: impl FnOnce(&Ready)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("agent")
        .enable_all()
        .build()
        .map_err(|e| Error::io("threads", e))?;
    let identity = match &agent.options.tls {
        Some(files) => Identity::read(files)?,
        None => Identity::make(&agent.options.node)?,
    };
    if let Some(cluster) = agent.gate.cluster() {
        // Without it, nobody could be told apart from somebody of the same name elsewhere.
        cluster.id(&*monitor)?;
    }
    let authorities = publish::client_authorities(&agent.gate, &*monitor)?;
    let tls = RwLock::new(identity.server(authorities.as_deref())?);
    let listen = agent.options.listen;
    let listener = runtime.block_on(TcpListener::bind(listen)).map_err(|e| {
        Error::io(listen, e).hint("another agent may run here; --listen says another address")
    })?;
    if let Some(certificate) = &identity.own {
        publish::certificate(&agent, certificate, &*monitor)?;
    }
    ready(&Ready {
        address: listener.local_addr().map_err(|e| Error::io(listen, e))?,
        certificate: identity.own.clone(),
    });
    let watching = start_watch(&agent, &monitor)?;
    let shared = Arc::new(Shared::default());
    let sweeping = {
        let (agent, monitor) = (Arc::clone(&agent), Arc::clone(&monitor));
        let shared = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("sweep".to_owned());
        let started = thread.spawn(move || sweep::run(&agent, &shared.sweeping, &monitor));
        started.map_err(|e| Error::io("threads", e))?
    };
    let grace = Grace::new(Arc::clone(&monitor), Arc::clone(&agent.env));
    let server = Arc::new(Server {
        agent,
        grace: Arc::new(grace),
        monitor: Arc::clone(&monitor),
        tls,
        identity,
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        calls: Arc::new(Semaphore::new(CALLS)),
        shared,
    });
    runtime.block_on(server.accept(&listener));
    drop(runtime);
    for thread in watching.into_iter().chain([sweeping]) {
        if thread.join().is_err() {
            return Err(Error::new(Kind::Internal, "a thread of the agent panicked"));
        }
    }
    Ok(())
}

/// Beside the calls, on a thread of its own. A folder that is not there yet is looked for again: a kubelet makes it.
fn start_watch(agent: &Arc<Agent>, monitor: &Watcher) -> Result<Option<JoinHandle<()>>> {
    if agent.watching.is_none() {
        return Ok(None);
    }
    let (agent, monitor) = (Arc::clone(agent), Arc::clone(monitor));
    let thread = std::thread::Builder::new().name("watch".to_owned());
    let started = thread.spawn(move || {
        let Some(watching) = &agent.watching else {
            return;
        };
        while let Err(e) = watch::run(&agent, watching, &monitor) {
            monitor.warning(&format!("archives are not watched: {e}"));
            let until = agent.env.elapsed() + WATCH_AGAIN;
            while agent.env.elapsed() < until && !monitor.stop() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    });
    started.map(Some).map_err(|e| Error::io("threads", e))
}

struct Server {
    agent: Arc<Agent>,
    monitor: Watcher,
    /// What calls ask whether to stop.
    grace: Watcher,
    tls: RwLock<Arc<ServerConfig>>,
    identity: Identity,
    connections: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl Server {
    async fn accept(self: &Arc<Self>, listener: &TcpListener) {
        let renewing = tokio::spawn(Arc::clone(self).renew());
        loop {
            // Held until the connection ends; with none left, new ones wait in the system's queue.
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else {
                break;
            };
            let Some(accepted) = self.unless_stopped(listener.accept()).await else {
                break;
            };
            match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(Arc::clone(self).connection(stream, permit));
                }
                // Too many open files, or a client that is gone already: neither is mended by asking at once again.
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        renewing.abort();
        // Each call that runs has one of these.
        let all = u32::try_from(CALLS).unwrap_or(u32::MAX);
        let _ = self.calls.acquire_many(all).await;
        // And their last words a moment to be heard.
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(LAST_WORDS, self.connections.acquire_many(all)).await;
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let stopped = async {
            while !self.monitor.stop() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = stopped => None,
        }
    }

    async fn renew(self: Arc<Self>) {
        loop {
            tokio::time::sleep(AUTHORITIES_EVERY).await;
            let server = Arc::clone(&self);
            let renewed = tokio::task::spawn_blocking(move || {
                let found = publish::client_authorities(&server.agent.gate, &*server.monitor)?;
                server.identity.server(found.as_deref())
            });
            // Where it is not known now, what was known is kept.
            if let Ok(Ok(config)) = renewed.await {
                *self.tls.write().unwrap_or_else(PoisonError::into_inner) = config;
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let config = Arc::clone(&self.tls.read().unwrap_or_else(PoisonError::into_inner));
        let shaken = tokio::time::timeout(HEAD_TIME, TlsAcceptor::from(config).accept(stream));
        let Ok(Ok(stream)) = shaken.await else {
            return;
        };
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|first| first.clone().into_owned());
        let busy = Arc::new(AtomicBool::new(false));
        let service = service_fn(|request| {
            let server = Arc::clone(&self);
            let (certificate, busy) = (certificate.clone(), Arc::clone(&busy));
            async move { Ok::<_, Infallible>(server.answer(request, certificate, busy).await) }
        });
        let serving = http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(HEADERS)
            .max_buf_size(HEAD_LEN)
            .serve_connection(TokioIo::new(stream), service);
        let idle = async {
            let mut idle = Duration::ZERO;
            while idle < ANSWER_TIME {
                tokio::time::sleep(LOOK_EVERY).await;
                idle = match busy.load(Ordering::Acquire) {
                    true => Duration::ZERO,
                    false => idle + LOOK_EVERY,
                };
            }
        };
        tokio::select! {
            // How it ended is the client's affair: what counts is in the audit log.
            _ = serving => {}
            () = idle => {}
        }
        drop(permit);
    }

    /// Before it is known who asks; written down all the same.
    fn refuse(&self, call: &'static str, status: u16, e: &Error) -> Response<Answer> {
        let line = Line {
            call,
            status,
            error: e.to_string(),
            ..Line::default()
        };
        self.agent.audit.write(&*self.agent.env, line);
        refused(status, e)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        certificate: Option<rustls::pki_types::CertificateDer<'static>>,
        busy: Arc<AtomicBool>,
    ) -> Response<Answer> {
        let call = match route(request.method(), request.uri().path()) {
            Ok(call) => call,
            Err((status, e)) => return self.refuse("unknown", status, &e),
        };
        let token = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(SecretString::from);
        let shown = Shown { token, certificate };
        let body = match tokio::time::timeout(HEAD_TIME, taken(request.into_body())).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => {
                let text = format!("a call has at most {BODY_LEN} bytes");
                return self.refuse(call.name(), 413, &Error::new(Kind::Invalid, text));
            }
            Ok(Err(_)) => {
                return self.refuse(
                    call.name(),
                    400,
                    &Error::new(Kind::Invalid, "the call broke off"),
                );
            }
            Err(_) => {
                return self.refuse(
                    call.name(),
                    408,
                    &Error::new(Kind::Invalid, "the call did not come"),
                );
            }
        };
        let Ok(permit) = Arc::clone(&self.calls).try_acquire_owned() else {
            let e = Error::new(Kind::Conflict, "the agent is asked by too many at once")
                .hint("try again later");
            return self.refuse(call.name(), 429, &e);
        };
        let (head, told) = oneshot::channel();
        let (lines, sent) = mpsc::channel(LINES);
        busy.store(true, Ordering::Release);
        tokio::task::spawn_blocking(move || {
            let out = Out::new(
                head,
                lines,
                Arc::clone(&self.grace),
                Arc::clone(&self.agent.env),
            );
            jobs::run(&self.agent, &self.shared, call, &shown, &body, &out);
            busy.store(false, Ordering::Release);
            drop(permit);
        });
        match told.await {
            Ok(Head::Whole(status, bytes)) => whole(status, bytes),
            Ok(Head::Lines) => {
                let mut response = Response::new(Answer::lines(sent));
                let kind = http::HeaderValue::from_static("application/x-ndjson");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            // The work ended without a word: a bug of ours, and no answer is better than a wrong one.
            Err(_) => refused(500, &Error::new(Kind::Internal, "the call ended early")),
        }
    }
}

/// A body; none if it is too long.
async fn taken(mut body: Incoming) -> hyper::Result<Option<Vec<u8>>> {
    let (mut out, mut len) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        len += data.len();
        if len > PASSED_BY {
            break;
        }
        if len <= BODY_LEN {
            out.extend_from_slice(&data);
        }
    }
    Ok((len <= BODY_LEN).then_some(out))
}

fn route(method: &Method, path: &str) -> std::result::Result<Call, (u16, Error)> {
    let (call, wanted) = match path {
        calls::FACTS => (Call::Facts, Method::GET),
        calls::CHECKPOINT => (Call::Checkpoint, Method::POST),
        calls::PREPARE_RESTORE => (Call::PrepareRestore, Method::POST),
        calls::CLEAN_UP => (Call::CleanUp, Method::POST),
        _ => {
            let e = Error::new(Kind::NotFound, "the agent has no such call")
                .hint("it may be of an older version than its client");
            return Err((404, e));
        }
    };
    if *method != wanted {
        let e = Error::new(Kind::Invalid, format!("this call is a {wanted}"));
        return Err((405, e));
    }
    Ok(call)
}

pub(crate) fn whole(status: u16, bytes: Vec<u8>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Some(Bytes::from(bytes))));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let value = http::HeaderValue::from_static;
    headers.insert(CONTENT_TYPE, value("application/json"));
    match status {
        405 => drop(headers.insert(ALLOW, value("GET, POST"))),
        429 => drop(headers.insert(RETRY_AFTER, value("10"))),
        _ => {}
    }
    response
}

fn refused(status: u16, e: &Error) -> Response<Answer> {
    whole(
        status,
        serde_json::to_vec(&Report::from(e)).unwrap_or_default(),
    )
}
