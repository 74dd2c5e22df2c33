//! Owns what can be said about a store besides where it is: addresses, credentials, time-outs, how much at once.
//!
//! Always: a key that is not known is an error that names those nearest to it. Never: shows a value, in `Debug` or in an error: any may be a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::place::Scheme;
use crate::error::{Error, Kind, Result};
use crate::limits;

/// What can be said about a store.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreOptions {
    scheme: Scheme,
    /// For `object_store`, by the names that it knows.
    pub(super) values: BTreeMap<String, String>,
    pub(super) tuning: Tuning,
    /// Where the credentials come from, for errors.
    pub(super) credentials: Option<String>,
}

/// Time-outs and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuning {
    /// A connection on which no byte moves for so long is given up.
    pub(super) timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) retries: usize,
    /// For one request with all its retries; a store that gave no sign of life for so long is away.
    pub(super) patience: Duration,
    pub(super) uploads: usize,
    pub(super) downloads: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            timeout: limits::STALL,
            connect_timeout: limits::CONNECT,
            retries: limits::RETRIES,
            patience: limits::PATIENCE,
            uploads: limits::UPLOADS,
            downloads: limits::DOWNLOADS,
        }
    }
}

/// Ours, for every store.
const OWN: &[&str] = &[
    "timeout",
    "connect_timeout",
    "retries",
    "patience",
    "uploads",
    "downloads",
];
/// Those of the client that `http.rs` follows.
const CLIENT: &[&str] = &["allow_http", "allow_invalid_certificates", "proxy_url"];
const S3: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "default_region",
    "endpoint",
    "endpoint_url_s3",
    "endpoint_url_sts",
    "virtual_hosted_style_request",
    "unsigned_payload",
    "checksum_algorithm",
    "skip_signature",
    "request_payer",
    "server_side_encryption",
    "sse_kms_key_id",
    "sse_bucket_key_enabled",
    "sse_customer_key_base64",
    "imdsv1_fallback",
    "metadata_endpoint",
    "web_identity_token_file",
    "role_arn",
    "role_session_name",
    "container_credentials_relative_uri",
    "container_credentials_full_uri",
    "container_authorization_token_file",
];
const AZURE: &[&str] = &[
    "account_name",
    "account_key",
    "sas_token",
    "bearer_token",
    "client_id",
    "client_secret",
    "tenant_id",
    "authority_host",
    "endpoint",
    "msi_endpoint",
    "object_id",
    "msi_resource_id",
    "federated_token_file",
    "use_azure_cli",
    "skip_signature",
];
const GCS: &[&str] = &[
    "service_account",
    "service_account_key",
    "application_credentials",
    "bearer_token",
    "base_url",
    "skip_signature",
];

impl StoreOptions {
    /// None, for what `storage` is.
    pub fn for_storage(storage: &str) -> Result<Self> {
        Ok(Self {
            scheme: Scheme::of(storage)?,
            values: BTreeMap::new(),
            tuning: Tuning::default(),
            credentials: None,
        })
    }

