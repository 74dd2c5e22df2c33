//! Owns `keys/…`: the key ring, wrapped by a passphrase, a key file or what a command prints.
//!
//! Always: costs are compared with `limits` before memory is taken; everything in the record is bound by the seal of the ring. Never: says which part of a wrong
//! passphrase was right.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::keys::{EpochKey, KeyRing, Secret};
use super::seal::{Place, SEAL_LEN, SealKind, Seals, split};
use crate::envelope::{self, Codec, ObjectType};
use crate::error::{FormatError, Result};
use crate::ids::{Digest, IdKey, KeyId, RepositoryId};
use crate::limits;

const WHAT: &str = "key";

/// What opens a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// Words that somebody knows.
    Passphrase,
    /// A file with 32 random bytes.
    File,
    /// What a command prints.
    Command,
}

impl KeyKind {
    /// The word in the record.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::File => "file",
            Self::Command => "command",
        }
    }
}

/// What argon2id costs, whoever has the passphrase and whoever guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argon2Cost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// How often it goes through the memory.
    pub passes: u32,
    /// Parts that could be computed side by side.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    /// The second recommendation of RFC 9106: 64 MiB, three passes, four lanes.
    fn default() -> Self {
        Self {
            memory_kib: 64 << 10,
            passes: 3,
            lanes: 4,
        }
    }
}

impl Argon2Cost {
    fn check(self) -> Result<Params> {
        let Self {
            memory_kib,
            passes,
            lanes,
        } = self;
        let work = u64::from(memory_kib) * u64::from(passes);
        let bounds = [
            (
                "memory of argon2id in KiB",
                limits::ARGON2_MEMORY_KIB_MAX.into(),
                memory_kib.into(),
            ),
            ("work of argon2id in KiB", limits::ARGON2_WORK_KIB_MAX, work),
            (
                "lanes of argon2id",
                limits::ARGON2_LANES_MAX.into(),
                lanes.into(),
            ),
        ];
        if let Some((what, limit, got)) = bounds.into_iter().find(|(_, limit, got)| got > limit) {
            return Err(FormatError::TooLarge { what, limit, got });
        }
        Params::new(memory_kib, passes, lanes, Some(32))
            .map_err(|e| FormatError::invalid("cost of argon2id", e.to_string()))
    }

    fn stretch(self, passphrase: &[u8], salt: &[u8]) -> Result<Secret> {
        /// Wiped when it goes.
        struct Memory(Vec<Block>);
        impl Drop for Memory {
            fn drop(&mut self) {
                self.0.iter_mut().for_each(Zeroize::zeroize);
            }
        }
        let params = self.check()?;
        let mut memory = Memory(vec![Block::default(); params.block_count()]);
        let mut out = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase, salt, &mut *out, &mut memory.0)
            .map_err(|e| FormatError::invalid("argon2id", e.to_string()))?;
        Ok(Secret::from_bytes(*out))
    }
}

/// What somebody has to open keys with.
#[derive(Clone)]
pub enum Unlock {
    /// A passphrase; never empty.
    Passphrase(Zeroizing<Vec<u8>>),
    /// The content of a key file.
    File(KeyFile),
    /// What a command printed: as secret as it is hard to guess.
    Command(Zeroizing<Vec<u8>>),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Unlock({})", self.kind().name())
    }
}

impl Unlock {
    /// Which keys it may open.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        match self {
            Self::Passphrase(_) => KeyKind::Passphrase,
            Self::File(_) => KeyKind::File,
            Self::Command(_) => KeyKind::Command,
        }
    }
}

/// A key file: 32 random bytes in a text that says what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The repository that it was made for; for people.
    pub repository: RepositoryId,
    /// The bytes.
    pub secret: Secret,
}

impl KeyFile {
    const FIRST: &'static str = "cryostore key 1";

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        let key = Zeroizing::new(IdKey::from_bytes(*self.secret.expose()).to_hex());
        Zeroizing::new(format!(
            "{}\nrepository {}\nsecret {}\n",
            Self::FIRST,
            self.repository,
            *key
        ))
    }

    /// Reads the file's text.
    pub fn decode(text: &[u8]) -> Result<Self> {
        const WHAT: &str = "key file";
        let bad = |text: &str| FormatError::invalid(WHAT, text);
        let text = std::str::from_utf8(text).map_err(|_| bad("it is not text"))?;
        let mut lines = text.lines();
        if lines.next() != Some(Self::FIRST) {
            return Err(bad("its first line is not `cryostore key 1`"));
        }
        let (mut repository, mut secret) = (None, None);
        for line in lines {
            match line.split_once(' ') {
                Some(("repository", id)) => repository = Some(id.parse()?),
                // The error shall not repeat what is nearly the key.
                Some(("secret", hex)) => {
                    let key = IdKey::from_hex(hex);
                    let key = key.map_err(|_| bad("its secret is not 64 hexadecimal digits"))?;
                    secret = Some(Secret::from_bytes(*key.as_bytes()));
                }
                _ if line.is_empty() || line.starts_with('#') => {}
                _ => return Err(bad("it has a line that is not known")),
            }
        }
        match (repository, secret) {
            (Some(repository), Some(secret)) => Ok(Self { repository, secret }),
            _ => Err(bad("it ends early")),
        }
    }
}

/// `keys/…`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// As in the object's name.
    pub id: KeyId,
    /// What opens it.
    pub kind: KeyKind,
    /// The user's words.
    pub label: String,
    /// When it was made, RFC 3339, UTC; for people.
    pub created: String,
    /// For passphrases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argon2: Option<Argon2Cost>,
    /// Random.
    pub salt: Digest,
    /// Seal and ring, in hexadecimal digits.
    pub wrapped: String,
}

