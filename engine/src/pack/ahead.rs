//! Owns reading ahead where a request is dear: of a pack in a bucket not only the frames of one window are fetched but, in the same request, those that later windows
//! want, too.
//!
//! Always: fetches what is wanted, and gaps between it that cost less than a request; what it holds stays within the bytes that it was made for, because it
//! asks for less at a time the more packs are in use at once. Never: is used on a local disk, where a read costs nothing.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::Slice;
use lru::LruCache;

use super::reading::Reading;
use crate::limits;

/// Frames that will be wanted, window by window.
#[derive(Debug, Default)]
pub struct Wanted {
    packs: HashMap<u32, OfPack>,
    windows: u32,
}

#[derive(Debug)]
struct OfPack {
    /// Offset and length.
    frames: BTreeSet<(u32, u32)>,
    bytes: u64,
    first: u32,
    last: u32,
}

impl Wanted {
    /// Adds what one window wants.
    pub fn add(&mut self, window: &Reading) {
        let now = self.windows;
        self.windows += 1;
        for frame in window.frames() {
            let pack = self.packs.entry(frame.pack).or_insert_with(|| OfPack {
                frames: BTreeSet::new(),
                bytes: 0,
                first: now,
                last: now,
            });
            pack.last = now;
            if pack.frames.insert((frame.offset, frame.stored_len)) {
                pack.bytes += u64::from(frame.stored_len);
            }
        }
    }

    /// The most that is held at a time if `len` bytes are asked for at once.
    fn held(&self, len: u64) -> u64 {
        let mut changes: Vec<(u32, bool, u64)> = Vec::new();
        for pack in self.packs.values() {
            let bytes = pack.bytes.min(len);
            changes.push((pack.first, true, bytes));
            changes.push((pack.last + 1, false, bytes));
        }
        // Those that are done with go first.
        changes.sort_unstable();
        let (mut now, mut most) = (0_u64, 0);
        for (_, begins, bytes) in changes {
            now = if begins { now + bytes } else { now - bytes };
            most = most.max(now);
        }
        most
    }

    /// How many bytes may be asked for at once, so that no more than `most` are held.
    fn fitting(&self, most: u64) -> u64 {
        let mut len = limits::AHEAD;
        while len > limits::AHEAD_LEAST && self.held(len) > most {
            len /= 2;
        }
        len
    }

    /// All that a manifest names, when nobody can say what of it will be wanted.
    #[must_use]
    pub fn all_of(manifest: &Manifest) -> Self {
        let mut out = Self::default();
        for stream in (0..).take(manifest.streams.len()) {
            let slices = manifest.slices(stream).into_iter().flatten().flatten();
            let mut frames = slices.filter_map(|slice| match slice {
                Slice::Frame(slice) => Some(slice),
                Slice::Zero { .. } => None,
            });
            loop {
                let mut part = Reading::default();
                let mut count = 0;
                for slice in frames.by_ref().take(limits::WAITING_SLICES) {
                    let len = usize::try_from(slice.len).unwrap_or(usize::MAX);
                    part.add(manifest, slice, 0, 0, len);
                    count += 1;
                }
                if count == 0 {
                    break;
                }
                out.add(&part);
            }
        }
        out
    }
}

/// Knows what will be wanted, and holds what was fetched of it.
#[derive(Debug)]
pub struct Ahead {
    wanted: HashMap<u32, Vec<(u32, u32)>>,
    /// Asked for at once; none: as much as reads turn out to follow each other.
    len: Option<u64>,
    most: u64,
    spans: Mutex<Spans>,
}

#[derive(Debug)]
struct Spans {
    /// By pack and first byte.
    recent: LruCache<(u32, u64), Bytes>,
    bytes: u64,
    /// Where the last request for a pack ended, and how much it asked for.
    last: HashMap<u32, (u64, u64)>,
}

impl Ahead {
    /// Holds `most` bytes, and knows nothing yet.
    #[must_use]
    pub fn within(most: usize) -> Self {
        Self {
            wanted: HashMap::new(),
            len: None,
            most: most as u64,
            spans: Mutex::new(Spans {
                recent: LruCache::unbounded(),
                bytes: 0,
                last: HashMap::new(),
            }),
        }
    }

