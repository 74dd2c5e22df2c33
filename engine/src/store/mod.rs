//! Owns the calls to an object store: reads, conditional puts, lists, and what their errors mean to a caller.
//!
//! Always: a put that is acknowledged is durable (local files and directories are fsynced); a read is bounded by what the
//! caller expects. Never: decides what an object means, or deletes a name that it was not given.

mod files;
mod vault;

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use crate::bridge::{Bridge, Tasks};
use crate::error::{Error, Kind, Result, io_kind};

pub use vault::{FramePlace, Vault};

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, relative to the repository.
    pub name: String,
    /// Bytes.
    pub len: u64,
}

/// Objects below one prefix.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    bridge: Bridge,
    name: String,
    local: Option<PathBuf>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

impl Store {
    /// A directory: a path, or a `file://` URL. With `create`, it is made if it is missing.
    pub fn open(storage: &str, create: bool) -> Result<Self> {
        let path = match storage.split_once("://") {
            None => storage,
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!(
                        "storage `{storage}`: no stores of the kind `{scheme}://` in this version"
                    ),
                )
                .hint("use a directory (a path or a file:// URL)"));
            }
        };
        if path.is_empty() {
            return Err(
                Error::new(Kind::Invalid, "the storage is an empty path").hint("say --storage DIR")
            );
        }
        let root = FsPath::new(path);
        if create {
            std::fs::create_dir_all(root)
                .map_err(|e| Error::io(format!("making the directory {path}"), e))?;
        }
        let missing = |e| {
            Error::io(format!("storage {path}"), e)
                .hint("check the path; `cryostore init --storage DIR` makes a repository")
        };
        let root = root.canonicalize().map_err(missing)?;
        if !root.is_dir() {
            return Err(
                Error::new(Kind::Invalid, format!("storage {path} is not a directory"))
                    .hint("a repository is a directory; an archive is what `import` takes"),
            );
        }
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| Error::new(Kind::Invalid, format!("storage {path}: {e}")))?
            .with_fsync(true);
        let name = root.display().to_string();
        Ok(Self {
            objects: Arc::new(objects),
            bridge: Bridge::new()?,
            name,
            local: Some(root),
        })
    }

    /// Any other store; `name` is what errors call it.
    pub fn new(objects: Arc<dyn ObjectStore>, name: impl Into<String>) -> Result<Self> {
        Ok(Self {
            objects,
            bridge: Bridge::new()?,
            name: name.into(),
            local: None,
        })
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory, if it is one.
    #[must_use]
    pub fn local_path(&self) -> Option<&FsPath> {
        self.local.as_deref()
    }

    /// The whole object, at most `limit` bytes.
    pub fn get(&self, name: &str, limit: u64) -> Result<Bytes> {
        let path = Path::from(name);
        let result = self.bridge.wait(async {
            let found = self.objects.get(&path).await?;
            if found.meta.size > limit {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(Ok)
        });
        match result {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(size)) => Err(Error::new(
                Kind::Corrupt,
                format!("{name} has {size} bytes, at most {limit} were expected"),
            )
            .hint("it is damaged, or not ours: run `cryostore check` to see which snapshots are touched")),
            Err(e) => Err(self.error("reading", name, e)),
        }
    }

    /// Parts of an object, in the order in which they were asked for. Each has the length that was asked for.
    pub fn get_ranges(&self, name: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = Path::from(name);
        let parts = match &self.local {
            // Straight from the file: over the runtime it takes a thread more, and every buffer is cleared before it is filled.
            Some(root) => {
                files::read_ranges(&root.join(name), ranges).map_err(|e| as_store_error(name, e))
            }
            None => self.bridge.wait(self.objects.get_ranges(&path, ranges)),
        };
        let parts = parts.map_err(|e| match self.len(name) {
            Ok(Some(len)) if ranges.iter().any(|r| r.end > len) => Self::short(name, len),
            _ => self.error("reading", name, e),
        })?;
        for (part, range) in parts.iter().zip(ranges) {
            if part.len() as u64 != range.end - range.start {
                return Err(Self::short(name, range.start + part.len() as u64));
            }
        }
        Ok(parts)
    }

    fn short(name: &str, len: u64) -> Error {
        Error::new(
            Kind::Corrupt,
            format!("{name} has only {len} bytes: it was cut short"),
        )
        .hint("run `cryostore check --read-data` to see which snapshots are touched")
    }

    /// Bytes of an object; none if there is no such object.
    pub fn len(&self, name: &str) -> Result<Option<u64>> {
        match self.bridge.wait(self.objects.head(&Path::from(name))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("looking for", name, e)),
        }
    }

    /// Puts an object that must not exist yet. An object that is there already is a conflict; whose it is, the caller must look.
    pub fn create(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let options = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let path = Path::from(name);
        let put = self
            .objects
            .put_opts(&path, PutPayload::from_bytes(bytes.into()), options);
        self.bridge
            .wait(put)
            .map(drop)
            .map_err(|e| self.error("writing", name, e))
    }

    /// Puts an object, whether there is one or not.
    pub fn replace(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let path = Path::from(name);
        let put = self
            .objects
            .put(&path, PutPayload::from_bytes(bytes.into()));
        self.bridge
            .wait(put)
            .map(drop)
            .map_err(|e| self.error("writing", name, e))
    }

    /// Puts beside the caller: at most `limit` objects at once.
    #[must_use]
    pub fn uploads(&self, limit: usize) -> Uploads {
        Uploads {
            failed: false,
            store: self.clone(),
            tasks: self.bridge.tasks(limit),
        }
    }

    /// Removes an object; one that is gone already is no error.
    pub fn delete(&self, name: &str) -> Result<()> {
        match self.bridge.wait(self.objects.delete(&Path::from(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("removing", name, e)),
        }
    }

    /// The objects below `prefix`, sorted by name.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let prefix = Path::from(prefix);
        let mut out = self.bridge.wait(async {
            let mut objects = self.objects.list(Some(&prefix));
            let mut out = Vec::new();
            while let Some(meta) = objects.next().await {
                match meta {
                    Ok(meta) => out.push(Listed {
                        name: meta.location.to_string(),
                        len: meta.size,
                    }),
                    // Removed between the list and the look at it.
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(self.error("listing", prefix.as_ref(), e)),
                }
            }
            Ok(out)
        })?;
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    /// What writes that were cut off have left in a local store: `NAME#N` beside the objects. They are in no list and nothing reads them.
    pub fn leftovers(&self) -> Result<Vec<Listed>> {
        let mut out = Vec::new();
        if let Some(root) = &self.local {
            find_leftovers(root, root, &mut out)
                .map_err(|e| Error::io(format!("listing {}", self.name), e))?;
        }
        Ok(out)
    }

    /// Removes one of them.
    pub fn remove_leftover(&self, name: &str) -> Result<()> {
        let Some(root) = self.local.as_ref().filter(|_| is_leftover(name)) else {
            return Ok(());
        };
        match std::fs::remove_file(root.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {name}"), e))
            }
            _ => Ok(()),
        }
    }

    fn error(&self, doing: &str, name: &str, error: object_store::Error) -> Error {
        explain(&self.name, doing, name, error)
    }
}