/// What a key says of itself.
#[derive(Debug, Clone)]
pub struct KeyLabel {
    /// Its name.
    pub id: KeyId,
    /// The user's words.
    pub label: String,
    /// When it is made.
    pub created: String,
}

impl KeyRecord {
    /// Wraps a ring. `salt` is random; `cost` counts for passphrases.
    pub fn wrap(
        ring: &KeyRing,
        repository: RepositoryId,
        unlock: &Unlock,
        about: KeyLabel,
        salt: Digest,
        cost: Argon2Cost,
    ) -> Result<Self> {
        let mut record = Self {
            id: about.id,
            kind: unlock.kind(),
            label: about.label,
            created: about.created,
            argon2: (unlock.kind() == KeyKind::Passphrase).then_some(cost),
            salt,
            wrapped: String::new(),
        };
        record.check()?;
        let seals = record.seals(repository, unlock)?;
        let mut bytes = ring.encode()?;
        let mut seal = [0; SEAL_LEN];
        seals.seal(SealKind::Key, &mut seal, &mut bytes)?;
        let clear = record.clear()?;
        seals.stamp(SealKind::Key, &mut seal, &record.place(&clear))?;
        record.wrapped = hex(&[&seal, &bytes]);
        Ok(record)
    }

    /// The ring, if `unlock` is what it was wrapped with.
    pub fn unwrap(&self, repository: RepositoryId, unlock: &Unlock) -> Result<KeyRing> {
        self.check()?;
        if unlock.kind() != self.kind {
            return Err(FormatError::WrongKey);
        }
        let wrapped = unhex(&self.wrapped)?;
        let (seal, sealed) = split(SealKind::Key, &wrapped)?;
        let seals = self.seals(repository, unlock)?;
        let mut ring = Zeroizing::new(vec![0; sealed.len()]);
        let clear = self.clear()?;
        let opened = seals.open(SealKind::Key, seal, &self.place(&clear), sealed, &mut ring);
        opened.map_err(|e| match e {
            FormatError::Seal { .. } | FormatError::UnknownEpoch { .. } => FormatError::WrongKey,
            e => e,
        })?;
        KeyRing::decode(&ring)
    }

    fn check(&self) -> Result<()> {
        if self.label.len() > limits::KEY_LABEL_MAX {
            return Err(FormatError::TooLarge {
                what: "label of a key",
                limit: limits::KEY_LABEL_MAX as u64,
                got: self.label.len() as u64,
            });
        }
        match (self.kind, self.argon2) {
            (KeyKind::Passphrase, Some(cost)) => cost.check().map(drop),
            (KeyKind::Passphrase, None) => Err(FormatError::invalid(
                WHAT,
                "it does not say what argon2id is to cost",
            )),
            _ => Ok(()),
        }
    }

    /// What is bound with the ring: everything that is in clear.
    fn clear(&self) -> Result<Vec<u8>> {
        let Self {
            id: _,
            kind,
            label,
            created,
            argon2,
            salt,
            wrapped: _,
        } = self;
        serde_json::to_vec(&(kind, label, created, argon2, salt))
            .map_err(|e| FormatError::invalid(WHAT, e.to_string()))
    }

    const fn place<'a>(&'a self, clear: &'a [u8]) -> Place<'a> {
        Place {
            generation: 0,
            position: [0; 2],
            object: self.id.as_bytes(),
            clear,
        }
    }

    /// The keys that the ring is wrapped with: those of an epoch of their own.
    fn seals(&self, repository: RepositoryId, unlock: &Unlock) -> Result<Seals> {
        let salt = self.salt.as_bytes();
        let secret = match unlock {
            Unlock::Passphrase(words) => {
                let cost = self.argon2.unwrap_or_default();
                let stretched = cost.stretch(words, salt)?;
                Secret::derived("cryostore 2026-11 passphrase", &[stretched.expose()])
            }
            Unlock::File(file) => {
                Secret::derived("cryostore 2026-11 key file", &[salt, file.secret.expose()])
            }
            Unlock::Command(printed) => {
                Secret::derived("cryostore 2026-11 key command", &[salt, printed])
            }
        };
        let ring = KeyRing {
            id_key: IdKey::from_bytes([0; 32]),
            record: Digest::default(),
            epochs: vec![EpochKey {
                epoch: 1,
                order: 0,
                secret,
            }],
        };
        Seals::new(repository, &ring, salt)
    }

    /// The object's bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let json =
            serde_json::to_vec(self).map_err(|e| FormatError::invalid(WHAT, e.to_string()))?;
        Ok(envelope::seal(ObjectType::Key, &json, Codec::Stored))
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let json = envelope::open(ObjectType::Key, bytes, limits::RECORD_MAX)?;
        let record: Self =
            serde_json::from_slice(&json).map_err(|e| FormatError::invalid(WHAT, e.to_string()))?;
        record.check()?;
        unhex(&record.wrapped)?;
        Ok(record)
    }
}

fn hex(parts: &[&[u8]]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = parts.iter().flat_map(|part| part.iter()).flat_map(|byte| {
        [byte >> 4, byte & 15].map(|nibble| char::from(DIGITS[usize::from(nibble)]))
    });
    nibbles.collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let bad = || FormatError::invalid(WHAT, "its wrapped bytes are not hexadecimal digits");
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(bad()),
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(bad());
    }
    pairs
        .iter()
        .map(|[high, low]| Ok(nibble(*high)? << 4 | nibble(*low)?))
        .collect()
}
