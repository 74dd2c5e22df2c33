//! Owns what was in a checkpoint as programs get it: processes, what they had open, namespaces, mounts, and what a restore needs.
//!
//! Always: of an environment the names, its values only if they are asked for. Never: reads anything itself.

use std::collections::BTreeMap;

use cryostore_engine::contents::{Contents, Open, Process};
use cryostore_engine::criu::{FileKind, SocketState, file_system};
use serde::Serialize;

/// What was in the checkpoint.
#[derive(Debug, Serialize)]
pub(super) struct Inside {
    pub(super) processes: Vec<ProcessView>,
    pub(super) container: ContainerView,
    /// As CRIU saw them from inside.
    pub(super) mounts: Vec<MountView>,
    /// Host names that the processes see.
    pub(super) hosts: Vec<String>,
    /// Of page images.
    pub(super) page_bytes: u64,
    /// What the container changed in its root file system, as the engine packed it.
    pub(super) rootfs_diff_bytes: u64,
    pub(super) dump: Option<Dump>,
    pub(super) needs: Needs,
    /// There is more than is listed.
    pub(super) cut: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ProcessView {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// 0: the root of its tree.
    pub(super) depth: usize,
    /// Absent: not known.
    pub(super) name: Option<String>,
    pub(super) command: Vec<String>,
    pub(super) executable: Option<String>,
    pub(super) working_directory: Option<String>,
    pub(super) root_directory: Option<String>,
    pub(super) threads: usize,
    /// Pages in the archive.
    pub(super) pages: u64,
    pub(super) bytes: u64,
    /// Pages in CRIU's parent directory.
    pub(super) parent_pages: u64,
    pub(super) open: Vec<OpenView>,
    pub(super) environment: Vec<Variable>,
    /// Namespaces that are not those of the machine.
    pub(super) own_namespaces: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct Variable {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct OpenView {
    pub(super) fd: u32,
    /// As CRIU has it.
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    /// Bytes of a file that a restore wants to find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pipe: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) socket: Option<SocketView>,
}

#[derive(Debug, Serialize)]
pub(super) struct SocketView {
    /// tcp, udp, unix, or the number of another one.
    pub(super) protocol: String,
    pub(super) state: String,
    /// Address and port, or the name of a Unix socket; `@` in front of an abstract one.
    pub(super) local: String,
    pub(super) remote: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ContainerView {
    pub(super) created: String,
    pub(super) checkpointed: String,
    pub(super) image_reference: String,
    pub(super) host: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) mounts: Vec<ContainerMountView>,
}

#[derive(Debug, Serialize)]
pub(super) struct ContainerMountView {
    pub(super) destination: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: String,
}

#[derive(Debug, Serialize)]
pub(super) struct MountView {
    pub(super) path: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: String,
    /// A restore has to give it.
    pub(super) external: bool,
}

/// What CRIU counted; times in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Dump {
    pub(super) freezing_us: Option<u32>,
    pub(super) frozen_us: Option<u32>,
    pub(super) memory_dump_us: Option<u32>,
    pub(super) memory_write_us: Option<u32>,
    pub(super) pages_scanned: Option<u64>,
    pub(super) pages_written: Option<u64>,
}

/// What a restore needs beside the archive.
#[derive(Debug, Serialize)]
pub(super) struct Needs {
    /// Plugins of CRIU.
    pub(super) plugins: Vec<String>,
    pub(super) gpu: bool,
    /// Saved connections of TCP.
    pub(super) tcp_connections: usize,
    /// They were closed at the dump.
    pub(super) tcp_closed: bool,
}

impl Inside {
    pub(super) fn new(contents: &Contents, show_values: bool) -> Self {
        let container = &contents.container;
        let mounts = container.mounts.iter().map(|mount| ContainerMountView {
            destination: mount.destination.clone(),
            kind: mount.kind.clone(),
            source: mount.source.clone(),
        });
        let process = |process| ProcessView::new(process, &contents.outside, show_values);
        Self {
            processes: contents.processes.iter().map(process).collect(),
            container: ContainerView {
                created: container.created.clone(),
                checkpointed: container.checkpointed.clone(),
                image_reference: container.image_reference.clone(),
                host: container.host.clone(),
                annotations: container.annotations.clone(),
                mounts: mounts.collect(),
            },
            mounts: contents.mounts.iter().map(MountView::from).collect(),
            hosts: contents.hosts.clone(),
            page_bytes: contents.page_bytes,
            rootfs_diff_bytes: contents.rootfs_diff_bytes,
            dump: contents.dump.map(|dump| Dump {
                freezing_us: dump.freezing_time_us,
                frozen_us: dump.frozen_time_us,
                memory_dump_us: dump.memdump_time_us,
                memory_write_us: dump.memwrite_time_us,
                pages_scanned: dump.pages_scanned,
                pages_written: dump.pages_written,
            }),
            needs: Needs {
                plugins: contents.plugins.clone(),
                gpu: contents.gpu,
                tcp_connections: contents.tcp_connections(),
                tcp_closed: contents.tcp_closed,
            },
            cut: contents.cut,
        }
    }
}

impl ProcessView {
    fn new(process: &Process, outside: &[(&'static str, u32)], show_values: bool) -> Self {
        let environment = process.environment.iter().map(|(name, value)| Variable {
            name: name.clone(),
            value: show_values.then(|| value.clone()),
        });
        let own = process.namespaces.iter().filter(|ns| !outside.contains(ns));
        Self {
            pid: process.pid,
            parent: process.parent,
            depth: process.depth,
            name: process.name.clone(),
            command: process.command.clone(),
            executable: process.executable.clone(),
            working_directory: process.working.clone(),
            root_directory: process.root.clone(),
            threads: process.threads,
            pages: process.memory.pages,
            bytes: process.memory.bytes,
            parent_pages: process.memory.parent_pages,
            open: process.open.iter().map(OpenView::from).collect(),
            environment: environment.collect(),
            own_namespaces: own.map(|(name, _)| *name).collect(),
        }
    }
}

impl From<&cryostore_engine::criu::Mount> for MountView {
    fn from(mount: &cryostore_engine::criu::Mount) -> Self {
        let known = file_system(mount.kind);
        let named = mount.kind_name.as_deref().unwrap_or_default();
        let path = mount.path.strip_prefix('.').unwrap_or(&mount.path);
        Self {
            path: path.to_owned(),
            kind: if known.is_empty() { named } else { known }.to_owned(),
            source: mount.source.clone(),
            external: mount.external.is_some(),
        }
    }
}

impl From<&Open> for OpenView {
    fn from(open: &Open) -> Self {
        let mut view = Self {
            fd: open.fd,
            kind: open.kind.as_ref().map_or("UND", FileKind::name),
            ..Self::default()
        };
        match &open.kind {
            Some(FileKind::Path { path, size }) => {
                view.path = Some(path.clone());
                view.bytes = *size;
            }
            Some(FileKind::Pipe(number)) => view.pipe = Some(*number),
            Some(kind) => view.socket = SocketView::new(kind),
            None => {}
        }
        view
    }
}

impl SocketView {
    fn new(kind: &FileKind) -> Option<Self> {
        match kind {
            FileKind::Inet(socket) => {
                let address = |at: Option<std::net::SocketAddr>| {
                    at.map_or_else(String::new, |at| at.to_string())
                };
                Some(Self {
                    protocol: match socket.protocol {
                        6 => "tcp".to_owned(),
                        17 => "udp".to_owned(),
                        other => format!("ip {other}"),
                    },
                    state: state(socket.state),
                    local: address(socket.local),
                    remote: address(socket.remote),
                })
            }
            FileKind::Unix(socket) => Some(Self {
                protocol: "unix".to_owned(),
                state: state(socket.state),
                local: match socket.name.split_first() {
                    None => String::new(),
                    Some((0, rest)) => format!("@{}", String::from_utf8_lossy(rest)),
                    Some(_) => String::from_utf8_lossy(&socket.name).into_owned(),
                },
                remote: match socket.peer {
                    0 => String::new(),
                    peer => format!("inode {peer}"),
                },
            }),
            _ => None,
        }
    }
}

/// As `ss` names it.
fn state(state: SocketState) -> String {
    match state {
        SocketState::Established => "established".to_owned(),
        SocketState::Listening => "listening".to_owned(),
        SocketState::Between(number) => {
            // include/net/tcp_states.h
            const NAMES: [&str; 12] = [
                "",
                "",
                "syn-sent",
                "syn-received",
                "fin-wait-1",
                "fin-wait-2",
                "time-wait",
                "",
                "close-wait",
                "last-ack",
                "",
                "closing",
            ];
            let name = usize::try_from(number).ok().and_then(|n| NAMES.get(n));
            match name {
                Some(name) if !name.is_empty() => (*name).to_owned(),
                _ => format!("state {number}"),
            }
        }
        _ => "unconnected".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_an_environment_are_told_only_if_they_are_asked_for() {
        let mut contents = Contents::default();
        contents.processes.push(Process {
            environment: vec![("TOKEN".to_owned(), "hush".to_owned())],
            namespaces: vec![("pid", 9), ("user", 7)],
            ..Process::default()
        });
        contents.outside = vec![("pid", 1), ("user", 7)];
        let told = serde_json::to_string(&Inside::new(&contents, false)).unwrap();
        assert!(told.contains("TOKEN") && !told.contains("hush"), "{told}");
        assert!(told.contains(r#""own_namespaces":["pid"]"#), "{told}");
        let told = serde_json::to_string(&Inside::new(&contents, true)).unwrap();
        assert!(told.contains("hush"), "{told}");
    }
}
