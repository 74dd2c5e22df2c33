//! What cryostore does in a Kubernetes cluster: find a pod, have its kubelet take a checkpoint, store what that leaves on the node.
//!
//! Start with [`Cluster::connect`], then [`checkpoint::prepare`] and [`checkpoint::take`]. As in the engine everything blocks, and reports to
//! a monitor. The library prints nothing.
//!
//! Always: all that can be refused is refused before a container is frozen; what a kubelet, an API server or an archive says is looked at before
//! it is used, and authorises nothing. Never: asks for more than the rights in `deploy/rbac.yaml`; goes through `nodes/proxy`, which is a
//! shell in every pod.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::cast_possible_truncation,
        clippy::disallowed_methods
    )
)]

mod account;
pub mod agent;
pub mod archive;
pub mod capture;
pub mod checkpoint;
mod cluster;
pub mod criu_log;
pub mod errors;
pub mod here;
mod http;
mod kubelet;
mod lock;
mod plugin;
pub mod pod;
pub mod restore;

pub use cluster::{Cluster, Node};
pub use kubelet::{Kubelet, KubeletTls};
