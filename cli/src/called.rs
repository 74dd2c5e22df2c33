//! Owns the name under which the program was called: `cryostore`; `clouder criu`, by a link named `clouder`; `kubectl criu`, by one named `kubectl-criu`.
//!
//! Always: what tells somebody to type a command names it as they called it. Never: rewrites a path, or anything that is no command.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::OnceLock;

use clap::{Command, CommandFactory};

use crate::args::Cli;

const OWN: &str = "cryostore";
/// What people who checkpoint pods need, in the order in which they need it; help under the other names begins with those that there are.
const FIRST: [&str; 7] = [
    "checkpoint",
    "ls",
    "inspect",
    "delete",
    "restore",
    "configure",
    "status",
];

static CALLED: OnceLock<Called> = OnceLock::new();

/// A name of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    Cryostore,
    /// `clouder criu`
    Clouder,
    /// `kubectl criu`
    Kubectl,
}

/// What the first words were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// The arguments behind the name, the program's own at their head.
    Arguments(Vec<OsString>),
    /// `clouder` without `criu`: somebody asks what it is.
    Help,
    /// The same, and something else was said.
    NoCriu,
}

impl Called {
    /// By the name of the program file or of the link to it.
    fn by(program: &OsStr) -> Self {
        let name = Path::new(program).file_name().and_then(OsStr::to_str);
        match name {
            Some("clouder") => Self::Clouder,
            Some("kubectl-criu") => Self::Kubectl,
            _ => Self::Cryostore,
        }
    }

    /// That of this process; to be asked first by `main`, with the program's first argument.
    pub(crate) fn settle(program: &OsStr) -> Self {
        *CALLED.get_or_init(|| Self::by(program))
    }

    pub(crate) fn now() -> Self {
        CALLED.get().copied().unwrap_or(Self::Cryostore)
    }

    /// What people type.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Cryostore => OWN,
            Self::Clouder => "clouder criu",
            Self::Kubectl => "kubectl criu",
        }
    }

    /// The same as the name of a file: of manual pages, of completions.
    pub(crate) const fn file_name(self) -> &'static str {
        match self {
            Self::Cryostore => OWN,
            Self::Clouder => "clouder-criu",
            Self::Kubectl => "kubectl-criu",
        }
    }

    /// Takes the word away that is part of the name.
    pub(crate) fn words(self, mut arguments: Vec<OsString>) -> Words {
        if self != Self::Clouder {
            return Words::Arguments(arguments);
        }
        match arguments.get(1).and_then(|word| word.to_str()) {
            Some("criu") => {
                arguments.remove(1);
                Words::Arguments(arguments)
            }
            None if arguments.len() < 2 => Words::Help,
            Some("help" | "--help" | "-h" | "--version" | "-V") => Words::Help,
            _ => Words::NoCriu,
        }
    }

    /// The command line under this name.
    pub(crate) fn command(self) -> Command {
        let command = Cli::command();
        if self == Self::Cryostore {
            return command;
        }
        let names: Vec<String> = command
            .get_subcommands()
            .map(|sub| sub.get_name().to_owned())
            .collect();
        let mut command = self.renamed(command.bin_name(self.name()));
        for (n, name) in FIRST.iter().enumerate() {
            if names.iter().any(|known| known == name) {
                command = command.mut_subcommand(name, |sub| sub.display_order(n));
            }
        }
        command
    }

    /// Every text of a command and of those below it.
    fn renamed(self, mut command: Command) -> Command {
        let say = |text: &clap::builder::StyledStr| self.help(&text.to_string());
        if let Some(text) = command.get_about().map(say) {
            command = command.about(text);
        }
        if let Some(text) = command.get_long_about().map(say) {
            command = command.long_about(text);
        }
        if let Some(text) = command.get_after_help().map(say) {
            command = command.after_help(text);
        }
        command
            .mut_args(|mut argument| {
                if let Some(text) = argument.get_help().map(say) {
                    argument = argument.help(text);
                }
                if let Some(text) = argument.get_long_help().map(say) {
                    argument = argument.long_help(text);
                }
                argument
            })
            .mut_subcommands(|sub| self.renamed(sub))
    }

    /// A text of the help; the files that completions go to have the name, too.
    fn help(self, text: &str) -> String {
        let file = match self {
            Self::Clouder => "clouder",
            _ => self.file_name(),
        };
        self.say(text)
            .replace(
                "completions/cryostore.fish",
                &format!("completions/{file}.fish"),
            )
            .replace("completions/cryostore\n", &format!("completions/{file}\n"))
            .replace(".zfunc/_cryostore", &format!(".zfunc/_{file}"))
    }

    /// A text in which commands are named as `cryostore COMMAND`, under this name.
    pub(crate) fn say(self, text: &str) -> Cow<'_, str> {
        if self == Self::Cryostore || !text.contains(OWN) {
            return Cow::Owned(text.to_owned());
        }
        let mut out = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some(at) = rest.find(OWN) {
            let (before, found) = rest.split_at(at);
            let after = &found[OWN.len()..];
            out.push_str(before);
            let in_word = |c: char| c.is_alphanumeric() || "/._-".contains(c);
            let stands_alone = !before.ends_with(in_word);
            out.push_str(if stands_alone && is_command(after) {
                self.name()
            } else {
                OWN
            });
            rest = after;
        }
        out.push_str(rest);
        Cow::Owned(out)
    }
}

