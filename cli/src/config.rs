//! Owns the settings: flag, then environment variable, then the user's file, then the system's, then a default.
//!
//! Always: a key or a value that cannot be meant is an error that names the file and the key. Never: reads the surroundings by
//! itself, so that the order can be tested.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use cryostore_engine::{Memory, StoreOptions};

pub(crate) use self::apart::{resolve_default, resolve_known, resolve_other};
use self::file::{File, files};
pub(crate) use self::known::Known;
pub(crate) use self::storage::Pair;
use crate::exit::Failure;
use crate::secrets::Sources;

mod apart;
mod aws;
pub(crate) mod edit;
mod file;
pub(crate) mod known;
pub(crate) mod shown;
pub(crate) mod storage;

/// Shown by `cryostore help` and in the man page.
pub(crate) const HELP: &str = "\
Storages:
  A storage that --storage or CRYOSTORE_STORAGE names is the only one that is asked. The one that a
  configuration file names (`cryostore configure --storage`) is the default: things are stored there,
  and an id is looked for there first, then in all storages that were used before. Without any of
  these, `ls` lists all; STORAGE#ID is an id in that storage, such as s3://checkpoints#3f9a2b1c. What
  stores, collects or checks takes the default or says that there is none: it does not choose.

Settings, the first that is given counts:
  flag         variable               key in the file
  --storage    CRYOSTORE_STORAGE      storage
  --cache-dir  CRYOSTORE_CACHE_DIR    cache_dir
  --cache-size CRYOSTORE_CACHE_SIZE   cache_size
  --max-memory CRYOSTORE_MAX_MEMORY   max_memory
  --append-only CRYOSTORE_APPEND_ONLY append_only, `true` or `false`
  --storage-option                    storage_options, a table; CRYOSTORE_STORAGE_OPTIONS
                                      holds KEY=VALUE pairs with spaces between them
  --key-file   CRYOSTORE_KEY_FILE     key_file
  --key-command      CRYOSTORE_KEY_COMMAND      key_command
  --passphrase-file  CRYOSTORE_PASSPHRASE_FILE  passphrase_file
CRYOSTORE_PASSPHRASE may hold the passphrase itself. If nothing is said of keys, what opened the
storage before is tried, and the file that `init` made, ~/.config/cryostore/keys/ID.key. What a file
says of keys is about the storage that it names. `cryostore configure` shows what counts.
The files are $XDG_CONFIG_HOME/cryostore/config.toml (~/.config/cryostore/config.toml), then
/etc/cryostore/config.toml. CRYOSTORE_LOG sets what -v shows, such as `debug`.
Credentials of buckets are found where the clouds' own tools look: AWS_…, ~/.aws, AZURE_…, GOOGLE_….";

const PASSPHRASE: &str = "CRYOSTORE_PASSPHRASE";
const SYSTEM_FILE: &str = "/etc/cryostore/config.toml";

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    pub(crate) storage: Option<String>,
    /// Each `KEY=VALUE`.
    pub(crate) storage_options: Vec<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) cache_size: Option<String>,
    pub(crate) no_cache: bool,
    pub(crate) append_only: bool,
    pub(crate) max_memory: Option<String>,
    pub(crate) keys: Sources,
}

/// What the command line says of another repository than the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Other {
    pub(crate) storage: String,
    /// Each `KEY=VALUE`.
    pub(crate) storage_options: Vec<String>,
    pub(crate) keys: Sources,
}

/// Where something was said, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Flag,
    Variable,
    User,
    System,
}

/// What was said the nearest.
fn nearest<T>(all: [Option<T>; 4]) -> Option<(T, Origin)> {
    let origins = [Origin::Flag, Origin::Variable, Origin::User, Origin::System];
    let mut said = all.into_iter().zip(origins);
    said.find_map(|(value, origin)| Some((value?, origin)))
}

/// What counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) storage: Option<String>,
    /// A flag or a variable means this storage and no other; a file names the one that is asked first.
    pub(crate) storage_from: Option<Origin>,
    /// Options that may be written down.
    pub(crate) lasting: Vec<Pair>,
    /// What is written down of it.
    pub(crate) known: Option<Known>,
    /// What opened it before may open it again.
    pub(crate) known_keys: bool,
    /// What files say of keys, where they are about another storage: for a repository for which nothing else is at hand.
    pub(crate) spare: Sources,
    /// What else is known of it.
    pub(crate) storage_options: Option<StoreOptions>,
    /// None: no caches.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Bytes that copies of packs may take; none: as many as usual.
    pub(crate) cache_size: Option<u64>,
    /// Nothing is removed or replaced.
    pub(crate) append_only: bool,
    pub(crate) memory: Memory,
    /// What opens the repository, if anything is said of it.
    pub(crate) keys: Sources,
    /// Where `init` puts key files.
    pub(crate) keys_dir: Option<PathBuf>,
}

