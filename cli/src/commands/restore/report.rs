//! What is shown of a restore: the plan, and what came of it.

use std::fmt;

use cryostore_engine::format::snapshot::Identity;
use cryostore_operator::restore::Source;
use cryostore_operator::restore::plan::Plan;
use cryostore_operator::restore::preflight::Level;
use serde::Serialize;

use crate::text::{container, printable, short, size};

/// What was done. Absent: there was none.
#[derive(Debug, Default, Serialize)]
pub(super) struct Done {
    /// In words.
    pub(super) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pod_uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stripped: Option<Vec<String>>,
    /// From the command's start until the container ran, or all was written.
    pub(super) seconds: f64,
}

#[derive(Serialize)]
pub(super) struct Report<'r> {
    identity: &'r Identity,
    bytes: u64,
    plan: &'r Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
    #[serde(skip)]
    id_len: usize,
}

impl<'r> Report<'r> {
    pub(super) const fn of_plan(source: &'r Source, plan: &'r Plan, id_len: usize) -> Self {
        Self {
            identity: &source.record.identity,
            bytes: source.record.archive.bytes,
            plan,
            done: None,
            id_len,
        }
    }

    pub(super) fn of_done(source: &'r Source, plan: &'r Plan, done: Done, id_len: usize) -> Self {
        let mut report = Self::of_plan(source, plan, id_len);
        report.done = Some(done);
        report
    }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, value: &str) -> fmt::Result {
    if value.is_empty() {
        Ok(())
    } else {
        writeln!(f, "{what:<11} {}", printable(value))
    }
}

pub(super) const fn word(level: Level) -> &'static str {
    match level {
        Level::Refused => "refused",
        Level::Unsafe => "unsafe",
        Level::Warning => "warning",
        Level::Note => "note",
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(done) = &self.done {
            writeln!(f, "{}", printable(&done.text))?;
            return line(f, "image", done.digest.as_deref().unwrap_or_default());
        }
        let plan = self.plan;
        let of = |text: &Option<String>| text.clone().unwrap_or_default();
        let what = format!(
            "{}  {}, {}, of {}",
            short(plan.snapshot, self.id_len),
            container(self.identity),
            size(self.bytes),
            plan.family.name()
        );
        line(f, "snapshot", &what)?;
        line(f, "driver", plan.driver.name())?;
        line(f, "to", &of(&plan.to))?;
        let here = if plan.is_here { " (this machine)" } else { "" };
        line(
            f,
            "node",
            &plan
                .node
                .as_ref()
                .map(|node| format!("{node}{here}"))
                .unwrap_or_default(),
        )?;
        line(f, "namespace", &of(&plan.namespace))?;
        line(f, "name", &of(&plan.name))?;
        line(f, "image", &of(&plan.image))?;
        for dropped in &plan.dropped {
            line(f, "without", &format!("{}: {}", dropped.what, dropped.why))?;
        }
        if !plan.stripped.is_empty() {
            line(
                f,
                "stripped",
                &format!(
                    "{}: by these an archive would reach out of its container",
                    plan.stripped.join(", ")
                ),
            )?;
        }
        for finding in &plan.findings {
            let cure = if finding.cure.is_empty() {
                String::new()
            } else {
                format!(" ({})", finding.cure)
            };
            line(f, word(finding.level), &format!("{}{cure}", finding.text))?;
        }
        line(f, "afterwards", plan.after_a_crash.unwrap_or_default())
    }
}
