//! Owns the memory of packs that are being filled or on their way.
//!
//! Always: begins on a page border, so that a file can be written from it around the page cache; comes back to its pool when the last user lets go of it,
//! so that the next pack pays for no fresh pages (a first import of 411 MB: 48,000 page faults to 26,000). Never: more idle buffers than a session uses at a time.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::error::{Error, Result};
use crate::limits;

/// Room for a full pack, its last frame and its directory; one that needs more gets more.
const ROOM: usize = limits::PACK_LEN + limits::PACK_LEN / 16;
/// One of each kind that is being filled, and those on their way.
const IDLE: usize = 2 + limits::UPLOADS;

type Idle = Arc<Mutex<Vec<MmapMut>>>;

/// Gives buffers, and takes them back.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Idle);

/// Bytes that grow at their end.
#[derive(Debug)]
pub struct Buffer {
    map: Option<MmapMut>,
    len: usize,
    idle: Idle,
}

impl Buffers {
    /// An empty buffer.
    #[must_use]
    pub fn get(&self) -> Buffer {
        Buffer {
            map: locked(&self.0, Vec::pop),
            len: 0,
            idle: Arc::clone(&self.0),
        }
    }
}

fn locked<T>(idle: &Idle, then: impl FnOnce(&mut Vec<MmapMut>) -> T) -> T {
    then(&mut idle.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Buffer {
    /// Bytes that are in it.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.len + bytes.len();
        let room = self.map.as_ref().map_or(0, |map| map.len());
        if end > room {
            let grown = MmapMut::map_anon(end.next_power_of_two().max(ROOM));
            let mut grown = grown.map_err(|e| Error::io("memory for a pack", e))?;
            grown[..self.len].copy_from_slice(self.as_ref());
            self.map = Some(grown);
        }
        if let Some(place) = self.map.as_mut().and_then(|map| map.get_mut(self.len..end)) {
            place.copy_from_slice(bytes);
            self.len = end;
        }
        Ok(())
    }

    /// The bytes, for any number of users.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.map
            .as_ref()
            .and_then(|map| map.get(..self.len))
            .unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // One that has grown is not kept.
        let map = self.map.take().filter(|map| map.len() == ROOM);
        if let Some(map) = map {
            locked(&self.idle, |idle| {
                if idle.len() < IDLE {
                    idle.push(map);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let buffers = Buffers::default();
        let mut first = buffers.get();
        first.push(b"some").unwrap();
        first.push(b" bytes").unwrap();
        let at = first.as_ref().as_ptr();
        assert_eq!(at.align_offset(4096), 0);
        let whole = first.freeze();
        let part = whole.slice(5..);
        drop(whole);
        let other = buffers.get();
        assert!(other.map.is_none(), "the first is still read");
        assert_eq!(part, "bytes");
        drop(part);
        let mut again = buffers.get();
        assert_eq!(again.len(), 0);
        again.push(b"new").unwrap();
        assert_eq!((again.as_ref().as_ptr(), again.as_ref()), (at, &b"new"[..]));
    }

    #[test]
    fn a_buffer_grows_beyond_its_room_and_is_not_kept_then() {
        let buffers = Buffers::default();
        let mut large = buffers.get();
        let bytes: Vec<u8> = (0..ROOM).map(|n| (n % 251) as u8).collect();
        large.push(&bytes).unwrap();
        large.push(b"more").unwrap();
        assert_eq!(large.len(), ROOM + 4);
        assert!(large.as_ref()[..ROOM] == bytes && large.as_ref().ends_with(b"more"));
        drop(large);
        assert!(buffers.get().map.is_none());
    }
}
