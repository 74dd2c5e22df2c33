//! Owns the four calls: who asks, may they, do it, write it down.
//!
//! Always: in this order; what a call names is checked before it is part of a question to anybody. Never: goes on with a call that was refused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cryostore_engine::format::SnapshotId;
use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    CheckpointReader, Env, Error, Filter, Kind, Monitor, Phase, Repository, Result,
};
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::audit::Line;
use super::caller::{Caller, Right, Shown};
use super::calls::{
    CheckpointCall, CleanUpCall, Event, Facts, PrepareCall, Report, Stored, status_of,
};
use super::ledger::{Asked, Entry, Ledger};
use super::node::State;
use super::slots::Slots;
use super::sweep::Sweeping;
use super::{Agent, Watcher, node};
use crate::capture::{self, Host};
use crate::checkpoint::{self, Step, Taken, Watch};
use crate::errors::rule;
use crate::pod::{Choice, check_name};
use crate::restore::containerd::image_name;
use crate::restore::local;
use crate::{Cluster, here};

/// ms between two reports of progress: as often as a screen is drawn.
const PROGRESS_EVERY: u64 = 200;
/// The last line waits this long for a slow reader.
const LAST_LINE: Duration = Duration::from_secs(30);
/// 1 MiB: host.json has some KiB.
const HOST_LEN: u64 = 1 << 20;
/// 1 hour, in seconds: a container stands still as long as that.
const TIMEOUT: u64 = 3600;
/// What a snapshot that was taken through an API server has beside it.
const FROM_THE_API: &str = capture::POD;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Facts,
    Checkpoint,
    PrepareRestore,
    CleanUp,
}

impl Call {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Facts => "facts",
            Self::Checkpoint => "checkpoint",
            Self::PrepareRestore => "prepare-restore",
            Self::CleanUp => "clean-up",
        }
    }
}

impl Call {
    /// The one that says most of what is asked for.
    const fn verb(self) -> &'static str {
        match self {
            Self::Facts => "get",
            Self::Checkpoint => "create",
            Self::PrepareRestore => "restore",
            Self::CleanUp => "delete",
        }
    }
}

/// How an answer begins.
pub(crate) enum Head {
    Whole(u16, Vec<u8>),
    Lines,
}

/// Where an answer goes.
pub(crate) struct Out {
    head: Mutex<Option<oneshot::Sender<Head>>>,
    lines: mpsc::Sender<Bytes>,
    monitor: Watcher,
    told: AtomicU64,
    env: Arc<dyn Env>,
}

impl Out {
    pub(crate) fn new(
        head: oneshot::Sender<Head>,
        lines: mpsc::Sender<Bytes>,
        monitor: Watcher,
        env: Arc<dyn Env>,
    ) -> Self {
        Self {
            head: Mutex::new(Some(head)),
            lines,
            monitor,
            told: AtomicU64::new(0),
            env,
        }
    }

    /// True for the first head only.
    fn head(&self, head: Head) -> bool {
        let sender = self
            .head
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        sender.is_some_and(|sender| sender.send(head).is_ok())
    }

    fn line(event: &Event) -> Bytes {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }

    /// Left out if the reader is slow.
    fn event(&self, event: &Event) {
        let _ = self.lines.try_send(Self::line(event));
    }

    /// Not left out, unless the reader takes nothing any more.
    fn last(&self, event: &Event) {
        let line = Self::line(event);
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(20);
        while let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(line.clone()) {
            if waited >= LAST_LINE {
                break;
            }
            std::thread::sleep(pause);
            waited += pause;
        }
    }
}

impl Monitor for Out {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        if phase != Phase::Import {
            return;
        }
        let now = self.env.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX) / PROGRESS_EVERY;
        if self.told.fetch_max(now, Ordering::Relaxed) < now {
            self.event(&Event::Progress { done, total });
        }
    }
    fn warning(&self, text: &str) {
        let text = text.to_owned();
        self.event(&Event::Warning { text });
    }
    fn stop(&self) -> bool {
        self.monitor.stop()
    }
}

