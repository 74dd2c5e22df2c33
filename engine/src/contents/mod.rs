//! Owns what was in a checkpoint, for people and for the question where it can be restored: processes with their command lines, what they had open,
//! whom they talked to, what they saw mounted, what the engine said of the container.
//!
//! Always: an image that is missing or cannot be read leaves a gap, not an error; of a hostile archive at most the stated numbers are listed, and
//! [`Contents::cut`] says so. Never: reads page images, but for the few pages that hold command lines and, if they are asked for, environments.

mod container;
mod process;
mod table;
mod tree;

use std::collections::BTreeMap;

pub use container::{Container, ContainerMount};
pub use process::{Memory, Open, Process};

use crate::criu::{DumpStats, ImageName, Inventory, Mount, Uts, image_name, parse_mounts};
use crate::restore::CheckpointReader;

/// 1 MiB: the images of one process are a few kilobytes.
const IMAGE_LEN: u64 = 1 << 20;
/// 16 MiB: a process tree of some hundred thousand processes, or as many open files.
const TABLE_LEN: u64 = 16 << 20;

/// What is to be looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Also environments: they often hold secrets.
    pub environment: bool,
}

/// What was in a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// In the order of the tree, children behind their parents.
    pub processes: Vec<Process>,
    /// Of all mount namespaces, in stored order.
    pub mounts: Vec<Mount>,
    /// Host names, as the processes see them.
    pub hosts: Vec<String>,
    /// Namespaces of the machine, by the numbers of this dump: a process that has another one has its own.
    pub outside: Vec<(&'static str, u32)>,
    /// What the engine said of the container.
    pub container: Container,
    /// Bytes of page images.
    pub page_bytes: u64,
    /// Bytes of `rootfs-diff.tar`, as it lies in the archive: what the container changed in its root file system.
    pub rootfs_diff_bytes: u64,
    /// What CRIU counted.
    pub dump: Option<DumpStats>,
    /// Plugins without which CRIU does not restore it.
    pub plugins: Vec<String>,
    /// Connections of TCP were closed at the dump, not saved.
    pub tcp_closed: bool,
    /// There are images of GPUs.
    pub gpu: bool,
    /// There was more than is listed.
    pub cut: bool,
}

impl Contents {
    /// Sockets that are restored only if CRIU is told what to do with connections of TCP.
    #[must_use]
    pub fn tcp_connections(&self) -> usize {
        let open = self.processes.iter().flat_map(|process| &process.open);
        let mut files: Vec<_> = open
            .filter(|open| open.is_tcp_connection())
            .map(|open| open.file)
            .collect();
        files.sort_unstable();
        files.dedup();
        files.len()
    }
}

/// Directory (with its slash) and file name of a member.
#[must_use]
pub fn split(name: &[u8]) -> (&[u8], &[u8]) {
    name.split_at(name.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1))
}

/// Members of one directory of images.
struct Folder<'r> {
    reader: &'r CheckpointReader<'r>,
    path: Vec<u8>,
}

impl Folder<'_> {
    /// A member's bytes; none if it is not there, is longer, or cannot be read.
    fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let mut path = self.path.clone();
        path.extend_from_slice(name.as_bytes());
        self.reader.read_member(&path, limit).ok()?
    }
}

/// Looks at a checkpoint.
#[must_use]
pub fn read(reader: &CheckpointReader<'_>, look: Look) -> Contents {
    let mut contents = Contents::default();
    // By folder: is it the only one that has a process tree?
    let mut folders: BTreeMap<&[u8], bool> = BTreeMap::new();
    for stream in &reader.manifest().streams {
        let (path, file) = split(&stream.name);
        let named = |prefix: &[u8]| file.starts_with(prefix) && file.ends_with(b".img");
        match image_name(file) {
            ImageName::Pstree => *folders.entry(path).or_default() = true,
            ImageName::Inventory => {
                let inventory = small(reader, &stream.name).and_then(|b| Inventory::parse(&b).ok());
                if let Some(inventory) = inventory {
                    contents.outside = inventory.root_namespaces;
                    contents.plugins.extend(inventory.plugins);
                    contents.tcp_closed |= inventory.tcp_close == Some(true);
                }
            }
            ImageName::Stats => {
                contents.dump = small(reader, &stream.name).and_then(|b| DumpStats::parse(&b).ok());
            }
            ImageName::Pages(_) => {
                contents.page_bytes = contents.page_bytes.saturating_add(stream.len)
            }
            ImageName::AmdgpuPages => contents.gpu = true,
            _ if named(b"amdgpu-") || named(b"cuda-") => contents.gpu = true,
            _ if named(b"mountpoints-") => {
                let bytes = reader.read_member(&stream.name, TABLE_LEN).ok().flatten();
                let mounts = bytes.and_then(|bytes| parse_mounts(&bytes).ok());
                contents.mounts.extend(mounts.into_iter().flatten());
            }
            _ if named(b"utsns-") => {
                let uts = small(reader, &stream.name).and_then(|b| Uts::parse(&b).ok());
                contents.hosts.extend(uts.map(|uts| uts.host));
            }
            _ if path.is_empty() && file == b"rootfs-diff.tar" => {
                contents.rootfs_diff_bytes = stream.len;
            }
            _ if path.is_empty() && matches!(file, b"spec.dump" | b"config.dump") => {
                if let Some(bytes) = small(reader, &stream.name) {
                    contents.container.learn(file == b"spec.dump", &bytes);
                }
            }
            _ => {}
        }
    }
    contents.gpu |= contents
        .plugins
        .iter()
        .any(|p| p.contains("gpu") || p.contains("cuda"));
    let mut budget = process::Budget::default();
    let several = folders.len() > 1;
    for path in folders.into_keys() {
        let folder = Folder {
            reader,
            path: path.to_vec(),
        };
        let processes = tree::read(&folder, several, look, &mut budget);
        contents.processes.extend(processes);
    }
    contents.cut = budget.cut;
    contents
}

fn small(reader: &CheckpointReader<'_>, name: &[u8]) -> Option<Vec<u8>> {
    reader.read_member(name, IMAGE_LEN).ok()?
}
