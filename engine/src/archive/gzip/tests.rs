use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use preflate_rs::{PreflateConfig, PreflateStreamProcessor};
use proptest::prelude::*;

use super::deflate::{WalkLimits, walk};
use super::piece::{MAX_HEAD_LEN, admit};
use super::primer::Primer;
use super::*;

const LIMITS: GzipLimits = GzipLimits {
    max_compressed: 64 << 20,
    max_plain: 64 << 20,
};

/// `count` words of a few hundred in no order: references of all distances.
fn words(count: u32, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut text = Vec::new();
    for _ in 0..count {
        let word = (next() % 300 + seed).wrapping_mul(2_654_435_761);
        write!(text, "{word:o} ").expect("to memory");
    }
    text
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(plain).expect("to memory");
    encoder.finish().expect("to memory")
}

fn opened(gz: &[u8]) -> Opened {
    open(gz, &LIMITS).expect("opens")
}

/// Makes the check of a changed recipe right again, as an attacker would.
fn sealed(mut recipe: Vec<u8>) -> Vec<u8> {
    if let Some((head, checked)) = recipe.split_at_mut_checked(8) {
        head[4..].copy_from_slice(&crc(checked).to_le_bytes());
    }
    recipe
}

#[test]
fn gzip_data_of_flate2_at_each_level_is_opened_and_rebuilt() {
    let text = words(200_000, 1);
    // miniz finds little at level 1, and makes blocks of more tokens than we take where that leaves many literals.
    let digits = words(20_000, 1)
        .iter()
        .flat_map(|byte| format!("{byte:08b}").into_bytes())
        .collect();
    for (level, plain) in [(0, &text), (1, &digits), (6, &text), (9, &text)] {
        let gz = gzip(plain, level);
        let result = opened(&gz);
        assert!(result.plain == *plain, "level {level}");
        assert!(
            rebuild(&result.plain, &result.recipe, gz.len()).expect("rebuilds") == gz,
            "level {level}"
        );
        assert!(result.recipe.len() <= gz.len() / WORTH_IT, "level {level}");
    }
}

#[test]
fn members_one_behind_the_other_are_opened_and_rebuilt() {
    let (first, second) = (words(150_000, 2), words(150_000, 3));
    let gz = [gzip(&first, 6), gzip(&second, 9)].concat();
    let result = opened(&gz);
    assert!(result.plain == [first, second].concat());
    assert!(rebuild(&result.plain, &result.recipe, gz.len()).expect("rebuilds") == gz);
}

#[test]
fn a_header_with_all_optional_fields_is_kept() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("rootfs-diff.tar")
        .comment("a comment")
        .extra(vec![7; 300])
        .mtime(1_700_000_000)
        .write(Vec::new(), Compression::new(6));
    encoder.write_all(&words(150_000, 4)).expect("to memory");
    opened(&encoder.finish().expect("to memory"));
}

#[test]
fn a_few_bytes_behind_the_last_member_are_kept_and_many_are_refused() {
    let gz = gzip(&words(150_000, 5), 6);
    for trailing in [vec![0; 10_240], b"garbage".to_vec()] {
        opened(&[gz.clone(), trailing].concat());
    }
    let refusal =
        open(&[gz, vec![0; MAX_TRAILING_LEN + 1]].concat(), &LIMITS).expect_err("too many");
    assert!(matches!(refusal, Refusal::Damaged(_)), "{refusal}");
}

#[test]
fn gzip_data_cut_off_at_any_byte_is_refused() {
    let gz = gzip(&words(3_000, 6), 6);
    for len in 0..gz.len() {
        let refusal = open(&gz[..len], &LIMITS).expect_err("cut off");
        if len < 3 {
            assert_eq!(refusal, Refusal::NotGzip);
        } else {
            assert!(matches!(refusal, Refusal::Damaged(_)), "{len}: {refusal}");
        }
    }
}

#[test]
fn a_second_member_cut_off_is_refused() {
    let gz = [gzip(&words(150_000, 7), 6), gzip(&words(100, 8), 6)].concat();
    let refusal = open(&gz[..gz.len() - 1], &LIMITS).expect_err("cut off");
    assert!(matches!(refusal, Refusal::Damaged(_)), "{refusal}");
}

