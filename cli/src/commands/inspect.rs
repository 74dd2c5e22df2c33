//! `cryostore inspect`

use std::fmt;

use clap::Args;
use cryostore_engine::CheckpointReader;
use cryostore_engine::criu::{ImageName, image_name};
use cryostore_engine::format::manifest::{Body, Role, Stream};
use cryostore_engine::format::snapshot::{ArchiveKind, Compression};
use jiff::Timestamp;
use serde::Serialize;

use super::filter::FilterArgs;
use super::import::class_table;
use super::process_tree::{self, ProcessView, split};
use super::restore::{Judgement, judge};
use super::view::SnapshotView;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::storages::Search;
use crate::text::{
    Column, Table, age, container, day_and_time, name, percent, printable, seconds, short, size,
};

/// Deeper trees are not indented further.
const DEEPEST: usize = 12;

/// Show what is known of a snapshot
///
/// Identity, times, producer, sizes, page classes, the process tree with names and memory, and the members of the archive.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore inspect 3f9a2b1c
  cryostore inspect latest --pod web --json")]
pub(crate) struct InspectArgs {
    /// `latest`, an id, or at least four of its first characters; STORAGE#ID of another storage
    #[arg(value_name = "ID|latest|PREFIX")]
    snapshot: String,
    /// Also say whether it can be restored on this node of the cluster, and why not
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    storage: String,
    snapshot: SnapshotView,
    manifest_bytes: u64,
    packs: usize,
    processes: Vec<ProcessView>,
    members: Vec<Member>,
    #[serde(skip_serializing_if = "Option::is_none")]
    restore: Option<Judgement>,
    #[serde(skip)]
    look: Look,
}

struct Look {
    id_len: usize,
    now: Timestamp,
    width: Option<usize>,
}

#[derive(Serialize)]
struct Member {
    name: String,
    kind: &'static str,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_size: Option<u32>,
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_identity(f)?;
        self.fmt_producer(f)?;
        self.fmt_sizes(f)?;
        write!(f, "\n{}", class_table(&self.snapshot.cost.classes))?;
        if !self.processes.is_empty() {
            write!(f, "\n{}", self.process_table())?;
        }
        write!(f, "\n{}", self.member_table())?;
        if !self.snapshot.warnings.is_empty() {
            writeln!(f, "\nwarnings of the import:")?;
            self.snapshot
                .warnings
                .iter()
                .try_for_each(|warning| writeln!(f, "  {}", printable(warning)))?;
        }
        if let Some(judgement) = &self.restore {
            write!(f, "\n{judgement}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, value: &str) -> fmt::Result {
    if value.is_empty() {
        Ok(())
    } else {
        writeln!(f, "{what:<11} {}", printable(value))
    }
}

impl Report {
    fn fmt_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let identity = &snapshot.identity;
        let when =
            |time: &String| format!("{} ({} ago)", day_and_time(time), age(time, self.look.now));
        line(f, "snapshot", &snapshot.id.to_string())?;
        line(f, "storage", &self.storage)?;
        if let Some(original) = snapshot.original {
            let text = format!("{} in repository {}", original.id, original.repository);
            line(f, "copy of", &text)?;
        }
        line(f, "container", &container(identity))?;
        line(f, "id", &identity.container_id)?;
        line(f, "pod uid", &identity.pod_uid)?;
        line(f, "image", &identity.image)?;
        line(f, "node", &identity.node)?;
        line(f, "labels", &snapshot.labels.join(", "))?;
        line(f, "group", snapshot.group.as_deref().unwrap_or_default())?;
        line(
            f,
            "taken",
            &snapshot.dumped.as_ref().map(when).unwrap_or_default(),
        )?;
        line(f, "imported", &when(&snapshot.created))?;
        let id = |id: &Option<_>| id.map(|id| short(id, self.look.id_len)).unwrap_or_default();
        line(f, "base", &id(&snapshot.base))?;
        line(f, "requires", &id(&snapshot.requires))
    }

    fn fmt_producer(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let producer = &self.snapshot.producer;
        let mut parts = vec![
            producer.engine.clone(),
            producer.runtime.clone(),
            producer.arch.clone(),
        ];
        if !producer.criu_version.is_empty() {
            parts.push(format!("CRIU {}", producer.criu_version));
        }
        parts.extend(
            producer
                .img_version
                .map(|version| format!("images {version}")),
        );
        parts.extend(
            producer
                .page_size
                .map(|bytes| format!("pages of {}", size(bytes))),
        );
        parts.retain(|part| !part.is_empty());
        line(f, "producer", &parts.join(", "))?;
        line(f, "plugins", &producer.criu_plugins.join(", "))
    }

    fn fmt_sizes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let archive = &self.snapshot.archive;
        let kind = match archive.kind {
            ArchiveKind::Tar => "tar",
            ArchiveKind::Directory => "tar of a directory",
        };
        line(
            f,
            "archive",
            &format!("{kind}, {} ({} bytes)", size(archive.bytes), archive.bytes),
        )?;
        line(
            f,
            "BLAKE3",
            &archive
                .digest
                .map(|digest| digest.to_string())
                .unwrap_or_default(),
        )?;
        if let Some(outer) = &archive.outer {
            let how = match outer.compression {
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
            };
            line(
                f,
                "came as",
                &format!(
                    "{how}, {} ({} bytes), BLAKE3 {}",
                    size(outer.bytes),
                    outer.bytes,
                    outer.digest
                ),
            )?;
        }
        let cost = &self.snapshot.cost;
        let added = format!(
            "{} ({}) in {}",
            size(cost.bytes_added),
            percent(cost.bytes_added, archive.bytes),
            seconds(cost.elapsed_ms)
        );
        line(f, "added", &added)?;
        line(
            f,
            "stored in",
            &format!(
                "{} packs, manifest of {}",
                self.packs,
                size(self.manifest_bytes)
            ),
        )
    }

