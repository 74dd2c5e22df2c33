//! Owns the steps of an import: W1 to W7 of the protocol, one store call at a time.

use crate::model::{Protocol, Reply, State};
use crate::rules::Broken;
use crate::set::Set;
use crate::store::{OLD, Place, SHARED, first_manifest, manifests_of, own_pack, place_of};

/// Where a writer's chunks are besides in its own pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finds {
    /// In its base's packs: it reads the base's manifest.
    Base,
    /// In a pack that its cache names: it asks the store for it.
    Cached,
    /// In the pack that the other writer puts, which its cache names: that one may be at work, dead, revoked, or have committed.
    LeftByOther,
}

/// The call that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    #[default]
    Idle,
    CreateSession,
    ListCollections,
    NameCollections,
    ReferToBase,
    ReferToFound,
    PutPack,
    PutManifest,
    LookAtRequired,
    Commit,
    Settle,
    GiveUp,
    EndSession,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    pub step: Step,
    /// Collections that it has read, and those of them that its session's record names.
    pub known: Set,
    pub named: Set,
    pub refs: Set,
    pub unclear: bool,
}

impl Protocol {
    pub fn writer_replies(&self, state: &State, writer: usize) -> Vec<Reply> {
        let mut replies = vec![Reply::Clear];
        let step = state.writers[writer].step;
        if step == Step::Idle {
            return Vec::new();
        }
        if step == Step::Commit {
            replies.push(Reply::Lost);
        }
        if state.late_left > 0 {
            match step {
                Step::Commit => replies.push(Reply::Late),
                Step::CreateSession | Step::NameCollections | Step::PutPack | Step::PutManifest => {
                    replies.push(Reply::Twice);
                }
                _ => {}
            }
        }
        replies
    }

    pub fn writer_calls(&self, state: &mut State, writer: usize, reply: Reply) {
        let plan = self.writers[writer];
        let place = place_of(writer);
        let State {
            store,
            writers,
            ghost,
            ..
        } = state;
        let me = &mut writers[writer];
        let condemned = if self.breaks(Broken::WriterIgnoresCondemned) {
            Set::EMPTY
        } else {
            store.condemned(me.known)
        };
        let refer = match plan {
            Some(Finds::Cached | Finds::LeftByOther) => Step::ReferToFound,
            _ => Step::ReferToBase,
        };
        me.step = match me.step {
            Step::Idle => Step::Idle,
            Step::CreateSession => {
                store.sessions[writer] = Some(Set::EMPTY);
                if reply == Reply::Twice {
                    store.late.sessions[writer] = Some(Set::EMPTY);
                }
                Step::ListCollections
            }
            Step::ListCollections => {
                me.known = store.collections;
                if me.known.is_empty() {
                    refer
                } else {
                    Step::NameCollections
                }
            }
            Step::NameCollections => {
                me.named = me.known;
                store.sessions[writer] = Some(me.known);
                if reply == Reply::Twice {
                    store.late.sessions[writer] = Some(me.known);
                }
                refer
            }
            Step::ReferToBase => {
                let trusts = self.breaks(Broken::BaseTrustsAnyManifest);
                let manifest = if trusts {
                    manifests_of(OLD)
                        .iter()
                        .copied()
                        .find(|name| store.manifests[*name].is_some())
                } else {
                    store.trusted_manifest(OLD)
                };
                let refs = manifest.and_then(|name| store.manifests[name]);
                match refs {
                    Some(refs) if store.is_there(OLD) => {
                        me.refs = refs.without(condemned);
                        let may_require = self.breaks(Broken::RequiresGivenUp)
                            || !store.given_up(me.known).has(OLD);
                        if !self.requires || may_require {
                            Step::PutPack
                        } else {
                            Step::EndSession
                        }
                    }
                    _ if self.requires => Step::EndSession,
                    _ => Step::PutPack,
                }
            }
            Step::ReferToFound => {
                let found = match plan {
                    Some(Finds::LeftByOther) => own_pack(1 - writer),
                    _ => SHARED,
                };
                if store.packs.has(found) && !condemned.has(found) {
                    me.refs.add(found);
                }
                Step::PutPack
            }
            Step::PutPack => {
                store.packs.add(own_pack(writer));
                me.refs.add(own_pack(writer));
                if reply == Reply::Twice {
                    store.late.packs.add(own_pack(writer));
                }
                Step::PutManifest
            }
            Step::PutManifest => {
                store.manifests[first_manifest(place)] = Some(me.refs);
                if reply == Reply::Twice {
                    store.late.manifests[first_manifest(place)] = Some(me.refs);
                }
                if self.requires && plan == Some(Finds::Base) {
                    Step::LookAtRequired
                } else {
                    Step::Commit
                }
            }
            Step::LookAtRequired => {
                if store.is_there(OLD) {
                    Step::Commit
                } else {
                    Step::EndSession
                }
            }
            Step::Commit => {
                match reply {
                    Reply::Late => store.late.commits.add(place),
                    _ => store.create(place, Place::Record),
                }
                if reply == Reply::Clear {
                    ghost.committed(store, place);
                    Step::EndSession
                } else if self.breaks(Broken::EndSessionBeforeSettle) {
                    me.unclear = true;
                    Step::EndSession
                } else {
                    Step::Settle
                }
            }
            Step::Settle => {
                me.unclear = false;
                if store.places[place] == Place::Absent {
                    Step::GiveUp
                } else {
                    ghost.committed(store, place);
                    Step::EndSession
                }
            }
            Step::GiveUp => {
                store.create(place, Place::Tombstone);
                ghost.committed(store, place);
                Step::EndSession
            }
            Step::EndSession => {
                store.sessions[writer] = None;
                if me.unclear { Step::Settle } else { Step::Idle }
            }
        };
        if me.step == Step::Idle {
            *me = Writer::default();
        }
    }

    /// W5. Only what it changes is worth a step: the record of a session that was revoked meanwhile comes back.
    pub fn writer_can_renew(&self, state: &State, writer: usize) -> bool {
        let me = &state.writers[writer];
        let at_work = !matches!(me.step, Step::Idle | Step::CreateSession);
        self.renews && at_work && state.store.sessions[writer].is_none() && !me.unclear
    }
}
