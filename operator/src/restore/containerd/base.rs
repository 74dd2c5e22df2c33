//! Owns the base image of a checkpoint: whether this containerd has all of it, so that the loopback registry can give it.
//!
//! Always: an image counts as there only if each of its blobs is. Never: fetches one.

use std::io::Write;

use cryostore_engine::{Error, Monitor, Result, Silent};
use serde_json::Value;

use super::api::{Client, Descriptor};
use super::{MANIFEST_LEN, Settings};
use crate::pod::text;
use crate::restore::digest::Blob;
use crate::restore::registry::{Admitted, Blobs};
use crate::restore::source::Source;

/// An index of platforms within an index is nobody's; deeper is hostile.
const DEEPEST: usize = 3;

/// All blobs of the base image, the image's own first; none: it is not here, or not all of it.
pub(super) fn blobs_of(client: &Client<'_>, source: &Source) -> Result<Option<Vec<Admitted>>> {
    let wanted = source.base_ref.rsplit_once('@').map(|(_, digest)| digest);
    // Its own name; the id that the CRI gives an image; the name under which it was asked for.
    for name in [&source.base_ref, &source.base_name] {
        if name.is_empty() {
            continue;
        }
        let Some(target) = client.image(name)? else {
            continue;
        };
        // A tag may name another image by now.
        if wanted.is_some_and(|wanted| wanted != target.blob.digest) {
            continue;
        }
        let mut found = Vec::new();
        if walk(client, &target, &mut found, 0)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The same of an image that was found before; empty: not all of it is here any more.
pub(super) fn blobs_at(
    client: &Client<'_>,
    media_type: &str,
    digest: &str,
) -> Result<Vec<Admitted>> {
    let of = Descriptor {
        media_type: media_type.to_owned(),
        blob: Blob {
            digest: digest.to_owned(),
            len: 0,
        },
    };
    let mut found = Vec::new();
    let is_whole = walk(client, &of, &mut found, 0)?;
    Ok(if is_whole { found } else { Vec::new() })
}

/// False: something of it is not here.
fn walk(
    client: &Client<'_>,
    of: &Descriptor,
    found: &mut Vec<Admitted>,
    depth: usize,
) -> Result<bool> {
    let Some(len) = client.content_len(&of.blob.digest)? else {
        return Ok(false);
    };
    found.push(Admitted {
        media_type: of.media_type.clone(),
        blob: Blob {
            digest: of.blob.digest.clone(),
            len,
        },
    });
    let is_list = of.media_type.ends_with("index.v1+json")
        || of.media_type.ends_with("manifest.list.v2+json");
    let is_manifest =
        of.media_type.ends_with("manifest.v1+json") || of.media_type.ends_with("manifest.v2+json");
    if !(is_list || is_manifest) || depth > DEEPEST || len > MANIFEST_LEN {
        return Ok(true);
    }
    let json = manifest(client, &of.blob.digest)?;
    let list = |key: &str| {
        json.get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    if is_list {
        // Of other platforms, nothing is here, and nothing is asked for.
        let mut any = false;
        for entry in list("manifests") {
            let mut inner = Vec::new();
            if walk(client, &descriptor(entry), &mut inner, depth + 1)? {
                found.extend(inner);
                any = true;
            }
        }
        return Ok(any);
    }
    for entry in json.get("config").into_iter().chain(list("layers")) {
        if !walk(client, &descriptor(entry), found, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn descriptor(json: &Value) -> Descriptor {
    Descriptor {
        media_type: text(json, "/mediaType").to_owned(),
        blob: Blob {
            digest: text(json, "/digest").to_owned(),
            len: 0,
        },
    }
}

/// A manifest, or an index, that is here; null if it is none.
pub(super) fn manifest(client: &Client<'_>, digest: &str) -> Result<Value> {
    let mut bytes = Vec::new();
    client.read(digest, 0, 0, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// What this machine's containerd has.
#[derive(Debug, Clone)]
pub struct NodeContent(pub Settings);

impl Blobs for NodeContent {
    fn read(&self, digest: &str, offset: u64, len: u64, out: &mut dyn Write) -> Result<()> {
        let monitor: &dyn Monitor = &Silent;
        let client = Client::connect(&self.0.socket, monitor)?;
        let mut given = 0;
        client.read(digest, offset, len, |piece| {
            given += piece.len() as u64;
            out.write_all(piece)
        })?;
        if given == len {
            Ok(())
        } else {
            Err(Error::io(digest, std::io::ErrorKind::UnexpectedEof.into()))
        }
    }
}
