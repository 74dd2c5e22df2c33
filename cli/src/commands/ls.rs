//! `cryostore ls`

use std::fmt;

use clap::Args;
use cryostore_engine::format::snapshot::{Identity, SnapshotRecord};
use cryostore_engine::{Error, Filter, Kind, SnapshotList};
use jiff::Timestamp;
use serde::Serialize;

use super::filter::FilterArgs;
use super::view::SnapshotView;
use crate::context::{Context, Places};
use crate::exit::Failure;
use crate::kubelet;
use crate::output::Output;
use crate::storages::{Answer, ask, nothing_said};
use crate::text::{Column, Table, age, container, printable, short, size};

/// List snapshots, the newest first
///
/// SIZE is the length of the archive, ADDED what the store grew by when it was imported.
///
/// Without --storage (and CRYOSTORE_STORAGE, which means the same), those of the default and of all storages that are known; one that does not answer within 15 seconds is named, and it is an error if none
/// does. Of a folder of the kubelet's, the archives that lie there are listed as not stored.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore ls
  cryostore ls --storage s3://clouder-checkpoints/
  cryostore ls --namespace default --pod web --since 7d
  cryostore ls --label before-upgrade
  cryostore ls --label reason --json
  cryostore ls --storage /var/lib/kubelet/checkpoints")]
pub(crate) struct LsArgs {
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    snapshots: Vec<Row>,
    /// Archives in a folder of the kubelet's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_stored: Vec<NotStored>,
    /// Those that were asked, if they are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    storages: Vec<Asked>,
    #[serde(skip)]
    look: Look,
}

#[derive(Serialize)]
struct Row {
    /// Absent: there is one storage only.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<String>,
    #[serde(flatten)]
    snapshot: SnapshotView,
}

#[derive(Serialize)]
struct NotStored {
    path: String,
    bytes: u64,
    modified: String,
    /// As far as the name tells it.
    identity: Identity,
}

#[derive(Serialize)]
struct Asked {
    storage: String,
    answers: bool,
    snapshots: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

struct Look {
    id_len: usize,
    now: Timestamp,
    width: Option<usize>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.not_stored.is_empty() {
            return self.fmt_not_stored(f);
        }
        if !self.snapshots.is_empty() {
            self.table().fmt(f)?;
        }
        let away = self.storages.iter().filter(|asked| !asked.answers);
        for asked in away {
            let why = asked.error.as_deref().unwrap_or_default();
            let storage = printable(&asked.storage);
            writeln!(f, "{storage} does not answer: {}", printable(why))?;
        }
        Ok(())
    }
}

impl Report {
    fn table(&self) -> Table {
        let several = !self.storages.is_empty();
        let copies = self
            .snapshots
            .iter()
            .any(|one| one.snapshot.original.is_some());
        let mut columns = vec![
            Column::Left("ID"),
            Column::Right("AGE"),
            Column::Name("NAMESPACE/POD/CONTAINER"),
            Column::Right("SIZE"),
            Column::Right("ADDED"),
            Column::Name("LABELS"),
        ];
        columns.extend(several.then_some(Column::Name("STORAGE")));
        columns.extend(copies.then_some(Column::Left("COPY OF")));
        let mut table = Table::new(columns, self.look.width);
        for Row { storage, snapshot } in &self.snapshots {
            let mut row = vec![
                short(snapshot.id, self.look.id_len),
                age(&snapshot.created, self.look.now),
                container(&snapshot.identity),
                size(snapshot.archive.bytes),
                size(snapshot.cost.bytes_added),
                printable(&snapshot.labels.join(", ")),
            ];
            row.extend(storage.as_deref().map(printable));
            let original = snapshot.original.map(|original| original.id);
            let original = original.map(|id| short(id, self.look.id_len));
            row.extend(copies.then(|| original.unwrap_or_default()));
            table.row(row);
        }
        table
    }

    fn fmt_not_stored(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::Left("ID"),
            Column::Right("AGE"),
            Column::Name("NAMESPACE/POD/CONTAINER"),
            Column::Right("SIZE"),
            Column::Left("FILE"),
        ];
        let mut table = Table::new(columns, self.look.width);
        for tar in &self.not_stored {
            table.row([
                "not stored".to_owned(),
                age(&tar.modified, self.look.now),
                container(&tar.identity),
                size(tar.bytes),
                printable(&tar.path),
            ]);
        }
        write!(f, "{table}")
    }
}

pub(crate) fn run(args: &LsArgs, context: &Context) -> Result<(), Failure> {
    let now = context.env.now();
    let filter = args.filter.filter(now);
    let places = context.places()?;
    let storages = places.all();
    match &storages[..] {
        [] => Err(nothing_said(&places)),
        [one] => of_one(one, &filter, &context.with_one(&places, one), now),
        _ => of_several(places, &filter, context, now),
    }
}

fn of_one(
    storage: &str,
    filter: &Filter,
    context: &Context,
    now: Timestamp,
) -> Result<(), Failure> {
    if let Some(folder) = kubelet::Folder::at(storage) {
        return of_folder(&folder, filter, context, now);
    }
    let list = context.snapshots(&context.repository()?)?;
    let id_len = list.id_len();
    let there = !list.snapshots.is_empty();
    let rows = rows(list.snapshots, filter, None);
    show(context, rows, Vec::new(), there, id_len, now)
}

