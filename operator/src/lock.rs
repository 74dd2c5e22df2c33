//! Owns the order among checkpoints of one container on this machine: one call at a time, whoever of us makes it.
//!
//! Always: the kernel lets go when the process ends, however that is. Never: holds off a container by another.
//! (Two calls at once fail in the runtime, and two of one second get one name.)

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryostore_engine::{Error, Kind, Monitor, Result};
use rustix::fs::{FlockOperation, OFlags, flock};

/// Between two tries. Nobody is told that a lock was let go.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Held as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits until nobody else takes a checkpoint of this container. `waiting` is called once, if there is something to wait for.
    pub fn take(
        folder: &Path,
        pod_uid: &str,
        container: &str,
        monitor: &dyn Monitor,
        waiting: impl FnOnce(),
    ) -> Result<Self> {
        let path = folder.join(format!("cryostore-{pod_uid}-{container}.lock"));
        let mut waiting = Some(waiting);
        loop {
            let file = open(&path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Whoever held it removed it: then the next one has another file.
                    let there = fs::symlink_metadata(&path).map(|meta| (meta.dev(), meta.ino()));
                    let ours = file.metadata().map(|meta| (meta.dev(), meta.ino()));
                    if matches!((there, ours), (Ok(there), Ok(ours)) if there == ours) {
                        return Ok(Self { file, path });
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if let Some(tell) = waiting.take() {
                        tell();
                    }
                    if monitor.stop() {
                        return Err(Error::new(
                            Kind::Interrupted,
                            "stopped while it waited for another checkpoint of this container",
                        ));
                    }
                    std::thread::sleep(TRY_EVERY);
                }
                Err(e) => return Err(Error::io(path.display(), e.into())),
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    options.custom_flags(no_follow);
    options.open(path).map_err(|e| {
        Error::io(path.display(), e)
            .hint("checkpoints of one container are taken one at a time, by a lock in this folder")
    })
}

impl Drop for Lock {
    fn drop(&mut self) {
        // First the name, then the lock: who waits finds out that it waits for a file without a name.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use cryostore_engine::Silent;

    use super::*;

    #[test]
    fn two_never_hold_the_lock_of_one_container_at_once_and_those_of_others_are_free() {
        let folder = std::env::temp_dir();
        let uid = format!("test-{}", std::process::id());
        let inside = AtomicU32::new(0);
        let done = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..3 {
                        let lock = Lock::take(&folder, &uid, "app", &Silent, || ()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::sleep(Duration::from_millis(5));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 12);
        let _app = Lock::take(&folder, &uid, "app", &Silent, || ()).unwrap();
        let _db = Lock::take(&folder, &uid, "db", &Silent, || panic!("waits")).unwrap();
        assert!(folder.join(format!("cryostore-{uid}-app.lock")).exists());
    }
}
