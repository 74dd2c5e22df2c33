//! `cryostore delete`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::gc::freed_by;
use cryostore_engine::{Error, Filter, Kind};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::text::{container, short, size};

/// Delete snapshots
///
/// All are looked for before the first is deleted. They are not listed any more; `cryostore undelete` brings them back until `cryostore gc` removes what only they needed, a day
/// later unless it is told otherwise. A snapshot that is pinned, or that another one needs (CRIU's parent directory), is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore delete 3f9a2b1c
  cryostore delete 3f9a2b1c 77e01d52 --reason 'superseded by 1b2c'")]
pub(crate) struct DeleteArgs {
    /// Ids, or at least four of their first characters
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
    /// Kept with the deletion
    #[arg(long, value_name = "TEXT", default_value = "deleted")]
    reason: String,
}

#[derive(Serialize)]
struct Report {
    deleted: Vec<Deleted>,
    /// Bytes that nothing else needs.
    frees_bytes: u64,
    #[serde(skip)]
    id_len: usize,
}

#[derive(Serialize, PartialEq)]
struct Deleted {
    id: SnapshotId,
    identity: Identity,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deleted.iter().try_for_each(|one| {
            writeln!(
                f,
                "deleted {}  {}",
                short(one.id, self.id_len),
                container(&one.identity)
            )
        })?;
        writeln!(
            f,
            "frees {}, when their grace time is over and `cryostore gc` runs",
            size(self.frees_bytes)
        )
    }
}

pub(crate) fn run(args: &DeleteArgs, context: &Context) -> Result<(), Failure> {
    if args.snapshots.iter().any(|text| text == "latest") {
        return Err(Failure::usage(
            "`latest` is not taken here: it may be another one by now",
            "say the id that `cryostore ls` shows",
        ));
    }
    let is_id = |text: &&String| text.len() >= 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(text) = args.snapshots.iter().find(|text| !is_id(text)) {
        return Err(
            Error::new(Kind::Invalid, format!("`{text}` is no snapshot id"))
                .hint("say at least the first 4 characters of an id that `cryostore ls` shows")
                .into(),
        );
    }
    let repo = context.repository()?;
    let list = context.snapshots(&repo)?;
    let mut deleted = Vec::new();
    for text in &args.snapshots {
        let one = match (list.find(text, &Filter::default()), list.find_damaged(text)) {
            (Ok(record), _) => Deleted {
                id: record.id,
                identity: record.identity.clone(),
            },
            (Err(_), Some(id)) => Deleted {
                id,
                identity: Identity::default(),
            },
            (Err(e), None) => return Err(e.into()),
        };
        if !deleted.contains(&one) {
            deleted.push(one);
        }
    }
    let ids: Vec<_> = deleted.iter().map(|one| one.id).collect();
    let frees_bytes = freed_by(&repo, &list, &ids, context.monitor())?;
    context.screen.clear();
    repo.delete(&ids, &args.reason)?;
    context.output.show(&Report {
        deleted,
        frees_bytes,
        id_len: list.id_len(),
    })?;
    context.screen.note("`cryostore undelete ID` brings a snapshot back for 24 hours, or as long as `cryostore gc --grace` says; `cryostore gc --grace 0` frees it at once");
    Ok(())
}
