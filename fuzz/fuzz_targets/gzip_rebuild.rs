//! Gzip data taken apart: `open` on anything, and `rebuild` with a recipe and a plain text of an attacker.
//!
//! What is kept away from here, because it would find what is known and not ours: preflate panics over bad corrections
//! (caught by us, so its panics only count when one gets out), and takes a time that grows with the plain text (a search of 32 KiB at
//! each byte, as `gzip -9` does), so that the texts are short. Debug assertions are on here and off in the program: preflate gives
//! up earlier than it would there.

#![no_main]

use std::io::{Read as _, Write as _};
use std::panic;
use std::sync::{Once, OnceLock};

use cryostore_engine::archive::gzip::{GzipLimits, Opened, RebuildError, Refusal, open, rebuild};
use cryostore_fuzz::Dice;
use flate2::read::MultiGzDecoder;
use libfuzzer_sys::fuzz_target;

const LIMITS: GzipLimits = GzipLimits {
    max_compressed: 256 << 10,
    max_plain: 512 << 10,
};
/// A recipe may announce less than this, and get it.
const MOST_OUTPUT: usize = 256 << 10;
/// More than this of a plain text and a run takes seconds.
const MOST_PLAIN: usize = 32 << 10;

/// libFuzzer's hook ends the process at every panic, also at those that we catch: those of other crates may be caught.
fn let_preflate_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ends_the_process = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Crates of a registry, and the standard library.
            let foreign = |file: &str| {
                file.contains("/registry/src/")
                    || file.contains("/rustc/")
                    || file.contains("/library/")
            };
            if !info.location().is_some_and(|place| foreign(place.file())) {
                ends_the_process(info);
            }
        }));
    });
}

/// Gzip data that can be opened, and is about as short as that allows: a recipe is worth it from three heads on, and a head is a
/// block of 40 KB.
fn sample() -> &'static (Vec<u8>, Opened) {
    static SAMPLE: OnceLock<(Vec<u8>, Opened)> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let mut text = Vec::new();
        for _ in 0..72_000 {
            let word = (next() % 300 + 1).wrapping_mul(2_654_435_761) >> 12;
            write!(text, "{word:x} ").unwrap();
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(&text).unwrap();
        let gz = encoder.finish().unwrap();
        let opened = open(&gz, &LIMITS).unwrap();
        (gz, opened)
    })
}

/// The recipe with its check put right.
fn checked(mut recipe: Vec<u8>) -> Vec<u8> {
    if let Some((head, rest)) = recipe.split_at_mut_checked(8) {
        let mut crc = flate2::Crc::new();
        crc.update(rest);
        head[..4].copy_from_slice(b"GZR\x01");
        head[4..].copy_from_slice(&crc.sum().to_le_bytes());
    }
    recipe
}

fn rebuilt(plain: &[u8], recipe: &[u8]) {
    match rebuild(plain, recipe, MOST_OUTPUT) {
        Ok(gz) => assert!(gz.len() <= MOST_OUTPUT, "{} bytes", gz.len()),
        Err(RebuildError::TooLarge { len, limit }) => {
            assert!(len > limit as u64 && limit == MOST_OUTPUT)
        }
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

/// Small changes of what `open` made.
fn changed(dice: Dice<'_>) {
    let (gz, opened) = sample();
    let (mut plain, mut recipe) = (opened.plain.clone(), opened.recipe.clone());
    let mut dice = dice;
    let mut same = true;
    for _ in 0..8 {
        if dice.is_empty() {
            break;
        }
        let to = dice.byte();
        let at = dice.long() as usize;
        let bytes = if to & 1 == 0 { &mut recipe } else { &mut plain };
        let len = bytes.len();
        match dice.byte() {
            0 => bytes.truncate(at % len.max(1)),
            1 => bytes.extend_from_slice(dice.bytes(usize::from(to))),
            change => {
                if let Some(byte) = bytes.get_mut(at % len.max(1)) {
                    *byte ^= change;
                }
            }
        }
    }
    same &= plain == opened.plain;
    let recipe = checked(recipe);
    same &= recipe == opened.recipe;
    match rebuild(&plain, &recipe, gz.len()) {
        Ok(rebuilt) => assert!(rebuilt.len() <= gz.len() && (!same || rebuilt == *gz)),
        Err(e) => assert!(!same, "what was opened is not rebuilt: {e}"),
    }
}

/// A recipe with one member and pieces of the fuzzer's.
fn made(dice: Dice<'_>) {
    let mut dice = dice;
    let mut recipe = vec![0; 8];
    let sized = |recipe: &mut Vec<u8>, bytes: &[u8]| {
        recipe.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        recipe.extend_from_slice(bytes);
    };
    recipe.extend_from_slice(&u64::from(dice.short()).to_le_bytes());
    recipe.extend_from_slice(&[0; 4]);
    recipe.extend_from_slice(&1_u32.to_le_bytes());
    sized(&mut recipe, b"");
    sized(&mut recipe, b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
    recipe.push(dice.byte() & 31);
    let head_len = usize::from(dice.short());
    sized(&mut recipe, dice.bytes(head_len));
    recipe.extend_from_slice(&[0; 8]);
    let pieces = dice.byte() & 7;
    recipe.extend_from_slice(&u32::from(pieces).to_le_bytes());
    for _ in 0..pieces {
        recipe.extend_from_slice(&u32::from(dice.short()).to_le_bytes());
        let len = usize::from(dice.short());
        sized(&mut recipe, dice.bytes(len));
    }
    let plain = dice.rest();
    rebuilt(&plain[..plain.len().min(MOST_PLAIN)], &checked(recipe));
}

fn opens(gz: &[u8]) {
    match open(gz, &LIMITS) {
        Ok(opened) => {
            assert!(opened.plain.len() <= LIMITS.max_plain);
            assert_eq!(
                rebuild(&opened.plain, &opened.recipe, gz.len()).as_deref(),
                Ok(gz)
            );
            let mut plain = Vec::new();
            // What is behind the last member may be an error to flate2, after all of the content.
            let _ = MultiGzDecoder::new(gz)
                .take(LIMITS.max_plain as u64 + 1)
                .read_to_end(&mut plain);
            assert!(plain == opened.plain, "another content than flate2's");
        }
        Err(Refusal::TooLarge { len, .. }) => assert!(len > LIMITS.max_compressed),
        Err(e) => assert!(!e.to_string().is_empty()),
    }
}

fuzz_target!(|data: &[u8]| {
    let_preflate_panic();
    let Some((way, rest)) = data.split_first() else {
        return;
    };
    match way & 3 {
        0 => opens(rest),
        1 => {
            let (plain, recipe) = rest.split_at(rest.len() / 2);
            rebuilt(plain, recipe);
            rebuilt(plain, &checked(recipe.to_vec()));
        }
        2 => changed(Dice::new(rest)),
        _ => made(Dice::new(rest)),
    }
});
