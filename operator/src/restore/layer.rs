//! Owns the one layer of a checkpoint's OCI image: the archive as it was, but for what `super::strip` takes out and for the base image's name.
//!
//! Always: goes through the archive once, in pieces of any length; holds a member's headers and, of the four descriptions, the member. What is not
//! changed keeps its bytes, headers too; one that is gets a plain header of our own. The archive's digest is checked by the engine while it flows.
//! Never: follows a name in the archive.

use std::io::{self, Write};

use cryostore_engine::archive::tar::{BLOCK, EntryType, Member, Span, TarReader};
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{Error, Kind, Monitor, Output, Repository, Result, export};
use serde_json::Value;

use super::digest::{Blob, Naming};
use super::strip::{DESCRIPTION_LEN, DESCRIPTIONS, clean};

/// 4 MiB: more headers than the reader accepts for one member; what follows the tar's end is not held.
const HELD_LEN: usize = 4 << 20;

/// What becomes of the archive on its way.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// The name under which the runtime is to fetch the base image, instead of the archive's own.
    pub base: Option<String>,
}

/// A layer that was written.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name: also its diffID, since it is not compressed.
    pub blob: Blob,
    /// What was taken out.
    pub stripped: Vec<String>,
}

/// Writes the layer.
pub fn write_layer(
    repo: &Repository,
    snapshot: &SnapshotRecord,
    changes: &Changes,
    sink: &mut (dyn Write + Send),
    monitor: &dyn Monitor,
) -> Result<Layer> {
    let mut filter = Filter::new(Naming::new(sink), changes);
    let exported = export(repo, snapshot, Output::Stream(&mut filter), monitor);
    // What the filter or the sink says is the cause; the engine only saw that it could not write.
    if let Some(e) = filter.failed.take() {
        return Err(e);
    }
    exported?;
    let (naming, stripped) = filter.finish()?;
    Ok(Layer {
        blob: naming.finish().1,
        stripped,
    })
}

/// Where the filter is.
#[derive(Debug)]
enum At {
    /// In headers, or in a member that goes through.
    Through,
    /// In a description, of which these are the bytes so far.
    Inside(Box<Member>, Vec<u8>),
}

struct Filter<'c, W> {
    out: W,
    changes: &'c Changes,
    reader: TarReader,
    /// Headers that belong to a member that has not begun.
    held: Vec<u8>,
    /// Bytes of padding that are still to come of the last member, and whether it was replaced: then they are passed over.
    padding: (usize, bool),
    at: At,
    stripped: Vec<String>,
    failed: Option<Error>,
}

impl<'c, W: Write> Filter<'c, W> {
    fn new(out: W, changes: &'c Changes) -> Self {
        Self {
            out,
            changes,
            reader: TarReader::new(),
            held: Vec::new(),
            padding: (0, false),
            at: At::Through,
            stripped: Vec::new(),
            failed: None,
        }
    }

    fn finish(mut self) -> Result<(W, Vec<String>)> {
        self.release().map_err(|e| Error::io("the layer", e))?;
        let end = self
            .reader
            .finish()
            .map_err(|e| Error::new(Kind::Invalid, "the archive is no whole tar").because(e))?;
        if !end.complete {
            let zeros = [0; 2 * BLOCK];
            let ended = self.out.write_all(&zeros);
            ended.map_err(|e| Error::io("the layer", e))?;
        }
        self.stripped.sort();
        self.stripped.dedup();
        Ok((self.out, self.stripped))
    }

    /// Keeps an error of ours that a sink had to wrap: its kind and its advice would be lost on the way through the engine.
    fn keep(&mut self, e: io::Error) -> io::Error {
        if !e.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            return e;
        }
        let text = e.to_string();
        let inner = e.into_inner().and_then(|inner| inner.downcast().ok());
        self.failed = inner.map(|inner| *inner);
        io::Error::other(text)
    }

    fn release(&mut self) -> io::Result<()> {
        self.out.write_all(&self.held)?;
        self.held.clear();
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        loop {
            let span = self.reader.next(rest).map_err(|e| {
                io::Error::other(Error::new(Kind::Invalid, "the archive is no tar").because(e))
            })?;
            match span {
                None => return Ok(()),
                Some(Span::Meta(len)) => {
                    let (these, after) = rest.split_at(len);
                    let (left, is_replaced) = self.padding;
                    let (last, next) = these.split_at(left.min(len));
                    self.padding.0 -= last.len();
                    if !is_replaced {
                        self.out.write_all(last)?;
                    }
                    self.held.extend_from_slice(next);
                    if self.held.len() > HELD_LEN {
                        self.release()?;
                    }
                    rest = after;
                }
                Some(Span::Member(member)) => {
                    self.padding = (padding(member.len), false);
                    let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
                    let is_one = DESCRIPTIONS.iter().any(|known| known.as_bytes() == name);
                    if is_one && member.kind == EntryType::File && member.len <= DESCRIPTION_LEN {
                        self.at = At::Inside(member, Vec::new());
                    } else {
                        self.release()?;
                    }
                }
                Some(Span::Data(len)) => {
                    let (these, after) = rest.split_at(len);
                    match &mut self.at {
                        At::Inside(_, body) => body.extend_from_slice(these),
                        At::Through => self.out.write_all(these)?,
                    }
                    rest = after;
                }
                Some(Span::End) => {
                    if let At::Inside(member, body) = std::mem::replace(&mut self.at, At::Through) {
                        self.description(&member, body)?;
                    }
                }
            }
        }
    }

    fn description(&mut self, member: &Member, body: Vec<u8>) -> io::Result<()> {
        let is_config = member.name.ends_with(b"config.dump");
        let new = serde_json::from_slice(&body).ok().and_then(|mut json| {
            let gone = clean(&mut json);
            let mut changed = !gone.is_empty();
            self.stripped.extend(gone);
            if let (true, Some(base)) = (is_config, &self.changes.base)
                && json.get("rootfsImageRef").is_some()
            {
                json["rootfsImageRef"] = Value::from(base.as_str());
                changed = true;
            }
            changed.then(|| json.to_string().into_bytes())
        });
        let Some(new) = new else {
            self.release()?;
            return self.out.write_all(&body);
        };
        self.held.clear();
        self.padding.1 = true;
        self.out.write_all(&header(member, new.len()))?;
        self.out.write_all(&new)?;
        self.out.write_all(&[0; BLOCK][..padding(new.len() as u64)])
    }
}

