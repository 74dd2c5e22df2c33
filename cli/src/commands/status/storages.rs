//! The section of `status` on storages.

use std::fmt;

use cryostore_engine::SnapshotList;
use jiff::Timestamp;
use serde::Serialize;

use crate::config::known::written_name;
use crate::context::{Context, Opened};
use crate::exit::Failure;
use crate::kubelet;
use crate::output::Output;
use crate::storages::{Answer, ask};
use crate::text::{Column, Table, age, printable, size};

#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Section {
    rows: Vec<Row>,
    #[serde(skip)]
    look: (Timestamp, Option<usize>),
}

#[derive(Serialize)]
struct Row {
    storage: String,
    default: bool,
    answers: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    facts: Option<Facts>,
}

/// What one storage says of itself.
#[derive(Serialize)]
struct Facts {
    /// What errors call it.
    #[serde(skip)]
    name: String,
    encrypted: bool,
    /// What opened it.
    key: Option<String>,
    snapshots: usize,
    /// When the newest was stored.
    newest: Option<String>,
    archive_bytes: u64,
    bytes_added: u64,
    /// Of the file system of a directory.
    free_bytes: Option<u64>,
    /// Archives in a folder of the kubelet's, where there is no repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_stored: Option<usize>,
}

impl Section {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        let (now, width) = self.look;
        let columns = [
            Column::Left(""),
            Column::Name("STORAGE"),
            Column::Left("ANSWERS"),
            Column::Left("ENCRYPTED"),
            Column::Name("KEY"),
            Column::Right("SNAPSHOTS"),
            Column::Right("NEWEST"),
            Column::Right("SIZE"),
            Column::Right("ADDED"),
            Column::Right("FREE"),
        ];
        let mut table = Table::new(columns, width);
        for row in &self.rows {
            let head = [
                if row.default { "*" } else { "" }.to_owned(),
                printable(&row.storage),
            ];
            let none = || "-".to_owned();
            let rest = match &row.facts {
                None => {
                    let mut rest = [const { String::new() }; 8].map(|_| none());
                    "no".clone_into(&mut rest[0]);
                    rest
                }
                Some(facts) => [
                    match facts.not_stored {
                        Some(tars) => format!("{tars} not stored"),
                        None => "yes".to_owned(),
                    },
                    if facts.encrypted { "yes" } else { "no" }.to_owned(),
                    facts.key.as_deref().map_or_else(none, printable),
                    facts.snapshots.to_string(),
                    facts
                        .newest
                        .as_ref()
                        .map_or_else(none, |then| age(then, now)),
                    size(facts.archive_bytes),
                    size(facts.bytes_added),
                    facts.free_bytes.map_or_else(none, size),
                ],
            };
            table.row(head.into_iter().chain(rest).collect::<Vec<_>>());
        }
        table.fmt(f)?;
        for row in &self.rows {
            if let Some(error) = &row.error {
                writeln!(f, "{}: {}", printable(&row.storage), printable(error))?;
            }
        }
        Ok(())
    }
}

/// Asks them all, side by side. What was said by a variable is one of them.
pub(super) fn look(context: &Context) -> Result<Section, Failure> {
    let places = context.places()?;
    let mut storages: Vec<String> = Vec::new();
    let only = context.flags.storage.clone();
    match only {
        Some(only) => storages.push(only),
        None => {
            let all = places
                .said
                .iter()
                .chain(&places.default)
                .chain(&places.others);
            for storage in all {
                let same = |one: &String| written_name(one) == written_name(storage);
                if !storages.iter().any(same) {
                    storages.push(storage.clone());
                }
            }
        }
    }
    // What a variable says counts more than what a file says.
    let first = places.said.clone().or_else(|| places.default.clone());
    let answers = ask(context, &storages, move |context, storage| {
        if let Some(folder) = kubelet::Folder::at(storage) {
            return of_folder(&folder);
        }
        of_repository(context, &context.known(&places, storage)?)
    })?;
    let mut rows: Vec<Row> = Vec::new();
    for Answer { storage, said } in answers {
        let (facts, error) = match said {
            Ok(facts) => (Some(facts), None),
            Err(e) => (None, Some(e.text())),
        };
        let name = |facts: &Option<Facts>| facts.as_ref().map(|facts| facts.name.clone());
        // One storage under two names.
        if facts.is_some() && rows.iter().any(|row| name(&row.facts) == name(&facts)) {
            continue;
        }
        rows.push(Row {
            default: first.as_ref() == Some(&storage),
            answers: facts.is_some(),
            storage,
            error,
            facts,
        });
    }
    Ok(Section {
        rows,
        look: (context.env.now(), Output::width()),
    })
}

fn of_repository(context: &Context, opened: &Opened) -> Result<Facts, Failure> {
    let Opened { repo, tried } = opened;
    let list: SnapshotList = context.snapshots(repo)?;
    let encrypted = repo.record().encryption.is_some();
    let mut key = None;
    if encrypted {
        let kinds: Vec<_> = repo
            .keys()?
            .into_iter()
            .filter(|key| key.opened)
            .filter_map(|key| Some(key.record.ok()?.kind))
            .collect();
        let opened_it = tried.iter().find(|(kind, _)| kinds.contains(kind));
        key = opened_it.map(|(_, name)| name.clone());
    }
    let sum = |bytes: fn(&cryostore_engine::format::snapshot::SnapshotRecord) -> u64| {
        list.snapshots.iter().map(bytes).sum()
    };
    Ok(Facts {
        name: repo.store().name().to_owned(),
        encrypted,
        key,
        snapshots: list.snapshots.len(),
        newest: list.snapshots.first().map(|record| record.created.clone()),
        archive_bytes: sum(|record| record.archive.bytes),
        bytes_added: sum(|record| record.cost.bytes_added),
        free_bytes: repo.store().local_path().and_then(free),
        not_stored: None,
    })
}

fn of_folder(folder: &kubelet::Folder) -> Result<Facts, Failure> {
    let tars = folder.tars()?;
    Ok(Facts {
        name: folder.name(),
        encrypted: false,
        key: None,
        snapshots: 0,
        newest: tars.first().map(|tar| tar.modified.to_string()),
        archive_bytes: tars.iter().map(|tar| tar.bytes).sum(),
        bytes_added: 0,
        free_bytes: free(folder.name().as_ref()),
        not_stored: Some(tars.len()),
    })
}

/// Bytes that a file system has for us.
fn free(path: &std::path::Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
