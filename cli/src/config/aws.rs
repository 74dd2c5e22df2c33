//! Owns the reading of the files that AWS' own tools keep: `~/.aws/config` and `~/.aws/credentials`, one profile of them.
//!
//! Always: credentials win over config, as in AWS' tools. Never: runs a program or logs in: a profile that needs one is an error that says what to do instead.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;

use cryostore_engine::Error;

use super::Surroundings;
use crate::exit::Failure;

/// What a profile says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) name: String,
    values: BTreeMap<String, String>,
}

impl Profile {
    /// The one that `AWS_PROFILE` names, or `default`, if there is one.
    pub(super) fn read(around: &Surroundings<'_>) -> Result<Option<Self>, Failure> {
        let named = around
            .get("AWS_PROFILE")
            .map(|name| name.to_string_lossy().into_owned());
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let mut values = BTreeMap::new();
        let mut found = false;
        for (variable, file, is_config) in [
            ("AWS_CONFIG_FILE", "config", true),
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false),
        ] {
            let Some(path) = place(around, variable, file) else {
                continue;
            };
            let text = match (around.read)(&path) {
                Ok(text) => text,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(e) => return Err(Error::io(path.display(), e).into()),
            };
            if let Some(more) = section(&text, &name, is_config) {
                found = true;
                values.extend(more);
            }
        }
        match (found, named) {
            (true, _) => Ok(Some(Self { name, values })),
            (false, None) => Ok(None),
            (false, Some(name)) => Err(Failure::usage(
                format!(
                    "AWS_PROFILE: there is no profile `{name}` in AWS' config and credentials files"
                ),
                "name one that is there, or unset AWS_PROFILE",
            )),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// An error if its credentials are made by something that only AWS' own tools do.
    pub(super) fn refuse_what_needs_a_tool(&self) -> Result<(), Failure> {
        let tools = [
            "credential_process",
            "sso_session",
            "sso_start_url",
            "source_profile",
            "credential_source",
            "login_session",
        ];
        let Some(key) = tools.iter().find(|key| self.values.contains_key(**key)) else {
            return Ok(());
        };
        Err(Failure::usage(
            format!(
                "AWS profile `{}` gets its credentials by `{key}`, which is not done here",
                self.name
            ),
            format!(
                "have AWS' tool do it: eval \"$(aws configure export-credentials --profile {} --format env)\"",
                self.name
            ),
        ))
    }
}

fn place(around: &Surroundings<'_>, variable: &str, file: &str) -> Option<PathBuf> {
    match around.get(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(around.directory("HOME")?.join(".aws").join(file)),
    }
}

/// The keys of a profile. In `config` profiles but the default are called `profile NAME`; lines that are indented belong to the key above.
fn section(text: &str, name: &str, is_config: bool) -> Option<BTreeMap<String, String>> {
    let mut out: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(title) = bare
            .strip_prefix('[')
            .and_then(|rest| rest.split(']').next())
        {
            let title = title.trim();
            let of_profile = title
                .strip_prefix("profile")
                .filter(|rest| rest.starts_with([' ', '\t']));
            let here = match of_profile {
                Some(rest) if is_config => rest.trim().trim_matches('"'),
                _ if is_config && title != "default" => "",
                _ => title,
            };
            inside = here == name;
            if inside {
                out.get_or_insert_default();
            }
        } else if let (true, false, Some((key, value))) =
            (inside, line.starts_with([' ', '\t']), bare.split_once('='))
        {
            // A remark after a value begins with a space.
            let value = value.split(" #").next().unwrap_or_default().trim();
            if let Some(out) = out.as_mut().filter(|_| !value.is_empty()) {
                out.insert(key.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
# a remark
[default]
region = eu-central-1
s3 =
  addressing_style = path
  region = wrong

[profile \"work\"]
region=us-west-2 # here
endpoint_url = http://localhost:9000
[sso-session work]
region = wrong
[work]
region = wrong
";

    #[test]
    fn a_profile_of_each_file_is_found_under_its_own_kind_of_name() {
        let default = section(CONFIG, "default", true).expect("it is there");
        assert_eq!(default["region"], "eu-central-1");
        assert_eq!(default.len(), 1, "{default:?}");
        let work = section(CONFIG, "work", true).expect("it is there");
        assert_eq!(work["region"], "us-west-2");
        assert_eq!(work["endpoint_url"], "http://localhost:9000");
        assert_eq!(
            section("[work]\nregion = x", "work", false).expect("it is there")["region"],
            "x"
        );
        assert_eq!(section(CONFIG, "home", true), None);
        assert_eq!(section("[]\n[profile]\n= x\n[", "x", true), None);
    }

    #[test]
    fn a_value_may_hold_what_begins_a_remark_elsewhere() {
        let text = "[default]\naws_secret_access_key = a+b/c=#;d";
        assert_eq!(
            section(text, "default", false).expect("it is there")["aws_secret_access_key"],
            "a+b/c=#;d"
        );
    }
}
