//! Owns the making of clients for buckets from a storage URL and its options.
//!
//! Always: time-outs, retries and connections are ours (`http.rs`, `limits`), credentials are found by `object_store` among what the options say:
//! keys, web identity, the container's or the machine's. Never: reads the environment.

use std::sync::Arc;
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use std::time::Duration;

use object_store::ObjectStore;
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use super::http::Connector;
use super::options::StoreOptions;
use super::place::Bucket;
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
use super::place::Scheme;
use crate::error::{Error, Kind, Result};

/// A client for a bucket.
pub(super) fn open(bucket: &Bucket, options: &StoreOptions) -> Result<Arc<dyn ObjectStore>> {
    match options.scheme() {
        #[cfg(feature = "s3")]
        Scheme::S3 => {
            use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
            let builder = AmazonS3Builder::new()
                .with_retry(retry(options))
                .with_client_options(client(options))
                .with_http_connector(connector(options))
                .with_bucket_name(&bucket.name)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                // One request each, which can be repeated: what we delete is a name at a time.
                .with_disable_bulk_delete(true);
            let builder = known::<AmazonS3ConfigKey>(options)
                .fold(builder, |builder, (key, value)| {
                    builder.with_config(key, value)
                });
            Ok(Arc::new(builder.build().map_err(wrong)?))
        }
        #[cfg(feature = "azure")]
        Scheme::Azure => {
            use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
            let builder = MicrosoftAzureBuilder::new()
                .with_retry(retry(options))
                .with_client_options(client(options))
                .with_http_connector(connector(options))
                .with_container_name(&bucket.name);
            let builder = known::<AzureConfigKey>(options)
                .fold(builder, |builder, (key, value)| {
                    builder.with_config(key, value)
                });
            Ok(Arc::new(builder.build().map_err(wrong)?))
        }
        #[cfg(feature = "gcs")]
        Scheme::Gcs => {
            use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
            let builder = GoogleCloudStorageBuilder::new()
                .with_retry(retry(options))
                .with_client_options(client(options))
                .with_http_connector(connector(options))
                .with_bucket_name(&bucket.name);
            let builder = known::<GoogleConfigKey>(options)
                .fold(builder, |builder, (key, value)| {
                    builder.with_config(key, value)
                });
            Ok(Arc::new(builder.build().map_err(wrong)?))
        }
        scheme => Err(Error::new(
            Kind::Unsupported,
            format!(
                "bucket {}: this program was built without stores of the kind {scheme:?}",
                bucket.name
            ),
        )
        .hint("build it with the features s3, azure and gcs, or use a directory")),
    }
}

/// The options that a client knows; those of the connection are told apart by [`client`].
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn known<K: std::str::FromStr>(options: &StoreOptions) -> impl Iterator<Item = (K, String)> {
    let values = options.values.iter();
    values.filter_map(|(key, value)| {
        Some((
            long_name(options.scheme(), key).parse().ok()?,
            value.clone(),
        ))
    })
}

/// Some names are known to `object_store` only with what stands before them in variables.
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn long_name(scheme: Scheme, key: &str) -> String {
    match (scheme, key) {
        (Scheme::S3, "endpoint_url_s3") => format!("aws_{key}"),
        _ => key.to_owned(),
    }
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn connector(options: &StoreOptions) -> Connector {
    Connector {
        stall: options.tuning.timeout,
        patience: options.tuning.patience,
    }
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn client(options: &StoreOptions) -> ClientOptions {
    ClientOptions::new().with_connect_timeout(options.tuning.connect_timeout)
}

/// Each wait is chosen between the first and thrice the one before, and is half as long again on average. With the crate's own base of 2 the mean does not grow, and ten retries are over in 3 s.
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn retry(options: &StoreOptions) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 3.0,
        },
        max_retries: options.tuning.retries,
        retry_timeout: options.tuning.patience,
    }
}

/// What the builders refuse is an option that is missing or cannot be: they name it, and no value but an address.
#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
fn wrong(error: object_store::Error) -> Error {
    Error::new(Kind::Invalid, format!("the options of the storage: {error}"))
        .hint("say what is missing by --storage-option KEY=VALUE, a variable or the configuration file (docs/stores.md)")
        .because(error)
}
