//! Owns the steps of a collection: C1 to C6 of the protocol.
//!
//! A run keeps what it has read and goes on from it, however long it sleeps between two steps.

use crate::model::{Protocol, Reply};
use crate::rules::Broken;
use crate::set::Set;
use crate::store::{
    COLLECTIONS, MANIFESTS, OLD, Place, READER, REWRITTEN, SESSIONS, SNAPSHOTS, Store, UNDELETION,
    manifests_of, owner, place_of, snapshot_of,
};

/// The call that comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    #[default]
    Idle,
    LookAtCollections,
    LookAtSessions,
    /// Of a session that is revoked: the tombstone, then the record.
    EndSessionTombstone,
    EndSession,
    MarkSnapshots,
    MarkPins,
    MarkManifests,
    LookAtReaders,
    Free,
    Condemn,
    Sweep,
    ForgetRecord,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector {
    pub step: Step,
    pub runs_left: u8,
    /// Collections, packs and manifests of C1.
    found: Set,
    packs: Set,
    /// Packs that may come again: less than a day ago a put of them was on its way.
    may_come: Set,
    manifests: Set,
    /// Sessions of C2 that are left; those to revoke; the collections that all that are left name.
    sessions: Set,
    revoked: Set,
    named_by_all: Set,
    /// Places that hold a record; snapshots that are there or in their grace time; pins.
    standing: Set,
    kept: Set,
    pins: Set,
    /// What the manifests of each place refer to.
    refs: [Set; SNAPSHOTS],
    needed: Set,
    /// Packs that needed snapshots refer to; packs that any snapshot refers to which this run does not free.
    marked: Set,
    held: Set,
    /// Snapshots that become tombstones; then what is beside them goes.
    to_free: Set,
    to_clear: Set,
    removed: Set,
    /// Marks beside tombstones: a run that died between the two left them, or they came late.
    stray: Set,
    /// Rewritten manifests that were not whole, for a collection that removes them (it must not).
    broken: Set,
}

impl Collector {
    pub fn new(runs_left: u8, first: Step) -> Self {
        let step = if runs_left > 0 { first } else { Step::Idle };
        Self {
            step,
            runs_left,
            ..Self::default()
        }
    }

    fn ripe(&self, protocol: &Protocol) -> Set {
        if protocol.breaks(Broken::CollectorSkipsSessions) {
            self.found
        } else {
            self.found.and(self.named_by_all)
        }
    }
}

impl Protocol {
    /// What a look at the sessions can decide: each may be taken for one that stands still.
    pub fn revocations(&self, store: &Store) -> Vec<Set> {
        let there: Set = (0..SESSIONS)
            .filter(|session| store.sessions[*session].is_some())
            .collect();
        there.and(self.revocable).subsets().collect()
    }

    /// The next call of a collection whose record is `record`; `revoke` counts for the look at the sessions alone.
    pub fn collector_calls(
        &self,
        store: &mut Store,
        me: &mut Collector,
        record: usize,
        reply: Reply,
        revoke: Set,
    ) {
        me.step = match me.step {
            Step::Idle => Step::Idle,
            Step::LookAtCollections => {
                me.found = store.collections;
                me.packs = store.packs;
                me.may_come = store.late.packs;
                me.manifests = (0..MANIFESTS)
                    .filter(|name| store.manifests[*name].is_some())
                    .collect();
                self.after(Step::LookAtCollections)
            }
            Step::LookAtSessions => {
                let there: Set = (0..SESSIONS)
                    .filter(|session| store.sessions[*session].is_some())
                    .collect();
                me.revoked = revoke.and(there);
                me.sessions = there.without(revoke);
                me.named_by_all = me
                    .sessions
                    .iter()
                    .filter_map(|session| store.sessions[session])
                    .fold(Set::ALL, Set::and);
                self.after_sessions(store, me)
            }
            Step::EndSessionTombstone => {
                match me.revoked.first() {
                    Some(UNDELETION) if store.undeleted == Place::Absent => {
                        store.undeleted = Place::Tombstone;
                    }
                    Some(writer)
                        if writer < UNDELETION && !self.breaks(Broken::RevokeWithoutTombstone) =>
                    {
                        store.create(place_of(writer), Place::Tombstone);
                    }
                    _ => {}
                }
                Step::EndSession
            }
            Step::EndSession => {
                if let Some(session) = me.revoked.first() {
                    store.sessions[session] = None;
                    me.revoked.remove(session);
                }
                self.after_sessions(store, me)
            }
            Step::MarkSnapshots => {
                me.standing = (0..SNAPSHOTS)
                    .filter(|place| store.places[*place] == Place::Record)
                    .collect();
                me.kept = me.standing.without(store.deleted.and(store.over));
                me.stray = (0..SNAPSHOTS)
                    .filter(|_| !self.breaks(Broken::MarkBesideTombstoneStays))
                    .filter(|place| store.places[*place] == Place::Tombstone)
                    .filter(|place| store.deleted.has(*place))
                    .collect();
                if self.pins || self.settles() {
                    self.after(Step::MarkSnapshots)
                } else {
                    self.mark_manifests(store, me)
                }
            }
            Step::MarkPins => {
                me.pins = store.pins;
                self.after(Step::MarkPins)
            }
            Step::MarkManifests => self.mark_manifests(store, me),
            Step::LookAtReaders => {
                me.named_by_all = store.sessions[READER]
                    .into_iter()
                    .fold(me.named_by_all, Set::and);
                self.decide(store, me)
            }
            Step::Free => {
                self.free(store, me, reply);
                self.after_free(store, me)
            }
            Step::Condemn => {
                let (condemned, given_up) = self.to_condemn(store, me);
                let given_up = if reply == Reply::Full {
                    Set::EMPTY
                } else {
                    given_up
                };
                store.said[record].condemned = condemned;
                store.said[record].given_up = given_up;
                if !condemned.or(given_up).is_empty() {
                    if reply != Reply::Late {
                        store.collections.add(record);
                    }
                    if matches!(reply, Reply::Late | Reply::Twice) {
                        store.late.collections.add(record);
                    }
                }
                self.after_condemn(store, me)
            }
            Step::Sweep => {
                if let Some(name) = Self::to_sweep(me).first() {
                    store.manifests[name] = None;
                    me.manifests.remove(name);
                    me.broken.remove(name);
                } else if let Some(snapshot) = me.stray.first() {
                    store.unmark(snapshot);
                    me.stray.remove(snapshot);
                }
                self.after_condemn(store, me)
            }
            Step::ForgetRecord => {
                if let Some(id) = self.to_forget(store, me).first() {
                    store.collections.remove(id);
                    me.found.remove(id);
                }
                self.after_sweep(store, me)
            }
        };
        if me.step == Step::Idle {
            *me = Collector::new(me.runs_left.saturating_sub(1), self.first_look());
        }
    }