#[test]
fn a_wrong_checksum_in_the_trailer_is_refused() {
    let mut gz = gzip(&words(150_000, 9), 6);
    let at = gz.len() - 8;
    gz[at] ^= 1;
    let refusal = open(&gz, &LIMITS).expect_err("a wrong checksum");
    assert!(matches!(refusal, Refusal::Damaged(_)), "{refusal}");
}

#[test]
fn a_bomb_is_stopped_at_the_limit_and_one_byte_more_than_allowed_too() {
    let bomb = gzip(&vec![0; 32 << 20], 9);
    let limits = GzipLimits {
        max_plain: 1 << 20,
        ..LIMITS
    };
    assert_eq!(
        open(&bomb, &limits).expect_err("a bomb"),
        Refusal::PlainTooLarge { limit: 1 << 20 }
    );

    let plain = words(150_000, 10);
    let gz = gzip(&plain, 6);
    let tight = GzipLimits {
        max_plain: plain.len(),
        max_compressed: gz.len(),
    };
    open(&gz, &tight).expect("fits exactly");
    let short = GzipLimits {
        max_plain: plain.len() - 1,
        ..tight
    };
    assert!(matches!(
        open(&gz, &short),
        Err(Refusal::PlainTooLarge { .. })
    ));
    let narrow = GzipLimits {
        max_compressed: gz.len() - 1,
        ..tight
    };
    assert!(matches!(open(&gz, &narrow), Err(Refusal::TooLarge { .. })));
    // The second member counts too.
    assert!(matches!(
        open(
            &[gz.clone(), gz.clone()].concat(),
            &GzipLimits {
                max_compressed: 2 * gz.len(),
                ..tight
            }
        ),
        Err(Refusal::PlainTooLarge { .. })
    ));
}

#[test]
fn small_gzip_data_is_not_worth_it() {
    for plain in [Vec::new(), b"x".to_vec(), words(100, 11)] {
        assert!(matches!(
            open(&gzip(&plain, 6), &LIMITS),
            Err(Refusal::NotWorthIt { .. })
        ));
    }
}

#[test]
fn other_files_are_not_gzip() {
    for bytes in [
        &b""[..],
        b"\x1f",
        b"\x1f\x8b\x07",
        b"\x28\xb5\x2f\xfd",
        b"text",
    ] {
        assert_eq!(open(bytes, &LIMITS).expect_err("no gzip"), Refusal::NotGzip);
    }
}

#[test]
fn what_does_not_fit_the_recipe_is_named() {
    let gz = gzip(&words(150_000, 12), 6);
    let Opened { plain, recipe } = opened(&gz);
    let mut other = plain.clone();
    *other.last_mut().expect("not empty") ^= 1;
    assert!(rebuild(&other, &recipe, gz.len()).is_err());
    assert!(rebuild(&plain[1..], &recipe, gz.len()).is_err());
    assert!(rebuild(&plain[..plain.len() - 1], &recipe, gz.len()).is_err());
    assert_eq!(
        rebuild(&[&plain[..], b"more"].concat(), &recipe, gz.len()),
        Err(RebuildError::PlainText)
    );
    let limit = gz.len() - 1;
    assert!(matches!(
        rebuild(&plain, &recipe, limit),
        Err(RebuildError::TooLarge { .. })
    ));
    let mut later = recipe.clone();
    later[3] = 2;
    assert_eq!(
        rebuild(&plain, &later, gz.len()),
        Err(RebuildError::Version(2))
    );
    let longer = sealed([&recipe[..], b"more"].concat());
    assert_eq!(
        rebuild(&plain, &longer, gz.len()),
        Err(RebuildError::Recipe("bytes behind its end"))
    );
}

#[test]
fn a_recipe_cut_off_anywhere_is_an_error() {
    let gz = gzip(&words(150_000, 13), 6);
    let Opened { plain, recipe } = opened(&gz);
    for len in (0..recipe.len()).step_by(97) {
        assert!(rebuild(&plain, &recipe[..len], gz.len()).is_err());
        assert!(rebuild(&plain, &sealed(recipe[..len].to_vec()), gz.len()).is_err());
    }
}

