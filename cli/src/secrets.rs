//! Owns what opens repositories: where it comes from, and how key files are made.
//!
//! Always: what the command line says counts before the environment, that before the configuration files, and these before what opened it last and the file that `init` made; a
//! new key file is on the disk before anything depends on it. Never: prints a secret, or takes one on the command line, where every user sees it.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cryostore_engine::format::RepositoryId;
use cryostore_engine::format::encryption::Secret;
use cryostore_engine::format::limits::KEY_MATERIAL_MAX;
use cryostore_engine::format::repository::RepositoryRecord;
use cryostore_engine::{Env, Error, KeyFile, Kind, Result, Unlock};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::{Zeroize, Zeroizing};

use crate::screen::Screen;

/// What a command prints must be hard to guess: nothing makes guessing slow, as it does for passphrases.
const COMMAND_LEAST: usize = 16;

/// Where keys come from, of one source: the command line, say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) commands: Vec<String>,
    pub(crate) passphrase_files: Vec<PathBuf>,
    /// A variable that holds a passphrase.
    pub(crate) passphrase_variable: Option<&'static str>,
}

impl Sources {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn count(&self) -> usize {
        self.files.len()
            + self.commands.len()
            + self.passphrase_files.len()
            + usize::from(self.passphrase_variable.is_some())
    }

    /// The same, with where each comes from.
    fn candidates(&self, screen: &Screen) -> Result<Vec<Candidate>> {
        let mut names: Vec<String> = self.files.iter().map(|path| file_name(path)).collect();
        let commands = self.commands.iter();
        names.extend(commands.map(|command| format!("command `{command}`")));
        let passphrases = self.passphrase_files.iter();
        names.extend(passphrases.map(|path| format!("passphrase in {}", path.display())));
        let variable = self.passphrase_variable.iter();
        names.extend(variable.map(|name| format!("passphrase in {name}")));
        Ok(names.into_iter().zip(self.read(screen)?).collect())
    }

    /// What of it can be written down: names of files, which mean the same wherever the program is started, and commands.
    pub(crate) fn lasting(&self) -> Self {
        let absolute = |path: &PathBuf| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            path.to_str().is_some().then_some(path)
        };
        Self {
            files: self.files.iter().filter_map(absolute).take(1).collect(),
            commands: self.commands.iter().take(1).cloned().collect(),
            passphrase_files: self
                .passphrase_files
                .iter()
                .filter_map(absolute)
                .take(1)
                .collect(),
            passphrase_variable: None,
        }
    }

    /// Reads files, runs commands.
    pub(crate) fn read(&self, screen: &Screen) -> Result<Vec<Unlock>> {
        let mut out = Vec::new();
        for path in &self.files {
            out.push(Unlock::File(read_key_file(path, screen)?));
        }
        for command in &self.commands {
            out.push(Unlock::Command(run_command(command)?));
        }
        for path in &self.passphrase_files {
            out.push(passphrase(read_small(path)?, &path.display().to_string())?);
        }
        if let Some(name) = self.passphrase_variable {
            let value = std::env::var_os(name).unwrap_or_default();
            let bytes = Zeroizing::new(value.into_encoded_bytes());
            out.push(passphrase(bytes, name)?);
        }
        Ok(out)
    }
}

/// Something that may open a repository, and where it was found.
pub(crate) type Candidate = (String, Unlock);

/// Where to look for what opens a repository.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyring<'k> {
    /// What was said counts alone.
    pub(crate) said: &'k Sources,
    /// What opened it before, if it is known.
    pub(crate) known: Option<&'k Sources>,
    /// Where `init` puts key files.
    pub(crate) usual: Option<&'k Path>,
    /// What was said of another storage.
    pub(crate) spare: &'k Sources,
    /// Somebody at the terminal may be asked.
    pub(crate) ask: bool,
}