    /// The call with which a run begins.
    pub fn first_look(&self) -> Step {
        if self.breaks(Broken::ListRecordsAfterSessions) {
            Step::LookAtSessions
        } else {
            Step::LookAtCollections
        }
    }

    /// The order of the looks.
    fn after(&self, step: Step) -> Step {
        let marks = if self.breaks(Broken::PinsBeforeSnapshots) {
            [Step::MarkPins, Step::MarkSnapshots, Step::MarkManifests]
        } else {
            [Step::MarkSnapshots, Step::MarkPins, Step::MarkManifests]
        };
        let [first, second, third] = marks;
        let (collections, sessions) = (Step::LookAtCollections, Step::LookAtSessions);
        let order = match self.broken {
            Some(Broken::MarkBeforeSessions) => [collections, first, second, third, sessions],
            Some(Broken::ListRecordsAfterSessions) => [sessions, collections, first, second, third],
            _ => [collections, sessions, first, second, third],
        };
        let mut rest = order.into_iter().skip_while(|other| *other != step).skip(1);
        rest.find(|next| self.pins || *next != Step::MarkPins)
            .unwrap_or(Step::Free)
    }

    fn after_sessions(&self, store: &Store, me: &mut Collector) -> Step {
        if !me.revoked.is_empty() {
            Step::EndSessionTombstone
        } else if self.breaks(Broken::MarkBeforeSessions) {
            self.decide(store, me)
        } else {
            self.after(Step::LookAtSessions)
        }
    }

    fn mark_manifests(&self, store: &Store, me: &mut Collector) -> Step {
        if self.breaks(Broken::CollectionRemovesBrokenManifests) {
            me.broken = REWRITTEN
                .into_iter()
                .filter(|name| store.manifests[*name].is_some_and(|refs| !refs.within(store.packs)))
                .collect();
        }
        for snapshot in me.standing.iter() {
            me.refs[snapshot] = manifests_of(snapshot)
                .iter()
                .copied()
                .filter(|name| {
                    !self.breaks(Broken::ManifestsOfFirstList) || me.manifests.has(*name)
                })
                .filter_map(|name| store.manifests[name])
                .fold(Set::EMPTY, Set::or);
        }
        if self.breaks(Broken::MarkBeforeSessions) {
            Step::LookAtSessions
        } else if self.reader && !self.breaks(Broken::ReadersAreLookedAtOnce) {
            Step::LookAtReaders
        } else {
            self.decide(store, me)
        }
    }

    /// From all that it has read: what is needed, what is freed.
    fn decide(&self, store: &Store, me: &mut Collector) -> Step {
        me.needed = me.kept.or(me.pins.and(me.standing));
        if self.requires
            && me.needed.has(self.requirer())
            && me.standing.has(OLD)
            && !self.breaks(Broken::RequiredIsNotNeeded)
        {
            me.needed.add(OLD);
        }
        me.to_free = me
            .standing
            .without(me.needed)
            .and(store.given_up(me.ripe(self)));
        let refs = me.refs;
        let all = |snapshots: Set| {
            snapshots
                .iter()
                .fold(Set::EMPTY, |all, snapshot| all.or(refs[snapshot]))
        };
        me.marked = all(me.needed);
        me.held = if self.breaks(Broken::PacksGoBeforeSnapshots) {
            me.marked
        } else {
            all(me.standing.without(me.to_free))
        };
        self.after_free(store, me)
    }

