//! A registry that takes images, as small as one can be: what is sent to it, it keeps; and it can refuse.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How it is.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    /// It wants `Authorization: Basic` with these.
    pub basic: Option<String>,
    /// It wants a token, which it gives to whoever has these.
    pub bearer: Option<String>,
    /// It answers so to each request with this method.
    pub refuses: Option<(&'static str, u16)>,
    /// It wants blobs to go to this place.
    pub elsewhere: Option<String>,
}

#[derive(Debug, Default)]
pub struct Kept {
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifests: HashMap<String, Vec<u8>>,
    /// Bytes of each part.
    pub parts: Vec<usize>,
    pub requests: Vec<String>,
    uploads: HashMap<String, Vec<u8>>,
}

#[derive(Debug)]
pub struct Stand {
    pub at: String,
    pub kept: Arc<Mutex<Kept>>,
}

impl Stand {
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let (shared, host) = (Arc::clone(&kept), at.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (shared, manner, host) = (Arc::clone(&shared), manner.clone(), host.clone());
                std::thread::spawn(move || serve(connection, &shared, &manner, &host));
            }
        });
        Self { at, kept }
    }
}

fn serve(connection: TcpStream, kept: &Mutex<Kept>, manner: &Manner, host: &str) {
    let mut out = connection.try_clone().unwrap();
    let mut input = BufReader::new(connection);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let len = header("content-length").map_or(0, |len| len.parse().unwrap());
        let mut body = vec![0; len];
        input.read_exact(&mut body).unwrap();
        let (status, headers, text) =
            answer(&head[0], header("authorization"), &body, kept, manner, host);
        let headers: String = headers
            .iter()
            .map(|(k, v)| format!("{k}: {v}\r\n"))
            .collect();
        let answer = format!(
            "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{text}",
            text.len()
        );
        if out.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

type Answer = (u16, Vec<(&'static str, String)>, String);

fn answer(
    first: &str,
    who: Option<String>,
    body: &[u8],
    kept: &Mutex<Kept>,
    manner: &Manner,
    host: &str,
) -> Answer {
    let mut words = first.split(' ');
    let (method, url) = (words.next().unwrap(), words.next().unwrap());
    let mut kept = kept.lock().unwrap();
    kept.requests.push(format!(
        "{method} {url} {}",
        who.clone().unwrap_or_default()
    ));
    let bare = |status| (status, Vec::new(), String::new());
    if let Some(user) = &manner.bearer {
        if url.starts_with("/token") {
            let fits = who.as_deref() == Some(&format!("Basic {user}"))
                && url.contains("service=stand")
                && url.contains("scope=repository%3Ateam%2Fweb%3Apull%2Cpush");
            return if fits {
                (200, Vec::new(), r#"{"token":"t0k"}"#.to_owned())
            } else {
                bare(401)
            };
        }
        if who.as_deref() != Some("Bearer t0k") {
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="stand""#);
            return (401, vec![("www-authenticate", challenge)], String::new());
        }
    }
    if let Some(user) = &manner.basic
        && who.as_deref() != Some(&format!("Basic {user}"))
    {
        return (
            401,
            vec![("www-authenticate", r#"Basic realm="stand""#.to_owned())],
            "who?".to_owned(),
        );
    }
    if let Some((refused, status)) = manner.refuses
        && refused == method
    {
        return (status, Vec::new(), "not here".to_owned());
    }
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    match method {
        "POST" => {
            let name = format!("u{}", kept.uploads.len());
            kept.uploads.insert(name.clone(), Vec::new());
            let place = manner
                .elsewhere
                .clone()
                .unwrap_or(format!("/upload/{name}?state=x"));
            (202, vec![("location", place)], String::new())
        }
        "PATCH" => {
            let name = path.rsplit('/').next().unwrap();
            kept.parts.push(body.len());
            kept.uploads.get_mut(name).unwrap().extend_from_slice(body);
            (
                202,
                vec![("location", format!("http://{host}{path}?state=y"))],
                String::new(),
            )
        }
        "PUT" if path.starts_with("/upload/") => {
            let name = path.rsplit('/').next().unwrap();
            let mut bytes = kept.uploads.remove(name).unwrap();
            bytes.extend_from_slice(body);
            let digest = query
                .split('&')
                .find_map(|pair| pair.strip_prefix("digest="))
                .unwrap()
                .to_owned();
            if cryostore_operator::restore::digest::Blob::of(&bytes).digest != digest {
                return bare(400);
            }
            kept.blobs.insert(digest, bytes);
            bare(201)
        }
        "PUT" => {
            kept.manifests.insert(path.to_owned(), body.to_vec());
            bare(201)
        }
        _ => bare(404),
    }
}
