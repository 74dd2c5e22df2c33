//! The real engine under a scheduler with a seed: writers, a deleter, collectors and readers at once, with calls that fail, replies that get lost, puts that come late and processes that die.
//!
//! What must hold in every run: what was acknowledged and not deleted comes back byte for byte; what is listed is whole; what was deleted does not come back by itself; in the end no garbage is left.
//! A failure prints its seed: `CRYOSTORE_SEED=n` runs that one (`CRYOSTORE_TRACE=file` writes its calls down), `CRYOSTORE_SEEDS=n` as many as said.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryostore_engine::format::SnapshotId;
use cryostore_engine::gc::{GcOptions, collect};
use cryostore_engine::{
    Env, Filter, ImportOptions, Kind, Output, Repository, Silent, Source, Store, check, export,
    import, optimize,
};
use cryostore_tests::archives::{checkpoint_of, noise};
use cryostore_tests::simulation::{Chance, Faults, Scheduler};
use cryostore_tests::{bytes_of, lasting};

const PAGE: usize = 4096;
const ACTORS: usize = 6;

/// Chance of a seed, and a clock that stands still.
#[derive(Debug)]
struct Seeded(Mutex<Chance>);

impl Env for Seeded {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    fn random(&self) -> [u8; 32] {
        let mut chance = self.0.lock().unwrap();
        let mut out = [0; 32];
        for part in out.chunks_mut(8) {
            part.copy_from_slice(&chance.draw().to_le_bytes());
        }
        out
    }
    fn owner(&self) -> String {
        "simulation".to_owned()
    }
}

/// What the actors were told, and what they have asked for.
#[derive(Debug, Default)]
struct Told {
    /// Acknowledged imports and what they hold.
    acknowledged: BTreeMap<SnapshotId, Vec<u8>>,
    /// Somebody has tried to delete these.
    tried_to_delete: BTreeSet<SnapshotId>,
    /// These were brought back, and nobody has tried to delete them since.
    brought_back: BTreeSet<SnapshotId>,
    /// All that was ever imported, acknowledged or not.
    archives: Vec<Vec<u8>>,
}

struct World {
    scheduler: Arc<Scheduler>,
    told: Mutex<Told>,
    seed: u64,
    /// Directory of caches, in the runs that have them.
    caches: Option<tempfile::TempDir>,
}

impl World {
    fn open(&self, actor: usize, life: u64) -> Option<Repository> {
        let store = Store::new(Arc::new(self.scheduler.store_of(actor)), "simulation").unwrap();
        let env = Seeded(Mutex::new(Chance::new(
            self.seed ^ (actor as u64 + 1) << 32 ^ life << 48,
        )));
        let cache = self
            .caches
            .as_ref()
            .map(|dir| dir.path().join(actor.to_string()));
        Repository::open(store, Arc::new(env), cache.as_deref()).ok()
    }

    /// The repository without faults.
    fn calm(&self) -> Repository {
        let store = Store::new(self.scheduler.store(), "simulation").unwrap();
        let env = Seeded(Mutex::new(Chance::new(!self.seed)));
        Repository::open(store, Arc::new(env), None).unwrap()
    }
}

/// Version `n` of a container's archive: some pages of its own, some that all have, some that changed a little.
fn archive(container: usize, n: u64) -> Vec<u8> {
    let mut pages = noise(6 * PAGE, container as u64);
    pages[usize::try_from(n).unwrap() % 6 * PAGE..][..PAGE].copy_from_slice(&noise(PAGE, 100 + n));
    pages[..8].copy_from_slice(&n.to_le_bytes());
    pages.extend_from_slice(&noise(2 * PAGE, 77));
    checkpoint_of(&format!("c{container}"), &pages, PAGE as u64)
}

fn imports(world: &World, actor: usize, chance: &mut Chance) {
    for round in 0..2 {
        let container = chance.below(2);
        let bytes = archive(container, chance.draw() % 5);
        world.told.lock().unwrap().archives.push(bytes.clone());
        let Some(repo) = world.open(actor, round) else {
            continue;
        };
        let source = Source::Stream(Box::new(std::io::Cursor::new(bytes.clone())));
        let done = import(&repo, source, &ImportOptions::default(), &Silent);
        if let Ok(imported) = done {
            let id = imported.snapshot.id;
            world.told.lock().unwrap().acknowledged.insert(id, bytes);
        }
    }
}

