//! Owns CRIU's own words: runtimes answer that CRIU failed, and name the log on the node that says why.
//!
//! Always: a message is given back with what the log adds, or as it came: on another machine, or in a container that does not see the runtime's folder,
//! there is no log. Never: follows a link, reads more than `TAIL`, or shows more than lines that CRIU marks as errors: the message comes over the network.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Bytes of the log's end that are read: why CRIU gave up is in its last lines, each below 1 KiB.
const TAIL: u64 = 1 << 16;

/// Lines that are shown: the first says why, those after it say what came of it.
const LINES: usize = 3;

/// The message, and behind it what CRIU's log says, if the message names one that is here.
#[must_use]
pub fn with_log(message: &str) -> String {
    // runc: "criu failed: type DUMP errno 0 path= /run/…/criu-dump.log".
    let named = message
        .split(|c: char| c.is_whitespace() || "\"'();,=".contains(c))
        .find(|word| word.starts_with('/') && word.ends_with(".log"));
    match named.and_then(errors_of) {
        Some(errors) => format!("{message} [{errors}]"),
        None => message.to_owned(),
    }
}

/// The end of a log; none if it is no file that can be read.
pub(crate) fn end_of(path: &Path) -> Option<String> {
    // The message came over the network: opening a pipe would wait for a writer, and a link lead elsewhere.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).ok()?;
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file() {
        return None;
    }
    file.seek(SeekFrom::Start(meta.len().saturating_sub(TAIL)))
        .ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    Some(String::from_utf8_lossy(&tail).into_owned())
}

fn errors_of(path: &str) -> Option<String> {
    let tail = end_of(Path::new(path))?;
    // "(00.141080) Error (criu/sk-inet.c:200): inet: Connected TCP socket, …"
    let errors: Vec<_> = tail
        .lines()
        .filter_map(|line| line.find("Error (").map(|at| line[at..].trim_end()))
        .take(LINES)
        .collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &std::path::Path) -> String {
        format!(
            "checkpointing of a/b/c failed (rpc error: code = Unknown desc = criu failed: type DUMP errno 0 path= {})",
            path.display()
        )
    }

    #[test]
    fn the_log_that_a_message_names_says_why_and_brings_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("criu-dump.log");
        let log = "(00.1) Warn  (criu/x.c:1): no\n(00.2) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.\n(00.3) Error (criu/cr-dump.c:1975): Dumping FAILED.\n";
        std::fs::write(&path, log).unwrap();
        let told = with_log(&message(&path));
        assert!(told.starts_with(&message(&path)), "{told}");
        assert!(told.contains("Error (criu/sk-inet.c:200): inet: Connected"));
        assert!(!told.contains("Warn"), "{told}");
        let cure = crate::errors::of_kubelet("n1", 500, &told);
        assert!(cure.advice().unwrap().contains("tcp-close"), "{cure:?}");
    }

    #[test]
    fn a_log_that_is_not_here_or_is_a_link_or_a_folder_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("criu-dump.log");
        let same = |path: &std::path::Path| assert_eq!(with_log(&message(path)), message(path));
        same(&path);
        std::fs::create_dir(&path).unwrap();
        same(&path);
        let other = dir.path().join("other.log");
        std::fs::write(dir.path().join("secret"), "Error (x): y").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), &other).unwrap();
        same(&other);
        assert_eq!(with_log("no path"), "no path");
    }
}
