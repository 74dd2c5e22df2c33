//! Owns the state of the model, who can act in it, and what must hold.

use stateright::{Model, Property};

use crate::collector::Collector;
use crate::people::{Delete, Pin, Read, Undelete, UndeleteStep};
use crate::rewriter::{self, Rewriter};
use crate::rules::Broken;
use crate::set::Set;
use crate::store::{
    Late, MANIFESTS, Message, OF_OLD, OLD, Place, REWRITERS, REWRITTEN, SESSIONS, SHARED,
    SNAPSHOTS, Store, UNDELETION, manifests_of, own_pack, place_of, snapshot_of,
};
use crate::writer::{self, Finds, Writer};

/// One configuration: who is at work, how often, and what can go wrong.
#[derive(Clone, Debug, Default)]
pub struct Protocol {
    pub writers: [Option<Finds>; 2],
    pub rewriters: usize,
    pub reader: bool,
    /// The old snapshot is deleted at the start, and its grace time is over.
    pub deleted_at_start: bool,
    pub deletions: u8,
    pub undeletes: bool,
    pub pins: bool,
    /// The snapshot of the writer that has a base requires the base.
    pub requires: bool,
    /// Runs of each of the two collectors.
    pub runs: [u8; 2],
    /// Sessions that a collector may take for ones that stand still, whenever it looks.
    pub revocable: Set,
    /// Whether a session renews its record, also when it wakes after it was revoked.
    pub renews: bool,
    /// How many puts and removals can be applied late or twice.
    pub late: u8,
    /// Whether a collection's record can be too full for the snapshots that it gives up.
    pub full: bool,
    /// The puts of the old snapshot's pack and manifest are applied once more at some later time or never.
    pub old_puts_twice: bool,
    /// A rewriting was given up long ago, its packs are freed, and the put of its manifest is still on its way.
    pub stale_rewriting: bool,
    pub broken: Option<Broken>,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Clear,
    /// It was applied, and the caller learns nothing.
    Lost,
    /// It is applied at some later time or never, and the caller learns nothing.
    Late,
    /// It was applied, and is applied once more at some later time or never.
    Twice,
    /// There was no room for more.
    Full,
}

/// Each acts by its next call: the step at which it stands bears the name of the code's function.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Writer(usize, writer::Step, Reply),
    Rewriter(usize, rewriter::Step, Reply),
    Undelete(UndeleteStep, Reply),
    Delete(Delete, Reply),
    Read(Read),
    Pin(Pin),
    Collector(usize, crate::collector::Step, Reply, Set),
    Renew(usize),
    Arrives(Message),
    GraceTimeIsOver,
}

/// What was promised to users: not in any store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// Snapshots that must be whole: acknowledged, and not deleted for longer than the grace time.
    pub kept: Set,
    pub pinned: Set,
    /// Deleted, acknowledged, and nobody has begun to undelete.
    pub deleted: Set,
    pub undelete_began: bool,
    /// Places at which a tombstone was.
    pub tombstones: Set,
}

impl Ghost {
    /// A writer saw the outcome of its commit.
    pub fn committed(&mut self, store: &Store, place: usize) {
        if store.places[place] == Place::Record {
            self.kept.add(place);
        }
    }

    /// An undeletion was acknowledged. A deletion that came after it counts.
    pub fn brought_back(&mut self, store: &Store, snapshot: usize) {
        if !store.over.has(snapshot) {
            self.kept.add(snapshot);
        }
    }

