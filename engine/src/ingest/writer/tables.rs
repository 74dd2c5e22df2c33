//! Owns the tables of deltas: those that are taken over from the base, and those that this session writes.
//!
//! Always: a delta frame that a recipe names, or that another one is made of, is in a table that the manifest names. Never: takes over more tables than that.

use std::sync::Arc;

use cryostore_format::delta::{DeltaTable, TablePack};
use cryostore_format::manifest::Manifest;
use cryostore_format::recipe::{FrameRef, Slice};

use super::{PackTable, Writer, count, frame_ref};
use crate::codec::frame::seal_table;
use crate::error::{Error, Kind, Result};
use crate::ingest::deltas;
use crate::limits;

impl<'r> Writer<'r> {
    /// Numbers of the packs that a frame of the base and its bases are in; none if one of them is not there.
    pub(super) fn needed(&mut self, manifest: &Manifest, frame: &FrameRef) -> Option<()> {
        let key = (frame.pack, frame.offset);
        if let Some(whole) = self.chains.get(&key) {
            return whole.then_some(());
        }
        let mut whole = self.base_frame_ref(*frame).is_some();
        if let Some(delta) = manifest.deltas.get(frame) {
            for run in &delta.bases {
                if let Slice::Frame(base) = run.base {
                    whole = whole && self.needed(manifest, &base.frame).is_some();
                }
            }
        }
        self.chains.insert(key, whole);
        whole.then_some(())
    }

    /// Takes the table of a delta frame of the base, and those of the frames that it needs, over into this manifest.
    pub(super) fn take_over(&mut self, manifest: &Manifest, frame: &FrameRef) -> Option<()> {
        let Some(delta) = manifest.deltas.get(frame) else {
            return Some(());
        };
        if !self.taken_over.insert((frame.pack, frame.offset)) {
            return Some(());
        }
        self.base_frame_ref(*frame)?;
        for run in &delta.bases {
            if let Slice::Frame(base) = run.base {
                self.base_frame_ref(base.frame)?;
                self.take_over(manifest, &base.frame)?;
            }
        }
        let table = manifest.deltas.table_of(frame)?;
        if !self.base_tables.contains_key(&table) {
            let (frame, len) = *manifest.tables.get(table)?;
            let frame = self.base_frame_ref(frame)?;
            self.base_tables.insert(table, (frame, len));
        }
        Some(())
    }

    /// Notes the delta frames that were placed, with all that they need.
    pub(super) fn note_deltas(&mut self) -> Result<()> {
        for text in self.sink.warnings() {
            self.monitor.warning(&text);
        }
        for delta in self.sink.placed_deltas() {
            let lost = || Error::new(Kind::Internal, "a base was lost");
            let (manifest, step) = self.delta_base.as_ref().ok_or_else(lost)?;
            let (manifest, step) = (Arc::clone(manifest), *step);
            for base in &delta.bases {
                let frame = &base.chunk.frame;
                self.take_over(&manifest, frame).ok_or_else(lost)?;
                if manifest.deltas.get(frame).is_some() {
                    let pack = manifest.packs.get(frame.pack as usize);
                    self.delta_packs.insert(*pack.ok_or_else(lost)?);
                }
            }
            self.delta_packs.insert(delta.placed.pack);
            let pack = self.packs.number(delta.placed.pack, || {});
            let frame = frame_ref(pack, &delta.placed.entry);
            let map = |frame| self.base_frame_ref(frame);
            let entry = deltas::entry_of(frame, delta.page_size, &delta.bases, step, map);
            self.untabled.push(entry.ok_or_else(lost)?);
            // Those that are stored again are the same as in the base.
            let pages = delta.bases.iter().filter(|base| !base.again).count() as u64;
            let bytes = pages * u64::from(delta.page_size);
            count(&mut self.classes.delta, pages, bytes);
            self.classes.new.pages = self.classes.new.pages.saturating_sub(pages);
            self.classes.new.bytes = self.classes.new.bytes.saturating_sub(bytes);
        }
        if self.untabled.len() >= limits::TABLE_FRAMES {
            self.put_table()?;
        }
        Ok(())
    }

    /// Writes down what the delta frames that are in no table yet are made of.
    pub(super) fn put_table(&mut self) -> Result<()> {
        let mut frames = std::mem::take(&mut self.untabled);
        if frames.is_empty() {
            return Ok(());
        }
        let mut packs = PackTable::default();
        for delta in &mut frames {
            let bases = delta
                .bases
                .iter_mut()
                .filter_map(|run| match &mut run.base {
                    Slice::Frame(base) => Some(&mut base.frame),
                    Slice::Zero { .. } => None,
                });
            for frame in std::iter::once(&mut delta.frame).chain(bases) {
                let pack = self.packs.packs.get(frame.pack as usize).copied();
                let lost = || Error::new(Kind::Internal, "a pack was lost");
                frame.pack = packs.number(pack.ok_or_else(lost)?, || {});
            }
        }
        let of_deltas = &self.delta_packs;
        let packs = packs.packs.into_iter().map(|id| TablePack {
            id,
            deltas: of_deltas.contains(&id),
        });
        let packs = packs.collect();
        let table = DeltaTable { packs, frames }.encode();
        let sealed = seal_table(self.repo.key(), &table)?;
        let placed = self.sink.add(&sealed, &self.directories)?;
        let pack = self.packs.number(placed.pack, || {});
        let frame = frame_ref(pack, &placed.entry);
        self.tables.push((frame, sealed.header.plain_len));
        self.exists
            .extend(self.sink.ended_packs().map(|pack| (pack, true)));
        Ok(())
    }
}
