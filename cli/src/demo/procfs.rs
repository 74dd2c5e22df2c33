//! Owns what the demo reads from /proc about one process: its ranges, which pages they hold, its auxv and its stat line.
//!
//! Always: the numbers are the kernel's own, taken while the caller keeps the process stopped; a refused read says which
//! switch to turn.
//! Never: writes, stops or traces a process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Entries of /proc/PID/pagemap read at once: 32 KiB, so that a range of any size is walked in bounded memory.
const ENTRIES_AT_ONCE: usize = 4096;
const ENTRY_LEN: usize = size_of::<u64>();
/// Kernel documentation, admin-guide/mm/pagemap.rst.
const PAGE_PRESENT: u64 = 1 << 63;
const PAGE_SWAPPED: u64 = 1 << 62;
const PAGE_FILE_OR_SHARED: u64 = 1 << 61;
/// Auxiliary vector key of the page size (elf.h).
pub(crate) const AT_PAGESZ: u64 = 6;

/// One line of /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    pub(crate) shared: bool,
    pub(crate) file_offset: u64,
    pub(crate) inode: u64,
    /// A path, a name like `[heap]`, or empty.
    pub(crate) name: String,
}

/// A run of pages that a dump has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pages {
    pub(crate) start: u64,
    pub(crate) count: u64,
    /// Private anonymous memory, which CRIU marks as restorable on demand.
    pub(crate) lazy: bool,
}

/// The numbers of /proc/PID/stat that CRIU keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) process_group: u64,
    pub(crate) session: u64,
    pub(crate) flags: u64,
    pub(crate) start_time: u64,
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_stack: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
}

/// The /proc folder of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process {
    pid: u32,
}

impl Process {
    /// Names a process; nothing is read yet.
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Its memory, to be read at its own addresses.
    pub(crate) fn memory(self) -> Result<File> {
        let path = self.path("mem");
        File::open(&path).map_err(|error| self.refused(error, "mem"))
    }

    /// Its mapped ranges in ascending order.
    pub(crate) fn ranges(self) -> Result<Vec<Range>> {
        let text = String::from_utf8_lossy(&self.read("maps")?).into_owned();
        text.lines()
            .map(|line| {
                parse_range(line).with_context(|| format!("cannot read the maps line {line:?}"))
            })
            .collect()
    }

    /// Its numbers from the stat line.
    pub(crate) fn stat(self) -> Result<Stat> {
        let text = String::from_utf8_lossy(&self.read("stat")?).into_owned();
        parse_stat(&text).with_context(|| format!("cannot read the stat line {text:?}"))
    }

    /// Its auxiliary vector up to and including AT_NULL: key, value, key, value.
    pub(crate) fn auxv(self) -> Result<Vec<u64>> {
        Ok(self
            .read("auxv")?
            .as_chunks::<ENTRY_LEN>()
            .0
            .iter()
            .map(|entry| kernel_u64(*entry))
            .collect())
    }

    /// Its arguments.
    pub(crate) fn arguments(self) -> Result<Vec<String>> {
        let bytes = self.read("cmdline")?;
        let arguments = bytes
            .split(|&byte| byte == 0)
            .filter(|argument| !argument.is_empty());
        Ok(arguments
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect())
    }

    /// The pages of `ranges` that a dump has to hold, and how many pages were looked at.
    pub(crate) fn pages_to_dump(
        self,
        ranges: &[Range],
        page_size: u64,
    ) -> Result<(Vec<Pages>, u64)> {
        let pagemap =
            File::open(self.path("pagemap")).map_err(|error| self.refused(error, "pagemap"))?;
        let mut found = Vec::new();
        let mut scanned = 0;
        let mut buffer = vec![0; ENTRIES_AT_ONCE * ENTRY_LEN];
        for range in ranges.iter().filter(|range| range.may_hold_pages()) {
            let mut address = range.start;
            while address < range.end {
                let here = ((range.end - address) / page_size).min(ENTRIES_AT_ONCE as u64);
                let bytes = &mut buffer[..usize::try_from(here)? * ENTRY_LEN];
                let at = address / page_size * ENTRY_LEN as u64;
                pagemap
                    .read_exact_at(bytes, at)
                    .map_err(|error| self.refused(error, "pagemap"))?;
                for entry in bytes.as_chunks::<ENTRY_LEN>().0 {
                    if range.is_dumped(kernel_u64(*entry)) {
                        push_page(
                            &mut found,
                            Pages {
                                start: address,
                                count: 1,
                                lazy: range.is_lazy(),
                            },
                            page_size,
                        );
                    }
                    address += page_size;
                }
                scanned += here;
            }
        }
        Ok((found, scanned))
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    fn read(self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).map_err(|error| self.refused(error, name))
    }

    fn refused(self, error: io::Error, name: &str) -> anyhow::Error {
        let path = self.path(name);
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                ": the kernel does not let this user read its own child's memory; \
                 try `sysctl kernel.yama.ptrace_scope=1` or run the demo as root"
            }
            io::ErrorKind::NotFound => ": the process has ended, or /proc is not mounted",
            _ => "",
        };
        anyhow::Error::new(error).context(format!("cannot read {}{hint}", path.display()))
    }
}

impl Range {
    /// True for the code page the kernel lends to every process. Its pages are dumped whatever the pagemap says.
    pub(crate) fn is_vdso(&self) -> bool {
        self.name == "[vdso]"
    }

    /// True for the kernel's clock pages, which no dump holds.
    pub(crate) fn is_vvar(&self) -> bool {
        self.name.starts_with("[vvar")
    }

    /// True for the fixed page at the end of the address space.
    pub(crate) fn is_vsyscall(&self) -> bool {
        self.name == "[vsyscall]"
    }

