//! A real API server (`scripts/apiserver.sh` starts it), a namespace and a node of a test's own, and the stand-in for the node's kubelet.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use cryostore_engine::format::snapshot::SnapshotRecord;
use cryostore_engine::{CheckpointReader, Repository, Store, SystemEnv};
use cryostore_tests::archives::{package, real_tar};
use serde_json::{Value, json};
use tempfile::TempDir;

/// All of it; ends with the test.
pub struct Cluster {
    dir: TempDir,
    admin: PathBuf,
    kubectl: String,
    pub namespace: String,
    pub node: String,
    /// The kubelet's own certificate, with its authority.
    pub ca: String,
    kubelet: Child,
    /// Whose rights a run has.
    pub user: PathBuf,
}

/// What a run said.
pub struct Said {
    pub out: String,
    pub err: String,
}

impl Cluster {
    /// None, and a line that says so, where there is no API server.
    pub fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// With more arguments for the kubelet.
    pub fn start_with(more: &[&str]) -> Option<Self> {
        let Some(admin) = std::env::var_os("CRYOSTORE_TEST_APISERVER").map(PathBuf::from) else {
            eprintln!(
                "skipped: CRYOSTORE_TEST_APISERVER is not set; `make test` starts the API server and sets it"
            );
            return None;
        };
        let kubectl = std::env::var("CRYOSTORE_TEST_KUBECTL").unwrap();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!(
            "{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = TempDir::new().unwrap();
        for name in ["checkpoints", "state", "home"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(
            dir.path().join("template.tar"),
            real_tar("containerd-busybox-1"),
        )
        .unwrap();
        let node = format!("node-{id}");
        let script = package().join("kubelet/kubelet.py");
        let mut kubelet = Command::new("python3")
            .arg(script)
            .arg("--kubeconfig")
            .arg(&admin)
            .args(["--node", &node, "--folder"])
            .arg(dir.path().join("checkpoints"))
            .arg("--archive")
            .arg(dir.path().join("template.tar"))
            .arg("--client-ca")
            .arg(admin.with_file_name("users.crt"))
            .arg("--state")
            .arg(dir.path().join("state"))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(kubelet.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        let store = dir.path().join("store");
        let store = Store::open(store.to_str().unwrap(), true).unwrap();
        Repository::init(&store, &SystemEnv::new()).unwrap();
        let cluster = Self {
            namespace: format!("test-{id}"),
            ca: started["certificate"].as_str().unwrap().to_owned(),
            user: admin.clone(),
            dir,
            admin,
            kubectl,
            node,
            kubelet,
        };
        cluster.kubectl(&["create", "namespace", &cluster.namespace], "");
        Some(cluster)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As the administrator; it has to work.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(&self.kubectl)
            .arg("--kubeconfig")
            .arg(&self.admin)
            .args(arguments)
            .env("HOME", self.path("home"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// A pod on the node whose containers run. `how` is for the kubelet.
    pub fn pod(&self, name: &str, containers: &[&str], how: &str) {
        self.pod_with(name, containers, how, &|_| ());
    }

    /// The same, changed.
    pub fn pod_with(
        &self,
        name: &str,
        containers: &[&str],
        how: &str,
        change: &dyn Fn(&mut Value),
    ) {
        let spec: Vec<_> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "x", "envFrom": [{"secretRef": {"name": "hush"}}]}))
            .collect();
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "annotations": {"test/kubelet": how}},
            "spec": {"nodeName": self.node, "containers": spec},
        });
        change(&mut pod);
        let path = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let made = self.kubectl(&["create", "--raw", &path, "-f", "-"], &pod.to_string());
        let mut made: Value = serde_json::from_str(&made).unwrap();
        let states: Vec<_> = containers
            .iter()
            .map(|name| {
                let state = if name.ends_with("-waits") {
                    json!({"waiting": {"reason": "CrashLoopBackOff"}})
                } else {
                    json!({"running": {}})
                };
                json!({"name": name, "state": state, "ready": true, "restartCount": 0, "image": "x", "imageID": ""})
            })
            .collect();
        made["status"] = json!({"phase": "Running", "containerStatuses": states});
        let path = format!("{path}/{name}/status");
        self.kubectl(&["replace", "--raw", &path, "-f", "-"], &made.to_string());
    }

