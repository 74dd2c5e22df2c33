//! Do time, memory, size of the store and of what comes back stay the same for a thousand checkpoints?
//!
//! `cargo bench --workspace --bench long_run -- --checkpoints 1000 --heap-mib 256 --retain 20 --out DIR`. Without `--checkpoints`, as under `make bench`, a short
//! run shows that it works, and nothing is kept.
//!
//! The heap is here; the engine is in a process of its own, which lives as long as the run: what grows there is the engine's. Each import is told to it
//! by a line, and each answer is a row of the table.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking and prints what it found; sizes are below 2^52"
)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use cryostore_benches::pages::{Heap, PAGE};
use cryostore_benches::plot::{Chart, Series, svg};
use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Output, Silent, export, gc};
use cryostore_tests::Place;
use cryostore_tests::archives::checkpoint;

/// Pages that change a little, and that are replaced wholly, between two checkpoints.
const CHANGED: f64 = 2.0;
const REPLACED: f64 = 0.2;
/// Checkpoints between two collections.
const COLLECT_EVERY: usize = 10;
/// Checkpoints between two exports; fewer in a short run, so that there are some twenty.
const EXPORT_EVERY: usize = 50;
const HEAD: &str = "checkpoint\timport_s\tadded_mb\trss_mib\tpeak_mib\tstore_mb\tcache_mb\tmanifest_kb\tpacks\tneeded\tcollect_s\texport_s";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, archive, retain] = &args[..]
        && first == "--engine"
    {
        engine(Path::new(archive), retain.parse().unwrap());
        return;
    }
    // A filter for other benchmarks.
    if args
        .first()
        .is_some_and(|arg| !arg.starts_with("--") && !"long_run".contains(arg.as_str()))
    {
        return;
    }
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        Some(
            args.get(at + 1)
                .unwrap_or_else(|| panic!("{name} needs a value")),
        )
    };
    let count = |name: &str| value(name).map(|text| text.parse::<usize>().unwrap());
    let checkpoints = count("--checkpoints");
    let out = value("--out").map(PathBuf::from);
    let run = Run {
        checkpoints: checkpoints.unwrap_or(12),
        heap_mib: count("--heap-mib").unwrap_or(if checkpoints.is_some() { 256 } else { 8 }),
        retain: count("--retain").unwrap_or(if checkpoints.is_some() { 20 } else { 4 }),
    };
    run.run(out.as_deref());
}

struct Run {
    checkpoints: usize,
    heap_mib: usize,
    retain: usize,
}

/// The process with the engine.
struct Engine {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Engine {
    fn start(archive: &Path, retain: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("--engine")
            .arg(archive)
            .arg(retain.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            ask,
            answers,
        }
    }

    fn ask(&mut self, what: &str) -> String {
        writeln!(self.ask, "{what}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the engine's process has ended");
        line.trim_end_matches('\n').to_owned()
    }
}

impl Run {
    fn run(&self, out: Option<&Path>) {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("checkpoint.tar");
        let mut heap = Heap::new(self.heap_mib * (1 << 20) / PAGE, 1);
        let tar = checkpoint(heap.bytes(), PAGE as u64);
        // Only what changed is written again: the pages lie in the tar as they lie in the heap.
        let first_page = heap.page(0);
        let starts = (0..tar.len() - heap.bytes().len()).step_by(512);
        let pages_at = starts
            .rev()
            .find(|at| &tar[*at..at + PAGE] == first_page)
            .unwrap();
        std::fs::write(&archive, tar).unwrap();
        let file = File::options().write(true).open(&archive).unwrap();

        let mut engine = Engine::start(&archive, self.retain);
        let mut table = format!("{HEAD}\n");
        let export_every = (self.checkpoints / 20).clamp(1, EXPORT_EVERY);
        let mut rows = Vec::new();
        println!("{HEAD}");
        for n in 1..=self.checkpoints {
            if n > 1 {
                let seed = n as u64;
                let changed = heap.step(seed, CHANGED);
                let replaced = heap.replace(seed, REPLACED);
                for page in changed.iter().chain(&replaced) {
                    let at = pages_at + page * PAGE;
                    file.write_all_at(heap.page(*page), at as u64).unwrap();
                }
            }
            let mut what = vec!["import"];
            if n % COLLECT_EVERY == 0 {
                what.push("collect");
            }
            if n == 1 || n == self.checkpoints || n % export_every == 0 {
                what.push("export");
            }
            let row = format!("{n}\t{}", engine.ask(&what.join(" ")));
            println!("{row}");
            rows.push(row.split('\t').map(|cell| cell.parse().ok()).collect());
            table.push_str(&row);
            table.push('\n');
        }
        println!("{}", engine.ask("compare"));
        drop(engine.ask);
        assert!(engine.child.wait().unwrap().success());
        if let Some(out) = out {
            std::fs::create_dir_all(out).unwrap();
            std::fs::write(out.join("long-run.tsv"), table).unwrap();
            std::fs::write(out.join("long-run.svg"), self.plot(&rows)).unwrap();
        }
    }

