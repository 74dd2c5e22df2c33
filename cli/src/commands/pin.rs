//! `cryostore pin` and `cryostore unpin`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::{Filter, Repository};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::storages::Search;
use crate::text::short;

/// Keep snapshots from being deleted
///
/// `delete` and `prune` refuse them, and nothing of them is freed, until `cryostore unpin`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore pin 3f9a2b1c --reason 'before the upgrade'")]
pub(crate) struct PinArgs {
    /// Ids, or at least four of their first characters; `latest`
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
    /// Kept with the pin
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Let pinned snapshots be deleted again
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore unpin 3f9a2b1c")]
pub(crate) struct UnpinArgs {
    /// Ids, or at least four of their first characters; `latest`
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned: Vec<SnapshotId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unpinned: Vec<SnapshotId>,
    #[serde(skip)]
    id_len: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for id in &self.pinned {
            writeln!(f, "pinned {}", short(*id, self.id_len))?;
        }
        for id in &self.unpinned {
            writeln!(f, "unpinned {}", short(*id, self.id_len))?;
        }
        Ok(())
    }
}

pub(crate) fn pin(args: &PinArgs, context: &Context) -> Result<(), Failure> {
    let mut search = Search::new(context)?;
    let (mut found, mut id_len) = (Vec::new(), 0);
    for text in &args.snapshots {
        let (repo, one) = search.snapshot(text, &Filter::default())?;
        found.push((repo, one.snapshot.id));
        id_len = one.id_len;
    }
    for (repo, id) in &found {
        repo.pin(*id, &args.reason)?;
    }
    let pinned = found.into_iter().map(|(_, id)| id).collect();
    context.output.show(&Report {
        pinned,
        unpinned: Vec::new(),
        id_len,
    })
}

pub(crate) fn unpin(args: &UnpinArgs, context: &Context) -> Result<(), Failure> {
    let mut search = Search::new(context)?;
    let (mut found, mut id_len) = (Vec::new(), 0);
    for text in &args.snapshots {
        let (repo, (id, len)) = search.find(text, look_at_deleted_too)?;
        found.push((repo, id));
        id_len = len;
    }
    for (repo, id) in &found {
        repo.unpin(*id)?;
    }
    let unpinned = found.into_iter().map(|(_, id)| id).collect();
    context.output.show(&Report {
        pinned: Vec::new(),
        unpinned,
        id_len,
    })
}

/// Also one that was deleted at the same time.
fn look_at_deleted_too(
    _: &Context,
    repo: &Repository,
    text: &str,
) -> Result<(SnapshotId, (SnapshotId, usize)), Failure> {
    let found = repo.snapshots_and_deleted()?;
    let mut list = cryostore_engine::SnapshotList {
        snapshots: found.snapshots,
        ..Default::default()
    };
    let deleted = found.deleted.into_iter().map(|(record, _)| record);
    list.snapshots.extend(deleted);
    let id = list.find(text, &Filter::default())?.id;
    Ok((id, (id, list.id_len())))
}
