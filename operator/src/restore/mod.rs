//! Bringing a checkpoint back to life: look, plan, act.
//!
//! Start with [`Source::read`]; then [`plan::plan`], which is pure and is what `--dry-run` prints; then the driver that the plan names. One module is one
//! subject: [`preflight`] refuses, [`pod_again`] makes the new pod, [`place`], [`oci`], [`push`], [`containerd`], [`podman`] and [`criu`] are the drivers,
//! [`registry`] gives a runtime the base image that it cannot fetch by itself, [`wait`] looks what became of it.
//!
//! Always: what an archive says is a claim. It is stripped of what could reach outside of its container before a runtime gets it, and it authorises
//! nothing. Never: makes a call of the CRI that creates, starts or ends a container: in a cluster that is the kubelet's.

pub mod containerd;
pub mod criu;
pub mod digest;
pub mod images;
pub mod layer;
mod layout;
pub mod local;
mod logs;
mod objects;
pub mod oci;
pub mod place;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod pod_again;
pub mod podman;
pub mod preflight;
pub mod push;
pub mod registry;
pub mod runtime;
pub mod source;
mod strip;
pub mod wait;

pub use layout::write_image;
pub use objects::{look, nodes};
pub use source::{Family, Mount, Source};