    fn plot(&self, rows: &[Vec<Option<f64>>]) -> String {
        let column = |name: &str| HEAD.split('\t').position(|head| head == name).unwrap();
        let chart = |title: &str, columns: &[(&str, &str)]| Chart {
            title: title.to_owned(),
            x: "checkpoint".to_owned(),
            log: false,
            series: columns
                .iter()
                .map(|(name, head)| Series {
                    name: (*name).to_owned(),
                    points: rows
                        .iter()
                        .filter_map(|row| Some((row[0]?, row[column(head)]?)))
                        .collect(),
                })
                .collect(),
        };
        let title = format!(
            "{} checkpoints of {} MiB, {CHANGED} % of the pages changed and {REPLACED} % replaced each time, {} kept",
            self.checkpoints, self.heap_mib, self.retain
        );
        svg(
            &title,
            &[
                chart("import, seconds", &[("cryostore", "import_s")]),
                chart("memory after an import, MiB", &[("cryostore", "rss_mib")]),
                chart("store, MB", &[("cryostore", "store_mb")]),
                chart(
                    "export of the newest, seconds",
                    &[("cryostore", "export_s")],
                ),
            ],
        )
    }
}

/// The engine's process: a repository of its own, and one answer for each line that comes in.
fn engine(archive: &Path, retain: usize) {
    let place = Place::new();
    let mut kept: Vec<SnapshotRecord> = Vec::new();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        if line == "compare" {
            println!("{}", compare(&place, &kept, archive));
            continue;
        }
        println!(
            "{}",
            checkpoint_once(&place, &mut kept, archive, retain, &line)
        );
    }
}

fn checkpoint_once(
    place: &Place,
    kept: &mut Vec<SnapshotRecord>,
    archive: &Path,
    retain: usize,
    what: &str,
) -> String {
    let repo = place.open();
    reset_peak();
    let start = Instant::now();
    let imported = place.import(archive).unwrap();
    let import = start.elapsed().as_secs_f64();
    let (rss, peak) = (memory("VmRSS:"), memory("VmHWM:"));
    let snapshot = imported.snapshot;
    let manifest = std::fs::metadata(
        place
            .store_dir()
            .join("manifests")
            .join(snapshot.manifest.id.to_string()),
    );
    let manifest = manifest.unwrap().len() as f64 / 1e3;
    let needed = snapshot.cost.packs_needed.unwrap_or(0);
    let added = snapshot.cost.bytes_added as f64 / 1e6;
    kept.push(snapshot);
    let start = Instant::now();
    if kept.len() > retain {
        let old: Vec<SnapshotId> = kept
            .drain(..kept.len() - retain)
            .map(|record| record.id)
            .collect();
        repo.delete(&old, "test").unwrap();
    }
    let mut collect = String::new();
    if what.contains("collect") {
        gc::collect(&repo, &gc::GcOptions::default(), &Silent).unwrap();
        collect = format!("{:.3}", start.elapsed().as_secs_f64());
    }
    let mut back = String::new();
    if what.contains("export") {
        let newest = kept.last().unwrap();
        // The first of two fills the kernel's caches.
        for _ in 0..2 {
            let start = Instant::now();
            export(&repo, newest, Output::Stream(&mut std::io::sink()), &Silent).unwrap();
            back = format!("{:.3}", start.elapsed().as_secs_f64());
        }
    }
    let (store, cache) = (size(&place.store_dir()), size(&place.cache_dir()));
    let packs = place.objects("packs").len();
    format!(
        "{import:.3}\t{added:.3}\t{rss:.1}\t{peak:.1}\t{:.3}\t{:.3}\t{manifest:.1}\t{packs}\t{needed}\t{collect}\t{back}",
        store as f64 / 1e6,
        cache as f64 / 1e6
    )
}

/// The newest must be what lies in the file; the oldest that is kept must come back, too: its digest is looked at on the way.
fn compare(place: &Place, kept: &[SnapshotRecord], archive: &Path) -> String {
    let newest = place.bytes_of(kept.last().unwrap());
    assert!(
        newest == std::fs::read(archive).unwrap(),
        "the newest came back changed"
    );
    for record in kept {
        export(
            &place.open(),
            record,
            Output::Stream(&mut std::io::sink()),
            &Silent,
        )
        .unwrap();
    }
    format!(
        "all {} that are kept came back, the newest compared byte for byte",
        kept.len()
    )
}

/// MiB of a line of `/proc/self/status`; 0 where there is none.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The peak counts from here on.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn size(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                size(&entry.path())
            } else {
                entry.metadata().map_or(0, |found| found.len())
            }
        })
        .sum()
}
