//! Owns what a snapshot says about its own restore: whose archive it is, the pod that it was of, what a place must have. Read once, by parts.
//!
//! Always: what was attached at the checkpoint counts before what the archive says, and neither authorises anything. What is missing is empty.
//! Never: reads page images.

use std::collections::BTreeSet;

use cryostore_engine::criu::{ImageName, Inventory, image_name, parse_pstree};
use cryostore_engine::format::manifest::{Role, Stream};
use cryostore_engine::format::snapshot::{ArchiveKind, SnapshotRecord};
use cryostore_engine::{CheckpointReader, Result};
use serde_json::Value;

use super::images::{self, Open};
use super::strip;
use crate::capture::{self, Host};
use crate::pod::text;

/// 64 MiB: images that are lists, such as those of files and of processes.
const IMAGE_LEN: u64 = 64 << 20;

/// Whose archives there are. Who made one restores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// containerd's CRI.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// A directory as `docker checkpoint` leaves it.
    Docker,
    /// A directory of CRIU, or an archive of one.
    Criu,
}

impl Family {
    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "CRI-O",
            Self::Podman => "Podman",
            Self::Docker => "Docker",
            Self::Criu => "plain CRIU",
        }
    }
}

/// A place in the container that was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// Where it came from, on the node.
    pub source: String,
}

/// What is restored.
#[derive(Debug, Clone)]
pub struct Source {
    /// The snapshot's record.
    pub record: SnapshotRecord,
    /// Whose archive it is.
    pub family: Family,
    /// The pod as it can be made again; none if the archive was imported by hand.
    pub pod: Option<Value>,
    /// What the place had; fields that nobody wrote down are empty.
    pub host: Host,
    /// The base image as the runtime fetches it.
    pub base_ref: String,
    /// The name under which it was asked for.
    pub base_name: String,
    /// What was bind-mounted.
    pub mounts: Vec<Mount>,
    /// What the copies for a runtime go without.
    pub dangerous: Vec<String>,
    /// Names of the CRIU images, without their directory.
    pub images: BTreeSet<String>,
    /// What the processes have open.
    pub open: Open,
    /// Plugins of CRIU without which it is not restored.
    pub plugins: Vec<String>,
    /// The dump needs pages of another one.
    pub is_incremental: bool,
    /// The first process belongs to a session of a shell that is not in the dump.
    pub is_shell_job: bool,
}

/// The file's name in a path.
fn base(name: &[u8]) -> &[u8] {
    name.rsplit(|b| *b == b'/').next().unwrap_or(name)
}

