//! Owns the demo's tar writer: ustar headers as Go's archive/tar writes them for containerd and the kubelet.
//!
//! Always: uid and gid are 0 and the user names empty, as in containerd's archives; a member holds exactly the length its
//! header says, or writing fails; the archive ends with two zero blocks and no further padding.
//! Never: holds a member in memory, reads a file system, or writes a name or size that needs a PAX record (both refused).

use std::io::{self, Write};

const BLOCK: usize = 512;
const NAME_LEN: usize = 100;
/// Eleven octal digits: what a ustar size field holds.
const SIZE_LIMIT: u64 = 1 << 33;

/// What a header says about one member.
#[derive(Debug, Clone, Copy)]
struct Header<'a> {
    name: &'a str,
    mode: u64,
    len: u64,
    kind: u8,
}

/// Writes a tar archive member by member.
#[derive(Debug)]
pub(crate) struct TarWriter<W: Write> {
    inner: W,
    mtime: u64,
}

impl<W: Write> TarWriter<W> {
    /// Starts an archive whose members all carry `mtime` (seconds since 1970).
    pub(crate) fn new(inner: W, mtime: u64) -> Self {
        Self { inner, mtime }
    }

    /// Adds a directory; `name` ends in a slash.
    pub(crate) fn directory(&mut self, name: &str, mode: u64) -> io::Result<()> {
        self.header(&Header {
            name,
            mode,
            len: 0,
            kind: b'5',
        })
    }

    /// Adds a file that is already in memory.
    pub(crate) fn file(&mut self, name: &str, mode: u64, content: &[u8]) -> io::Result<()> {
        let mut member = self.member(name, mode, content.len() as u64)?;
        member.write_all(content)?;
        member.finish()
    }

    /// Starts a file of `len` bytes, to be written piece by piece.
    pub(crate) fn member(&mut self, name: &str, mode: u64, len: u64) -> io::Result<Member<'_, W>> {
        self.header(&Header {
            name,
            mode,
            len,
            kind: b'0',
        })?;
        Ok(Member {
            writer: self,
            len,
            left: len,
        })
    }

    /// Ends the archive and hands the underlying writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        self.inner.write_all(&encode(header, self.mtime)?)
    }
}

/// A file of the archive that is being written; `finish` it, or the archive is broken.
#[derive(Debug)]
#[must_use = "an unfinished member leaves the archive broken"]
pub(crate) struct Member<'a, W: Write> {
    writer: &'a mut TarWriter<W>,
    len: u64,
    left: u64,
}

impl<W: Write> Member<'_, W> {
    /// Ends the member with its padding. Fails if fewer bytes came than were promised.
    pub(crate) fn finish(self) -> io::Result<()> {
        if self.left > 0 {
            let got = self.len - self.left;
            return Err(io::Error::other(format!(
                "a tar member of {} bytes got only {got}",
                self.len
            )));
        }
        let padding = (BLOCK as u64 - self.len % BLOCK as u64) % BLOCK as u64;
        io::copy(
            &mut io::Read::take(io::repeat(0), padding),
            &mut self.writer.inner,
        )?;
        Ok(())
    }
}

impl<W: Write> Write for Member<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() as u64 > self.left {
            return Err(io::Error::other(format!(
                "a tar member of {} bytes got more",
                self.len
            )));
        }
        let written = self.writer.inner.write(buf)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.inner.flush()
    }
}

fn encode(header: &Header<'_>, mtime: u64) -> io::Result<[u8; BLOCK]> {
    if header.name.len() > NAME_LEN || !header.name.is_ascii() {
        return Err(io::Error::other(format!(
            "the name {:?} does not fit a ustar header",
            header.name
        )));
    }
    if header.len >= SIZE_LIMIT {
        return Err(io::Error::other(format!(
            "{} bytes do not fit a ustar header",
            header.len
        )));
    }
    let mut block = [0; BLOCK];
    put(&mut block, 0, header.name.as_bytes());
    put(
        &mut block,
        100,
        format!("{:07o}\0", header.mode & 0o7777).as_bytes(),
    );
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    put(&mut block, 124, format!("{:011o}\0", header.len).as_bytes());
    put(
        &mut block,
        136,
        format!("{:011o}\0", mtime.min(SIZE_LIMIT - 1)).as_bytes(),
    );
    put(&mut block, 148, b"        ");
    put(&mut block, 156, &[header.kind]);
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, b"0000000\0");
    put(&mut block, 337, b"0000000\0");
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

fn put(block: &mut [u8; BLOCK], at: usize, value: &[u8]) {
    for (to, from) in block.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_the_checksums_of_a_real_containerd_archive() {
        // The first two headers of fixtures/containerd-busybox-1: same name, mode, size and time.
        let mtime = 0o15_300_035_135;
        let folder = encode(
            &Header {
                name: "checkpoint/",
                mode: 0o700,
                len: 0,
                kind: b'5',
            },
            mtime,
        )
        .expect("a short name");
        assert_eq!(&folder[148..156], b"011354\0 ");
        let header = Header {
            name: "checkpoint/cgroup.img",
            mode: 0o644,
            len: 4393,
            kind: b'0',
        };
        let file = encode(&header, mtime).expect("a short name");
        assert_eq!(&file[148..156], b"013364\0 ");
    }

    #[test]
    fn members_are_padded_to_blocks_and_two_zero_blocks_end_the_archive() {
        let mut tar = TarWriter::new(Vec::new(), 0);
        tar.directory("checkpoint/", 0o700).expect("memory");
        tar.file("a", 0o600, &[7; 513]).expect("memory");
        tar.file("b", 0o600, &[7; 512]).expect("memory");
        tar.file("empty", 0o600, &[]).expect("memory");
        let bytes = tar.finish().expect("memory");
        assert_eq!(bytes.len(), BLOCK * (1 + (1 + 2) + (1 + 1) + 1 + 2));
        assert!(
            bytes[bytes.len() - 2 * BLOCK..]
                .iter()
                .all(|&byte| byte == 0)
        );
    }

    #[test]
    fn a_member_that_gets_too_few_or_too_many_bytes_is_refused() {
        let mut tar = TarWriter::new(Vec::new(), 0);
        let mut short = tar.member("short", 0o600, 3).expect("memory");
        short.write_all(b"ab").expect("within the length");
        assert!(short.finish().is_err());
        let mut long = tar.member("long", 0o600, 3).expect("memory");
        assert!(long.write_all(b"abcd").is_err());
    }

    #[test]
    fn names_and_sizes_beyond_ustar_are_refused() {
        let mut tar = TarWriter::new(io::sink(), 0);
        assert!(tar.file(&"n".repeat(101), 0o600, b"").is_err());
        assert!(tar.member("big", 0o600, SIZE_LIMIT).is_err());
        assert!(tar.member("fits", 0o600, SIZE_LIMIT - 1).is_ok());
    }
}