/// The danger that `piece` tells of: corrections with these flags can keep preflate busy without end.
#[test]
fn corrections_of_more_than_one_block_are_not_admitted() {
    let gz = gzip(&words(150_000, 14), 6);
    let stream = &gz[10..gz.len() - 8];
    let blocks = walk(
        stream,
        WalkLimits {
            plain_len: 64 << 20,
            blocks: 1000,
        },
    )
    .expect("valid");
    assert!(blocks.len() > 3);
    let mut processor = PreflateStreamProcessor::new(&PreflateConfig::default());
    let head = [
        &Primer::new(Shows {
            copies: true,
            ..Shows::default()
        })
        .deflate,
        &stream[bytes_of(0, blocks[0].end_bit)],
    ]
    .concat();
    processor.decompress(&head).expect("the first block");
    processor.shrink_to_dictionary();
    let rest = processor
        .decompress(&stream[blocks[0].end_bit / 8..])
        .expect("the others");
    assert_eq!(rest.blocks.len(), blocks.len() - 1);
    let error = admit(1, &rest.corrections).expect_err("several blocks");
    assert_eq!(error.0, "a piece has a count of tokens or of blocks");
}

#[test]
fn the_walk_finds_what_flate2_inflates() {
    for level in [0, 1, 5, 9] {
        let plain = words(3_000, 15);
        let gz = gzip(&plain, level);
        let blocks = walk(
            &gz[10..],
            WalkLimits {
                plain_len: plain.len(),
                blocks: 1000,
            },
        )
        .expect("valid");
        assert_eq!(
            blocks.iter().map(|block| block.plain_len).sum::<usize>(),
            plain.len()
        );
        assert_eq!(
            blocks.last().expect("a block").end_bit.div_ceil(8),
            gz.len() - 18
        );
    }
}

#[test]
fn a_head_has_references_and_what_it_lacks_is_asked_of_the_primer() {
    let inside = |longest| deflate::Inside {
        longest,
        longest_before_last: longest,
        off_border: true,
        across_4k: true,
    };
    let usual = Block {
        tokens: 20_000,
        references: 4000,
        threes: 9,
        farthest: 30_000,
        plain_len: 0,
        end_bit: 0,
        inside: inside(258),
    };
    let nothing = Shows::default();
    assert_eq!(head_blocks(&[], 4000), (0, nothing));
    assert_eq!(head_blocks(&[usual, usual], 4000), (1, nothing));
    assert_eq!(head_blocks(&[usual, usual, usual], 8000), (2, nothing));
    assert_eq!(
        head_blocks(&[Block::default(), usual, usual], 4000),
        (2, nothing),
        "a stored block teaches nothing"
    );
    assert_eq!(
        head_blocks(
            &[
                Block {
                    references: 9,
                    ..usual
                },
                usual,
                usual
            ],
            4000
        ),
        (2, nothing)
    );
    let cases = [
        (
            Block {
                tokens: 4096,
                ..usual
            },
            Shows {
                long: true,
                ..nothing
            },
        ),
        (
            Block {
                farthest: 9000,
                ..usual
            },
            Shows {
                long: true,
                ..nothing
            },
        ),
        (
            Block { threes: 0, ..usual },
            Shows {
                threes: true,
                ..nothing
            },
        ),
        (
            Block {
                inside: inside(200),
                ..usual
            },
            Shows {
                copies: true,
                ..nothing
            },
        ),
    ];
    for (poor, shows) in cases {
        assert_eq!(head_blocks(&[poor, usual], 4000), (1, shows));
        assert_eq!(head_blocks(&[usual, poor], 4000), (1, nothing));
    }
    let far = Block {
        farthest: 32_768,
        ..usual
    };
    assert_eq!(
        head_blocks(&[usual, far], 4000),
        (
            1,
            Shows {
                far: true,
                ..nothing
            }
        )
    );
    let [fast, faster] = [5, 4].map(|longest| Block {
        inside: inside(longest),
        ..usual
    });
    assert_eq!(
        head_blocks(&[faster, fast, fast], 4000),
        (2, nothing),
        "no primer shows that"
    );
}

