#![doc = include_str!("../../spec/encryption.md")]

mod keys;
mod object;
mod packs;
mod seal;
mod wrap;

pub use keys::{EpochKey, KeyRing, Secret};
pub use object::{SEALED_HEADER_LEN, is_sealed, open_object, seal_object};
pub use packs::{
    SEALED_TAIL_LEN, SEALED_TRAILER_LEN, check_sealed_pack_header, open_frame, open_tail,
    seal_frame, seal_tail, sealed_pack_header, sealed_tail_len, stamp_frame,
};
pub use seal::{CIPHER, SEAL_LEN, SealKind, Seals};
pub use wrap::{Argon2Cost, KeyFile, KeyKind, KeyLabel, KeyRecord, Unlock};
