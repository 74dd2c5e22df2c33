//! Owns the content of a patch frame (kind 3, `spec/delta.md`): the words of some pages that differ from those of their bases.
//!
//! Always: words stand in their own page, in ascending order; the content is exactly as long as its counts say. Never: allocates more than
//! some bytes for each page.

use crate::error::{FormatError, Result};
use crate::limits;
use crate::wire::{Put, Reader};

const WHAT: &str = "patch";
/// Bytes of a word: programs change pointers, counters and floating point numbers.
pub const WORD: usize = 8;

/// Makes the content of a patch frame.
#[derive(Debug, Default)]
pub struct PatchWriter {
    counts: Vec<u8>,
    gaps: Vec<u8>,
    words: Vec<u8>,
}

impl PatchWriter {
    /// Adds a page as what differs from its base. Both have the same length, a multiple of [`WORD`].
    pub fn push(&mut self, base: &[u8], page: &[u8]) {
        let (olds, news) = (base.as_chunks::<WORD>().0, page.as_chunks::<WORD>().0);
        let mut count = 0;
        let mut next = 0;
        for (at, (old, new)) in olds.iter().zip(news).enumerate() {
            if old != new {
                self.gaps.put_varint((at - next) as u64);
                self.words.extend_from_slice(new);
                next = at + 1;
                count += 1;
            }
        }
        self.counts.put_varint(count);
    }

    /// The content.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.counts.append(&mut self.gaps);
        self.counts.append(&mut self.words);
        self.counts
    }
}

/// The content of a patch frame, borrowed or not, ready to be applied to the bases.
#[derive(Debug)]
pub struct Patch<C> {
    content: C,
    page_size: usize,
    /// Of each page, and what would be the next: where its gaps and its words begin in the content.
    pages: Vec<(u32, u32)>,
}

impl<C: AsRef<[u8]>> Patch<C> {
    /// Checks the content of a frame of `pages` pages.
    pub fn decode(content: C, pages: u16, page_size: u32) -> Result<Self> {
        let places = places(content.as_ref(), pages, page_size)?;
        Ok(Self {
            content,
            page_size: page_size as usize,
            pages: places,
        })
    }

    /// Puts the words into `out`, which holds the bases of these pages from byte `from` on.
    pub fn apply(&self, from: usize, out: &mut [u8]) -> Result<()> {
        let size = self.page_size.max(1);
        let end = from.saturating_add(out.len());
        let content = self.content.as_ref();
        for page in from / size..end.div_ceil(size) {
            let (Some((gaps, words)), Some((gaps_end, words_end))) =
                (self.pages.get(page), self.pages.get(page + 1))
            else {
                return Err(FormatError::invalid(WHAT, "it has fewer pages"));
            };
            let part =
                |from: u32, to: u32| content.get(from as usize..to as usize).unwrap_or_default();
            let mut gaps = Reader::new(WHAT, part(*gaps, *gaps_end));
            let mut at = page * size;
            for word in part(*words, *words_end).as_chunks().0 {
                at += gaps.varint32()? as usize * WORD;
                if at >= end {
                    break;
                }
                put(out, from, at, word);
                at += WORD;
            }
        }
        Ok(())
    }
}

