//! Owns the node's copies of pack directories: which id each chunk of a pack has, and in which frame it lies.
//!
//! Always: a copy is the pack's own last bytes (in clear: ids and lengths, no contents), checked against their digest each time it is opened; ids are mapped, not read,
//! and only so many directories stay open. A damaged or missing copy is fetched from the store again. Never: the only copy of anything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryostore_format::pack::{DirectoryView, FrameEntry};
use cryostore_format::{ChunkId, Digest, PackId};

use super::map::Mapped;
use super::object_name;
use crate::error::{Error, Result};
use crate::limits;
use crate::node_file;
use crate::store::Vault;

/// Digest of the ids of a pack of deltas: of another pack's ids it is another one.
fn ids_digest(id: PackId, ids: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(id.as_bytes()).update(ids);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}

#[derive(Debug)]
enum Tail {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

impl Tail {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The directory of one pack.
#[derive(Debug)]
pub struct PackDirectory {
    pack_len: u64,
    tail: Tail,
    view: DirectoryView,
    /// A digest, then the ids of the pack's chunks, if it holds deltas.
    delta_ids: Option<Mapped>,
}

impl PackDirectory {
    /// Bytes of the whole pack.
    #[must_use]
    pub fn pack_len(&self) -> u64 {
        self.pack_len
    }

    /// Id of chunk `number`. Those of deltas are known only if this node made them.
    #[must_use]
    pub fn id(&self, number: u32) -> Option<ChunkId> {
        if let Some(ids) = &self.delta_ids {
            let ids = ids.bytes().get(blake3::OUT_LEN..)?.as_chunks().0;
            return ids.get(number as usize).copied().map(ChunkId::from_bytes);
        }
        let start = self.view.ids.start + number as usize * 16;
        let bytes = self
            .tail
            .bytes()
            .get(start..start + 16)
            .filter(|_| start < self.view.ids.end)?;
        let mut id = [0; 16];
        id.copy_from_slice(bytes);
        Some(ChunkId::from_bytes(id))
    }

    /// The ids of all chunks, as far as they are known.
    pub fn ids(&self) -> impl Iterator<Item = ChunkId> {
        (0..).map_while(|number| self.id(number))
    }

    /// The frame that holds chunk `number`.
    #[must_use]
    pub fn frame_of(&self, number: u32) -> Option<&FrameEntry> {
        self.view.frame_of(number)
    }
}

/// Directories of packs, from the node's cache or from the store.
#[derive(Debug)]
pub struct Directories {
    vault: Vault,
    cache: Option<PathBuf>,
    open: HashMap<PackId, (Arc<PackDirectory>, u64)>,
    clock: u64,
}

impl Directories {
    /// Copies are kept in the directory `cache`, if there is one.
    #[must_use]
    pub fn new(vault: Vault, cache: Option<&Path>) -> Self {
        Self {
            vault,
            cache: cache.map(|dir| dir.join("directories")),
            open: HashMap::new(),
            clock: 0,
        }
    }

    /// The directory of a pack.
    pub fn get(&mut self, id: PackId) -> Result<Arc<PackDirectory>> {
        self.clock += 1;
        if let Some((directory, used)) = self.open.get_mut(&id) {
            *used = self.clock;
            return Ok(Arc::clone(directory));
        }
        let mut directory = match self.cached(id) {
            Some(directory) => directory,
            None => self.fetch(id)?,
        };
        if directory.view.ids.is_empty() {
            directory.delta_ids = self.delta_ids(id);
        }
        let directory = Arc::new(directory);
        if self.open.len() >= limits::DIRECTORIES_OPEN
            && let Some(oldest) = self
                .open
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(id, _)| *id)
        {
            self.open.remove(&oldest);
        }
        self.open.insert(id, (Arc::clone(&directory), self.clock));
        Ok(directory)
    }

    /// The directory of a pack, if this node has a copy of it.
    #[must_use]
    pub fn kept(&self, id: PackId) -> Option<Arc<PackDirectory>> {
        let open = self
            .open
            .get(&id)
            .map(|(directory, _)| Arc::clone(directory));
        open.or_else(|| self.cached(id).map(Arc::new))
    }

    /// Keeps a copy of the last bytes of a pack. Without it they would be fetched when they are needed: errors are no loss.
    pub fn keep(&self, id: PackId, pack_len: u64, tail: &[u8]) {
        self.write(&id.to_string(), &[&pack_len.to_le_bytes(), tail]);
    }

