//! Owns standard output: a report as text or as one JSON document.
//!
//! Always: a document carries the number of its schema; a closed pipe is no error of the program. Never: prints half a report.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};

use cryostore_engine::Error;
use serde::Serialize;

use crate::exit::Failure;
use crate::text::printable_lines;

/// Grows when a key changes its meaning or goes; new keys come without.
pub(crate) const SCHEMA: u32 = 1;

/// A report as programs read it.
#[derive(Serialize)]
pub(crate) struct Document<'r, R: Serialize> {
    schema: u32,
    #[serde(flatten)]
    report: &'r R,
}

impl Document<'_, ()> {
    /// On one line, for standard error.
    pub(crate) fn line<R: Serialize>(report: &R) -> String {
        serde_json::to_string(&Document {
            schema: SCHEMA,
            report,
        })
        .unwrap_or_default()
    }

    /// For a person to look at, too.
    pub(crate) fn pretty<R: Serialize>(report: &R) -> String {
        serde_json::to_string_pretty(&Document {
            schema: SCHEMA,
            report,
        })
        .unwrap_or_default()
    }
}

/// How results are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text?
    pub(crate) json: bool,
}

impl Output {
    /// Columns of the terminal; none if nobody looks at one, so that nothing is shortened.
    pub(crate) fn width() -> Option<usize> {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    }

    /// The report as it is shown.
    pub(crate) fn render<R: Serialize + Display>(self, report: &R) -> String {
        if self.json {
            return Document::pretty(report) + "\n";
        }
        let mut text = printable_lines(&report.to_string());
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// Prints a result.
    pub(crate) fn show<R: Serialize + Display>(self, report: &R) -> Result<(), Failure> {
        Self::bytes(self.render(report).as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::StdoutClosed),
            Err(e) => Err(Error::io("writing to standard output", e).into()),
            Ok(()) => Ok(()),
        }
    }
}
