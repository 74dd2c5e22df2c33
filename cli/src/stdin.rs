//! Owns the reading of standard input in a way that Ctrl-C can end, even if whoever writes has stalled.

use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::signals::StopFlag;

/// 100 ms: a user does not notice, and ten wake-ups in a second cost nothing.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Standard input, unbuffered: the engine reads large slabs.
#[derive(Debug)]
pub(crate) struct Stdin {
    file: std::fs::File,
    stop: StopFlag,
}

impl Stdin {
    pub(crate) fn open(stop: StopFlag) -> io::Result<Self> {
        let file = io::stdin().as_fd().try_clone_to_owned()?.into();
        Ok(Self { file, stop })
    }
}

impl Read for Stdin {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.is_set() {
                // Not the end of the input: what came so far must not be taken for all.
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "stopped before it was read",
                ));
            }
            let mut wait = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut wait, Some(&LOOK_EVERY)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.file.read(out),
                Err(e) => return Err(e.into()),
            }
        }
    }
}
