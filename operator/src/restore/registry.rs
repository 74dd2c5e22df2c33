//! Owns a registry on this machine's loopback that gives containerd base images which containerd has already, and cannot fetch: containerd 2.1 to 2.3 fetch the base
//! image that a checkpoint names always, without credentials, also where they have it.
//!
//! Always: gives blobs that were admitted, by digest, and nothing else; takes nothing; listens on 127.0.0.1 alone. Never: holds a blob in memory.
//!
//! Stands on the OCI distribution specification 1.1: GET and HEAD of /v2/, /v2/NAME/manifests/DIGEST and /v2/NAME/blobs/DIGEST, with Range.

use std::collections::HashMap;
use std::io::{BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cryostore_engine::{Error, Result};

use super::digest::Blob;

/// What is called by its name here does not matter: digests tell images apart.
const NAME: &str = "cryostore/base";
/// 16 KiB: the requests of containerd have some hundred bytes.
const REQUEST_LEN: usize = 16 << 10;
/// Who says nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// containerd fetches three layers at once; more connections than this are refused.
const CONNECTIONS: usize = 32;

/// Where blobs come from.
pub trait Blobs: Send + Sync + 'static {
    /// Writes `len` bytes of a blob from `offset` on.
    fn read(&self, digest: &str, offset: u64, len: u64, out: &mut dyn Write) -> Result<()>;
}

/// A blob that may be fetched: media type, name and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its media type.
    pub media_type: String,
    /// Its name and length.
    pub blob: Blob,
}

struct State {
    blobs: Box<dyn Blobs>,
    admitted: Mutex<HashMap<String, (String, u64)>>,
    stop: AtomicBool,
    connections: AtomicUsize,
}

/// A registry that runs until it is dropped.
pub struct Registry {
    state: Arc<State>,
    at: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.at)
    }
}

