//! Owns what is known of a bucket's being there: when it gave a sign of life last, and that it is away when it has given none for as long as one is waited for.
//!
//! One request is tried again and again; a command makes many. Without this each of them would wait as long as the first, and what a command does to tidy up after a failure most of all.
//!
//! Always: the first answer makes the store present again, and while it is away one request now and then is let through to find that out. What is given up is as unclear as what
//! was not answered: it may have been done. Time in which this process was stopped (a frozen container, a machine that sleeps) is not waited for anything. Never: counts as away while bytes of any request move, however slowly; tells what became of a request; looks at a clock.

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
    /// Tries that are under way, each of which looks at the time every second.
    at_work: usize,
    /// When one has done so last.
    last: Option<Instant>,
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

impl State {
    /// If nobody has looked at the time though somebody should have, there was none.
    fn pass_over_sleep(&mut self, now: Instant) {
        let last = self.last.replace(now);
        let passed = last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        // With nothing under way nobody has asked for anything: longer than tries of one request wait for each other, that is no silence either.
        let most = match self.at_work {
            0 => limits::UNASKED,
            _ => limits::ASLEEP,
        };
        if passed > most {
            self.silent_since = self.silent_since.map(|since| since + passed);
        }
    }
}

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
        state.pass_over_sleep(now);
        let silent_since = *state.silent_since.get_or_insert(now);
        let away_since = silent_since + self.patience;
        let looks = now >= away_since;
        if looks {
            let last = state.looked.filter(|looked| *looked > away_since);
            if now < last.unwrap_or(away_since) + limits::LOOK_AGAIN {
                return Err(Away(now.saturating_duration_since(silent_since)));
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
        let mut state = self.presence.state();
        state.silent_since = Some(now);
        state.last = Some(now);
    }

    /// It ends without an answer.
    pub(super) fn failed(&mut self) {
        self.alive = false;
    }

    /// It is of no use to wait any longer.
    pub(super) fn is_over(&self, now: Instant) -> Option<Away> {
        let mut state = self.presence.state();
        state.pass_over_sleep(now);
        let silent = now.saturating_duration_since(state.silent_since?);
        let waits = self.looks && now.saturating_duration_since(self.began) < limits::LOOK;
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

    /// Whether a try is over at the end of these seconds, in each of which it looks.
    fn looks(
        a_try: &Try,
        at: impl Fn(u64) -> Instant,
        seconds: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let over = seconds.filter_map(|s| a_try.is_over(at(s)));
        over.last().map(|Away(silent)| silent.as_secs())
    }

    #[test]
    fn a_store_that_is_silent_for_as_long_as_one_waits_is_away_for_all_requests_until_it_answers() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let mut first = store.begin(at(0)).unwrap();
        assert_eq!(looks(&first, &at, 1..=60), None);
        first.failed();
        drop(first);
        // Tried again: the time goes on.
        let second = store.begin(at(62)).unwrap();
        let beside = store.begin(at(62)).unwrap();
        assert_eq!(looks(&second, &at, 63..=99), None);
        assert_eq!(looks(&second, &at, 100..=100), Some(100));
        assert_eq!(looks(&beside, &at, 100..=100), Some(100));
        drop((second, beside));
        assert_eq!(store.begin(at(101)).unwrap_err().0.as_secs(), 101);
        // One is let through to look, for a while.
        let (again, most) = (100 + limits::LOOK_AGAIN.as_secs(), limits::LOOK.as_secs());
        let mut look = store.begin(at(again)).unwrap();
        assert!(store.begin(at(again)).is_err());
        assert_eq!(looks(&look, &at, again..=again + most - 1), None);
        assert!(looks(&look, &at, again + most..=again + most).is_some());
        assert!(store.begin(at(again + most)).is_err());
        look.heard(at(again + most));
        assert_eq!(looks(&look, &at, again + most..=again + 100), None);
        assert!(store.begin(at(again + 100)).is_ok());
    }

    #[test]
    fn a_store_of_which_any_request_moves_is_there_and_one_that_nobody_asks_is_not_silent() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let stuck = store.begin(at(0)).unwrap();
        let mut moving = store.begin(at(0)).unwrap();
        for n in 1..=10 {
            assert_eq!(looks(&stuck, &at, 90 * (n - 1)..=90 * n), None);
            moving.heard(at(90 * n));
        }
        drop(moving);
        assert_eq!(looks(&stuck, &at, 900..=999), None);
        let again = 1000 + limits::LOOK_AGAIN.as_secs();
        assert!(looks(&stuck, &at, 1000..=again).is_some());
        let mut answered = store.begin(at(again)).unwrap();
        answered.heard(at(again));
        drop((stuck, answered));
        assert!(store.begin(at(5000)).unwrap().is_over(at(5000)).is_none());
    }

    #[test]
    fn what_failed_long_ago_is_no_silence_since_then_and_bytes_that_moved_are_no_sleep() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let failed = store.begin(at(0)).unwrap();
        assert_eq!(looks(&failed, &at, 1..=5), None);
        drop(failed);
        let mut download = store.begin(at(500)).unwrap();
        let beside = store.begin(at(500)).unwrap();
        assert_eq!(looks(&beside, &at, 501..=510), None);
        drop(beside);
        (511..=700).for_each(|s| download.heard(at(s)));
        assert_eq!(looks(&download, &at, 701..=799), None);
        assert_eq!(looks(&download, &at, 800..=800), Some(100));
    }

    #[test]
    fn time_in_which_this_process_was_stopped_is_not_waited() {
        let (store, at) = (Presence::new(PATIENCE), clock());
        let request = store.begin(at(0)).unwrap();
        assert_eq!(looks(&request, &at, 1..=50), None);
        assert_eq!(looks(&request, &at, 5000..=5049), None);
        assert_eq!(looks(&request, &at, 5050..=5050), Some(100));
    }
}