impl Source {
    /// Reads it.
    pub fn read(reader: &CheckpointReader<'_>, record: &SnapshotRecord) -> Result<Self> {
        let streams = &reader.manifest().streams;
        let is_member = |stream: &&Stream| matches!(stream.role, Role::Member);
        let parsed = |bytes: Option<Vec<u8>>| -> Value {
            serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
        };
        let json = |name: &str| -> Result<Value> {
            let found = [name.to_owned(), format!("./{name}")];
            let has = |stream: &Stream| {
                found.iter().any(|f| f.as_bytes() == stream.name) && is_member(&stream)
            };
            let Some((number, stream)) = (0..).zip(streams).find(|(_, stream)| has(stream)) else {
                return Ok(Value::Null);
            };
            // What is too long or no JSON is nobody's description: no copy for a runtime is made of it.
            if stream.len > strip::DESCRIPTION_LEN {
                return Ok(Value::Null);
            }
            Ok(parsed(reader.read_stream(number, strip::DESCRIPTION_LEN)?))
        };
        // Only what was stored beside the archive, and only if the record says so: a file in the archive that has the name is its maker's word.
        let attached = |name: &str| -> Result<Value> {
            if !record.attachments.iter().any(|one| one.name == name) {
                return Ok(Value::Null);
            }
            Ok(parsed(reader.read_attachment(
                name.as_bytes(),
                strip::DESCRIPTION_LEN,
            )?))
        };
        let (config, spec) = (json("config.dump")?, json("spec.dump")?);
        let mut dangerous = Vec::new();
        for name in strip::DESCRIPTIONS {
            dangerous.extend(strip::clean(&mut json(name)?));
        }
        dangerous.sort();
        dangerous.dedup();
        let members: Vec<&Stream> = streams.iter().filter(is_member).collect();
        let images: BTreeSet<String> = members
            .iter()
            .map(|stream| base(&stream.name))
            .filter(|name| name.ends_with(b".img") || *name == b"descriptors.json")
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect();
        let image = |wanted: ImageName| -> Result<Option<Vec<u8>>> {
            let found = members
                .iter()
                .find(|s| image_name(base(&s.name)) == wanted && s.len <= IMAGE_LEN);
            found.map_or(Ok(None), |s| reader.read_member(&s.name, IMAGE_LEN))
        };
        let inventory = image(ImageName::Inventory)?.and_then(|b| Inventory::parse(&b).ok());
        let tree = image(ImageName::Pstree)?.and_then(|b| parse_pstree(&b).ok());
        let file_list = members
            .iter()
            .find(|s| base(&s.name) == b"files.img" && s.len <= IMAGE_LEN);
        let file_list = file_list.map_or(Ok(None), |s| reader.read_member(&s.name, IMAGE_LEN))?;
        let pod = attached(capture::POD)?;
        let host: Host = serde_json::from_value(attached(capture::HOST)?).unwrap_or_default();
        Ok(Self {
            family: family(record, &images),
            pod: pod.is_object().then_some(pod),
            host: completed(host, record),
            base_ref: text(&config, "/rootfsImageRef").to_owned(),
            base_name: text(&config, "/rootfsImageName").to_owned(),
            mounts: mounts(&spec),
            dangerous,
            images,
            open: images::read(&file_list.unwrap_or_default()),
            plugins: inventory.as_ref().map_or_else(
                || record.producer.criu_plugins.clone(),
                |i| i.plugins.clone(),
            ),
            is_incremental: record.requires.is_some()
                || reader.manifest().maps.iter().any(|map| {
                    use cryostore_engine::format::manifest::RunPlace;
                    !map.stale && map.runs.iter().any(|run| run.place == RunPlace::Parent)
                }),
            is_shell_job: tree.is_some_and(|tree| {
                let root = tree.first();
                root.is_some_and(|root| !tree.iter().any(|process| process.pid == root.sid))
            }),
            record: record.clone(),
        })
    }
}

fn family(record: &SnapshotRecord, images: &BTreeSet<String>) -> Family {
    match record.producer.engine.as_str() {
        "containerd" => Family::Containerd,
        "cri-o" => Family::CriO,
        "podman" => Family::Podman,
        // runc writes the file, and docker keeps it in its directory.
        _ if images.contains("descriptors.json")
            && record.archive.kind == ArchiveKind::Directory =>
        {
            Family::Docker
        }
        _ => Family::Criu,
    }
}

/// What the place had, from the record where nobody wrote it down at the checkpoint.
fn completed(mut host: Host, record: &SnapshotRecord) -> Host {
    if host.arch.is_empty() {
        host.arch.clone_from(&record.producer.arch);
    }
    if host.page_size == 0 {
        host.page_size = record.producer.page_size.unwrap_or(0);
    }
    host
}

/// What each runtime mounts by itself in every container.
const OWN_MOUNTS: [&str; 7] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/shm",
    "/dev/termination-log",
    "/run/.containerenv",
    "/run/secrets",
];

fn mounts(spec: &Value) -> Vec<Mount> {
    let list = spec.get("mounts").and_then(Value::as_array);
    let binds = list.into_iter().flatten().filter(|mount| {
        let destination = text(mount, "/destination");
        text(mount, "/type") == "bind"
            && !OWN_MOUNTS.contains(&destination)
            && !destination.starts_with("/proc")
            && !destination.starts_with("/sys")
    });
    binds
        .map(|mount| Mount {
            destination: text(mount, "/destination").to_owned(),
            source: text(mount, "/source").to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_every_runtime_mounts_by_itself_is_nothing_that_a_place_must_have() {
        let bind = |at: &str| json!({"type": "bind", "destination": at, "source": "/x"});
        let spec = json!({"mounts": [
            bind("/etc/hosts"), bind("/data"), bind("/proc/x"), {"type": "tmpfs", "destination": "/dev"}, bind("/dev/termination-log"),
        ]});
        let found: Vec<_> = mounts(&spec).into_iter().map(|m| m.destination).collect();
        assert_eq!(found, ["/data"]);
        assert!(mounts(&Value::Null).is_empty());
    }
}
