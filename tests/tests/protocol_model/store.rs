//! Owns the model's store: what is there under each kind of key, and the puts that are still on their way.
//!
//! Always: a put is whole or not there, create-if-absent has one winner, a read sees what was put before it.

use crate::set::Set;

/// Who can hold a session: two writers, an undeletion, a reader, two rewritings.
pub const SESSIONS: usize = 6;
pub const UNDELETION: usize = 2;
pub const READER: usize = 3;
pub const REWRITERS: usize = 4;

/// The snapshot that is there from the start, and those of the two writers.
pub const OLD: usize = 0;
pub const SNAPSHOTS: usize = 3;

/// The pack of the old snapshot; then those of the writers and of the rewritings.
pub const SHARED: usize = 0;

/// One of each run of the two collectors, and those of the runs that clean up when all is over.
pub const COLLECTIONS: usize = 7;
pub const CLEANING: usize = 4;

/// Names under which manifests can be: the old snapshot's first, those that follow from it, the writers'.
pub const REWRITTEN: [usize; 2] = [1, 2];
pub const OF_OLD: [usize; 3] = [0, 1, 2];
pub const MANIFESTS: usize = 5;

/// The pack that a session puts.
pub const fn own_pack(session: usize) -> usize {
    if session < UNDELETION {
        session + 1
    } else {
        session - 1
    }
}

/// The session whose name a pack bears. The shared one's is long over.
pub const fn owner(pack: usize) -> Option<usize> {
    match pack {
        SHARED => None,
        1 | 2 => Some(pack - 1),
        _ => Some(pack + 1),
    }
}

/// The place at which a writer commits.
pub const fn place_of(writer: usize) -> usize {
    writer + 1
}

/// The name under which a snapshot's manifest is at first.
pub const fn first_manifest(snapshot: usize) -> usize {
    match snapshot {
        OLD => 0,
        _ => snapshot + 2,
    }
}

/// Names under which a snapshot's manifests can be, in their order.
pub const fn manifests_of(snapshot: usize) -> &'static [usize] {
    match snapshot {
        OLD => &OF_OLD,
        1 => &[3],
        _ => &[4],
    }
}

pub const fn snapshot_of(manifest: usize) -> usize {
    match manifest {
        0..=2 => OLD,
        _ => manifest - 2,
    }
}

/// What is at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    #[default]
    Absent,
    /// A snapshot's record; at an undeletion's place: that it succeeded.
    Record,
    Tombstone,
}

/// A collection's record: it is never changed, so that who has read it knows it for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collection {
    pub condemned: Set,
    pub given_up: Set,
}

/// Puts and removals that the store has not applied yet, though their senders know nothing of them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Late {
    pub sessions: [Option<Set>; SESSIONS],
    pub packs: Set,
    pub manifests: [Option<Set>; MANIFESTS],
    pub commits: Set,
    pub tombstones: Set,
    pub marks: Set,
    pub unmarks: Set,
    pub collections: Set,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    Session(usize),
    Pack(usize),
    Manifest(usize),
    Commit(usize),
    Tombstone(usize),
    Mark(usize),
    Unmark(usize),
    Collection(usize),
}

