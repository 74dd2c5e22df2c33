//! `cryostore rebuild-index`

use std::fmt;

use clap::Args;
use cryostore_engine::rebuild_index;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;

/// Make the local index anew from the store
///
/// The index says which chunks are stored already. It is a cache: it can be deleted at any time and grows again by itself; this command
/// fills it with all that there is, also where stored index segments are missing or damaged.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore rebuild-index
  cryostore rebuild-index --cache-dir /var/cache/cryostore")]
pub(crate) struct RebuildIndexArgs {}

#[derive(Serialize)]
struct Report {
    packs: u64,
    ids: u64,
    segments: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} chunks in {} packs, from {} index segments",
            self.ids, self.packs, self.segments
        )
    }
}

pub(crate) fn run(_: &RebuildIndexArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    if repo.cache().is_none() {
        return Err(Failure::usage(
            "there is no cache directory for the index",
            "say --cache-dir DIR, and not --no-cache",
        ));
    }
    let rebuilt = rebuild_index(&repo, context.monitor())?;
    context.screen.clear();
    context.output.show(&Report {
        packs: rebuilt.packs,
        ids: rebuilt.ids,
        segments: rebuilt.segments,
    })
}
