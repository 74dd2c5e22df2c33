//! Owns the last words of CRIU and of runtimes: which lines of a log say why.
//!
//! Always: bounded, on one line, control characters gone: they are shown on a terminal. Never: reads more than a log's end.

use std::path::{Path, PathBuf};

use crate::criu_log::end_of;

/// Lines that are shown.
const LINES: usize = 6;
/// Characters that are shown.
const TEXT_LEN: usize = 2000;

/// The path of CRIU's log that a runtime's message names.
pub(crate) fn named_in(message: &str) -> Option<PathBuf> {
    let words =
        message.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | ',' | '='));
    let path = words
        .map(|word| word.trim_end_matches([':', '.', ')']))
        .find(|word| word.starts_with('/') && word.ends_with(".log"))?;
    Some(PathBuf::from(path))
}

/// The last lines with errors of a log.
pub(crate) fn last_errors(path: &Path) -> String {
    let Some(text) = end_of(path) else {
        return String::new();
    };
    let errors: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("Error") || line.contains("error:"))
        .collect();
    joined(&errors)
}

/// The last lines of what a program said.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    joined(&lines)
}

fn joined(lines: &[&str]) -> String {
    let from = lines.len().saturating_sub(LINES);
    let text = lines[from..]
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join("; ");
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(TEXT_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_that_a_message_names_is_found() {
        for (message, path) in [
            (
                "criu failed: type NOTIFY errno 0 log file: /run/x/restore.log: unknown",
                Some("/run/x/restore.log"),
            ),
            (
                "Please check CRIU logfile /var/lib/containers/userdata/restore.log",
                Some("/var/lib/containers/userdata/restore.log"),
            ),
            ("path=\"/a b.log\"", None),
            ("nothing", None),
        ] {
            assert_eq!(named_in(message), path.map(PathBuf::from), "{message}");
        }
    }

    #[test]
    fn the_last_errors_of_a_log_are_on_one_line_without_control_characters() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut text = String::new();
        for n in 0..100_000 {
            text.push_str(&format!("({n}) fine\n"));
        }
        text.push_str(
            "(00.1) Error (criu/x.c:1): one\x1b[31m\nfine\n(00.2) Error (criu/y.c:2): two\n",
        );
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(
            last_errors(file.path()),
            "(00.1) Error (criu/x.c:1): one [31m; (00.2) Error (criu/y.c:2): two"
        );
        assert_eq!(last_errors(Path::new("/does/not/exist.log")), "");
    }
}
