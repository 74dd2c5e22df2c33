//! Owns what can be taken away from the protocol, so that it is shown to fail without it.

/// A rule of the protocol that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// W3: a session refers to packs that a collection condemns, of which it knows.
    WriterIgnoresCondemned,
    /// W6: whose commit was not clearly answered ends without having settled it.
    EndSessionBeforeSettle,
    /// C4: a record is taken for ripe whatever the sessions name.
    CollectorSkipsSessions,
    /// C3 before C2.
    MarkBeforeSessions,
    /// C1 after C2.
    ListRecordsAfterSessions,
    /// C5: packs of sessions that are at work are condemned.
    CondemnLiveSessionsPacks,
    /// C6: a record goes though a pack that it condemns is there.
    RecordForgottenWhileCondemnedPackStays,
    /// C6: a record goes though a put of a pack that it condemns may still be on its way.
    RecordForgottenAtOnce,
    /// C2: the session's record goes, nothing is left at its place.
    RevokeWithoutTombstone,
    /// C4: a pack goes though a snapshot that is not needed, but not freed yet, refers to it.
    PacksGoBeforeSnapshots,
    /// An undeletion does not look whether a collection that it knows gives the snapshot up, or condemns its packs.
    UndeleteIgnoresRecords,
    /// An undeletion takes its own session's record for the proof that it was not revoked.
    UndeleteTrustsItsSession,
    /// An undeletion writes the record again, over whatever is there.
    TombstoneOverwrittenByUndelete,
    /// A rewriting looks at the collections before it has seen the new manifest.
    SettleManifestChecksCondemnedBeforeSeeing,
    /// A rewriting removes the old manifest without looking whether the new one's packs are there.
    SettleManifestTrustsPacks,
    /// C3: manifests are those of the list of C1.
    ManifestsOfFirstList,
    /// A collection removes a rewritten manifest that is not whole: its name comes again.
    CollectionRemovesBrokenManifests,
    /// An import takes the first manifest of its base, whole or not.
    BaseTrustsAnyManifest,
    /// A reader leaves no session.
    ReaderWithoutSession,
    /// A reader goes on naming a collection that condemns what it reads.
    ReaderNamesWhatItReads,
    /// C3: readers are not looked at once more after marking.
    ReadersAreLookedAtOnce,
    /// An import requires a snapshot that a collection gives up, of which it knows.
    RequiresGivenUp,
    /// C3: pins are read before snapshots.
    PinsBeforeSnapshots,
    /// `pin` does not look again after its put.
    PinWithoutSecondLook,
    /// C6: a `.deleted` beside a tombstone is left there.
    MarkBesideTombstoneStays,
    /// C3: what is required by a needed snapshot is not needed.
    RequiredIsNotNeeded,
}