impl Keyring<'_> {
    /// What opens this repository: what was said, else what opened it before and the file that `init` made, else what was said of another, else what somebody at the terminal
    /// types.
    pub(crate) fn candidates(
        &self,
        record: &RepositoryRecord,
        screen: &Screen,
    ) -> Result<Vec<Candidate>> {
        if !self.said.is_empty() {
            return self.said.candidates(screen);
        }
        let usual = self.usual.map(|dir| usual_file(dir, record.id));
        let usual = usual.filter(|path| path.exists());
        let before = self.known.map(|known| known.candidates(screen));
        let mut out = match before.transpose() {
            // Moved away, perhaps; there is another.
            Err(_) if usual.is_some() => Vec::new(),
            before => before?.unwrap_or_default(),
        };
        if let Some(path) = usual {
            let file = Unlock::File(read_key_file(&path, screen)?);
            let name = file_name(&path);
            if out.iter().all(|(said, _)| *said != name) {
                out.push((name, file));
            }
        }
        // One that is known to be in clear is not refused for another's key. For its own it is: somebody put it there in the place of a sealed one.
        let in_clear = record.encryption.is_none() && self.known.is_some();
        if out.is_empty() && !in_clear {
            out = self.spare.candidates(screen)?;
        }
        if out.is_empty() && self.ask && record.encryption.is_some() && terminal().is_some() {
            screen.clear();
            let prompt = format!("passphrase of repository {}: ", record.id);
            out.push(("typed passphrase".to_owned(), ask(&prompt)?));
        }
        Ok(out)
    }
}

fn file_name(path: &Path) -> String {
    path.display().to_string()
}

/// Where `init` puts the key of a repository.
pub(crate) fn usual_file(keys_dir: &Path, id: RepositoryId) -> PathBuf {
    keys_dir.join(format!("{id}.key"))
}

/// Reads a key file; one that others can read is told of.
pub(crate) fn read_key_file(path: &Path, screen: &Screen) -> Result<KeyFile> {
    let text = read_small(path)?;
    let open = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0);
    if open {
        screen.warn(&format!(
            "{} can be read by others: chmod 600 it",
            path.display()
        ));
    }
    KeyFile::decode(&text).map_err(|e| {
        Error::new(Kind::Invalid, format!("{}: {e}", path.display()))
            .hint("name a file that `cryostore init` or `cryostore key add` made")
    })
}

/// Makes a key file, which is on the disk when this is back. One that is there stays as it is, and is an error.
pub(crate) fn make_key_file(path: &Path, id: RepositoryId, env: &dyn Env) -> Result<KeyFile> {
    let file = KeyFile {
        repository: id,
        secret: Secret::from_bytes(env.random()),
    };
    let text = file.encode();
    let write = || -> std::io::Result<()> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)?;
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| Error::io(format!("making the key file {}", path.display()), e))?;
    Ok(file)
}

/// A file of secrets: small, and wiped from memory later.
fn read_small(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |e| Error::io(path.display(), e);
    let file = File::open(path).map_err(failed)?;
    read_bounded(file).map_err(failed)
}

fn read_bounded(mut from: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // All memory at once: what a vector grows out of would not be wiped.
    let mut out = Zeroizing::new(Vec::with_capacity(KEY_MATERIAL_MAX + 1));
    from.by_ref()
        .take(KEY_MATERIAL_MAX as u64 + 1)
        .read_to_end(&mut out)?;
    if out.len() > KEY_MATERIAL_MAX {
        let text = format!("more than {KEY_MATERIAL_MAX} bytes are no key");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
    }
    Ok(out)
}

/// Without the line end that editors and `echo` put there.
fn without_line_end(bytes: &mut Vec<u8>) {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
}

fn passphrase(mut bytes: Zeroizing<Vec<u8>>, from: &str) -> Result<Unlock> {
    without_line_end(&mut bytes);
    if bytes.is_empty() {
        return Err(
            Error::new(Kind::Invalid, format!("{from}: the passphrase is empty"))
                .hint("put a passphrase into it, on one line"),
        );
    }
    Ok(Unlock::Passphrase(bytes))
}

