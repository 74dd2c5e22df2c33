//! What is said to be in a checkpoint: the same facts as another tool finds in the same archives, words from memory, and nothing that hostile
//! images could make of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use cryostore_engine::CheckpointReader;
use cryostore_engine::contents::{Contents, Look, Process, read};
use cryostore_engine::criu::FileKind;
use cryostore_engine::format::manifest::MapOf;
use cryostore_tests::Place;
use cryostore_tests::archives::{
    COMMON, Count, TarBuilder, bytes_field, field, image, inventory, noise, package, pagemap,
    pstree, real_tar,
};
use serde_json::Value;

const MM: u32 = 0x5749_2820;
const FILES: u32 = 0x5630_3138;
const FDINFO: u32 = 0x5621_3732;
const IDS: u32 = 0x5443_2030;

fn contents_of(tar: &[u8], look: Look) -> Contents {
    let place = Place::new();
    let snapshot = place.import_bytes("a.tar", tar).unwrap().snapshot;
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
    read(&reader, look)
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

/// Pid and name of the processes below one, as pairs with their parent.
fn tree(node: &Value, parent: u64, out: &mut BTreeSet<(u64, u64, String)>) {
    let pid = node["pid"].as_u64().unwrap();
    out.insert((parent, pid, text(node, "command").to_owned()));
    for child in node["children"].as_array().into_iter().flatten() {
        tree(child, pid, out);
    }
}

/// What a process had open, as checkpointctl writes it.
fn open_files(process: &Process) -> BTreeSet<(String, String)> {
    let mut out = BTreeSet::new();
    for open in &process.open {
        let kind = open.kind.as_ref().unwrap();
        let path = match kind {
            FileKind::Path { path, .. } => path.clone(),
            FileKind::Pipe(number) => format!("pipe[{number}]"),
            _ => continue,
        };
        out.insert((format!("{} {}", kind.name(), open.fd), path));
    }
    for (name, path) in [("cwd", &process.working), ("root", &process.root)] {
        out.extend(path.clone().map(|path| (name.to_owned(), path)));
    }
    out
}

#[test]
fn of_real_archives_the_same_is_said_as_by_checkpointctl() {
    let folder = package().join("data/checkpointctl");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let said: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let said = &said[0];
        let contents = contents_of(&real_tar(name), Look::default());

        let numbers = &said["statistics"];
        let dump = contents.dump.unwrap();
        let of = |n: Option<u32>| n.map(u64::from);
        for (key, ours) in [
            ("freezing_time", of(dump.freezing_time_us)),
            ("frozen_time", of(dump.frozen_time_us)),
            ("memdump_time", of(dump.memdump_time_us)),
            ("memwrite_time", of(dump.memwrite_time_us)),
            ("pages_scanned", dump.pages_scanned),
            ("pages_written", dump.pages_written),
        ] {
            assert_eq!(numbers[key].as_u64(), ours, "{name}: {key}");
        }

        let sizes = &said["checkpoint_size"];
        let pages = sizes["memory_pages_size"].as_u64();
        assert_eq!(pages, Some(contents.page_bytes), "{name}");
        let diff = sizes["root_fs_diff_size"].as_u64().unwrap_or(0);
        assert_eq!(diff, contents.rootfs_diff_bytes, "{name}");

        let mut theirs = BTreeSet::new();
        tree(&said["process_tree"], 0, &mut theirs);
        let ours: BTreeSet<_> = contents
            .processes
            .iter()
            .map(|p| (p.parent.into(), p.pid.into(), p.name.clone().unwrap()))
            .collect();
        assert_eq!(theirs, ours, "{name}");

        let by_pid: BTreeMap<u64, &Process> = contents
            .processes
            .iter()
            .map(|process| (process.pid.into(), process))
            .collect();
        for process in said["file_descriptors"].as_array().unwrap() {
            let theirs: BTreeSet<_> = process["open_files"]
                .as_array()
                .unwrap()
                .iter()
                .map(|open| (text(open, "fd").to_owned(), text(open, "path").to_owned()))
                .collect();
            let pid = process["pid"].as_u64().unwrap();
            assert_eq!(theirs, open_files(by_pid[&pid]), "{name}: {pid}");
        }

        let theirs: Vec<_> = said["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| [text(m, "destination"), text(m, "type"), text(m, "source")])
            .collect();
        let mounts = contents.container.mounts.iter();
        let ours: Vec<_> = mounts
            .map(|m| [&*m.destination, &m.kind, &m.source])
            .collect();
        assert_eq!(theirs, ours, "{name}");

        let second = |time: &str| time.get(..19).map(str::to_owned);
        let container = &contents.container;
        assert_eq!(second(text(said, "created")), second(&container.created));
        let checkpointed = said["checkpointed"].as_str().and_then(second);
        assert_eq!(checkpointed, second(&container.checkpointed), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn mounts_namespaces_and_host_names_are_those_of_the_images() {
    let contents = contents_of(&real_tar("podman-python-1"), Look::default());
    assert_eq!(contents.hosts, ["75eb00508865"]);
    assert_eq!(contents.container.host, "75eb00508865");
    let process = &contents.processes[0];
    assert_eq!(process.executable.as_deref(), Some("/usr/bin/python3.13"));
    let own: Vec<_> = process
        .namespaces
        .iter()
        .filter(|namespace| !contents.outside.contains(namespace))
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(own, ["pid", "net", "ipc", "uts", "mnt", "cgroup"]);
    let masked = contents
        .mounts
        .iter()
        .find(|m| m.path.ends_with("/proc/interrupts"));
    let masked = masked.unwrap();
    assert_eq!(masked.external.as_deref(), Some("/dev/null"));
    assert_eq!(masked.source, "tmpfs");
    assert_eq!(contents.tcp_connections(), 0);
    assert!(!contents.cut && !contents.gpu && contents.plugins.is_empty());
}

fn message(fields: &[(u64, u64)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, value) in fields {
        field(&mut out, *number, *value);
    }
    out
}

const BASE: u64 = 0x7000_0000;

/// One process whose command line and environment lie at these places in two pages, and which has these files open.
fn archive(
    arguments: (u64, u64),
    environment: (u64, u64),
    files: &[(u64, u64, Vec<u8>)],
) -> Vec<u8> {
    let mut pages = noise(2 * 4096, 3);
    let words = b"redis-server\0--port\0\x36379\0\0\0";
    // Across the border of the pages.
    pages[4096 - 10..4096 - 10 + words.len()].copy_from_slice(words);
    pages[5000..5033].copy_from_slice(b"PATH=/usr/bin\0SECRET=hush=x\0EMPTY");
    let mm = message(&[
        (8, arguments.0),
        (9, arguments.1),
        (10, environment.0),
        (11, environment.1),
    ]);
    let mut descriptors = Vec::new();
    let mut opened = Vec::new();
    for (n, (kind, number, body)) in files.iter().enumerate() {
        let id = n as u64 + 1;
        descriptors.push(message(&[(1, id), (2, 0), (3, *kind), (4, n as u64 + 3)]));
        let mut entry = message(&[(1, *kind), (2, id)]);
        bytes_field(&mut entry, *number, body);
        opened.push(entry);
    }
    TarBuilder::new()
        .file("checkpoint/inventory.img", &inventory(2))
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .file("checkpoint/mm-1.img", &image(&[COMMON, MM], &[mm]))
        .file(
            "checkpoint/ids-1.img",
            &image(&[COMMON, IDS], &[message(&[(1, 1), (2, 4)])]),
        )
        .file(
            "checkpoint/fdinfo-4.img",
            &image(&[COMMON, FDINFO], &descriptors),
        )
        .file("checkpoint/files.img", &image(&[COMMON, FILES], &opened))
        .file(
            "checkpoint/pagemap-1.img",
            &pagemap(1, &[(BASE, 2, 4)], Count::New),
        )
        .file("checkpoint/pages-1.img", &pages)
        .end()
}

#[test]
fn command_lines_and_environments_are_read_from_memory_also_across_pages() {
    let start = BASE + 4096 - 10;
    let tar = archive((start, start + 27), (BASE + 5000, BASE + 5033), &[]);
    let contents = contents_of(&tar, Look { environment: true });
    let process = &contents.processes[0];
    assert_eq!(process.command, ["redis-server", "--port", "6379"]);
    let environment: Vec<_> = process
        .environment
        .iter()
        .map(|(n, v)| (&**n, &**v))
        .collect();
    assert_eq!(
        environment,
        [("PATH", "/usr/bin"), ("SECRET", "hush=x"), ("EMPTY", "")]
    );
    assert_eq!(
        contents_of(&tar, Look::default()).processes[0].environment,
        []
    );
}

#[test]
fn places_outside_of_memory_give_no_words_and_no_harm() {
    for (start, end) in [
        (0, 10),
        (BASE + 8190, BASE + 8200),
        (BASE - 4, BASE + 4),
        (BASE + 10, BASE),
        (u64::MAX - 1, u64::MAX),
        (0, u64::MAX),
        (BASE, u64::MAX),
    ] {
        let tar = archive((start, end), (start, end), &[]);
        let contents = contents_of(&tar, Look { environment: true });
        assert_eq!(
            contents.processes[0].command, [""; 0],
            "{start:x} to {end:x}"
        );
        assert_eq!(contents.processes[0].environment, []);
    }
}

#[test]
fn sockets_are_told_with_their_addresses_and_a_connection_is_counted_once() {
    let inet = |state: u64, family: u64, ports: (u64, u64), words: &[u32]| {
        let mut body = message(&[
            (3, family),
            (4, 1),
            (5, 6),
            (6, state),
            (7, ports.0),
            (8, ports.1),
        ]);
        for word in words {
            field(&mut body, 11, u64::from(*word));
        }
        for word in words {
            field(&mut body, 12, u64::from(*word));
        }
        body
    };
    let local = u32::from_le_bytes([127, 0, 0, 1]);
    let mut unix = message(&[(2, 77), (3, 1), (4, 10), (8, 0)]);
    bytes_field(&mut unix, 11, b"\0abstract");
    let files = [
        (4, 4, inet(1, 2, (6379, 40000), &[local])),
        (4, 4, inet(10, 10, (8080, 0), &[0, 0, 0, 0])),
        (5, 16, unix),
        // Two words are no address.
        (4, 4, inet(1, 2, (1, 2), &[local, local])),
    ];
    let contents = contents_of(&archive((0, 0), (0, 0), &files), Look::default());
    let open = &contents.processes[0].open;
    let inet = |n: usize| match open[n].kind.as_ref().unwrap() {
        FileKind::Inet(socket) => socket.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(inet(0).local.unwrap().to_string(), "127.0.0.1:6379");
    assert_eq!(inet(0).remote.unwrap().to_string(), "127.0.0.1:40000");
    assert_eq!(inet(1).local.unwrap().to_string(), "[::]:8080");
    assert_eq!(inet(1).remote, None);
    assert!(inet(0).is_tcp_connection() && !inet(1).is_tcp_connection());
    assert_eq!((inet(3).local, inet(3).remote), (None, None));
    let Some(FileKind::Unix(unix)) = &open[2].kind else {
        panic!("{:?}", open[2]);
    };
    assert_eq!(unix.name, b"\0abstract");
    assert_eq!(contents.tcp_connections(), 2);
}

#[test]
fn memory_is_given_only_where_all_of_it_is_there() {
    let place = Place::new();
    let tar = archive((0, 0), (0, 0), &[]);
    let snapshot = place.import_bytes("a.tar", &tar).unwrap().snapshot;
    let repo = place.open();
    let reader = CheckpointReader::open(&repo, &snapshot).unwrap();
    let of = MapOf::Process(1);
    let pages = reader.memory(of, BASE, 8192).unwrap().unwrap();
    for (from, len) in [(0, 1), (4090, 12), (4096, 4096), (8191, 1), (100, 0)] {
        let part = reader.memory(of, BASE + from as u64, len).unwrap();
        assert_eq!(part.unwrap(), pages[from..from + len]);
    }
    for (address, len) in [(BASE + 8191, 2), (BASE - 1, 2), (u64::MAX, 1)] {
        assert_eq!(reader.memory(of, address, len).unwrap(), None);
    }
    assert_eq!(reader.memory(MapOf::Process(2), BASE, 1).unwrap(), None);
}
