//! `cryostore configure`

use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use cryostore_engine::{Error, Kind};
use serde::Serialize;

use super::first_use::{self, Place};
use super::init;
use crate::config::edit;
use crate::config::known;
use crate::config::shown::{self, Shown};
use crate::config::storage::{is_credential, pair};
use crate::config::{Flags, Surroundings, users_storage};
use crate::context::Context;
use crate::exit::Failure;
use crate::output::Output;
use crate::text::{Column, Table as Rows, printable};

/// Show what is set and where, or write the user's configuration file
///
/// Without anything else, shows each setting that counts here, its value, and the flag, variable or file that says it. With --storage, --storage-option, --key-file,
/// --key-command, --passphrase-file, --cache-dir, --cache-size, --max-memory or --append-only, writes these into ~/.config/cryostore/config.toml; comments and whatever else stands there stay.
///
/// With --storage, that is the default from now on: where things are stored, and where an id is looked for first. A repository that is there is opened, to see that the key fits. In an empty
/// place one is made: a terminal is asked, a script says --init. Nothing is written if that fails. Credentials are not written; docs/stores.md says where they are found.
///
/// Storages that are used are remembered (URL, options, where the key is; no secrets) in ~/.config/cryostore/storages.toml, so that `ls` lists them all and ids are found in them without --storage.
/// --forget takes one out.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore configure
  cryostore configure --storage s3://clouder-checkpoints/ --storage-option region=eu-central-1
  cryostore configure --storage /srv/checkpoints --init
  cryostore configure --max-memory 512M --cache-size 20G
  cryostore configure --unset cache-size
  cryostore configure --forget /mnt/usb/checkpoints")]
pub(crate) struct ConfigureArgs {
    /// Take a setting out of the file, such as cache-size or storage-options.region; may be repeated
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
    /// Make a repository if there is none
    #[arg(long)]
    init: bool,
    /// Remember a storage no longer; nothing in it is touched; may be repeated
    #[arg(long, value_name = "STORAGE")]
    forget: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    /// What was written, or is to be.
    file: Option<PathBuf>,
    /// Was it changed?
    changed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forgotten: Vec<String>,
    /// The repository that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    made: Option<init::Report>,
    settings: Vec<Shown>,
    /// Storages that are known.
    storages: Vec<String>,
    #[serde(skip)]
    table: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(made) = &self.made {
            made.fmt(f)?;
        }
        for storage in &self.forgotten {
            writeln!(f, "forgot {}", printable(storage))?;
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.changed) {
            writeln!(f, "wrote {}", file.display())?;
        }
        if !self.table {
            return Ok(());
        }
        let columns = [
            Column::Left("SETTING"),
            Column::Name("VALUE"),
            Column::Left("SOURCE"),
        ];
        let mut table = Rows::new(columns, Output::width());
        for one in &self.settings {
            let value = one.value.as_deref();
            table.row([
                one.setting.clone(),
                printable(value.unwrap_or(if one.source.is_empty() {
                    "-"
                } else {
                    "(secret)"
                })),
                one.source.clone(),
            ]);
        }
        table.fmt(f)?;
        if !self.storages.is_empty() {
            writeln!(f, "\nknown storages:")?;
        }
        self.storages
            .iter()
            .try_for_each(|storage| writeln!(f, "  {}", printable(storage)))
    }
}

pub(crate) fn run(args: &ConfigureArgs, context: &Context) -> Result<(), Failure> {
    let around = Surroundings::of_this_process();
    let flags = &context.flags;
    if flags.no_cache {
        return Err(Failure::usage(
            "--no-cache is for one run",
            "say it there; `--cache-size 0` keeps no copies of packs",
        ));
    }
    let unset = edit::names(&args.unset)?;
    let file = shown::user_file(&around);
    let set = values(flags, &around)?;
    let mut report = Report {
        changed: false,
        forgotten: Vec::new(),
        made: None,
        settings: Vec::new(),
        storages: Vec::new(),
        table: set.is_empty() && unset.is_empty() && args.forget.is_empty(),
        file: file.clone(),
    };
    if args.init && flags.storage.is_none() {
        return Err(Failure::usage(
            "--init makes a repository at --storage",
            "say --storage DIR|URL",
        ));
    }
    for storage in &args.forget {
        report.forgotten.push(forget(storage, &around)?);
    }
    if flags.storage.is_some() {
        report.made = match first_use::settle(args.init, context)? {
            Place::There(repo) => {
                let name = repo.store().name();
                context
                    .screen
                    .note(&format!("{name} answers, and its key is at hand"));
                None
            }
            Place::Made(made) => Some(made),
        };
    } else if !flags.keys.is_empty() && context.settings().is_ok() {
        // A key that does not fit is not written.
        context.repository()?;
    }
    let mut unset = unset;
    make_room_for_another(&mut unset, &set, context, &around)?;
    if !set.is_empty() || !unset.is_empty() {
        let file = file
            .ok_or_else(|| Failure::usage("there is no home to write settings into", "set HOME"))?;
        report.changed = edit::write(&file, &set, &unset)?;
    }
    // What is written counts from now on, not what was said to be written.
    let now = Flags::default();
    let flags = if report.table { flags } else { &now };
    report.settings = shown::all(flags, &around)?;
    report.storages = known::read(&around)?
        .into_iter()
        .map(|known| known.storage)
        .collect();
    context.output.show(&report)?;
    hint_of_what_counts_more(context, &report);
    Ok(())
}

