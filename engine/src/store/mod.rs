//! Owns the calls to an object store: reads, conditional puts, lists.
//!
//! Always: a put that is acknowledged is durable (local files and directories are fsynced); a read is bounded by what the
//! caller expects; an object that [`Store::create`] says is there holds the bytes that it was given. Never: decides what an object means, or deletes a name that it was
//! not given.

mod cloud;
mod copies;
mod create;
mod explain;
mod files;
#[cfg(feature = "http")]
mod http;
mod neighbours;
mod network;
mod options;
mod place;
#[cfg(feature = "http")]
mod presence;
mod probe;
mod vault;

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use self::explain::{Whose, explain, is_unanswered};
pub use self::neighbours::Neighbours;
pub use self::options::StoreOptions;
use self::options::Tuning;
use self::place::Bucket;
pub use self::place::Scheme;
pub use self::probe::Probe;
use crate::bridge::{Bridge, Tasks};
use crate::error::{Error, Kind, Result};

pub use copies::Copies;
pub use vault::{FramePlace, Vault};

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, relative to the repository.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// What changes whenever the object is replaced; none where the store's lists do not have it.
    pub tag: Option<String>,
    /// By the store's clock, in milliseconds since 1970. A hint: nothing that matters may rest on it.
    pub modified_ms: i64,
}

impl Listed {
    fn of(meta: object_store::ObjectMeta) -> Self {
        Self {
            name: meta.location.to_string(),
            len: meta.size,
            tag: meta
                .e_tag
                .as_deref()
                .map(plain_tag)
                .filter(|tag| !tag.is_empty()),
            modified_ms: meta.last_modified.timestamp_millis(),
        }
    }
}

/// Some stores put a tag into quotes in one reply and not in another.
fn plain_tag(tag: &str) -> String {
    let tag = tag.strip_prefix("W/").unwrap_or(tag);
    tag.trim_matches('"').to_owned()
}

/// Objects below one prefix.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    bridge: Bridge,
    whose: Arc<Whose>,
    tuning: Tuning,
    local: Option<PathBuf>,
    /// Other machines write to the directory.
    shared: bool,
    /// All of the bucket, and where in it this is.
    bucket: Option<(Arc<dyn ObjectStore>, Path)>,
    /// It has one writer only: it may be one that cannot create.
    single_writer: bool,
    /// It gives parts of objects.
    gives_ranges: bool,
    /// Nothing is removed or replaced, but sessions.
    append_only: bool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.whose.name)
    }
}

impl Store {
    /// A directory (a path or a `file://` URL) or a bucket, without options. With `create`, a directory is made if it is missing.
    pub fn open(storage: &str, create: bool) -> Result<Self> {
        Self::open_with(storage, create, &StoreOptions::for_storage(storage)?)
    }

    /// The same, with options. No request is made yet.
    pub fn open_with(storage: &str, create: bool, options: &StoreOptions) -> Result<Self> {
        if Scheme::of(storage)? == Scheme::Directory {
            let path = storage.strip_prefix("file://").unwrap_or(storage);
            return Self::directory(path, create, options.tuning);
        }
        let bucket = Bucket::parse(storage)?;
        let client = cloud::open(&bucket, options)?;
        let objects: Arc<dyn ObjectStore> = if bucket.prefix.as_ref().is_empty() {
            Arc::clone(&client)
        } else {
            Arc::new(PrefixStore::new(Arc::clone(&client), bucket.prefix.clone()))
        };
        Ok(Self {
            objects,
            bridge: Bridge::new()?,
            bucket: Some((client, bucket.prefix)),
            whose: Arc::new(Whose {
                name: storage.trim_end_matches('/').to_owned(),
                credentials: options.credentials.clone(),
                endpoint: options.endpoint().map(str::to_owned),
            }),
            tuning: options.tuning,
            local: None,
            shared: false,
            single_writer: false,
            gives_ranges: true,
            append_only: false,
        })
    }

    fn directory(path: &str, create: bool, tuning: Tuning) -> Result<Self> {
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
        let missing = |e: std::io::Error| {
            let is_missing = e.kind() == std::io::ErrorKind::NotFound;
            let error = Error::io(format!("storage {path}"), e);
            if is_missing {
                error.hint("check the path; `cryostore init --storage DIR` makes a repository")
            } else {
                error.hint("look at the file system and its disk, then try again")
            }
        };
        let found = root.canonicalize().or_else(|e| {
            // A client of a network file system that looked for it before it was made remembers that.
            network::look_again(root.parent().unwrap_or(root), "");
            root.canonicalize().map_err(|_| e)
        });
        let root = found.map_err(missing)?;
        if !root.is_dir() {
            return Err(
                Error::new(Kind::Invalid, format!("storage {path} is not a directory"))
                    .hint("a repository is a directory; an archive is what `import` takes"),
            );
        }
        let objects = LocalFileSystem::new_with_prefix(&root)
            .map_err(|e| Error::new(Kind::Invalid, format!("storage {path}: {e}")))?
            .with_fsync(true);
        Ok(Self {
            tuning,
            shared: network::is_shared(&root),
            local: Some(root.clone()),
            ..Self::new(Arc::new(objects), root.display().to_string())?
        })
    }

