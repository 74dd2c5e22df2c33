//! Owns the command line as a whole: global flags, the list of commands, and the way from arguments to an exit code.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{ArgAction, Args, FromArgMatches, Parser};

use crate::called::{Called, Words};
use crate::commands::{Command, Outcome};
use crate::config::{self, Flags};
use crate::context::Context;
use crate::exit::{self, Failure};
use crate::log;
use crate::output::Output;
use crate::screen::Screen;
use crate::secrets::Sources;
use crate::signals::StopFlag;

/// Stores container checkpoints: deduplicated, verified, byte for byte.
#[derive(Debug, Parser)]
#[command(name = "cryostore", version, max_term_width = 100, after_help = after_help())]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The repository, and no other: a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX [env: CRYOSTORE_STORAGE]
    #[arg(long, global = true, value_name = "DIR|URL")]
    storage: Option<String>,
    /// Say more about the storage, such as endpoint=URL or region=NAME; may be repeated
    #[arg(long = "storage-option", global = true, value_name = "KEY=VALUE")]
    storage_options: Vec<String>,
    /// Print the result as one JSON document; errors and warnings are JSON lines on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Say more on stderr; repeat it for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// No progress, warnings or hints: only results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Where the local index and other caches are kept [env: CRYOSTORE_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Disk that copies of a bucket's packs may take, such as 500M or 20G; 0: none [default: 4G] [env: CRYOSTORE_CACHE_SIZE]
    #[arg(long, global = true, value_name = "SIZE")]
    cache_size: Option<String>,
    /// Keep no caches: an import is compared with its base only
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    no_cache: bool,
    /// Remove and replace nothing: refuse `delete`, `pin`, `gc` and whatever else would [env: CRYOSTORE_APPEND_ONLY]
    #[arg(long, global = true)]
    append_only: bool,
    /// Memory that may be taken, such as 512M or 1G [default: 256M] [env: CRYOSTORE_MAX_MEMORY]
    #[arg(long, global = true, value_name = "SIZE")]
    max_memory: Option<String>,
    /// File with the key of an encrypted repository [env: CRYOSTORE_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Vec<PathBuf>,
    /// Command that prints the key of an encrypted repository [env: CRYOSTORE_KEY_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND")]
    key_command: Vec<String>,
    /// File with the passphrase of an encrypted repository [env: CRYOSTORE_PASSPHRASE_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Vec<PathBuf>,
}

fn after_help() -> String {
    format!(
        "Examples:
  cryostore init --storage /srv/checkpoints
  cryostore import --storage /srv/checkpoints checkpoint-web_default-nginx.tar
  cryostore export --storage /srv/checkpoints latest -o checkpoint.tar

{}

{}",
        config::HELP,
        exit::TABLE
    )
}

/// Runs what the arguments say.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    let called = Called::settle(arguments.first().map(AsRef::as_ref).unwrap_or_default());
    let json = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument == "--json");
    let arguments = match called.words(arguments) {
        Words::Arguments(arguments) => arguments,
        Words::Help => return without_criu(),
        Words::NoCriu => {
            let failure = Failure::usage(
                "`clouder` is followed by the word `criu`",
                "`clouder criu ls` lists checkpoints; `clouder criu help` lists the commands",
            );
            Screen::new(json, false, false, StopFlag::default()).fail(&failure);
            return ExitCode::from(failure.code());
        }
    };
    let mut command = called.command();
    let parsed = command.try_get_matches_from_mut(arguments);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return not_parsed(&e.format(&mut command), json),
    };
    let Global {
        storage,
        storage_options,
        json,
        verbose,
        quiet,
        cache_dir,
        cache_size,
        no_cache,
        append_only,
        max_memory,
        key_file,
        key_command,
        passphrase_file,
    } = cli.global;
    let screen = Arc::new(Screen::new(json, quiet, verbose > 0, StopFlag::listen()));
    let context = Context::new(
        Flags {
            storage,
            storage_options,
            cache_dir,
            cache_size,
            no_cache,
            append_only,
            max_memory,
            keys: Sources {
                files: key_file,
                commands: key_command,
                passphrase_files: passphrase_file,
                passphrase_variable: None,
            },
        },
        Output { json },
        Arc::clone(&screen),
    );
    let outcome = log::start(verbose, &screen).and_then(|()| cli.command.run(&context));
    screen.clear();
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Problems) => ExitCode::from(exit::code_of(cryostore_engine::Kind::Corrupt)),
        Err(failure) => {
            screen.fail(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// `clouder` alone: what stands behind the name, and what to say.
fn without_criu() -> ExitCode {
    let text = concat!(
        "clouder criu COMMAND\n\nStores container checkpoints; `clouder criu help` lists the commands. ",
        "This `clouder` is a link to cryostore ",
        env!("CARGO_PKG_VERSION"),
        ", which knows no other words.\n"
    );
    // A closed pipe is no error here.
    drop(Output::bytes(text.as_bytes()));
    ExitCode::SUCCESS
}

/// Help and version are results; everything else is wrong.
fn not_parsed(error: &clap::Error, json: bool) -> ExitCode {
    if !error.use_stderr() || !json {
        // A closed pipe is no error here.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text).trim().to_owned();
    let failure = Failure::usage(
        first,
        "`cryostore help` and `cryostore COMMAND --help` say what can be said",
    );
    Screen::new(true, false, false, StopFlag::default()).fail(&failure);
    ExitCode::from(failure.code())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.starts_with("Examples:\n  cryostore "),
                "{}",
                command.get_name()
            );
        }
    }
}
