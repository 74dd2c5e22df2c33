//! Owns the way to a node's agent through the API server: a port-forward to the agent's pod, as `kubectl port-forward` makes it.
//!
//! Always: listens on this machine's loopback address and a free port, as long as it lives; what goes through it is TLS between client and agent, so
//! that neither the API server nor another user of this machine reads it or takes part. Never: needs more than `pods/portforward` of that one pod.
//!
//! The protocol is the older of two that kubelets speak over a web socket, `v4.channel.k8s.io`: each message begins with the number of a channel, 0 for data
//! and 1 for an error's text, and the first message of the server on each channel is the port's number in two bytes. API servers hand it through to the
//! kubelet (the newer one, `v2.portforward.k8s.io`, is beta from 1.31 on and carries SPDY inside).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryostore_engine::{Env, Error, Kind, Result, SystemEnv};
use futures::{SinkExt, StreamExt};
use reqwest::Upgraded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::publish::Found;
use crate::Cluster;
use crate::errors;
use crate::http::{Answer, Failed, Link, to_base64};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// The API server asks the kubelet, and the kubelet its runtime.
const PATIENCE: Duration = Duration::from_secs(30);
/// 32 KiB of data a message.
const PIECE: usize = 32 << 10;
/// A client makes one connection for each call.
const CONNECTIONS: usize = 8;
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Of the port, at the beginning of each channel.
const PORT_LEN: usize = 2;

/// A way that is open.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    trouble: Arc<Mutex<Option<Error>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Way {
    link: Link,
    path: String,
    what: String,
    trouble: Arc<Mutex<Option<Error>>>,
}

impl Forward {
    pub(crate) fn open(cluster: &Cluster, to: &Found) -> Result<Self> {
        let failed = |e| Error::io("a port of this machine for the way to the agent", e);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("port-forward")
            .enable_all()
            .build()
            .map_err(failed)?;
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = runtime.block_on(TcpListener::bind(here)).map_err(failed)?;
        let trouble = Arc::new(Mutex::new(None));
        let Found {
            namespace,
            pod,
            port,
        } = to;
        let way = Arc::new(Way {
            link: cluster.upgrading_link()?,
            path: format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"),
            what: format!("the way to pod {namespace}/{pod}, which is the node's agent"),
            trouble: Arc::clone(&trouble),
        });
        let address = listener.local_addr().map_err(failed)?;
        runtime.spawn(async move {
            let free = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
            while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
                let Ok((mut stream, _)) = listener.accept().await else {
                    continue;
                };
                let way = Arc::clone(&way);
                tokio::spawn(async move {
                    if let Err(e) = way.carry(&mut stream).await {
                        let mut trouble =
                            way.trouble.lock().unwrap_or_else(PoisonError::into_inner);
                        *trouble = Some(e);
                    }
                    // Only now: whoever sees the end of it asks why.
                    drop(stream);
                    drop(permit);
                });
            }
        });
        Ok(Self {
            address,
            trouble,
            runtime: Some(runtime),
        })
    }

    /// Why a connection through it ended early, if it did.
    pub(crate) fn trouble(&self) -> Option<Error> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.take()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Way {
    async fn open(&self) -> Result<WebSocketStream<Upgraded>> {
        let key = to_base64(&SystemEnv::new().random()[..16]);
        let asked = self.link.web_socket(&self.path, &key, PROTOCOL, PATIENCE);
        let upgraded = match asked.await {
            Ok(Ok(upgraded)) => upgraded,
            Ok(Err(Answer { status, body })) => {
                let needs = ("pods/portforward", "get");
                return Err(errors::of_api(&self.what, status, &body, needs));
            }
            Err(Failed::Other(e)) => return Err(e),
            Err(Failed::Certificate { text, .. } | Failed::Away(text) | Failed::Broken(text)) => {
                return Err(self.broken(&text));
            }
            Err(Failed::TimedOut) => return Err(self.broken("no answer in time")),
        };
        Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
    }

    fn broken(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("{}: {why}", self.what))
            .hint("try `kubectl port-forward` to that pod; --agent https://HOST:PORT is another way, where the agent listens on such an address")
    }

    /// One connection, until either side ends it.
    async fn carry(&self, stream: &mut TcpStream) -> Result<()> {
        let socket = self.open().await?;
        let (mut there, mut back) = socket.split();
        let (mut reader, mut writer) = stream.split();
        let forth = async {
            let mut piece = vec![0; PIECE + 1];
            piece[0] = DATA;
            while let Ok(len) = reader.read(&mut piece[1..]).await {
                if len == 0 {
                    break;
                }
                let message = Message::binary(piece[..=len].to_vec());
                if there.send(message).await.is_err() {
                    break;
                }
            }
            let _ = there.close().await;
        };
        let home = async {
            let mut to_skip = [PORT_LEN; 2];
            while let Some(message) = back.next().await {
                let bytes = match message {
                    Ok(Message::Binary(bytes)) => bytes,
                    Ok(Message::Close(_)) => break,
                    Ok(_) => continue,
                    // An agent that has said all closes; how is not always as the protocol has it.
                    Err(_) => break,
                };
                let Some((&channel, data)) = bytes.split_first() else {
                    continue;
                };
                let Some(left) = to_skip.get_mut(usize::from(channel)) else {
                    continue;
                };
                let skipped = data.len().min(*left);
                *left -= skipped;
                let data = &data[skipped..];
                if data.is_empty() {
                    continue;
                }
                if channel == ERROR {
                    let text = String::from_utf8_lossy(data);
                    return Err(self.broken(text.trim()));
                }
                if writer.write_all(data).await.is_err() {
                    break;
                }
            }
            let _ = writer.shutdown().await;
            Ok(())
        };
        // The client ends its side last: it waits for the answer.
        tokio::select! {
            () = forth => Ok(()),
            done = home => done,
        }
    }
}
