//! Owns the reading of `--storage`: a path, or the URL of a directory or a bucket.
//!
//! Always: `s3://b/p`, `s3://b/p/` and `s3://b//p` are one place. Never: takes a user, a password or a query from a URL.

use object_store::path::Path;

use crate::error::{Error, Kind, Result};

/// What kind of store it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// A directory: a path, or `file://`.
    Directory,
    /// `s3://bucket/prefix`
    S3,
    /// `az://container/prefix`
    Azure,
    /// `gs://bucket/prefix`
    Gcs,
}

impl Scheme {
    /// That of a storage.
    pub fn of(storage: &str) -> Result<Self> {
        match storage.split_once("://") {
            None | Some(("file", _)) => Ok(Self::Directory),
            Some(("s3", _)) => Ok(Self::S3),
            Some(("az", _)) => Ok(Self::Azure),
            Some(("gs", _)) => Ok(Self::Gcs),
            Some((scheme, _)) => Err(Error::new(
                Kind::Unsupported,
                format!("storage `{storage}`: there are no stores of the kind `{scheme}://`"),
            )
            .hint(
                "use a directory, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX",
            )),
        }
    }
}

/// A bucket and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// Empty: all of the bucket.
    pub(super) prefix: Path,
}

impl Bucket {
    /// Reads the part of a URL behind `://`.
    pub(super) fn parse(storage: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::new(Kind::Invalid, format!("storage `{storage}`: {what}"))
                .hint("write SCHEME://BUCKET or SCHEME://BUCKET/PREFIX; the rest is said by --storage-option")
        };
        let rest = storage.split_once("://").map_or(storage, |(_, rest)| rest);
        if let Some(odd) = rest.chars().find(|c| matches!(c, '?' | '#' | '@')) {
            // The address may hold a password: it is not repeated.
            return Err(Error::new(Kind::Invalid, format!("a storage URL has no `{odd}`"))
                .hint("write SCHEME://BUCKET/PREFIX; credentials and the rest are said by variables or --storage-option"));
        }
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        if name.contains(':') {
            return Err(wrong("a bucket's name has no `:`"));
        }
        let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
        let prefix =
            Path::parse(parts.join("/")).map_err(|e| wrong("its prefix cannot be").because(e))?;
        Ok(Self {
            name: name.to_owned(),
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_its_prefix_are_told_apart() {
        for (storage, name, prefix) in [
            ("s3://b", "b", ""),
            ("s3://b/", "b", ""),
            ("s3://b/p", "b", "p"),
            ("s3://b//p/auto/", "b", "p/auto"),
            ("az://b/p", "b", "p"),
        ] {
            let bucket = Bucket::parse(storage).unwrap();
            assert_eq!(
                (bucket.name.as_str(), bucket.prefix.as_ref()),
                (name, prefix)
            );
        }
    }

    #[test]
    fn what_is_no_bucket_is_refused() {
        for storage in ["s3://", "s3:///p", "s3://b/../p", "s3://host:9000/b"] {
            let e = Bucket::parse(storage).unwrap_err();
            assert_eq!(e.kind(), Kind::Invalid, "{storage}");
            assert!(e.advice().is_some());
        }
        let e = Bucket::parse("s3://user:hush@b").unwrap_err();
        assert!(!e.to_string().contains("hush"));
        assert_eq!(
            Scheme::of("gopher://b").unwrap_err().kind(),
            Kind::Unsupported
        );
    }
}
