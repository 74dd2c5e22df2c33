//! `cryostore completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
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
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cryostore", &mut script);
    Output::bytes(&script)
}
