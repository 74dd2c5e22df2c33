//! A store whose calls are granted one at a time, by a scheduler with a seed, which also injects faults: calls that fail, replies that get lost, puts that are applied late, processes that die.
//!
//! Each actor is a thread of its own with the real engine. Whenever every actor waits for a call (or has ended), the scheduler picks one of them and what becomes of its call. The same seed gives the same run,
//! as long as an actor makes one call at a time, which it does with archives as small as those of the simulation (but for an actor that computes for long on a busy machine: it is not waited for).

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::oneshot;

/// Random numbers that a seed gives (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// Those of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.draw() % n.max(1) as u64).unwrap_or(0)
    }

    /// True `n` times of a thousand.
    pub fn per_mille(&mut self, n: u64) -> bool {
        self.draw() % 1000 < n
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// It fails, and nothing was done.
    Fails,
    /// It is done, and reported as failed.
    ReplyLost,
    /// It is reported as failed, and done later.
    Late,
}

/// An actor that does not ask for so long is not waited for.
const BUSY: Duration = Duration::from_millis(20);

/// How often things go wrong, of a thousand calls.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Calls that fail.
    pub fails: u64,
    /// Changes whose reply is lost.
    pub reply_lost: u64,
    /// Puts that are applied late.
    pub late: u64,
    /// Actors that die.
    pub dies: u64,
}

struct Request {
    actor: usize,
    what: String,
    changes: bool,
    grant: oneshot::Sender<(Fate, Working)>,
}

/// A call that was granted. Dropped, it is over, also if nobody waits for it any more.
struct Working(Arc<Scheduler>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.lock().at_work -= 1;
        self.0.changed.notify_all();
    }
}

/// A put that is still on its way.
struct Late {
    path: Path,
    payload: PutPayload,
    options: PutOptions,
}

#[derive(Default)]
struct State {
    waiting: Vec<Request>,
    ended: Vec<bool>,
    dead: Vec<bool>,
    /// Calls that were granted and are being done.
    at_work: usize,
    late: Vec<Late>,
    /// No scheduling and no faults any more.
    quiet: bool,
    log: Vec<String>,
}

/// The scheduler, and the store that it guards.
pub struct Scheduler {
    inner: Arc<InMemory>,
    state: Mutex<State>,
    changed: Condvar,
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scheduler")
    }
}