impl Watch for Out {
    fn step(&self, step: Step<'_>) {
        let event = match step {
            Step::WaitsForLock(container) => Event::WaitsForLock {
                container: container.to_owned(),
            },
            Step::Asked { container, address } => Event::Asked {
                container: container.to_owned(),
                address: address.to_owned(),
            },
            Step::Again(why) => Event::Again {
                why: why.to_owned(),
            },
            Step::Written { path } => Event::Written {
                path: path.to_path_buf(),
            },
            Step::Stays(path) => Event::Stays {
                path: path.to_path_buf(),
            },
            Step::Ended => return,
        };
        self.event(&event);
    }
}

/// A checkpoint that goes on. What it leaves behind if it ends early is for the watch, which knows then whose it was.
struct Taking<'t> {
    out: &'t Out,
    ledger: Option<&'t Ledger>,
    entry: Entry,
}

impl Monitor for Taking<'_> {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.out.progress(phase, done, total);
    }
    fn warning(&self, text: &str) {
        self.out.warning(text);
    }
    fn stop(&self) -> bool {
        self.out.stop()
    }
}

impl Watch for Taking<'_> {
    fn step(&self, step: Step<'_>) {
        if let (Step::Written { path }, Some(ledger)) = (step, self.ledger)
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Err(e) = ledger.change(name, |entry| entry.clone_from(&self.entry))
        {
            self.out.warning(&e.to_string());
        }
        self.out.step(step);
    }
}

/// What the calls of an agent have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) slots: Slots,
    pub(crate) sweeping: Sweeping,
}

/// Does a call, and answers. What panics is answered and written down as well.
pub(crate) fn run(
    agent: &Agent,
    shared: &Shared,
    call: Call,
    shown: &Shown,
    body: &[u8],
    out: &Out,
) {
    let mut line = Line {
        call: call.name(),
        verb: call.verb(),
        ..Line::default()
    };
    // What is used afterwards is the line alone, and a half-filled one is a true one.
    let done = catch_unwind(AssertUnwindSafe(|| {
        decide(agent, shared, call, shown, body, out, &mut line)
    }));
    let done = done.unwrap_or_else(|_| {
        let e = Error::new(Kind::Internal, "the agent made a mistake in this call")
            .hint("its log has the place; please report it");
        Err((status_of(e.kind()), e))
    });
    answer(agent, done, line, out);
}

type Done = std::result::Result<Answer, (u16, Error)>;

fn decide(
    agent: &Agent,
    shared: &Shared,
    call: Call,
    shown: &Shown,
    body: &[u8],
    out: &Out,
    line: &mut Line,
) -> Done {
    match agent.gate.caller(shown, out) {
        // Whoever cannot be found out about is not somebody unknown.
        Err(e) if e.kind() == Kind::Denied => Err((401, e)),
        Err(e) => Err((status_of(e.kind()), e)),
        Ok(caller) => {
            line.user.clone_from(&caller.user);
            line.groups.clone_from(&caller.groups);
            // Who has the token of a file is everybody.
            let user = agent.gate.cluster().map(|_| caller.user.as_str());
            let slot = match call {
                Call::Facts => shared.slots.facts(),
                _ => shared.slots.call(user),
            };
            let _slot = slot.map_err(|e| (429, e))?;
            let job = Job {
                agent,
                shared,
                caller: &caller,
                out,
            };
            let done = match call {
                Call::Facts => job.facts(),
                Call::Checkpoint => job.checkpoint(body, line),
                Call::PrepareRestore => job.prepare_restore(body, line),
                Call::CleanUp => job.clean_up(body, line),
            };
            done.map_err(|e| (status_of(e.kind()), e))
        }
    }
}

fn answer(agent: &Agent, done: Done, mut line: Line, out: &Out) {
    match done {
        Ok(answer) => {
            line.status = 200;
            agent.audit.write(&*agent.env, line);
            match answer {
                Answer::Whole(bytes) => drop(out.head(Head::Whole(200, bytes))),
                Answer::Last(event) => out.last(&event),
            }
        }
        Err((status, e)) => {
            line.status = status;
            line.error = e.to_string();
            agent.audit.write(&*agent.env, line);
            let report = Report::from(&e);
            let bytes = serde_json::to_vec(&report).unwrap_or_default();
            if !out.head(Head::Whole(status, bytes)) {
                out.last(&Event::Failed(report));
            }
        }
    }
}

