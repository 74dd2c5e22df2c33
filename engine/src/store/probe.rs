//! Owns the finding out of what a store can do, before a repository trusts it.
//!
//! Some servers take a conditional put and ignore the condition; some check it and then put, so that two that meet both win; some ignore ranges. None of them says so: each
//! has to be seen. Always: what was put for it is removed again, whatever was found. Never: touches a name outside of `probe/<random id>/`.

use std::sync::Arc;

use bytes::Bytes;
use cryostore_format::repository::{Create, Probed};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error as Os, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    Result as OsResult, UpdateVersion,
};

use super::Store;
use crate::env::{Env, random_id};
use crate::error::{Error, Kind, Result};
use crate::limits;

/// What was seen of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// What is recorded.
    pub probed: Probed,
    /// What a repository with many writers cannot do without, and is not there; with numbers.
    pub lacking: Vec<String>,
    /// What no repository can do without.
    pub broken: Vec<String>,
}

impl Probe {
    /// May a repository be made here?
    pub fn allows(&self, store: &str, single_writer: bool) -> Result<()> {
        let wrong = if self.broken.is_empty() && single_writer {
            return Ok(());
        } else if self.broken.is_empty() {
            &self.lacking
        } else {
            &self.broken
        };
        if wrong.is_empty() {
            return Ok(());
        }
        let hint = if self.broken.is_empty() {
            "use another store (docs/stores.md names some), or, if one process alone will ever write here: init --single-writer"
        } else {
            "use another store: docs/stores.md names some"
        };
        Err(Error::new(
            Kind::Unsupported,
            format!("{store} cannot hold a repository: {}", wrong.join("; ")),
        )
        .hint(hint))
    }
}

impl Store {
    /// Finds out what the store can do; some 200 small requests.
    pub fn probe(&self, env: &dyn Env) -> Result<Probe> {
        let id: String = random_id(env)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let dir = Path::from(format!("probe/{id}"));
        let probing = Probing {
            objects: &self.objects,
            racing: self.racing()?,
            dir: &dir,
            is_local: self.local.is_some(),
        };
        let out = self.bridge.wait(async {
            let out = probing.all().await;
            probing.clean().await;
            out
        });
        if let Some(root) = &self.local {
            // Empty directories are left; one that is not empty stays.
            let _ = std::fs::remove_dir(root.join(dir.as_ref()));
            let _ = std::fs::remove_dir(root.join("probe"));
        }
        out.map_err(|e| self.error("probing", "", e))
    }

    /// What races are run on: of a directory without waiting for the disk, which decides nothing.
    fn racing(&self) -> Result<Arc<dyn ObjectStore>> {
        let Some(root) = &self.local else {
            return Ok(Arc::clone(&self.objects));
        };
        let plain = LocalFileSystem::new_with_prefix(root);
        Ok(Arc::new(plain.map_err(|e| self.error("probing", "", e))?))
    }
}

struct Probing<'p> {
    objects: &'p Arc<dyn ObjectStore>,
    racing: Arc<dyn ObjectStore>,
    dir: &'p Path,
    is_local: bool,
}

/// Creates that meet: how many of a race were told that they won.
enum Race {
    Winners(usize),
    /// Nothing was stored, or the store cannot create at all.
    None(String),
}