    /// True for a range that shows a file.
    pub(crate) fn is_file(&self) -> bool {
        self.inode != 0 && self.name.starts_with('/')
    }

    /// A range without read permission is passed over, where CRIU would look: the workload has none with content.
    fn may_hold_pages(&self) -> bool {
        self.readable && !self.shared && !self.is_vvar() && !self.is_vsyscall()
    }

    fn is_lazy(&self) -> bool {
        !self.is_file() && !self.is_vdso()
    }

    /// CRIU's rule for private memory, except that an ordinary user cannot see which pages are the shared zero page.
    fn is_dumped(&self, entry: u64) -> bool {
        let held = entry & (PAGE_PRESENT | PAGE_SWAPPED) != 0;
        self.is_vdso() || held && entry & PAGE_FILE_OR_SHARED == 0
    }
}

fn push_page(found: &mut Vec<Pages>, page: Pages, page_size: u64) {
    match found.last_mut() {
        Some(last)
            if last.lazy == page.lazy && last.start + last.count * page_size == page.start =>
        {
            last.count += 1
        }
        _ => found.push(page),
    }
}

#[expect(
    clippy::host_endian_bytes,
    reason = "pagemap and auxv are in the byte order of the running kernel"
)]
fn kernel_u64(bytes: [u8; ENTRY_LEN]) -> u64 {
    u64::from_ne_bytes(bytes)
}

fn parse_range(line: &str) -> Result<Range> {
    let mut fields = line.splitn(6, ' ');
    let mut next = || fields.next().context("a field is missing");
    let (start, end) = next()?.split_once('-').context("no address range")?;
    let flags = next()?.as_bytes();
    let &[read, write, execute, sharing] = flags else {
        bail!("four permissions expected")
    };
    let file_offset = u64::from_str_radix(next()?, 16)?;
    let _device = next()?;
    let inode = next()?.parse()?;
    Ok(Range {
        start: u64::from_str_radix(start, 16)?,
        end: u64::from_str_radix(end, 16)?,
        readable: read == b'r',
        writable: write == b'w',
        executable: execute == b'x',
        shared: sharing == b's',
        file_offset,
        inode,
        name: fields.next().unwrap_or_default().trim_start().to_owned(),
    })
}

/// The name stands in parentheses and may itself hold any character; the numbers follow the last one.
fn parse_stat(text: &str) -> Result<Stat> {
    let (_, rest) = text.split_once('(').context("no name")?;
    let (comm, rest) = rest.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // proc(5) counts from 1, and the state is field 3.
    let field = |number: usize| {
        fields
            .get(number - 3)
            .copied()
            .with_context(|| format!("no field {number}"))
    };
    let number =
        |at: usize| -> Result<u64> { field(at)?.parse().with_context(|| format!("field {at}")) };
    Ok(Stat {
        comm: comm.to_owned(),
        state: field(3)?.chars().next().context("no state")?,
        process_group: number(5)?,
        session: number(6)?,
        flags: number(9)?,
        start_time: number(22)?,
        start_code: number(26)?,
        end_code: number(27)?,
        start_stack: number(28)?,
        start_data: number(45)?,
        end_data: number(46)?,
        start_brk: number(47)?,
        arg_start: number(48)?,
        arg_end: number(49)?,
        env_start: number(50)?,
        env_end: number(51)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maps_line_with_blanks_in_its_path_is_read_whole() {
        let range = parse_range(
            "7f00-9000 r-xp 00001000 fe:01 77                         /tmp/a b (deleted)",
        )
        .expect("valid");
        assert_eq!(
            (range.start, range.end, range.file_offset, range.inode),
            (0x7f00, 0x9000, 0x1000, 77)
        );
        assert!(
            range.readable
                && range.executable
                && !range.writable
                && !range.shared
                && range.is_file()
        );
        assert_eq!(range.name, "/tmp/a b (deleted)");
        assert_eq!(
            parse_range("10-20 rw-p 00000000 00:00 0 ")
                .expect("valid")
                .name,
            ""
        );
        assert!(parse_range("10-20 rw-").is_err());
    }

    #[test]
    fn a_stat_line_is_read_even_if_the_name_holds_parentheses() {
        let numbers: Vec<String> = (4..=52).map(|number| number.to_string()).collect();
        let stat = parse_stat(&format!("9 (a) b)) T {}", numbers.join(" "))).expect("valid");
        assert_eq!((stat.comm.as_str(), stat.state), ("a) b)", 'T'));
        assert_eq!(
            (stat.process_group, stat.start_brk, stat.env_end),
            (5, 47, 51)
        );
    }

    #[test]
    fn neighbouring_pages_of_one_kind_become_one_run() {
        let mut found = Vec::new();
        for (start, lazy) in [
            (0x1000, true),
            (0x2000, true),
            (0x3000, false),
            (0x5000, false),
        ] {
            push_page(
                &mut found,
                Pages {
                    start,
                    count: 1,
                    lazy,
                },
                0x1000,
            );
        }
        let runs: Vec<_> = found.iter().map(|run| (run.start, run.count)).collect();
        assert_eq!(runs, [(0x1000, 2), (0x3000, 1), (0x5000, 1)]);
    }

    #[test]
    fn only_private_pages_with_content_of_their_own_are_dumped() {
        let range = parse_range("1000-2000 rw-p 0 00:00 0").expect("valid");
        assert!(range.is_dumped(PAGE_PRESENT) && range.is_dumped(PAGE_SWAPPED));
        assert!(!range.is_dumped(0) && !range.is_dumped(PAGE_PRESENT | PAGE_FILE_OR_SHARED));
        let vdso = Range {
            name: "[vdso]".into(),
            ..range
        };
        assert!(vdso.is_dumped(PAGE_PRESENT | PAGE_FILE_OR_SHARED));
    }
}
