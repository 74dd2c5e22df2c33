//! Owns what can be wrong with stored bytes.
//!
//! Always: says which object and field, and the numbers. Never: holds the bytes themselves, which may be secret.

use thiserror::Error;

/// Why stored bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes end before the field does: the object was cut short.
    #[error("{what} ends early: {need} bytes needed, {have} left")]
    Truncated {
        /// The field or object.
        what: &'static str,
        /// Bytes that the field needs.
        need: u64,
        /// Bytes that are left.
        have: u64,
    },
    /// A field holds what no writer writes: the object is damaged or forged.
    #[error("{what} is invalid: {detail}")]
    Invalid {
        /// The field or object.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A field is larger than this reader accepts.
    #[error("{what} is too large: {got}, at most {limit} is accepted")]
    TooLarge {
        /// The field or object.
        what: &'static str,
        /// The bound, see [`crate::limits`].
        limit: u64,
        /// What the bytes ask for.
        got: u64,
    },
    /// The object was written by a later format version.
    #[error(
        "{what} has format version {got}, this program knows up to {known}: use a newer cryostore"
    )]
    UnsupportedVersion {
        /// The object.
        what: &'static str,
        /// Version found.
        got: u32,
        /// Highest version known.
        known: u32,
    },
    /// The object needs a feature that this program does not have.
    #[error(
        "{what} needs the feature `{feature}`, which this program does not know: use a newer cryostore"
    )]
    UnknownFeature {
        /// Who needs it: reader, writer or collector of a repository, or an object.
        what: &'static str,
        /// Name or number of the feature.
        feature: String,
    },
    /// Bytes that must be sealed are not: somebody put them there without a key.
    #[error(
        "{what} is not encrypted, and everything in this repository is: it was not written by a holder of the key"
    )]
    NotSealed {
        /// The object.
        what: &'static str,
    },
    /// Bytes are sealed where nothing is.
    #[error("{what} is encrypted, and this repository is not: it belongs to another one")]
    Sealed {
        /// The object.
        what: &'static str,
    },
    /// The seal does not fit the bytes: at least one bit differs from what was written, or another key was used.
    #[error("{what} is damaged or forged: its seal does not fit its bytes")]
    Seal {
        /// The object.
        what: &'static str,
    },
    /// The bytes were sealed with the key, for another place.
    #[error("{what} was moved: it is whole, but it was written for another name or place")]
    Misplaced {
        /// The object.
        what: &'static str,
    },
    /// The key ring at hand has no key of this epoch.
    #[error(
        "{what} is sealed with the key of epoch {epoch:08x}, which the key at hand does not have"
    )]
    UnknownEpoch {
        /// The object.
        what: &'static str,
        /// The epoch.
        epoch: u32,
    },
    /// What was given does not open this key.
    #[error("it is not what this key was wrapped with, or the key was changed on purpose")]
    WrongKey,
    /// A digest does not match: at least one bit differs from what was written.
    #[error("{what} is damaged: its digest does not match its bytes")]
    Digest {
        /// The object.
        what: &'static str,
    },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            detail: detail.into(),
        }
    }

    /// True when a newer program could read the bytes, so that they are not damaged.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            Self::UnsupportedVersion { .. } | Self::UnknownFeature { .. }
        )
    }
}

/// Result of a decoder.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;
