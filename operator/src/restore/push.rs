//! Owns the sending of a checkpoint's image to a registry, without a file in between: the layer goes in parts while it is read from the repository.
//!
//! Always: TLS, but for a registry on this machine's loopback or where the user said so; one part in memory; the manifest, by which the image is there, goes last. Never:
//! sends a password to anybody but the registry that it is for, or to the place where that registry says tokens are given.
//!
//! Stands on the OCI distribution specification 1.1: POST /v2/NAME/blobs/uploads/, PATCH in parts, PUT with the digest; and on the token protocol of
//! distribution/distribution (docs: spec/auth/token).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryostore_engine::{Error, Kind, Monitor, Repository, Result};
use reqwest::header::{HeaderMap, LOCATION, WWW_AUTHENTICATE};
use reqwest::{Client, Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::digest::Blob;
use super::layer::{Changes, write_layer};
use super::oci::{Image, MANIFEST_TYPE, Written};
use super::source::Source;
use crate::cluster::stopped;
use crate::http::{Failed, Waiting, explain};
use crate::pod::text;

/// 8 MiB: some registries refuse parts of less than 5 MiB that are not the last.
const PART: usize = 8 << 20;
/// For one part over a slow line.
const PATIENCE: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(10);
/// Characters of what a registry says that are shown.
const SAID: usize = 500;

/// Where an image goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host, with its port if there is one.
    pub host: String,
    /// The repository in it.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// Without TLS.
    pub is_plain: bool,
}

impl Target {
    /// Reads `HOST[:PORT]/NAME[:TAG]`. A registry on loopback may go without TLS.
    pub fn parse(text: &str, tag: &str, plain: bool) -> Result<Self> {
        let unusable = |why: &str| {
            Error::new(
                Kind::Invalid,
                format!("`{text}` names no image in a registry: {why}"),
            )
            .hint("such as docker://registry.example/team/web:1, in lower case")
        };
        let (host, path) = text
            .split_once('/')
            .ok_or_else(|| unusable("there is no / after the host"))?;
        let (name, tag) = path.rsplit_once(':').unwrap_or((path, tag));
        let is_host = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        if !is_host {
            return Err(unusable("the host is none"));
        }
        let is_part = |part: &str| {
            let inner = part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
            inner
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        };
        if name.len() > 255 || !name.split('/').all(is_part) {
            return Err(unusable(
                "the name has other characters than a-z, 0-9, `.`, `_`, `-` and `/`",
            ));
        }
        let is_tag = tag.len() <= 128
            && !tag.is_empty()
            && tag
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !tag.starts_with(['.', '-']);
        if !is_tag {
            return Err(unusable("the tag is none"));
        }
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        let is_local = matches!(bare, "localhost" | "127.0.0.1" | "[::1]");
        Ok(Self {
            host: host.to_owned(),
            name: name.to_owned(),
            tag: tag.to_owned(),
            is_plain: plain || is_local,
        })
    }

    fn url(&self, path: &str) -> String {
        let scheme = if self.is_plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}{path}", self.host, self.name)
    }
}

/// Who sends it.
#[derive(Debug, Clone, Default)]
pub struct Login(Option<(String, SecretString)>);

impl Login {
    /// What `podman login` and `docker login` wrote down for this registry, in the first of these files that has something.
    #[must_use]
    pub fn find(files: &[PathBuf], host: &str) -> Self {
        Self(files.iter().find_map(|file| Self::read(file, host)))
    }

    fn read(file: &Path, host: &str) -> Option<(String, SecretString)> {
        let json: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let entry = json.get("auths")?.get(host)?;
        let pair = STANDARD.decode(text(entry, "/auth")).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        Some((user.to_owned(), SecretString::from(password.to_owned())))
    }
}

/// Sends the image.
pub fn push(
    repo: &Repository,
    source: &Source,
    target: &Target,
    login: &Login,
    monitor: &dyn Monitor,
) -> Result<Written> {
    let mut session = Session::open(target, login, monitor)?;
    let changes = Changes::of(source);
    let mut upload = Upload::begin(&mut session)?;
    let layer = write_layer(repo, &source.record, &changes, &mut upload, monitor)?;
    upload.finish(&layer.blob)?;
    let image = Image::new(source, &layer, &target.tag);
    let mut config = Upload::begin(&mut session)?;
    config.buffer.clone_from(&image.config);
    config.finish(&image.config_blob)?;
    let url = target.url(&format!("/manifests/{}", target.tag));
    session.ask(
        Method::PUT,
        &url,
        &[("content-type", MANIFEST_TYPE)],
        image.manifest.clone(),
        "the manifest",
    )?;
    Ok(Written {
        digest: image.manifest_blob.digest,
        bytes: layer.blob.len,
        stripped: layer.stripped,
    })
}

