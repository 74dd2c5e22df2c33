//! Owns the sealing of bytes, and the binding of what was sealed to its place.
//!
//! Always: a nonce is a keyed digest of what it is used for, so that random numbers that come twice (a cloned machine) repeat no nonce for other bytes;
//! bytes come out only after their tag was right. Never: knows what it seals.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::keys::{KeyRing, Secret};
use crate::error::{FormatError, Result};
use crate::ids::{ID_LEN, RepositoryId};

/// Number of the cipher: AES-256-GCM with a nonce that is a keyed BLAKE3.
pub const CIPHER: u8 = 1;
const TAG_LEN: usize = 16;
const STAMP_LEN: usize = 16;
const EPOCH_LEN: usize = size_of::<u32>();
/// Bytes before what is sealed.
pub const SEAL_LEN: usize = EPOCH_LEN + NONCE_LEN + TAG_LEN + STAMP_LEN;
const _: () = assert!(SEAL_LEN == 48, "spec/encryption.md says 48 bytes");
const NONCE_AT: usize = EPOCH_LEN;
const TAG_AT: usize = NONCE_AT + NONCE_LEN;
const STAMP_AT: usize = TAG_AT + TAG_LEN;

/// What is sealed. Each has keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SealKind {
    /// `index/…`
    Segment = 1,
    /// `manifests/…`
    Manifest = 2,
    /// `snapshots/…`
    Snapshot = 3,
    /// `snapshots/…`
    Tombstone = 4,
    /// `sessions/…`
    Session = 5,
    /// `gc/…`
    Collection = 6,
    /// The key ring within `keys/…`
    Key = 7,
    /// `snapshots/….deleted`
    Deletion = 8,
    /// `pins/…`
    Pin = 9,
    /// `catalogue/…`
    Catalogue = 10,
    /// `gc/damaged/…`
    Damage = 11,
    /// A frame of a pack.
    Frame = 32,
    /// The directory of a pack.
    Directory = 33,
}

const KINDS: [SealKind; 13] = [
    SealKind::Segment,
    SealKind::Manifest,
    SealKind::Snapshot,
    SealKind::Tombstone,
    SealKind::Session,
    SealKind::Collection,
    SealKind::Key,
    SealKind::Deletion,
    SealKind::Pin,
    SealKind::Catalogue,
    SealKind::Damage,
    SealKind::Frame,
    SealKind::Directory,
];

macro_rules! contexts {
    ($what:literal) => {
        [
            concat!("cryostore 2026-11 seal of a ", $what),
            concat!("cryostore 2026-11 nonce of a ", $what),
            concat!("cryostore 2026-11 stamp of a ", $what),
        ]
    };
}

impl SealKind {
    /// Labels of the keys: of the cipher, of nonces, of stamps.
    const fn contexts(self) -> [&'static str; 3] {
        match self {
            Self::Segment => contexts!("segment"),
            Self::Manifest => contexts!("manifest"),
            Self::Snapshot => contexts!("snapshot"),
            Self::Tombstone => contexts!("tombstone"),
            Self::Session => contexts!("session"),
            Self::Collection => contexts!("collection"),
            Self::Key => contexts!("key ring"),
            Self::Deletion => contexts!("deletion mark"),
            Self::Pin => contexts!("pin"),
            Self::Catalogue => contexts!("catalogue"),
            Self::Damage => contexts!("damage record"),
            Self::Frame => contexts!("frame"),
            Self::Directory => contexts!("directory"),
        }
    }

    /// The word for errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Segment => "index segment",
            Self::Manifest => "manifest",
            Self::Snapshot => "snapshot record",
            Self::Tombstone => "tombstone",
            Self::Session => "session record",
            Self::Collection => "collection record",
            Self::Key => "key",
            Self::Deletion => "deletion mark",
            Self::Pin => "pin",
            Self::Catalogue => "catalogue",
            Self::Damage => "damage record",
            Self::Frame => "frame",
            Self::Directory => "pack directory",
        }
    }
}

/// Where something stands that is sealed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Which writing of the same thing it is; 0 in this version.
    pub(crate) generation: u32,
    /// Where within the object.
    pub(crate) position: [u32; 2],
    /// The object: its id, or its name.
    pub(crate) object: &'a [u8],
    /// What stands before the seal in clear.
    pub(crate) clear: &'a [u8],
}

/// The keys of one kind, in one epoch.
struct SealKeys {
    cipher: LessSafeKey,
    nonce: Secret,
    stamp: Secret,
}

impl SealKeys {
    fn derive(kind: SealKind, secret: &Secret, salt: &[u8; 32]) -> Result<Self> {
        let [cipher, nonce, stamp] = kind.contexts();
        let key = Secret::derived(cipher, &[secret.expose()]);
        let cipher = UnboundKey::new(&AES_256_GCM, key.expose());
        let nonce = Secret::derived(nonce, &[secret.expose()]);
        Ok(Self {
            cipher: LessSafeKey::new(cipher.map_err(|_| FormatError::Seal { what: "key" })?),
            // Who seals the same bytes at another time shall not show that they are the same.
            nonce: Secret::from_bytes(*blake3::keyed_hash(nonce.expose(), salt).as_bytes()),
            stamp: Secret::derived(stamp, &[secret.expose()]),
        })
    }
}

/// Seals and opens with the keys of a repository.
pub struct Seals {
    repository: RepositoryId,
    current: u32,
    epochs: Vec<(u32, Vec<SealKeys>)>,
}

impl std::fmt::Debug for Seals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seals({} epochs)", self.epochs.len())
    }
}