impl Probing<'_> {
    fn name(&self, name: &str) -> Path {
        self.dir.clone().join(name)
    }

    async fn all(&self) -> OsResult<Probe> {
        let mut out = Probe::default();
        self.reads_and_lists(&mut out).await?;
        if out.broken.is_empty() {
            self.creates(&mut out).await?;
            out.probed.update = self.updates().await?;
            out.probed.ranges = self.ranges().await?;
            if !out.probed.ranges {
                out.lacking.push(
                    "it ignores ranges: who asks for a part gets the whole, or an error".to_owned(),
                );
            }
        }
        if self.is_local {
            // Puts of a directory wait for the disk, and creates are links: both have just been done.
            out.probed.fsync = Some(true);
            out.probed.hard_links = Some(out.probed.create == Create::Atomic);
        }
        Ok(out)
    }

    /// What was written is read and listed; what was removed is not.
    async fn reads_and_lists(&self, out: &mut Probe) -> OsResult<()> {
        for n in 0..3 {
            let name = self.name(&format!("seen-{n}"));
            for text in ["first", "second, and longer"] {
                self.objects
                    .put(&name, PutPayload::from_static(text.as_bytes()))
                    .await?;
                if self.objects.get(&name).await?.bytes().await? != text.as_bytes() {
                    out.broken
                        .push("it gives other bytes than those that were just written".to_owned());
                }
            }
            let listed = self.listed().await?;
            if listed != n + 1 {
                out.broken.push(format!(
                    "it lists {listed} of {} objects that were just written",
                    n + 1
                ));
            }
        }
        for n in 0..3 {
            let name = self.name(&format!("seen-{n}"));
            self.objects.delete(&name).await?;
            if !matches!(self.objects.get(&name).await, Err(Os::NotFound { .. })) {
                out.broken
                    .push("it still gives an object that was removed".to_owned());
            }
        }
        let left = self.listed().await?;
        if left > 0 {
            out.broken
                .push(format!("it lists {left} of 3 objects that were removed"));
        }
        Ok(())
    }

    async fn listed(&self) -> OsResult<usize> {
        let mut list = self.objects.list(Some(self.dir));
        let mut found = 0;
        while let Some(object) = list.next().await {
            match object {
                Ok(_) => found += 1,
                Err(Os::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(found)
    }

    async fn creates(&self, out: &mut Probe) -> OsResult<()> {
        let name = self.name("twice");
        let first = create(self.objects, &name, "first").await;
        if let Err(e @ (Os::NotImplemented { .. } | Os::NotSupported { .. })) = &first {
            out.lacking
                .push(format!("it cannot create-if-absent ({e})"));
            return Ok(());
        }
        if let (Err(e), true) = (&first, self.is_local) {
            out.lacking.push(format!(
                "its file system has no hard links, by which objects are created ({e})"
            ));
            return Ok(());
        }
        first?;
        if create(self.objects, &name, "second").await.is_ok() {
            out.lacking.push(
                "it ignores create-if-absent: a second create of one object went through"
                    .to_owned(),
            );
            out.probed.create = Create::Ignored;
            return Ok(());
        }
        out.probed.create = Create::Atomic;
        for n in 0..limits::PROBE_RACES {
            match self.race(&self.name(&format!("race-{n}"))).await? {
                Race::Winners(1) => {}
                Race::Winners(winners) => {
                    out.probed.create = Create::Racy;
                    out.lacking.push(format!(
                        "it keeps create-if-absent only when nobody races: {winners} of {} writers won",
                        limits::PROBE_WRITERS
                    ));
                    return Ok(());
                }
                Race::None(why) => {
                    out.probed.create = Create::Racy;
                    out.lacking.push(why);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn race(&self, name: &Path) -> OsResult<Race> {
        let writers: FuturesUnordered<_> = (0..limits::PROBE_WRITERS)
            .map(|n| {
                let text = format!("writer {n}");
                async move {
                    let told = create(&self.racing, name, &text).await;
                    (text, told)
                }
            })
            .collect();
        let told: Vec<(String, OsResult<()>)> = writers.collect().await;
        let stored = match self.objects.get(name).await {
            Ok(found) => found.bytes().await?,
            Err(Os::NotFound { .. }) => {
                let why = format!(
                    "of {} creates that met none was stored",
                    limits::PROBE_WRITERS
                );
                return Ok(Race::None(why));
            }
            Err(e) => return Err(e),
        };
        let won = told.iter().filter(|(_, told)| told.is_ok()).count();
        let is_winners = told
            .iter()
            .any(|(text, told)| told.is_ok() && text.as_bytes() == stored);
        Ok(match won {
            // Its reply was lost, and the client's retry met its own object.
            0 => Race::Winners(1),
            1 if !is_winners => {
                Race::None("a create that was told to have won was replaced".to_owned())
            }
            won => Race::Winners(won),
        })
    }

    /// A put on condition of the version that is there: not used, and recorded for later versions.
    async fn updates(&self) -> OsResult<bool> {
        let name = self.name("updated");
        let old = self
            .objects
            .put(&name, PutPayload::from_static(b"one"))
            .await?;
        let new = self
            .objects
            .put(&name, PutPayload::from_static(b"two, longer"))
            .await?;
        let update = |version: UpdateVersion| {
            let options = PutOptions::from(PutMode::Update(version));
            self.objects
                .put_opts(&name, PutPayload::from_static(b"three"), options)
        };
        let with_old = update(old.into()).await;
        let with_new = update(new.into()).await;
        Ok(matches!(with_old, Err(Os::Precondition { .. })) && with_new.is_ok())
    }

    async fn ranges(&self) -> OsResult<bool> {
        let name = self.name("parts");
        let bytes: Bytes = (0_u32..5000)
            .map(|n| u8::try_from(n % 251).unwrap_or(0))
            .collect::<Vec<_>>()
            .into();
        self.objects
            .put(&name, PutPayload::from_bytes(bytes.clone()))
            .await?;
        for range in [0..1, 1000..1010, 4096..5000] {
            let wanted = bytes.slice(
                usize::try_from(range.start).unwrap_or(0)..usize::try_from(range.end).unwrap_or(0),
            );
            let options = GetOptions {
                range: Some(range.into()),
                ..GetOptions::default()
            };
            let part = match self.objects.get_opts(&name, options).await {
                Ok(part) => part.bytes().await?,
                Err(Os::Generic { .. } | Os::NotSupported { .. } | Os::NotImplemented { .. }) => {
                    return Ok(false);
                }
                Err(e) => return Err(e),
            };
            if part != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes what was put. What cannot be removed stays: nobody reads it.
    async fn clean(&self) {
        let list = self.objects.list(Some(self.dir));
        let names: Vec<Path> = list
            .filter_map(|object| async move { object.ok().map(|object| object.location) })
            .collect()
            .await;
        for name in names {
            let _ = self.objects.delete(&name).await;
        }
    }
}

async fn create(objects: &Arc<dyn ObjectStore>, name: &Path, text: &str) -> OsResult<()> {
    let options = PutOptions::from(PutMode::Create);
    let payload = PutPayload::from_bytes(Bytes::copy_from_slice(text.as_bytes()));
    objects.put_opts(name, payload, options).await.map(drop)
}