fn as_store_error(name: &str, source: std::io::Error) -> object_store::Error {
    let (path, source) = (name.to_owned(), Box::new(source));
    if source.kind() == std::io::ErrorKind::NotFound {
        object_store::Error::NotFound { path, source }
    } else {
        let store = "the directory";
        object_store::Error::Generic { store, source }
    }
}

/// What an error of a store means.
fn explain(store: &str, doing: &str, name: &str, error: object_store::Error) -> Error {
    use object_store::Error as Os;
    let kind = match &error {
        Os::NotFound { .. } => Kind::NotFound,
        Os::AlreadyExists { .. } | Os::Precondition { .. } => Kind::Conflict,
        Os::PermissionDenied { .. } | Os::Unauthenticated { .. } => Kind::Denied,
        Os::NotSupported { .. } | Os::NotImplemented { .. } => Kind::Unsupported,
        _ => io_cause(&error).map_or(Kind::Unavailable, io_kind),
    };
    let cause = io_cause(&error).map_or_else(|| error.to_string(), ToString::to_string);
    let out = Error::new(kind, format!("{doing} {name} in {store}: {cause}"));
    let out = match kind {
        Kind::NoSpace => out
            .hint("the store is full: make room, then try again; what was stored before is whole"),
        Kind::Denied => out.hint("change the rights on the store, or use an account that has them"),
        Kind::Unavailable => out.hint("try again; if it stays, look at the store and its disks"),
        _ => out,
    };
    out.because(error)
}

