//! Owns how much an agent does at once, and for whom.
//!
//! Always: counted by who is known to ask, so that nobody unknown takes a place and nobody known takes all; a place is free again when its [`Slot`] goes. Never: waits.

use std::sync::{Arc, Mutex, PoisonError};

use cryostore_engine::{Error, Kind, Result};

/// Calls at once; each has a thread, and a checkpoint the memory of an import.
const CALLS: usize = 8;
/// Of one user: four of them fill the node.
const OF_ONE: usize = 2;
/// Questions for facts take milliseconds, and have places of their own: an agent at work is not one that is gone.
const FACTS: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Whose; none: who it is does not tell callers apart.
    Call(Option<String>),
    Facts,
    /// UID of the pod, and name.
    Container(String, String),
}

/// The places of one agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<Vec<Place>>>);

/// A place.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Slots,
    place: Place,
}

impl Slots {
    fn take(&self, place: Place, fits: impl FnOnce(&[Place]) -> Result<()>) -> Result<Slot> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fits(&places)?;
        places.push(place.clone());
        Ok(Slot {
            slots: self.clone(),
            place,
        })
    }

    /// For a call of this user.
    pub(crate) fn call(&self, user: Option<&str>) -> Result<Slot> {
        let place = Place::Call(user.map(str::to_owned));
        self.take(place.clone(), |places| {
            let calls = places.iter().filter(|one| matches!(one, Place::Call(_)));
            if calls.count() >= CALLS {
                return Err(busy(&format!(
                    "the agent is at work on {CALLS} calls already"
                )));
            }
            let own = places.iter().filter(|one| **one == place).count();
            if user.is_some() && own >= OF_ONE {
                return Err(busy(&format!(
                    "the agent is at work on {OF_ONE} calls of this user already"
                )));
            }
            Ok(())
        })
    }

    /// For a question for facts.
    pub(crate) fn facts(&self) -> Result<Slot> {
        self.take(Place::Facts, |places| {
            match places.iter().filter(|one| **one == Place::Facts).count() {
                FACTS.. => Err(busy("the agent is asked for facts too often")),
                _ => Ok(()),
            }
        })
    }

    /// For a checkpoint of this container: a second one would wait for the first, and hold a place for nothing.
    pub(crate) fn container(&self, uid: &str, name: &str) -> Result<Slot> {
        let place = Place::Container(uid.to_owned(), name.to_owned());
        self.take(place.clone(), |places| match places.contains(&place) {
            true => Err(Error::new(
                Kind::Conflict,
                format!("the agent is taking a checkpoint of container {name} already"),
            )
            .hint("try again when that one is stored")),
            false => Ok(()),
        })
    }
}

fn busy(text: &str) -> Error {
    Error::new(Kind::Conflict, text).hint("try again when they are done")
}

impl Drop for Slot {
    fn drop(&mut self) {
        let places = self.slots.0.lock();
        let mut places = places.unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = places.iter().position(|one| *one == self.place) {
            places.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_two_places_of_eight_and_facts_have_their_own() {
        let slots = Slots::default();
        let mut held: Vec<_> = (0..2).map(|_| slots.call(Some("a")).unwrap()).collect();
        assert_eq!(slots.call(Some("a")).unwrap_err().kind(), Kind::Conflict);
        for user in ["b", "c", "d"] {
            held.extend((0..2).map(|_| slots.call(Some(user)).unwrap()));
        }
        assert!(slots.call(Some("e")).is_err());
        let facts: Vec<_> = (0..FACTS).map(|_| slots.facts().unwrap()).collect();
        assert!(slots.facts().is_err());
        held.remove(0);
        assert!(slots.call(Some("b")).is_err());
        drop(slots.call(Some("a")).unwrap());
        drop(slots.call(Some("e")).unwrap());
        drop(facts);
        slots.facts().unwrap();
    }

    #[test]
    fn a_second_checkpoint_of_one_container_is_refused_until_the_first_is_done() {
        let slots = Slots::default();
        let first = slots.container("u1", "app").unwrap();
        let again = slots.container("u1", "app").unwrap_err();
        assert_eq!(again.kind(), Kind::Conflict);
        slots.container("u1", "log").unwrap();
        slots.container("u2", "app").unwrap();
        drop(first);
        slots.container("u1", "app").unwrap();
    }
}
