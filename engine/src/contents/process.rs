//! Owns what one process was: its name, its command line, its memory, what it had open.
//!
//! Always: text is bounded, whatever an image says of its length. Never: reads an environment that nobody asked for.

use std::collections::BTreeMap;
use std::ops::Range;

use cryostore_format::manifest::{MapOf, RunPlace};

use super::table::Files;
use super::{Folder, IMAGE_LEN, Look, TABLE_LEN, split};
use crate::criu::{Core, FileKind, Folders, MmImage, TaskIds, parse_descriptors};

/// Images of processes are read one by one; beyond it nobody reads the list, either.
const PROCESSES: usize = 4096;
/// Descriptors that are listed, of all processes together.
const OPEN: usize = 100_000;
/// 64 KiB of a command line. Linux has a bound of 6 MiB.
const COMMAND_LEN: u64 = 64 << 10;
/// 1 MiB of an environment.
const ENVIRONMENT_LEN: u64 = 1 << 20;

/// One process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Its number, inside its pid namespace.
    pub pid: u32,
    /// Its parent; 0 for the root.
    pub parent: u32,
    /// 0: the root of its tree.
    pub depth: usize,
    /// Its name; of at most 15 bytes in Linux.
    pub name: Option<String>,
    /// Its command line, word by word. Empty if its memory is not in this checkpoint.
    pub command: Vec<String>,
    /// Its program.
    pub executable: Option<String>,
    /// Its working directory.
    pub working: Option<String>,
    /// Its root directory.
    pub root: Option<String>,
    /// Names and values of its environment, if they were asked for.
    pub environment: Vec<(String, String)>,
    /// Its namespaces and their numbers in this dump.
    pub namespaces: Vec<(&'static str, u32)>,
    /// What it had open, by descriptor.
    pub open: Vec<Open>,
    /// Its threads, itself included.
    pub threads: usize,
    /// Its memory.
    pub memory: Memory,
}

/// Memory of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Pages in the archive.
    pub pages: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Pages in CRIU's parent directory.
    pub parent_pages: u64,
}

/// What a descriptor means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its number.
    pub fd: u32,
    /// The same for descriptors, also of other processes, that mean the same open file.
    pub file: u32,
    /// What it is; absent: not in `files.img`.
    pub kind: Option<FileKind>,
}

impl Open {
    pub(super) fn is_tcp_connection(&self) -> bool {
        matches!(&self.kind, Some(FileKind::Inet(socket)) if socket.is_tcp_connection())
    }
}

/// How much may still be listed.
#[derive(Debug)]
pub(super) struct Budget {
    processes: usize,
    open: usize,
    pub(super) cut: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            processes: PROCESSES,
            open: OPEN,
            cut: false,
        }
    }
}

impl Budget {
    /// Whether one more process may be looked at.
    pub(super) fn take_process(&mut self) -> bool {
        self.cut |= self.processes == 0;
        let may = self.processes > 0;
        self.processes = self.processes.saturating_sub(1);
        may
    }
}

impl Process {
    /// Reads the images of this process.
    pub(super) fn look_at(
        &mut self,
        folder: &Folder<'_>,
        files: &Files,
        look: Look,
        budget: &mut Budget,
    ) {
        let pid = self.pid;
        let image = |name: &str| folder.read(&format!("{name}-{pid}.img"), IMAGE_LEN);
        self.name = image("core").and_then(|bytes| Core::parse(&bytes).ok()?.comm);
        let folders = image("fs").and_then(|bytes| Folders::parse(&bytes).ok());
        let folders = folders.unwrap_or_default();
        self.working = files.path(folders.working);
        self.root = files.path(folders.root);
        let ids = image("ids").and_then(|bytes| TaskIds::parse(&bytes).ok());
        let ids = ids.unwrap_or_default();
        self.namespaces = ids.namespaces;
        self.open(folder, files, ids.files, budget);
        let mm = folder.read(&format!("mm-{pid}.img"), TABLE_LEN);
        if let Some(mm) = mm.and_then(|bytes| MmImage::parse(&bytes).ok()) {
            self.executable = files.path(mm.exe_file_id);
            let of = MapOf::Process(pid);
            self.command = words(folder, of, &mm.arguments, COMMAND_LEN);
            if look.environment {
                let words = words(folder, of, &mm.environment, ENVIRONMENT_LEN);
                self.environment = words.into_iter().map(variable).collect();
            }
        }
    }

    fn open(
        &mut self,
        folder: &Folder<'_>,
        files: &Files,
        table: Option<u32>,
        budget: &mut Budget,
    ) {
        let bytes = table.and_then(|id| folder.read(&format!("fdinfo-{id}.img"), TABLE_LEN));
        let Some(descriptors) = bytes.and_then(|bytes| parse_descriptors(&bytes).ok()) else {
            return;
        };
        budget.cut |= descriptors.len() > budget.open;
        let listed = descriptors.into_iter().take(budget.open);
        self.open = listed
            .map(|descriptor| Open {
                fd: descriptor.fd,
                file: descriptor.file,
                kind: files.get(descriptor.file).cloned(),
            })
            .collect();
        self.open.sort_by_key(|open| open.fd);
        budget.open -= self.open.len();
    }
}

/// NAME=VALUE.
fn variable(word: String) -> (String, String) {
    match word.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (word, String::new()),
    }
}

/// Words in memory, each with a zero byte behind it.
fn words(folder: &Folder<'_>, of: MapOf, place: &Range<u64>, limit: u64) -> Vec<String> {
    let len = place.end.saturating_sub(place.start).min(limit);
    let len = usize::try_from(len).unwrap_or(0);
    let Ok(Some(bytes)) = folder.reader.memory(of, place.start, len) else {
        return Vec::new();
    };
    // Programs that show their state there (setproctitle) leave zeros behind it.
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    bytes[..end]
        .split(|b| *b == 0)
        .filter(|word| end > 0 || !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Memory by pid; with `several` folders, only of page images in this one.
pub(super) fn memory(folder: &Folder<'_>, several: bool) -> BTreeMap<u32, Memory> {
    let manifest = folder.reader.manifest();
    let mut out: BTreeMap<u32, Memory> = BTreeMap::new();
    for map in manifest.maps.iter().filter(|map| !map.stale) {
        let MapOf::Process(pid) = map.of else {
            continue;
        };
        let stream = map
            .stream
            .and_then(|n| manifest.streams.get(usize::try_from(n).ok()?));
        if several && stream.is_some_and(|stream| split(&stream.name).0 != folder.path) {
            continue;
        }
        let used = out.entry(pid).or_default();
        for run in &map.runs {
            match run.place {
                RunPlace::Image => used.pages = used.pages.saturating_add(run.pages),
                RunPlace::Parent => used.parent_pages = used.parent_pages.saturating_add(run.pages),
            }
        }
        used.bytes = used.pages.saturating_mul(u64::from(map.page_size));
    }
    out
}
