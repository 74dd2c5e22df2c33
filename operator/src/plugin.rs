//! Owns credential plug-ins: programs that a kubeconfig names, which print a token or a certificate (client.authentication.k8s.io).
//!
//! Always: run once, with what the kubeconfig says and nothing on standard input. Never: keeps what they print anywhere but in memory.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use cryostore_engine::{Error, Kind, Result};
use kube::config::ExecConfig;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

/// What a plug-in gave.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) token: Option<SecretString>,
    /// Certificate and key, PEM.
    pub(crate) identity: Option<(String, SecretString)>,
}

#[derive(Deserialize)]
struct Printed {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    token: Option<SecretString>,
    client_certificate_data: Option<String>,
    client_key_data: Option<SecretString>,
}

/// Runs it.
pub(crate) fn run(plugin: &ExecConfig) -> Result<Given> {
    let invalid = |text: String| {
        let hint = plugin.install_hint.clone();
        Error::new(Kind::Denied, text).hint(hint.unwrap_or_else(|| {
            "run `kubectl get pods` in the same place: it uses the same program of the kubeconfig"
                .to_owned()
        }))
    };
    let name = plugin
        .command
        .as_deref()
        .ok_or_else(|| invalid("the kubeconfig's `exec` has no command".to_owned()))?;
    let version = plugin
        .api_version
        .as_deref()
        .unwrap_or("client.authentication.k8s.io/v1");
    let mut info =
        json!({"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": false}});
    if let Some(cluster) = &plugin.cluster {
        info["spec"]["cluster"] = json!(cluster);
    }
    let mut command = Command::new(name);
    command
        .args(plugin.args.iter().flatten())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    for variable in plugin.drop_env.iter().flatten() {
        command.env_remove(variable);
    }
    let set: BTreeMap<_, _> = plugin
        .env
        .iter()
        .flatten()
        .filter_map(|pair| Some((pair.get("name")?, pair.get("value")?)))
        .collect();
    command.envs(set);
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    let output = command.output().map_err(|e| {
        invalid(format!(
            "the credential program {name} of the kubeconfig: {e}"
        ))
    })?;
    if !output.status.success() {
        return Err(invalid(format!(
            "the credential program {name} of the kubeconfig ended with {}",
            output.status
        )));
    }
    // What it printed is a secret, also where it is not understood.
    let printed: Printed = serde_json::from_slice(&output.stdout).map_err(|_| {
        invalid(format!(
            "the credential program {name} of the kubeconfig printed no ExecCredential"
        ))
    })?;
    let status = printed.status.ok_or_else(|| {
        invalid(format!(
            "the credential program {name} of the kubeconfig gave no credentials"
        ))
    })?;
    Ok(Given {
        token: status.token,
        identity: status.client_certificate_data.zip(status.client_key_data),
    })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn shell(script: &str) -> ExecConfig {
        serde_json::from_value(json!({
            "apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/bin/sh", "args": ["-c", script],
            "env": [{"name": "WHO", "value": "robot"}],
        }))
        .unwrap()
    }

    #[test]
    fn a_plugins_token_is_taken_and_it_gets_its_version_and_variables() {
        let script = r#"case $KUBERNETES_EXEC_INFO in *v1beta1*) printf '{"status":{"token":"of-%s"}}' "$WHO";; esac"#;
        let given = run(&shell(script)).unwrap();
        assert_eq!(given.token.unwrap().expose_secret(), "of-robot");
    }

    #[test]
    fn a_plugin_that_fails_or_prints_something_else_is_an_error_without_what_it_printed() {
        for script in ["exit 3", "echo hush-token", "echo '{}'"] {
            let e = run(&shell(script)).unwrap_err();
            assert_eq!(e.kind(), Kind::Denied, "{script}");
            assert!(!format!("{e:?}").contains("hush"), "{e:?}");
        }
        let mut plugin = shell("");
        plugin.command = Some("/does/not/exist".to_owned());
        assert!(
            run(&plugin)
                .unwrap_err()
                .to_string()
                .contains("/does/not/exist")
        );
    }
}