/// A registry, and as whom it is asked.
struct Session<'s> {
    client: Client,
    waiting: Waiting,
    target: &'s Target,
    login: &'s Login,
    /// What the registry wants with each request.
    header: Option<SecretString>,
    monitor: &'s dyn Monitor,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl<'s> Session<'s> {
    fn open(target: &'s Target, login: &'s Login, monitor: &'s dyn Monitor) -> Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("cryostore/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(|e| Error::new(Kind::Internal, "the client for registries").because(e))?;
        Ok(Self {
            client,
            waiting: Waiting::new()?,
            target,
            login,
            header: None,
            monitor,
        })
    }

    /// Asks; a registry that wants to know who it is gets told, once.
    fn ask(
        &mut self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
        what: &str,
    ) -> Result<Answer> {
        let mut is_second = false;
        loop {
            let mut request = self.client.request(method.clone(), url).timeout(PATIENCE);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(header) = &self.header {
                request = request.header("authorization", header.expose_secret());
            }
            let answer = self.send(request.body(body.clone()), what)?;
            match answer.status {
                200..300 => return Ok(answer),
                401 if !is_second => {
                    is_second = true;
                    self.header = Some(self.authorize(&answer)?);
                }
                _ => return Err(self.refused(&answer, what)),
            }
        }
    }

    fn send(&self, request: RequestBuilder, what: &str) -> Result<Answer> {
        let host = &self.target.host;
        let work = async {
            let response = request.send().await.map_err(explain)?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let body = response.text().await.map_err(explain)?;
            Ok(Answer {
                status,
                headers,
                body,
            })
        };
        let answer = self.waiting.wait(self.monitor, work).ok_or_else(stopped)?;
        answer.map_err(|failed| {
            let (kind, text) = match failed {
                Failed::Certificate { text, .. } => (Kind::Denied, text),
                Failed::Away(text) | Failed::Broken(text) => (Kind::Unavailable, text),
                Failed::TimedOut => (Kind::Unavailable, "it has not answered in time".to_owned()),
                Failed::Other(e) => return e,
            };
            Error::new(kind, format!("{what} to the registry {host}: {text}")).hint(
                "look whether it can be reached from here; one without TLS needs --plain-http",
            )
        })
    }

    fn refused(&self, answer: &Answer, what: &str) -> Error {
        let host = &self.target.host;
        let said: String = answer.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = said.chars().take(SAID).collect();
        let (kind, hint) = match answer.status {
            401 => (Kind::Denied, format!("log in with `podman login {host}` or `docker login {host}`; what they write down is used here")),
            403 => (Kind::Denied, format!("this user may not write to {}: ask whoever keeps the registry", self.target.name)),
            404 => (Kind::NotFound, "some registries want the repository to be made first".to_owned()),
            413 => (Kind::Unsupported, "it, or a proxy in front of it, takes nothing of this size: raise its limit (nginx: client_max_body_size), or write a layout with --to oci:DIR".to_owned()),
            507 => (Kind::NoSpace, "make room in the registry".to_owned()),
            _ => (Kind::Unavailable, "try again later".to_owned()),
        };
        Error::new(
            kind,
            format!(
                "{what}: the registry {host} refuses ({}): {said}",
                answer.status
            ),
        )
        .hint(hint)
    }

    /// What the registry wants to see.
    fn authorize(&self, answer: &Answer) -> Result<SecretString> {
        let challenge = answer
            .headers
            .get(WWW_AUTHENTICATE)
            .and_then(|value| value.to_str().ok());
        let challenge = challenge.unwrap_or_default();
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let basic = self.login.0.as_ref().map(|(user, password)| {
            let pair = STANDARD.encode(format!("{user}:{}", password.expose_secret()));
            SecretString::from(format!("Basic {pair}"))
        });
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(|| self.refused(answer, "the image"));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(self.refused(answer, "the image"));
        }
        let realm = parameter(parameters, "realm").unwrap_or_default();
        // A token, and the password that buys it, do not travel in clear text unless all of it does.
        if !(realm.starts_with("https://")
            || (self.target.is_plain && realm.starts_with("http://")))
        {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "the registry {} gives tokens at `{realm}`, which is not asked",
                    self.target.host
                ),
            ));
        }
        let scope = format!("repository:{}:pull,push", self.target.name);
        let mut url = reqwest::Url::parse(&realm).map_err(|e| {
            Error::new(
                Kind::Unavailable,
                format!(
                    "the registry {} gives tokens at `{realm}`",
                    self.target.host
                ),
            )
            .because(e)
        })?;
        if let Some(service) = parameter(parameters, "service") {
            url.query_pairs_mut().append_pair("service", &service);
        }
        url.query_pairs_mut().append_pair("scope", &scope);
        let mut request = self.client.get(url).timeout(PATIENCE);
        if let Some(basic) = &basic {
            request = request.header("authorization", basic.expose_secret());
        }
        let answer = self.send(request, "asking for a token")?;
        if answer.status != 200 {
            return Err(self.refused(&answer, "asking for a token"));
        }
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let token = [text(&json, "/token"), text(&json, "/access_token")];
        let token = token.into_iter().find(|token| !token.is_empty());
        match token {
            Some(token) => Ok(SecretString::from(format!("Bearer {token}"))),
            None => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the registry {}: where it gives tokens, none was given",
                    self.target.host
                ),
            )),
        }
    }
}

