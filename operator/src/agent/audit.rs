//! Owns the audit log: one JSON document a line for each call, also for those that were refused, and for each archive that was stored unasked.
//!
//! Always: written before the caller has the last of the answer; what freezes a container, gives memory away or removes something is written down before it is
//! done, too, as `begun`. Never: a token, a key, or what is in an archive.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cryostore_engine::{Env, Error, Result};
use serde::Serialize;

/// Where it is written to.
#[derive(Debug)]
pub struct Audit(Mutex<Option<File>>);

/// One call.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Line {
    pub(crate) time: String,
    /// Empty: not known.
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) call: &'static str,
    /// What was asked for of Kubernetes' verbs; empty: nobody asked.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) verb: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) pod: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) container: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) snapshot: String,
    /// Whose memory it is, for a restore: a pod and its namespace; empty: not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) of: String,
    /// The name of an image that was made or removed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) image: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) archive: String,
    /// In a word.
    pub(crate) result: &'static str,
    /// As the caller got it; 0: not yet.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
const fn is_zero(status: &u16) -> bool {
    *status == 0
}

impl Audit {
    /// Appends to a file that only its owner reads; none: standard error.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let file = path.map(|path| {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o600);
            options
                .open(path)
                .map_err(|e| Error::io(path.display(), e).hint("the audit log is kept there"))
        });
        Ok(Self(Mutex::new(file.transpose()?)))
    }

    /// Writes it, with the time.
    pub(crate) fn write(&self, env: &dyn Env, mut line: Line) {
        line.time = env.now().to_string();
        line.result = match line.status {
            0 => "begun",
            200 => "done",
            401 | 403 => "refused",
            _ => "failed",
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A full disk stops no checkpoint.
        let _ = match &mut *file {
            Some(file) => file.write_all(&text),
            None => std::io::stderr().write_all(&text),
        };
    }
}