    /// The pod as the API server has it; none: it is gone.
    pub fn look(&self, pod: &str) -> Option<Value> {
        let text = self.kubectl(
            &[
                "get",
                "pod",
                pod,
                "-n",
                &self.namespace,
                "-o",
                "json",
                "--ignore-not-found",
            ],
            "",
        );
        serde_json::from_str(&text).ok()
    }

    /// A kubeconfig of a service account with these rules (JSON), and no other right.
    pub fn account(&self, name: &str, rules: &Value) -> PathBuf {
        let full = format!("{}-{name}", self.namespace);
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": full}, "rules": rules,
        });
        self.kubectl(&["create", "-f", "-"], &role.to_string());
        let namespace = self.namespace.as_str();
        self.kubectl(&["create", "serviceaccount", name, "-n", namespace], "");
        self.kubectl(
            &[
                "create",
                "clusterrolebinding",
                &full,
                "--clusterrole",
                &full,
                "--serviceaccount",
                &format!("{namespace}:{name}"),
            ],
            "",
        );
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let given = self.kubectl(&["create", "--raw", &path, "-f", "-"], &request.to_string());
        let given: Value = serde_json::from_str(&given).unwrap();
        let token = given["status"]["token"].as_str().unwrap();
        self.kubeconfig(name, &json!({"token": token}))
    }

    /// A kubeconfig whose user is this.
    pub fn kubeconfig(&self, name: &str, user: &Value) -> PathBuf {
        let admin = std::fs::read_to_string(&self.admin).unwrap();
        let server = admin.split("server: \"").nth(1).unwrap();
        let server = server.split('"').next().unwrap();
        let ca = self
            .admin
            .with_file_name("certificates")
            .join("apiserver.crt");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": ca}}],
            "users": [{"name": "c", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c", "namespace": self.namespace}}],
        });
        let path = self.path(&format!("{name}.kubeconfig"));
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// `users.crt` and its key, who sign clients' certificates.
    pub fn users(&self) -> (PathBuf, PathBuf) {
        (
            self.admin.with_file_name("users.crt"),
            self.admin.with_file_name("users.key"),
        )
    }

    /// `cryostore checkpoint` in this namespace, with these arguments and no trust in the kubelet but what they say.
    pub fn bare(&self, arguments: &[&str], code: i32) -> Said {
        let folder = self.path("checkpoints");
        let mut all = vec!["checkpoint", "-n", &self.namespace, "--checkpoints-dir"];
        all.push(folder.to_str().unwrap());
        all.extend(arguments);
        self.cryostore(&all, code)
    }

    /// The same, with trust in the kubelet's own authority.
    pub fn checkpoint(&self, arguments: &[&str], code: i32) -> Said {
        self.bare(&[arguments, &["--kubelet-ca", &self.ca]].concat(), code)
    }

    /// The report.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let said = self.checkpoint(&[arguments, &["--json"]].concat(), 0);
        serde_json::from_str(&said.out).unwrap()
    }

    /// The program with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("cryostore"));
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/bin:/bin")
            .env("KUBECONFIG", &self.user)
            .env("CRYOSTORE_STORAGE", self.path("store"))
            .args(arguments);
        command
    }

    pub fn cryostore(&self, arguments: &[&str], code: i32) -> Said {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}\n{out}\n{err}"
        );
        Said { out, err }
    }

    /// What the kubelet was asked to take.
    pub fn calls(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("state/calls")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Names of the archives in the kubelet's folder.
    pub fn archives(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("checkpoints")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn repository(&self) -> Repository {
        let store = self.path("store");
        let store = Store::open(store.to_str().unwrap(), false).unwrap();
        Repository::open(store, std::sync::Arc::new(SystemEnv::new()), None).unwrap()
    }

    /// The snapshots, newest first.
    pub fn snapshots(&self) -> Vec<SnapshotRecord> {
        self.repository().snapshots().unwrap().snapshots
    }

    /// What was kept beside a snapshot.
    pub fn attachment(&self, snapshot: &SnapshotRecord, name: &str) -> Value {
        let repo = self.repository();
        let reader = CheckpointReader::open(&repo, snapshot).unwrap();
        let bytes = reader.read_member(name.as_bytes(), 1 << 20).unwrap();
        serde_json::from_slice(&bytes.unwrap()).unwrap()
    }

    /// The kubelet goes away.
    pub fn end_kubelet(&mut self) {
        let _ = self.kubelet.kill();
        let _ = self.kubelet.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_kubelet();
    }
}
