//! Owns the text of `cryostore inspect`: what comes first, and how long each list is.
//!
//! Always: what comes from an archive is made printable. Never: shows the values of an environment that nobody asked for.

use std::fmt;

use cryostore_engine::format::snapshot::{ArchiveKind, Compression};

use super::Report;
use super::inside::{OpenView, ProcessView};
use crate::commands::import::class_table;
use crate::text::{
    Column, Table, age, container, day_and_time, percent, printable, seconds, short, size,
};

/// Deeper trees are not indented further.
const DEEPEST: usize = 12;
/// Lines of a list that is not shown whole.
const LINES: usize = 20;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_identity(f)?;
        self.fmt_producer(f)?;
        self.fmt_dump(f)?;
        self.fmt_needs(f)?;
        self.fmt_sizes(f)?;
        write!(f, "\n{}", class_table(&self.snapshot.cost.classes))?;
        self.fmt_processes(f)?;
        self.fmt_open(f)?;
        self.fmt_mounts(f)?;
        self.fmt_members(f)?;
        if !self.snapshot.warnings.is_empty() {
            writeln!(f, "\nwarnings of the import:")?;
            self.snapshot
                .warnings
                .iter()
                .try_for_each(|warning| writeln!(f, "  {}", printable(warning)))?;
        }
        if self.inside.cut {
            writeln!(
                f,
                "\nThere are more processes or open files than are listed."
            )?;
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
        let mut of_it = vec![format!("{} in page images", size(self.inside.page_bytes))];
        if self.inside.rootfs_diff_bytes > 0 {
            let bytes = size(self.inside.rootfs_diff_bytes);
            of_it.push(format!("{bytes} of changes in the root file system"));
        }
        line(f, "of it", &of_it.join(", "))?;
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

    fn fmt_dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = &self.inside.container;
        let when = |time: &str| match time {
            "" => String::new(),
            time => day_and_time(time),
        };
        line(f, "created", &when(&container.created))?;
        line(f, "host name", &self.inside.hosts.join(", "))?;
        let Some(dump) = &self.inside.dump else {
            return Ok(());
        };
        let ms = |us: u32| format!("{}.{:03} ms", us / 1000, us % 1000);
        let mut parts = Vec::new();
        parts.extend(
            dump.freezing_us
                .map(|us| format!("freezing took {}", ms(us))),
        );
        parts.extend(dump.frozen_us.map(|us| format!("frozen for {}", ms(us))));
        if let (Some(written), Some(scanned)) = (dump.pages_written, dump.pages_scanned) {
            parts.push(format!("{written} of {scanned} pages written"));
        }
        line(f, "dump", &parts.join(", "))
    }

    fn fmt_needs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needs = &self.inside.needs;
        let mut parts = Vec::new();
        parts.extend(
            needs
                .plugins
                .iter()
                .map(|plugin| format!("CRIU's plugin {plugin}")),
        );
        if needs.gpu {
            parts.push("a GPU of the same kind".to_owned());
        }
        if needs.tcp_connections > 0 {
            let count = needs.tcp_connections;
            let how = if needs.tcp_closed {
                "tcp-close (they were closed at the dump)"
            } else {
                "tcp-established or tcp-close"
            };
            parts.push(format!("{how} for {count} connections of TCP"));
        }
        line(f, "needs", &parts.join("; "))?;
        let mut own: Vec<_> = self
            .inside
            .processes
            .iter()
            .flat_map(|process| process.own_namespaces.iter().copied())
            .collect();
        own.sort_unstable();
        own.dedup();
        line(f, "namespaces", &own.join(", "))
    }

    /// A title and as much of a list as is to be shown.
    fn list(
        &self,
        f: &mut fmt::Formatter<'_>,
        columns: &[Column],
        rows: Vec<Vec<String>>,
    ) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let lines = if self.look.all { rows.len() } else { LINES };
        let more = rows.len().saturating_sub(lines);
        let mut table = Table::new(columns.to_vec(), self.look.width);
        rows.into_iter().take(lines).for_each(|row| table.row(row));
        write!(f, "\n{table}")?;
        match more {
            0 => Ok(()),
            more => writeln!(f, "… and {more} more: --all shows them"),
        }
    }

    fn fmt_processes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = &self.inside.processes;
        let from_parent = processes.iter().any(|process| process.parent_pages > 0);
        let mut columns = vec![
            Column::Right("PID"),
            Column::Left("PROCESS"),
            Column::Right("THREADS"),
            Column::Right("PAGES"),
            Column::Right("MEMORY"),
        ];
        columns.extend(from_parent.then_some(Column::Right("PAGES IN PARENT")));
        columns.push(Column::Name("COMMAND"));
        let row = |process: &ProcessView| {
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
            row.push(printable(&process.command.join(" ")));
            row
        };
        self.list(f, &columns, processes.iter().map(row).collect())?;
        let with_values = |variable: &super::inside::Variable| variable.value.is_some();
        for (n, process) in processes.iter().enumerate() {
            let variables = &process.environment;
            if variables.iter().any(with_values) {
                writeln!(f, "\nenvironment of {}:", process.pid)?;
                for variable in variables {
                    let value = variable.value.as_deref().unwrap_or_default();
                    writeln!(f, "  {}={}", printable(&variable.name), printable(value))?;
                }
            } else if !variables.is_empty() && (n == 0 || self.look.all) {
                let names: Vec<_> = variables.iter().map(|v| printable(&v.name)).collect();
                let names = names.join(", ");
                writeln!(
                    f,
                    "environment of {}: {names} (--show-environment shows values)",
                    process.pid
                )?;
            }
        }
        Ok(())
    }

    fn fmt_open(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::Right("PID"),
            Column::Right("FD"),
            Column::Left("KIND"),
            Column::Name("OPEN"),
        ];
        let mut rows = Vec::new();
        for process in &self.inside.processes {
            let mut row = |fd: &str, kind: &str, what: String| {
                let pid = process.pid.to_string();
                rows.push(vec![pid, fd.to_owned(), kind.to_owned(), what]);
            };
            for open in &process.open {
                row(&open.fd.to_string(), open.kind, what(open));
            }
            let folders = [
                ("cwd", &process.working_directory),
                ("root", &process.root_directory),
            ];
            for (name, folder) in folders {
                if let Some(path) = folder {
                    row(name, "REG", printable(path));
                }
            }
        }
        self.list(f, &columns, rows)
    }

    fn fmt_mounts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::Left("MOUNT"),
            Column::Left("TYPE"),
            Column::Name("SOURCE"),
        ];
        let container = &self.inside.container;
        let of_engine = container.mounts.iter().map(|mount| {
            [&mount.destination, &mount.kind, &mount.source]
                .map(|text| printable(text))
                .to_vec()
        });
        let of_criu = self.inside.mounts.iter().map(|mount| {
            [&mount.path, &mount.kind, &mount.source]
                .map(|text| printable(text))
                .to_vec()
        });
        if container.mounts.is_empty() {
            self.list(f, &columns, of_criu.collect())?;
        } else {
            self.list(f, &columns, of_engine.collect())?;
        }
        let columns = [Column::Left("ANNOTATION"), Column::Name("VALUE")];
        let annotations = container.annotations.iter();
        let rows = annotations.map(|(key, value)| vec![printable(key), printable(value)]);
        self.list(f, &columns, rows.collect())
    }

    fn fmt_members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::Name("MEMBER"),
            Column::Left("KIND"),
            Column::Right("BYTES"),
        ];
        let rows = self.members.iter().map(|member| {
            let kind = member.page_size.map_or(member.kind.to_owned(), |bytes| {
                format!("pages of {}", size(bytes.into()))
            });
            vec![member.name.clone(), kind, member.bytes.to_string()]
        });
        self.list(f, &columns, rows.collect())
    }
}

/// What is open, in one line.
fn what(open: &OpenView) -> String {
    if let Some(path) = &open.path {
        return printable(path);
    }
    if let Some(pipe) = open.pipe {
        return format!("pipe {pipe}");
    }
    let Some(socket) = &open.socket else {
        return String::new();
    };
    let mut text = format!("{} {}", socket.protocol, socket.state);
    if !socket.local.is_empty() {
        text = format!("{text} {}", socket.local);
    }
    if !socket.remote.is_empty() {
        text = format!("{text} to {}", socket.remote);
    }
    printable(&text)
}
