//! Stores for tests: one that records calls, and fails, forgets or stops at the n-th.

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens at the n-th call that could change the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails, and so do all after it: the process lost its store, or was killed.
    Stop,
    /// The call fails and nothing was done; later calls work.
    Fail,
    /// The call is done, and its reply is lost.
    LoseReply,
    /// The call is done, and its reply is lost; the client has tried again, and met its own object: "already exists".
    MeetItself,
    /// "Already exists", and nothing was done: S3's 409 when two creates meet. This one, and so many after it.
    Refuse(u64),
}

#[derive(Debug, Default)]
struct State {
    log: Mutex<Vec<String>>,
    writes: AtomicU64,
    bytes_read: AtomicU64,
    no_tags: AtomicBool,
    unreadable: Mutex<Option<String>>,
    fault: Mutex<Option<(u64, Fault)>>,
    meanwhile: Mutex<Option<(u64, Meanwhile)>>,
    appends_only: std::sync::atomic::AtomicBool,
}

struct Meanwhile(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// A store around another.
#[derive(Debug, Clone)]
pub struct Watched {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

impl Watched {
    /// Watches a store.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            state: Arc::default(),
        }
    }

    /// The fault comes at the `n`-th change from now on, counted from 0.
    pub fn fault_at(&self, n: u64, fault: Fault) {
        self.state.writes.store(0, Ordering::SeqCst);
        *self.state.fault.lock().unwrap() = Some((n, fault));
    }

    /// From now on it refuses what a bucket's policy can refuse to a node that only stores: to remove or replace anything but records of sessions.
    pub fn append_only(&self) {
        self.state.appends_only.store(true, Ordering::SeqCst);
    }

    async fn allows(&self, what: &str, path: &Path) -> Result<()> {
        let is_refused = self.state.appends_only.load(Ordering::SeqCst)
            && !path.as_ref().starts_with("sessions/")
            && (what == "delete" || self.inner.head(path).await.is_ok());
        if !is_refused {
            return Ok(());
        }
        Err(object_store::Error::PermissionDenied {
            path: path.to_string(),
            source: format!("{what} is not allowed").into(),
        })
    }

    /// Something else is done right before the `n`-th change from now on, counted from 0.
    pub fn meanwhile(&self, n: u64, what: impl FnOnce() + Send + 'static) {
        self.state.writes.store(0, Ordering::SeqCst);
        *self.state.meanwhile.lock().unwrap() = Some((n, Meanwhile(Box::new(what))));
    }

    /// Its lists have no tags from now on, as those of some stores.
    pub fn list_without_tags(&self) {
        self.state.no_tags.store(true, Ordering::SeqCst);
    }

    /// Objects whose names begin so cannot be read right now.
    pub fn fail_reads_of(&self, start: &str) {
        *self.state.unreadable.lock().unwrap() = Some(start.to_owned());
    }

    /// No faults any more; counts begin anew.
    pub fn reset(&self) {
        *self.state.unreadable.lock().unwrap() = None;
        *self.state.fault.lock().unwrap() = None;
        *self.state.meanwhile.lock().unwrap() = None;
        self.state.writes.store(0, Ordering::SeqCst);
        self.state.bytes_read.store(0, Ordering::SeqCst);
        self.state.log.lock().unwrap().clear();
    }

    /// Calls so far, such as `put packs/…`.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.state.log.lock().unwrap().clone()
    }

    /// Calls that begin with `start`.
    #[must_use]
    pub fn count(&self, start: &str) -> usize {
        self.log()
            .iter()
            .filter(|call| call.starts_with(start))
            .count()
    }

    /// Calls that could change the store.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state.writes.load(Ordering::SeqCst)
    }

    /// Bytes that were read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.state.bytes_read.load(Ordering::SeqCst)
    }

    fn note(&self, what: &str, path: &Path) {
        self.state
            .log
            .lock()
            .unwrap()
            .push(format!("{what} {path}"));
    }

    /// Counts a change: an error if it must not be done, and within `Ok` the one that stands in place of its reply.
    fn change(&self, what: &str, path: &Path) -> Result<Option<object_store::Error>> {
        self.note(what, path);
        let n = self.state.writes.fetch_add(1, Ordering::SeqCst);
        let meanwhile = self
            .state
            .meanwhile
            .lock()
            .unwrap()
            .take_if(|(at, _)| *at == n);
        if let Some((_, Meanwhile(what))) = meanwhile {
            // On a thread of its own: this one drives the store's calls.
            std::thread::spawn(what).join().unwrap();
        }
        match *self.state.fault.lock().unwrap() {
            Some((at, Fault::Stop)) if n >= at => Err(injected()),
            Some((at, Fault::Fail)) if n == at => Err(injected()),
            Some((at, Fault::Refuse(more))) if (at..=at + more).contains(&n) => Err(exists(path)),
            Some((at, Fault::LoseReply)) if n == at => Ok(Some(injected())),
            Some((at, Fault::MeetItself)) if n == at => Ok(Some(exists(path))),
            _ => Ok(None),
        }
    }

    fn stopped(&self) -> Result<()> {
        match *self.state.fault.lock().unwrap() {
            Some((at, Fault::Stop)) if self.writes() > at => Err(injected()),
            _ => Ok(()),
        }
    }
}

