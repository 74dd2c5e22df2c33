//! `cryostore delete`

use std::fmt;

use clap::Args;
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;
use cryostore_engine::gc::freed_by;
use cryostore_engine::{Error, Filter, Kind, Repository, SnapshotList};
use serde::Serialize;

use crate::called::say;
use crate::context::Context;
use crate::exit::Failure;
use crate::storages::{Search, split};
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
    /// Ids, or at least four of their first characters; STORAGE#ID of another storage
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
            "frees {}, when their grace time is over and {} runs",
            size(self.frees_bytes),
            say("`cryostore gc`")
        )
    }
}

pub(crate) fn run(args: &DeleteArgs, context: &Context) -> Result<(), Failure> {
    let id = |text: &String| split(text).map_or(text.clone(), |(_, id)| id.to_owned());
    if args.snapshots.iter().any(|text| id(text) == "latest") {
        return Err(Failure::usage(
            "`latest` is not taken here: it may be another one by now",
            "say the id that `cryostore ls` shows",
        ));
    }
    let is_id = |text: &&String| {
        let id = id(text);
        id.len() >= 4 && id.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if let Some(text) = args.snapshots.iter().find(|text| !is_id(text)) {
        return Err(
            Error::new(Kind::Invalid, format!("`{text}` is no snapshot id"))
                .hint("say at least the first 4 characters of an id that `cryostore ls` shows")
                .into(),
        );
    }
    let mut search = Search::new(context)?.sure();
    let mut groups: Vec<Group> = Vec::new();
    for text in &args.snapshots {
        let (repo, (list, one)) = search.find(text, look)?;
        let same = |group: &&mut Group| group.repo.store().name() == repo.store().name();
        match groups.iter_mut().find(same) {
            Some(group) if group.deleted.contains(&one) => {}
            Some(group) => group.deleted.push(one),
            None => groups.push(Group {
                repo,
                list,
                deleted: vec![one],
            }),
        }
    }
    let mut report = Report {
        deleted: Vec::new(),
        frees_bytes: 0,
        id_len: groups
            .iter()
            .map(|group| group.list.id_len())
            .max()
            .unwrap_or(0),
    };
    for group in &groups {
        report.frees_bytes += freed_by(&group.repo, &group.list, &group.ids(), context.monitor())?;
    }
    context.screen.clear();
    for group in groups {
        let deleted = group.repo.delete(&group.ids(), &args.reason);
        if let Err(e) = deleted {
            if !report.deleted.is_empty() {
                // Those in the storages before are gone.
                context.output.show(&report)?;
            }
            return Err(e.into());
        }
        report.deleted.extend(group.deleted);
    }
    context.output.show(&report)?;
    context.screen.note("`cryostore undelete ID` brings a snapshot back for 24 hours, or as long as `cryostore gc --grace` says; `cryostore gc --grace 0` frees it at once");
    Ok(())
}

/// What is deleted in one repository.
struct Group {
    repo: Repository,
    list: SnapshotList,
    deleted: Vec<Deleted>,
}

impl Group {
    fn ids(&self) -> Vec<SnapshotId> {
        self.deleted.iter().map(|one| one.id).collect()
    }
}

/// A snapshot that is there, or of which only the name is left.
fn look(
    context: &Context,
    repo: &Repository,
    text: &str,
) -> Result<(SnapshotId, (SnapshotList, Deleted)), Failure> {
    let list = context.snapshots(repo)?;
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
    Ok((one.id, (list, one)))
}
