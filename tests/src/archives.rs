//! Archives for tests: real ones from `tests/data`, and made ones with CRIU images of any shape.

use std::path::PathBuf;

/// A real archive of `tests/data`.
#[derive(Debug, Clone)]
pub struct Real {
    /// Its name.
    pub name: String,
    /// The file, if it is an archive as it stands (compressed).
    pub file: Option<PathBuf>,
    /// The tar.
    pub tar: Vec<u8>,
}

/// All real archives: those of `tests/data`, and every `*.tar.zst` and `*.tar.gz` in the directory that `CRYOSTORE_FIXTURES` names.
#[must_use]
pub fn real() -> Vec<Real> {
    let manifest = std::fs::read_to_string(data().join("MANIFEST.tsv")).unwrap();
    let names = manifest
        .lines()
        .skip(1)
        .map(|line| line.split('\t').next().unwrap());
    let mut out: Vec<Real> = names.map(real_archive).collect();
    assert!(out.len() >= 16, "the real archives are missing");
    if let Some(more) = std::env::var_os("CRYOSTORE_FIXTURES") {
        let mut paths: Vec<_> = std::fs::read_dir(more)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let bytes = std::fs::read(&path).unwrap();
            if name.ends_with(".tar.zst") {
                out.push(Real {
                    name,
                    file: Some(path),
                    tar: zstd::decode_all(&bytes[..]).unwrap(),
                });
            }
        }
    }
    out
}

/// The tar of a real archive.
#[must_use]
pub fn real_tar(name: &str) -> Vec<u8> {
    real_archive(name).tar
}

/// The folder `tests` beside the package that Cargo runs. What this was compiled with may be another checkout that
/// shares the target folder.
#[must_use]
pub fn package() -> PathBuf {
    let running = std::env::var_os("CARGO_MANIFEST_DIR");
    let running = running.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    running.join("../tests")
}

fn data() -> PathBuf {
    package().join("data")
}

fn real_archive(name: &str) -> Real {
    let manifest = std::fs::read_to_string(data().join("MANIFEST.tsv")).unwrap();
    let line = manifest
        .lines()
        .find(|line| line.split('\t').next() == Some(name))
        .unwrap();
    let [_, stored, files, base, ..] = line.split('\t').collect::<Vec<_>>()[..] else {
        panic!("{line}")
    };
    let paths: Vec<PathBuf> = files.split(',').map(|file| data().join(file)).collect();
    let bytes: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    let tar = match stored {
        "zstd-patch" => {
            let base = real_archive(base).tar;
            let mut decoder =
                zstd::stream::read::Decoder::with_ref_prefix(&bytes[0][..], &base).unwrap();
            decoder.window_log_max(27).unwrap();
            let mut out = Vec::new();
            std::io::Read::read_to_end(&mut decoder, &mut out).unwrap();
            out
        }
        _ if files.ends_with(".gz") => {
            let mut out = Vec::new();
            std::io::Read::read_to_end(
                &mut flate2::read::MultiGzDecoder::new(&bytes[0][..]),
                &mut out,
            )
            .unwrap();
            out
        }
        _ => bytes
            .iter()
            .flat_map(|part| zstd::decode_all(&part[..]).unwrap())
            .collect(),
    };
    let whole = matches!(stored, "zstd" | "as-is");
    Real {
        name: name.to_owned(),
        file: whole.then(|| paths[0].clone()),
        tar,
    }
}

/// Makes a tar in the way of Go's encoder.
#[derive(Debug, Default, Clone)]
pub struct TarBuilder(Vec<u8>);

impl TarBuilder {
    /// An empty tar.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header and nothing else; `len` is what it says.
    #[must_use]
    pub fn header(mut self, name: &[u8], len: u64, flag: u8, link: &[u8]) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name);
        block[100..108].copy_from_slice(b"0000600\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
        block[136..148].copy_from_slice(b"15000000000\0");
        block[148..156].fill(b' ');
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, name: &str, body: &[u8]) -> Self {
        let mut out = self.header(name.as_bytes(), body.len() as u64, b'0', b"");
        out.0.extend_from_slice(body);
        out.0.resize(out.0.len().next_multiple_of(512), 0);
        out
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The tar with its end.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// The tar without an end.
    #[must_use]
    pub fn unended(self) -> Vec<u8> {
        self.0
    }
}