fn of_several(
    places: Places,
    filter: &Filter,
    context: &Context,
    now: Timestamp,
) -> Result<(), Failure> {
    let answers = ask(context, &places.all(), move |context, storage| {
        let repo = context.known(&places, storage)?.repo;
        Ok((
            context.snapshots(&repo)?.snapshots,
            repo.store().name().to_owned(),
        ))
    })?;
    if answers.iter().all(|answer| answer.said.is_err()) {
        return Err(none_answers(answers));
    }
    let (mut all, mut found, mut asked) = (SnapshotList::default(), Vec::new(), Vec::new());
    let (mut names, mut away_for_a_key) = (Vec::new(), false);
    for Answer { storage, said } in answers {
        match said {
            // The default, under another name.
            Ok((_, name)) if names.contains(&name) => continue,
            Ok((records, name)) => {
                names.push(name);
                asked.push(Asked {
                    answers: true,
                    snapshots: records.len(),
                    error: None,
                    storage: storage.clone(),
                });
                all.snapshots.extend(records.iter().cloned());
                found.extend(rows(records, filter, Some(&storage)));
            }
            Err(e) => {
                away_for_a_key |= matches!(&e, Failure::Engine(e) if e.kind() == Kind::Denied);
                asked.push(Asked {
                    answers: false,
                    snapshots: 0,
                    error: Some(e.text()),
                    storage,
                });
            }
        }
    }
    if away_for_a_key {
        context.screen.note(
            "`cryostore ls --storage STORAGE` asks for a passphrase, or say what holds the key",
        );
    }
    let time = |row: &Row| row.snapshot.created.parse::<Timestamp>().ok();
    found.sort_by_key(|row| std::cmp::Reverse(time(row)));
    if asked.len() == 1 {
        // Two names of one.
        asked.clear();
        found.iter_mut().for_each(|row| row.storage = None);
    }
    let there = !all.snapshots.is_empty();
    show(context, found, asked, there, all.id_len(), now)
}

fn rows(records: Vec<SnapshotRecord>, filter: &Filter, storage: Option<&str>) -> Vec<Row> {
    let records = records.iter().filter(|record| filter.matches(record));
    let row = |record| Row {
        storage: storage.map(str::to_owned),
        snapshot: SnapshotView::from(record),
    };
    records.map(row).collect()
}

fn show(
    context: &Context,
    snapshots: Vec<Row>,
    storages: Vec<Asked>,
    there: bool,
    id_len: usize,
    now: Timestamp,
) -> Result<(), Failure> {
    if snapshots.is_empty() {
        context.screen.note(if there {
            "no snapshot fits the filter; `cryostore ls` lists them all"
        } else {
            "no snapshots yet; `cryostore import ARCHIVE` stores one"
        });
    }
    let look = Look {
        id_len,
        now,
        width: Output::width(),
    };
    context.output.show(&Report {
        snapshots,
        not_stored: Vec::new(),
        storages,
        look,
    })
}

fn none_answers(mut answers: Vec<Answer<(Vec<SnapshotRecord>, String)>>) -> Failure {
    let about: Vec<_> = answers
        .iter()
        .filter_map(|answer| {
            let e = answer.said.as_ref().err()?;
            Some(format!("{}: {}", answer.storage, e.text()))
        })
        .collect();
    let first = answers.remove(0).said.err();
    let kind = match first {
        Some(Failure::Engine(e)) => e.kind(),
        _ => Kind::Unavailable,
    };
    let text = format!("no storage answers; {}", about.join("; "));
    Error::new(kind, text)
        .hint("`cryostore status` shows them; `cryostore configure --forget STORAGE` takes one out that is gone")
        .into()
}

fn of_folder(
    folder: &kubelet::Folder,
    filter: &Filter,
    context: &Context,
    now: Timestamp,
) -> Result<(), Failure> {
    let is = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted == found)
    };
    let mut tars = folder.tars()?;
    tars.retain(|tar| {
        is(&filter.pod, &tar.identity.pod)
            && is(&filter.namespace, &tar.identity.namespace)
            && is(&filter.container, &tar.identity.container)
            && filter.label.is_none()
            && filter.since.is_none_or(|since| tar.modified >= since)
    });
    let not_stored: Vec<_> = tars
        .into_iter()
        .map(|tar| NotStored {
            path: tar.path.display().to_string(),
            bytes: tar.bytes,
            modified: tar.modified.to_string(),
            identity: tar.identity,
        })
        .collect();
    context.screen.note(&format!(
        "{} is a folder of the kubelet's, and no repository: `cryostore import FILE` stores an archive of it",
        folder.name()
    ));
    let look = Look {
        id_len: 0,
        now,
        width: Output::width(),
    };
    context.output.show(&Report {
        snapshots: Vec::new(),
        not_stored,
        storages: Vec::new(),
        look,
    })
}
