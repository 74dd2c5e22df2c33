//! What runs on a node: `cryostore serve-node`, and the way to it.
//!
//! Start with [`Agent`] and [`serve`]; on the other side with [`client::Remote`]. Calls and their types are in [`calls`].
//!
//! Always: who calls is known, and asked for at the API server, before anything of a pod is touched; one call is one line of the audit log; what comes
//! in has a longest length and a longest time. Never: goes through `nodes/proxy`; listens without TLS.

mod audit;
mod body;
mod caller;
pub mod calls;
pub mod client;
pub mod containerd;
mod forward;
mod grace;
pub mod images;
mod jobs;
mod ledger;
pub mod node;
mod publish;
pub mod remote;
mod server;
mod slots;
mod subject;
pub mod survey;
mod sweep;
mod tls;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cryostore_engine::{Env, Monitor, Repository, Result};

pub use audit::Audit;
pub use caller::Gate;
pub use ledger::Ledger;
pub use publish::{CONFIG_MAP, NAMESPACE};
pub use server::serve;
pub use tls::{NAME, TlsFiles};
pub use watch::Watching;

use crate::kubelet::KubeletTls;

/// The repositories that an agent has keys for.
pub trait Stores: std::fmt::Debug + Send + Sync {
    /// Their names, without secrets; the first one is meant where none is said.
    fn names(&self) -> Vec<String>;
    /// Opens one of them.
    fn open(&self, name: &str) -> Result<Repository>;
}

/// How an agent works.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its certificate; none: it makes one.
    pub tls: Option<TlsFiles>,
    /// The node's name; empty: not in a cluster.
    pub node: String,
    /// Where its certificate is published, if it is one of its own; none: nowhere.
    pub namespace: Option<String>,
    /// Where the kubelet of this node is asked.
    pub kubelet_at: String,
    /// Whom the kubelet's certificate has to be from.
    pub kubelet: KubeletTls,
    /// Where the kubelet leaves archives.
    pub folder: PathBuf,
    /// Where locks are kept, on this machine.
    pub locks: PathBuf,
    /// Where the node's configuration files are found.
    pub root: PathBuf,
}

/// A node's agent.
#[derive(Debug)]
pub struct Agent {
    /// How it works.
    pub options: Options,
    /// Who may do what.
    pub gate: Gate,
    /// Where it stores.
    pub stores: Box<dyn Stores>,
    /// The container runtime's store of images, if there is one.
    pub images: Option<Box<dyn images::Images>>,
    /// It stores archives that others asked for, too, if this is there.
    pub watching: Option<Watching>,
    /// What is written down of each call.
    pub audit: Audit,
    /// Clock and chance.
    pub env: Arc<dyn Env>,
}

/// Watches over an agent, from several threads.
pub type Watcher = Arc<dyn Monitor + Send + Sync>;