    /// What kind of store it is for.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Says one thing, and gives the name under which it is kept; what was said before under that name is forgotten. A directory takes the keys of every store,
    /// and uses its own.
    pub fn set(&mut self, key: &str, value: &str) -> Result<&'static str> {
        let mut key = key.to_ascii_lowercase();
        // What `object_store` calls it.
        if key == "retry_timeout" {
            key = "patience".to_owned();
        }
        if let Some(own) = OWN.iter().find(|own| **own == key) {
            return self.tune(own, value).map(|()| *own);
        }
        let name = self.name_of(&key).ok_or_else(|| self.unknown(&key))?;
        self.values.insert(name.to_owned(), value.to_owned());
        Ok(name)
    }

    /// As [`Self::set`], but passes by what it does not know, and what was said already. True if it was taken.
    pub fn offer(&mut self, key: &str, value: &str) -> bool {
        let key = key.to_ascii_lowercase();
        let Some(name) = self.name_of(&key) else {
            return false;
        };
        let name = name.to_owned();
        if OWN.contains(&name.as_str()) || self.values.contains_key(&name) {
            return false;
        }
        self.values.insert(name, value.to_owned());
        true
    }

    /// Variables in which one of these prefixes stands before a name that is known, and that name.
    #[must_use]
    pub fn variables(&self, prefixes: &[&str]) -> Vec<(String, &'static str)> {
        let known = self.known();
        let aliases = ALIASES
            .iter()
            .filter(|(_, name)| known.contains(name))
            .copied();
        let names: Vec<_> = known
            .iter()
            .map(|name| (*name, *name))
            .chain(aliases)
            .collect();
        let variable = |prefix: &&str| -> Vec<_> {
            let full = |alias: &str| format!("{prefix}{}", alias.to_ascii_uppercase());
            names
                .iter()
                .map(|(alias, name)| (full(alias), *name))
                .collect()
        };
        prefixes.iter().flat_map(variable).collect()
    }

    /// The address that was said, if one was.
    pub(super) fn endpoint(&self) -> Option<&str> {
        let names = ["endpoint_url_s3", "endpoint", "base_url"];
        names
            .iter()
            .find_map(|name| self.values.get(*name))
            .map(String::as_str)
    }

    /// True if something was said under this name.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Where the credentials come from: errors about rights name it.
    pub fn credentials_from(&mut self, source: impl Into<String>) {
        self.credentials = Some(source.into());
    }

    fn known(&self) -> Vec<&'static str> {
        let lists: &[&[&str]] = match self.scheme {
            Scheme::Directory => &[CLIENT, S3, AZURE, GCS],
            Scheme::S3 => &[CLIENT, S3],
            Scheme::Azure => &[CLIENT, AZURE],
            Scheme::Gcs => &[CLIENT, GCS],
        };
        lists.concat()
    }

    /// The one name under which a key is kept: `AWS_REGION` is `region`.
    fn name_of(&self, key: &str) -> Option<&'static str> {
        let known = self.known();
        let find = |name: &str| known.iter().find(|known| **known == name).copied();
        let prefixes = ["aws_", "azure_storage_", "azure_", "google_"];
        let mut bare =
            std::iter::once(key).chain(prefixes.iter().filter_map(|p| key.strip_prefix(p)));
        bare.find_map(|bare| {
            find(bare).or_else(|| {
                let mut names = ALIASES.iter().filter(|(alias, _)| *alias == bare);
                names.find_map(|(_, name)| find(name))
            })
        })
    }

    fn unknown(&self, key: &str) -> Error {
        let mut names = [OWN, &self.known()].concat();
        names.sort_by_key(|name| distance(key, name));
        names.truncate(3);
        Error::new(
            Kind::Invalid,
            format!("the storage option `{key}` is not known"),
        )
        .hint(format!(
            "did you mean `{}`? docs/stores.md lists all",
            names.join("`, `")
        ))
    }

    fn tune(&mut self, key: &str, value: &str) -> Result<()> {
        let wrong = |what: &str| {
            Error::new(
                Kind::Invalid,
                format!("the storage option `{key}` is {what}"),
            )
        };
        let time = || {
            duration(value)
                .filter(|t| !t.is_zero())
                .ok_or_else(|| wrong("no duration").hint("write 500ms, 30s or 5m"))
        };
        let number = |most: usize| {
            let number = value.parse().ok().filter(|n| (1..=most).contains(n));
            number.ok_or_else(|| wrong("no number that can be").hint(format!("write 1 to {most}")))
        };
        let tuning = &mut self.tuning;
        match key {
            "timeout" => tuning.timeout = time()?,
            "connect_timeout" => tuning.connect_timeout = time()?,
            "patience" => tuning.patience = time()?,
            "retries" if value == "0" => tuning.retries = 0,
            "retries" => tuning.retries = number(limits::MOST_RETRIES)?,
            "uploads" => tuning.uploads = number(limits::MOST_UPLOADS)?,
            _ => tuning.downloads = number(limits::MOST_DOWNLOADS)?,
        }
        Ok(())
    }
}