    /// Packs that go: condemned by what is ripe, and no snapshot that is left refers to them.
    fn packs_to_free(&self, store: &Store, me: &Collector) -> Set {
        store
            .condemned(me.ripe(self))
            .and(me.packs)
            .without(me.held)
            .without(me.removed)
    }

    /// C4, one removal.
    fn free(&self, store: &mut Store, me: &mut Collector, reply: Reply) {
        if let Some(snapshot) = me.to_free.first() {
            store.places[snapshot] = Place::Tombstone;
            if reply == Reply::Twice {
                store.late.tombstones.add(snapshot);
            }
            me.to_free.remove(snapshot);
            me.to_clear.add(snapshot);
        } else if let Some(snapshot) = me.to_clear.first() {
            let there = manifests_of(snapshot)
                .iter()
                .copied()
                .find(|name| store.manifests[*name].is_some());
            if let Some(name) = there {
                store.manifests[name] = None;
            } else {
                store.unmark(snapshot);
                me.to_clear.remove(snapshot);
            }
        } else if let Some(pack) = self.packs_to_free(store, me).first() {
            store.packs.remove(pack);
            me.removed.add(pack);
        }
    }

    fn after_free(&self, store: &Store, me: &Collector) -> Step {
        if !me.to_free.or(me.to_clear).is_empty() || !self.packs_to_free(store, me).is_empty() {
            return Step::Free;
        }
        let (condemned, given_up) = self.to_condemn(store, me);
        if condemned.or(given_up).is_empty() {
            self.after_condemn(store, me)
        } else {
            Step::Condemn
        }
    }

    /// C5: packs that nothing needs, that no record condemns yet, and that belong to no session; snapshots that are not needed.
    fn to_condemn(&self, store: &Store, me: &Collector) -> (Set, Set) {
        let live: Set = me
            .packs
            .iter()
            .filter(|pack| owner(*pack).is_some_and(|session| me.sessions.has(session)))
            .collect();
        let live = if self.breaks(Broken::CondemnLiveSessionsPacks) {
            Set::EMPTY
        } else {
            live
        };
        let condemned = me
            .packs
            .without(me.marked)
            .without(me.removed)
            .without(live)
            .without(store.condemned(me.found));
        let freed = store.given_up(me.ripe(self));
        let given_up = me
            .standing
            .without(me.needed)
            .without(freed)
            .without(store.given_up(me.found));
        (condemned, given_up)
    }

    /// C6: manifests of C1 that no snapshot had and that belong to no session.
    fn to_sweep(me: &Collector) -> Set {
        me.manifests
            .iter()
            .filter(|name| {
                let place = snapshot_of(*name);
                let live = place > OLD && me.sessions.has(place - 1);
                !live && !me.standing.has(place)
            })
            .chain(me.broken.iter())
            .collect()
    }

    fn after_condemn(&self, store: &Store, me: &Collector) -> Step {
        if Self::to_sweep(me).or(me.stray).is_empty() {
            self.after_sweep(store, me)
        } else {
            Step::Sweep
        }
    }

    /// Records of C1 of which all packs were gone then, for so long that none can come again, and all snapshots are tombstones.
    fn to_forget(&self, store: &Store, me: &Collector) -> Set {
        me.found
            .iter()
            .filter(|id| {
                let said = store.said[*id];
                let gone = if self.breaks(Broken::RecordForgottenAtOnce) {
                    said.condemned.and(me.packs).within(me.removed)
                } else {
                    said.condemned.and(me.packs.or(me.may_come)).is_empty()
                };
                let snapshots = said
                    .given_up
                    .iter()
                    .all(|place| store.places[place] == Place::Tombstone);
                let stays = self.breaks(Broken::RecordForgottenWhileCondemnedPackStays);
                (gone || stays) && snapshots
            })
            .collect()
    }

    fn after_sweep(&self, store: &Store, me: &Collector) -> Step {
        if self.to_forget(store, me).is_empty() {
            Step::Idle
        } else {
            Step::ForgetRecord
        }
    }

    /// Collections that come when all is over: nobody is at work any more, so every session is revoked. What is left is all that will ever be left.
    pub fn cleaned(&self, store: &Store) -> Store {
        let mut store = store.clone();
        for record in crate::store::CLEANING..COLLECTIONS {
            let mut collector = Collector::new(1, self.first_look());
            while collector.step != Step::Idle {
                let all = Set::ALL;
                self.collector_calls(&mut store, &mut collector, record, Reply::Clear, all);
            }
        }
        store
    }
}
