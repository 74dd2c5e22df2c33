//! Owns the bytes between the export of one repository and the import of another.
//!
//! Always: bounded; the reader sees the end only after the writer said that all was right: a writer that failed, or that is gone, is an error. Never: ends early like a file that was cut.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Slabs that wait: with the one that is filled and the one that is read, 4 MiB.
const WAITING: usize = 2;
/// 1 MiB, as an import reads.
const SLAB: usize = crate::limits::SLAB_LEN;

enum Part {
    Bytes(Vec<u8>),
    End,
}

/// Where an export goes.
#[derive(Debug)]
pub(super) struct Writer {
    parts: SyncSender<Part>,
    slab: Vec<u8>,
    closed: Arc<AtomicBool>,
}

/// What an import reads.
pub(super) struct Reader {
    parts: Receiver<Part>,
    slab: io::Cursor<Vec<u8>>,
    ended: bool,
}

/// Both ends.
pub(super) fn pipe() -> (Writer, Reader) {
    let (send, receive) = sync_channel(WAITING);
    let writer = Writer {
        parts: send,
        slab: Vec::with_capacity(SLAB),
        closed: Arc::new(AtomicBool::new(false)),
    };
    let reader = Reader {
        parts: receive,
        slab: io::Cursor::default(),
        ended: false,
    };
    (writer, reader)
}

impl Writer {
    /// All was written, and is right.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Part::End)
    }

    /// True if it could not write because the reader is gone: then the reader knows why.
    pub(super) fn closed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closed)
    }

    fn send(&self, part: Part) -> io::Result<()> {
        self.parts.send(part).map_err(|_| {
            self.closed.store(true, Ordering::SeqCst);
            io::ErrorKind::BrokenPipe.into()
        })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = SLAB - self.slab.len();
        let len = room.min(bytes.len());
        self.slab.extend_from_slice(&bytes[..len]);
        if self.slab.len() == SLAB {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.slab.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.slab, Vec::with_capacity(SLAB));
        self.send(Part::Bytes(full))
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.slab.read(out)?;
            if len > 0 || out.is_empty() || self.ended {
                return Ok(len);
            }
            match self.parts.recv() {
                Ok(Part::Bytes(bytes)) => self.slab = io::Cursor::new(bytes),
                Ok(Part::End) => self.ended = true,
                // The export's own error says more.
                Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_the_end_is_an_end() {
        let bytes: Vec<u8> = (0..3_500_000_u32).map(|n| (n / 7) as u8).collect();
        let (mut writer, mut reader) = pipe();
        let (mut out, sent) = (Vec::new(), bytes.clone());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                sent.chunks(70_001)
                    .for_each(|part| writer.write_all(part).unwrap());
                writer.end().unwrap();
            });
            reader.read_to_end(&mut out).unwrap();
        });
        assert!(out == bytes);
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn a_writer_that_is_gone_before_the_end_is_an_error_also_after_all_bytes() {
        let (mut writer, mut reader) = pipe();
        writer.write_all(b"all of it").unwrap();
        writer.flush().unwrap();
        drop(writer);
        let mut out = Vec::new();
        let error = reader.read_to_end(&mut out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(out, b"all of it");
    }

    #[test]
    fn a_writer_learns_that_the_reader_is_gone() {
        let (mut writer, reader) = pipe();
        drop(reader);
        let closed = writer.closed();
        assert!(writer.write_all(&vec![0; 2 * SLAB]).is_err());
        assert!(closed.load(Ordering::SeqCst));
    }
}