impl Scheduler {
    /// One for so many actors.
    #[must_use]
    pub fn new(actors: usize) -> Arc<Self> {
        let state = State {
            ended: vec![false; actors],
            dead: vec![false; actors],
            ..State::default()
        };
        Arc::new(Self {
            inner: Arc::new(InMemory::new()),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store without a scheduler.
    #[must_use]
    pub fn store(&self) -> Arc<InMemory> {
        Arc::clone(&self.inner)
    }

    /// The store as one actor has it.
    #[must_use]
    pub fn store_of(self: &Arc<Self>, actor: usize) -> Guarded {
        Guarded {
            scheduler: Arc::clone(self),
            actor,
        }
    }

    /// An actor has nothing more to do.
    pub fn ended(&self, actor: usize) {
        self.lock().ended[actor] = true;
        self.changed.notify_all();
    }

    /// True if a process of this actor was killed: nothing that it does counts any more.
    #[must_use]
    pub fn is_dead(&self, actor: usize) -> bool {
        self.lock().dead[actor]
    }

    /// Calls that were granted, in order.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.lock().log.clone()
    }

    /// Grants calls until all actors have ended.
    pub fn run(self: &Arc<Self>, chance: &mut Chance, faults: Faults) {
        loop {
            let mut state = self.lock();
            loop {
                let busy = (0..state.ended.len()).any(|actor| {
                    !state.ended[actor]
                        && !state.waiting.iter().any(|request| request.actor == actor)
                });
                if !busy && state.at_work == 0 {
                    break;
                }
                let (waited, slept) = self
                    .changed
                    .wait_timeout(state, BUSY)
                    .unwrap_or_else(PoisonError::into_inner);
                state = waited;
                // An actor that computes can wait for another's call: both use the same threads for that.
                if slept.timed_out() && state.at_work == 0 && !state.waiting.is_empty() {
                    break;
                }
            }
            if state.waiting.is_empty() {
                return;
            }
            if !state.late.is_empty() && chance.per_mille(100) {
                let n = chance.below(state.late.len());
                let late = state.late.swap_remove(n);
                state.log.push(format!("late put {}", late.path));
                drop(state);
                self.apply(late);
                continue;
            }
            state
                .waiting
                .sort_by(|a, b| (a.actor, &a.what).cmp(&(b.actor, &b.what)));
            // Actors differ in speed by the run: the lower the number, the more often it is picked.
            let n = chance
                .below(state.waiting.len())
                .min(chance.below(state.waiting.len()));
            let request = state.waiting.remove(n);
            if chance.per_mille(faults.dies) {
                state.dead[request.actor] = true;
            }
            let dead = state.dead[request.actor];
            let fate = match () {
                () if dead => Fate::Fails,
                () if chance.per_mille(faults.fails) => Fate::Fails,
                () if request.changes && chance.per_mille(faults.reply_lost) => Fate::ReplyLost,
                () if request.what.starts_with("put") && chance.per_mille(faults.late) => {
                    Fate::Late
                }
                () => Fate::Done,
            };
            state
                .log
                .push(format!("{} {} {fate:?}", request.actor, request.what));
            state.at_work += 1;
            drop(state);
            // If nobody waits for it any more, it is over at once.
            let _ = request.grant.send((fate, Working(Arc::clone(self))));
        }
    }

    /// Ends the scheduling: what is still on its way is applied now, and calls are done at once.
    pub fn calm(&self) {
        let late = {
            let mut state = self.lock();
            state.quiet = true;
            std::mem::take(&mut state.late)
        };
        for late in late {
            self.apply(late);
        }
    }

    fn apply(&self, late: Late) {
        let put = self.inner.put_opts(&late.path, late.payload, late.options);
        // Nobody hears what becomes of it.
        let _ = futures::executor::block_on(put);
    }

    async fn ask(&self, actor: usize, what: String, changes: bool) -> (Fate, Option<Working>) {
        let granted = {
            let mut state = self.lock();
            if state.quiet {
                return (Fate::Done, None);
            }
            let (grant, granted) = oneshot::channel();
            state.waiting.push(Request {
                actor,
                what,
                changes,
                grant,
            });
            granted
        };
        self.changed.notify_all();
        match granted.await {
            Ok((fate, working)) => (fate, Some(working)),
            Err(_) => (Fate::Fails, None),
        }
    }
}

/// The store of one actor.
#[derive(Debug, Clone)]
pub struct Guarded {
    scheduler: Arc<Scheduler>,
    actor: usize,
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({})", self.actor)
    }
}

fn injected() -> object_store::Error {
    object_store::Error::Generic {
        store: "simulation",
        source: "injected fault".into(),
    }
}

impl Guarded {
    /// One call: asks, does it or not, and says that it is over.
    async fn call<T>(
        &self,
        what: String,
        changes: bool,
        call: impl Future<Output = Result<T>>,
        late: impl FnOnce() -> Option<Late>,
    ) -> Result<T> {
        let (fate, _working) = self.scheduler.ask(self.actor, what, changes).await;
        match fate {
            Fate::Done => call.await,
            Fate::ReplyLost => call.await.and(Err(injected())),
            Fate::Fails => Err(injected()),
            Fate::Late => {
                if let Some(late) = late() {
                    self.scheduler.lock().late.push(late);
                }
                Err(injected())
            }
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Guarded {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let word = if options.mode == PutMode::Create {
            "put new"
        } else {
            "put"
        };
        let late = || {
            Some(Late {
                path: path.clone(),
                payload: payload.clone(),
                options: options.clone(),
            })
        };
        let put = self
            .scheduler
            .inner
            .put_opts(path, payload.clone(), options.clone());
        self.call(format!("{word} {path}"), true, put, late).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart puts are not used");
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let get = self.scheduler.inner.get_opts(path, options);
        self.call(format!("get {path}"), false, get, || None).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>> {
        let get = self.scheduler.inner.get_ranges(path, ranges);
        self.call(format!("ranges {path}"), false, get, || None)
            .await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        paths
            .then(move |path| {
                let this = this.clone();
                async move {
                    let path = path?;
                    let inner = Arc::clone(&this.scheduler.inner);
                    let delete = async {
                        match inner.delete(&path).await {
                            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(path.clone()),
                            Err(e) => Err(e),
                        }
                    };
                    this.call(format!("delete {path}"), true, delete, || None)
                        .await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let name = prefix.clone().unwrap_or_default();
        futures::stream::once(async move {
            // One list is one call: a real one sees what was there before it began, at least.
            let inner = Arc::clone(&this.scheduler.inner);
            let list = async move { inner.list(prefix.as_ref()).try_collect::<Vec<_>>().await };
            this.call(format!("list {name}"), false, list, || None)
                .await
        })
        .map_ok(|found| futures::stream::iter(found.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let list = self.scheduler.inner.list_with_delimiter(prefix);
        self.call("list /".to_owned(), false, list, || None).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copy = self.scheduler.inner.copy_opts(from, to, options);
        self.call(format!("copy {to}"), true, copy, || None).await
    }
}
