//! Owns the file of known storages: where repositories were opened or made, and how, so that an id can be looked for without `--storage`.
//!
//! Always: it is replaced as a whole, and only its owner can read it; what else somebody wrote into it stays. Never: holds a secret, and never stops a
//! command that does not need it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cryostore_engine::{Error, Scheme};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::Surroundings;
use super::storage::Pair;
use crate::exit::Failure;
use crate::secrets::Sources;

/// More are no list that a person overlooks, and all of them are asked when an id is looked for.
pub(crate) const KNOWN_MAX: usize = 64;

/// Beside the file: the file itself is replaced.
const LOCK: &str = ".storages.lock";
/// Together 2 s: a change takes some milliseconds.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const HEAD: &str = "\
# The storages that were used here: `ls` lists them, and ids are looked for in them. No secrets.
# `cryostore configure --forget STORAGE` takes one out.

";

/// One storage, and what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its name, see [`name_of`].
    pub(crate) storage: String,
    /// Where it is reached; no credentials.
    pub(crate) options: Vec<Pair>,
    /// Files and commands.
    pub(crate) keys: Sources,
}

/// The one name of a storage, however it was written: the path of a directory without links, or a URL.
pub(crate) fn name_of(storage: &str) -> String {
    if matches!(Scheme::of(storage), Ok(Scheme::Directory)) {
        let path = Path::new(storage.strip_prefix("file://").unwrap_or(storage));
        if let Ok(path) = path.canonicalize() {
            return path.display().to_string();
        }
    }
    written_name(storage)
}

/// The same by what is written alone: asks no file system, which may hang.
pub(crate) fn written_name(storage: &str) -> String {
    if matches!(Scheme::of(storage), Ok(Scheme::Directory)) {
        let path = Path::new(storage.strip_prefix("file://").unwrap_or(storage));
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // An absolute path keeps a slash at its end.
        return path.components().collect::<PathBuf>().display().to_string();
    }
    let Some((scheme, rest)) = storage.split_once("://") else {
        return storage.to_owned();
    };
    let parts: Vec<_> = rest.split('/').filter(|part| !part.is_empty()).collect();
    format!("{scheme}://{}", parts.join("/"))
}

/// Where the file is; none if there is no home.
pub(crate) fn path(around: &Surroundings<'_>) -> Option<PathBuf> {
    Some(super::directory(around)?.join("storages.toml"))
}

/// What the file says.
pub(crate) fn read(around: &Surroundings<'_>) -> Result<Vec<Known>, Failure> {
    let Some(path) = path(around) else {
        return Ok(Vec::new());
    };
    match (around.read)(&path) {
        Ok(text) => Ok(all_of(&parse(&path, &text)?)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(Error::io(path.display(), e).into()),
    }
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut, Failure> {
    text.parse().map_err(|e: toml_edit::TomlError| {
        let at = e.span().and_then(|span| text.get(..span.start));
        let line = at.map_or(1, |before| before.matches('\n').count() + 1);
        Failure::usage(
            format!("{}, line {line}: {}", path.display(), e.message()),
            "correct it, or remove the file: storages that are used are written down anew",
        )
    })
}

fn tables(document: &DocumentMut) -> impl Iterator<Item = &Table> {
    let list = document.get("storage").and_then(Item::as_array_of_tables);
    list.into_iter().flat_map(ArrayOfTables::iter)
}

fn text<'t>(table: &'t Table, key: &str) -> Option<&'t str> {
    table.get(key).and_then(Item::as_str)
}

/// What a later version wrote besides is passed by.
fn all_of(document: &DocumentMut) -> Vec<Known> {
    let one = |table: &Table| {
        let path = |key| text(table, key).map(PathBuf::from).into_iter().collect();
        let options = table.get("options").and_then(Item::as_table_like);
        let options = options.into_iter().flat_map(|options| options.iter());
        Some(Known {
            storage: text(table, "url")?.to_owned(),
            options: options
                .filter_map(|(key, value)| Some((key.to_owned(), value.as_str()?.to_owned())))
                .collect(),
            keys: Sources {
                files: path("key_file"),
                commands: text(table, "key_command")
                    .map(str::to_owned)
                    .into_iter()
                    .collect(),
                passphrase_files: path("passphrase_file"),
                passphrase_variable: None,
            },
        })
    };
    tables(document).filter_map(one).take(KNOWN_MAX).collect()
}

