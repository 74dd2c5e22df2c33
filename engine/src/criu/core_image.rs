//! `core-<tid>.img`: what a thread was doing.
//!
//! Owns the architecture and the name of a process, for people and for the question where a dump can be restored.
//! Always: an architecture that we do not know is kept as its number. Never: reads registers.
//!
//! Fields from `images/core.proto`. Only the first thread of a process has a task entry (3); the others have a thread
//! entry (5), which in newer dumps has a name of its own.

use super::error::CriuError;
use super::image::{magic, single};

const WHAT: &str = "core entry";

/// The architecture a thread ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86; also its 32-bit programs.
    X86_64,
    /// 32-bit arm.
    Arm,
    /// 64-bit arm.
    Aarch64,
    /// 64-bit POWER.
    Ppc64,
    /// IBM Z, whose images are big-endian and not read here.
    S390,
    /// MIPS.
    Mips,
    /// 64-bit LoongArch.
    Loongarch64,
    /// 64-bit RISC-V.
    Riscv64,
    /// A number that this code does not know.
    Unknown(u32),
}

impl From<u32> for Arch {
    fn from(mtype: u32) -> Self {
        match mtype {
            1 => Self::X86_64,
            2 => Self::Arm,
            3 => Self::Aarch64,
            4 => Self::Ppc64,
            5 => Self::S390,
            6 => Self::Mips,
            7 => Self::Loongarch64,
            8 => Self::Riscv64,
            other => Self::Unknown(other),
        }
    }
}

/// The fields of a core image that we use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Core {
    /// The architecture.
    pub arch: Option<Arch>,
    /// The name of the process, or of the thread if it is not the first. At most 15 bytes in Linux.
    pub comm: Option<String>,
    /// State of the process in CRIU's numbers: 1 alive, 2 dead, 3 stopped. First thread only.
    pub task_state: Option<u32>,
    /// Exit code of a process that was dead already. First thread only.
    pub exit_code: Option<u32>,
}

impl Core {
    /// Reads `core-<tid>.img`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CriuError> {
        let mut core = Self::default();
        let mut thread_comm = None;
        for field in single(bytes, magic::CORE, WHAT)?.fields(WHAT) {
            let field = field?;
            match field.number {
                1 => core.arch = Some(field.u32()?.into()),
                3 => {
                    for inner in field.message("task core entry")? {
                        let inner = inner?;
                        match inner.number {
                            1 => core.task_state = Some(inner.u32()?),
                            2 => core.exit_code = Some(inner.u32()?),
                            6 => core.comm = Some(inner.text()?),
                            _ => {}
                        }
                    }
                }
                5 => {
                    for inner in field.message("thread core entry")? {
                        let inner = inner?;
                        if inner.number == 13 {
                            thread_comm = Some(inner.text()?);
                        }
                    }
                }
                _ => {}
            }
        }
        core.comm = core.comm.or(thread_comm);
        Ok(core)
    }
}