/// A protobuf field of bytes.
pub fn bytes_field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    for mut value in [number << 3 | 2, bytes.len() as u64] {
        while value >= 0x80 {
            out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    out.extend_from_slice(bytes);
}

/// A protobuf varint field.
pub fn field(out: &mut Vec<u8>, number: u64, mut value: u64) {
    for mut v in [number << 3, 0] {
        if v == 0 {
            v = value;
            value = 0;
        }
        while v >= 0x80 {
            out.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    }
}

/// A CRIU image: magics and messages with their lengths.
#[must_use]
pub fn image(magics: &[u32], messages: &[Vec<u8>]) -> Vec<u8> {
    let mut out: Vec<u8> = magics
        .iter()
        .flat_map(|magic| magic.to_le_bytes())
        .collect();
    for message in messages {
        out.extend_from_slice(&(message.len() as u32).to_le_bytes());
        out.extend_from_slice(message);
    }
    out
}

/// In front of most images.
pub const COMMON: u32 = 0x5456_4319;
const PAGEMAP: u32 = 0x5608_4025;

/// How a page map counts its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Up to CRIU 4.1: field 2.
    Old,
    /// From 4.2 on: field 5.
    New,
}

/// A page map image: address, pages, flags (1 in the parent, 2 lazy, 4 present).
#[must_use]
pub fn pagemap(pages_id: u64, entries: &[(u64, u64, u64)], count: Count) -> Vec<u8> {
    let mut messages = vec![Vec::new()];
    field(&mut messages[0], 1, pages_id);
    for (address, pages, flags) in entries {
        let mut message = Vec::new();
        field(&mut message, 1, *address);
        field(
            &mut message,
            2,
            if count == Count::Old { *pages } else { 0 },
        );
        field(&mut message, 4, *flags);
        if count == Count::New {
            field(&mut message, 5, *pages);
        }
        messages.push(message);
    }
    image(&[COMMON, PAGEMAP], &messages)
}

/// `inventory.img` with an `img_version`.
#[must_use]
pub fn inventory(version: u64) -> Vec<u8> {
    let mut message = Vec::new();
    field(&mut message, 1, version);
    image(&[0x5831_3116], &[message])
}

/// `pstree.img` with these processes.
#[must_use]
pub fn pstree(pids: &[u64]) -> Vec<u8> {
    let messages: Vec<Vec<u8>> = pids
        .iter()
        .map(|pid| {
            let mut message = Vec::new();
            for (number, value) in [(1, *pid), (2, 0), (3, *pid), (4, *pid), (5, *pid)] {
                field(&mut message, number, value);
            }
            message
        })
        .collect();
    image(&[COMMON, 0x5027_3030], &messages)
}

/// Bytes that do not compress, always the same for one seed.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A checkpoint of one process (pid 1) with these pages from address 0x10000 on.
#[must_use]
pub fn checkpoint(pages: &[u8], page_size: u64) -> Vec<u8> {
    checkpoint_of("work", pages, page_size)
}

/// The same of a container with this name.
#[must_use]
pub fn checkpoint_of(container: &str, pages: &[u8], page_size: u64) -> Vec<u8> {
    let count = pages.len() as u64 / page_size;
    TarBuilder::new()
        .file(
            "config.dump",
            format!(r#"{{"id":"abc","name":"{container}","runtime":"runc"}}"#).as_bytes(),
        )
        .file("checkpoint/inventory.img", &inventory(2))
        .file(
            "checkpoint/pagemap-1.img",
            &pagemap(1, &[(0x10000 * page_size, count, 4)], Count::New),
        )
        .file("checkpoint/pages-1.img", pages)
        .file("checkpoint/pstree.img", &pstree(&[1]))
        .end()
}