    /// All of this will be read, in this order.
    #[must_use]
    pub fn expecting(self, wanted: Wanted) -> Self {
        Self {
            len: Some(wanted.fitting(self.most)),
            ..self.perhaps(wanted)
        }
    }

    /// Some of this will be read: more is asked for at a time the longer reads follow each other, as a kernel does with files.
    #[must_use]
    pub fn perhaps(self, wanted: Wanted) -> Self {
        let packs = wanted.packs.into_iter();
        Self {
            wanted: packs
                .map(|(pack, of)| (pack, of.frames.into_iter().collect()))
                .collect(),
            ..self
        }
    }

    /// Where the last frame of a pack ends that may be wanted.
    pub(super) fn end_of(&self, pack: u32) -> u64 {
        let last = self.wanted.get(&pack).and_then(|frames| frames.last());
        last.map_or(0, |(offset, len)| u64::from(*offset) + u64::from(*len))
    }

    /// How much of a pack to ask for from `first` on.
    fn len_from(&self, pack: u32, first: u32) -> u64 {
        if let Some(len) = self.len {
            return len;
        }
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        match spans.last.get(&pack) {
            Some((end, len))
                if (end.saturating_sub(*len)..=end + limits::AHEAD_GAP).contains(&first.into()) =>
            {
                (2 * len).min(limits::AHEAD / 2)
            }
            _ => limits::AHEAD_BEGIN,
        }
    }

    /// A frame that was fetched; a copy, so that one frame does not keep all of its span.
    pub(super) fn get(&self, pack: u32, offset: u32, len: u32) -> Option<Bytes> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (u64::from(offset), u64::from(offset) + u64::from(len));
        let key = spans
            .recent
            .iter()
            .find(|((of, start), span)| {
                *of == pack && *start <= from && to <= start + span.len() as u64
            })
            .map(|(key, _)| *key)?;
        let span = spans.recent.get(&key)?;
        let at = usize::try_from(from - key.1).ok()?;
        span.get(at..at + len as usize).map(Bytes::copy_from_slice)
    }

    /// What is to be asked for, when these frames (sorted) of a pack are wanted and not there.
    pub(super) fn requests(&self, pack: u32, missing: &[(u32, u32)]) -> Vec<Range<u64>> {
        let none = Vec::new();
        let wanted = self.wanted.get(&pack).unwrap_or(&none);
        let mut out: Vec<Range<u64>> = Vec::new();
        let mut total = 0;
        let most = missing
            .first()
            .map_or(0, |(first, _)| self.len_from(pack, *first));
        let mut missing = missing.iter().peekable();
        while let Some(&&(first, _)) = missing.peek() {
            let mut range = u64::from(first)..u64::from(first);
            let later = &wanted[wanted.partition_point(|(offset, _)| *offset < first)..];
            let mut later = later.iter().peekable();
            loop {
                let must = missing.peek().filter(|(offset, _)| within(&range, *offset));
                let may = later.peek().filter(|(offset, len)| {
                    within(&range, *offset)
                        && total
                            + (u64::from(*offset) + u64::from(*len)).saturating_sub(range.start)
                            <= most
                });
                let (offset, len) = match (must, may) {
                    (Some(must), Some(may)) => **must.min(may),
                    (Some(one), None) => **one,
                    (None, Some(one)) => **one,
                    (None, None) => break,
                };
                range.end = range.end.max(u64::from(offset) + u64::from(len));
                while missing.next_if(|next| **next <= (offset, len)).is_some() {}
                while later.next_if(|next| **next <= (offset, len)).is_some() {}
            }
            total += range.end - range.start;
            out.push(range);
        }
        out
    }

    /// Takes in what was fetched.
    pub(super) fn put(&self, pack: u32, range: &Range<u64>, bytes: Bytes) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.bytes += bytes.len() as u64;
        let len = (range.end - range.start).max(limits::AHEAD_BEGIN);
        spans.last.insert(pack, (range.end, len));
        if let Some(before) = spans.recent.put((pack, range.start), bytes) {
            spans.bytes -= before.len() as u64;
        }
        while spans.bytes > self.most
            && let Some((_, oldest)) = spans.recent.pop_lru()
        {
            spans.bytes -= oldest.len() as u64;
        }
    }
}

