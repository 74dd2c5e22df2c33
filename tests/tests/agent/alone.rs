//! An agent outside of a cluster, in this process: its limits, and what it asks a container runtime for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{
    Error, ImportOptions, Kind, Monitor, Repository, Result, Silent, Source, Store, SystemEnv,
    import,
};
use cryostore_operator::KubeletTls;
use cryostore_operator::agent::calls::{CleanUpCall, CleanedUp, PrepareCall, PreparedImage};
use cryostore_operator::agent::images::Images;
use cryostore_operator::agent::{Agent, Audit, Gate, Options, Stores, serve};
use cryostore_tests::archives::real_tar;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOKEN: &str = "a-token-of-the-test";

#[derive(Debug)]
struct OneStore(PathBuf);

impl OneStore {
    fn repository(&self) -> Result<Repository> {
        let store = Store::open(self.0.to_str().unwrap(), false)?;
        Repository::open(store, Arc::new(SystemEnv::new()), None)
    }
}

impl Stores for OneStore {
    fn names(&self) -> Vec<String> {
        vec!["the-store".to_owned()]
    }
    fn open(&self, _: &str) -> Result<Repository> {
        self.repository()
    }
}

/// Remembers what it was asked for.
#[derive(Debug, Clone, Default)]
struct Runtime {
    asked: Arc<Mutex<Vec<String>>>,
    slow: bool,
    go_on: Arc<AtomicBool>,
}

impl Images for Runtime {
    fn prepare(
        &self,
        _: &Repository,
        snapshot: &SnapshotRecord,
        call: &PrepareCall,
        monitor: &dyn Monitor,
    ) -> Result<PreparedImage> {
        let asked = format!("{} for {}/{}", snapshot.id, call.namespace, call.pod);
        self.asked.lock().unwrap().push(asked);
        while self.slow && !self.go_on.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_ne!(call.pod, "panics", "a mistake of the agent's");
        if monitor.stop() {
            return Err(Error::new(Kind::Interrupted, "stopped"));
        }
        if call.pod == "broken" {
            return Err(Error::new(Kind::NoSpace, "no room").hint("make some"));
        }
        Ok(PreparedImage {
            image: "an-image".to_owned(),
            digest: "sha256:1".to_owned(),
            bytes: 7,
            ..PreparedImage::default()
        })
    }

    fn clean_up(&self, call: &CleanUpCall, _: &dyn Monitor) -> Result<CleanedUp> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("end of {}", call.image));
        Ok(CleanedUp { removed: true })
    }
}

#[derive(Default)]
struct Stop(AtomicBool);
impl Monitor for Stop {
    fn stop(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A running agent.
struct Alone {
    dir: TempDir,
    address: SocketAddr,
    runtime: Runtime,
    snapshot: SnapshotRecord,
    stop: Arc<Stop>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Alone {
    fn start(slow: bool) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("store");
        let store = Store::open(path.to_str().unwrap(), true).unwrap();
        Repository::init(&store, &SystemEnv::new()).unwrap();
        let tar = dir.path().join("a.tar");
        std::fs::write(&tar, real_tar("containerd-busybox-1")).unwrap();
        let stores = OneStore(path);
        let repo = stores.repository().unwrap();
        let how = ImportOptions::default();
        let snapshot = import(&repo, Source::File(tar), &how, &Silent)
            .unwrap()
            .snapshot;
        let runtime = Runtime {
            slow,
            ..Runtime::default()
        };
        let agent = Agent {
            options: Options {
                listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
                tls: None,
                node: String::new(),
                namespace: None,
                kubelet_at: "127.0.0.1".to_owned(),
                kubelet: KubeletTls::default(),
                folder: dir.path().to_path_buf(),
                locks: dir.path().join("locks"),
                root: PathBuf::from("/"),
            },
            gate: Gate::token(TOKEN),
            stores: Box::new(stores),
            images: Some(Box::new(runtime.clone())),
            watching: None,
            audit: Audit::open(Some(&dir.path().join("audit"))).unwrap(),
            env: Arc::new(SystemEnv::new()),
        };
        let stop = Arc::new(Stop::default());
        let (send, receive) = channel();
        let watcher = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            serve(Arc::new(agent), watcher, |ready| {
                send.send(ready.clone()).unwrap()
            })
        });
        let ready = receive.recv().unwrap();
        std::fs::write(dir.path().join("agent.pem"), ready.certificate.unwrap()).unwrap();
        Self {
            dir,
            address: ready.address,
            runtime,
            snapshot,
            stop,
            thread: Some(thread),
        }
    }

