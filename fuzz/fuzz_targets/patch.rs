//! Patches: what is read gives the same pages as a whole and in parts; and pages come back from the patch that is made of them.

#![no_main]

use cryostore_format::patch::{Patch, PatchWriter};
use libfuzzer_sys::fuzz_target;

const PAGE: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some((&[pages, cut], content)) = data.split_first_chunk() else {
        return;
    };
    let bases: Vec<u8> = (0..usize::from(pages) * PAGE).map(|n| (n / 3) as u8).collect();
    let Ok(patch) = Patch::decode(content, pages.into(), PAGE as u32) else {
        return;
    };
    let mut whole = bases.clone();
    patch.apply(0, &mut whole).unwrap();
    let cut = usize::from(cut) * 13 % (bases.len() + 1);
    let mut parts = bases.clone();
    let (head, tail) = parts.split_at_mut(cut);
    patch.apply(0, head).unwrap();
    patch.apply(cut, tail).unwrap();
    assert!(parts == whole);
    assert!(patch.apply(0, &mut vec![0; bases.len() + 1]).is_err());

    let mut writer = PatchWriter::default();
    for (base, page) in bases.chunks(PAGE).zip(whole.chunks(PAGE)) {
        writer.push(base, page);
    }
    let again = writer.finish();
    // Words that a patch sets to what they are already are not written again.
    assert!(again.len() <= content.len());
    let mut pages_again = bases.clone();
    Patch::decode(&again, pages.into(), PAGE as u32)
        .unwrap()
        .apply(0, &mut pages_again)
        .unwrap();
    assert!(pages_again == whole);
});