    /// Removes what is kept of a pack that is gone.
    pub fn forget(&mut self, id: PackId) {
        self.open.remove(&id);
        if let Some(dir) = &self.cache {
            let _ = std::fs::remove_file(dir.join(id.to_string()));
            let _ = std::fs::remove_file(dir.join(format!("{id}.ids")));
        }
    }

    /// Keeps the ids of a pack of deltas, which the pack itself does not have: without them its pages have to be put together to be compared.
    pub fn keep_ids(&self, id: PackId, ids: &[ChunkId]) {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
        let digest = ids_digest(id, &bytes);
        self.write(&format!("{id}.ids"), &[digest.as_bytes(), &bytes]);
    }

    fn write(&self, name: &str, parts: &[&[u8]]) {
        let Some(dir) = &self.cache else { return };
        if let Err(e) = node_file::replace(&dir.join(name), parts) {
            tracing::debug!("keeping {name} of the directories: {e}");
        }
    }

    fn delta_ids(&self, id: PackId) -> Option<Mapped> {
        let path = self.cache.as_ref()?.join(format!("{id}.ids"));
        let map = Mapped::open(&path).ok()?;
        let (digest, ids) = map.bytes().split_at_checked(blake3::OUT_LEN)?;
        if ids_digest(id, ids).as_bytes() == digest {
            return Some(map);
        }
        tracing::debug!("the ids of pack {id} are damaged");
        let _ = std::fs::remove_file(path);
        None
    }

    fn cached(&self, id: PackId) -> Option<PackDirectory> {
        let path = self.cache.as_ref()?.join(id.to_string());
        let map = Mapped::open(&path).ok()?;
        let mut pack_len = [0; 8];
        pack_len.copy_from_slice(map.bytes().get(..8)?);
        // The view's ranges are relative to the bytes after the length: see `Tail::bytes` of a copy.
        let pack_len = u64::from_le_bytes(pack_len);
        let opened_len = self.vault.opened_len(pack_len);
        match DirectoryView::decode(id, map.bytes().get(8..)?, opened_len) {
            Ok(mut view) => {
                view.ids = view.ids.start + 8..view.ids.end + 8;
                Some(PackDirectory {
                    pack_len,
                    tail: Tail::Mapped(map),
                    view,
                    delta_ids: None,
                })
            }
            Err(e) => {
                tracing::debug!("the copy of the directory of pack {id} is damaged: {e}");
                let _ = std::fs::remove_file(path);
                None
            }
        }
    }

    fn fetch(&self, id: PackId) -> Result<PackDirectory> {
        let (pack_len, tail) = read_tail(&self.vault, id)?;
        self.keep(id, pack_len, &tail);
        let view = DirectoryView::decode(id, &tail, self.vault.opened_len(pack_len))
            .map_err(|e| Error::stored(object_name(id), e))?;
        Ok(PackDirectory {
            pack_len,
            tail: Tail::Owned(tail),
            view,
            delta_ids: None,
        })
    }
}

/// Length of a pack, and its directory and trailer in clear, from the store.
pub fn read_tail(vault: &Vault, id: PackId) -> Result<(u64, Vec<u8>)> {
    let (name, store) = (object_name(id), vault.store());
    let missing = || {
        Error::new(
            crate::error::Kind::Corrupt,
            format!("{name} is missing in {}", store.name()),
        )
        .hint("run `cryostore check` to see which snapshots are touched")
    };
    let pack_len = store.len(&name)?.ok_or_else(missing)?;
    let trailer_at = pack_len.saturating_sub(vault.trailer_len());
    let read = |from: u64| store.get_ranges(&name, std::slice::from_ref(&(from..pack_len)));
    let trailer = read(trailer_at)?.concat();
    let tail_len = vault
        .tail_len(&trailer)
        .map_err(|e| Error::stored(&name, e))?;
    let from = pack_len.checked_sub(tail_len).ok_or_else(|| {
        Error::new(
            crate::error::Kind::Corrupt,
            format!("{name} has {pack_len} bytes, its directory alone {tail_len}"),
        )
    })?;
    let tail = vault.open_tail(id, &read(from)?.concat(), pack_len);
    Ok((pack_len, tail.map_err(|e| Error::stored(&name, e))?))
}
