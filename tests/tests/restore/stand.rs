//! A stand-in for containerd, as far as an import needs one: what it is told to keep it keeps, and it can refuse one kind of call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cryostore_engine::criu::wire::Fields;
use cryostore_operator::restore::digest::Blob;
use h2::server::SendResponse;
use http::{HeaderMap, Response};

#[derive(Debug, Default)]
pub struct Kept {
    /// Content, with its labels.
    pub content: BTreeMap<String, (Vec<u8>, BTreeMap<String, String>)>,
    /// Images: target and labels.
    pub images: BTreeMap<String, (String, BTreeMap<String, String>)>,
    pub snapshots: Vec<String>,
    /// Leases that have not ended.
    pub leases: Vec<String>,
    /// Methods, in order.
    pub calls: Vec<String>,
    /// Calls that came without a lease or without the namespace.
    pub astray: Vec<String>,
    uploads: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug)]
pub struct Stand {
    pub socket: PathBuf,
    pub kept: Arc<Mutex<Kept>>,
}

/// Bytes of a field; empty if it is not there.
fn at(bytes: &[u8], field: u32) -> &[u8] {
    let fields = Fields::new("a call", bytes, 0).map(Result::unwrap);
    fields
        .filter(|f| f.number == field)
        .map(|f| f.bytes().unwrap())
        .last()
        .unwrap_or_default()
}

fn text(bytes: &[u8], field: u32) -> String {
    String::from_utf8(at(bytes, field).to_vec()).unwrap()
}

fn number(bytes: &[u8], field: u32) -> u64 {
    let fields = Fields::new("a call", bytes, 0).map(Result::unwrap);
    fields
        .filter(|f| f.number == field)
        .map(|f| f.u64().unwrap())
        .last()
        .unwrap_or(0)
}

fn labels(bytes: &[u8], field: u32) -> BTreeMap<String, String> {
    let fields = Fields::new("a call", bytes, 0).map(Result::unwrap);
    let pairs = fields
        .filter(|f| f.number == field)
        .map(|f| f.bytes().unwrap());
    pairs.map(|pair| (text(pair, 1), text(pair, 2))).collect()
}

/// A message with one field of bytes.
fn message(field: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | 2];
    let mut len = bytes.len();
    while len > 127 {
        out.push(u8::try_from(len & 127).unwrap() | 128);
        len >>= 7;
    }
    out.push(u8::try_from(len).unwrap());
    out.extend_from_slice(bytes);
    out
}

impl Stand {
    /// `refuses`: the end of a method's name, gRPC's code and message.
    pub fn start(dir: &Path, refuses: Option<(&'static str, u32, &'static str)>) -> Self {
        let socket = dir.join("containerd.sock");
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let shared = Arc::clone(&kept);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let guard = runtime.enter();
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        drop(guard);
        // Ends with the test's process.
        std::thread::spawn(move || {
            runtime.block_on(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        let mut connection = h2::server::handshake(stream).await.unwrap();
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            tokio::spawn(serve(request, respond, Arc::clone(&shared), refuses));
                        }
                    });
                }
            });
        });
        Self { socket, kept }
    }
}

type Answer = Result<Vec<u8>, (u32, String)>;

async fn serve(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    kept: Arc<Mutex<Kept>>,
    refuses: Option<(&'static str, u32, &'static str)>,
) {
    let (head, mut body) = request.into_parts();
    let method = head.uri.path().to_owned();
    let header = |name: &str| {
        head.headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    {
        let mut kept = kept.lock().unwrap();
        kept.calls.push(method.clone());
        let leased = ["Write", "Prepare", "Commit", "Apply", "Images/Create"];
        let wants_lease = leased.iter().any(|end| method.ends_with(end));
        if header("containerd-namespace").as_deref() != Some("k8s.io")
            || (wants_lease && header("containerd-lease").is_none())
        {
            kept.astray.push(method.clone());
        }
    }
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(response, false).unwrap();
    let mut buffer = BytesMut::new();
    let mut outcome = (0, String::new());
    'call: while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        buffer.extend_from_slice(&piece);
        while buffer.len() >= 5 {
            let len = usize::try_from((&buffer[1..5]).get_u32()).unwrap();
            if buffer.len() < 5 + len {
                break;
            }
            let message = buffer.split_to(5 + len).split_off(5);
            let answer = match refuses {
                Some((end, code, text)) if method.ends_with(end) => Err((code, text.to_owned())),
                _ => answer(&method, &message, &mut kept.lock().unwrap()),
            };
            match answer {
                Ok(bytes) => {
                    let mut out = BytesMut::new();
                    out.put_u8(0);
                    out.put_u32(u32::try_from(bytes.len()).unwrap());
                    out.extend_from_slice(&bytes);
                    send.send_data(out.freeze(), false).unwrap();
                }
                Err(refused) => {
                    outcome = refused;
                    break 'call;
                }
            }
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", outcome.0.into());
    trailers.insert("grpc-message", outcome.1.parse().unwrap());
    let _ = send.send_trailers(trailers);
}

fn answer(method: &str, m: &[u8], kept: &mut Kept) -> Answer {
    match method
        .rsplit_once("services.")
        .map_or(method, |(_, rest)| rest)
    {
        "leases.v1.Leases/Create" => kept.leases.push(text(m, 1)),
        "leases.v1.Leases/Delete" => kept.leases.retain(|lease| *lease != text(m, 1)),
        "content.v1.Content/Write" => {
            let upload = kept.uploads.entry(text(m, 2)).or_default();
            if number(m, 5) != upload.len() as u64 {
                return Err((11, "a hole".to_owned()));
            }
            upload.extend_from_slice(at(m, 6));
            if number(m, 1) == 2 {
                let bytes = kept.uploads.remove(&text(m, 2)).unwrap();
                let blob = Blob::of(&bytes);
                if blob.digest != text(m, 4) || blob.len != number(m, 3) {
                    return Err((9, "another digest".to_owned()));
                }
                kept.content.insert(blob.digest, (bytes, labels(m, 7)));
            }
        }
        "content.v1.Content/Abort" => drop(kept.uploads.remove(&text(m, 1))),
        "snapshots.v1.Snapshots/Stat" if !kept.snapshots.contains(&text(m, 2)) => {
            return Err((5, "not found".to_owned()));
        }
        "snapshots.v1.Snapshots/Prepare" => return Ok(message(1, &message(1, b"bind"))),
        "snapshots.v1.Snapshots/Commit" => kept.snapshots.push(text(m, 2)),
        // What was applied: the same.
        "diff.v1.Diff/Apply" => return Ok(message(1, at(m, 1))),
        "images.v1.Images/Create" => {
            let image = at(m, 1);
            let target = text(at(image, 3), 2);
            kept.images
                .insert(text(image, 1), (target, labels(image, 2)));
        }
        "images.v1.Images/Delete" => drop(kept.images.remove(&text(m, 1))),
        "/runtime.v1.ImageService/ImageStatus" => {
            let name = text(at(m, 1), 1);
            if kept.images.contains_key(&name) {
                return Ok(message(1, &message(1, name.as_bytes())));
            }
        }
        _ => {}
    }
    Ok(Vec::new())
}