/// Other names that people have for the same.
const ALIASES: &[(&str, &str)] = &[
    ("endpoint_url", "endpoint"),
    ("token", "session_token"),
    ("token", "bearer_token"),
    ("account", "account_name"),
    ("key", "account_key"),
    ("access_key", "account_key"),
    ("sas_key", "sas_token"),
    ("authority_id", "tenant_id"),
    ("identity_endpoint", "msi_endpoint"),
    ("service_account_path", "service_account"),
];

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.values.keys().collect();
        f.debug_struct("StoreOptions")
            .field("scheme", &self.scheme)
            .field("keys", &keys)
            .field("tuning", &self.tuning)
            .field("credentials", &self.credentials)
            .finish()
    }
}

/// `500ms`, `30s`, `5m`, `1h`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(millis)
        .map(Duration::from_millis)
}

/// Letters that have to be put in, taken out or replaced.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = before + usize::from(a != b);
            before = row[j + 1];
            row[j + 1] = replaced.min(before + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3() -> StoreOptions {
        StoreOptions::for_storage("s3://bucket").unwrap()
    }

    #[test]
    fn a_key_has_one_name_whatever_it_is_called() {
        let mut options = s3();
        options.set("AWS_ENDPOINT_URL", "http://one").unwrap();
        options.set("endpoint", "http://two").unwrap();
        assert_eq!(options.values.len(), 1);
        assert_eq!(options.values["endpoint"], "http://two");
        assert!(!options.offer("AWS_ENDPOINT", "http://three"));
        assert!(!options.offer("AWS_PAGER", "less"));
        assert!(options.offer("AWS_REGION", "eu-central-1"));
        assert!(options.has("region"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_near_ones() {
        let e = s3().set("regoin", "x").unwrap_err();
        assert!(e.advice().unwrap().contains("`region`"), "{:?}", e.advice());
        let e = s3().set("bucket", "x").unwrap_err();
        assert_eq!(e.kind(), Kind::Invalid);
        assert!(s3().set("account_key", "x").is_err());
        assert!(s3().set("conditional_put", "disabled").is_err());
    }

    #[test]
    fn a_directory_takes_options_of_any_store_but_no_slips() {
        let mut options = StoreOptions::for_storage("/srv").unwrap();
        options.set("region", "x").unwrap();
        options.set("account_key", "x").unwrap();
        options.set("acount_key", "x").unwrap_err();
    }

    #[test]
    fn no_value_is_shown() {
        let mut options = s3();
        for key in S3.iter().chain(CLIENT) {
            options.set(key, "hush-hush").unwrap();
        }
        assert!(!format!("{options:?}").contains("hush"));
        let e = options.set("timeout", "hush-hush").unwrap_err();
        assert!(!format!("{e:?}").contains("hush"));
    }

    #[test]
    fn durations_and_numbers_are_read_or_refused() {
        let mut options = s3();
        options.set("timeout", "2m").unwrap();
        options.set("connect_timeout", "1500ms").unwrap();
        options.set("uploads", "4").unwrap();
        options.set("retries", "0").unwrap();
        assert_eq!(options.tuning.timeout, Duration::from_secs(120));
        assert_eq!(options.tuning.connect_timeout, Duration::from_millis(1500));
        assert_eq!((options.tuning.uploads, options.tuning.retries), (4, 0));
        for (key, value) in [
            ("timeout", "0"),
            ("timeout", "soon"),
            ("timeout", "99999999999999999999s"),
            ("uploads", "0"),
            ("uploads", "1000"),
            ("downloads", "-1"),
        ] {
            options.set(key, value).unwrap_err();
        }
    }
}