/// The value of `name="value"` in a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    parameters.split(',').find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"').to_owned())
    })
}

/// A blob on its way, in parts.
struct Upload<'u, 's> {
    session: &'u mut Session<'s>,
    /// Where the next part goes.
    location: String,
    offset: u64,
    buffer: Vec<u8>,
}

impl<'u, 's> Upload<'u, 's> {
    fn begin(session: &'u mut Session<'s>) -> Result<Self> {
        let url = session.target.url("/blobs/uploads/");
        let answer = session.ask(Method::POST, &url, &[], Vec::new(), "the image")?;
        let mut upload = Self {
            session,
            location: url,
            offset: 0,
            buffer: Vec::with_capacity(PART),
        };
        upload.moved(&answer)?;
        Ok(upload)
    }

    /// Where the registry wants the next part: at itself, whatever it says.
    fn moved(&mut self, answer: &Answer) -> Result<()> {
        let said = answer
            .headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let Some(said) = said else { return Ok(()) };
        let before = reqwest::Url::parse(&self.location);
        let next = before.and_then(|before| before.join(said).map(|next| (before, next)));
        match next {
            Ok((before, next))
                if next.scheme() == before.scheme()
                    && next.host_str() == before.host_str()
                    && next.port_or_known_default() == before.port_or_known_default() =>
            {
                self.location = next.to_string();
                Ok(())
            }
            _ => Err(Error::new(
                Kind::Denied,
                format!(
                    "the registry {} wants the memory to be sent elsewhere, to `{said}`",
                    self.session.target.host
                ),
            )
            .hint("it is not sent; use a registry that takes blobs itself")),
        }
    }

    fn part(&mut self) -> Result<()> {
        let len = self.buffer.len() as u64;
        if len == 0 {
            return Ok(());
        }
        let range = format!("{}-{}", self.offset, self.offset + len - 1);
        let headers = [
            ("content-type", "application/octet-stream"),
            ("content-range", range.as_str()),
        ];
        let body = std::mem::take(&mut self.buffer);
        let answer =
            self.session
                .ask(Method::PATCH, &self.location, &headers, body, "the layer")?;
        self.offset += len;
        self.moved(&answer)
    }

    fn finish(mut self, blob: &Blob) -> Result<()> {
        self.part()?;
        let joint = if self.location.contains('?') {
            '&'
        } else {
            '?'
        };
        let url = format!("{}{joint}digest={}", self.location, blob.digest);
        self.session.ask(
            Method::PUT,
            &url,
            &[("content-type", "application/octet-stream")],
            Vec::new(),
            "the layer",
        )?;
        Ok(())
    }
}

impl Write for Upload<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PART {
            self.part().map_err(std::io::Error::other)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_in_a_registry_is_named_and_nothing_else_is() {
        let parse = |text: &str| Target::parse(text, "3f9a", false);
        let target = parse("registry.example:5000/team/web:1").unwrap();
        assert_eq!(
            target.url("/x"),
            "https://registry.example:5000/v2/team/web/x"
        );
        assert_eq!(target.tag, "1");
        assert_eq!(
            parse("localhost:5000/web").unwrap().url(""),
            "http://localhost:5000/v2/web"
        );
        assert_eq!(parse("localhost:5000/web").unwrap().tag, "3f9a");
        for text in [
            "web", "r/Web", "r/", "r/../x", "r/a//b", "r/a:", "a@b/c", "r/a:-x", "/a", "r/a?x=1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_login_is_that_of_this_registry_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let auth = STANDARD.encode("robot:pass:word");
        std::fs::write(
            file.path(),
            format!(r#"{{"auths":{{"r.example":{{"auth":"{auth}"}}}}}}"#),
        )
        .unwrap();
        let files = [PathBuf::from("/does/not/exist"), file.path().to_path_buf()];
        let login = Login::find(&files, "r.example");
        let (user, password) = login.0.as_ref().unwrap();
        assert_eq!(
            (user.as_str(), password.expose_secret()),
            ("robot", "pass:word")
        );
        assert!(!format!("{login:?}").contains("word"));
        assert!(Login::find(&files, "other.example").0.is_none());
    }

    #[test]
    fn a_challenge_is_read() {
        let text = r#"realm="https://auth.example/token",service="r",scope="x""#;
        assert_eq!(
            parameter(text, "realm").as_deref(),
            Some("https://auth.example/token")
        );
        assert_eq!(parameter(text, "error"), None);
    }
}
