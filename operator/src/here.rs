//! Owns the question whether a node is this machine.
//!
//! Always: answered by the identity of the running kernel, which the kubelet reports and each process can read, also in a container. Never: by a
//! host name, which two machines may share and a container changes.

use std::path::Path;

use cryostore_engine::{Error, Result};

/// Where the kernel says which start of it this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// True if `boot_id` (a node's `status.nodeInfo.bootID`) is that of this machine.
pub fn is_here(boot_id: &str) -> Result<bool> {
    let own = read(Path::new(BOOT_ID))?;
    Ok(!boot_id.is_empty() && own == boot_id.trim())
}

fn read(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path.display(), e))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_boot_id_and_no_other_is() {
        let own = read(Path::new(BOOT_ID)).unwrap();
        assert!(is_here(&own).unwrap());
        assert!(is_here(&format!("{own}\n")).unwrap());
        assert!(!is_here("").unwrap());
        assert!(!is_here("00000000-0000-0000-0000-000000000000").unwrap());
    }
}
