//! Which snapshots are meant: the conditions that several commands take.

use clap::Args;
use cryostore_engine::Filter;
use jiff::Timestamp;

use crate::text::Since;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which snapshots")]
pub(crate) struct FilterArgs {
    /// Only of this pod
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Only of this namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Only of this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Only with this label; of a label KEY=VALUE, KEY is enough
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Only those imported since: 30m, 12h, 7d ago, a date or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
}

impl FilterArgs {
    pub(crate) fn filter(&self, now: Timestamp) -> Filter {
        Filter {
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            container: self.container.clone(),
            label: self.label.clone(),
            since: self.since.map(|since| since.from(now)),
        }
    }
}
