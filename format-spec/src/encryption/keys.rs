//! Owns the secrets of a repository: the key of its ids, and the keys of its epochs.
//!
//! Always: wiped from memory when they go. Never: printed, or compared by anything that takes longer the more of them is right.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{FormatError, Result};
use crate::ids::{Digest, IdKey};
use crate::limits;
use crate::wire::Reader;

const WHAT: &str = "key ring";
const VERSION: u8 = 1;
const EPOCH_LEN: usize = 4 + 4 + 32;
const HEAD_LEN: usize = 1 + 32 + 32 + 2;

/// 32 secret bytes.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Takes 32 random bytes, or what was derived from them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// BLAKE3's `derive_key` of `material`.
    #[must_use]
    pub fn derived(context: &'static str, material: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in material {
            hasher.update(part);
        }
        let out = Self(*hasher.finalize().as_bytes());
        hasher.zeroize();
        out
    }

    /// The bytes, for who computes with them.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The key of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochKey {
    /// Its number: random, never 0.
    pub epoch: u32,
    /// How many there were before it. What is written is sealed with the last one.
    pub order: u32,
    /// What all keys of the epoch are derived from.
    pub secret: Secret,
}

/// All secrets of a repository, as they are wrapped by each of its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// Key of the ids; it never changes.
    pub id_key: IdKey,
    /// Checksum of the `repository.json` that it belongs to.
    pub record: Digest,
    /// At least one.
    pub epochs: Vec<EpochKey>,
}

impl KeyRing {
    /// The epoch that is written with: the last one; of two that were made at once, the one with the higher number.
    #[must_use]
    pub fn current(&self) -> Option<&EpochKey> {
        self.epochs.iter().max_by_key(|key| (key.order, key.epoch))
    }

    /// Takes in the epochs of another ring of the same repository.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.id_key != self.id_key || other.record != self.record {
            return Err(FormatError::invalid(
                WHAT,
                "two keys of this repository contradict each other",
            ));
        }
        for key in &other.epochs {
            match self.epochs.iter().find(|known| known.epoch == key.epoch) {
                None => self.epochs.push(key.clone()),
                Some(known) if known.secret == key.secret => {}
                Some(_) => {
                    let text = format!("there are two keys of epoch {:08x}", key.epoch);
                    return Err(FormatError::invalid(WHAT, text));
                }
            }
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        let mut numbers: Vec<_> = self.epochs.iter().map(|key| key.epoch).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() != self.epochs.len() || numbers.first().is_none_or(|first| *first == 0) {
            return Err(FormatError::invalid(WHAT, "the numbers of its epochs"));
        }
        if self.epochs.len() > limits::EPOCHS_MAX {
            return Err(FormatError::TooLarge {
                what: "epochs of a repository",
                limit: limits::EPOCHS_MAX as u64,
                got: self.epochs.len() as u64,
            });
        }
        Ok(())
    }

    /// What is wrapped.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>> {
        self.check()?;
        let count = u16::try_from(self.epochs.len())
            .map_err(|_| FormatError::invalid(WHAT, "too many epochs"))?;
        // All of it at once: bytes that a vector grows out of would not be wiped.
        let len = HEAD_LEN + self.epochs.len() * EPOCH_LEN;
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(VERSION);
        out.extend_from_slice(self.id_key.as_bytes());
        out.extend_from_slice(self.record.as_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        for key in &self.epochs {
            out.extend_from_slice(&key.epoch.to_le_bytes());
            out.extend_from_slice(&key.order.to_le_bytes());
            out.extend_from_slice(key.secret.expose());
        }
        Ok(out)
    }

    /// Reads what was wrapped.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(WHAT, bytes);
        let version = r.u8()?;
        if version != VERSION {
            return Err(FormatError::UnsupportedVersion {
                what: WHAT,
                got: version.into(),
                known: VERSION.into(),
            });
        }
        let mut key = Zeroizing::new(r.array::<32>()?);
        let id_key = IdKey::from_bytes(*key);
        let record = Digest::from_bytes(r.array()?);
        let mut epochs = Vec::new();
        for _ in 0..r.u16()? {
            let (epoch, order) = (r.u32()?, r.u32()?);
            *key = r.array()?;
            epochs.push(EpochKey {
                epoch,
                order,
                secret: Secret::from_bytes(*key),
            });
        }
        r.finish()?;
        let ring = Self {
            id_key,
            record,
            epochs,
        };
        ring.check().map(|()| ring)
    }
}
