//! `cryostore serve-node`, with the rights of the roles that are shipped and no others.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::cluster::{Cluster, Said};

/// A running agent; ends with the test.
pub struct Agent {
    process: Child,
    /// `https://HOST:PORT`
    pub url: String,
    pub certificate: String,
    audit: PathBuf,
}

/// A file of `deploy/`, for another namespace than its own.
pub fn deployed(name: &str, namespace: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/").to_owned() + name;
    let text = std::fs::read_to_string(path).unwrap();
    text.replace(
        "namespace: cryostore\n",
        &format!("namespace: {namespace}\n"),
    )
}

/// The rules of a role in a file of `deploy/`, as the API server reads them.
pub fn rules(c: &Cluster, file: &str, kind: &str, role: &str) -> Vec<Value> {
    let text = c.kubectl(
        &["create", "--dry-run=client", "-o", "json", "-f", "-"],
        &deployed(file, &c.namespace),
    );
    let stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let items: Vec<Value> = stream
        .map(|one| one.unwrap())
        .flat_map(|one| match one["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![one],
        })
        .collect();
    let found = items
        .iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == role);
    found.unwrap()["rules"].as_array().unwrap().clone()
}

/// All that an agent may do: its two roles, and the cluster's own for the authority of clients.
pub fn agent_rules(c: &Cluster) -> Vec<Value> {
    let mut all = rules(c, "agent.yaml", "ClusterRole", "cryostore-agent");
    all.extend(rules(c, "agent.yaml", "Role", "cryostore-agent"));
    all.push(json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get"]}));
    all
}

/// All that somebody may who reaches agents for checkpoints.
pub fn user_rules(c: &Cluster) -> Vec<Value> {
    let file = "agent-users.yaml";
    [
        rules(c, file, "Role", "cryostore-agent-reach"),
        rules(c, file, "ClusterRole", "cryostore-agent-nodes"),
        rules(c, file, "ClusterRole", "cryostore-agent-checkpoint"),
    ]
    .concat()
}

impl Agent {
    /// With the account that it is to have.
    pub fn start(c: &Cluster) -> Self {
        make_map(c);
        let account = c.account("agent", &json!(agent_rules(c)));
        Self::start_as(c, &account, &[]).unwrap()
    }

    pub fn start_with(c: &Cluster, more: &[&str]) -> Self {
        make_map(c);
        let account = c.account("agent", &json!(agent_rules(c)));
        Self::start_as(c, &account, more).unwrap()
    }

    /// As the owner of this kubeconfig. The error is what it said.
    pub fn start_as(c: &Cluster, account: &std::path::Path, more: &[&str]) -> Result<Self, String> {
        let audit = c.path("audit");
        let folder = c.path("checkpoints");
        let arguments = [
            "serve-node",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--node",
            &c.node,
            "--agent-namespace",
            &c.namespace,
            "--kubelet-ca",
            &c.ca,
            "--checkpoints-dir",
            folder.to_str().unwrap(),
            "--containerd",
            "/does/not/exist",
            "--audit-log",
            audit.to_str().unwrap(),
        ];
        let mut command = c.command(&[&arguments[..], more].concat());
        command.env("KUBECONFIG", account);
        Self::run(command, audit)
    }

    pub fn run(mut command: Command, audit: PathBuf) -> Result<Self, String> {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut said = String::new();
            let mut err = process.stderr.take().unwrap();
            err.read_to_string(&mut said).unwrap();
            process.wait().unwrap();
            return Err(said);
        }
        // What it says later is in its answers and in the audit log; a full pipe must not hold it up.
        let mut err = process.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut err, &mut std::io::stderr()));
        let ready: Value = serde_json::from_str(&line).unwrap();
        Ok(Self {
            process,
            url: format!("https://{}", ready["address"].as_str().unwrap()),
            certificate: ready["certificate"].as_str().unwrap_or_default().to_owned(),
            audit,
        })
    }

    /// `cryostore checkpoint` through it, in the cluster's namespace.
    pub fn checkpoint(&self, c: &Cluster, arguments: &[&str], code: i32) -> Said {
        self.checkpoint_by(c, &self.url, arguments, code)
    }

    /// The same, by this way.
    pub fn checkpoint_by(&self, c: &Cluster, way: &str, arguments: &[&str], code: i32) -> Said {
        let mut all = vec!["checkpoint", "-n", &c.namespace, "--agent", way];
        all.extend(["--agent-namespace", &c.namespace]);
        all.extend(arguments);
        let output = c
            .command(&all)
            .env_remove("CRYOSTORE_STORAGE")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{all:?}\n{out}\n{err}");
        Said { out, err }
    }

    /// The pod that it runs in, as far as the API server knows.
    pub fn make_pod(&self, c: &Cluster) {
        let port: u16 = self.url.rsplit(':').next().unwrap().parse().unwrap();
        c.pod_with("agent-1", &["agent"], "", &|pod| {
            pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "cryostore-agent"});
            pod["spec"]["containers"][0]["ports"] =
                json!([{"name": "agent", "containerPort": port}]);
        });
    }

    /// The lines of the audit log that say what became of something.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.audit).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Value| line["result"] != "begun")
            .collect()
    }

    /// Asks it to end, and waits.
    pub fn end(&mut self) {
        let id = self.process.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &id]).status();
        let _ = self.process.wait();
    }

    /// As a machine that loses its power.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The ConfigMap of the agents' certificates.
fn make_map(c: &Cluster) {
    c.kubectl(
        &[
            "create",
            "configmap",
            "cryostore-agents",
            "-n",
            &c.namespace,
        ],
        "",
    );
}

/// The token in a kubeconfig that [`Cluster::account`] made.
pub fn token(kubeconfig: &std::path::Path) -> String {
    let text = std::fs::read_to_string(kubeconfig).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let token = config["users"][0]["user"]["token"].as_str().unwrap();
    token.to_owned()
}

/// A call by somebody who is no client of ours: status and body. `curl` knows nobody but the agent's certificate.
pub fn curl(c: &Cluster, agent: &Agent, path: &str, arguments: &[&str]) -> (u16, String) {
    let pem = c.path("agent.pem");
    std::fs::write(&pem, &agent.certificate).unwrap();
    let port = agent.url.rsplit(':').next().unwrap();
    let resolve = format!("cryostore-agent:{port}:127.0.0.1");
    let url = format!("https://cryostore-agent:{port}{path}");
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "--cacert"])
        .arg(&pem)
        .args(["--resolve", &resolve, "-w", "\n%{http_code}", &url])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}
