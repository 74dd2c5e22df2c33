//! What happens while an import or a collection works: sources that change, Ctrl-C, `kill -9`, another process.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;

use cryostore_engine::check::{self, CheckOptions};
use cryostore_engine::format::SessionId;
use cryostore_engine::format::session::{SessionRecord, Work};
use cryostore_engine::gc::{self, GcOptions};
use cryostore_engine::{
    ImportOptions, Kind, Output, Phase, Silent, Source, StreamImport, export, import,
    rebuild_index, unpack,
};
use cryostore_tests::archives::{checkpoint, checkpoint_of, inventory, noise};
use cryostore_tests::failures::{Earlier, Once, StopAt, refusal};
use cryostore_tests::{Place, open_at};

type Change = fn(&Path);

#[test]
fn an_archive_that_changes_while_it_is_read_is_refused() {
    let earlier = Earlier::new();
    let tar = checkpoint(&noise(26 << 20, 6), 4096);
    let changes: [(&str, Change, &[&str]); 6] = [
        (
            "cut to nothing",
            |path| File::create(path).map(drop).unwrap(),
            &["cut short"],
        ),
        (
            "cut in the middle",
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(20 << 20)
                    .unwrap()
            },
            &["cut short"],
        ),
        (
            "grows",
            |path| {
                File::options()
                    .append(true)
                    .open(path)
                    .unwrap()
                    .write_all(&[7; 9000])
                    .unwrap()
            },
            &["changed while it was read"],
        ),
        (
            "a byte that was read",
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .write_all_at(b"x", 5000)
                    .unwrap()
            },
            &["changed while it was read"],
        ),
        (
            "a byte to be read",
            |path| {
                File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .write_all_at(b"x", 25 << 20)
                    .unwrap()
            },
            &["changed while it was read"],
        ),
        (
            "another file of the same name",
            |path| {
                fs::copy(path, path.with_extension("new")).unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            &["changed while it was read"],
        ),
    ];
    let path = earlier.place.path("changing.tar");
    for (when, change, words) in changes {
        fs::write(&path, &tar).unwrap();
        let monitor = Once::at(Phase::Import, || change(&path));
        let result = earlier
            .place
            .import_with(&path, &ImportOptions::default(), &monitor);
        assert!(monitor.is_done(), "{when}");
        let error = earlier.assert_refused(when, result, Kind::Invalid, words);
        assert!(
            error.advice().unwrap().contains("nothing was stored"),
            "{when}"
        );
    }
    fs::write(&path, zstd::bulk::compress(&tar, 1).unwrap()).unwrap();
    let monitor = Once::at(Phase::Import, || {
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(20 << 20)
            .unwrap()
    });
    let result = earlier
        .place
        .import_with(&path, &ImportOptions::default(), &monitor);
    earlier.assert_refused("a compressed archive is cut", result, Kind::Invalid, &[]);
    earlier.assert_untouched("archives that change");
}

#[test]
fn a_directory_whose_files_change_while_it_is_read_is_refused() {
    let earlier = Earlier::new();
    let changes: [(&str, Change, Kind, &[&str]); 6] = [
        (
            "a file grows",
            |dir| {
                File::options()
                    .append(true)
                    .open(dir.join("z.img"))
                    .unwrap()
                    .write_all(b"more")
                    .unwrap()
            },
            Kind::Invalid,
            &["z.img", "changed"],
        ),
        (
            "a file shrinks",
            |dir| {
                File::options()
                    .write(true)
                    .open(dir.join("z.img"))
                    .unwrap()
                    .set_len(3)
                    .unwrap()
            },
            Kind::Invalid,
            &["z.img", "changed"],
        ),
        (
            "the file being read shrinks",
            |dir| {
                File::options()
                    .write(true)
                    .open(dir.join("pages-1.img"))
                    .unwrap()
                    .set_len(9 << 20)
                    .unwrap()
            },
            Kind::Invalid,
            &["pages-1.img", "changed"],
        ),
        (
            "bytes that were read",
            |dir| {
                File::options()
                    .write(true)
                    .open(dir.join("pages-1.img"))
                    .unwrap()
                    .write_all_at(b"x", 5)
                    .unwrap()
            },
            Kind::Invalid,
            &["pages-1.img", "changed"],
        ),
        (
            "bytes to be read",
            |dir| {
                File::options()
                    .write(true)
                    .open(dir.join("z.img"))
                    .unwrap()
                    .write_all_at(b"x", 5)
                    .unwrap()
            },
            Kind::Invalid,
            &["z.img", "changed"],
        ),
        (
            "a file is removed",
            |dir| fs::remove_file(dir.join("z.img")).unwrap(),
            Kind::NotFound,
            &["z.img"],
        ),
    ];
    for (when, change, kind, words) in changes {
        let dir = earlier.place.path("images");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("inventory.img"), inventory(2)).unwrap();
        fs::write(dir.join("pages-1.img"), noise(26 << 20, 7)).unwrap();
        fs::write(dir.join("z.img"), noise(5000, 8)).unwrap();
        let monitor = Once::at(Phase::Import, || change(&dir));
        let result = earlier
            .place
            .import_with(&dir, &ImportOptions::default(), &monitor);
        assert!(monitor.is_done(), "{when}");
        earlier.assert_refused(when, result, kind, words);
        fs::remove_dir_all(&dir).unwrap();
    }
    earlier.assert_untouched("directories that change");
}

