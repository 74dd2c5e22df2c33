//! Owns the gathering of a storage's options: flags, variables and files of ours, then the variables and files that the clouds' own tools use.
//!
//! Always: what is said more nearly counts; the parts of one credential come from one source. Never: repeats a value in an error.

use std::collections::BTreeMap;

use cryostore_engine::{Scheme, StoreOptions};

use super::Surroundings;
use super::aws::Profile;
use crate::exit::Failure;

/// Key and value, as they were written.
pub(crate) type Pair = (String, String);

/// `KEY=VALUE`
pub(crate) fn pair(what: &str, text: &str) -> Result<Pair, Failure> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err(Failure::usage(
            format!("{what}: an option is written KEY=VALUE"),
            "such as region=eu-central-1; docs/stores.md lists all",
        )),
    }
}

/// Where options come from that are ours, the farthest first.
pub(super) type Said<'s> = [(&'s str, &'s [Pair])];

/// What may be written down of a storage: where and how it is reached. No credentials, and nothing that suits one run only, such as time-outs.
const LASTING: [&str; 19] = [
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
    "account_name",
    "authority_host",
    "base_url",
    "allow_http",
    "proxy_url",
    "tenant_id",
];

/// Time-outs and how much at once: as much about the node as about the storage.
const TUNING: [&str; 7] = [
    "timeout",
    "connect_timeout",
    "retries",
    "retry_timeout",
    "patience",
    "uploads",
    "downloads",
];

/// True if an option that is said of one storage is meant for any.
pub(super) fn suits_any(key: &str) -> bool {
    TUNING.contains(&key.to_ascii_lowercase().as_str())
}

/// True if an option may be written down. An address may hold a password.
pub(super) fn is_lasting(name: &str, value: &str) -> bool {
    LASTING.contains(&name) && !value.contains('@')
}

/// True if an option of this storage is a credential, by its one name.
pub(crate) fn is_credential(storage: &str, key: &str, value: &str) -> Result<bool, Failure> {
    let mut options = StoreOptions::for_storage(storage)?;
    let name = options.set(key, value)?;
    let anywhere = [&AWS_KEYS[..], &AZURE_KEYS, &GOOGLE_KEYS].concat();
    Ok(anywhere.contains(&name) || name.starts_with("sse_customer") || value.contains('@'))
}

/// All that is known about a storage, and what of it may be written down.
pub(super) fn gather(
    storage: &str,
    said: &Said<'_>,
    around: &Surroundings<'_>,
) -> Result<(StoreOptions, Vec<Pair>), Failure> {
    let mut options = StoreOptions::for_storage(storage)?;
    let mut lasting = BTreeMap::new();
    for (source, pairs) in said {
        for (key, value) in *pairs {
            let name = options.set(key, value).map_err(|e| e.at(source))?;
            if credentials(options.scheme()).contains(&name) {
                options.credentials_from(*source);
            }
            if is_lasting(name, value) && options.scheme() != Scheme::Directory {
                lasting.insert(name.to_owned(), value.clone());
            }
        }
    }
    match options.scheme() {
        Scheme::S3 => aws(&mut options, around)?,
        Scheme::Azure => azure(&mut options, around),
        Scheme::Gcs => variables(&mut options, &["GOOGLE_"], &[], around),
        _ => {}
    }
    Ok((options, lasting.into_iter().collect()))
}

/// A credential that was said.
fn secrets(options: &StoreOptions) -> Option<&'static str> {
    let mut names = credentials(options.scheme()).iter();
    names.find(|name| options.has(name)).copied()
}

const fn credentials(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::S3 => &AWS_KEYS,
        Scheme::Azure => &AZURE_KEYS,
        Scheme::Gcs => &GOOGLE_KEYS,
        _ => &[],
    }
}

const AWS_KEYS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];
const AZURE_KEYS: [&str; 5] = [
    "account_key",
    "sas_token",
    "bearer_token",
    "client_secret",
    "federated_token_file",
];
const GOOGLE_KEYS: [&str; 4] = [
    "service_account",
    "service_account_key",
    "application_credentials",
    "bearer_token",
];

/// Takes what variables say, but for the keys in `without`.
fn variables(
    options: &mut StoreOptions,
    prefixes: &[&str],
    without: &[&str],
    around: &Surroundings<'_>,
) {
    let had = secrets(options);
    for (name, key) in options.variables(prefixes) {
        if without.contains(&key) {
            continue;
        }
        if let Some(value) = around.get(&name).and_then(|value| value.into_string().ok())
            && options.offer(&name, &value)
            && had.is_none()
            && secrets(options) == Some(key)
        {
            options.credentials_from(format!("the variable {name}"));
        }
    }
}

fn aws(options: &mut StoreOptions, around: &Surroundings<'_>) -> Result<(), Failure> {
    let settled = secrets(options).is_some();
    variables(
        options,
        &["AWS_"],
        if settled { &AWS_KEYS } else { &[] },
        around,
    );
    let by_variable = |name: &str| around.get(name).is_some();
    // What runs in a cluster is told so; a profile that is named counts more.
    let by_role = [
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    ]
    .into_iter()
    .any(by_variable)
        && !by_variable("AWS_PROFILE");
    let Some(profile) = Profile::read(around)? else {
        return Ok(());
    };
    for key in ["region", "endpoint_url"] {
        if let Some(value) = profile.get(key).filter(|_| {
            !options.has(if key == "region" {
                "default_region"
            } else {
                "endpoint"
            })
        }) {
            options.offer(key, value);
        }
    }
    if secrets(options).is_some() || by_role || options.has("skip_signature") {
        return Ok(());
    }
    if profile.get("aws_access_key_id").is_some() {
        for key in AWS_KEYS {
            if let Some(value) = profile.get(&format!("aws_{key}")) {
                options.offer(key, value);
            }
        }
        options.credentials_from(format!("the profile `{}` in AWS' files", profile.name));
    } else if let (Some(token), Some(role)) = (
        profile.get("web_identity_token_file"),
        profile.get("role_arn"),
    ) {
        options.offer("web_identity_token_file", token);
        options.offer("role_arn", role);
        options.credentials_from(format!(
            "the role of the profile `{}` in AWS' files",
            profile.name
        ));
    } else {
        profile.refuse_what_needs_a_tool()?;
    }
    Ok(())
}

fn azure(options: &mut StoreOptions, around: &Surroundings<'_>) {
    let settled = secrets(options).is_some();
    variables(
        options,
        &["AZURE_STORAGE_", "AZURE_"],
        if settled { &AZURE_KEYS } else { &[] },
        around,
    );
    // What the portal gives people to copy: KEY=VALUE pairs with `;` between them.
    let Some(text) = around
        .get("AZURE_STORAGE_CONNECTION_STRING")
        .and_then(|text| text.into_string().ok())
    else {
        return;
    };
    let had = secrets(options).is_some();
    for (key, value) in text.split(';').filter_map(|part| part.split_once('=')) {
        match key.trim() {
            "AccountName" => options.offer("account_name", value),
            "BlobEndpoint" => options.offer("endpoint", value),
            "AccountKey" if !had => options.offer("account_key", value),
            "SharedAccessSignature" if !had => options.offer("sas_token", value),
            _ => false,
        };
    }
    if !had && secrets(options).is_some() {
        options.credentials_from("the variable AZURE_STORAGE_CONNECTION_STRING");
    }
}