    fn process_table(&self) -> Table {
        let from_parent = self
            .processes
            .iter()
            .any(|process| process.parent_pages > 0);
        let mut columns = vec![
            Column::Right("PID"),
            Column::Name("PROCESS"),
            Column::Right("THREADS"),
            Column::Right("PAGES"),
            Column::Right("MEMORY"),
        ];
        columns.extend(from_parent.then_some(Column::Right("PAGES IN PARENT")));
        let mut table = Table::new(columns, self.look.width);
        for process in &self.processes {
            let indent = "  ".repeat(process.depth.min(DEEPEST));
            let name = process.name.as_deref().map_or("?".to_owned(), printable);
            let mut row = vec![
                process.pid.to_string(),
                format!("{indent}{name}"),
                process.threads.to_string(),
                process.pages.to_string(),
                size(process.bytes),
            ];
            row.extend(from_parent.then(|| process.parent_pages.to_string()));
            table.row(row);
        }
        table
    }

    fn member_table(&self) -> Table {
        let mut table = Table::new(
            [
                Column::Name("MEMBER"),
                Column::Left("KIND"),
                Column::Right("BYTES"),
            ],
            self.look.width,
        );
        for member in &self.members {
            let kind = member.page_size.map_or(member.kind.to_owned(), |bytes| {
                format!("pages of {}", size(bytes.into()))
            });
            table.row([member.name.clone(), kind, member.bytes.to_string()]);
        }
        table
    }
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<(), Failure> {
    let now = context.env.now();
    let (repo, found) = Search::new(context)?.snapshot(&args.snapshot, &args.filter.filter(now))?;
    let record = &found.snapshot;
    let reader = CheckpointReader::open(&repo, record)?;
    let manifest = reader.manifest();
    let is_member = |stream: &&Stream| matches!(stream.role, Role::Member | Role::Attachment);
    let report = Report {
        storage: repo.store().name().to_owned(),
        snapshot: SnapshotView::from(record),
        manifest_bytes: repo.manifest_object(record)?.1,
        packs: manifest.packs.len(),
        processes: process_tree::read(&reader)?,
        members: manifest
            .streams
            .iter()
            .filter(is_member)
            .map(Member::from)
            .collect(),
        restore: match &args.node {
            Some(node) => Some(judge(&reader, record, node, context)?),
            None => None,
        },
        look: Look {
            id_len: found.id_len,
            now,
            width: Output::width(),
        },
    };
    context.output.show(&report)
}