fn injected() -> object_store::Error {
    object_store::Error::Generic {
        store: "test",
        source: "injected fault".into(),
    }
}

fn exists(path: &Path) -> object_store::Error {
    object_store::Error::AlreadyExists {
        path: path.to_string(),
        source: "injected fault".into(),
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.inner)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Watched {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let lost = self.change("put", location)?;
        if opts.mode != PutMode::Create {
            self.allows("put", location).await?;
        }
        let done = self.inner.put_opts(location, payload, opts).await?;
        lost.map_or(Ok(done), Err)
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        panic!("multipart puts cannot be conditional and leave orphans: they are not used");
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.note(if options.head { "head" } else { "get" }, location);
        self.stopped()?;
        let unreadable = self.state.unreadable.lock().unwrap().clone();
        if unreadable.is_some_and(|start| location.as_ref().starts_with(&start)) {
            return Err(injected());
        }
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        if !head {
            self.state
                .bytes_read
                .fetch_add(result.range.end - result.range.start, Ordering::SeqCst);
        }
        Ok(result)
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<Bytes>> {
        self.note("ranges", location);
        self.stopped()?;
        let parts = self.inner.get_ranges(location, ranges).await?;
        self.state.bytes_read.fetch_add(
            parts.iter().map(|part| part.len() as u64).sum(),
            Ordering::SeqCst,
        );
        Ok(parts)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let inner = Arc::clone(&self.inner);
        locations
            .then(move |location| {
                let (this, inner) = (this.clone(), Arc::clone(&inner));
                async move {
                    let location = location?;
                    let lost = this.change("delete", &location)?;
                    this.allows("delete", &location).await?;
                    let one = futures::stream::once(std::future::ready(Ok(location))).boxed();
                    let done = inner.delete_stream(one).next().await.unwrap()?;
                    lost.map_or(Ok(done), Err)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.note("list", prefix.unwrap_or(&Path::default()));
        if let Err(e) = self.stopped() {
            return futures::stream::once(std::future::ready(Err(e))).boxed();
        }
        let tags = !self.state.no_tags.load(Ordering::SeqCst);
        let listed = self.inner.list(prefix);
        let listed = listed.map(move |meta| {
            meta.map(|meta| ObjectMeta {
                e_tag: meta.e_tag.filter(|_| tags),
                ..meta
            })
        });
        listed.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.stopped()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.change("copy", to)?;
        self.inner.copy_opts(from, to, options).await
    }
}