fn deletes(world: &World, actor: usize, chance: &mut Chance) {
    for round in 0..3 {
        let Some(repo) = world.open(actor, round) else {
            continue;
        };
        if chance.per_mille(300) {
            let Ok(list) = repo.snapshots_and_deleted() else {
                continue;
            };
            let Some((record, _)) = list.deleted.first() else {
                continue;
            };
            if repo.undelete(record).is_ok() {
                world.told.lock().unwrap().brought_back.insert(record.id);
            }
            continue;
        }
        let Ok(list) = repo.snapshots() else { continue };
        if list.snapshots.is_empty() {
            continue;
        }
        let id = list.snapshots[chance.below(list.snapshots.len())].id;
        {
            let mut told = world.told.lock().unwrap();
            told.tried_to_delete.insert(id);
            told.brought_back.remove(&id);
        }
        let _ = repo.delete(&[id], "simulation");
    }
}

fn collects(world: &World, actor: usize, chance: &mut Chance) {
    for round in 0..3 {
        let Some(repo) = world.open(actor, round) else {
            continue;
        };
        let mut options = GcOptions {
            grace: Duration::from_secs(if chance.per_mille(300) { 60 } else { 0 }),
            ..GcOptions::default()
        };
        // Any session can be taken for one that stands still.
        if chance.per_mille(400)
            && let Ok(sessions) = repo.sessions()
            && !sessions.is_empty()
        {
            let session = &sessions[chance.below(sessions.len())];
            options.end_sessions.push(session.record.id.to_string());
        }
        let _ = collect(&repo, &options, &Silent);
    }
}

fn reads(world: &World, actor: usize, chance: &mut Chance) {
    for round in 0..2 {
        let Some(repo) = world.open(actor, round) else {
            continue;
        };
        let Ok(list) = repo.snapshots() else { continue };
        if list.snapshots.is_empty() {
            continue;
        }
        let record = &list.snapshots[chance.below(list.snapshots.len())];
        if chance.per_mille(250) {
            let _ = optimize(&repo, record, &Silent);
            continue;
        }
        let mut out = Vec::new();
        match export(&repo, record, Output::Stream(&mut out), &Silent) {
            Ok(_) => assert!(
                world.told.lock().unwrap().archives.contains(&out),
                "an export of something else"
            ),
            // Its session may not have been there, or the snapshot was freed before it was.
            Err(e) => assert_ne!(e.kind(), Kind::Internal, "{e}"),
        }
    }
}

/// An actor ends also when it panics, so that the others go on and the panic is seen.
struct Ends<'w>(&'w World, usize);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.scheduler.ended(self.1);
    }
}

fn run(seed: u64) {
    let mut chance = Chance::new(seed);
    let scheduler = Scheduler::new(ACTORS);
    let store = Store::new(scheduler.store(), "simulation").unwrap();
    Repository::init(&store, &Seeded(Mutex::new(Chance::new(seed)))).unwrap();
    let world = World {
        scheduler: Arc::clone(&scheduler),
        told: Mutex::default(),
        seed,
        caches: (seed % 16 == 7).then(|| tempfile::tempdir().unwrap()),
    };
    // Something to begin with.
    let base = archive(0, 0);
    world.told.lock().unwrap().archives.push(base.clone());
    let source = Source::Stream(Box::new(std::io::Cursor::new(base.clone())));
    let first = import(&world.calm(), source, &ImportOptions::default(), &Silent).unwrap();
    world
        .told
        .lock()
        .unwrap()
        .acknowledged
        .insert(first.snapshot.id, base);

    let faults = match seed % 4 {
        0 => Faults {
            fails: 0,
            reply_lost: 0,
            late: 0,
            dies: 0,
        },
        1 => Faults {
            fails: 20,
            reply_lost: 20,
            late: 10,
            dies: 2,
        },
        2 => Faults {
            fails: 5,
            reply_lost: 30,
            late: 30,
            dies: 5,
        },
        _ => Faults {
            fails: 0,
            reply_lost: 5,
            late: 5,
            dies: 10,
        },
    };
    std::thread::scope(|scope| {
        for actor in 0..ACTORS {
            let world = &world;
            let mut chance = Chance::new(seed.wrapping_mul(31).wrapping_add(actor as u64));
            scope.spawn(move || {
                let _ends = Ends(world, actor);
                match actor {
                    0 | 1 => imports(world, actor, &mut chance),
                    2 => deletes(world, actor, &mut chance),
                    3 | 4 => collects(world, actor, &mut chance),
                    _ => reads(world, actor, &mut chance),
                }
            });
        }
        scheduler.run(&mut chance, faults);
    });
    scheduler.calm();
    if let Some(path) = std::env::var_os("CRYOSTORE_TRACE") {
        std::fs::write(path, scheduler.log().join("\n")).unwrap();
    }
    verdict(&world);
}