/// True if a frame at `offset` is fetched with what is before it.
fn within(range: &Range<u64>, offset: u32) -> bool {
    u64::from(offset) <= range.end + limits::AHEAD_GAP
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "requests are ranges, and often one"
)]
mod tests {
    use super::*;

    fn ahead(frames: &[(u32, u32)]) -> Ahead {
        let pack = OfPack {
            frames: frames.iter().copied().collect(),
            bytes: 0,
            first: 0,
            last: 0,
        };
        let wanted = Wanted {
            packs: [(7, pack)].into(),
            windows: 1,
        };
        Ahead::within(100 << 20).expecting(wanted)
    }

    #[test]
    fn a_request_goes_on_to_what_is_wanted_later_and_no_further() {
        let far = 9_000_000;
        let ahead = ahead(&[(0, 100), (100, 100), (3000, 50), (far, 10)]);
        assert_eq!(ahead.requests(7, &[(0, 100)]), [0..3050]);
        assert_eq!(ahead.requests(7, &[(100, 100)]), [100..3050]);
        assert_eq!(
            ahead.requests(7, &[(0, 100), (far, 10)]),
            [0..3050, 9_000_000..9_000_010]
        );
        assert_eq!(
            ahead.requests(8, &[(5, 5)]),
            [5..10],
            "a pack that is not known"
        );
        let whole: Vec<_> = (0..400).map(|n| (n * 50_000, 50_000)).collect();
        let ahead = super::tests::ahead(&whole);
        let requests = ahead.requests(7, &whole[..1]);
        assert_eq!(requests.len(), 1);
        assert!(requests[0].end <= limits::AHEAD && requests[0].end > limits::AHEAD - 50_000);
        let all = ahead.requests(7, &whole);
        assert_eq!(
            all,
            [0..20_000_000],
            "what is wanted now is fetched, whatever it takes"
        );
    }

    #[test]
    fn what_was_fetched_is_given_out_and_let_go_when_it_is_too_much() {
        let ahead = ahead(&[]);
        ahead.put(7, &(10..20), Bytes::from_static(b"0123456789"));
        assert_eq!(ahead.get(7, 12, 3).unwrap(), "234");
        assert_eq!(ahead.get(7, 18, 3), None);
        assert_eq!(ahead.get(8, 12, 3), None);
        for n in 0..200 {
            ahead.put(9, &(n << 20..(n + 1) << 20), vec![0; 1 << 20].into());
        }
        assert_eq!(ahead.get(7, 12, 3), None);
        assert!(ahead.spans.lock().unwrap().bytes <= 100 << 20);
    }

    #[test]
    fn the_more_packs_are_in_use_at_once_the_less_is_asked_for() {
        let packs = |n: u32, last: u32| {
            let of = |k| OfPack {
                frames: BTreeSet::new(),
                bytes: 16 << 20,
                first: if last == 0 { k } else { 0 },
                last: last.max(k),
            };
            Wanted {
                packs: (0..n).map(|k| (k, of(k))).collect(),
                windows: n,
            }
        };
        assert_eq!(
            packs(30, 0).fitting(64 << 20),
            limits::AHEAD,
            "one after the other"
        );
        let all_at_once = packs(30, 30).fitting(64 << 20);
        assert!(all_at_once >= limits::AHEAD_LEAST && 30 * all_at_once <= 64 << 20);
    }

    #[test]
    fn when_nothing_is_known_reads_that_follow_each_other_ask_for_more_and_more() {
        let frames: Vec<_> = (0..2000).map(|n| (n * 50_000, 50_000)).collect();
        let ahead = Ahead {
            len: None,
            ..ahead(&frames)
        };
        let mut at = 0;
        let mut lens = Vec::new();
        for _ in 0..8 {
            let request = ahead.requests(7, &[(at, 50_000)]).remove(0);
            ahead.put(7, &request, Bytes::new());
            lens.push(request.end - request.start);
            at = u32::try_from(request.end).unwrap();
        }
        assert!(
            lens[0] <= limits::AHEAD_BEGIN && lens.is_sorted(),
            "{lens:?}"
        );
        let most = limits::AHEAD / 2;
        assert!(lens[7] > most - 50_000 && lens[7] <= most, "{lens:?}");
        let far = ahead.requests(7, &[(99_000_000, 50_000)]).remove(0);
        assert!(far.end - far.start <= limits::AHEAD_BEGIN);
    }
}