/// What the file says of keys and options is about the storage that it names: when another takes its place, that goes to the file of known storages.
fn make_room_for_another(
    unset: &mut Vec<String>,
    set: &[(String, String)],
    context: &Context,
    around: &Surroundings<'_>,
) -> Result<(), Failure> {
    let Some(mut old) = users_storage(around)? else {
        return Ok(());
    };
    let is_set = |key: &str| set.iter().any(|(said, _)| said == key);
    let new = set.iter().find(|(key, _)| key == "storage");
    let goes = match new {
        Some((_, new)) => known::name_of(new) != known::name_of(&old.storage),
        None => unset.iter().any(|key| key == "storage"),
    };
    if !goes || old.keys.is_empty() && old.options.is_empty() {
        return Ok(());
    }
    let keys = [
        ("key_file", !old.keys.files.is_empty()),
        ("key_command", !old.keys.commands.is_empty()),
        ("passphrase_file", !old.keys.passphrase_files.is_empty()),
    ];
    let keys = keys.into_iter().filter(|(_, said)| *said);
    let mut moved: Vec<String> = keys.map(|(key, _)| key.to_owned()).collect();
    let options = old.options.iter();
    moved.extend(options.map(|(key, _)| format!("storage_options.{key}")));
    old.storage = known::name_of(&old.storage);
    if let Some(path) = known::path(around) {
        known::remember(&path, &old)?;
    }
    context.screen.note(&format!(
        "{} in the file are about {}: they went to the file of known storages",
        moved.join(", "),
        old.storage
    ));
    unset.extend(moved.into_iter().filter(|key| !is_set(key)));
    Ok(())
}

/// A variable counts more than the file: what was written would seem to have no effect.
fn hint_of_what_counts_more(context: &Context, report: &Report) {
    for one in report.settings.iter().filter(|_| report.changed) {
        if let Some(variable) = one.source.strip_prefix("variable ") {
            context.screen.warn(&format!(
                "{variable} is set: it counts more than `{}` in the file",
                one.setting
            ));
        }
    }
}

/// What the flags say that can be written, as it is to stand in the file.
fn values(flags: &Flags, around: &Surroundings<'_>) -> Result<Vec<(String, String)>, Failure> {
    let mut out = Vec::new();
    let mut add = |key: &str, value: String| -> Result<(), Failure> {
        shown::check(key, &value)?;
        out.push((key.to_owned(), value));
        Ok(())
    };
    if let Some(storage) = &flags.storage {
        let bucket = storage.contains("://");
        let name = if bucket {
            known::written_name(storage)
        } else {
            shown::absolute("--storage", Path::new(storage))?
        };
        add("storage", name)?;
    }
    if let Some(dir) = &flags.cache_dir {
        add("cache_dir", shown::absolute("--cache-dir", dir)?)?;
    }
    if let Some(size) = &flags.cache_size {
        add("cache_size", size.clone())?;
    }
    if let Some(size) = &flags.max_memory {
        add("max_memory", size.clone())?;
    }
    if flags.append_only {
        add("append_only", "true".to_owned())?;
    }
    let keys = &flags.keys;
    if keys.count() > 1 {
        return Err(Failure::usage(
            "more than one key is named",
            "the file holds one: --key-file, --key-command or --passphrase-file",
        ));
    }
    for path in &keys.files {
        add("key_file", shown::absolute("--key-file", path)?)?;
    }
    for command in &keys.commands {
        add("key_command", command.clone())?;
    }
    for path in &keys.passphrase_files {
        add(
            "passphrase_file",
            shown::absolute("--passphrase-file", path)?,
        )?;
    }
    let settled = crate::config::resolve(flags, around)?.storage;
    for word in &flags.storage_options {
        let (key, value) = pair("--storage-option", word)?;
        if is_credential(settled.as_deref().unwrap_or("/"), &key, &value)? {
            return Err(Failure::usage(
                format!("the option `{key}` may be a secret: it is not written"),
                "credentials are found where the clouds' own tools look, see docs/stores.md",
            ));
        }
        add(&format!("storage_options.{key}"), value)?;
    }
    Ok(out)
}

fn forget(storage: &str, around: &Surroundings<'_>) -> Result<String, Failure> {
    let path = known::path(around);
    for name in [storage.to_owned(), known::name_of(storage)] {
        if let Some(path) = &path
            && known::forget(path, &name)?
        {
            return Ok(name);
        }
    }
    Err(Error::new(
        Kind::NotFound,
        format!("{storage} is not among the known storages"),
    )
    .hint("`cryostore configure` lists them")
    .into())
}