    pub fn pinned(&mut self, store: &Store, snapshot: usize) {
        self.pinned.add(snapshot);
        if !store.over.has(snapshot) {
            self.kept.add(snapshot);
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub store: Store,
    pub writers: [Writer; 2],
    pub rewriters: [Rewriter; 2],
    pub undelete: Undelete,
    pub delete: Delete,
    pub deletions_left: u8,
    pub read: Read,
    pub pin: Pin,
    pub collectors: [Collector; 2],
    pub late_left: u8,
    pub ghost: Ghost,
}

impl Protocol {
    pub fn breaks(&self, rule: Broken) -> bool {
        self.broken == Some(rule)
    }

    /// Whether manifests can change at all while snapshots stay.
    pub fn settles(&self) -> bool {
        self.rewriters > 0
    }

    /// The snapshot that requires the old one.
    pub fn requirer(&self) -> usize {
        let writer = self
            .writers
            .iter()
            .position(|finds| *finds == Some(Finds::Base));
        writer.map_or(1, |writer| writer + 1)
    }

    fn collector_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        use crate::collector::Step;
        let step = state.collectors[number].step;
        let mut add = |reply, revoke| actions.push(Action::Collector(number, step, reply, revoke));
        match step {
            Step::Idle => return,
            Step::LookAtSessions => {
                for revoke in self.revocations(&state.store) {
                    add(Reply::Clear, revoke);
                }
                return;
            }
            _ => add(Reply::Clear, Set::EMPTY),
        }
        if step == Step::Condemn && self.full {
            add(Reply::Full, Set::EMPTY);
        }
        if step == Step::Condemn && state.late_left > 0 {
            add(Reply::Late, Set::EMPTY);
            add(Reply::Twice, Set::EMPTY);
        }
        if step == Step::Free && state.late_left > 0 && self.undeletes {
            add(Reply::Twice, Set::EMPTY);
        }
    }

    /// Snapshots that must be whole, with those that they require.
    fn owed(&self, state: &State) -> Set {
        let mut owed = state.ghost.kept;
        if self.requires && owed.has(self.requirer()) {
            owed.add(OLD);
        }
        owed
    }
}

impl Protocol {
    /// Whether the packs are free to be referred to: nothing is lost if they are not, but they would be stored again for good, and an undeletion refused.
    fn own_packs_are_free(&self, state: &State) -> bool {
        let condemned = state.store.condemned(state.store.collections);
        let writers = (0..2).filter(|writer| state.ghost.kept.has(place_of(*writer)));
        let imported = writers.map(own_pack).all(|pack| !condemned.has(pack));
        let last = OF_OLD
            .iter()
            .rev()
            .find_map(|name| state.store.manifests[*name]);
        let is_settled = state.store.manifests[OLD].is_none();
        let may_be_revoked = self.revocable.has(REWRITERS) || self.revocable.has(REWRITERS + 1);
        let rewritten = !is_settled
            || may_be_revoked
            || !state.ghost.kept.has(OLD)
            || last.is_none_or(|refs| refs.and(condemned).is_empty());
        imported && rewritten
    }
}

fn whole(store: &Store, snapshot: usize) -> bool {
    store.places[snapshot] == Place::Record && store.whole_manifest(snapshot).is_some()
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut store = Store::default();
        store.places[OLD] = Place::Record;
        store.manifests[0] = Some(Set::of(&[SHARED]));
        store.packs = Set::of(&[SHARED]);
        if self.old_puts_twice {
            store.late.packs = store.packs;
            store.late.manifests[0] = store.manifests[0];
        }
        if self.stale_rewriting {
            store.late.manifests[REWRITTEN[0]] = Some(Set::of(&[own_pack(REWRITERS + 1)]));
        }
        let mut ghost = Ghost::default();
        if self.deleted_at_start {
            store.mark(OLD);
            store.over.add(OLD);
        } else {
            ghost.kept.add(OLD);
        }
        let mut writers: [Writer; 2] = Default::default();
        for (writer, finds) in writers.iter_mut().zip(self.writers) {
            if finds.is_some() {
                writer.step = writer::Step::CreateSession;
            }
        }
        let mut rewriters: [Rewriter; 2] = Default::default();
        for rewriter in rewriters.iter_mut().take(self.rewriters) {
            rewriter.step = rewriter::Step::CreateSession;
        }
        let mut undelete = Undelete::default();
        if self.undeletes {
            undelete.step = UndeleteStep::CreateSession;
        }
        vec![State {
            store,
            writers,
            rewriters,
            undelete,
            delete: if self.deletions > 0 {
                Delete::Look
            } else {
                Delete::Idle
            },
            deletions_left: self.deletions,
            read: if self.reader {
                Read::CreateSession
            } else {
                Read::Idle
            },
            pin: if self.pins { Pin::Put } else { Pin::Idle },
            collectors: self
                .runs
                .map(|runs| Collector::new(runs, self.first_look())),
            late_left: self.late,
            ghost,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let can_be_late = state.late_left > 0;
        for writer in 0..2 {
            let step = state.writers[writer].step;
            let replies = self.writer_replies(state, writer);
            actions.extend(
                replies
                    .into_iter()
                    .map(|reply| Action::Writer(writer, step, reply)),
            );
            if self.writer_can_renew(state, writer) {
                actions.push(Action::Renew(writer));
            }
        }
        for number in 0..2 {
            let step = state.rewriters[number].step;
            if step == rewriter::Step::Idle {
                continue;
            }
            actions.push(Action::Rewriter(number, step, Reply::Clear));
            if can_be_late {
                match step {
                    rewriter::Step::CreateSession | rewriter::Step::PutPack => {
                        actions.push(Action::Rewriter(number, step, Reply::Twice));
                    }
                    rewriter::Step::PutRewritten => {
                        actions.push(Action::Rewriter(number, step, Reply::Late));
                    }
                    _ => {}
                }
            }
            if self.rewriter_can_renew(state, number) {
                actions.push(Action::Renew(REWRITERS + number));
            }
        }
        let step = state.undelete.step;
        if step != UndeleteStep::Idle {
            actions.push(Action::Undelete(step, Reply::Clear));
            if can_be_late && matches!(step, UndeleteStep::CreateSession | UndeleteStep::RemoveMark)
            {
                actions.push(Action::Undelete(step, Reply::Twice));
            }
            if self.undelete_can_renew(state) {
                actions.push(Action::Renew(UNDELETION));
            }
        }
        if state.delete != Delete::Idle {
            actions.push(Action::Delete(state.delete, Reply::Clear));
            if can_be_late && state.delete == Delete::Mark {
                actions.push(Action::Delete(state.delete, Reply::Twice));
            }
        }
        if state.read != Read::Idle {
            actions.push(Action::Read(state.read));
        }
        if state.pin != Pin::Idle {
            actions.push(Action::Pin(state.pin));
        }
        for number in 0..2 {
            self.collector_actions(state, number, actions);
        }
        actions.extend(state.store.late.messages().into_iter().map(Action::Arrives));
        if !state.store.deleted.without(state.store.over).is_empty() {
            actions.push(Action::GraceTimeIsOver);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let costs = match &action {
            Action::Writer(_, _, reply)
            | Action::Rewriter(_, _, reply)
            | Action::Undelete(_, reply)
            | Action::Delete(_, reply)
            | Action::Collector(_, _, reply, _) => matches!(reply, Reply::Late | Reply::Twice),
            _ => false,
        };
        if costs {
            state.late_left -= 1;
        }
        match action {
            Action::Writer(writer, _, reply) => self.writer_calls(&mut state, writer, reply),
            Action::Rewriter(number, _, reply) => self.rewriter_calls(&mut state, number, reply),
            Action::Undelete(_, reply) => self.undelete_calls(&mut state, reply),
            Action::Delete(_, reply) => self.delete_calls(&mut state, reply),
            Action::Read(_) => self.read_calls(&mut state),
            Action::Pin(_) => self.pin_calls(&mut state),
            Action::Collector(number, _, reply, revoke) => {
                let State {
                    store, collectors, ..
                } = &mut state;
                let me = &mut collectors[number];
                let record = 2 * number + usize::from(me.runs_left) - 1;
                self.collector_calls(store, me, record, reply, revoke);
            }
            Action::Renew(session) => {
                let names = match session {
                    0 | 1 => state.writers[session].named,
                    UNDELETION => state.undelete.known,
                    _ => state.rewriters[session - REWRITERS].known,
                };
                state.store.sessions[session] = Some(names);
            }
            Action::Arrives(message) => state.store.arrive(message),
            Action::GraceTimeIsOver => {
                let over = state.store.deleted.without(state.store.over);
                state.store.over = state.store.deleted;
                let ghost = &mut state.ghost;
                ghost.kept = ghost.kept.without(over.without(ghost.pinned));
            }
        }
        let ghost = &mut state.ghost;
        ghost.tombstones = (0..SNAPSHOTS)
            .filter(|place| {
                ghost.tombstones.has(*place) || state.store.places[*place] == Place::Tombstone
            })
            .collect();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(COMMITTED, |protocol: &Self, state: &State| {
                protocol
                    .owed(state)
                    .iter()
                    .all(|snapshot| whole(&state.store, snapshot))
            }),
            Property::always(LISTED, |_, state: &State| {
                (0..SNAPSHOTS).all(|snapshot| {
                    !state.store.is_there(snapshot) || whole(&state.store, snapshot)
                })
            }),
            Property::always(TOMBSTONES, |_, state: &State| {
                state
                    .ghost
                    .tombstones
                    .iter()
                    .all(|place| state.store.places[place] == Place::Tombstone)
            }),
            Property::always(DELETED, |_, state: &State| {
                state
                    .ghost
                    .deleted
                    .iter()
                    .all(|snapshot| !state.store.is_there(snapshot))
            }),
            Property::always(READS, |_, state: &State| match state.read {
                Read::Reading { refs, promised } if promised => {
                    refs.within(state.store.packs) || whole(&state.store, OLD)
                }
                _ => true,
            }),
            Property::always(OWN, |protocol: &Self, state: &State| {
                protocol.own_packs_are_free(state)
            }),
            Property::always(GARBAGE, |protocol: &Self, state: &State| {
                protocol.garbage_goes(&state.store)
            }),
        ]
    }
}

pub const COMMITTED: &str = "what was acknowledged stays whole until a user deletes it";
pub const LISTED: &str = "what is listed is whole";
pub const TOMBSTONES: &str = "a tombstone stays";
pub const DELETED: &str = "what was deleted stays deleted";
pub const READS: &str = "a reader finishes";
pub const OWN: &str = "packs that a snapshot brought itself are not condemned";
pub const GARBAGE: &str = "if all stop here, collections leave no garbage";

impl Protocol {
    /// Whether nothing useless is left when everybody stops here (or crashes) and collections run: what is on its way is lost, or comes first.
    fn garbage_goes(&self, store: &Store) -> bool {
        let messages = store.late.messages();
        let mut lost = store.clone();
        lost.late = Late::default();
        if !self.is_clean(&self.cleaned(&lost)) {
            return false;
        }
        let mut came = store.clone();
        for message in &messages {
            came.arrive(*message);
        }
        messages.is_empty() || self.is_clean(&self.cleaned(&came))
    }

    fn is_clean(&self, store: &Store) -> bool {
        let mut needed: Set = (0..SNAPSHOTS)
            .filter(|place| store.places[*place] == Place::Record)
            .filter(|place| !store.deleted.and(store.over).has(*place) || store.pins.has(*place))
            .collect();
        if self.requires && needed.has(self.requirer()) {
            needed.add(OLD);
        }
        let marked = needed.iter().fold(Set::EMPTY, |all, snapshot| {
            all.or(store.references(snapshot))
        });
        let sessions = (0..SESSIONS).all(|session| store.sessions[session].is_none());
        let manifests = (0..MANIFESTS)
            .all(|name| store.manifests[name].is_none() || needed.has(snapshot_of(name)));
        let snapshots = (0..SNAPSHOTS).all(|place| {
            needed.has(place) || store.places[place] != Place::Record && !store.deleted.has(place)
        });
        let records = store.collections.iter().all(|id| {
            let said = store.said[id];
            !said.condemned.and(marked).is_empty() || !said.given_up.and(needed).is_empty()
        });
        sessions
            && manifests
            && snapshots
            && records
            && store.packs.within(marked)
            && needed.iter().all(|snapshot| {
                manifests_of(snapshot).len() == 1 || store.whole_manifest(snapshot).is_some()
            })
    }
}