fn table_of(known: &Known) -> Table {
    let mut table = Table::new();
    table["url"] = value(known.storage.as_str());
    let path = |path: &PathBuf| value(path.display().to_string());
    if let Some(file) = known.keys.files.first() {
        table["key_file"] = path(file);
    }
    if let Some(command) = known.keys.commands.first() {
        table["key_command"] = value(command.as_str());
    }
    if let Some(file) = known.keys.passphrase_files.first() {
        table["passphrase_file"] = path(file);
    }
    if !known.options.is_empty() {
        let mut options = Table::new();
        for (key, text) in &known.options {
            options[key] = value(text.as_str());
        }
        table["options"] = Item::Table(options);
    }
    table
}

/// Writes a storage down, in the place of what was written of it before. `false`: there are too many.
pub(crate) fn remember(path: &Path, known: &Known) -> Result<bool, Failure> {
    let mut fits = true;
    change(path, |list| {
        let at = list
            .iter()
            .position(|table| text(table, "url") == Some(&known.storage));
        if let Some(old) = at.and_then(|at| list.get_mut(at)) {
            for key in ["key_file", "key_command", "passphrase_file", "options"] {
                old.remove(key);
            }
            for (key, item) in table_of(known) {
                old.insert(&key, item);
            }
            return;
        }
        if list.len() >= KNOWN_MAX {
            // A directory that is gone is the one that nobody misses.
            let is_gone = |table: &Table| {
                text(table, "url")
                    .is_some_and(|url| url.starts_with('/') && !Path::new(url).exists())
            };
            let gone = list.iter().position(is_gone);
            match gone {
                Some(gone) => list.remove(gone),
                None => {
                    fits = false;
                    return;
                }
            };
        }
        list.push(table_of(known));
    })?;
    Ok(fits)
}

/// Takes a storage out. `false`: it is not known.
pub(crate) fn forget(path: &Path, storage: &str) -> Result<bool, Failure> {
    if !path.exists() {
        return Ok(false);
    }
    let mut was_there = false;
    change(path, |list| {
        list.retain(|table| {
            let is_it = text(table, "url") == Some(storage);
            was_there |= is_it;
            !is_it
        });
    })?;
    Ok(was_there)
}

/// Reads, changes and replaces the file, one process after the other.
fn change(path: &Path, with: impl FnOnce(&mut ArrayOfTables)) -> Result<(), Failure> {
    let failed = |e| Error::io(path.display(), e);
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    // Held until this is back.
    let _lock = lock(&dir.join(LOCK)).map_err(failed)?;
    let old = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return Err(failed(e).into()),
    };
    let is_new = old.is_empty();
    let mut document = parse(path, &old)?;
    let list = document
        .entry("storage")
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    let Some(list) = list.as_array_of_tables_mut() else {
        return Err(Failure::usage(
            format!("{}: `storage` is no list of tables", path.display()),
            "remove the file: storages that are used are written down anew",
        ));
    };
    with(list);
    if let Some(first) = list.get_mut(0).filter(|_| is_new) {
        first.decor_mut().set_prefix(HEAD);
    }
    let new = document.to_string();
    if new == old {
        return Ok(());
    }
    replace(path, &new).map_err(|e| failed(e).into())
}

/// Waits for other processes, but not for one that hangs, nor for a file server that is away.
fn lock(path: &Path) -> std::io::Result<File> {
    // Open for writing: locks over NFS ask for it.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    belongs_to_whom(&file, path.parent().unwrap_or(path));
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(e)) => return Err(e),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// Gives a file to the owner of another: under `sudo` it would be root's, and its user could not read his own settings.
fn belongs_to_whom(file: &File, other: &Path) {
    let ours = rustix::process::geteuid();
    if let Ok(meta) = other.metadata()
        && ours.is_root()
        && meta.uid() != ours.as_raw()
    {
        // It is root's, then, as it was.
        drop(fchown(file, Some(meta.uid()), Some(meta.gid())));
    }
}

