//! Owns the question whether a node is this machine.
//!
//! Always: answered by the identity of the running kernel, which the kubelet reports and each process can read, also in a container. Never: by a
//! host name, which two machines may share and a container changes.

use cryostore_engine::env::{self, BOOT_ID};
use cryostore_engine::{Error, Result};

/// The identity of the kernel that runs here.
pub fn boot_id() -> Result<String> {
    env::boot_id().map_err(|e| Error::io(BOOT_ID, e))
}

/// True if `reported` (a node's `status.nodeInfo.bootID`) is that of this machine.
pub fn is_here(reported: &str) -> Result<bool> {
    let own = boot_id()?;
    Ok(!reported.is_empty() && own == reported.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_its_boot_id_and_no_other_is() {
        let own = boot_id().unwrap();
        assert!(is_here(&own).unwrap());
        assert!(is_here(&format!("{own}\n")).unwrap());
        assert!(!is_here("").unwrap());
        assert!(!is_here("00000000-0000-0000-0000-000000000000").unwrap());
    }
}