/// Bytes that fill a member's last block.
fn padding(len: u64) -> usize {
    let over = usize::try_from(len % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// A ustar header (POSIX.1-1988) of a regular file of root's.
fn header(member: &Member, len: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    // One of the four names.
    put(0, &member.name);
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{len:011o}\0").as_bytes());
    // Eleven octal digits: until the year 2242.
    let mtime = u64::try_from(member.mtime)
        .unwrap_or(0)
        .min(0o77_777_777_777);
    put(136, format!("{mtime:011o}\0").as_bytes());
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

impl<W: Write> Write for Filter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.take(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(e) => Err(self.keep(e)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &[u8], body: &[u8]) -> Vec<u8> {
        let described = Member {
            name: name.to_vec(),
            link: Vec::new(),
            kind: EntryType::File,
            len: body.len() as u64,
            mode: 0o600,
            mtime: 7,
            offset: 0,
        };
        let mut out = header(&described, body.len()).to_vec();
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn tar(members: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out: Vec<u8> = members
            .iter()
            .flat_map(|(name, body)| member(name, body))
            .collect();
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    fn filtered(tar: &[u8], piece: usize, changes: &Changes) -> (Vec<u8>, Vec<String>) {
        let mut filter = Filter::new(Vec::new(), changes);
        tar.chunks(piece)
            .for_each(|bytes| filter.write_all(bytes).unwrap());
        filter.finish().unwrap()
    }

    #[test]
    fn an_archive_without_anything_dangerous_keeps_every_byte() {
        let mut tar = tar(&[
            (b"checkpoint/pages-1.img", &[7; 5000]),
            (b"spec.dump", br#"{ "annotations": {"a": "b"} }"#),
            (b"config.dump", b"no JSON at all"),
        ]);
        tar.extend_from_slice(b"left over from a longer file");
        for piece in [1, 511, 512, 4096, 100_000] {
            let (out, stripped) = filtered(&tar, piece, &Changes::default());
            assert!(out == tar, "pieces of {piece}");
            assert!(stripped.is_empty());
        }
    }

    #[test]
    fn what_is_dangerous_goes_and_the_rest_stays_in_its_place() {
        let evil = br#"{"annotations":{"cdi.k8s.io/x":"vendor/gpu=all","keep":"1"}}"#;
        let before = tar(&[
            (b"checkpoint/a.img", b"aaa"),
            (b"status.dump", evil),
            (b"./spec.dump", evil),
            (b"deep/spec.dump", evil),
            (b"z", b"zzz"),
        ]);
        let good = br#"{"annotations":{"keep":"1"}}"#;
        let wanted = tar(&[
            (b"checkpoint/a.img", b"aaa"),
            (b"status.dump", good),
            (b"./spec.dump", good),
            (b"deep/spec.dump", evil),
            (b"z", b"zzz"),
        ]);
        for piece in [1, 512, 100_000] {
            let (out, stripped) = filtered(&before, piece, &Changes::default());
            assert!(out == wanted, "pieces of {piece}");
            assert_eq!(stripped, ["cdi.k8s.io/x"]);
        }
    }

    #[test]
    fn another_name_of_the_base_image_is_written_into_the_configuration_alone() {
        let config = br#"{"rootfsImageRef":"sha256:00","rootfsImageName":"app:1"}"#;
        let before = tar(&[(b"config.dump", config), (b"spec.dump", config)]);
        let changes = Changes {
            base: Some("localhost:5/base@sha256:00".to_owned()),
        };
        let (out, _) = filtered(&before, 700, &changes);
        let new = br#"{"rootfsImageName":"app:1","rootfsImageRef":"localhost:5/base@sha256:00"}"#;
        assert!(out == tar(&[(b"config.dump", new), (b"spec.dump", config)]));
    }

    #[test]
    fn a_tar_without_an_end_gets_one_and_a_cut_one_is_refused() {
        let whole = tar(&[(b"a", b"aaa")]);
        let (out, _) = filtered(&whole[..1024], 100, &Changes::default());
        assert!(out == whole);
        let changes = Changes::default();
        let mut filter = Filter::new(Vec::new(), &changes);
        filter.write_all(&whole[..514]).unwrap();
        assert!(filter.finish().is_err());
    }
}
