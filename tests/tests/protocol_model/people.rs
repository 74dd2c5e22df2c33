//! Owns what users do: delete, undelete, pin, and read.

use crate::model::{Protocol, Reply, State};
use crate::rules::Broken;
use crate::set::Set;
use crate::store::{OLD, Place, READER, UNDELETION};

/// The next call of a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Delete {
    #[default]
    Idle,
    Look,
    Mark,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pin {
    #[default]
    Idle,
    Put,
    LookAgain,
    TakeBack,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Read {
    #[default]
    Idle,
    CreateSession,
    ListCollections,
    NameCollections {
        known: Set,
    },
    Look {
        known: Set,
    },
    /// A collection that it names condemns what it is to read.
    NameNone,
    /// Reads the packs of its manifest, for as long as it likes. If one is missing it goes on with another manifest.
    Reading {
        refs: Set,
        promised: bool,
    },
    EndSession,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UndeleteStep {
    #[default]
    Idle,
    CreateSession,
    ListCollections,
    NameCollections,
    Look,
    RemoveMark,
    Commit,
    /// The draft's: looks at the place, then at its own session.
    LookAtPlace,
    LookAtSession,
    EndSession,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Undelete {
    pub step: UndeleteStep,
    pub known: Set,
}

impl Protocol {
    pub fn delete_calls(&self, state: &mut State, reply: Reply) {
        let State {
            store,
            delete,
            deletions_left,
            ghost,
            ..
        } = state;
        *delete = match *delete {
            Delete::Idle => Delete::Idle,
            Delete::Look => {
                let required = self.requires && store.is_there(self.requirer());
                if store.is_there(OLD) && !store.pins.has(OLD) && !required {
                    Delete::Mark
                } else {
                    *deletions_left = 0;
                    Delete::Idle
                }
            }
            Delete::Mark => {
                store.mark(OLD);
                if reply == Reply::Twice {
                    store.late.marks.add(OLD);
                }
                if !ghost.undelete_began {
                    ghost.deleted.add(OLD);
                }
                *deletions_left -= 1;
                if *deletions_left > 0 {
                    Delete::Look
                } else {
                    Delete::Idle
                }
            }
        };
    }

    pub fn undelete_calls(&self, state: &mut State, reply: Reply) {
        let State {
            store,
            undelete: me,
            ghost,
            ..
        } = state;
        me.step = match me.step {
            UndeleteStep::Idle => UndeleteStep::Idle,
            UndeleteStep::CreateSession => {
                store.sessions[UNDELETION] = Some(Set::EMPTY);
                if reply == Reply::Twice {
                    store.late.sessions[UNDELETION] = Some(Set::EMPTY);
                }
                UndeleteStep::ListCollections
            }
            UndeleteStep::ListCollections => {
                me.known = store.collections;
                if me.known.is_empty() {
                    UndeleteStep::Look
                } else {
                    UndeleteStep::NameCollections
                }
            }
            UndeleteStep::NameCollections => {
                store.sessions[UNDELETION] = Some(me.known);
                UndeleteStep::Look
            }
            UndeleteStep::Look => {
                let whole = store.whole_manifest(OLD);
                let refs = whole.and_then(|name| store.manifests[name]);
                let refused = !self.breaks(Broken::UndeleteIgnoresRecords)
                    && (store.given_up(me.known).has(OLD)
                        || refs.is_none_or(|refs| !refs.and(store.condemned(me.known)).is_empty()));
                let deleted = store.deleted.has(OLD) && store.places[OLD] == Place::Record;
                if deleted && whole.is_some() && !refused {
                    UndeleteStep::RemoveMark
                } else {
                    UndeleteStep::EndSession
                }
            }
            UndeleteStep::RemoveMark => {
                ghost.undelete_began = true;
                ghost.deleted.remove(OLD);
                store.unmark(OLD);
                if reply == Reply::Twice {
                    store.late.unmarks.add(OLD);
                }
                if self.breaks(Broken::TombstoneOverwrittenByUndelete) {
                    store.places[OLD] = Place::Record;
                }
                if self.breaks(Broken::UndeleteTrustsItsSession) {
                    UndeleteStep::LookAtPlace
                } else {
                    UndeleteStep::Commit
                }
            }
            UndeleteStep::Commit => {
                if store.undeleted == Place::Absent {
                    store.undeleted = Place::Record;
                }
                if store.undeleted == Place::Record {
                    ghost.brought_back(store, OLD);
                }
                UndeleteStep::EndSession
            }
            UndeleteStep::LookAtPlace => {
                if store.places[OLD] == Place::Record {
                    UndeleteStep::LookAtSession
                } else {
                    UndeleteStep::EndSession
                }
            }
            UndeleteStep::LookAtSession => {
                if store.sessions[UNDELETION].is_some() {
                    ghost.brought_back(store, OLD);
                }
                UndeleteStep::EndSession
            }
            UndeleteStep::EndSession => {
                store.sessions[UNDELETION] = None;
                me.known = Set::EMPTY;
                UndeleteStep::Idle
            }
        };
    }

    pub fn undelete_can_renew(&self, state: &State) -> bool {
        let at_work = !matches!(
            state.undelete.step,
            UndeleteStep::Idle | UndeleteStep::CreateSession
        );
        self.renews && at_work && state.store.sessions[UNDELETION].is_none()
    }

    pub fn read_calls(&self, state: &mut State) {
        let State {
            store, read, ghost, ..
        } = state;
        *read = match *read {
            Read::Idle => Read::Idle,
            Read::CreateSession => {
                if !self.breaks(Broken::ReaderWithoutSession) {
                    store.sessions[READER] = Some(Set::EMPTY);
                }
                Read::ListCollections
            }
            Read::ListCollections => {
                let known = store.collections;
                if known.is_empty() || self.breaks(Broken::ReaderWithoutSession) {
                    Read::Look { known: Set::EMPTY }
                } else {
                    Read::NameCollections { known }
                }
            }
            Read::NameCollections { known } => {
                store.sessions[READER] = Some(known);
                Read::Look { known }
            }
            Read::Look { known } => match store.trusted_manifest(OLD) {
                Some(manifest) if store.is_there(OLD) => {
                    let refs = store.manifests[manifest].unwrap_or_default();
                    let promised = ghost.kept.has(OLD);
                    let free = refs.without(store.condemned(known)) == refs;
                    if free || self.breaks(Broken::ReaderNamesWhatItReads) {
                        Read::Reading { refs, promised }
                    } else {
                        Read::NameNone
                    }
                }
                _ => Read::EndSession,
            },
            Read::NameNone => {
                store.sessions[READER] = Some(Set::EMPTY);
                Read::Look { known: Set::EMPTY }
            }
            Read::Reading { .. } => Read::EndSession,
            Read::EndSession => {
                store.sessions[READER] = None;
                Read::Idle
            }
        };
    }

    pub fn pin_calls(&self, state: &mut State) {
        let State {
            store, pin, ghost, ..
        } = state;
        *pin = match *pin {
            Pin::Idle => Pin::Idle,
            Pin::Put => {
                store.pins.add(OLD);
                if self.breaks(Broken::PinWithoutSecondLook) {
                    ghost.pinned(store, OLD);
                    Pin::Idle
                } else {
                    Pin::LookAgain
                }
            }
            Pin::LookAgain => {
                if store.is_there(OLD) {
                    ghost.pinned(store, OLD);
                    Pin::Idle
                } else {
                    Pin::TakeBack
                }
            }
            Pin::TakeBack => {
                store.pins.remove(OLD);
                Pin::Idle
            }
        };
    }
}