/// `<kind>/…/<32 hexadecimal digits>#<number>`, of a kind that is ours.
fn is_leftover(name: &str) -> bool {
    // Records are written at any time, by deletions and by sessions that begin: what is left of these stays, some hundred bytes.
    let ours = ["packs/", "index/", "manifests/", "gc/"];
    let file = name.rsplit('/').next().unwrap_or_default();
    let Some((id, number)) = file.split_once('#') else {
        return false;
    };
    ours.iter().any(|dir| name.starts_with(dir))
        && id.len() == 32
        && id.bytes().all(|b| b.is_ascii_hexdigit())
        && !number.is_empty()
        && number.bytes().all(|b| b.is_ascii_digit())
}

fn find_leftovers(root: &FsPath, dir: &FsPath, out: &mut Vec<Listed>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            find_leftovers(root, &path, out)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(FsPath::to_str)
            && is_leftover(name)
        {
            match entry.metadata() {
                Ok(meta) => out.push(Listed {
                    name: name.to_owned(),
                    len: meta.len(),
                }),
                // A write that went on, or another collection.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// The operating system's error behind an error, if there is one.
fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

/// Puts that run beside the caller.
#[derive(Debug)]
pub struct Uploads {
    /// A put has failed: whatever else succeeds, not all is there.
    failed: bool,
    store: Store,
    tasks: Tasks<()>,
}

impl Uploads {
    /// Starts a put of a new object under a random name. Errors of earlier ones come out here too.
    pub fn put(&mut self, name: String, bytes: Bytes) -> Result<()> {
        let (objects, store) = (Arc::clone(&self.store.objects), self.store.name.clone());
        self.check()?;
        // The task holds no store, and so no runtime: one that is dropped within itself panics.
        let large = self
            .store
            .local
            .clone()
            .filter(|_| bytes.len() >= files::LARGE);
        let started = self.tasks.start(async move {
            let put = if let Some(root) = large {
                let to = name.clone();
                let put = tokio::task::spawn_blocking(move || files::put(&root, &to, &bytes));
                let ended = put.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
                ended.map_err(|e| as_store_error(&name, e))
            } else {
                let payload = PutPayload::from_bytes(bytes);
                objects
                    .put(&Path::from(name.as_str()), payload)
                    .await
                    .map(drop)
            };
            put.map_err(|e| explain(&store, "writing", &name, e))
        });
        self.failed |= started.is_err();
        started.map(drop)
    }

    /// After one failure nothing can be complete any more, whatever the caller makes of the error.
    fn check(&self) -> Result<()> {
        if self.failed {
            return Err(Error::new(
                Kind::Unavailable,
                "an earlier object of this session could not be written",
            )
            .hint("begin the import again; nothing was committed"));
        }
        Ok(())
    }

    /// Waits until all are done.
    pub fn finish(mut self) -> Result<()> {
        self.check()?;
        while self.tasks.next()?.is_some() {}
        Ok(())
    }
}