#[test]
fn preflate_learns_from_a_primer_what_it_shows() {
    for bits in 1..16 {
        let shows = Shows::from_bits(bits).expect("below 16");
        assert_eq!(shows.to_bits(), bits);
        let primer = Primer::new(shows);
        let mut processor = PreflateStreamProcessor::new(&PreflateConfig::default());
        let chunk = processor.decompress(&primer.deflate).expect("valid");
        assert_eq!(chunk.compressed_size, primer.deflate.len());
        assert_eq!(chunk.blocks.len(), primer.blocks);
        assert_eq!(processor.plain_text().len(), primer.plain_len);
        let parameters = chunk.parameters.expect("of a first chunk");
        assert_eq!(
            format!("{:?}", parameters.add_policy) == "AddAll",
            shows.copies,
            "{parameters:?}"
        );
        assert_eq!(parameters.min_len == 3, shows.threes, "{parameters:?}");
        assert_eq!(
            parameters.window_bits == 15,
            shows.long || shows.far,
            "{parameters:?}"
        );
        assert_eq!(
            parameters.max_token_count == 32_767,
            shows.long || shows.far,
            "{parameters:?}"
        );
        assert_eq!(
            parameters.very_far_matches_detected, shows.far,
            "{parameters:?}"
        );
        assert!(parameters.max_chain <= 2, "{parameters:?}");
    }
    assert!(Primer::new(Shows::default()).deflate.is_empty());
    assert_eq!(Shows::from_bits(16), None);
}

/// A recipe names a primer by its bits only, so its bytes are part of the format.
#[test]
fn the_primers_are_those_of_version_1() {
    let all: Vec<u8> = (0..16)
        .flat_map(|bits| Primer::new(Shows::from_bits(bits).expect("below 16")).deflate)
        .collect();
    assert_eq!((all.len(), crc(&all)), (392_744, 4_189_885_336));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_anywhere_in_a_recipe_is_an_error_even_with_the_check_made_right(at: prop::sample::Index, bit in 0u32..8) {
        let gz = gzip(&words(150_000, 16), 6);
        let Opened { plain, mut recipe } = opened(&gz);
        let at = at.index(recipe.len());
        recipe[at] ^= 1u8 << bit;
        prop_assert!(rebuild(&plain, &recipe, gz.len()).is_err());
        // The check itself is made right again, and a correction may have bits that mean nothing.
        if let Ok(rebuilt) = rebuild(&plain, &sealed(recipe), gz.len()) {
            prop_assert!(rebuilt == gz);
        }
    }

    #[test]
    fn any_corrections_end_and_never_panic(
        pieces in prop::collection::vec((0usize..5_000, prop::collection::vec(any::<u8>(), 0..300)), 1..6),
        level in prop::sample::select(vec![0u32, 1, 6]),
        primer in 0u8..16,
    ) {
        let plain = words(8_000, 17);
        let gz = gzip(&plain, level);
        let stream = &gz[10..gz.len() - 8];
        let blocks = walk(stream, WalkLimits { plain_len: plain.len(), blocks: 1000 }).expect("valid");
        let head = Head { bytes: &stream[bytes_of(0, blocks[0].end_bit)], primer: Shows::from_bits(primer).expect("below 16") };
        prop_assume!(head.bytes.len() <= MAX_HEAD_LEN);
        let mut out = Vec::new();
        let (mut joiner, _) = Joiner::new(head, &plain, &mut out).expect("the head is valid");
        for (len, mut corrections) in pieces {
            // Flags that are admitted, so that most cases get past the door: false for each.
            if let Some(first) = corrections.first_mut() { *first &= 1; }
            if joiner.piece(&plain[..len], &corrections, &mut out).is_err() { break; }
        }
    }

    #[test]
    fn garbage_behind_a_gzip_header_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..4000), flags in 0u8..40) {
        let gz = [&[0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3][..], &garbage].concat();
        let _ = open(&gz, &GzipLimits { max_compressed: 1 << 20, max_plain: 1 << 20 });
        let _ = rebuild(&garbage, &sealed([b"GZR\x01\0\0\0\0", &garbage[..]].concat()), 1 << 20);
        let _ = Joiner::new(Head { bytes: &garbage, primer: Shows::from_bits(flags % 16).expect("below 16") }, &garbage, &mut Vec::new());
    }

    #[test]
    fn a_flipped_bit_in_gzip_data_is_refused_or_reproduced(at: prop::sample::Index, bit in 0u32..8) {
        let mut gz = gzip(&words(150_000, 18), 6);
        let at = at.index(gz.len());
        gz[at] ^= 1u8 << bit;
        if let Ok(result) = open(&gz, &LIMITS) {
            prop_assert!(rebuild(&result.plain, &result.recipe, gz.len()) == Ok(gz.clone()));
            let mut inflated = Vec::new();
            if MultiGzDecoder::new(&gz[..]).read_to_end(&mut inflated).is_ok() {
                prop_assert!(inflated == result.plain);
            }
        }
    }
}
