//! Names from archives, which can hold anything, on a terminal, which obeys some of it.

use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::Identity;

/// Characters that a terminal acts on, or that make text look like something else.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text with everything escaped that is not to reach a terminal.
pub(crate) fn printable(text: &str) -> String {
    escape(text, |c| !is_unsafe(c))
}

/// As [`printable`], for text that has lines of its own.
pub(crate) fn printable_lines(text: &str) -> String {
    escape(text, |c| c == '\n' || !is_unsafe(c))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if keep(c) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// Bytes that are meant to be a name: what is not UTF-8 is shown as `\xNN`.
pub(crate) fn name(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&printable(chunk.valid()));
        chunk
            .invalid()
            .iter()
            .for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out
}

/// `namespace/pod/container`, as far as it is known.
pub(crate) fn container(identity: &Identity) -> String {
    let parts = [&identity.namespace, &identity.pod, &identity.container];
    let known: Vec<_> = parts
        .iter()
        .filter(|part| !part.is_empty())
        .map(|part| printable(part))
        .collect();
    if known.is_empty() {
        "-".to_owned()
    } else {
        known.join("/")
    }
}

/// The first `len` characters of an id.
pub(crate) fn short(id: SnapshotId, len: usize) -> String {
    id.to_string().chars().take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\nb\u{9b}c\u{202e}d"), "a\\nb\\u{9b}c\\u{202e}d");
        assert_eq!(printable("größer 容器"), "größer 容器");
        assert_eq!(printable_lines("a\n\x07"), "a\n\\u{7}");
        assert_eq!(name(b"a\xffb\x1b"), "a\\xffb\\u{1b}");
    }

    #[test]
    fn a_container_is_called_by_what_is_known_of_it() {
        let identity = |namespace: &str, pod: &str, container: &str| Identity {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            ..Identity::default()
        };
        assert_eq!(container(&identity("n", "p", "c")), "n/p/c");
        assert_eq!(container(&identity("", "", "c")), "c");
        assert_eq!(container(&identity("", "", "")), "-");
    }
}
