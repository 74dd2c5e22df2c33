//! Owns the members of an archive as they are listed: what each one is. Never: reads one.

use cryostore_engine::contents::split;
use cryostore_engine::criu::{ImageName, image_name};
use cryostore_engine::format::manifest::{Body, Role, Stream};
use serde::Serialize;

use crate::text::name;

#[derive(Serialize)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page_size: Option<u32>,
}

impl From<&Stream> for Member {
    fn from(stream: &Stream) -> Self {
        let kind = match (stream.role, &stream.body) {
            (Role::Attachment, _) => "attachment",
            (_, Body::Derived { .. }) => "gzip, opened",
            _ if stream.page_size > 0 => "pages",
            _ => kind_by_name(split(&stream.name).1),
        };
        let page_size = Some(stream.page_size).filter(|size| *size > 0);
        Self {
            name: name(&stream.name),
            kind,
            bytes: stream.len,
            page_size,
        }
    }
}

fn kind_by_name(file: &[u8]) -> &'static str {
    match image_name(file) {
        ImageName::Pages(_) | ImageName::AmdgpuPages => "pages, stored whole",
        ImageName::Pagemap(_) | ImageName::PagemapShmem(_) => "page map",
        ImageName::Mm(_) => "memory ranges",
        ImageName::Core(_) => "thread",
        ImageName::Pstree => "process tree",
        ImageName::Inventory => "inventory",
        _ if file.ends_with(b".img") => "CRIU image",
        _ if file.ends_with(b".tar") => "tar",
        _ => "file",
    }
}
