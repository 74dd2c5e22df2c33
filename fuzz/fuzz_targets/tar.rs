//! Tars: the spans cover every byte, and how the bytes are cut into pieces changes nothing.

#![no_main]

use cryostore_engine::archive::tar::{
    BLOCK, Member, Span, TarEnd, TarError, TarReader, looks_like_tar,
};
use libfuzzer_sys::fuzz_target;

/// What a tar was found to be.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The members, and where their contents begin and end.
    members: Vec<(Member, u64, Option<u64>)>,
    end: Result<TarEnd, TarError>,
}

/// Reads in pieces that are as long as `lengths` says, in turn.
fn read(tar: &[u8], lengths: &[usize]) -> Seen {
    let mut lengths = lengths.iter().cycle();
    let mut reader = TarReader::new();
    let mut members: Vec<(Member, u64, Option<u64>)> = Vec::new();
    let mut at = 0;
    while at < tar.len() {
        let piece_end = tar.len().min(at.saturating_add(*lengths.next().unwrap()));
        loop {
            assert_eq!(reader.position(), at as u64);
            match reader.next(&tar[at..piece_end]) {
                Ok(None) => break,
                Ok(Some(Span::Member(member))) => members.push((*member, at as u64, None)),
                Ok(Some(Span::End)) => {
                    let (member, start, end) = members.last_mut().unwrap();
                    assert_eq!(
                        at as u64 - *start,
                        member.len,
                        "the data of a member has the length that was announced"
                    );
                    assert_eq!(end.replace(at as u64), None, "a member ends once");
                }
                Ok(Some(Span::Meta(len) | Span::Data(len))) => {
                    assert!(
                        len > 0 && len <= piece_end - at,
                        "a span of {len} bytes of {}",
                        piece_end - at
                    );
                    at += len;
                }
                Err(e) => {
                    return Seen {
                        members,
                        end: Err(e),
                    };
                }
            }
        }
        assert_eq!(at, piece_end, "all of a piece is taken");
    }
    assert_eq!(reader.next(&[]), Ok(None));
    assert_eq!(reader.position(), tar.len() as u64);
    Seen {
        members,
        end: reader.finish(),
    }
}

/// Reads as one who wants the headers only.
fn headers(tar: &[u8]) -> Vec<Member> {
    let mut reader = TarReader::new();
    let mut members = Vec::new();
    let mut rest = tar;
    while let Ok(Some(span)) = reader.next(rest) {
        match span {
            Span::Member(member) => {
                members.push(*member);
                let skipped = usize::try_from(reader.skip()).unwrap_or(usize::MAX);
                rest = rest.get(skipped..).unwrap_or_default();
            }
            Span::End => {}
            Span::Meta(len) | Span::Data(len) => rest = &rest[len..],
        }
    }
    let _ = reader.finish();
    members
}

/// The bytes with the checksums right of those blocks at which a header stands.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut tar = data.to_vec();
    for _ in 0..64 {
        let Err(TarError::Checksum { offset }) = read(&tar, &[usize::MAX]).end else {
            break;
        };
        let block = &mut tar[offset as usize..][..BLOCK];
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    tar
}

fn check(tar: &[u8], cuts: &[usize]) {
    let whole = read(tar, &[usize::MAX]);
    // Byte by byte takes the time.
    let short = if tar.len() <= 2 * BLOCK + 100 { 1 } else { 37 };
    for lengths in [&[short][..], &[BLOCK - 1], &[BLOCK], cuts] {
        assert_eq!(read(tar, lengths), whole, "in pieces of {lengths:?}");
    }
    if let Ok(end) = &whole.end {
        assert_eq!(end.members, whole.members.len() as u64);
        assert!(
            whole.members.iter().all(|(.., end)| end.is_some()),
            "a good tar ends its members"
        );
        let members: Vec<_> = whole
            .members
            .iter()
            .map(|(member, ..)| member.clone())
            .collect();
        assert_eq!(headers(tar), members, "the headers without the contents");
    } else {
        headers(tar);
    }
    let starts = whole.members.iter().map(|(member, ..)| member.offset);
    assert!(
        starts.is_sorted_by(|a, b| a < b),
        "members stand one after the other"
    );
    if let Some(first) = tar
        .get(..BLOCK)
        .filter(|block| block.iter().any(|byte| *byte != 0))
    {
        let refused = whole.end == Err(TarError::Checksum { offset: 0 });
        assert_eq!(looks_like_tar(first), !refused, "the first block");
    } else {
        assert!(!looks_like_tar(tar));
    }
}

fuzz_target!(|data: &[u8]| {
    let cuts: Vec<usize> = data
        .iter()
        .rev()
        .take(8)
        .map(|byte| usize::from(*byte) * 3 + 1)
        .chain([7])
        .collect();
    check(data, &cuts);
    let tar = with_checksums(data);
    if tar != data {
        check(&tar, &cuts);
    }
});
