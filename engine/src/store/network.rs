//! Owns the patience with directories that other machines write to, such as NFS.
//!
//! Two things happen there and nowhere else: a file that somebody replaced meanwhile cannot be opened (ESTALE), and a name that was looked for before
//! it existed goes on not being there, since the client remembers that (a negative cache). Both end when the file is opened again, the second after the directory was read.
//! Always: a bounded number of tries. Never: waits on a local disk for a file that is not there.

use std::path::Path;
use std::time::Duration;

use object_store::{Error as Os, Result};

use super::explain::io_cause;
use crate::limits;

/// Reads `name` below `root`; `shared` says that other machines write there, too.
pub(super) fn patiently<T>(
    root: &Path,
    shared: bool,
    name: &str,
    mut read: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut wait = Duration::from_millis(5);
    for _ in 1..limits::STALE_TRIES {
        match read() {
            Err(e) if is_stale(&e) => {}
            Err(Os::NotFound { .. }) if shared && is_listed(&root.join(name)) => {}
            done => return done,
        }
        std::thread::sleep(wait);
        wait *= 2;
    }
    read()
}

fn is_stale(error: &Os) -> bool {
    io_cause(error).and_then(std::io::Error::raw_os_error) == Some(libc::ESTALE)
}

/// Reading a directory makes the client ask the server whether it has changed.
fn is_listed(path: &Path) -> bool {
    let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
        return false;
    };
    std::fs::read_dir(dir).is_ok_and(|mut entries| {
        entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() == file))
    })
}

/// Reads the directories from `root` down to the one above `name`: a directory that was looked for before it existed is seen from then on.
pub(super) fn look_again(root: &Path, name: &str) {
    let mut dir = root.to_owned();
    for part in name.split('/') {
        // All of it: the client asks for the names that it reads.
        if let Ok(entries) = std::fs::read_dir(&dir) {
            entries.for_each(drop);
        }
        dir.push(part);
    }
}

/// True for file systems that are not this machine's alone. From Linux' `magic.h`: NFS, the three of SMB, 9P, FUSE, Ceph, Lustre, GPFS.
pub(super) fn is_shared(root: &Path) -> bool {
    const SHARED: [u32; 9] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x0102_1997,
        0x6573_5546,
        0x00C3_6400,
        0x0BD0_0BD0,
        0x4750_4653,
    ];
    rustix::fs::statfs(root).is_ok_and(|found| {
        u32::try_from(found.f_type & 0xFFFF_FFFF).is_ok_and(|kind| SHARED.contains(&kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Os {
        Os::NotFound {
            path: String::new(),
            source: "not there".into(),
        }
    }

    fn stale() -> Os {
        let source = Box::new(std::io::Error::from_raw_os_error(libc::ESTALE));
        Os::Generic { store: "x", source }
    }

    /// How often a read is tried that fails in this way, at first or always.
    fn tries(shared: bool, name: &str, error: fn() -> Os, always: bool) -> u32 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("there"), "x").unwrap();
        let mut tries = 0;
        let result = patiently(dir.path(), shared, name, || {
            tries += 1;
            if always || tries == 1 {
                Err(error())
            } else {
                Ok(())
            }
        });
        assert_eq!(result.is_ok(), tries > 1 && !always);
        tries
    }

    #[test]
    fn a_file_that_was_replaced_meanwhile_is_opened_again_a_few_times() {
        assert_eq!(tries(false, "there", stale, false), 2);
        assert_eq!(tries(false, "there", stale, true), limits::STALE_TRIES);
    }

    #[test]
    fn a_name_that_a_list_shows_is_looked_for_again_where_others_write() {
        assert_eq!(tries(true, "there", missing, false), 2);
        assert_eq!(tries(true, "there", missing, true), limits::STALE_TRIES);
        assert_eq!(tries(false, "there", missing, true), 1);
        assert_eq!(tries(true, "not-there", missing, true), 1);
        assert!(!is_shared(Path::new("/proc/self")));
    }
}
