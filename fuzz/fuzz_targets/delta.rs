//! Tables of deltas: what is decoded encodes to what decodes equal, and what is taken in has no circles and no long chains.

#![no_main]

use std::collections::HashMap;

use cryostore_format::delta::{DeltaTable, Deltas};
use cryostore_format::limits::DELTA_CHAIN_MAX;
use cryostore_format::recipe::Slice;
use libfuzzer_sys::fuzz_target;

/// The longest chain behind each page, page by page.
fn check_chains(deltas: &Deltas) {
    let mut chains: HashMap<(u32, u32), Vec<u32>> = HashMap::new();
    for delta in deltas.frames() {
        let mut own = Vec::new();
        for run in &delta.bases {
            let pages = run.base.len() / u64::from(delta.page_size);
            for n in 0..pages {
                own.push(match &run.base {
                    Slice::Zero { .. } => 0,
                    Slice::Frame(base) => {
                        // Another frame at the same place is none of these: it would be refused when it is read.
                        let known = deltas.get(&base.frame).is_some();
                        let behind = chains.get(&(base.frame.pack, base.frame.offset));
                        let behind = behind.filter(|_| known);
                        let page = usize::from(base.skip) + n as usize;
                        1 + behind.map_or(0, |behind| behind.get(page).copied().unwrap_or(0))
                    }
                });
            }
        }
        assert_eq!(own.len(), usize::from(delta.frame.chunks));
        assert!(own.iter().all(|chain| *chain <= DELTA_CHAIN_MAX));
        chains.insert((delta.frame.pack, delta.frame.offset), own);
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(table) = DeltaTable::decode(data) else {
        return;
    };
    for delta in &table.frames {
        let len: u64 = delta.bases.iter().map(|run| run.base.len()).sum();
        assert_eq!(len, delta.len());
    }
    let again = DeltaTable::decode(&table.encode()).unwrap();
    assert_eq!(again.packs, table.packs);
    assert_eq!(again.frames.len(), table.frames.len());
    let mut deltas = Deltas::default();
    for delta in table.frames {
        // What is refused is left out.
        let _ = deltas.add(delta, 0);
    }
    check_chains(&deltas);
    for delta in deltas.frames() {
        assert_eq!(deltas.get(&delta.frame), Some(delta));
        assert_eq!(deltas.table_of(&delta.frame), Some(0));
    }
});
