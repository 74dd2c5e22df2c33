//! Owns packs: filling them with frames, and reading their directories, of which the node keeps copies.
//!
//! Always: a pack is one object under a random name, put once; a directory is believed only after its digest was checked. Never: changes a pack.

mod ahead;
mod buffer;
pub mod directories;
mod kept;
mod map;
pub mod reading;
pub mod writer;

pub use ahead::{Ahead, Wanted};
pub use buffer::Buffers;
pub use kept::KeptFrames;

use cryostore_format::PackId;

/// Name of the pack's object.
#[must_use]
pub fn object_name(id: PackId) -> String {
    let id = id.to_string();
    format!("packs/{}/{id}", &id[..2])
}

/// The pack with this object name; none if it is no pack's name.
#[must_use]
pub fn id_of(name: &str) -> Option<PackId> {
    let mut parts = name.split('/');
    let (Some("packs"), Some(dir), Some(id), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    id.parse()
        .ok()
        .filter(|_| id.starts_with(dir) && dir.len() == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_packs_are_taken_for_packs() {
        let id = PackId::from_bytes([0xab; 16]);
        assert_eq!(id_of(&object_name(id)), Some(id));
        let wrong_dir = object_name(id).replacen("/ab/", "/cd/", 1);
        for name in [
            wrong_dir.as_str(),
            "packs/ab/readme",
            "packs/ab",
            "index/abababababababababababababababab",
        ] {
            assert_eq!(id_of(name), None, "{name}");
        }
    }
}
