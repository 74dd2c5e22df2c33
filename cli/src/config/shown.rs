//! Owns the table of what counts now, and from where: what `configure` shows.
//!
//! Always: the same order as `resolve` has. Never: shows a credential or a passphrase.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Flags, Origin, PASSPHRASE, SYSTEM_FILE, Surroundings, bytes_of, directory, files,
    keys_of_variables, memory_of, nearest, resolve, storage, truth, variable_storage,
};
use crate::exit::Failure;
use crate::secrets::Sources;

/// One setting.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub(crate) struct Shown {
    /// As in the file.
    pub(crate) setting: String,
    /// Absent: it is not set, or a secret.
    pub(crate) value: Option<String>,
    /// `flag`, `variable`, the path of a file, or `default`.
    pub(crate) source: String,
}

/// Where the user's settings are written; none without a home.
pub(crate) fn user_file(around: &Surroundings<'_>) -> Option<PathBuf> {
    Some(directory(around)?.join("config.toml"))
}

/// All settings.
pub(crate) fn all(flags: &Flags, around: &Surroundings<'_>) -> Result<Vec<Shown>, Failure> {
    // What cannot be meant is no setting.
    let settings = resolve(flags, around)?;
    let (user, system) = files(around)?;
    let user_file = user_file(around).map(|path| path.display().to_string());
    let name = |origin: Origin, variable: &str| match origin {
        Origin::Flag => "flag".to_owned(),
        Origin::Variable => format!("variable {variable}"),
        Origin::User => user_file.clone().unwrap_or_default(),
        Origin::System => SYSTEM_FILE.to_owned(),
    };
    let text = |variable: &str| Some(around.get(variable)?.to_string_lossy().into_owned());
    let path = |path: &Option<PathBuf>| path.as_deref().map(|path| path.display().to_string());
    let mut rows = Vec::new();
    let mut row = |setting: &str, said: [Option<String>; 4], default: Option<String>| {
        let variable = format!("CRYOSTORE_{}", setting.to_ascii_uppercase());
        let said = nearest(said);
        rows.push(Shown {
            setting: setting.to_owned(),
            source: match &said {
                Some((_, origin)) => name(*origin, &variable),
                None if default.is_some() => "default".to_owned(),
                None => String::new(),
            },
            value: said.map(|(value, _)| value).or(default),
        });
    };
    row(
        "storage",
        [
            flags.storage.clone(),
            variable_storage(around)?,
            user.storage,
            system.storage,
        ],
        None,
    );
    let cache_dir = [
        path(&flags.cache_dir),
        text("CRYOSTORE_CACHE_DIR"),
        path(&user.cache_dir),
        path(&system.cache_dir),
    ];
    row("cache_dir", cache_dir, path(&settings.cache_dir));
    let cache_size = [
        flags.cache_size.clone(),
        text("CRYOSTORE_CACHE_SIZE"),
        user.cache_size,
        system.cache_size,
    ];
    row("cache_size", cache_size, Some("4G".to_owned()));
    let max_memory = [
        flags.max_memory.clone(),
        text("CRYOSTORE_MAX_MEMORY"),
        user.max_memory,
        system.max_memory,
    ];
    row("max_memory", max_memory, Some("256M".to_owned()));
    // Whoever says so anywhere means it.
    let yes = |said: bool| said.then(|| "true".to_owned());
    let variable = text("CRYOSTORE_APPEND_ONLY").filter(|text| matches!(&**text, "true" | "1"));
    let append_only = [
        yes(flags.append_only),
        yes(variable.is_some()),
        yes(user.append_only),
        yes(system.append_only),
    ];
    row("append_only", append_only, Some("false".to_owned()));
    let all = [
        flags.keys.clone(),
        keys_of_variables(around),
        user.keys,
        system.keys,
    ];
    let counts = nearest(all.map(|keys| Some(keys).filter(|keys| !keys.is_empty())));
    if let Some((keys, origin)) = counts {
        for (setting, value) in named(&keys) {
            let variable = format!("CRYOSTORE_{}", setting.to_ascii_uppercase());
            rows.push(Shown {
                setting: setting.to_owned(),
                value,
                source: name(origin, &variable),
            });
        }
    }
    let flag: Result<Vec<_>, _> = flags
        .storage_options
        .iter()
        .map(|word| storage::pair("--storage-option", word))
        .collect();
    let words = text("CRYOSTORE_STORAGE_OPTIONS").unwrap_or_default();
    let variable: Result<Vec<_>, _> = words
        .split_whitespace()
        .map(|word| storage::pair("CRYOSTORE_STORAGE_OPTIONS", word))
        .collect();
    let lists = [
        (flag?, Origin::Flag),
        (variable?, Origin::Variable),
        (user.storage_options, Origin::User),
        (system.storage_options, Origin::System),
    ];
    let mut options: Vec<Shown> = Vec::new();
    for (key, value, origin) in lists
        .iter()
        .flat_map(|(list, origin)| list.iter().map(move |(key, value)| (key, value, *origin)))
    {
        let setting = format!("storage_options.{}", key.to_ascii_lowercase());
        if options.iter().any(|option| option.setting == setting) {
            continue;
        }
        let storage = settings.storage.as_deref().unwrap_or("/");
        let secret = storage::is_credential(storage, key, value)?;
        options.push(Shown {
            setting,
            value: (!secret).then(|| value.clone()),
            source: name(origin, "CRYOSTORE_STORAGE_OPTIONS"),
        });
    }
    rows.extend(options);
    Ok(rows)
}

/// The settings that name a key; of a passphrase only that there is one.
fn named(keys: &Sources) -> Vec<(&'static str, Option<String>)> {
    let path = |path: &PathBuf| Some(path.display().to_string());
    let files = keys.files.iter().map(|file| ("key_file", path(file)));
    let commands = keys.commands.iter();
    let commands = commands.map(|command| ("key_command", Some(command.clone())));
    let passphrases = keys.passphrase_files.iter();
    let passphrases = passphrases.map(|file| ("passphrase_file", path(file)));
    let variable = keys.passphrase_variable.iter();
    let variable = variable.map(|name| {
        let setting = if *name == PASSPHRASE {
            "passphrase"
        } else {
            name
        };
        (setting, None)
    });
    files
        .chain(commands)
        .chain(passphrases)
        .chain(variable)
        .collect()
}

/// Checks a value as reading the file would.
pub(crate) fn check(key: &str, text: &str) -> Result<(), Failure> {
    match key {
        "cache_size" => bytes_of("--cache-size", text).map(drop),
        "max_memory" => memory_of(text).map(drop),
        "append_only" => truth("--append-only", text).map(drop),
        _ => Ok(()),
    }
}

/// A path as it is to stand in a file.
pub(crate) fn absolute(flag: &str, path: &Path) -> Result<String, Failure> {
    let found = std::path::absolute(path).ok();
    let text = found.as_deref().and_then(Path::to_str);
    text.map(str::to_owned).ok_or_else(|| {
        Failure::usage(
            format!("{flag}: the path is not UTF-8"),
            "name one that is: configuration files are",
        )
    })
}
