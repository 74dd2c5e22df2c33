//! Owns the one public error: a kind for programs, a text and a hint for people, the cause.
//!
//! Always: the text says where and with which numbers, the hint says what to do. Never: holds contents of memory.

use std::error::Error as StdError;
use std::fmt;

use cryostore_format::FormatError;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// It is not there: check the name.
    NotFound,
    /// The input or an argument is wrong: correct it.
    Invalid,
    /// Written by a later version, or something that the store cannot do: use another.
    Unsupported,
    /// No permission: change the rights.
    Denied,
    /// Stored bytes are damaged: run `check`, restore them from a copy.
    Corrupt,
    /// Somebody else was first, or is at work: look, then try again.
    Conflict,
    /// The disk or the quota is full: make room, then try again; nothing was lost.
    NoSpace,
    /// The store does not answer or fails: try again later.
    Unavailable,
    /// Stopped by a signal or a deadline.
    Interrupted,
    /// A bug of this program.
    Internal,
}

impl Kind {
    /// The word that programs read in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::Corrupt => "corrupt",
            Self::Conflict => "conflict",
            Self::NoSpace => "no-space",
            Self::Unavailable => "unavailable",
            Self::Interrupted => "interrupted",
            Self::Internal => "internal",
        }
    }
}

type Cause = Box<dyn StdError + Send + Sync + 'static>;

#[derive(Debug)]
struct Inner {
    kind: Kind,
    text: String,
    hint: Option<String>,
    source: Option<Cause>,
}

/// Why something could not be done.
#[derive(Debug)]
pub struct Error(Box<Inner>);

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            text: text.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Cause>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts `place` in front of the text: what was being done, or to what.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.text = format!("{place}: {}", self.0.text);
        self
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Stored bytes that were refused, of the object `name`.
    #[must_use]
    pub fn stored(name: impl fmt::Display, error: FormatError) -> Self {
        let kind = if error.is_unsupported() {
            Kind::Unsupported
        } else {
            Kind::Corrupt
        };
        let out = Self::new(kind, format!("{name}: {error}"));
        match kind {
            Kind::Corrupt => {
                out.hint("run `cryostore check --read-data` to see which snapshots are touched")
            }
            _ => out,
        }
    }

    /// An error of the operating system while doing `what`.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        let kind = io_kind(&error);
        let out = Self::new(kind, format!("{what}: {error}"));
        let out = match kind {
            Kind::NoSpace => out.hint("make room, then try again; what was stored before is whole"),
            Kind::Denied if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
                out.hint(READ_ONLY)
            }
            Kind::Denied => out.hint("change the rights, or run as a user who has them"),
            Kind::Invalid => out.hint("name another file or directory"),
            Kind::Conflict => out.hint("name another, or remove what is there"),
            Kind::Unavailable => out.hint("try again; if it stays, look at the disk"),
            Kind::NotFound => out.hint("check the path"),
            _ => out,
        };
        out.because(error)
    }
}

/// Advice about a file system that takes no writes.
pub(crate) const READ_ONLY: &str = "the file system is mounted read-only, by choice or since its disk failed (the kernel's log says so): make it writable, or use another";

/// What an error of the operating system means to a caller.
#[must_use]
pub fn io_kind(error: &std::io::Error) -> Kind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => Kind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Kind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::NoSpace,
        Io::AlreadyExists => Kind::Conflict,
        Io::Interrupted => Kind::Interrupted,
        Io::InvalidInput | Io::IsADirectory | Io::NotADirectory | Io::InvalidFilename => {
            Kind::Invalid
        }
        _ => Kind::Unavailable,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_place_advice_and_cause_apart() {
        let error = Error::new(Kind::NoSpace, "no space")
            .hint("make room")
            .because("cause")
            .at("pack 7");
        assert_eq!(error.to_string(), "pack 7: no space");
        assert_eq!(error.advice(), Some("make room"));
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("cause")
        );
    }

    #[test]
    fn bytes_of_a_later_version_are_not_called_damaged() {
        let later = FormatError::UnsupportedVersion {
            what: "x",
            got: 2,
            known: 1,
        };
        assert_eq!(Error::stored("x", later).kind(), Kind::Unsupported);
        assert_eq!(
            Error::stored("x", FormatError::Digest { what: "x" }).kind(),
            Kind::Corrupt
        );
    }
}