impl Late {
    pub fn messages(&self) -> Vec<Message> {
        let mut all = Vec::new();
        let sessions = (0..SESSIONS).filter(|session| self.sessions[*session].is_some());
        all.extend(sessions.map(Message::Session));
        all.extend(self.packs.iter().map(Message::Pack));
        let manifests = (0..MANIFESTS).filter(|manifest| self.manifests[*manifest].is_some());
        all.extend(manifests.map(Message::Manifest));
        all.extend(self.commits.iter().map(Message::Commit));
        all.extend(self.tombstones.iter().map(Message::Tombstone));
        all.extend(self.marks.iter().map(Message::Mark));
        all.extend(self.unmarks.iter().map(Message::Unmark));
        all.extend(self.collections.iter().map(Message::Collection));
        all
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Store {
    /// `sessions/<id>`: the collections that each names.
    pub sessions: [Option<Set>; SESSIONS],
    /// `gc/<id>`: which are there.
    pub collections: Set,
    /// What each said, also when it is gone: who has read it knows it.
    pub said: [Collection; COLLECTIONS],
    /// `snapshots/<lineage>/<id>`.
    pub places: [Place; SNAPSHOTS],
    /// The place of the undeletion.
    pub undeleted: Place,
    /// `.deleted` beside a place, and whether the grace time of the deletion is over.
    pub deleted: Set,
    pub over: Set,
    pub pins: Set,
    /// `manifests/<id>`: the packs that each refers to.
    pub manifests: [Option<Set>; MANIFESTS],
    pub packs: Set,
    pub late: Late,
}

impl Store {
    /// Whether the snapshot is what users list.
    pub fn is_there(&self, snapshot: usize) -> bool {
        self.places[snapshot] == Place::Record && !self.deleted.has(snapshot)
    }

    /// Packs that some of these collections condemn.
    pub fn condemned(&self, collections: Set) -> Set {
        collections
            .iter()
            .fold(Set::EMPTY, |all, id| all.or(self.said[id].condemned))
    }

    /// Snapshots that some of these collections give up.
    pub fn given_up(&self, collections: Set) -> Set {
        collections
            .iter()
            .fold(Set::EMPTY, |all, id| all.or(self.said[id].given_up))
    }

    /// Create-if-absent of the commit.
    pub fn create(&mut self, place: usize, what: Place) {
        if self.places[place] == Place::Absent {
            self.places[place] = what;
        }
    }

    /// A manifest of the snapshot of which all packs are there.
    pub fn whole_manifest(&self, snapshot: usize) -> Option<usize> {
        manifests_of(snapshot)
            .iter()
            .copied()
            .find(|manifest| self.manifests[*manifest].is_some_and(|refs| refs.within(self.packs)))
    }

    /// The manifest that is read: the only one; of several, the first of which all packs are there.
    pub fn trusted_manifest(&self, snapshot: usize) -> Option<usize> {
        let mut there = manifests_of(snapshot)
            .iter()
            .copied()
            .filter(|manifest| self.manifests[*manifest].is_some());
        let first = there.next();
        if there.next().is_some() {
            self.whole_manifest(snapshot)
        } else {
            first
        }
    }

    /// All that the manifests of a snapshot refer to.
    pub fn references(&self, snapshot: usize) -> Set {
        manifests_of(snapshot)
            .iter()
            .filter_map(|manifest| self.manifests[*manifest])
            .fold(Set::EMPTY, Set::or)
    }

    pub fn unmark(&mut self, snapshot: usize) {
        self.deleted.remove(snapshot);
        self.over.remove(snapshot);
    }

    pub fn mark(&mut self, snapshot: usize) {
        self.deleted.add(snapshot);
        self.over.remove(snapshot);
    }

    /// The store applies what was on its way.
    pub fn arrive(&mut self, message: Message) {
        match message {
            Message::Session(session) => {
                self.sessions[session] = self.late.sessions[session].take();
            }
            Message::Pack(pack) => {
                self.late.packs.remove(pack);
                self.packs.add(pack);
            }
            Message::Manifest(manifest) => {
                let refs = self.late.manifests[manifest].take();
                if self.manifests[manifest].is_none() {
                    self.manifests[manifest] = refs;
                }
            }
            Message::Commit(place) => {
                self.late.commits.remove(place);
                self.create(place, Place::Record);
            }
            Message::Tombstone(place) => {
                self.late.tombstones.remove(place);
                self.places[place] = Place::Tombstone;
            }
            Message::Mark(snapshot) => {
                self.late.marks.remove(snapshot);
                self.mark(snapshot);
            }
            Message::Unmark(snapshot) => {
                self.late.unmarks.remove(snapshot);
                self.unmark(snapshot);
            }
            Message::Collection(id) => {
                self.late.collections.remove(id);
                self.collections.add(id);
            }
        }
    }
}
