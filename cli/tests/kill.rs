//! `kill -9` of an import at any moment: afterwards there is the old state or the new, and everything goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn cryostore(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cryostore"));
    // Not in the home of whoever runs the tests.
    command
        .env("HOME", dir)
        .env_remove("XDG_CONFIG_HOME")
        .current_dir(dir)
        .args(arguments)
        .args(["--storage", "store", "--cache-dir", "cache"]);
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let output = cryostore(dir, arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    output
}

/// A tar with one member of bytes that do not compress.
fn archive(seed: u64, len: usize) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..11].copy_from_slice(b"pages-1.img");
    header[100..108].copy_from_slice(b"0000600\0");
    header[124..136].copy_from_slice(format!("{len:011o}\0").as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    let mut state = seed | 1;
    while out.len() < 512 + len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.resize(out.len() + 1024, 0);
    out
}

#[test]
fn an_import_that_is_killed_at_any_moment_leaves_a_whole_repository() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let (first, second) = (archive(1, 8 << 20), archive(2, 48 << 20));
    std::fs::write(dir.join("first.tar"), &first).unwrap();
    std::fs::write(dir.join("second.tar"), &second).unwrap();
    run(dir, &["init"]);
    run(dir, &["import", "first.tar", "--label", "first"]);
    let mut killed = 0;
    for n in 0..12_u64 {
        let mut child = cryostore(dir, &["import", "second.tar"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(n * n * 2));
        let was_at_work = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        killed += usize::from(was_at_work);
        run(dir, &["check", "--read-data"]);
        run(
            dir,
            &["export", "latest", "--label", "first", "-o", "out.tar"],
        );
        assert!(
            std::fs::read(dir.join("out.tar")).unwrap() == first,
            "killed after {} ms",
            n * n * 2
        );
        if n % 3 == 2 {
            // The dead session is known by its lock, and ended.
            run(dir, &["gc"]);
        }
    }
    assert!(
        killed > 3,
        "only {killed} imports were killed while they worked"
    );
    run(dir, &["import", "second.tar"]);
    run(dir, &["export", "latest", "-o", "out.tar"]);
    assert!(std::fs::read(dir.join("out.tar")).unwrap() == second);
    run(dir, &["gc"]);
    // A kill within the put of a record leaves `ID#1`, which nothing reads.
    let names = std::fs::read_dir(dir.join("store/sessions"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let sessions: Vec<_> = names.filter(|name| !name.contains('#')).collect();
    assert!(sessions.is_empty(), "sessions are left: {sessions:?}");
}