    fn curl(&self, path: &str, arguments: &[&str]) -> (u16, Value) {
        let port = self.address.port();
        curl(&self.dir.path().join("agent.pem"), port, path, arguments)
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.curl(path, &["-d", &body.to_string()])
    }

    fn asked(&self) -> Vec<String> {
        self.runtime.asked.lock().unwrap().clone()
    }

    /// What became of each call.
    fn audit(&self) -> Vec<Value> {
        let mut lines = self.whole_audit();
        lines.retain(|line| line["result"] != "begun");
        lines
    }

    fn whole_audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("audit")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn curl(pem: &Path, port: u16, path: &str, arguments: &[&str]) -> (u16, Value) {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "30",
            "-w",
            "\n%{http_code}",
            "--cacert",
        ])
        .arg(pem)
        .args(["-H", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--resolve", &format!("cryostore-agent:{port}:127.0.0.1")])
        .arg(format!("https://cryostore-agent:{port}{path}"))
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    let body = serde_json::from_str(body).unwrap_or(Value::Null);
    (status.parse().unwrap(), body)
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.runtime.go_on.store(true, Ordering::Relaxed);
        self.stop.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().unwrap();
            ended.unwrap();
        }
    }
}

#[test]
fn a_snapshot_becomes_an_image_and_goes_again_and_both_are_written_down() {
    let agent = Alone::start(false);
    let id = agent.snapshot.id.to_string();
    let call = json!({"snapshot": id, "namespace": "shop", "pod": "web"});
    let (status, said) = agent.post("/v1/prepare-restore", &call);
    assert_eq!(status, 200, "{said}");
    assert_eq!(
        (&said["image"], &said["digest"]),
        (&json!("an-image"), &json!("sha256:1"))
    );
    let call = json!({"image": "an-image", "namespace": "shop", "pod": "web"});
    let (status, said) = agent.post("/v1/clean-up", &call);
    assert_eq!((status, &said["removed"]), (200, &json!(true)));
    assert_eq!(
        agent.asked(),
        [format!("{id} for shop/web"), "end of an-image".to_owned()]
    );
    let audit = agent.audit();
    assert_eq!(
        (&audit[0]["snapshot"], &audit[0]["bytes"]),
        (&json!(id), &json!(7))
    );
    assert_eq!(
        (&audit[1]["call"], &audit[1]["pod"]),
        (&json!("clean-up"), &json!("web"))
    );
    assert_eq!(audit[1]["image"], "an-image");
    let results: Vec<_> = agent.whole_audit();
    let results: Vec<_> = results.iter().map(|line| &line["result"]).collect();
    assert_eq!(results, ["begun", "done", "begun", "done"]);
    assert!(!json!(audit).to_string().contains(TOKEN));
}

#[test]
fn what_a_call_asks_for_wrongly_is_refused_with_its_kind_and_asks_nothing_of_the_runtime() {
    let agent = Alone::start(false);
    let id = agent.snapshot.id.to_string();
    let prepare = |change: &dyn Fn(&mut Value)| {
        let mut call = json!({"snapshot": id, "namespace": "shop", "pod": "web"});
        change(&mut call);
        agent.post("/v1/prepare-restore", &call)
    };
    let status = |(status, said): (u16, Value)| {
        assert!(
            said["error"].as_str().is_some_and(|text| !text.is_empty()),
            "{said}"
        );
        status
    };
    assert_eq!(
        status(prepare(
            &|call| call["snapshot"] = "f".repeat(id.len()).into()
        )),
        404
    );
    // Nobody finds out an id by its beginning.
    assert_eq!(
        status(prepare(&|call| call["snapshot"] = id[..12].into())),
        400
    );
    assert_eq!(
        status(prepare(&|call| call["storage"] = "file:///etc".into())),
        404
    );
    assert_eq!(status(prepare(&|call| call["pod"] = "../../x".into())), 400);
    assert_eq!(status(prepare(&|call| call["namespace"] = json!([1]))), 400);
    assert_eq!(status(agent.curl("/v1/prepare-restore", &["-d", "{"])), 400);
    assert_eq!(status(agent.curl("/v1/prepare-restore", &[])), 405);
    assert_eq!(status(agent.curl("/v1/other", &[])), 404);
    assert_eq!(
        status(agent.curl("/v1/facts?x=%00", &["-X", "DELETE"])),
        405
    );
    // Nothing of the cluster without one.
    let call = json!({"namespace": "shop", "pod": "web"});
    assert_eq!(status(agent.post("/v1/checkpoint", &call)), 501);
    assert!(agent.asked().is_empty(), "{:?}", agent.asked());
    // Each of them is written down.
    let statuses: Vec<_> = agent.audit();
    let statuses: Vec<_> = statuses.iter().map(|line| &line["status"]).collect();
    assert_eq!(
        json!(statuses),
        json!([404, 400, 404, 400, 400, 400, 405, 404, 405, 501])
    );
    // What the runtime says arrives.
    let (code, said) = prepare(&|call| call["pod"] = "broken".into());
    assert_eq!(
        (code, &said["kind"], &said["advice"]),
        (507, &json!("no-space"), &json!("make some"))
    );
}