#[test]
fn an_import_that_is_stopped_at_any_question_leaves_nothing() {
    let mut earlier = Earlier::new();
    let tar = checkpoint(&noise(9 << 20, 10), 4096);
    let path = earlier.place.path("stopped.tar");
    fs::write(&path, &tar).unwrap();
    let dir = earlier.place.path("images");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("pages-1.img"), noise(9 << 20, 11)).unwrap();
    for source in [&path, &dir] {
        let mut questions = 0;
        let imported = loop {
            let monitor = StopAt::new(questions);
            let result = earlier
                .place
                .import_with(source, &ImportOptions::default(), &monitor);
            match result {
                Ok(imported) => break imported,
                Err(_) => earlier.assert_refused(
                    &format!("question {questions}"),
                    result,
                    Kind::Interrupted,
                    &["stopped"],
                ),
            };
            questions += 1;
        };
        assert!(questions >= 5, "it asks only {questions} times");
        let bytes = earlier.place.bytes_of(&imported.snapshot);
        assert!(source == &dir || bytes == tar);
        gc::collect(&earlier.place.open(), &GcOptions::default(), &Silent).unwrap();
        earlier.add(&imported, &bytes);
    }
    earlier.assert_untouched("stopped imports");
}

#[test]
fn everything_else_that_is_stopped_changes_nothing_that_counts() {
    let mut earlier = Earlier::new();
    let tar = checkpoint(&noise(9 << 20, 10), 4096);
    let imported = earlier.place.import_bytes("large.tar", &tar).unwrap();
    earlier.add(&imported, &tar);
    // Garbage, so that a collection has something to ask about.
    let garbage = earlier
        .place
        .import_bytes(
            "garbage.tar",
            &checkpoint_of("third", &noise(1 << 20, 11), 4096),
        )
        .unwrap();
    earlier
        .place
        .open()
        .delete(&[garbage.snapshot.id], "test")
        .unwrap();
    let (snapshot, file, dir) = (
        &imported.snapshot,
        earlier.place.path("out"),
        earlier.place.path("dir"),
    );
    let repo = earlier.place.open();
    type Work<'w> = Box<dyn Fn(&StopAt) -> Result<(), cryostore_engine::Error> + 'w>;
    let works: [(&str, Work<'_>); 7] = [
        (
            "export to a pipe",
            Box::new(|monitor| {
                export(
                    &repo,
                    snapshot,
                    Output::Stream(&mut std::io::sink()),
                    monitor,
                )
                .map(drop)
            }),
        ),
        (
            "export to a file",
            Box::new(|monitor| {
                export(
                    &repo,
                    snapshot,
                    Output::File {
                        path: file.clone(),
                        sync: true,
                    },
                    monitor,
                )
                .map(drop)
            }),
        ),
        (
            "unpack",
            Box::new(|monitor| unpack(&repo, snapshot, &dir, monitor).map(drop)),
        ),
        (
            "check",
            Box::new(|monitor| {
                check::check(&repo, &CheckOptions { read_data: true }, monitor).map(drop)
            }),
        ),
        (
            "rebuild-index",
            Box::new(|monitor| rebuild_index(&repo, monitor).map(drop)),
        ),
        (
            "stats",
            Box::new(|monitor| cryostore_engine::stats(&repo, monitor).map(drop)),
        ),
        (
            "gc",
            Box::new(|monitor| gc::collect(&repo, &GcOptions::default(), monitor).map(drop)),
        ),
    ];
    for (what, work) in works {
        let mut questions = 0;
        while let Err(e) = work(&StopAt::new(questions)) {
            assert_eq!(
                e.kind(),
                Kind::Interrupted,
                "{what}, question {questions}: {e}"
            );
            assert!(
                !file.exists() && !dir.exists(),
                "{what}, question {questions}"
            );
            earlier.assert_nothing_new(what);
            questions += 1;
        }
        assert!(questions > 0, "{what} cannot be stopped");
        earlier.assert_whole(what);
        let _ = fs::remove_file(&file);
        let _ = fs::remove_dir_all(&dir);
    }
    drop(repo);
    earlier.assert_untouched("stopped works");
}

#[test]
fn imports_at_once_into_one_repository_with_one_cache_all_commit() {
    let earlier = Earlier::new();
    let shared = noise(2 << 20, 20);
    let tars: Vec<Vec<u8>> = (0..6)
        .map(|n| {
            // Two of each container, and half of the pages are everybody's.
            let pages = [shared.clone(), noise(2 << 20, 21 + n)].concat();
            checkpoint_of(&format!("at-once-{}", n / 2), &pages, 4096)
        })
        .collect();
    let barrier = Barrier::new(tars.len());
    let place = &earlier.place;
    let imported: Vec<_> = std::thread::scope(|scope| {
        let start = |(n, tar): (usize, &Vec<u8>)| {
            let (barrier, tar) = (&barrier, tar.clone());
            scope.spawn(move || {
                let path = place.path(&format!("at-once-{n}.tar"));
                fs::write(&path, &tar).unwrap();
                barrier.wait();
                place.import(&path).unwrap()
            })
        };
        let threads: Vec<_> = tars.iter().enumerate().map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (imported, tar) in imported.iter().zip(&tars) {
        assert!(place.bytes_of(&imported.snapshot) == *tar);
    }
    let repo = place.open();
    assert_eq!(repo.snapshots().unwrap().snapshots.len(), 3 + tars.len());
    assert!(repo.sessions().unwrap().is_empty());
    let report = check::check(&repo, &CheckOptions { read_data: true }, &Silent).unwrap();
    assert_eq!(report.problems, []);
    gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    for (imported, tar) in imported.iter().zip(&tars) {
        assert!(
            place.bytes_of(&imported.snapshot) == *tar,
            "after a collection"
        );
    }
    earlier.assert_whole("imports at once");
    // Whoever did not own the index: the next import knows everything all the same.
    let again = place.import_with(
        &place.path("at-once-5.tar"),
        &ImportOptions {
            base: cryostore_engine::BaseChoice::None,
            ..ImportOptions::default()
        },
        &Silent,
    );
    assert_eq!(again.unwrap().snapshot.cost.classes.new.bytes, 0);
}

fn session(work: Work) -> SessionRecord {
    SessionRecord {
        collections: Vec::new(),
        id: SessionId::from_bytes([0xab; 16]),
        work,
        place: None,
        started: "2026-11-20T12:00:00Z".to_owned(),
        renewals: 0,
        owner: "another-node, process 7".to_owned(),
    }
}

#[test]
fn the_record_of_a_collection_of_a_program_before_the_protocol_holds_nobody_up() {
    // In an encrypted repository nobody could put a record from outside.
    let earlier = Earlier::at(Place::in_clear());
    let record = session(Work::Collect);
    let name = format!("sessions/{}", record.id);
    let repo = earlier.place.open();
    repo.store()
        .create(&name, record.encode().unwrap())
        .unwrap();
    let tar = checkpoint(&noise(4096, 1), 4096);
    let imported = earlier.place.import_bytes("late.tar", &tar).unwrap();
    repo.delete(&[imported.snapshot.id], "test").unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(report.garbage.iter().any(|g| g.name.starts_with("packs/")));
    repo.store().delete(&name).unwrap();
    earlier.assert_untouched("a collection");
}

#[test]
fn a_collection_works_beside_an_import_and_one_that_is_told_to_end_it_keeps_it_from_committing() {
    let mut earlier = Earlier::new();
    let repo = earlier.place.open();
    let begin = |seed| {
        let mut work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
        let stream = work.stream(b"pages-1.img").unwrap();
        // More than a pack, so that there is something to be removed.
        work.write(stream, &noise(20 << 20, seed)).unwrap();
        work.end(stream).unwrap();
        work
    };
    // What was garbage when the import began waits for it; what it has put is no garbage.
    let tar = checkpoint(&noise(4096, 1), 4096);
    let garbage = earlier.place.import_bytes("garbage.tar", &tar).unwrap();
    let work = begin(30);
    repo.delete(&[garbage.snapshot.id], "test").unwrap();
    let id = repo.sessions().unwrap()[0].record.id;
    for dry_run in [false, true, false] {
        let options = GcOptions {
            dry_run,
            ..GcOptions::default()
        };
        let report = gc::collect(&repo, &options, &Silent).unwrap();
        let packs = |found: &[gc::Garbage]| {
            found
                .iter()
                .filter(|g| g.name.starts_with("packs/"))
                .count()
        };
        assert_eq!((packs(&report.garbage), packs(&report.waiting)), (0, 1));
        assert_eq!(report.at_work.len(), 1);
        assert_eq!(report.at_work[0].id, id);
    }
    let imported = work.commit().unwrap();
    let bytes = earlier.place.bytes_of(&imported.snapshot);
    earlier.add(&imported, &bytes);
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert!(report.garbage.iter().any(|g| g.name.starts_with("packs/")));
    assert!(report.waiting.is_empty());
    earlier.refresh();

    let work = begin(31);
    let id = repo.sessions().unwrap()[0].record.id.to_string();
    let options = GcOptions {
        end_sessions: vec![id[..8].to_owned()],
        ..GcOptions::default()
    };
    let report = gc::collect(&repo, &options, &Silent).unwrap();
    assert_eq!(report.ended_sessions, [id]);
    // If it could, it would be a snapshot without its packs.
    refusal(
        "its session was ended",
        work.commit(),
        Kind::Conflict,
        &["ended by somebody else", "ended by hand"],
    );
    earlier.assert_untouched("a session that was ended");
}

const CHILD: &str = "CRYOSTORE_TEST_CHILD";

#[test]
fn the_session_of_a_killed_import_is_ended_by_a_collection_and_its_packs_are_removed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        // The process that dies: after some packs, without a word.
        let place = Path::new(&dir);
        let repo = open_at(&place.join("store"), Some(&place.join("cache"))).unwrap();
        let mut work = StreamImport::begin(&repo, ImportOptions::default(), &Silent).unwrap();
        let stream = work.stream(b"pages-1.img").unwrap();
        let pages = noise(16 << 20, 40);
        while repo.store().list("packs").unwrap().len() < 5 {
            let other = repo.env().random()[0];
            work.write(
                stream,
                &pages
                    .iter()
                    .map(|byte| byte.wrapping_add(other))
                    .collect::<Vec<_>>(),
            )
            .unwrap();
        }
        std::process::abort();
    }
    let earlier = Earlier::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "the_session_of_a_killed_import_is_ended_by_a_collection_and_its_packs_are_removed",
    ]);
    assert!(
        !child
            .env(CHILD, earlier.place.dir.path())
            .output()
            .unwrap()
            .status
            .success()
    );
    let repo = earlier.place.open();
    let sessions = repo.sessions().unwrap();
    assert!(sessions.len() == 1 && sessions[0].dead, "{sessions:?}");
    assert!(earlier.place.objects("packs").len() >= 5);
    assert_eq!(
        repo.snapshots().unwrap().snapshots.len(),
        3,
        "nothing of it is visible"
    );
    earlier.assert_whole("before the collection");
    // Another node cannot know that the process is gone.
    let elsewhere = open_at(
        &earlier.place.store_dir(),
        Some(&earlier.place.path("other-cache")),
    )
    .unwrap();
    let id = sessions[0].record.id.to_string();
    let report = gc::collect(&elsewhere, &GcOptions::default(), &Silent).unwrap();
    assert_eq!(report.at_work[0].id.to_string(), id);
    assert!(report.garbage.is_empty(), "{:?}", report.garbage);
    // An import does not mind; its own session ends as usual.
    let beside = Place {
        dir: tempfile::tempdir().unwrap(),
    };
    let source = beside.path("beside.tar");
    fs::write(&source, checkpoint_of("beside", &noise(8192, 41), 4096)).unwrap();
    let imported = import(
        &repo,
        Source::at(&source).unwrap(),
        &ImportOptions::default(),
        &Silent,
    )
    .unwrap();
    let report = gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    assert_eq!(report.ended_sessions, [id]);
    assert!(
        report
            .garbage
            .iter()
            .filter(|object| object.name.starts_with("packs/"))
            .count()
            >= 2
    );
    // A put of its commit that is on its way still finds the place taken, for a day.
    let place = sessions[0].record.place.unwrap();
    for _ in 0..2 {
        let tombstones = repo.snapshots().unwrap().tombstones;
        let (_, tombstone) = tombstones.iter().find(|(tomb, _)| *tomb == place).unwrap();
        assert_eq!(tombstone.session, None);
        gc::collect(&repo, &GcOptions::default(), &Silent).unwrap();
    }
    repo.delete(&[imported.snapshot.id], "test").unwrap();
    earlier.assert_untouched("a killed import");
    assert!(
        fs::read_dir(repo.cache().unwrap().join("sessions"))
            .unwrap()
            .next()
            .is_none(),
        "marks are left"
    );
}
