//! Owns the steps of a rewriting (`optimize`): packs, the manifest under the next name, and the old one's end.

use crate::model::{Protocol, Reply, State};
use crate::rules::Broken;
use crate::set::Set;
use crate::store::{OF_OLD, OLD, REWRITERS, REWRITTEN, own_pack};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    #[default]
    Idle,
    CreateSession,
    ListCollections,
    NameCollections,
    Look,
    PutPack,
    PutRewritten,
    /// `settle_manifest` in its steps: it sees the new one, lists the collections, looks for the packs, removes the old ones.
    SeeManifest,
    LookForCondemned,
    LookForPacks,
    RemoveOlder,
    EndSession,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewriter {
    pub step: Step,
    pub known: Set,
    /// The name under which it puts the manifest, or the one that it settles.
    pub manifest: usize,
    /// What the manifest that it settles refers to.
    pub refs: Set,
    /// What was condemned when it looked.
    pub condemned: Set,
}

impl Protocol {
    pub fn rewriter_calls(&self, state: &mut State, rewriter: usize, reply: Reply) {
        let session = REWRITERS + rewriter;
        let State {
            store, rewriters, ..
        } = state;
        let me = &mut rewriters[rewriter];
        let too_early = self.breaks(Broken::SettleManifestChecksCondemnedBeforeSeeing);
        me.step = match me.step {
            Step::Idle => Step::Idle,
            Step::CreateSession => {
                store.sessions[session] = Some(Set::EMPTY);
                if reply == Reply::Twice {
                    store.late.sessions[session] = Some(Set::EMPTY);
                }
                Step::ListCollections
            }
            Step::ListCollections => {
                me.known = store.collections;
                if me.known.is_empty() {
                    Step::Look
                } else {
                    Step::NameCollections
                }
            }
            Step::NameCollections => {
                store.sessions[session] = Some(me.known);
                Step::Look
            }
            Step::Look => {
                let last = OF_OLD
                    .iter()
                    .copied()
                    .filter(|name| store.manifests[*name].is_some())
                    .max();
                match last {
                    Some(last) if store.is_there(OLD) && last < REWRITTEN[1] => {
                        me.manifest = last + 1;
                        Step::PutPack
                    }
                    _ => Step::EndSession,
                }
            }
            Step::PutPack => {
                store.packs.add(own_pack(session));
                if reply == Reply::Twice {
                    store.late.packs.add(own_pack(session));
                }
                if too_early {
                    me.condemned = store.condemned(store.collections);
                }
                Step::PutRewritten
            }
            Step::PutRewritten => {
                let refs = Set::of(&[own_pack(session)]);
                match reply {
                    Reply::Late => {
                        store.late.manifests[me.manifest] = Some(refs);
                    }
                    _ if store.manifests[me.manifest].is_none() => {
                        store.manifests[me.manifest] = Some(refs);
                    }
                    _ => {}
                }
                Step::SeeManifest
            }
            Step::SeeManifest => {
                let last = OF_OLD
                    .iter()
                    .copied()
                    .filter(|name| store.manifests[*name].is_some())
                    .max();
                match last {
                    Some(last)
                        if OF_OLD
                            .iter()
                            .any(|name| *name < last && store.manifests[*name].is_some()) =>
                    {
                        me.manifest = last;
                        me.refs = store.manifests[last].unwrap_or_default();
                        if too_early {
                            if me.refs.and(me.condemned).is_empty() {
                                Step::LookForPacks
                            } else {
                                Step::EndSession
                            }
                        } else {
                            Step::LookForCondemned
                        }
                    }
                    _ => Step::EndSession,
                }
            }
            Step::LookForCondemned => {
                if me.refs.and(store.condemned(store.collections)).is_empty() {
                    if self.breaks(Broken::SettleManifestTrustsPacks) {
                        Step::RemoveOlder
                    } else {
                        Step::LookForPacks
                    }
                } else {
                    Step::EndSession
                }
            }
            Step::LookForPacks => {
                if me.refs.within(store.packs) {
                    Step::RemoveOlder
                } else {
                    Step::EndSession
                }
            }
            Step::RemoveOlder => {
                let older = OF_OLD
                    .iter()
                    .copied()
                    .find(|name| *name < me.manifest && store.manifests[*name].is_some());
                if let Some(older) = older {
                    store.manifests[older] = None;
                    Step::RemoveOlder
                } else {
                    Step::EndSession
                }
            }
            Step::EndSession => {
                store.sessions[session] = None;
                Step::Idle
            }
        };
        if me.step == Step::Idle {
            *me = Rewriter::default();
        }
    }

    pub fn rewriter_can_renew(&self, state: &State, rewriter: usize) -> bool {
        let at_work = !matches!(
            state.rewriters[rewriter].step,
            Step::Idle | Step::CreateSession
        );
        self.renews && at_work && state.store.sessions[REWRITERS + rewriter].is_none()
    }
}
