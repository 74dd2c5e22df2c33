//! Owns the process whose memory the demo stores: its start, its steps and its end, on both sides of the pipe.
//!
//! Always: the process ends with its handle, and with its parent. It is alone in its process group: if the parent dies while
//! it is stopped, the kernel wakes such an orphaned group with SIGHUP; if it runs, it reads the end of its input.
//! Never: prints to the terminal, or outlives a demo that was killed.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use super::heap::Heap;

/// The hidden first argument that makes `cryostore` the workload instead of a command.
pub(crate) const WORKLOAD_ARGUMENT: &str = "__demo-workload";
/// The workload is the same in each run.
const SEED: u64 = 0x00c0_ffee;
/// 1 GiB: beyond it a demo takes minutes and shows nothing more.
const MOST_MIB: usize = 1024;

/// A running child process with a heap of known size.
#[derive(Debug)]
pub(crate) struct Workload {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    steps: u64,
    started: Timestamp,
}

impl Workload {
    /// Starts a child that holds about `mib` MiB, and waits until it has filled them.
    pub(crate) fn start(mib: usize) -> Result<Self> {
        ensure!(
            (1..=MOST_MIB).contains(&mib),
            "the workload holds 1 to {MOST_MIB} MiB, not {mib}"
        );
        let mut command = Command::new(this_program());
        command
            .arg(WORKLOAD_ARGUMENT)
            .arg(mib.to_string())
            .arg(SEED.to_string())
            .process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = Timestamp::now();
        let mut child = command.spawn().context("cannot start the workload")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.context("the workload has no pipes")?;
        let mut workload = Self {
            child,
            input,
            output: BufReader::new(output),
            steps: 0,
            started,
        };
        workload.expect("ready")?;
        Ok(workload)
    }

    /// Has the child change about 5 % of its memory.
    pub(crate) fn step(&mut self) -> Result<()> {
        self.input
            .write_all(b"step\n")
            .context("the workload does not listen any more")?;
        self.steps += 1;
        self.expect(&format!("ok {}", self.steps))
    }

    /// The process id of the child.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the child was started.
    pub(crate) fn started(&self) -> Timestamp {
        self.started
    }

    fn expect(&mut self, answer: &str) -> Result<()> {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .context("cannot read the workload's answer")?;
        match line.trim_end() {
            got if got == answer => Ok(()),
            "" => bail!("the workload ended early"),
            got => bail!("the workload answered {got:?} instead of {answer:?}"),
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        // Both fail only if the process has ended already, which is the aim.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the hidden re-execution runs. `arguments` are those after [`WORKLOAD_ARGUMENT`]: the size in MiB and the seed.
pub(crate) fn run_workload_child(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let mut arguments = arguments.into_iter();
    let mut number = || -> Result<u64> {
        let argument = arguments
            .next()
            .context("the workload needs a size in MiB and a seed")?;
        argument
            .to_string_lossy()
            .parse()
            .with_context(|| format!("{argument:?} is no number"))
    };
    let mib = usize::try_from(number()?)?;
    ensure!(
        (1..=MOST_MIB).contains(&mib),
        "the workload holds 1 to {MOST_MIB} MiB, not {mib}"
    );
    let heap = Heap::new(mib << 20, number()?);
    serve(heap, io::stdin().lock(), io::stdout().lock())
}

/// Answers `step` lines until the input ends.
fn serve(mut heap: Heap, input: impl BufRead, mut output: impl Write) -> Result<()> {
    output.write_all(b"ready\n")?;
    output.flush()?;
    let mut steps = 0_u64;
    for line in input.lines() {
        let line = line?;
        ensure!(
            line == "step",
            "the workload knows only `step`, not {line:?}"
        );
        heap.step();
        steps += 1;
        writeln!(output, "ok {steps}")?;
        output.flush()?;
    }
    Ok(())
}

/// The running program. A binary that was replaced since it started is still there under /proc.
fn this_program() -> PathBuf {
    match env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from("/proc/self/exe"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_answers_each_step_and_ends_with_its_input() {
        let mut output = Vec::new();
        serve(Heap::new(1 << 16, 1), &b"step\nstep\n"[..], &mut output).expect("two steps");
        assert_eq!(output, b"ready\nok 1\nok 2\n");
    }

    #[test]
    fn an_unknown_line_is_refused() {
        assert!(serve(Heap::new(1 << 16, 1), &b"stop\n"[..], io::sink()).is_err());
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for arguments in [&[][..], &["1"], &["x", "1"], &["0", "1"], &["99999", "1"]] {
            assert!(
                run_workload_child(arguments.iter().map(OsString::from)).is_err(),
                "{arguments:?}"
            );
        }
    }
}
