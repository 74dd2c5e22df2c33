//! `cryostore man`

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man;
use cryostore_engine::Error;
use serde::Serialize;

use crate::called::Called;
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;

/// Print the manual page, or write one for each command
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore man | man -l -
  cryostore man --dir /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write all pages into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    dir: PathBuf,
    pages: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} pages in {}", self.pages, self.dir.display())
    }
}

pub(crate) fn run(args: &ManArgs, context: &Context) -> Result<(), Failure> {
    let called = Called::now();
    let command = called.command().disable_help_subcommand(true);
    // The page's own name.
    let command = command.display_name(called.file_name());
    let Some(dir) = &args.dir else {
        return Output::bytes(&page(command)?);
    };
    let failed = |e| Error::io(format!("writing the pages into {}", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut pages = vec![(format!("{}.1", called.file_name()), page(command.clone())?)];
    let mut built = command;
    built.build();
    for sub in built.get_subcommands() {
        let name = format!("{}-{}", called.file_name(), sub.get_name());
        pages.push((format!("{name}.1"), page(sub.clone().display_name(name))?));
    }
    for (name, page) in &pages {
        std::fs::write(dir.join(name), page).map_err(failed)?;
    }
    context.output.show(&Report {
        dir: dir.clone(),
        pages: pages.len(),
    })
}

/// One page; what stands below a command's help becomes sections whose lines stay as they are.
fn page(command: clap::Command) -> Result<Vec<u8>, Failure> {
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let has_commands = command.get_subcommands().next().is_some();
    let man = Man::new(command.after_help("").version(env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    let mut render = || {
        man.render_title(&mut page)?;
        man.render_name_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
        if has_commands {
            man.render_subcommands_section(&mut page)?;
        }
        page.extend_from_slice(sections(&after).as_bytes());
        man.render_version_section(&mut page)
    };
    render().map_err(|e| Error::io("the manual page", e))?;
    Ok(page)
}

/// `Heading:` (or a heading with more words behind a comma) and its lines, as roff.
fn sections(after: &str) -> String {
    let mut out = String::new();
    for block in after.split("\n\n").filter(|block| !block.is_empty()) {
        let (head, body) = block.split_once('\n').unwrap_or((block, ""));
        let head = head.trim_end_matches(':');
        let (title, more) = head.split_once(", ").unwrap_or((head, ""));
        out.push_str(&format!(".SH {}\n", title.to_uppercase()));
        if !more.is_empty() {
            out.push_str(&format!("{}:\n.PP\n", literal(more)));
        }
        out.push_str(".nf\n");
        body.lines()
            .for_each(|line| out.push_str(&format!("{}\n", literal(line))));
        out.push_str(".fi\n");
    }
    out
}

/// A line in which roff finds nothing to obey.
fn literal(line: &str) -> String {
    let line = line
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('`', "\\(ga")
        .replace('\'', "\\(aq");
    if line.starts_with('.') {
        format!("\\&{line}")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_below_the_help_becomes_a_section() {
        let text = sections("Examples:\n  a --b\n\nSettings, in order:\n.x 'y'");
        assert_eq!(
            text,
            ".SH EXAMPLES\n.nf\n  a \\-\\-b\n.fi\n.SH SETTINGS\nin order:\n.PP\n.nf\n\\&.x \\(aqy\\(aq\n.fi\n"
        );
    }
}
