//! What tests of failures share: snapshots that must outlive everything, errors that must say what to do, monitors that interfere.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{Error, Filter, Imported, Kind, Monitor, Phase, Silent};

use crate::archives::{checkpoint_of, noise};
use crate::{Place, lasting};

/// A repository with snapshots that must come back whatever happens to it.
#[derive(Debug)]
pub struct Earlier {
    /// The repository.
    pub place: Place,
    snapshots: Vec<(SnapshotRecord, Vec<u8>)>,
    objects: Vec<(String, u64)>,
}

impl Default for Earlier {
    fn default() -> Self {
        Self::new()
    }
}

impl Earlier {
    /// Two snapshots of the container `work`, one of another.
    #[must_use]
    pub fn new() -> Self {
        Self::at(Place::new())
    }

    /// The same in a repository that is there.
    #[must_use]
    pub fn at(place: Place) -> Self {
        let mut earlier = Self {
            place,
            snapshots: Vec::new(),
            objects: Vec::new(),
        };
        for (container, seed) in [("work", 1), ("work", 2), ("other", 3)] {
            let tar = checkpoint_of(container, &noise(20 * 4096, seed), 4096);
            let imported = earlier.place.import_bytes("earlier.tar", &tar).unwrap();
            earlier.add(&imported, &tar);
        }
        earlier
    }

    /// Another that must come back from now on.
    pub fn add(&mut self, imported: &Imported, bytes: &[u8]) {
        self.snapshots
            .push((imported.snapshot.clone(), bytes.to_vec()));
        self.objects = self.place.lasting();
    }

    /// What is there now is what has to stay.
    pub fn refresh(&mut self) {
        self.objects = self.place.lasting();
    }

    /// The snapshots and their archives.
    #[must_use]
    pub fn snapshots(&self) -> &[(SnapshotRecord, Vec<u8>)] {
        &self.snapshots
    }

    /// All snapshots come back byte for byte, by the record that the store has.
    pub fn assert_whole(&self, when: &str) {
        let list = self.place.open().snapshots().unwrap();
        for (record, bytes) in &self.snapshots {
            let found = list.find(&record.id.to_string(), &Filter::default());
            let found = found.unwrap_or_else(|e| panic!("{when}: {e}"));
            assert_eq!(found, record, "{when}");
            assert!(
                self.place.bytes_of(found) == *bytes,
                "{when}: snapshot {}",
                record.id
            );
        }
    }

    /// There is no other snapshot, and no session.
    pub fn assert_nothing_new(&self, when: &str) {
        let repo = self.place.open();
        let list = repo.snapshots().unwrap();
        let mut ids: Vec<_> = list.snapshots.iter().map(|record| record.id).collect();
        let mut expected: Vec<_> = self.snapshots.iter().map(|(record, _)| record.id).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        assert_eq!(ids, expected, "{when}: other snapshots than before");
        assert!(list.damaged.is_empty(), "{when}: {:?}", list.damaged);
        assert!(
            repo.sessions().unwrap().is_empty(),
            "{when}: a session is left"
        );
    }

    /// As both, and a collection brings the store back to the very objects and files that it had.
    pub fn assert_untouched(&self, when: &str) {
        self.assert_nothing_new(when);
        gc::collect(&self.place.open(), &GcOptions::default(), &Silent).unwrap();
        let repo = self.place.open();
        let objects = self.place.objects("");
        let files = files_below(&self.place.store_dir());
        assert_eq!(files, objects.len(), "{when}: files that are no objects");
        let left = lasting(&repo);
        assert_eq!(
            left, self.objects,
            "{when}: what is left after a collection"
        );
        self.assert_whole(when);
    }

    /// An import was refused as it must be, and nothing is visible of it.
    pub fn assert_refused(
        &self,
        when: &str,
        result: Result<Imported, Error>,
        kind: Kind,
        words: &[&str],
    ) -> Error {
        let error = refusal(
            when,
            result.map(|imported| imported.snapshot.id),
            kind,
            words,
        );
        self.assert_nothing_new(when);
        error
    }

    /// An archive that is merely strange was stored byte for byte, and a warning says each of `words`.
    pub fn assert_stored(
        &mut self,
        when: &str,
        result: Result<Imported, Error>,
        bytes: &[u8],
        words: &[&str],
    ) -> Imported {
        let imported = result.unwrap_or_else(|e| panic!("{when}: {e}"));
        assert!(
            self.place.bytes_of(&imported.snapshot) == bytes,
            "{when}: not the same bytes"
        );
        let warnings = imported.snapshot.warnings.join("\n");
        for word in words {
            assert!(
                warnings.contains(word),
                "{when}: `{word}` is in no warning of {warnings:?}"
            );
        }
        self.add(&imported, bytes);
        imported
    }
}

/// An error of this kind whose text has all of `words` and which says what to do.
pub fn refusal<T: std::fmt::Debug>(
    when: &str,
    result: Result<T, Error>,
    kind: Kind,
    words: &[&str],
) -> Error {
    let error = match result {
        Ok(value) => panic!("{when}: not refused: {value:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), kind, "{when}: {error}");
    for word in words {
        assert!(
            error.to_string().contains(word),
            "{when}: `{word}` is not in `{error}`"
        );
    }
    let advice = error.advice().is_some_and(|advice| advice.len() > 10)
        || error.to_string().contains("use a newer cryostore");
    assert!(advice, "{when}: no advice with `{error}`");
    error
}

fn files_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}

/// Keeps warnings.
#[derive(Debug, Default)]
pub struct Listening(Mutex<Vec<String>>);

impl Listening {
    /// The warnings so far, line by line.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

impl Monitor for Listening {
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

/// Stops the work when it asks for the `n`-th time, counted from 0, and ever after.
#[derive(Debug)]
pub struct StopAt {
    at: u64,
    asked: AtomicU64,
}

impl StopAt {
    /// Stops at the `n`-th question.
    #[must_use]
    pub fn new(at: u64) -> Self {
        Self {
            at,
            asked: AtomicU64::new(0),
        }
    }

    /// How often it was asked.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Monitor for StopAt {
    fn stop(&self) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst) >= self.at
    }
}

/// Does something once, at the first progress of a phase.
pub struct Once<'f> {
    phase: Phase,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'f>>>,
}

impl std::fmt::Debug for Once<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Once({:?})", self.phase)
    }
}

impl<'f> Once<'f> {
    /// Does `act` at the first progress.
    pub fn at(phase: Phase, act: impl FnOnce() + Send + 'f) -> Self {
        Self {
            phase,
            act: Mutex::new(Some(Box::new(act))),
        }
    }

    /// True if it was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.act.lock().unwrap().is_none()
    }
}

impl Monitor for Once<'_> {
    fn progress(&self, phase: Phase, _: u64, _: Option<u64>) {
        if phase == self.phase
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}
