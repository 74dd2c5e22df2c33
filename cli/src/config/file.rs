//! Owns the reading of configuration files.
//!
//! Always: a key or a value that cannot be meant is an error that names the file and the key. Never: asks what else is there: a file means the same everywhere.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cryostore_engine::Error;

use super::storage::Pair;
use super::{SYSTEM_FILE, Surroundings, truth};
use crate::exit::Failure;
use crate::secrets::Sources;

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) storage: Option<String>,
    pub(super) storage_options: Vec<Pair>,
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) cache_size: Option<String>,
    pub(super) append_only: bool,
    pub(super) max_memory: Option<String>,
    pub(super) keys: Sources,
}

/// What the user's file and the system's say.
pub(super) fn files(around: &Surroundings<'_>) -> Result<(File, File), Failure> {
    let user = around.below_home("XDG_CONFIG_HOME", ".config");
    let user = user.map(|dir| dir.join("cryostore/config.toml"));
    let user = user.map_or_else(|| Ok(File::default()), |path| File::read(&path, around))?;
    Ok((user, File::read(Path::new(SYSTEM_FILE), around)?))
}

impl File {
    /// A file that is not there says nothing.
    pub(super) fn read(path: &Path, around: &Surroundings<'_>) -> Result<Self, Failure> {
        match (around.read)(path) {
            Ok(text) => Self::parse(path, &text, around),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok(Self::default())
            }
            Err(e) => {
                Err(Error::io(format!("the configuration file {}", path.display()), e).into())
            }
        }
    }

    fn parse(path: &Path, text: &str, around: &Surroundings<'_>) -> Result<Self, Failure> {
        let file = path.display();
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e
                .span()
                .and_then(|span| text.get(..span.start))
                .map_or(1, |before| before.matches('\n').count() + 1);
            Failure::usage(
                format!("{file}, line {line}: {}", e.message()),
                "a line reads `storage = \"/srv/checkpoints\"`",
            )
        })?;
        let mut out = Self::default();
        for (key, value) in table {
            if key == "storage_options" {
                out.storage_options = options_table(&file.to_string(), &value)?;
                continue;
            }
            if key == "append_only" {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                out.append_only = truth(&format!("{file}: `append_only`"), &text)?;
                continue;
            }
            let Some(value) = value.as_str().filter(|value| !value.is_empty()) else {
                return Err(Failure::usage(
                    format!("{file}: the value of `{key}` is not a string"),
                    "write it in quotes",
                ));
            };
            match key.as_str() {
                "storage" if value.contains("://") => out.storage = Some(value.to_owned()),
                "storage" => {
                    let path = absolute(&format!("{file}: `storage`"), value, around)?;
                    out.storage = path.to_str().map(str::to_owned);
                }
                "key_command" => out.keys.commands = vec![value.to_owned()],
                "key_file" => {
                    out.keys.files = vec![absolute(&format!("{file}: `key_file`"), value, around)?];
                }
                "passphrase_file" => {
                    let what = format!("{file}: `passphrase_file`");
                    out.keys.passphrase_files = vec![absolute(&what, value, around)?];
                }
                "cache_size" => out.cache_size = Some(value.to_owned()),
                "max_memory" => out.max_memory = Some(value.to_owned()),
                "cache_dir" => {
                    out.cache_dir = Some(absolute(&format!("{file}: `cache_dir`"), value, around)?)
                }
                _ => {
                    return Err(Failure::usage(
                        format!("{file}: the key `{key}` is not known"),
                        "the keys are `storage`, `storage_options`, `cache_dir`, `cache_size`, `max_memory`, `append_only`, `key_file`, `key_command` and `passphrase_file`",
                    ));
                }
            }
        }
        Ok(out)
    }
}

/// Keys and strings, numbers or truths.
fn options_table(file: &str, value: &toml::Value) -> Result<Vec<Pair>, Failure> {
    let wrong = |what: &str| {
        Failure::usage(
            format!("{file}: {what}"),
            "write a line [storage_options] and below it lines such as region = \"eu-central-1\"",
        )
    };
    let table = value
        .as_table()
        .ok_or_else(|| wrong("`storage_options` is not a table"))?;
    let text = |(key, value): (&String, &toml::Value)| match value {
        toml::Value::String(text) => Ok((key.clone(), text.clone())),
        toml::Value::Integer(number) => Ok((key.clone(), number.to_string())),
        toml::Value::Boolean(truth) => Ok((key.clone(), truth.to_string())),
        _ => Err(wrong(&format!(
            "the value of the option `{key}` is not a string, a number, true or false"
        ))),
    };
    table.iter().map(text).collect()
}

/// A path in a file means the same wherever the program is started.
fn absolute(what: &str, value: &str, around: &Surroundings<'_>) -> Result<PathBuf, Failure> {
    let path = match value.strip_prefix("~/") {
        Some(rest) => around.directory("HOME").map(|home| home.join(rest)),
        None => Some(PathBuf::from(value)),
    };
    path.filter(|path| path.is_absolute()).ok_or_else(|| {
        Failure::usage(
            format!("{what} is not an absolute path: {value}"),
            "begin it with / or ~/",
        )
    })
}
