//! Owns calls of gRPC over a unix socket, of which containerd needs three kinds: one message each way, one and then many back, many each way.
//!
//! Always: an answer has a longest length; a call ends when the user wants to stop. Never: makes a call twice.
//!
//! Stands on gRPC over HTTP/2 (grpc/grpc, doc/PROTOCOL-HTTP2.md): a message is a zero byte, its length in four bytes, most significant first, and its bytes;
//! the outcome is in the trailers `grpc-status` and `grpc-message`.

use std::future::poll_fn;
use std::path::Path;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cryostore_engine::{Error, Kind, Monitor, Result};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::UnixStream;

use crate::cluster::stopped;
use crate::http::Waiting;

/// 32 MiB: twice what containerd sends at most (its max_send_message_size is 16 MiB).
const ANSWER_LEN: usize = 32 << 20;
/// 4 MiB each way under way.
const WINDOW: u32 = 4 << 20;
/// Bytes in front of a message.
const PREFIX: usize = 5;

/// How a call ended that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Status {
    /// gRPC's code, such as 5 for not found.
    pub(super) code: u32,
    /// What the server says.
    pub(super) message: String,
}

pub(super) const NOT_FOUND: u32 = 5;
pub(super) const ALREADY_EXISTS: u32 = 6;
const UNAVAILABLE: u32 = 14;
const UNIMPLEMENTED: u32 = 12;
const PERMISSION_DENIED: u32 = 7;

impl Status {
    fn broken(text: impl std::fmt::Display) -> Self {
        Self {
            code: UNAVAILABLE,
            message: text.to_string(),
        }
    }

    /// The error of a call.
    pub(super) fn error(self, what: &str) -> Error {
        let kind = match self.code {
            NOT_FOUND => Kind::NotFound,
            ALREADY_EXISTS => Kind::Conflict,
            PERMISSION_DENIED => Kind::Denied,
            UNIMPLEMENTED => Kind::Unsupported,
            _ if self.message.contains("no space left") => Kind::NoSpace,
            _ => Kind::Unavailable,
        };
        Error::new(kind, format!("containerd, {what}: {}", self.message))
    }
}

type Answer<T> = std::result::Result<T, Status>;

/// For whom a call is: containerd's namespace, and the lease that keeps what it makes.
#[derive(Debug, Clone, Default)]
pub(super) struct For {
    pub(super) namespace: String,
    pub(super) lease: Option<String>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Channel {
    waiting: Waiting,
    send: SendRequest<Bytes>,
}

impl Channel {
    pub(super) fn connect(socket: &Path, monitor: &dyn Monitor) -> Result<Self> {
        let waiting = Waiting::new()?;
        let connected = waiting.wait(monitor, async {
            let stream = UnixStream::connect(socket).await?;
            let mut builder = h2::client::Builder::new();
            builder
                .initial_window_size(WINDOW)
                .initial_connection_window_size(WINDOW);
            let (send, connection) = builder
                .handshake::<_, Bytes>(stream)
                .await
                .map_err(std::io::Error::other)?;
            // It moves while a call is waited for; how it ends, the calls say.
            tokio::spawn(async move {
                let _ = connection.await;
            });
            std::io::Result::Ok(send)
        });
        let send = connected.ok_or_else(stopped)?.map_err(|e| {
            Error::io(format!("containerd at {}", socket.display()), e).hint(
                "it has to run on this machine, and only root may ask it; say --containerd SOCKET if it listens elsewhere",
            )
        })?;
        Ok(Self { waiting, send })
    }

    /// Waits for work; an error if the user wants to stop.
    fn wait<T>(
        &self,
        monitor: &dyn Monitor,
        work: impl Future<Output = Answer<T>>,
    ) -> Result<Answer<T>> {
        self.waiting.wait(monitor, work).ok_or_else(stopped)
    }

    /// One message each way.
    pub(super) fn call(
        &self,
        method: &str,
        to: &For,
        message: Vec<u8>,
        monitor: &dyn Monitor,
    ) -> Result<Answer<Bytes>> {
        self.wait(monitor, async {
            let mut call = Call::open(self.send.clone(), method, to).await?;
            call.send(message, true).await?;
            let answer = call.receive().await?;
            // The outcome is after it.
            let more = call.receive().await?;
            match (answer, more) {
                (Some(answer), None) => Ok(answer),
                (None, _) => Err(Status::broken("the answer is empty")),
                (Some(_), Some(_)) => Err(Status::broken("more than one answer")),
            }
        })
    }

    /// Many messages.
    pub(super) fn open(
        &self,
        method: &str,
        to: &For,
        monitor: &dyn Monitor,
    ) -> Result<Answer<Call>> {
        self.wait(monitor, Call::open(self.send.clone(), method, to))
    }

    /// Sends one of many.
    pub(super) fn send(
        &self,
        call: &mut Call,
        message: Vec<u8>,
        is_last: bool,
        monitor: &dyn Monitor,
    ) -> Result<Answer<()>> {
        self.wait(monitor, call.send(message, is_last))
    }