impl Registry {
    /// Starts it. Port 0: any that is free.
    pub fn start(blobs: impl Blobs, port: u16) -> Result<Self> {
        let failed = |e| Error::io("a registry on 127.0.0.1", e);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let state = Arc::new(State {
            blobs: Box::new(blobs),
            admitted: Mutex::default(),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || listen(&listener, &shared))
            .map_err(failed)?;
        Ok(Self {
            state,
            at,
            thread: Some(thread),
        })
    }

    /// Lets these be fetched.
    pub fn admit(&self, blobs: &[Admitted]) {
        let mut admitted = self
            .state
            .admitted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for Admitted { media_type, blob } in blobs {
            admitted.insert(blob.digest.clone(), (media_type.clone(), blob.len));
        }
    }

    /// Lets these be fetched, and no others any more.
    pub fn admit_only(&self, blobs: &[Admitted]) {
        let all = blobs.iter().map(|Admitted { media_type, blob }| {
            (blob.digest.clone(), (media_type.clone(), blob.len))
        });
        let admitted = &self.state.admitted;
        *admitted.lock().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }

    /// How an image of it is called.
    #[must_use]
    pub fn reference(&self, digest: &str) -> String {
        format!("{}/{NAME}@{digest}", self.at)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes it.
        drop(TcpStream::connect_timeout(&self.at, Duration::from_secs(1)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(listener: &TcpListener, state: &Arc<State>) {
    for connection in listener.incoming() {
        if state.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(connection) = connection else { continue };
        if state.connections.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
            state.connections.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let shared = Arc::clone(state);
        let served = std::thread::Builder::new().spawn(move || {
            // Who broke off asks again.
            let _ = serve(connection, &shared);
            shared.connections.fetch_sub(1, Ordering::SeqCst);
        });
        if served.is_err() {
            state.connections.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn serve(mut connection: TcpStream, state: &State) -> std::io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let request = request(&mut connection)?;
    let admitted = state
        .admitted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let answer = answer(&request, &admitted);
    let mut out = BufWriter::with_capacity(256 << 10, &mut connection);
    out.write_all(answer.head().as_bytes())?;
    if let Some((digest, from, len)) = &answer.body
        && *len > 0
    {
        let read = state.blobs.read(digest, *from, *len, &mut out);
        read.map_err(std::io::Error::other)?;
    }
    out.flush()
}

fn request(connection: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let got = connection.read(&mut piece)?;
        if got == 0 || bytes.len() + got > REQUEST_LEN {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        bytes.extend_from_slice(&piece[..got]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    /// Digest, first byte, bytes; none for HEAD.
    body: Option<(String, u64, u64)>,
}

impl Answer {
    fn bare(status: &'static str) -> Self {
        Self {
            status,
            headers: vec![("Content-Length", "0".to_owned())],
            body: None,
        }
    }

    fn head(&self) -> String {
        let mut head = format!(
            "HTTP/1.1 {}\r\nConnection: close\r\nDocker-Distribution-API-Version: registry/2.0\r\n",
            self.status
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

/// Pure.
fn answer(request: &str, admitted: &HashMap<String, (String, u64)>) -> Answer {
    let mut lines = request.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    if !matches!(method, "GET" | "HEAD") {
        return Answer::bare("405 Method Not Allowed");
    }
    let path = path.split('?').next().unwrap_or_default();
    if path == "/v2/" || path == "/v2" {
        return Answer::bare("200 OK");
    }
    let digest = path
        .strip_prefix("/v2/")
        .and_then(|rest| rest.strip_prefix(NAME))
        .and_then(|rest| {
            rest.strip_prefix("/manifests/")
                .or_else(|| rest.strip_prefix("/blobs/"))
        });
    let Some((digest, (media_type, len))) =
        digest.and_then(|digest| Some((digest, admitted.get(digest)?)))
    else {
        return Answer::bare("404 Not Found");
    };
    let range = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("range").then(|| value.trim())
    });
    let (status, from, count) = match range.map(|range| within(range, *len)) {
        None => ("200 OK", 0, *len),
        Some(Some((from, count))) => ("206 Partial Content", from, count),
        Some(None) => return Answer::bare("416 Range Not Satisfiable"),
    };
    let mut headers = vec![
        ("Content-Type", media_type.clone()),
        ("Content-Length", count.to_string()),
        ("Docker-Content-Digest", digest.to_owned()),
        ("Accept-Ranges", "bytes".to_owned()),
    ];
    if range.is_some() {
        headers.push((
            "Content-Range",
            format!("bytes {from}-{}/{len}", from + count - 1),
        ));
    }
    Answer {
        status,
        headers,
        body: (method == "GET").then(|| (digest.to_owned(), from, count)),
    }
}

/// First byte and number of bytes of `bytes=FROM-`, `bytes=FROM-TO` and `bytes=-LAST`.
fn within(range: &str, len: u64) -> Option<(u64, u64)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from, to) {
        ("", last) => (len.checked_sub(last.parse().ok()?)?, len.checked_sub(1)?),
        (from, "") => (from.parse().ok()?, len.checked_sub(1)?),
        (from, to) => (
            from.parse().ok()?,
            to.parse::<u64>().ok()?.min(len.checked_sub(1)?),
        ),
    };
    (from <= to && from < len).then(|| (from, to - from + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;

    impl Blobs for Zeros {
        fn read(&self, _: &str, offset: u64, len: u64, out: &mut dyn Write) -> Result<()> {
            let bytes: Vec<u8> = (offset..offset + len)
                .map(|n| u8::try_from(n % 251).unwrap())
                .collect();
            out.write_all(&bytes).map_err(|e| Error::io("x", e))
        }
    }

    fn asked(registry: &Registry, head: &str) -> (String, Vec<u8>) {
        let mut connection = TcpStream::connect(registry.at).unwrap();
        connection
            .write_all(head.replace('\n', "\r\n").as_bytes())
            .unwrap();
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).unwrap();
        let at = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        (
            String::from_utf8(bytes[..at].to_vec()).unwrap(),
            bytes[at + 4..].to_vec(),
        )
    }

    #[test]
    fn what_nothing_stands_on_any_more_is_given_no_longer() {
        let registry = Registry::start(Zeros, 0).unwrap();
        let of = |letter: &str| Admitted {
            media_type: "x/y".to_owned(),
            blob: Blob {
                digest: format!("sha256:{}", letter.repeat(64)),
                len: 10,
            },
        };
        let gives = |one: &Admitted| {
            let request = format!(
                "HEAD /v2/cryostore/base/blobs/{} HTTP/1.1\n\n",
                one.blob.digest
            );
            asked(&registry, &request).0.contains("200 OK")
        };
        let (a, b) = (of("a"), of("b"));
        registry.admit(&[a.clone(), b.clone()]);
        assert!(gives(&a) && gives(&b));
        registry.admit_only(std::slice::from_ref(&b));
        assert!(!gives(&a) && gives(&b));
    }

    #[test]
    fn what_was_admitted_is_given_whole_and_in_parts_and_nothing_else_is() {
        let registry = Registry::start(Zeros, 0).unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let blob = Blob {
            digest: digest.clone(),
            len: 1000,
        };
        registry.admit(&[Admitted {
            media_type: "x/y".to_owned(),
            blob,
        }]);
        let path = format!("/v2/cryostore/base/blobs/{digest}");
        let (head, body) = asked(&registry, &format!("GET {path} HTTP/1.1\nHost: x\n\n"));
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.contains("Content-Type: x/y"),
            "{head}"
        );
        assert!(
            head.contains(&format!("Docker-Content-Digest: {digest}")),
            "{head}"
        );
        assert_eq!((body.len(), body[252]), (1000, 1));
        let (head, body) = asked(
            &registry,
            &format!("GET {path} HTTP/1.1\nrange: bytes=990-\n\n"),
        );
        assert!(
            head.contains("206") && head.contains("Content-Range: bytes 990-999/1000"),
            "{head}"
        );
        assert_eq!((body.len(), body[0]), (10, 237));
        let manifest = path.replace("blobs", "manifests");
        let (head, body) = asked(&registry, &format!("HEAD {manifest} HTTP/1.1\n\n"));
        assert!(
            head.contains("Content-Length: 1000") && body.is_empty(),
            "{head}"
        );
        for (request, status) in [
            ("GET /v2/ HTTP/1.1\n\n".to_owned(), "200"),
            (
                format!("GET {} HTTP/1.1\n\n", path.replace('a', "b")),
                "404",
            ),
            (
                "GET /v2/cryostore/base/blobs/../../../etc/passwd HTTP/1.1\n\n".to_owned(),
                "404",
            ),
            (format!("PUT {path} HTTP/1.1\n\n"), "405"),
            (
                format!("GET {path} HTTP/1.1\nRange: bytes=1000-\n\n"),
                "416",
            ),
            (format!("GET {path} HTTP/1.1\nRange: bytes=9-3\n\n"), "416"),
        ] {
            let (head, body) = asked(&registry, &request);
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}: {head}"
            );
            assert!(body.is_empty());
        }
        assert!(registry.reference(&digest).starts_with("127.0.0.1:"));
    }

    #[test]
    fn it_ends_when_it_is_dropped_and_garbage_does_not_end_it() {
        let registry = Registry::start(Zeros, 0).unwrap();
        let mut connection = TcpStream::connect(registry.at).unwrap();
        let _ = connection.write_all(&[b'x'; 40_000]);
        let (head, _) = asked(&registry, "GET /v2/ HTTP/1.1\n\n");
        assert!(head.contains("200"));
        let at = registry.at;
        drop(registry);
        assert!(TcpStream::connect(at).is_err());
    }
}