enum Answer {
    Whole(Vec<u8>),
    /// After lines.
    Last(Event),
}

fn json(value: &impl Serialize) -> Answer {
    Answer::Whole(serde_json::to_vec(value).unwrap_or_default())
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|e| Error::new(Kind::Invalid, format!("the call is not understood: {e}")))
}

struct Job<'j> {
    agent: &'j Agent,
    shared: &'j Shared,
    caller: &'j Caller,
    out: &'j Out,
}

impl Job<'_> {
    fn require(&self, right: Right<'_>) -> Result<()> {
        self.agent.gate.require(self.caller, right, self.out)
    }

    fn cluster(&self) -> Result<&Cluster> {
        self.agent.gate.cluster().ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                "this agent is in no cluster, and takes no checkpoints of pods",
            )
            .hint("start it without --token-file, with the account of a cluster")
        })
    }

    /// One of those that this agent has keys for; other places are nothing that a caller can make it open.
    fn open(&self, storage: Option<&str>) -> Result<(String, Repository)> {
        let names = self.agent.stores.names();
        let wanted = storage.or_else(|| names.first().map(String::as_str));
        let name = names.iter().find(|name| wanted == Some(name.as_str()));
        let name = name.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!(
                    "this agent does not serve the storage {}",
                    wanted.unwrap_or("that it was started with")
                ),
            )
            .hint(format!("it serves: {}", names.join(", ")))
        })?;
        Ok((name.clone(), self.agent.stores.open(name)?))
    }

    fn facts(&self) -> Result<Answer> {
        let options = &self.agent.options;
        self.require(Right {
            verb: "get",
            resource: "nodes",
            namespace: "",
            name: &options.node,
        })?;
        let no_cluster = || (State::Unknown, "this agent is in no cluster".to_owned());
        let (host, (gate, gate_source)) = match self.agent.gate.cluster() {
            Some(cluster) => {
                let mut node = cluster.node(&options.node, self.out)?;
                let host = Host::of(&node);
                node.addresses = vec![options.kubelet_at.clone()];
                let gate = cluster.kubelet(&node, &options.kubelet)?.gate(self.out);
                (
                    host,
                    gate.unwrap_or_else(|e| (State::Unknown, e.to_string())),
                )
            }
            None => (Host::of_this_machine(), no_cluster()),
        };
        let config = node::configuration(&host.runtime, &options.root);
        let mut restore = node::restore_switch(&host.runtime, config.as_deref());
        // What the runtime says of itself counts more than what is concluded.
        let images = self.agent.images.as_deref();
        if let Some(Ok(Some(says))) = images.map(|images| images.restores(self.out)) {
            restore.state = if says { State::On } else { State::Off };
            "the runtime says so itself".clone_into(&mut restore.source);
        }
        Ok(json(&Facts {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            node: options.node.clone(),
            boot_id: here::boot_id()?,
            gate,
            gate_source,
            restore,
            host,
            criu: local::criu_version(),
            criu_plugins: node::criu_plugins(&options.root),
            images_free_bytes: node::free_bytes(&options.root.join(node::CONTAINERD_ROOT)),
            checkpoints: node::checkpoints(&options.folder),
            storages: self.agent.stores.names(),
            watches: self.agent.watching.is_some(),
        }))
    }

    fn checkpoint(&self, body: &[u8], line: &mut Line) -> Result<Answer> {
        let call: CheckpointCall = read(body)?;
        say_pod(line, &call.namespace, &call.pod)?;
        self.require(Right {
            verb: "create",
            resource: "pods/checkpoint",
            namespace: &call.namespace,
            name: &call.pod,
        })?;
        if call.timeout.is_some_and(|timeout| timeout > TIMEOUT) {
            return Err(Error::new(
                Kind::Invalid,
                format!("an agent waits for a checkpoint for {TIMEOUT} s at most"),
            )
            .hint("say a shorter --timeout"));
        }
        let cluster = self.cluster()?;
        let (storage, repo) = self.open(call.storage.as_deref())?;
        let pod = cluster.pod(&call.namespace, &call.pod, self.out)?;
        if !call.uid.is_empty() && call.uid != pod.uid {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "pod {} was replaced meanwhile: its UID was {}, and is {}",
                    pod.title(),
                    call.uid,
                    pod.uid
                ),
            )
            .hint("look at the pod that there is now, and try again"));
        }
        let options = &self.agent.options;
        let choice = match call.container.as_str() {
            "" => Choice::Only,
            name => Choice::Named(name.to_owned()),
        };
        let how = checkpoint::Options {
            choice,
            timeout: call.timeout.map(Duration::from_secs),
            tls: options.kubelet.clone(),
            kubelet_at: Some(options.kubelet_at.clone()),
            folder: options.folder.clone(),
            locks: options.locks.clone(),
            labels: call.labels,
            group: call.group,
            keep_archive: call.keep_archive,
            stop: false,
            force: false,
        };
        let entry = Entry {
            ours: (!how.keep_archive).then(|| Asked {
                labels: how.labels.clone(),
                group: how.group.clone(),
            }),
            stays: how.keep_archive,
            ..Entry::default()
        };
        let prepared = checkpoint::prepare(cluster, pod, how, self.out)?;
        let slots: Result<Vec<_>> = prepared
            .containers()
            .iter()
            .map(|name| self.shared.slots.container(&prepared.pod().uid, name))
            .collect();
        let _slots = slots?;
        line.container = prepared.containers().join(",");
        self.begun(line);
        self.out.head(Head::Lines);
        let taking = Taking {
            out: self.out,
            ledger: self
                .agent
                .watching
                .as_ref()
                .map(|watching| &watching.ledger),
            entry,
        };
        let outcome = checkpoint::take(&prepared, &repo, &taking)?;
        match (outcome.failed, outcome.taken.into_iter().next()) {
            (None, Some(taken)) => {
                line.container.clone_from(&taken.container);
                line.snapshot = taken.snapshot.id.to_string();
                line.bytes = Some(taken.snapshot.archive.bytes);
                Ok(Answer::Last(Event::Done(Box::new(stored(taken, storage)))))
            }
            (Some(e), _) => Err(e),
            (None, None) => Err(Error::new(Kind::Internal, "nothing was taken")),
        }
    }

    fn prepare_restore(&self, body: &[u8], line: &mut Line) -> Result<Answer> {
        let call: PrepareCall = read(body)?;
        say_pod(line, &call.namespace, &call.pod)?;
        self.require(Right {
            verb: "create",
            resource: "pods",
            namespace: &call.namespace,
            name: "",
        })?;
        let (_, repo) = self.open(call.storage.as_deref())?;
        let snapshot = self.restorable(&repo, &call.snapshot)?;
        line.of = format!("{}/{}", snapshot.identity.namespace, snapshot.identity.pod);
        line.snapshot = snapshot.id.to_string();
        let images = self.images()?;
        let name = image_name(&call.namespace, &call.pod, &line.snapshot);
        let _making = self.shared.sweeping.make(name);
        self.begun(line);
        let prepared = images.prepare(&repo, &snapshot, &call, self.out)?;
        line.image.clone_from(&prepared.image);
        line.bytes = Some(prepared.bytes);
        Ok(json(&prepared))
    }

    /// The snapshot, for who may restore it. Who may not is not told whether there is one, and by no part of an id.
    fn restorable(&self, repo: &Repository, id: &str) -> Result<SnapshotRecord> {
        if id.parse::<SnapshotId>().is_err() {
            return Err(
                Error::new(Kind::Invalid, "an agent is told a snapshot by its whole id")
                    .hint("`cryostore ls --json` has it"),
            );
        }
        let found = match repo.find(id, &Filter::default()) {
            Ok(found) => Ok(found.snapshot),
            Err(e) if e.kind() == Kind::NotFound => Err(e),
            Err(e) => return Err(e),
        };
        let (namespace, name) = match &found {
            Ok(snapshot) if self.is_of_this_cluster(repo, snapshot)? => whose(snapshot),
            _ => ("", ""),
        };
        let may = self.require(Right {
            verb: "restore",
            resource: "pods/checkpoint",
            namespace,
            name,
        });
        match may {
            Ok(()) => found,
            Err(e) if e.kind() == Kind::Denied => Err(Error::new(
                Kind::Denied,
                format!(
                    "{} may not restore checkpoint {id}, or there is none",
                    self.caller.user
                ),
            )
            .hint(format!(
                "the right is asked for in the namespace of the pod that the checkpoint is of; where that is not known for sure, in all namespaces: {}",
                rule("pods/checkpoint", "restore")
            ))),
            Err(e) => Err(e),
        }
    }

    /// As whoever stored it had it from the API server. One bucket may hold checkpoints of several clusters, in which one name is not one pod.
    fn is_of_this_cluster(&self, repo: &Repository, snapshot: &SnapshotRecord) -> Result<bool> {
        let Some(cluster) = self.agent.gate.cluster() else {
            return Ok(false);
        };
        let has = snapshot
            .attachments
            .iter()
            .any(|one| one.name == capture::HOST);
        if !has {
            return Ok(false);
        }
        let reader = CheckpointReader::open(repo, snapshot)?;
        // A file of the archive may have the same name, and is nobody's word.
        let Some(host) = reader.read_attachment(capture::HOST.as_bytes(), HOST_LEN)? else {
            return Ok(false);
        };
        let host: Host = serde_json::from_slice(&host).unwrap_or_default();
        Ok(!host.cluster.is_empty() && host.cluster == cluster.id(self.out)?)
    }

    fn clean_up(&self, body: &[u8], line: &mut Line) -> Result<Answer> {
        let call: CleanUpCall = read(body)?;
        say_pod(line, &call.namespace, &call.pod)?;
        self.require(Right {
            verb: "delete",
            resource: "pods",
            namespace: &call.namespace,
            name: &call.pod,
        })?;
        line.image.clone_from(&call.image);
        let images = self.images()?;
        self.begun(line);
        Ok(json(&images.clean_up(&call, self.out)?))
    }

    /// Before it is done: afterwards there may be nobody to write it.
    fn begun(&self, line: &Line) {
        self.agent.audit.write(&*self.agent.env, line.clone());
    }

    fn images(&self) -> Result<&dyn super::images::Images> {
        self.agent.images.as_deref().ok_or_else(|| {
            Error::new(
                Kind::Unsupported,
                "this agent has no container runtime whose images it could make",
            )
            .hint("it needs containerd's socket: /run/containerd/containerd.sock")
        })
    }
}

/// Whose memory it is, as whoever stored it had it from the API server. Where there was none, nothing but the archive itself says whose it is, and that
/// counts for nothing here: then it is everybody's.
fn whose(snapshot: &SnapshotRecord) -> (&str, &str) {
    let asked = snapshot
        .attachments
        .iter()
        .any(|one| one.name == FROM_THE_API);
    let of = &snapshot.identity;
    if asked && check_name("namespace", &of.namespace).is_ok() && check_name("pod", &of.pod).is_ok()
    {
        return (&of.namespace, &of.pod);
    }
    ("", "")
}

fn stored(taken: Taken, storage: String) -> Stored {
    let Taken {
        container,
        snapshot,
        archive,
        archive_removed,
        asked_for,
    } = taken;
    Stored {
        container,
        storage,
        snapshot,
        archive,
        archive_removed,
        asked_for_ms: u64::try_from(asked_for.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The pod of a call, in its line of the audit log; what is no name goes no further.
fn say_pod(line: &mut Line, namespace: &str, pod: &str) -> Result<()> {
    check_name("namespace", namespace)?;
    check_name("pod", pod)?;
    namespace.clone_into(&mut line.namespace);
    pod.clone_into(&mut line.pod);
    Ok(())
}