/// True if this is what follows the program's name in a command line.
fn is_command(after: &str) -> bool {
    let Some(after) = after.strip_prefix(' ') else {
        return false;
    };
    // The first line of key files.
    if after.starts_with("key 1") {
        return false;
    }
    let end = after
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .unwrap_or(after.len());
    let word = &after[..end];
    ["COMMAND", "help"].contains(&word) || word.starts_with("--") || names().contains(&word.into())
}

fn names() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let command = Cli::command();
        let names = command.get_subcommands().map(Command::get_name);
        names.map(str::to_owned).collect()
    })
}

/// A text for whoever runs this process.
pub(crate) fn say(text: &str) -> Cow<'_, str> {
    match Called::now() {
        Called::Cryostore => Cow::Borrowed(text),
        called => Cow::Owned(called.say(text).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(program: &str, arguments: &[&str]) -> Words {
        let all = [&[program], arguments].concat();
        Called::by(program.as_ref()).words(all.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_link_named_clouder_takes_criu_as_its_first_word_and_no_other_name_does() {
        let arguments = |words: &[&str]| Words::Arguments(words.iter().map(Into::into).collect());
        let link = "/usr/local/bin/clouder";
        assert_eq!(words(link, &["criu", "ls"]), arguments(&[link, "ls"]));
        assert_eq!(words(link, &["criu"]), arguments(&[link]));
        assert_eq!(words(link, &["ls"]), Words::NoCriu);
        assert_eq!(words(link, &["--json", "criu", "ls"]), Words::NoCriu);
        assert_eq!(words(link, &[]), Words::Help);
        assert_eq!(words(link, &["--help"]), Words::Help);
        for name in ["cryostore", "kubectl-criu", "clouder2"] {
            assert_eq!(words(name, &["criu"]), arguments(&[name, "criu"]), "{name}");
        }
    }

    #[test]
    fn commands_are_named_as_they_are_called_and_nothing_else_is_touched() {
        let say = |text| Called::Clouder.say(text).into_owned();
        assert_eq!(say("`cryostore ls` lists"), "`clouder criu ls` lists");
        assert_eq!(say("A=b cryostore init x"), "A=b clouder criu init x");
        assert_eq!(
            say("cryostore --storage x ls"),
            "clouder criu --storage x ls"
        );
        for text in [
            "/srv/cryostore ls",
            "not `cryostore key 1`",
            "without cryostore",
            "cryostore is a store",
            "my-cryostore gc",
        ] {
            assert_eq!(say(text), text);
        }
        let text = "`cryostore ls`";
        assert_eq!(Called::Cryostore.say(text), text);
    }

    #[test]
    fn help_under_every_name_fits_together_and_names_no_other() {
        for called in [Called::Clouder, Called::Kubectl] {
            let mut command = called.command();
            command.clone().debug_assert();
            command.build();
            for sub in command.get_subcommands_mut() {
                let help = sub.render_long_help().to_string();
                let usage = format!("Usage: {}", called.name());
                assert!(help.contains(&usage), "{help}");
                for line in help.lines().filter(|line| line.contains(OWN)) {
                    let own_path = line.contains("/cryostore") || line.contains("cryostore.");
                    let product = line.contains("without cryostore");
                    // An object in the cluster.
                    let object =
                        line.contains("cryostore-agents") || line.contains("[default: cryostore]");
                    assert!(own_path || product || object, "{line}");
                }
            }
        }
    }
}