/// What the process finds around it.
pub(crate) struct Surroundings<'s> {
    pub(crate) variable: &'s dyn Fn(&str) -> Option<OsString>,
    pub(crate) read: &'s dyn Fn(&Path) -> io::Result<String>,
    pub(crate) is_root: bool,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub(crate) fn of_this_process() -> Self {
        Self {
            variable: &|name| std::env::var_os(name),
            read: &|path| std::fs::read_to_string(path),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// A variable that is set to something.
    fn get(&self, name: &str) -> Option<OsString> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// A variable that holds an absolute path; the XDG specification says to ignore any other.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }

    fn below_home(&self, variable: &str, default: &str) -> Option<PathBuf> {
        self.directory(variable)
            .or_else(|| Some(self.directory("HOME")?.join(default)))
    }
}

/// Which storages there are to ask.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// A flag or a variable says: this one, and no other.
    pub(crate) said: Option<String>,
    /// What a file names: it is asked first.
    pub(crate) default: Option<String>,
    /// Those that are known besides.
    pub(crate) others: Vec<String>,
    /// Why these are not known: they are not needed where something is said.
    pub(crate) trouble: Option<String>,
}

impl Places {
    /// All that a command asks which shows what there is.
    pub(crate) fn all(&self) -> Vec<String> {
        match &self.said {
            Some(said) => vec![said.clone()],
            None => self.default.iter().chain(&self.others).cloned().collect(),
        }
    }
}

/// Settles where to look. Asks no storage and no file system but for the files of settings.
pub(crate) fn places(flags: &Flags, around: &Surroundings<'_>) -> Result<Places, Failure> {
    let (user, system) = files(around)?;
    let said = match &flags.storage {
        Some(storage) => Some(storage.clone()),
        None => variable_storage(around)?,
    };
    let default = user.storage.or(system.storage);
    let name = default.as_deref().map(known::written_name);
    let (known, trouble) = match known::read(around) {
        Ok(known) => (known, None),
        Err(_) if said.is_some() => (Vec::new(), None),
        Err(e) if default.is_some() => (Vec::new(), Some(e.text())),
        Err(e) => return Err(e),
    };
    let mut others: Vec<_> = known.into_iter().map(|known| known.storage).collect();
    others.retain(|storage| Some(storage) != name.as_ref());
    Ok(Places {
        said,
        default,
        others,
        trouble,
    })
}

fn variable_storage(around: &Surroundings<'_>) -> Result<Option<String>, Failure> {
    let wrong = |_| {
        Failure::usage(
            "CRYOSTORE_STORAGE is not UTF-8",
            "name a directory whose path is UTF-8",
        )
    };
    let value = around.get("CRYOSTORE_STORAGE");
    value
        .map(|value| value.into_string().map_err(wrong))
        .transpose()
}

