//! Owns the putting of objects that must not exist yet, when the store's answer is not to be believed as it stands.
//!
//! Why an answer is not enough: a reply can be lost after the store has done what it was asked for, and the client's own retry then meets our own object
//! ("already exists"); S3 answers 409 to creates that meet, and has stored neither. So whoever is told no reads the object back. Every object that is
//! created has random bytes in it (an id, a nonce), so that equal bytes are ours.
//!
//! Always: `Ok` means that our bytes are there; a conflict means that other bytes are there. Never: replaces an object, but for a store that has one writer only
//! and cannot create.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{
    Error as Os, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result,
};

use super::explain::{io_cause, status};
use crate::error::{Kind, io_kind};
use crate::limits;

/// Puts an object that must not exist; its tag comes back, if the store told it. With `alone`, nobody else writes to the store, which has no create of its own.
pub(super) async fn create(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: Bytes,
    alone: bool,
) -> Result<Option<String>> {
    let mut wait = limits::CREATE_WAIT;
    for _ in 1..limits::CREATE_TRIES {
        let error = match put(objects, path, bytes.clone(), alone).await {
            Ok(tag) => return Ok(tag),
            Err(error) => error,
        };
        if !is_unclear(&error) {
            return Err(error);
        }
        match is_ours(objects, path, &bytes).await {
            Ok(Some(true)) => return Ok(None),
            Ok(Some(false)) => return Err(taken(path, error)),
            // A disk that is full or broken is so again.
            Ok(None) if is_lasting(&error) => return Err(error),
            Ok(None) => {}
            // Neither is known: the caller is told of the put, and settles it.
            Err(_) => return Err(error),
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    match put(objects, path, bytes.clone(), alone).await {
        Err(error) if is_unclear(&error) => match is_ours(objects, path, &bytes).await {
            Ok(Some(true)) => Ok(None),
            Ok(Some(false)) => Err(taken(path, error)),
            // "Already exists", and nothing does: no conflict, since there is nobody to lose to.
            Ok(None) => Err(Os::Generic {
                store: "the store",
                source: Box::new(error),
            }),
            Err(_) => Err(error),
        },
        done => done,
    }
}

async fn put(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: Bytes,
    alone: bool,
) -> Result<Option<String>> {
    let mode = if alone {
        match objects.head(path).await {
            Ok(_) => return Err(taken(path, "found before the put")),
            Err(Os::NotFound { .. }) => PutMode::Overwrite,
            Err(e) => return Err(e),
        }
    } else {
        PutMode::Create
    };
    let options = PutOptions {
        mode,
        ..PutOptions::default()
    };
    let put = objects.put_opts(path, PutPayload::from_bytes(bytes), options);
    put.await.map(|put| put.e_tag)
}

/// Is what is there what we have put? None: nothing is there.
async fn is_ours(
    objects: &Arc<dyn ObjectStore>,
    path: &Path,
    bytes: &Bytes,
) -> Result<Option<bool>> {
    match objects.get(path).await {
        Ok(found) if found.meta.size != bytes.len() as u64 => Ok(Some(false)),
        Ok(found) => found.bytes().await.map(|found| Some(found == *bytes)),
        Err(Os::NotFound { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn taken(path: &Path, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Os {
    Os::AlreadyExists {
        path: path.to_string(),
        source: why.into(),
    }
}

/// May the object be there, or may another try help?
fn is_unclear(error: &Os) -> bool {
    match error {
        Os::NotFound { .. }
        | Os::InvalidPath { .. }
        | Os::NotSupported { .. }
        | Os::NotImplemented { .. }
        | Os::PermissionDenied { .. }
        | Os::Unauthenticated { .. }
        | Os::UnknownConfigurationKey { .. } => false,
        // Refused for what it is, not for what is there.
        _ => !matches!(status(error), Some(300..=407 | 413 | 507)),
    }
}

/// A disk that is full, or a right that is missing, is so at the next try.
fn is_lasting(error: &Os) -> bool {
    let kind = io_cause(error).map(io_kind);
    matches!(kind, Some(Kind::NoSpace | Kind::Denied | Kind::Invalid))
}
