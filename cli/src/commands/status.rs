//! `cryostore status`

mod storages;

use std::fmt;

use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Show the known storages: whether they answer, how they are encrypted, what is in them
///
/// KEY is what opened it; SIZE the archives together, ADDED what the store grew by when they were imported; FREE is the room on the disk of a directory. The default is marked with *. With --storage, of that one
/// only. A storage that does not answer within 15 seconds stays in the table, with the reason below it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore status
  cryostore status --storage s3://clouder-checkpoints/
  cryostore status --json")]
pub(crate) struct StatusArgs {}

/// One field for each section.
#[derive(Serialize)]
struct Report {
    storages: storages::Section,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.storages.fmt(f)
    }
}

pub(crate) fn run(_: &StatusArgs, context: &Context) -> Result<(), Failure> {
    let report = Report {
        storages: storages::look(context)?,
    };
    if report.storages.is_empty() {
        context.screen.note(
            "no storage is known yet; `cryostore configure --storage DIR|URL` names the default",
        );
    }
    context.output.show(&report)
}
