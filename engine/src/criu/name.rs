//! Which file name means which image.
//!
//! Owns the names of the images that we read or cut specially. Always: a name that CRIU would not write itself (number
//! out of range, leading zeros, a sign) is [`ImageName::Other`], so two files never claim to be the same image.
//! Never: looks at content; a name is a hint, the magic numbers decide.
//!
//! From the format strings in `criu/image-desc.c` and `plugins/amdgpu`. Process ids and shmem ids are two name spaces:
//! `pagemap-5.img` and `pagemap-shmem-5.img` have nothing to do with each other.

use std::str::FromStr;

/// What a file of an image directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageName {
    /// `inventory.img`.
    Inventory,
    /// `pstree.img`.
    Pstree,
    /// `pagemap-<pid>.img`: the map of the private memory of a process.
    Pagemap(u32),
    /// `pagemap-shmem-<id>.img`: the map of a shared memory segment.
    PagemapShmem(u64),
    /// `pages-<n>.img`: a page image. `n` is not a process id; a pagemap names it.
    Pages(u32),
    /// `mm-<pid>.img`.
    Mm(u32),
    /// `core-<tid>.img`: one for each thread.
    Core(u32),
    /// `ids-<pid>.img`.
    Ids(u32),
    /// `stats-dump`.
    Stats,
    /// `amdgpu-pages-*.img` and `amdgpu-drm-pages-*.img`: GPU memory, without a magic number.
    AmdgpuPages,
    /// `tmpfs-*.tar.gz.img` and `tmpfs-dev-*.tar.gz.img`: the gzip tar of a tmpfs mount.
    TmpfsTarGz,
    /// Anything else.
    Other,
}

/// What the file with this base name (no directories) is.
pub fn image_name(file_name: &[u8]) -> ImageName {
    if file_name == b"stats-dump" {
        return ImageName::Stats;
    }
    let Some(stem) = file_name.strip_suffix(b".img") else {
        return ImageName::Other;
    };
    if stem.contains(&b'/') {
        return ImageName::Other;
    }
    match stem {
        b"inventory" => return ImageName::Inventory,
        b"pstree" => return ImageName::Pstree,
        _ => {}
    }
    if stem.starts_with(b"amdgpu-pages-") || stem.starts_with(b"amdgpu-drm-pages-") {
        return ImageName::AmdgpuPages;
    }
    if stem.starts_with(b"tmpfs-") && stem.ends_with(b".tar.gz") {
        return ImageName::TmpfsTarGz;
    }
    let numbered = if let Some(id) = stem.strip_prefix(b"pagemap-shmem-") {
        number(id).map(ImageName::PagemapShmem)
    } else if let Some(pid) = stem.strip_prefix(b"pagemap-") {
        number(pid).map(ImageName::Pagemap)
    } else if let Some(n) = stem.strip_prefix(b"pages-") {
        number(n).map(ImageName::Pages)
    } else if let Some(pid) = stem.strip_prefix(b"mm-") {
        number(pid).map(ImageName::Mm)
    } else if let Some(tid) = stem.strip_prefix(b"core-") {
        number(tid).map(ImageName::Core)
    } else if let Some(pid) = stem.strip_prefix(b"ids-") {
        number(pid).map(ImageName::Ids)
    } else {
        None
    };
    numbered.unwrap_or(ImageName::Other)
}

/// A decimal number in the only way that `%u` and `%lu` print it.
fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    if !digits.iter().all(u8::is_ascii_digit) || (digits.len() > 1 && digits.starts_with(b"0")) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
