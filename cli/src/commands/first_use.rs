//! What a command does with the place where it is to store: the repository there is opened, and in an empty place one is made if somebody wants it.

use std::io::{IsTerminal, Write};

use cryostore_engine::{Error, Kind, Repository};

use super::init;
use crate::context::Context;
use crate::exit::Failure;
use crate::kubelet;
use crate::text::printable;

/// What is at the place now.
pub(crate) enum Place {
    /// A repository, which the key opens.
    There(Box<Repository>),
    /// One that is new; its report says where the key is.
    Made(init::Report),
}

/// Opens the storage that is said, or the default. Where there is no repository, makes one if `init` says so or somebody at the terminal does; else that is the error, and nothing is done.
pub(crate) fn settle(init: bool, context: &Context) -> Result<Place, Failure> {
    let storage = context.settings()?.0;
    if let Some(folder) = kubelet::Folder::around(&storage) {
        return Err(folder.takes_no_repository());
    }
    match context.repository() {
        Ok(repo) => return Ok(Place::There(Box::new(repo))),
        Err(Failure::Engine(e)) if e.kind() == Kind::NotFound => {}
        Err(e) => return Err(e),
    }
    if !init && !is_wanted(&storage)? {
        return Err(Error::new(
            Kind::NotFound,
            format!("there is no repository in {storage}"),
        )
        .hint("nothing was done; --init makes one there")
        .into());
    }
    init::make(&init::InitArgs::default(), context).map(Place::Made)
}

/// Somebody at the terminal says yes.
fn is_wanted(storage: &str) -> Result<bool, Failure> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(false);
    }
    let failed = |e| Error::io("the terminal", e);
    let question = format!(
        "there is no repository in {}: make one? [y/N] ",
        printable(storage)
    );
    stderr.write_all(question.as_bytes()).map_err(failed)?;
    stderr.flush().map_err(failed)?;
    let mut line = String::new();
    stdin.read_line(&mut line).map_err(failed)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
