//! Owns the demo's own dump: stop the workload, look at its memory, stream it into the archive, let it run on.
//!
//! Always: the process is stopped from the first look at its pages until the last was read, so the pagemap and the page image
//! agree; it runs on afterwards, also after an error. Memory in use is one buffer and the list of page runs.
//! Never: dumps shared or unchanged file pages, registers or open files; the result is real memory, not a restorable process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::images::{self, DumpFigures, PAGES_ID, Task};
use super::procfs::{AT_PAGESZ, Pages, Process};
use super::tar::TarWriter;

/// 1 MiB: few calls per page, and nothing beside the memory of the workload.
const BUFFER_LEN: usize = 1 << 20;
/// A stop takes microseconds; a process that waits for a broken disk may never stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
const STOP_POLL: Duration = Duration::from_micros(200);

/// What one dump put into the archive.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) stats: Vec<u8>,
    pub(crate) page_bytes: u64,
    pub(crate) frozen: Duration,
}

/// Dumps process `pid` as the `checkpoint/` folder of the archive.
pub(crate) fn dump<W: Write>(pid: u32, tar: &mut TarWriter<W>) -> Result<Dump> {
    let asked = Instant::now();
    let stopped = Stopped::new(pid)?;
    let since = Instant::now();
    let mut figures = DumpFigures {
        freezing_us: micros(since - asked),
        ..DumpFigures::default()
    };
    let page_bytes = write_folder(pid, tar, &mut figures)?;
    drop(stopped);
    let frozen = since.elapsed();
    figures.frozen_us = micros(frozen);
    Ok(Dump {
        stats: images::stats(&figures),
        page_bytes,
        frozen,
    })
}

fn write_folder<W: Write>(
    pid: u32,
    tar: &mut TarWriter<W>,
    figures: &mut DumpFigures,
) -> Result<u64> {
    let process = Process::new(pid);
    let memory = process.memory()?;
    let auxv = process.auxv()?;
    let page_size = page_size(&auxv)?;
    let ranges = process.ranges()?;
    let (pages, scanned) = process.pages_to_dump(&ranges, page_size)?;
    figures.pages_scanned = scanned;
    figures.pages_written = pages.iter().map(|run| run.count).sum();
    let page_bytes = figures.pages_written * page_size;

    let task = Task {
        pid,
        stat: process.stat()?,
        ranges,
        auxv,
        pages,
    };
    // None is the page image. A map, because containerd's archives are in lexical order.
    let mut members: BTreeMap<String, Option<Vec<u8>>> = task
        .images()
        .into_iter()
        .map(|(name, bytes)| (name, Some(bytes)))
        .collect();
    members.insert("descriptors.json".to_owned(), Some(descriptors(pid)));
    members.insert(format!("pages-{PAGES_ID}.img"), None);

    tar.directory("checkpoint/", 0o700)?;
    for (name, content) in members {
        let name = format!("checkpoint/{name}");
        match content {
            Some(bytes) => tar.file(&name, 0o644, &bytes)?,
            None => {
                let mut member = tar.member(&name, 0o644, page_bytes)?;
                copy_pages(&memory, &task.pages, page_size, &mut member, figures)?;
                member.finish()?;
            }
        }
    }
    Ok(page_bytes)
}

fn copy_pages(
    memory: &File,
    pages: &[Pages],
    page_size: u64,
    out: &mut impl Write,
    figures: &mut DumpFigures,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER_LEN];
    let (mut reading, mut writing) = (Duration::ZERO, Duration::ZERO);
    for run in pages {
        let end = run.start + run.count * page_size;
        let mut at = run.start;
        while at < end {
            let len = (end - at).min(BUFFER_LEN as u64);
            let piece = &mut buffer[..usize::try_from(len)?];
            let begun = Instant::now();
            memory
                .read_exact_at(piece, at)
                .with_context(|| format!("cannot read memory at {at:#x}"))?;
            let read = Instant::now();
            out.write_all(piece)
                .context("cannot write the page image")?;
            reading += read - begun;
            writing += read.elapsed();
            at += len;
        }
    }
    figures.memdump_us = micros(reading);
    figures.memwrite_us = micros(writing);
    Ok(())
}

/// What runc leaves beside the images: where the first three descriptors lead.
fn descriptors(pid: u32) -> Vec<u8> {
    let target = |fd: u32| match fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => "/dev/null".to_owned(),
    };
    let targets: Vec<String> = (0..3).map(target).collect();
    serde_json::json!(targets).to_string().into_bytes()
}

/// The page size of the process, from its own auxiliary vector.
fn page_size(auxv: &[u64]) -> Result<u64> {
    let pairs = auxv.as_chunks::<2>().0;
    let size = pairs
        .iter()
        .find(|[key, _]| *key == AT_PAGESZ)
        .map(|[_, value]| *value);
    let size = size.context("the auxiliary vector names no page size")?;
    ensure!(
        size.is_power_of_two() && (4096..=65536).contains(&size),
        "{size} is no page size"
    );
    Ok(size)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A process that is stopped until this is dropped.
#[derive(Debug)]
struct Stopped {
    pid: Pid,
}

impl Stopped {
    fn new(pid: u32) -> Result<Self> {
        let number = pid;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("0 is no process id")?;
        kill_process(pid, Signal::STOP).context("cannot stop the workload")?;
        // From here on every way out wakes the process.
        let stopped = Self { pid };
        let begun = Instant::now();
        loop {
            match Process::new(number).stat()?.state {
                'T' | 't' => return Ok(stopped),
                'Z' | 'X' => bail!("the workload has ended"),
                state if begun.elapsed() > STOP_WITHIN => {
                    bail!("the workload does not stop (state {state})")
                }
                _ => thread::sleep(STOP_POLL),
            }
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It fails only if the process is gone; the next step then says so.
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Cat(Child);

    impl Cat {
        fn start() -> Self {
            Self(
                Command::new("cat")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .expect("cat is installed"),
            )
        }
    }

    impl Drop for Cat {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_dump_holds_whole_pages_and_the_process_runs_on() {
        let cat = Cat::start();
        let mut tar = TarWriter::new(Vec::new(), 0);
        let dump = dump(cat.0.id(), &mut tar).expect("our own child");
        let bytes = tar.finish().expect("memory");
        assert!(dump.page_bytes > 0 && dump.page_bytes.is_multiple_of(4096));
        assert!(bytes.len() as u64 > dump.page_bytes);
        assert!(bytes.starts_with(b"checkpoint/\0"));
        let state = Process::new(cat.0.id()).stat().expect("it lives").state;
        assert!(!matches!(state, 'T' | 't'), "still stopped");
    }

    #[test]
    fn the_process_runs_on_after_a_full_disk() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let cat = Cat::start();
        assert!(dump(cat.0.id(), &mut TarWriter::new(Full, 0)).is_err());
        let state = Process::new(cat.0.id()).stat().expect("it lives").state;
        assert!(!matches!(state, 'T' | 't'), "still stopped");
    }

    #[test]
    fn the_page_size_comes_from_the_process() {
        assert_eq!(
            page_size(&[3, 1, AT_PAGESZ, 16384, 0, 0]).expect("it is named"),
            16384
        );
        assert!(page_size(&[3, 1, 0, 0]).is_err());
        assert!(page_size(&[AT_PAGESZ, 100]).is_err());
    }
}