#[test]
fn a_call_that_panics_is_answered_and_written_down_and_the_agent_goes_on() {
    let agent = Alone::start(false);
    let mut call =
        json!({"snapshot": agent.snapshot.id.to_string(), "namespace": "shop", "pod": "panics"});
    let (status, said) = agent.post("/v1/prepare-restore", &call);
    assert_eq!((status, &said["kind"]), (500, &json!("internal")));
    let audit = agent.audit();
    let line = audit.last().unwrap();
    assert_eq!(
        (&line["status"], &line["pod"]),
        (&json!(500), &json!("panics"))
    );
    call["pod"] = "web".into();
    assert_eq!(agent.post("/v1/prepare-restore", &call).0, 200);
}

#[test]
fn too_long_too_many_and_no_http_at_all_are_refused_and_the_next_caller_is_served() {
    let agent = Alone::start(true);
    let long = agent.dir.path().join("long");
    std::fs::write(&long, vec![b' '; 100_000]).unwrap();
    let at = format!("@{}", long.display());
    assert_eq!(agent.curl("/v1/clean-up", &["--data-binary", &at]).0, 413);
    let header = format!("X-Long: {}", "x".repeat(60_000));
    let (status, _) = agent.curl("/v1/facts", &["-H", &header]);
    assert!(status == 431 || status == 0, "{status}");

    // Some that say nothing, and some that say nonsense.
    let mut idle: Vec<_> = (0..10)
        .map(|_| TcpStream::connect(agent.address).unwrap())
        .collect();
    for (n, stream) in idle.iter_mut().enumerate() {
        if n % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said);
            assert!(!said.starts_with(b"HTTP"), "{said:?}");
        }
    }

    let call =
        json!({"snapshot": agent.snapshot.id.to_string(), "namespace": "shop", "pod": "web"});
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| agent.post("/v1/prepare-restore", &call).0))
            .collect();
        while agent.asked().len() < 8 {
            std::thread::sleep(Duration::from_millis(20));
        }
        let (status, said) = agent.post("/v1/prepare-restore", &call);
        assert_eq!(status, 429, "{said}");
        assert_eq!(agent.audit().last().unwrap()["status"], 429);
        // An agent at work says so, and somebody unknown takes no place.
        assert_eq!(agent.curl("/v1/facts", &[]).0, 200);
        agent.runtime.go_on.store(true, Ordering::Relaxed);
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert_eq!(answers, [200; 8]);
    let (status, facts) = agent.curl("/v1/facts", &[]);
    assert_eq!(status, 200, "{facts}");
    assert_eq!(facts["gate"], "unknown");
}

#[test]
fn an_agent_that_is_asked_to_end_ends_its_calls_first() {
    let mut agent = Alone::start(true);
    let call =
        json!({"snapshot": agent.snapshot.id.to_string(), "namespace": "shop", "pod": "web"});
    let (pem, port) = (agent.dir.path().join("agent.pem"), agent.address.port());
    let text = call.to_string();
    let asking =
        std::thread::spawn(move || curl(&pem, port, "/v1/prepare-restore", &["-d", &text]));
    while agent.asked().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    agent.stop.0.store(true, Ordering::Relaxed);
    // Time to notice; what is at work is not to.
    std::thread::sleep(Duration::from_millis(500));
    agent.runtime.go_on.store(true, Ordering::Relaxed);
    agent.thread.take().unwrap().join().unwrap().unwrap();
    assert_eq!(asking.join().unwrap().0, 200);
    assert_eq!(agent.audit().len(), 1);
}
