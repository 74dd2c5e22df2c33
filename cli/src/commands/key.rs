//! `cryostore key`

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use cryostore_engine::format::KeyId;
use cryostore_engine::{Error, Kind, NewKey, Repository, Unlock};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::secrets::{Sources, ask_new, make_key_file};
use crate::text::{Column, Table, printable};

/// Add, remove, list and rotate the keys of a repository
///
/// Every key opens everything. Which one opens it now is said by --key-file, --key-command or --passphrase-file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore key list
  cryostore key add --new-passphrase --label recovery
  cryostore key add --new-key-file /root/node.key
  cryostore key add --new-key-command 'vault kv get -field=key secret/cryostore'
  cryostore key remove 5d0c7a31
  cryostore key rotate")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the keys
    List,
    /// Add a key: whoever has it can read and write everything
    Add(AddArgs),
    /// Remove a key; the repository must be opened with another one
    Remove {
        /// Its id, or at least four of its first characters
        id: String,
    },
    /// Seal what is written from now on with a new key
    ///
    /// What was written before is not sealed anew, and ids keep their key. The key that opens the repository now is put anew, together with the new one inside; so are
    /// others that are handed in by more of --key-file, --key-command and --passphrase-file.
    Rotate {
        /// Remove keys that were not handed in: they could not read what is written after this
        #[arg(long)]
        remove_others: bool,
    },
}

#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    new: NewArgs,
    /// What `key list` shows
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct NewArgs {
    /// Make this file, with 32 random bytes
    #[arg(long, value_name = "FILE")]
    new_key_file: Option<PathBuf>,
    /// What this command prints
    #[arg(long, value_name = "COMMAND")]
    new_key_command: Option<String>,
    /// A passphrase, which is asked for on the terminal
    #[arg(long)]
    new_passphrase: bool,
    /// A passphrase, the only line of this file
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

#[derive(Serialize)]
struct List {
    keys: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    id: KeyId,
    kind: Option<&'static str>,
    label: String,
    created: String,
    /// It opened the repository now.
    opened: bool,
    damaged: Option<String>,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["KEY", "KIND", "CREATED", "IN USE", "LABEL"];
        let mut table = Table::new(heads.map(Column::Left), None);
        for key in &self.keys {
            let label = key.damaged.as_ref().unwrap_or(&key.label);
            table.row([
                key.id.to_string(),
                key.kind.unwrap_or("damaged").to_owned(),
                printable(&key.created),
                if key.opened { "yes" } else { "" }.to_owned(),
                printable(label),
            ]);
        }
        table.fmt(f)
    }
}

#[derive(Serialize)]
struct Added {
    added: KeyId,
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new key {}", self.added)
    }
}

#[derive(Serialize)]
struct Removed {
    removed: KeyId,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "removed key {}", self.removed)
    }
}

#[derive(Serialize)]
struct Rotated {
    epoch: String,
    keys: Vec<KeyId>,
    removed: Vec<KeyId>,
}

impl fmt::Display for Rotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "epoch {} begins: imports that start from now on are sealed with its key",
            self.epoch
        )?;
        self.keys
            .iter()
            .try_for_each(|id| writeln!(f, "new key {id}"))?;
        self.removed
            .iter()
            .try_for_each(|id| writeln!(f, "removed key {id}"))
    }
}

pub(crate) fn run(args: &KeyArgs, context: &Context) -> Result<(), Failure> {
    let repo = context.repository()?;
    match &args.action {
        Action::List => list(&repo, context),
        Action::Add(args) => add(args, &repo, context),
        Action::Remove { id } => {
            let id = find(&repo, id)?;
            repo.remove_key(id)?;
            context.screen.note(
                "whoever had this key and read the repository may know all that was written so far; `cryostore key rotate` keeps what comes from them",
            );
            context.output.show(&Removed { removed: id })
        }
        Action::Rotate { remove_others } => {
            let done = repo.rotate_keys(*remove_others)?;
            context
                .screen
                .note("processes that have the repository open go on with the key that they know");
            context.output.show(&Rotated {
                epoch: format!("{:08x}", done.epoch),
                keys: done.keys,
                removed: done.removed,
            })
        }
    }
}

fn list(repo: &Repository, context: &Context) -> Result<(), Failure> {
    let keys = repo.keys()?.into_iter().map(|key| {
        let (record, damaged) = match key.record {
            Ok(record) => (Some(record), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Listed {
            id: key.id,
            opened: key.opened,
            damaged,
            kind: record.as_ref().map(|record| record.kind.name()),
            created: record.as_ref().map_or(String::new(), |r| r.created.clone()),
            label: record.map_or(String::new(), |record| record.label),
        }
    });
    context.output.show(&List {
        keys: keys.collect(),
    })
}

fn add(args: &AddArgs, repo: &Repository, context: &Context) -> Result<(), Failure> {
    let said = Sources {
        commands: args.new.new_key_command.iter().cloned().collect(),
        passphrase_files: args.new.new_passphrase_file.iter().cloned().collect(),
        ..Sources::default()
    };
    let unlock = if let Some(path) = &args.new.new_key_file {
        Unlock::File(make_key_file(path, repo.record().id, &*context.env)?)
    } else if args.new.new_passphrase {
        ask_new()?
    } else {
        let nothing = || Failure::usage("no new key is named", "say --new-key-file FILE");
        said.read(&context.screen)?.pop().ok_or_else(nothing)?
    };
    let added = repo.add_key(&NewKey::new(unlock, args.label.clone()))?;
    context.output.show(&Added { added })
}

fn find(repo: &Repository, text: &str) -> Result<KeyId, Failure> {
    let ids: Vec<_> = repo.keys()?.iter().map(|key| key.id).collect();
    let text = text.to_ascii_lowercase();
    let found: Vec<_> = ids
        .iter()
        .filter(|id| text.len() >= 4 && id.to_string().starts_with(&text))
        .collect();
    match found[..] {
        [one] => Ok(*one),
        [] => Err(Error::new(
            Kind::NotFound,
            format!("there is no key {}", printable(&text)),
        )
        .hint("`cryostore key list` shows what there is")
        .into()),
        _ => Err(
            Error::new(Kind::Invalid, format!("several keys begin with {text}"))
                .hint("say more of it")
                .into(),
        ),
    }
}
