//! Owns the asking of several storages at once: each by a thread of its own, and none for longer than people wait.
//!
//! Always: one answer for each that was asked, in their order. Never: waits for one that hangs; its thread ends with the process.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use cryostore_engine::{Error, Kind};

use super::too_slow;
use crate::context::Context;
use crate::exit::Failure;

/// Seconds: a bucket far away with thousands of snapshots answers in less, and a person does not wait for longer.
const WAIT: u64 = 15;
/// How soon Ctrl-C is seen.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What one storage said.
pub(crate) struct Answer<T> {
    pub(crate) storage: String,
    pub(crate) said: Result<T, Failure>,
}

/// Asks them all.
pub(crate) fn ask<T: Send + 'static>(
    context: &Context,
    storages: &[String],
    question: impl Fn(&Context, &str) -> Result<T, Failure> + Clone + Send + 'static,
) -> Result<Vec<Answer<T>>, Failure> {
    let mut answers: Vec<Option<Result<T, Failure>>> = storages.iter().map(|_| None).collect();
    let (send, receive) = channel();
    for (n, storage) in storages.iter().enumerate() {
        let (send, question) = (send.clone(), question.clone());
        let (context, storage) = (context.clone(), storage.clone());
        let thread = std::thread::Builder::new().name(format!("storage {n}"));
        let started = thread.spawn(move || {
            // If nobody listens any more, it took too long.
            drop(send.send((n, question(&context, &storage))));
        });
        started.map_err(|e| Error::io("starting a thread", e))?;
    }
    drop(send);
    let until = context.env.elapsed() + Duration::from_secs(WAIT);
    while answers.iter().any(Option::is_none) && context.env.elapsed() < until {
        if context.screen.stop_flag().is_set() {
            return Err(Error::new(Kind::Interrupted, "stopped").into());
        }
        match receive.recv_timeout(LOOK_EVERY) {
            Ok((n, answer)) => {
                if let Some(place) = answers.get_mut(n) {
                    *place = Some(answer);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            // One whose thread failed says nothing.
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let answered = storages.iter().zip(answers);
    Ok(answered
        .map(|(storage, said)| Answer {
            storage: storage.clone(),
            said: said.unwrap_or_else(|| Err(too_slow(WAIT))),
        })
        .collect())
}