    /// Any other store; `name` is what errors call it.
    pub fn new(objects: Arc<dyn ObjectStore>, name: impl Into<String>) -> Result<Self> {
        Ok(Self {
            objects,
            bridge: Bridge::new()?,
            whose: Arc::new(Whose {
                name: name.into(),
                credentials: None,
                endpoint: None,
            }),
            tuning: Tuning::default(),
            bucket: None,
            local: None,
            shared: false,
            single_writer: false,
            gives_ranges: true,
            append_only: false,
        })
    }

    /// The same, of which it is known that it has one writer only: what is created is looked for first, and then put.
    #[must_use]
    pub fn for_single_writer(self) -> Self {
        Self {
            single_writer: true,
            ..self
        }
    }

    /// The same, of which it is known that it gives whole objects only.
    #[must_use]
    pub fn without_ranges(self) -> Self {
        Self {
            gives_ranges: false,
            ..self
        }
    }

    /// The same, in which nothing is removed or replaced but records of sessions, which hold nothing of a snapshot: what a node may do that only stores checkpoints.
    #[must_use]
    pub fn append_only(self) -> Self {
        Self {
            append_only: true,
            ..self
        }
    }

    fn may_change(&self, name: &str) -> Result<()> {
        if !self.append_only || name.starts_with("sessions/") {
            return Ok(());
        }
        let text = format!(
            "changing {name}: {} is open for appending only",
            self.name()
        );
        Err(Error::new(Kind::Denied, text).hint(
            "deleting and collecting is for whoever may: run it there, without --append-only",
        ))
    }

    /// An error in a store in which nothing is removed.
    pub fn may_remove(&self) -> Result<()> {
        self.may_change("objects")
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.whose.name
    }

    /// The directory, if it is one.
    #[must_use]
    pub fn local_path(&self) -> Option<&FsPath> {
        self.local.as_deref()
    }