/// Settles what counts.
pub(crate) fn resolve(flags: &Flags, around: &Surroundings<'_>) -> Result<Settings, Failure> {
    let (user, system) = files(around)?;
    let keys_dir = directory(around).map(|dir| dir.join("keys"));

    let storage = nearest([
        flags.storage.clone(),
        variable_storage(around)?,
        user.storage.clone(),
        system.storage.clone(),
    ]);
    let (storage, storage_from) = storage.unzip();
    // A file that nobody can read stops no command that does not need it.
    let known = known::read(around).unwrap_or_default();
    let known = storage.as_deref().and_then(|storage| {
        let name = known::name_of(storage);
        known.into_iter().find(|known| known.storage == name)
    });
    // A file speaks of the storage that it names.
    let names = storage
        .as_deref()
        .map(|storage| [known::written_name(storage), known::name_of(storage)]);
    let is_about_another = |file: &File| match (&names, &file.storage) {
        (Some(names), Some(its)) => !names.contains(&known::written_name(its)),
        _ => false,
    };
    let (users, systems) = (is_about_another(&user), is_about_another(&system));
    let (own, others): (Vec<_>, Vec<_>) = [(users, user.keys), (systems, system.keys)]
        .into_iter()
        .filter(|(_, keys)| !keys.is_empty())
        .partition(|(about_another, _)| !about_another);
    let first = |keys: Vec<(bool, Sources)>| keys.into_iter().next().map(|(_, keys)| keys);
    let (own, spare) = (first(own), first(others));
    let all = [
        Some(flags.keys.clone()),
        Some(keys_of_variables(around)),
        own,
    ];
    let keys = all.into_iter().flatten().find(|keys| !keys.is_empty());

    let (mut lasting, mut storage_options) = (Vec::new(), None);
    if let Some(storage) = &storage {
        let in_variable = around.get("CRYOSTORE_STORAGE_OPTIONS").unwrap_or_default();
        let in_variable = in_variable.to_string_lossy();
        let pairs = |what: &str, words: &mut dyn Iterator<Item = &str>| {
            words
                .map(|word| storage::pair(what, word))
                .collect::<Result<Vec<_>, _>>()
        };
        let variable = pairs(
            "CRYOSTORE_STORAGE_OPTIONS",
            &mut in_variable.split_whitespace(),
        )?;
        let mut flags = flags.storage_options.iter().map(String::as_str);
        let flag = pairs("--storage-option", &mut flags)?;
        let before = known.as_ref().map(|known| &known.options[..]);
        // What is known of it is what files said when it was opened, but for what suits any storage.
        let of_file = |about_another: bool, pairs: &[Pair]| -> Vec<Pair> {
            let all = !about_another || before.is_none();
            let pairs = pairs
                .iter()
                .filter(|(key, _)| all || storage::suits_any(key));
            pairs.cloned().collect()
        };
        let of_user = of_file(users, &user.storage_options);
        let of_system = of_file(systems, &system.storage_options);
        let said: &storage::Said<'_> = &[
            ("the file of known storages", before.unwrap_or_default()),
            (SYSTEM_FILE, &of_system),
            ("the user's configuration file", &of_user),
            ("CRYOSTORE_STORAGE_OPTIONS", &variable),
            ("--storage-option", &flag),
        ];
        let (options, pairs) = storage::gather(storage, said, around)?;
        (lasting, storage_options) = (pairs, Some(options));
    }

    let default = || {
        let below_home = around
            .below_home("XDG_CACHE_HOME", ".cache")
            .map(|dir| dir.join("cryostore"));
        below_home.or_else(|| {
            around
                .is_root
                .then(|| PathBuf::from("/var/cache/cryostore"))
        })
    };
    let cache_dir = flags
        .cache_dir
        .clone()
        .or_else(|| around.get("CRYOSTORE_CACHE_DIR").map(PathBuf::from))
        .or(user.cache_dir)
        .or(system.cache_dir)
        .or_else(default)
        .filter(|_| !flags.no_cache);
    let text = |name| Some(around.get(name)?.to_string_lossy().into_owned());
    let cache_size = flags
        .cache_size
        .clone()
        .or_else(|| text("CRYOSTORE_CACHE_SIZE"))
        .or(user.cache_size)
        .or(system.cache_size);
    let cache_size = cache_size.map(|text| bytes_of("--cache-size", &text));
    // Whoever says so anywhere means it.
    let variable = text("CRYOSTORE_APPEND_ONLY").map(|text| truth("CRYOSTORE_APPEND_ONLY", &text));
    let append_only = flags.append_only
        || variable.transpose()?.unwrap_or_default()
        || user.append_only
        || system.append_only;
    let memory = flags
        .max_memory
        .clone()
        .or_else(|| text("CRYOSTORE_MAX_MEMORY"))
        .or(user.max_memory)
        .or(system.max_memory);
    let memory = memory.map_or_else(|| Ok(Memory::default()), |text| memory_of(&text))?;
    Ok(Settings {
        storage,
        storage_from,
        lasting,
        known,
        known_keys: true,
        spare: spare.unwrap_or_default(),
        storage_options,
        cache_dir,
        cache_size: cache_size.transpose()?,
        append_only,
        memory,
        keys: keys.unwrap_or_default(),
        keys_dir,
    })
}

/// Where the user's files are: settings, key files, known storages.
pub(crate) fn directory(around: &Surroundings<'_>) -> Option<PathBuf> {
    let below_home = around.below_home("XDG_CONFIG_HOME", ".config");
    let user = below_home.map(|dir| dir.join("cryostore"));
    user.or_else(|| around.is_root.then(|| PathBuf::from("/etc/cryostore")))
}

/// What the user's file says of a storage, and what of it may be written down elsewhere.
pub(crate) fn users_storage(around: &Surroundings<'_>) -> Result<Option<Known>, Failure> {
    let user = files(around)?.0;
    let Some(storage) = user.storage else {
        return Ok(None);
    };
    let mut options = user.storage_options;
    options.retain(|(key, value)| storage::is_lasting(&key.to_ascii_lowercase(), value));
    Ok(Some(Known {
        storage,
        options,
        keys: user.keys.lasting(),
    }))
}

/// What the environment says of keys.
fn keys_of_variables(around: &Surroundings<'_>) -> Sources {
    let path = |name| around.get(name).map(PathBuf::from).into_iter().collect();
    let command = around.get("CRYOSTORE_KEY_COMMAND");
    Sources {
        files: path("CRYOSTORE_KEY_FILE"),
        commands: command
            .map(|command| command.to_string_lossy().into_owned())
            .into_iter()
            .collect(),
        passphrase_files: path("CRYOSTORE_PASSPHRASE_FILE"),
        passphrase_variable: around.get(PASSPHRASE).map(|_| PASSPHRASE),
    }
}

fn memory_of(text: &str) -> Result<Memory, Failure> {
    Ok(Memory::at_most(bytes_of("--max-memory", text)?)?)
}

fn truth(what: &str, text: &str) -> Result<bool, Failure> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Failure::usage(
            format!("{what}: `{text}` is neither true nor false"),
            "write true or false",
        )),
    }
}

/// A size such as `512M`, `1G` or `300MiB`; powers of 1024.
pub(crate) fn bytes_of(flag: &str, text: &str) -> Result<u64, Failure> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let unit = match unit.trim_end_matches("iB").trim_end_matches('B') {
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        "" if unit.is_empty() => 1,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes.filter(|_| unit > 0).ok_or_else(|| {
        Failure::usage(
            format!("{flag}: `{text}` is no size"),
            "write 512M, 1G or a number of bytes",
        )
    })
}

#[cfg(test)]
mod tests;
