//! `cryostore completions`

use clap::{Args, Command};
use clap_complete::Shell;

use crate::called::Called;
use crate::exit::Failure;
use crate::output::Output;

/// Print the completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cryostore completions bash > ~/.local/share/bash-completion/completions/cryostore
  cryostore completions zsh > ~/.zfunc/_cryostore
  cryostore completions fish > ~/.config/fish/completions/cryostore.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let called = Called::now();
    let command = called.command();
    let (mut command, name) = match called {
        // `criu` is a word to complete, too.
        Called::Clouder => {
            let criu = command.name("criu").disable_help_subcommand(true);
            let above = Command::new("clouder").disable_help_subcommand(true);
            (above.subcommand(criu), "clouder")
        }
        _ => (command, called.file_name()),
    };
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    Output::bytes(&script)
}