fn verdict(world: &World) {
    let told = world.told.lock().unwrap();
    let repo = world.calm();
    let whole = |when: &str| {
        let list = repo.snapshots().unwrap();
        assert!(list.damaged.is_empty(), "{when}: {:?}", list.damaged);
        for record in &list.snapshots {
            let bytes = bytes_of(&repo, record, &Silent)
                .unwrap_or_else(|e| panic!("{when}: listed, and {e}"));
            assert!(
                told.archives.contains(&bytes),
                "{when}: {} holds something else",
                record.id
            );
        }
        for (id, bytes) in &told.acknowledged {
            if told.tried_to_delete.contains(id) && !told.brought_back.contains(id) {
                continue;
            }
            let record = list.find(&id.to_string(), &Filter::default());
            let record = record.unwrap_or_else(|e| panic!("{when}: acknowledged, and {e}"));
            assert!(
                bytes_of(&repo, record, &Silent).unwrap() == *bytes,
                "{when}: {id}"
            );
        }
        list.snapshots
            .iter()
            .map(|record| record.id)
            .collect::<BTreeSet<_>>()
    };
    let before = whole("afterwards");
    // All garbage goes in the end.
    for _ in 0..3 {
        let sessions = repo.sessions().unwrap();
        let options = GcOptions {
            end_sessions: sessions.iter().map(|s| s.record.id.to_string()).collect(),
            ..GcOptions::default()
        };
        collect(&repo, &options, &Silent).unwrap();
    }
    assert_eq!(
        whole("collected"),
        before,
        "a collection changed what is listed"
    );
    let needed: BTreeSet<String> = repo
        .snapshots()
        .unwrap()
        .snapshots
        .iter()
        .flat_map(|record| repo.manifest(record).unwrap().packs)
        .map(|pack| pack.to_string())
        .collect();
    // A rewriting that was given up before it was settled keeps its packs while its snapshot is there. Both were put by one session.
    let unsettled = repo.store().list("rewritten").unwrap();
    let unsettled: BTreeSet<String> = unsettled
        .iter()
        .filter_map(|object| Some(object.name.rsplit_once('-')?.1[..16].to_owned()))
        .collect();
    for (name, _) in lasting(&repo) {
        let pack = name.strip_prefix("packs/").map(|rest| rest[3..].to_owned());
        assert!(
            pack.is_none_or(|pack| needed.contains(&pack) || unsettled.contains(&pack[..16])),
            "garbage: {name}"
        );
        assert!(!name.starts_with("sessions/"), "a session is left: {name}");
    }
    let report = check::check(&repo, &check::CheckOptions { read_data: true }, &Silent).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap())
}

#[test]
fn no_schedule_and_no_fault_loses_what_was_acknowledged_or_leaves_garbage() {
    if let Some(seed) = number("CRYOSTORE_SEED") {
        return run(seed);
    }
    let seeds = number("CRYOSTORE_SEEDS").unwrap_or(10_000);
    let next = std::sync::atomic::AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let result = std::panic::catch_unwind(|| run(seed));
                    if let Err(panic) = result {
                        next.store(seeds, std::sync::atomic::Ordering::Relaxed);
                        let text = panic.downcast_ref::<String>().cloned();
                        let text =
                            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                        panic!("CRYOSTORE_SEED={seed}: {}", text.unwrap_or_default());
                    }
                }
            });
        }
    });
}