    /// The whole object, at most `limit` bytes.
    pub fn get(&self, name: &str, limit: u64) -> Result<Bytes> {
        let path = Path::from(name);
        let result = self.patiently(name, || {
            self.bridge.wait(async {
                let found = self.objects.get(&path).await?;
                if found.meta.size > limit {
                    return Ok(Err(found.meta.size));
                }
                found.bytes().await.map(Ok)
            })
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
            Some(root) => self.patiently(name, || {
                files::read_ranges(&root.join(name), ranges).map_err(|e| as_store_error(name, e))
            }),
            None => self.bridge.wait(self.remote_ranges(&path, ranges)),
        };
        let parts = parts.map_err(|e| {
            // One that does not answer is asked nothing else.
            let len = (!is_unanswered(&e)).then(|| self.len(name));
            match len {
                Some(Ok(Some(len))) if ranges.iter().any(|r| r.end > len) => Self::short(name, len),
                _ => self.error("reading", name, e),
            }
        })?;
        for (part, range) in parts.iter().zip(ranges) {
            if part.len() as u64 != range.end - range.start {
                return Err(Self::short(name, range.start + part.len() as u64));
            }
        }
        Ok(parts)
    }

    /// On a file system of several machines some errors pass.
    fn patiently<T>(
        &self,
        name: &str,
        mut read: impl FnMut() -> object_store::Result<T>,
    ) -> object_store::Result<T> {
        match &self.local {
            Some(root) => network::patiently(root, self.shared, name, read),
            None => read(),
        }
    }

    /// One request each, side by side: what lies close together, the caller has put together.
    async fn remote_ranges(
        &self,
        path: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        if !self.gives_ranges {
            let whole = self.objects.get(path).await?.bytes().await?;
            let part = |range: &Range<u64>| {
                let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX).min(whole.len());
                whole.slice(at(range.start)..at(range.end))
            };
            return Ok(ranges.iter().map(part).collect());
        }
        let one = |range: Range<u64>| async move {
            let mut part = self.objects.get_ranges(path, &[range]).await?;
            Ok(part.pop().unwrap_or_default())
        };
        futures::stream::iter(ranges.iter().cloned().map(one))
            .buffered(self.tuning.downloads)
            .try_collect()
            .await
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
        let path = Path::from(name);
        match self.patiently(name, || self.bridge.wait(self.objects.head(&path))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("looking for", name, e)),
        }
    }

    /// Puts an object that must not exist yet, with bytes that nobody else would put (an id or a nonce is among them). Other bytes that are there already are a conflict;
    /// the same bytes are ours, and were put.
    pub fn create(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.create_tagged(name, bytes).map(drop)
    }

    /// The same; the tag comes back with which it will be listed, if that is known.
    pub fn create_tagged(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Option<String>> {
        let path = Path::from(name);
        let put = create::create(&self.objects, &path, bytes.into(), self.single_writer);
        self.bridge
            .wait(put)
            .map(|tag| tag.as_deref().map(plain_tag))
            .map_err(|e| self.error("writing", name, e))
    }

    /// Puts an object, whether there is one or not.
    pub fn replace(&self, name: &str, bytes: impl Into<Bytes>) -> Result<()> {
        self.may_change(name)?;
        let path = Path::from(name);
        let put = self
            .objects
            .put(&path, PutPayload::from_bytes(bytes.into()));
        self.bridge
            .wait(put)
            .map(drop)
            .map_err(|e| self.error("writing", name, e))
    }

    /// Puts beside the caller: as many at once as the store's options say.
    #[must_use]
    pub fn uploads(&self) -> Uploads {
        Uploads {
            failed: false,
            store: self.clone(),
            tasks: self.bridge.tasks(self.tuning.uploads),
        }
    }

    /// Removes an object; one that is gone already is no error.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.may_change(name)?;
        match self.bridge.wait(self.objects.delete(&Path::from(name))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("removing", name, e)),
        }
    }

    /// The objects below `prefix`, sorted by name.
    pub fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let path = Path::from(prefix);
        if let Some(root) = self.local.as_ref().filter(|_| self.shared) {
            network::look_again(root, prefix);
        }
        let listed = self.patiently(prefix, || {
            self.bridge.wait(async {
                let mut objects = self.objects.list(Some(&path));
                let mut out = Vec::new();
                while let Some(meta) = objects.next().await {
                    match meta {
                        Ok(meta) => out.push(Listed::of(meta)),
                        // Removed between the list and the look at it: the bucket itself is there.
                        Err(object_store::Error::NotFound { .. }) if self.local.is_some() => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(out)
            })
        });
        let mut out = listed.map_err(|e| self.error("listing", prefix, e))?;
        out.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(out)
    }

    /// Makes directories below the root of a local store; elsewhere there are none. A client of a network file system remembers for a while that a directory was not there: those that all
    /// look at are there from the beginning.
    pub fn make_directories<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<()> {
        let Some(root) = &self.local else {
            return Ok(());
        };
        for name in names {
            std::fs::create_dir_all(root.join(name))
                .map_err(|e| Error::io(format!("making {name} in {}", self.name()), e))?;
        }
        Ok(())
    }

    /// What is right below the repository's root: objects, and the names of directories.
    pub fn list_here(&self) -> Result<(Vec<Listed>, Vec<String>)> {
        let found = self
            .bridge
            .wait(self.objects.list_with_delimiter(None))
            .map_err(|e| self.error("listing", "the root", e))?;
        let objects = found.objects.into_iter().map(Listed::of);
        let directories = found.common_prefixes.iter().map(ToString::to_string);
        Ok((objects.collect(), directories.collect()))
    }

    /// What writes that were cut off have left in a local store: `NAME#N` beside the objects. They are in no list and nothing reads them.
    pub fn leftovers(&self) -> Result<Vec<Listed>> {
        let mut out = Vec::new();
        if let Some(root) = &self.local {
            find_leftovers(root, root, &mut out)
                .map_err(|e| Error::io(format!("listing {}", self.whose.name), e))?;
        }
        Ok(out)
    }

    /// Removes one of them.
    pub fn remove_leftover(&self, name: &str) -> Result<()> {
        self.may_change(name)?;
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
        explain(&self.whose, doing, name, error)
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

/// `<kind>/…/<32 hexadecimal digits>#<number>`, of a kind that is ours; that of a deletion mark ends with `.deleted#<number>`.
fn is_leftover(name: &str) -> bool {
    let ours = [
        "packs/",
        "index/",
        "manifests/",
        "rewritten/",
        "gc/",
        "sessions/",
        "snapshots/",
        "pins/",
    ];
    let file = name.rsplit('/').next().unwrap_or_default();
    let Some((id, number)) = file.split_once('#') else {
        return false;
    };
    let is_write = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    if name == file {
        return is_write && id == "reserve";
    }
    let id = id.strip_suffix(".deleted").unwrap_or(id);
    // That of a rewritten manifest has a number before it.
    let id = id.rsplit('-').next().unwrap_or_default();
    ours.iter().any(|dir| name.starts_with(dir))
        && id.len() == 32
        && id.bytes().all(|b| b.is_ascii_hexdigit())
        && is_write
}

fn modified_ms(meta: &std::fs::Metadata) -> i64 {
    let since = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).ok();
    let since = meta.modified().ok().and_then(since);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
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
                    tag: None,
                    modified_ms: modified_ms(&meta),
                }),
                // A write that went on, or another collection.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
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
        let (objects, whose) = (
            Arc::clone(&self.store.objects),
            Arc::clone(&self.store.whose),
        );
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
            put.map_err(|e| explain(&whose, "writing", &name, e))
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
