//! Owns the look at the folder in which the kubelet puts the archives of checkpoints: what lies there is not stored yet.
//!
//! Always: a folder that holds a repository is a repository. Never: opens an archive, or changes anything there.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::{Error, Kind};
use jiff::Timestamp;

use crate::exit::Failure;

const RECORD: &str = "repository.json";
/// More are counted, and not shown.
const TARS_MAX: usize = 10_000;

/// A folder of the kubelet's.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

/// An archive that was not stored, as far as it can be told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tar {
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) bytes: u64,
    /// When it was last written to.
    pub(crate) modified: Timestamp,
}

impl Folder {
    /// That at a place where no repository is, by its name or by what lies in it.
    pub(crate) fn at(storage: &str) -> Option<Self> {
        let path = storage.strip_prefix("file://").unwrap_or(storage);
        if path.contains("://") {
            return None;
        }
        let path = Path::new(path).canonicalize().ok()?;
        if !path.is_dir() || path.join(RECORD).exists() {
            return None;
        }
        let folder = Self { path };
        (folder.has_its_name() || folder.has_tar()).then_some(folder)
    }

    /// That in which a repository is to be made that is not there yet.
    pub(crate) fn around(storage: &str) -> Option<Self> {
        let path = storage.strip_prefix("file://").unwrap_or(storage);
        if path.contains("://") {
            return None;
        }
        let path = std::path::absolute(path).ok()?;
        let real = path.ancestors().find_map(|dir| {
            let rest = path.strip_prefix(dir).ok()?;
            Some(dir.canonicalize().ok()?.join(rest))
        });
        let real = real.unwrap_or(path);
        let mut places = real.ancestors().map(|dir| Self {
            path: dir.to_owned(),
        });
        let named = places.find(Self::has_its_name);
        named.or_else(|| Self::at(storage))
    }

    /// `…/kubelet/checkpoints`
    fn has_its_name(&self) -> bool {
        self.path.ends_with("kubelet/checkpoints")
    }

    fn has_tar(&self) -> bool {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten();
        let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.any(|name| is_tar(&name))
    }

    pub(crate) fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Its archives, the newest first.
    pub(crate) fn tars(&self) -> Result<Vec<Tar>, Failure> {
        let failed = |e| Error::io(self.path.display(), e);
        let mut out = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            // Not through a link: who made it may not read what it leads to.
            let Some(meta) = entry.metadata().ok().filter(std::fs::Metadata::is_file) else {
                continue;
            };
            if !is_tar(&name) {
                continue;
            }
            let since = meta.modified().ok();
            let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let since = since.and_then(|since| i64::try_from(since.as_secs()).ok());
            let modified = since.and_then(|secs| Timestamp::from_second(secs).ok());
            out.push(Tar {
                identity: identity(&name),
                path: entry.path(),
                bytes: meta.len(),
                modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
            });
        }
        out.sort_by(|a, b| (b.modified, &a.path).cmp(&(a.modified, &b.path)));
        out.truncate(TARS_MAX);
        Ok(out)
    }

    /// For whoever wants to read a repository there.
    pub(crate) fn is_no_repository(&self) -> Failure {
        Error::new(Kind::NotFound, format!("there is no repository in {}: it is a folder of the kubelet's", self.name()))
            .hint("`cryostore ls --storage` shows what lies there; `cryostore import FILE` stores it in a repository elsewhere")
            .into()
    }

    /// For whoever wants to make a repository there.
    pub(crate) fn takes_no_repository(&self) -> Failure {
        Error::new(Kind::Conflict, format!("{} is the folder in which the kubelet puts archives: no repository is made there", self.name()))
            .hint("name another directory, on another disk if there is one, or a bucket; `cryostore import FILE` stores in it what lies here")
            .into()
    }
}

/// `checkpoint-POD_NAMESPACE-CONTAINER-TIME.tar`
fn is_tar(name: &str) -> bool {
    name.starts_with("checkpoint-") && name.ends_with(".tar")
}

/// As far as a name tells it: namespaces and containers may have `-` in them, so that where one ends is not always known.
fn identity(name: &str) -> Identity {
    let mut out = Identity::default();
    let inner = name.strip_prefix("checkpoint-").unwrap_or(name);
    let inner = inner.strip_suffix(".tar").unwrap_or(inner);
    let Some((pod, rest)) = inner.split_once('_') else {
        return out;
    };
    out.pod = pod.to_owned();
    // The time is RFC 3339, which begins with a year.
    let starts_time = |(at, _): &(usize, &str)| {
        let time = rest.get(at + 1..).unwrap_or_default();
        time.parse::<Timestamp>().is_ok()
    };
    let end = rest.match_indices('-').find(starts_time);
    let rest = end.map_or(rest, |(at, _)| rest.get(..at).unwrap_or(rest));
    if let Some((namespace, container)) = rest.split_once('-')
        && !container.contains('-')
    {
        out.namespace = namespace.to_owned();
        out.container = container.to_owned();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_what_cannot_be_read_in_two_ways() {
        let parts = |name: &str| {
            let identity = identity(name);
            [identity.pod, identity.namespace, identity.container].join("|")
        };
        for (name, wanted) in [
            (
                "checkpoint-web-0_default-nginx-2026-09-01T10:20:30Z.tar",
                "web-0|default|nginx",
            ),
            (
                "checkpoint-web_default-nginx-2026-09-01T10:20:30+02:00.tar",
                "web|default|nginx",
            ),
            ("checkpoint-web_default-nginx.tar", "web|default|nginx"),
            (
                "checkpoint-web_kube-system-nginx-2026-09-01T10:20:30Z.tar",
                "web||",
            ),
            ("checkpoint-x.tar", "||"),
        ] {
            assert_eq!(parts(name), wanted, "{name}");
        }
    }

    #[test]
    fn a_folder_is_the_kubelets_by_its_name_or_by_what_lies_in_it_and_not_with_a_repository() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path.display().to_string()
        };
        let (named, plain) = (make("lib/kubelet/checkpoints"), make("plain"));
        assert!(Folder::at(&named).is_some() && Folder::at(&plain).is_none());
        for inside in ["", "/new", "/new/deeper"] {
            assert!(Folder::around(&format!("{named}{inside}")).is_some());
        }
        assert!(Folder::around(&format!("{plain}/new")).is_none());
        std::fs::write(format!("{plain}/checkpoint-a_b-c.tar"), "x").unwrap();
        assert_eq!(Folder::at(&plain).unwrap().tars().unwrap().len(), 1);
        std::fs::write(format!("{plain}/repository.json"), "{}").unwrap();
        assert!(Folder::at(&plain).is_none());
        assert!(Folder::at("s3://kubelet/checkpoints").is_none());
    }
}