impl Seals {
    /// Makes all keys of `ring`. `salt` is random; nothing that is sealed is opened with it.
    pub fn new(repository: RepositoryId, ring: &KeyRing, salt: &[u8; 32]) -> Result<Self> {
        let none = || FormatError::invalid("key ring", "it has no epoch");
        let current = ring.current().ok_or_else(none)?.epoch;
        let mut epochs = Vec::with_capacity(ring.epochs.len());
        for key in &ring.epochs {
            let keys = KINDS
                .iter()
                .map(|kind| SealKeys::derive(*kind, &key.secret, salt));
            epochs.push((key.epoch, keys.collect::<Result<_>>()?));
        }
        Ok(Self {
            repository,
            current,
            epochs,
        })
    }

    /// Whose they are.
    #[must_use]
    pub const fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The epoch that is written with.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.current
    }

    fn keys(&self, kind: SealKind, epoch: u32) -> Result<&SealKeys> {
        let found = self.epochs.iter().find(|(number, _)| *number == epoch);
        let at = KINDS.iter().position(|known| *known == kind);
        let keys = found.zip(at).and_then(|((_, keys), at)| keys.get(at));
        keys.ok_or(FormatError::UnknownEpoch {
            what: kind.name(),
            epoch,
        })
    }

    /// What the cipher authenticates beside the bytes.
    fn associated(&self, kind: SealKind, epoch: u32) -> [u8; 2 + EPOCH_LEN + ID_LEN] {
        let mut out = [0; 2 + EPOCH_LEN + ID_LEN];
        out[0] = CIPHER;
        out[1] = kind as u8;
        out[2..6].copy_from_slice(&epoch.to_le_bytes());
        out[6..].copy_from_slice(self.repository.as_bytes());
        out
    }

    /// Encrypts `bytes` where they are, and fills `seal` but for its stamp.
    pub(crate) fn seal(
        &self,
        kind: SealKind,
        seal: &mut [u8; SEAL_LEN],
        bytes: &mut [u8],
    ) -> Result<()> {
        let keys = self.keys(kind, self.current)?;
        let associated = self.associated(kind, self.current);
        let mut hasher = blake3::Hasher::new_keyed(keys.nonce.expose());
        hasher.update(&associated).update(bytes);
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&hasher.finalize().as_bytes()[..NONCE_LEN]);
        hasher.zeroize();
        let tag = keys.cipher.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated),
            bytes,
        );
        let tag = tag.map_err(|_| FormatError::Seal { what: kind.name() })?;
        seal[..NONCE_AT].copy_from_slice(&self.current.to_le_bytes());
        seal[NONCE_AT..TAG_AT].copy_from_slice(&nonce);
        seal[TAG_AT..STAMP_AT].copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Binds what `seal` stands before to its place.
    pub(crate) fn stamp(
        &self,
        kind: SealKind,
        seal: &mut [u8; SEAL_LEN],
        place: &Place<'_>,
    ) -> Result<()> {
        let stamp = self.stamp_of(kind, seal, place)?;
        seal[STAMP_AT..].copy_from_slice(&stamp);
        Ok(())
    }

    fn stamp_of(
        &self,
        kind: SealKind,
        seal: &[u8; SEAL_LEN],
        place: &Place<'_>,
    ) -> Result<[u8; STAMP_LEN]> {
        let epoch = epoch_of(seal);
        let mut hasher = blake3::Hasher::new_keyed(self.keys(kind, epoch)?.stamp.expose());
        hasher.update(&self.associated(kind, epoch));
        hasher.update(&seal[NONCE_AT..STAMP_AT]);
        for number in [place.generation, place.position[0], place.position[1]] {
            hasher.update(&number.to_le_bytes());
        }
        // The length goes first, so that no two places are one string of bytes.
        hasher.update(&(place.object.len() as u64).to_le_bytes());
        hasher.update(place.object).update(place.clear);
        let mut stamp = [0; STAMP_LEN];
        stamp.copy_from_slice(&hasher.finalize().as_bytes()[..STAMP_LEN]);
        Ok(stamp)
    }

    /// Decrypts into exactly `out`, wherever the bytes were meant to stand.
    pub(crate) fn open_anywhere(
        &self,
        kind: SealKind,
        seal: &[u8; SEAL_LEN],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let epoch = epoch_of(seal);
        let keys = self.keys(kind, epoch)?;
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&seal[NONCE_AT..TAG_AT]);
        let opened = keys.cipher.open_separate_gather(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(self.associated(kind, epoch)),
            sealed,
            &seal[TAG_AT..STAMP_AT],
            out,
        );
        opened.map_err(|_| FormatError::Seal { what: kind.name() })
    }

    /// Decrypts into exactly `out` what stands at `place`.
    pub(crate) fn open(
        &self,
        kind: SealKind,
        seal: &[u8; SEAL_LEN],
        place: &Place<'_>,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        self.open_anywhere(kind, seal, sealed, out)?;
        let stamp = self.stamp_of(kind, seal, place)?;
        if stamp.ct_eq(&seal[STAMP_AT..]).into() {
            Ok(())
        } else {
            Err(FormatError::Misplaced { what: kind.name() })
        }
    }
}

fn epoch_of(seal: &[u8; SEAL_LEN]) -> u32 {
    let [a, b, c, d, ..] = *seal;
    u32::from_le_bytes([a, b, c, d])
}

/// Splits the seal from what it stands before.
pub(crate) fn split(kind: SealKind, bytes: &[u8]) -> Result<(&[u8; SEAL_LEN], &[u8])> {
    bytes.split_first_chunk().ok_or(FormatError::Truncated {
        what: kind.name(),
        need: SEAL_LEN as u64,
        have: bytes.len() as u64,
    })
}
