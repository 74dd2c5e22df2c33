//! `cryostore init`

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::repository::Defaults;
use cryostore_engine::{Error, Kind, NewKey, Repository, Store, Unlock};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::secrets::{Sources, ask_new, make_key_file, read_key_file, usual_file};

/// Make a new, empty repository
///
/// The directory is made if it is not there; one that holds other files is refused. Everything that is put into it is encrypted. Unless a passphrase, a key file or a
/// command is named, the key is a new file in ~/.config/cryostore/keys: keep a copy of it elsewhere, without it the repository cannot be read.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore init --storage /srv/checkpoints
  cryostore init --storage /srv/checkpoints --passphrase
  cryostore init --storage /srv/checkpoints --key-command 'vault kv get -field=key secret/cryostore'
  CRYOSTORE_STORAGE=/srv/checkpoints cryostore init --no-encryption")]
pub(crate) struct InitArgs {
    /// Imports store changed pages whole unless they are told otherwise by `--delta`
    #[arg(long)]
    no_delta: bool,
    /// Encrypt nothing: whoever can read the store can read what the containers had in memory
    #[arg(long, conflicts_with_all = ["passphrase", "key_file", "key_command", "passphrase_file"])]
    no_encryption: bool,
    /// Ask for a passphrase on the terminal, instead of making a key file
    #[arg(long, conflicts_with_all = ["key_file", "key_command", "passphrase_file"])]
    passphrase: bool,
}

#[derive(Serialize)]
struct Report {
    repository: RepositoryId,
    storage: String,
    encrypted: bool,
    /// The key file that was made.
    key_file: Option<PathBuf>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "new repository {} in {}", self.repository, self.storage)?;
        match &self.key_file {
            Some(path) => writeln!(f, "its key is {}", path.display()),
            None if self.encrypted => Ok(()),
            None => writeln!(f, "it is not encrypted"),
        }
    }
}

pub(crate) fn run(args: &InitArgs, context: &Context) -> Result<(), Failure> {
    let store = context.new_store()?;
    refuse_foreign(&store)?;
    let defaults = Defaults {
        deltas: !args.no_delta,
    };
    let mut made = None;
    let repository = if args.no_encryption {
        Repository::init_with(&store, &*context.env, defaults)?
    } else {
        let (said, keys_dir) = context.keys()?;
        if said.count() > 1 {
            return Err(Failure::usage(
                "more than one key is named",
                "a new repository begins with one; `cryostore key add` adds others",
            ));
        }
        let first = |id| {
            let unlock = first_key(args, context, &said, keys_dir.as_deref(), id, &mut made)?;
            Ok(NewKey::new(unlock, "made by init"))
        };
        Repository::init_encrypted(&store, &*context.env, defaults, first)?
    };
    if let Some(path) = &made {
        context.screen.note(&format!(
            "keep a copy of {} elsewhere: without it nothing in this repository can be read, by anybody. Nodes that are to use the repository need it, too. A passphrase can be added: cryostore key add --new-passphrase",
            path.display()
        ));
    }
    context.output.show(&Report {
        repository,
        storage: store.name().to_owned(),
        encrypted: !args.no_encryption,
        key_file: made,
    })
}

/// What the new repository is opened with; a file that was made for it is safe on the disk when this is back.
fn first_key(
    args: &InitArgs,
    context: &Context,
    said: &Sources,
    keys_dir: Option<&std::path::Path>,
    id: RepositoryId,
    made: &mut Option<PathBuf>,
) -> cryostore_engine::Result<Unlock> {
    if args.passphrase {
        return ask_new();
    }
    let path = match (said.files.first(), keys_dir) {
        (Some(path), _) if path.exists() => {
            return Ok(Unlock::File(read_key_file(path, &context.screen)?));
        }
        (Some(path), _) => path.clone(),
        (None, _) if !said.is_empty() => {
            let nothing = || Error::new(Kind::Internal, "a key that is none");
            return said.read(&context.screen)?.pop().ok_or_else(nothing);
        }
        (None, Some(dir)) => usual_file(dir, id),
        (None, None) => {
            return Err(
                Error::new(Kind::Invalid, "it is not known where the key file is to be")
                    .hint("set HOME, or say --key-file FILE"),
            );
        }
    };
    let file = make_key_file(&path, id, &*context.env)?;
    *made = Some(path);
    Ok(Unlock::File(file))
}

/// A directory with somebody's files is a slip of the pen. A repository is left to the engine, which knows it.
fn refuse_foreign(store: &Store) -> Result<(), Failure> {
    let Some(dir) = store.local_path() else {
        return Ok(());
    };
    let failed = |e| Error::io(dir.display(), e);
    let mut foreign = None;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name == cryostore_engine::format::repository::OBJECT_NAME {
            return Ok(());
        }
        // The root of a new file system has it.
        if name != "lost+found" {
            foreign = Some(name);
        }
    }
    let Some(name) = foreign else { return Ok(()) };
    let text = format!(
        "{} is not empty: it holds {}, and no repository",
        dir.display(),
        name.display()
    );
    Err(Error::new(Kind::Conflict, text)
        .hint("name an empty directory, or one that is not there yet")
        .into())
}
