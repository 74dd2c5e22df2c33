//! Owns what is known of a bucket's being there: when it gave a sign of life last, and that it is away when it has given none for as long as one is waited for.
//!
//! One request is tried again and again; a command makes many. Without this each of them would wait as long as the first, and what a command does to tidy up after a failure most of all.
//!
//! Always: the first answer makes the store present again, and while it is away one request now and then is let through to find that out. What is given up is as unclear as what
//! was not answered: it may have been done. Never: counts as away while bytes of any request move, however slowly; tells what became of a request; looks at a clock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits;

/// Whether the store of one client is there.
#[derive(Debug)]
pub(super) struct Presence {
    /// So long without a sign of life, and it is away.
    patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Something has been asked since then, and there was no sign of life.
    silent_since: Option<Instant>,
    /// Tries that are under way.
    at_work: usize,
    /// When it was looked last whether the store is back.
    looked: Option<Instant>,
}

/// A try of a request that is under way.
#[derive(Debug)]
pub(super) struct Try {
    presence: Arc<Presence>,
    began: Instant,
    /// The store is away, and this is to find out whether it is back.
    looks: bool,
    /// The last that was heard of it was a sign of life.
    alive: bool,
}

/// The store is away: for how long nothing was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away(pub(super) Duration);

impl Presence {
    pub(super) fn new(patience: Duration) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { patience, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a try, if the store is there as far as is known, or it is time to look again.
    pub(super) fn begin(self: &Arc<Self>, now: Instant) -> Result<Try, Away> {
        let mut state = self.state();
        let silent_since = *state.silent_since.get_or_insert(now);
        let away_since = silent_since + self.patience;
        let looks = now >= away_since;
        if looks {
            let last = state.looked.filter(|looked| *looked > away_since);
            if now < last.unwrap_or(away_since) + limits::LOOK_AGAIN {
                return Err(Away(now - silent_since));
            }
            state.looked = Some(now);
        }
        state.at_work += 1;
        drop(state);
        Ok(Try {
            presence: Arc::clone(self),
            began: now,
            looks,
            alive: false,
        })
    }
}

impl Try {
    /// An answer came, or bytes moved.
    pub(super) fn heard(&mut self, now: Instant) {
        self.alive = true;
        self.presence.state().silent_since = Some(now);
    }

    /// It ends without an answer.
    pub(super) fn failed(&mut self) {
        self.alive = false;
    }

    /// It is of no use to wait any longer.
    pub(super) fn is_over(&self, now: Instant) -> Option<Away> {
        let silent = now - self.presence.state().silent_since?;
        let waits = self.looks && now - self.began < limits::LOOK;
        (silent >= self.presence.patience && !waits).then_some(Away(silent))
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        let mut state = self.presence.state();
        state.at_work -= 1;
        // Nobody waits for anything.
        if self.alive && state.at_work == 0 {
            state.silent_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(100);

    /// A clock that is asked for the time so many seconds after its start.
    fn clock() -> impl Fn(u64) -> Instant {
        #[expect(clippy::disallowed_methods, reason = "some moment to count from")]
        let start = Instant::now();
        move |seconds| start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_store_that_is_silent_for_as_long_as_one_waits_is_away_for_all_requests_until_it_answers() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let mut first = store.begin(at(0)).unwrap();
        first.failed();
        drop(first);
        // Tried again: the time goes on.
        let second = store.begin(at(60)).unwrap();
        let beside = store.begin(at(60)).unwrap();
        assert_eq!(second.is_over(at(99)), None);
        assert_eq!(second.is_over(at(100)), Some(Away(PATIENCE)));
        assert_eq!(beside.is_over(at(100)), Some(Away(PATIENCE)));
        drop((second, beside));
        assert_eq!(store.begin(at(101)).unwrap_err().0.as_secs(), 101);
        // One is let through to look, for a while.
        let (again, most) = (limits::LOOK_AGAIN.as_secs(), limits::LOOK.as_secs());
        let mut look = store.begin(at(100 + again)).unwrap();
        assert!(store.begin(at(100 + again)).is_err());
        assert!(look.is_over(at(100 + again + most - 1)).is_none());
        assert!(look.is_over(at(100 + again + most)).is_some());
        assert!(store.begin(at(100 + again + most)).is_err());
        look.heard(at(200));
        assert!(look.is_over(at(299)).is_none() && store.begin(at(299)).is_ok());
    }

    #[test]
    fn a_store_of_which_any_request_moves_is_there_and_one_that_nobody_asks_is_not_silent() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let stuck = store.begin(at(0)).unwrap();
        let mut moving = store.begin(at(0)).unwrap();
        for n in 1..=10 {
            assert!(stuck.is_over(at(90 * n)).is_none());
            moving.heard(at(90 * n));
        }
        drop(moving);
        assert!(stuck.is_over(at(999)).is_none() && stuck.is_over(at(1000)).is_some());
        let mut answered = store.begin(at(960)).unwrap();
        answered.heard(at(961));
        drop((stuck, answered));
        assert!(store.begin(at(5000)).unwrap().is_over(at(5000)).is_none());
    }
}
