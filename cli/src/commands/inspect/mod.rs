//! `cryostore inspect`
//!
//! Owns its arguments and its report. `inside` has what was in the checkpoint, `members` what the archive is made of, `text` how both look.

mod inside;
mod members;
mod text;

use clap::Args;
use cryostore_engine::CheckpointReader;
use cryostore_engine::contents::{self, Look as LookAt};
use cryostore_engine::format::manifest::{Role, Stream};
use jiff::Timestamp;
use serde::Serialize;

use self::inside::Inside;
use self::members::Member;
use super::filter::FilterArgs;
use super::restore::{Judgement, judge};
use super::view::SnapshotView;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::storages::Search;

/// Show what is known of a snapshot
///
/// Identity, times, producer, sizes and page classes; the process tree with command lines and memory; open files, sockets and their states, mounts, namespaces; what a restore needs (plugins
/// of CRIU, a GPU, a rule for connections of TCP); the members of the archive. Reads the small images and the few pages that hold command lines, not the memory.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore inspect 3f9a2b1c
  cryostore inspect latest --pod web --all
  cryostore inspect latest --pod web --json | jq '.processes[].open[] | select(.socket)'")]
pub(crate) struct InspectArgs {
    /// `latest`, an id, or at least four of its first characters; STORAGE#ID of another storage
    #[arg(value_name = "ID|latest|PREFIX")]
    snapshot: String,
    /// Show long lists whole
    #[arg(long)]
    all: bool,
    /// Show the values of environment variables, too: they often hold secrets
    #[arg(long)]
    show_environment: bool,
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
    #[serde(flatten)]
    inside: Inside,
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
    all: bool,
}

pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<(), Failure> {
    let now = context.env.now();
    let (repo, found) = Search::new(context)?.snapshot(&args.snapshot, &args.filter.filter(now))?;
    let record = &found.snapshot;
    let reader = CheckpointReader::open(&repo, record)?;
    let manifest = reader.manifest();
    let contents = contents::read(&reader, LookAt { environment: true });
    let is_member = |stream: &&Stream| matches!(stream.role, Role::Member | Role::Attachment);
    let report = Report {
        storage: repo.store().name().to_owned(),
        snapshot: SnapshotView::from(record),
        manifest_bytes: repo.manifest_object(record)?.1,
        packs: manifest.packs.len(),
        inside: Inside::new(&contents, args.show_environment),
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
            all: args.all,
        },
    };
    context.output.show(&report)
}
