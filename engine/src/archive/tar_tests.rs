//! What a tar reader must tell of tars by others, cut anywhere.

use super::tar::*;
use proptest::prelude::*;

/// A ustar header with a checksum.
pub(crate) fn header(name: &[u8], len: u64, flag: u8) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000017\0");
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut block);
    block
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn member(name: &[u8], body: &[u8], flag: u8) -> Vec<u8> {
    let mut out = header(name, body.len() as u64, flag);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

type Seen = Vec<(Vec<u8>, EntryType, Vec<u8>)>;

/// Reads in pieces of `piece` bytes: the members with their contents, and how it ended.
fn read(tar: &[u8], piece: usize) -> Result<(Seen, TarEnd), TarError> {
    let mut reader = TarReader::new();
    let mut seen = Seen::new();
    let mut covered = 0;
    let mut step = |reader: &mut TarReader, bytes: &[u8]| -> Result<Option<usize>, TarError> {
        Ok(match reader.next(bytes)? {
            None => None,
            Some(Span::Member(member)) => {
                seen.push((member.name, member.kind, Vec::new()));
                Some(0)
            }
            Some(Span::End) => Some(0),
            Some(Span::Meta(len)) => Some(len),
            Some(Span::Data(len)) => {
                seen.last_mut().unwrap().2.extend_from_slice(&bytes[..len]);
                Some(len)
            }
        })
    };
    for mut bytes in tar.chunks(piece.max(1)) {
        while let Some(taken) = step(&mut reader, bytes)? {
            bytes = &bytes[taken..];
            covered += taken;
        }
        assert!(bytes.is_empty());
    }
    assert!(step(&mut reader, &[])?.is_none());
    assert_eq!(covered, tar.len());
    Ok((seen, reader.finish()?))
}

fn sample() -> Vec<u8> {
    let long = vec![b'n'; 300];
    let mut tar = member(b"././@LongLink", &[&long[..], b"\0"].concat(), b'L');
    tar.extend(member(b"nnn", b"long name", b'0'));
    let path = b"21 path=p\xc3\xa4x/file.img\n";
    assert_eq!(path.len(), 22);
    let record = b"22 path=p\xc3\xa4x/file.img\n";
    tar.extend(member(
        b"PaxHeaders/x",
        &[&record[..], b"10 size=3\n"].concat(),
        b'x',
    ));
    // Its own size field is wrong; the PAX record counts.
    let mut odd = header(b"file.img", 7_000_000, b'0');
    odd.extend_from_slice(b"abc");
    odd.resize(2 * BLOCK, 0);
    tar.extend(odd);
    tar.extend(member(b"dir/", b"", b'5'));
    tar.extend(member(b"empty", b"", b'0'));
    tar.extend(member(b"full", &[7; BLOCK], b'0'));
    tar.extend(vec![0; 2 * BLOCK]);
    tar
}

#[test]
fn names_types_and_contents_come_out_however_the_bytes_are_cut() {
    let whole = read(&sample(), usize::MAX).unwrap();
    assert_eq!(whole.0.len(), 5);
    assert_eq!(
        whole.0[0],
        (vec![b'n'; 300], EntryType::File, b"long name".to_vec())
    );
    assert_eq!(whole.0[1].0, "päx/file.img".as_bytes());
    assert_eq!(whole.0[1].2, b"abc");
    assert_eq!(whole.0[2].1, EntryType::Directory);
    assert_eq!(
        whole.1,
        TarEnd {
            members: 5,
            complete: true,
            garbage: false
        }
    );
    for piece in [1, 7, 511, 512, 513, 1000] {
        assert_eq!(
            read(&sample(), piece).unwrap(),
            whole,
            "in pieces of {piece}"
        );
    }
}

#[test]
fn bytes_after_the_end_are_told_and_belong_to_the_archive() {
    let mut tar = sample();
    tar.extend_from_slice(&[0; 700]);
    assert!(!read(&tar, 100).unwrap().1.garbage, "zeros pad");
    tar.extend_from_slice(b"the tail of an older, longer file");
    assert!(read(&tar, 100).unwrap().1.garbage);
}

#[test]
fn a_tar_without_its_end_is_strange_and_one_cut_within_a_member_is_refused() {
    let tar = sample();
    let members = tar.len() - 2 * BLOCK;
    assert!(!read(&tar[..members], 100).unwrap().1.complete);
    for cut in 1..members {
        match read(&tar[..cut], usize::MAX) {
            Err(TarError::Truncated {
                offset, missing, ..
            }) => assert!(missing > 0 && offset == cut as u64, "{cut}"),
            Err(other) => panic!("cut at {cut}: {other}"),
            // Between two members, or in the padding after the last.
            Ok((seen, end)) => assert!(
                !end.complete && seen.iter().all(|(_, _, body)| body.len() != 1),
                "{cut}"
            ),
        }
    }
}

#[test]
fn a_header_with_a_bad_checksum_is_refused_with_its_place() {
    let mut tar = member(b"first", b"x", b'0');
    let mut second = member(b"second", b"y", b'0');
    second[0] ^= 1;
    tar.extend(second);
    assert_eq!(
        read(&tar, 100).unwrap_err(),
        TarError::Checksum { offset: 1024 }
    );
    assert_eq!(
        read(&[7; 2000], 100).unwrap_err(),
        TarError::Checksum { offset: 0 }
    );
}

#[test]
fn sizes_over_8_gib_come_in_base_256_and_in_pax() {
    let big = 9_u64 << 30;
    let mut block = header(b"big", 0, b'0');
    block[124..136]
        .copy_from_slice(&[&[0x80, 0, 0, 0][..], &u64::to_be_bytes_for_test(big)].concat());
    seal(&mut block);
    let mut reader = TarReader::new();
    assert_eq!(reader.next(&block).unwrap(), Some(Span::Meta(BLOCK)));
    assert!(matches!(reader.next(&[]).unwrap(), Some(Span::Member(m)) if m.len == big));
    assert_eq!(reader.skip(), big);
    assert_eq!(reader.next(&[]).unwrap(), Some(Span::End));
    assert_eq!(reader.position(), big + BLOCK as u64);
    assert!(reader.finish().is_ok());
}

trait TestBytes {
    fn to_be_bytes_for_test(value: u64) -> [u8; 8];
}
impl TestBytes for u64 {
    #[expect(clippy::big_endian_bytes, reason = "GNU tar's base 256 is big endian")]
    fn to_be_bytes_for_test(value: u64) -> [u8; 8] {
        value.to_be_bytes()
    }
}

#[test]
fn extensions_without_bound_are_refused_before_they_are_read() {
    let tar = header(b"././@LongLink", 1 << 32, b'L');
    assert!(
        matches!(read(&tar, 512).unwrap_err(), TarError::Extensions { got, .. } if got == 1 << 32)
    );
    let mut many = Vec::new();
    for _ in 0..20 {
        many.extend(member(b"x", &[b' '; 100_000], b'x'));
    }
    assert!(matches!(
        read(&many, 4096).unwrap_err(),
        TarError::Extensions { .. }
    ));
}

#[test]
fn a_negative_size_is_refused() {
    let mut block = header(b"x", 0, b'0');
    block[124..136].fill(0xff);
    seal(&mut block);
    assert!(matches!(
        read(&block, 512).unwrap_err(),
        TarError::Field { field: "size", .. }
    ));
}

proptest! {
    #[test]
    fn arbitrary_changes_never_panic_and_never_lose_a_byte(at in 0_usize..4000, to in any::<u8>(), piece in 1_usize..2000) {
        let mut tar = sample();
        let at = at % tar.len();
        tar[at] = to;
        // `read` asserts that every byte was covered.
        let _ = read(&tar, piece);
    }

    #[test]
    fn arbitrary_headers_with_good_checksums_never_panic(fields in proptest::collection::vec(any::<u8>(), BLOCK), piece in 1_usize..2000) {
        let mut tar = fields;
        seal(&mut tar);
        tar.extend_from_slice(&sample());
        let _ = read(&tar, piece);
    }
}