/// Checks the content of a frame of `pages` pages: where the gaps and the words of each begin, and would of the next.
fn places(content: &[u8], pages: u16, page_size: u32) -> Result<Vec<(u32, u32)>> {
    let contradict = || FormatError::invalid(WHAT, "its numbers contradict each other");
    let in_page = u64::from(page_size) / WORD as u64;
    let whole = u64::from(page_size) == in_page * WORD as u64;
    if !whole || u64::from(pages) * u64::from(page_size) > u64::from(limits::FRAME_PLAIN_MAX) {
        return Err(FormatError::invalid(
            WHAT,
            format!("{pages} pages of {page_size} bytes"),
        ));
    }
    let mut r = Reader::new(WHAT, content);
    let counts: Vec<usize> = (0..pages)
        .map(|_| r.bounded(WHAT, in_page))
        .collect::<Result<_>>()?;
    let words_len = counts.iter().sum::<usize>() * WORD;
    let gaps_len = r.left().checked_sub(words_len).ok_or_else(contradict)?;
    // A frame's content is far shorter than 4 GiB.
    let place = |byte: usize| u32::try_from(byte).map_err(|_| contradict());
    let (first_gap, mut word) = (content.len() - r.left(), content.len() - words_len);
    let mut r = Reader::new(WHAT, r.bytes(gaps_len)?);
    let mut places = Vec::with_capacity(counts.len() + 1);
    for count in counts {
        places.push((place(first_gap + gaps_len - r.left())?, place(word)?));
        let mut next = 0;
        for _ in 0..count {
            next += u64::from(r.varint32()?) + 1;
            if next > in_page {
                return Err(FormatError::invalid(
                    WHAT,
                    "a word beyond the end of its page",
                ));
            }
        }
        word += count * WORD;
    }
    r.finish()?;
    places.push((place(first_gap + gaps_len)?, place(word)?));
    Ok(places)
}

/// Puts a word at byte `at`, as far as that is in `out`, which begins at byte `from`.
fn put(out: &mut [u8], from: usize, at: usize, word: &[u8; WORD]) {
    if let Some(place) = at
        .checked_sub(from)
        .and_then(|at| out.get_mut(at..at + WORD))
    {
        place.copy_from_slice(word);
        return;
    }
    for (at, byte) in (at..).zip(word) {
        if let Some(place) = at.checked_sub(from).and_then(|at| out.get_mut(at)) {
            *place = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn bases() -> Vec<u8> {
        (0..3 * PAGE).map(|n| (n / 5) as u8).collect()
    }

    /// Nothing changes on the first page, the first and last word of the second, all of the third.
    fn pages() -> Vec<u8> {
        let mut pages = bases();
        pages[PAGE] ^= 1;
        pages[2 * PAGE - 1] ^= 1;
        pages[2 * PAGE..].iter_mut().for_each(|byte| *byte ^= 255);
        pages
    }

    fn content() -> Vec<u8> {
        let mut writer = PatchWriter::default();
        for (base, page) in bases().chunks(PAGE).zip(pages().chunks(PAGE)) {
            writer.push(base, page);
        }
        writer.finish()
    }

    #[test]
    fn pages_come_out_of_their_bases_as_a_whole_and_in_any_part() {
        let content = content();
        assert_eq!(content.len(), 4 + (1 + 2 + 512) + 514 * WORD);
        let patch = Patch::decode(&content, 3, PAGE as u32).unwrap();
        let whole = pages();
        for (from, to) in [
            (0, 3 * PAGE),
            (0, 0),
            (PAGE + 3, 2 * PAGE - 3),
            (2 * PAGE - 1, 2 * PAGE + 9),
        ] {
            let mut out = bases()[from..to].to_vec();
            patch.apply(from, &mut out).unwrap();
            assert_eq!(out, whole[from..to], "{from} to {to}");
        }
        assert!(patch.apply(2 * PAGE, &mut vec![0; PAGE + 1]).is_err());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let content = content();
        for len in 0..content.len() {
            assert!(
                Patch::decode(&content[..len], 3, PAGE as u32).is_err(),
                "{len}"
            );
        }
        let longer = [&content[..], &[0]].concat();
        assert!(Patch::decode(&longer, 3, PAGE as u32).is_err());
        assert!(Patch::decode(&content, 2, PAGE as u32).is_err());
        assert!(Patch::decode(&content, 3, 4092).is_err());
        assert!(
            Patch::decode(&[0; 4096], 4096, 65536).is_err(),
            "256 MiB of pages"
        );
        let mut beyond = vec![1];
        beyond.put_varint(512);
        beyond.extend_from_slice(&[7; WORD]);
        let e = Patch::decode(&beyond, 1, PAGE as u32).unwrap_err();
        assert!(e.to_string().contains("beyond the end"), "{e}");
    }
}