    /// The next of many; none after the last, which ended well.
    pub(super) fn receive(
        &self,
        call: &mut Call,
        monitor: &dyn Monitor,
    ) -> Result<Answer<Option<Bytes>>> {
        self.wait(monitor, call.receive())
    }
}

/// A call under way.
pub(super) struct Call {
    send: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
    is_over: bool,
}

impl Call {
    async fn open(send: SendRequest<Bytes>, method: &str, to: &For) -> Answer<Self> {
        let mut send = send.ready().await.map_err(Status::broken)?;
        let mut request = Request::post(format!("http://localhost/{method}"))
            .version(http::Version::HTTP_2)
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header(
                "user-agent",
                concat!("cryostore/", env!("CARGO_PKG_VERSION")),
            );
        if !to.namespace.is_empty() {
            request = request.header("containerd-namespace", &to.namespace);
        }
        if let Some(lease) = &to.lease {
            request = request.header("containerd-lease", lease);
        }
        let request = request.body(()).map_err(Status::broken)?;
        let (response, send) = send.send_request(request, false).map_err(Status::broken)?;
        Ok(Self {
            send,
            response: Some(response),
            body: None,
            buffer: BytesMut::new(),
            is_over: false,
        })
    }

    async fn send(&mut self, message: Vec<u8>, is_last: bool) -> Answer<()> {
        let len = u32::try_from(message.len()).map_err(Status::broken)?;
        let mut head = BytesMut::with_capacity(PREFIX + message.len());
        head.put_u8(0);
        head.put_u32(len);
        head.extend_from_slice(&message);
        let mut bytes = head.freeze();
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            let capacity = poll_fn(|context| self.send.poll_capacity(context)).await;
            let capacity = match capacity {
                Some(Ok(capacity)) => capacity,
                // The server has ended the call already, and says why.
                Some(Err(_)) | None => return Err(self.why().await),
            };
            let piece = bytes.split_to(capacity.min(bytes.len()));
            let ends = is_last && bytes.is_empty();
            if self.send.send_data(piece, ends).is_err() {
                return Err(self.why().await);
            }
        }
        Ok(())
    }

    /// Why the server ended the call.
    async fn why(&mut self) -> Status {
        loop {
            match self.receive().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::broken("it ended the call early"),
                Err(status) => return status,
            }
        }
    }

    async fn receive(&mut self) -> Answer<Option<Bytes>> {
        if self.is_over {
            return Ok(None);
        }
        if let Some(response) = self.response.take() {
            let (head, body) = response.await.map_err(Status::broken)?.into_parts();
            if head.status != http::StatusCode::OK {
                return Err(Status::broken(format!("HTTP status {}", head.status)));
            }
            // A call that fails at once has its outcome in the headers.
            outcome(&head.headers)?;
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        loop {
            if self.buffer.len() >= PREFIX {
                let mut head = &self.buffer[..PREFIX];
                let is_compressed = head.get_u8() != 0;
                let len = usize::try_from(head.get_u32()).map_err(Status::broken)?;
                if is_compressed || len > ANSWER_LEN {
                    return Err(Status::broken(format!("an answer of {len} bytes")));
                }
                if self.buffer.len() >= PREFIX + len {
                    self.buffer.advance(PREFIX);
                    return Ok(Some(self.buffer.split_to(len).freeze()));
                }
            }
            match body.data().await {
                Some(piece) => {
                    let piece = piece.map_err(Status::broken)?;
                    body.flow_control()
                        .release_capacity(piece.len())
                        .map_err(Status::broken)?;
                    self.buffer.extend_from_slice(&piece);
                }
                None => {
                    self.is_over = true;
                    let trailers = body.trailers().await.map_err(Status::broken)?;
                    let trailers = trailers.ok_or_else(|| Status::broken("the call broke off"))?;
                    outcome(&trailers)?;
                    return Ok(None);
                }
            }
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Call")
    }
}

fn outcome(headers: &HeaderMap) -> Answer<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status").and_then(|code| code.parse().ok()) else {
        return Ok(());
    };
    if code == 0 {
        return Ok(());
    }
    Err(Status {
        code,
        message: decoded(text("grpc-message").unwrap_or_default()),
    })
}

/// Bytes outside of printable ASCII are written as % and two hexadecimal digits.
fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let byte = (*first == b'%')
            .then(|| after.get(..2).and_then(|digits| hex::decode(digits).ok()))
            .flatten();
        match byte {
            Some(byte) => {
                out.extend_from_slice(&byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_a_server_is_decoded_and_a_lonely_percent_stays() {
        assert_eq!(decoded("a%20b%C3%A9 100%"), "a bé 100%");
        assert_eq!(decoded("%zz%2"), "%zz%2");
    }

    #[test]
    fn nobody_at_the_socket_is_an_error_that_says_which_socket() {
        let e = Channel::connect(Path::new("/does/not/exist.sock"), &cryostore_engine::Silent);
        let e = e.unwrap_err();
        assert!(e.to_string().contains("/does/not/exist.sock"), "{e}");
    }
}
