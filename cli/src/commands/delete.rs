//! `cryostore delete`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::{Error, Filter, Kind};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::text::{container, short};

/// Delete snapshots
///
/// All are looked for before the first is deleted. What only they needed stays until `cryostore gc` removes it. A snapshot that another
/// one needs (CRIU's parent directory) is refused.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore delete 3f9a2b1c
  cryostore delete 3f9a2b1c 77e01d52 && cryostore gc")]
pub(crate) struct DeleteArgs {
    /// Ids, or at least four of their first characters
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    deleted: Vec<Deleted>,
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
        })
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
    repo.delete(&ids)?;
    context.output.show(&Report {
        deleted,
        id_len: list.id_len(),
    })?;
    context.screen.note("`cryostore gc` frees what nothing else needs; `cryostore gc --dry-run` says how much that is");
    Ok(())
}