/// Replaces a file of the user's by one that only its owner can read, or that has the rights which it had.
pub(crate) fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // Through a link, so that the link stays.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut new = path.clone().into_os_string();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let write = || {
        let mut out = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        if let Ok(meta) = path.metadata() {
            out.set_permissions(meta.permissions())?;
            belongs_to_whom(&out, &path);
        } else {
            belongs_to_whom(&out, dir);
        }
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&new, &path)?;
        File::open(dir)?.sync_all()
    };
    let written = write();
    if written.is_err() {
        // The first error is the one to tell of.
        drop(std::fs::remove_file(&new));
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn one(storage: &str) -> Known {
        Known {
            storage: storage.to_owned(),
            options: vec![("region".to_owned(), "here".to_owned())],
            keys: Sources {
                files: vec!["/k".into()],
                ..Sources::default()
            },
        }
    }

    fn list(path: &Path) -> Vec<Known> {
        let text = std::fs::read_to_string(path).unwrap();
        all_of(&parse(path, &text).unwrap())
    }

    #[test]
    fn what_is_remembered_comes_back_and_what_somebody_wrote_beside_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/storages.toml");
        assert!(remember(&path, &one("s3://a")).unwrap());
        assert!(remember(&path, &one("s3://b")).unwrap());
        assert_eq!(list(&path), [one("s3://a"), one("s3://b")]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEAD), "{text}");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replacen("url =", "# the office's\nnote = \"x\"\nurl =", 1);
        std::fs::write(&path, text).unwrap();
        let changed = Known {
            keys: Sources::default(),
            ..one("s3://a")
        };
        assert!(remember(&path, &changed).unwrap());
        assert_eq!(list(&path), [changed, one("s3://b")]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# the office's\nnote = \"x\""), "{text}");
        assert!(forget(&path, "s3://a").unwrap());
        assert!(!forget(&path, "s3://a").unwrap());
        assert_eq!(list(&path), [one("s3://b")]);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            2,
            "the file and its lock"
        );
    }

    #[test]
    fn processes_that_remember_at_once_forget_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storages.toml");
        std::thread::scope(|scope| {
            for n in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    assert!(remember(path, &one(&format!("s3://{n}"))).unwrap());
                });
            }
        });
        assert_eq!(list(&path).len(), 16);
    }

    #[test]
    fn what_root_writes_into_the_home_of_a_user_is_the_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(1234), Some(1234)).unwrap();
        let path = dir.path().join("storages.toml");
        for storage in ["s3://a", "s3://b"] {
            assert!(remember(&path, &one(storage)).unwrap());
            for entry in std::fs::read_dir(dir.path()).unwrap() {
                assert_eq!(entry.unwrap().metadata().unwrap().uid(), 1234);
            }
        }
    }

    #[test]
    fn of_too_many_the_directories_that_are_gone_make_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("storages.toml");
        assert!(remember(&path, &one("/nowhere/at/all")).unwrap());
        for n in 1..KNOWN_MAX {
            assert!(remember(&path, &one(&format!("s3://{n}"))).unwrap());
        }
        assert!(remember(&path, &one("s3://new")).unwrap());
        assert!(!remember(&path, &one("s3://newer")).unwrap());
        let list = list(&path);
        assert_eq!(list.len(), KNOWN_MAX);
        assert!(list.iter().all(|known| known.storage.starts_with("s3://")));
    }

    #[test]
    fn one_storage_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("a")).unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("link")).unwrap();
        let a = real.join("a").display().to_string();
        for written in ["a", "a/", "link", "./a", "b/../a"] {
            std::fs::create_dir_all(real.join("b")).unwrap();
            let written = real.join(written).display().to_string();
            assert_eq!(name_of(&written), a);
            assert_eq!(name_of(&format!("file://{written}")), a);
        }
        assert_eq!(name_of("/not/there/"), "/not/there");
        for written in ["s3://b/p", "s3://b//p/", "s3://b/p//"] {
            assert_eq!(name_of(written), "s3://b/p");
        }
    }
}
