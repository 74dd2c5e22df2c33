//! The servers that `scripts/servers.sh` starts, as the tests find them.

use cryostore_engine::{Env, Store, StoreOptions, SystemEnv};

/// A server: the URL of a bucket, and the options for it.
#[derive(Debug, Clone)]
pub struct Server {
    url: String,
    options: Vec<(String, String)>,
}

impl Server {
    /// The server that a variable describes. None, and a line that says so, where it is not set: `make test` sets those of the light ones.
    #[must_use]
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    pub fn find(variable: &str) -> Option<Self> {
        let Ok(text) = std::env::var(variable) else {
            eprintln!("skipped: {variable} is not set; `make test` starts the server and sets it");
            return None;
        };
        let mut words = text.split_whitespace();
        let url = words.next().unwrap().to_owned();
        let options = words.map(|word| {
            let (key, value) = word.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        });
        let options = options.collect();
        Some(Self { url, options })
    }

    /// The URL of a place below the bucket that nobody else has.
    #[must_use]
    pub fn new_place(&self) -> String {
        let id = SystemEnv::new().random();
        let id: String = id[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}/{id}", self.url)
    }

    /// The URL of the bucket.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the command line wants in `CRYOSTORE_STORAGE_OPTIONS`.
    #[must_use]
    pub fn options_text(&self) -> String {
        let pairs = self
            .options
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// Opens a place, with more options.
    #[must_use]
    pub fn open(&self, url: &str, more: &[(&str, &str)]) -> Store {
        let mut options = StoreOptions::for_storage(url).unwrap();
        for (key, value) in &self.options {
            options.set(key, value).unwrap();
        }
        for (key, value) in more {
            options.set(key, value).unwrap();
        }
        options.credentials_from("the test");
        Store::open_with(url, true, &options).unwrap()
    }
}