fn run_command(command: &str) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |e| Error::io(format!("the key command `{command}`"), e);
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let printed = child.stdout.take().map(read_bounded);
    let status = child.wait().map_err(failed)?;
    let mut printed = printed.transpose().map_err(failed)?.unwrap_or_default();
    if !status.success() {
        return Err(Error::new(
            Kind::Denied,
            format!("the key command `{command}` failed: {status}"),
        )
        .hint("run it by hand: it is to print the key on its standard output"));
    }
    without_line_end(&mut printed);
    if printed.len() < COMMAND_LEAST {
        let text = format!(
            "the key command `{command}` printed {} bytes, at least {COMMAND_LEAST} are needed",
            printed.len()
        );
        return Err(Error::new(Kind::Invalid, text)
            .hint("let it print 32 random bytes, or their hexadecimal digits; for words that people know there is --passphrase"));
    }
    Ok(printed)
}

/// The terminal of whoever started this, if there is one.
fn terminal() -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/dev/tty").ok()
}

/// Asks for a passphrase, which is not shown.
pub(crate) fn ask(prompt: &str) -> Result<Unlock> {
    let mut terminal = terminal().ok_or_else(|| {
        Error::new(
            Kind::Invalid,
            "there is no terminal to ask for a passphrase",
        )
        .hint("say --passphrase-file FILE, or set CRYOSTORE_PASSPHRASE")
    })?;
    let failed = |e: std::io::Error| Error::io("the terminal", e);
    let before = tcgetattr(&terminal).map_err(|e| failed(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    write!(terminal, "{prompt}").map_err(failed)?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| failed(e.into()))?;
    let mut line = Zeroizing::new(String::with_capacity(KEY_MATERIAL_MAX));
    let mut reader = std::io::BufReader::new(&terminal);
    let read = (&mut reader)
        .take(KEY_MATERIAL_MAX as u64)
        .read_line(&mut line);
    let mut buffered = reader.buffer().to_vec();
    buffered.zeroize();
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &before);
    read.map_err(failed)?;
    restored.map_err(|e| failed(e.into()))?;
    passphrase(
        Zeroizing::new(std::mem::take(&mut *line).into_bytes()),
        "the terminal",
    )
}

/// Asks for a new passphrase, twice.
pub(crate) fn ask_new() -> Result<Unlock> {
    let (first, second) = (ask("new passphrase: ")?, ask("once more: ")?);
    match (&first, &second) {
        (Unlock::Passphrase(a), Unlock::Passphrase(b)) if a == b => Ok(first),
        _ => Err(Error::new(Kind::Invalid, "the two passphrases differ").hint("begin again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_is_no_part_of_a_secret_and_a_second_one_is() {
        for (text, secret) in [
            ("words", "words"),
            ("words\n", "words"),
            ("words\r\n", "words"),
            ("words\n\n", "words\n"),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            without_line_end(&mut bytes);
            assert_eq!(bytes, secret.as_bytes());
        }
    }

    #[test]
    fn a_command_that_fails_or_prints_little_gives_no_key() {
        let printed = run_command("printf 0123456789abcdef").unwrap();
        assert_eq!(&**printed, b"0123456789abcdef");
        assert_eq!(run_command("exit 3").unwrap_err().kind(), Kind::Denied);
        assert_eq!(run_command("echo short").unwrap_err().kind(), Kind::Invalid);
        let much = run_command("head -c 100000 /dev/zero");
        assert_eq!(much.unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_key_file_is_for_its_owner_alone_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/one.key");
        let env = cryostore_engine::SystemEnv::new();
        let id = RepositoryId::from_bytes([7; 16]);
        let made = make_key_file(&path, id, &env).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(KeyFile::decode(&std::fs::read(&path).unwrap()), Ok(made));
        assert_eq!(
            make_key_file(&path, id, &env).unwrap_err().kind(),
            Kind::Conflict
        );
    }
}
