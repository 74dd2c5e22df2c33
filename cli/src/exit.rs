//! Owns what a failure is to the caller: the exit code, the word in JSON, the text and the advice.
//!
//! Always: one code per kind of the engine; the table here is the one that `cryostore help` shows. Never: a code that is not listed.

use std::error::Error as _;

use cryostore_engine::{Error, Kind};

/// Shown by `cryostore help` and in the man page.
pub(crate) const TABLE: &str = "\
Exit codes:
    0  done
    1  a failure of the store or a bug of this program
    2  the command line, an environment variable or a configuration file is wrong
    3  not found: no repository, no such snapshot, no such file
    4  the input is not valid, such as a damaged archive
    5  stored data is damaged, or `check` found problems
    6  a conflict: it exists already, or somebody else is at work
    7  no space left
    8  permission denied
    9  not supported by this version
  130  interrupted by Ctrl-C or SIGTERM";

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the user said cannot be meant.
    Usage {
        /// What is wrong.
        text: String,
        /// What to do about it.
        advice: String,
    },
    /// What the engine says.
    Engine(Error),
    /// Nobody reads standard output any more, as in `cryostore ls | head -1`.
    StdoutClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Usage {
            text: text.into(),
            advice: advice.into(),
        }
    }

    /// From code that uses `anyhow`: the kind is that of the operating system's error among the causes.
    pub(crate) fn from_anyhow(error: &anyhow::Error) -> Self {
        let io = error
            .chain()
            .find_map(|cause| cause.downcast_ref::<std::io::Error>());
        let kind = io.map_or(Kind::Internal, |io| {
            Error::io("", std::io::Error::from(io.kind())).kind()
        });
        Self::Engine(Error::new(kind, format!("{error:#}")))
    }

    /// What the process returns.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Engine(error) => code_of(error.kind()),
            Self::StdoutClosed => 0,
        }
    }

    /// The word that programs read.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "usage",
            Self::Engine(error) => error.kind().name(),
            Self::StdoutClosed => "closed",
        }
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Self::Usage { text, .. } => text.clone(),
            Self::Engine(error) => error.to_string(),
            Self::StdoutClosed => "standard output was closed".to_owned(),
        }
    }

    pub(crate) fn advice(&self) -> Option<&str> {
        match self {
            Self::Usage { advice, .. } => Some(advice),
            Self::Engine(error) => error.advice(),
            Self::StdoutClosed => None,
        }
    }

    /// The causes, from the nearest to the deepest.
    pub(crate) fn causes(&self) -> Vec<String> {
        let Self::Engine(error) = self else {
            return Vec::new();
        };
        let mut out: Vec<String> = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some layers repeat the ones below.
            if !self.text().contains(&text) && !out.iter().any(|said| said.contains(&text)) {
                out.push(text);
            }
            next = cause.source();
        }
        out
    }
}

/// The code of each kind.
pub(crate) const fn code_of(kind: Kind) -> u8 {
    match kind {
        Kind::NotFound => 3,
        Kind::Invalid => 4,
        Kind::Corrupt => 5,
        Kind::Conflict => 6,
        Kind::NoSpace => 7,
        Kind::Denied => 8,
        Kind::Unsupported => 9,
        Kind::Interrupted => 130,
        // Unavailable, Internal, and kinds that this program does not know yet.
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_the_code_that_the_table_lists() {
        let kinds = [
            (Kind::Unavailable, 1),
            (Kind::Internal, 1),
            (Kind::NotFound, 3),
            (Kind::Invalid, 4),
            (Kind::Corrupt, 5),
            (Kind::Conflict, 6),
            (Kind::NoSpace, 7),
            (Kind::Denied, 8),
            (Kind::Unsupported, 9),
            (Kind::Interrupted, 130),
        ];
        for (kind, code) in kinds {
            assert_eq!(code_of(kind), code, "{}", kind.name());
            assert!(
                TABLE.contains(&format!("{code:>5}  ")),
                "{code} is not listed"
            );
        }
    }

    #[test]
    fn an_error_of_the_system_inside_anyhow_keeps_its_kind() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = anyhow::Error::new(io).context("cannot write");
        assert_eq!(Failure::from_anyhow(&error).code(), 7);
        assert_eq!(Failure::from_anyhow(&anyhow::anyhow!("odd")).code(), 1);
    }
}
