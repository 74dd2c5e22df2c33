//! Owns what an error of a store means: its kind, and what to do about it.
//!
//! Always: looks through the whole chain of causes, since lists bring refusals wrapped as anything. Never: repeats the body of an answer but for its code and
//! message: it may hold what was signed.

use std::error::Error as StdError;

use object_store::Error as Os;

use crate::error::{Error, Kind, READ_ONLY, io_kind};

/// Which store, for texts.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) name: String,
    /// Where the credentials come from, if that is known.
    pub(super) credentials: Option<String>,
    /// The address that was asked for, if one was.
    pub(super) endpoint: Option<String>,
}

/// What an answer of a store said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    message: Option<String>,
    region: Option<String>,
}

/// What an error of a store means.
pub(super) fn explain(whose: &Whose, doing: &str, name: &str, error: Os) -> Error {
    let chain = chain(&error);
    let answer = Answer::find(&chain);
    let kind = kind_of(&error, &answer, &chain);
    let cause = answer
        .text()
        .unwrap_or_else(|| io_cause(&error).map_or_else(|| error.to_string(), ToString::to_string));
    let place = if name.is_empty() {
        whose.name.clone()
    } else {
        format!("{name} in {}", whose.name)
    };
    let tried = tried(&chain).map_or_else(String::new, |tried| format!(" ({tried})"));
    let out = Error::new(kind, format!("{doing} {place}: {cause}{tried}"));
    let read_only = |io: &std::io::Error| io.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    match hint(whose, kind, &answer, &chain) {
        _ if io_cause(&error).is_some_and(read_only) => out.hint(READ_ONLY),
        Some(hint) => out.hint(hint),
        None => out,
    }
    .because(error)
}

fn kind_of(error: &Os, answer: &Answer, chain: &str) -> Kind {
    if no_credentials(chain) {
        return Kind::Denied;
    }
    match (answer.status, answer.code.as_deref()) {
        (_, Some("AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")) => {
            return Kind::Invalid;
        }
        // S3 says so with 400.
        (_, Some("ExpiredToken" | "ExpiredTokenException" | "InvalidToken")) => {
            return Kind::Denied;
        }
        (Some(300..=399), _) if !matches!(error, Os::NotModified { .. }) => return Kind::Invalid,
        (Some(401 | 403), _) => return Kind::Denied,
        (Some(507), _) => return Kind::NoSpace,
        (Some(404), _) => return Kind::NotFound,
        _ => {}
    }
    match error {
        Os::NotFound { .. } => Kind::NotFound,
        Os::AlreadyExists { .. } | Os::Precondition { .. } => Kind::Conflict,
        Os::PermissionDenied { .. } | Os::Unauthenticated { .. } => Kind::Denied,
        Os::NotSupported { .. } | Os::NotImplemented { .. } => Kind::Unsupported,
        _ if chain.contains(REDIRECT) => Kind::Invalid,
        _ => io_cause(error).map_or(Kind::Unavailable, io_kind),
    }
}

/// `object_store` on an answer that sends elsewhere without saying where.
const REDIRECT: &str = "redirect without LOCATION";

fn hint(whose: &Whose, kind: Kind, answer: &Answer, chain: &str) -> Option<String> {
    let credentials = || match &whose.credentials {
        Some(source) => format!("the credentials come from {source}"),
        None => "the credentials are those of this machine, or none".to_owned(),
    };
    let at = || {
        whose
            .endpoint
            .as_ref()
            .map_or_else(String::new, |endpoint| format!(" {endpoint}"))
    };
    Some(match (kind, answer.code.as_deref()) {
        (Kind::Denied, _) if no_credentials(chain) =>
            "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or what your cloud has in their place (docs/stores.md)".to_owned(),
        (_, Some("RequestTimeTooSkewed")) => {
            "this machine's clock is more than 15 minutes wrong: set it".to_owned()
        }
        (Kind::Denied, Some("SignatureDoesNotMatch" | "InvalidAccessKeyId" | "AuthenticationFailed" | "AuthorizationFailure")) =>
            format!("the key or its secret is wrong; {}", credentials()),
        (Kind::Denied, Some("ExpiredToken" | "ExpiredTokenException")) =>
            format!("the credentials have expired: get new ones; {}", credentials()),
        (Kind::Denied, _) if whose.credentials.is_none() && whose.endpoint.is_none() && answer.status.is_none() =>
            "change the rights on the store, or use an account that has them".to_owned(),
        (Kind::Denied, _) => format!("{}: give them the rights to list, read and write here, or use others", credentials()),
        (Kind::NotFound, Some("NoSuchBucket" | "ContainerNotFound")) => {
            "make the bucket first: it is not made by itself".to_owned()
        }
        (Kind::Invalid, _) => match &answer.region {
            Some(region) => format!("the bucket is in another region: --storage-option region={region}"),
            None if answer.status.is_some() || chain.contains(REDIRECT) =>
                "the bucket is in another region, or this is not its address: check --storage-option region=… and endpoint=…".to_owned(),
            None => return None,
        },
        (Kind::NoSpace, _) => {
            "the store is full: make room, then try again; what was stored before is whole".to_owned()
        }
        (Kind::Unavailable, _) if chain.contains("URL scheme is not allowed") =>
            format!("the address{} is not https: --storage-option allow_http=true allows it", at()),
        (Kind::Unavailable, _) if chain.contains("onnection refused") || chain.contains("dns error") =>
            format!("nothing answers at the store's address{}: check it, and the network", at()),
        (Kind::Unavailable, _) if SILENCE.iter().any(|words| chain.contains(words)) => format!(
            "check the network, and whether the store{} works; try again when it does. One that needs longer: --storage-option patience=10m",
            at()
        ),
        (Kind::Unavailable, _) => "try again; if it stays, look at the store and its disks".to_owned(),
        _ => return None,
    })
}

/// The machine has no credentials to give: what was asked for them did not answer.
fn no_credentials(chain: &str) -> bool {
    [
        "169.254.169.254",
        "metadata.google.internal",
        "169.254.170.2",
    ]
    .iter()
    .any(|address| chain.contains(address))
}

/// What `http.rs` says of a store that does not answer.
const SILENCE: [&str; 3] = [
    "no sign of life",
    "no byte moved",
    "no connection could be made",
];

/// How often and how long a request was tried, if that was more than once.
fn tried(chain: &str) -> Option<String> {
    let (before, after) = chain.split_once(", after ")?;
    let retries: u32 = after.split_once(" retries")?.0.parse().ok()?;
    let (_, elapsed) = before.rsplit_once(" in ")?;
    let seconds: f64 = elapsed.strip_suffix('s')?.parse().ok()?;
    Some(format!("tried {} times in {seconds:.0} s", retries + 1))
}

/// The status that an error carries, if a server has answered.
pub(super) fn status(error: &Os) -> Option<u16> {
    Answer::find(&chain(error)).status
}

/// True if a server was asked, and there was no answer.
pub(super) fn is_unanswered(error: &Os) -> bool {
    let chain = chain(error);
    chain.contains("HTTP error: ") && Answer::find(&chain).status.is_none()
}

/// All texts of an error and its causes.
fn chain(error: &Os) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        out.push('\n');
        out.push_str(&error.to_string());
        next = error.source();
    }
    out
}

impl Answer {
    /// `object_store` keeps the type of this error to itself; its text is all there is. The tests against real servers hold it.
    fn find(chain: &str) -> Self {
        let after = chain.split_once("status code: ").map(|(_, after)| after);
        let status = after.and_then(|after| after.get(..3)?.parse().ok());
        let Some(body) = after.filter(|_| status.is_some()) else {
            return Self::default();
        };
        Self {
            status,
            code: element(body, "Code"),
            message: element(body, "Message"),
            region: element(body, "Region"),
        }
    }

    fn text(&self) -> Option<String> {
        let status = self.status?;
        Some(match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{code} ({status}): {message}"),
            (Some(code), None) => format!("{code} ({status})"),
            _ => format!("the store answered {status}"),
        })
    }
}

/// The text of an XML element: its first line, 200 letters at most.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    let line = text.lines().next()?.trim();
    let plain = line.chars().filter(|c| !c.is_control()).take(200);
    Some(plain.collect()).filter(|text: &String| !text.is_empty())
}

/// The operating system's error behind an error, if there is one.
pub(super) fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose() -> Whose {
        Whose {
            name: "s3://bucket".to_owned(),
            credentials: Some("AWS_ACCESS_KEY_ID".to_owned()),
            endpoint: Some("http://localhost:1".to_owned()),
        }
    }

    fn generic(text: &str) -> Os {
        Os::Generic {
            store: "S3",
            source: text.to_owned().into(),
        }
    }

    fn answer(status: &str, body: &str) -> Os {
        generic(&format!(
            "Error performing list request: Error performing GET http://localhost:1/bucket in 1ms - Server returned non-2xx status code: {status}: {body}"
        ))
    }

    #[test]
    fn an_answer_is_understood_wherever_it_hides_and_says_what_to_do() {
        let cases = [
            (
                "403 Forbidden",
                "<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
                Kind::Denied,
                "AWS_ACCESS_KEY_ID",
            ),
            (
                "403 Forbidden",
                "<Error><Code>SignatureDoesNotMatch</Code></Error>",
                Kind::Denied,
                "secret is wrong",
            ),
            (
                "403 Forbidden",
                "<Code>RequestTimeTooSkewed</Code>",
                Kind::Denied,
                "clock",
            ),
            (
                "400 Bad Request",
                "<Code>ExpiredToken</Code>",
                Kind::Denied,
                "expired",
            ),
            ("403 Forbidden", "", Kind::Denied, "list, read and write"),
            (
                "404 Not Found",
                "<Code>NoSuchBucket</Code>",
                Kind::NotFound,
                "make the bucket",
            ),
            (
                "404 Not Found",
                "<Code>ContainerNotFound</Code>",
                Kind::NotFound,
                "make the bucket",
            ),
            (
                "301 Moved Permanently",
                "<Code>PermanentRedirect</Code>",
                Kind::Invalid,
                "another region",
            ),
            (
                "400 Bad Request",
                "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>",
                Kind::Invalid,
                "region=eu-west-1",
            ),
            (
                "503 Slow Down",
                "<Code>SlowDown</Code>",
                Kind::Unavailable,
                "try again",
            ),
            ("507 Insufficient Storage", "", Kind::NoSpace, "make room"),
        ];
        for (status, body, kind, hint) in cases {
            let e = explain(&whose(), "listing", "packs", answer(status, body));
            assert_eq!(e.kind(), kind, "{status} {body}: {e}");
            assert!(
                e.advice().unwrap().contains(hint),
                "{status} {body}: {:?}",
                e.advice()
            );
        }
    }

    #[test]
    fn what_never_reached_a_store_says_why() {
        let refused = std::io::Error::from_raw_os_error(111);
        let e = explain(
            &whose(),
            "reading",
            "x",
            Os::Generic {
                store: "S3",
                source: Box::new(refused),
            },
        );
        assert_eq!(e.kind(), Kind::Unavailable);
        assert!(
            e.advice().unwrap().contains("http://localhost:1"),
            "{:?}",
            e.advice()
        );
        let e = explain(
            &whose(),
            "reading",
            "x",
            generic("error sending request: PUT http://169.254.169.254/latest/api/token"),
        );
        assert_eq!(e.kind(), Kind::Denied);
        assert!(e.advice().unwrap().contains("no credentials"));
    }

    #[test]
    fn a_file_system_that_is_read_only_and_a_missing_right_are_told_apart() {
        let advice = |errno| {
            let source = Box::new(std::io::Error::from_raw_os_error(errno));
            let e = explain(&whose(), "writing", "x", Os::Generic { store: "x", source });
            assert_eq!(e.kind(), Kind::Denied);
            e.advice().unwrap().to_owned()
        };
        assert!(advice(30).contains("read-only"), "EROFS");
        assert!(!advice(13).contains("read-only"), "EACCES");
    }

    #[test]
    fn how_often_and_how_long_a_request_was_tried_is_told() {
        let text = |retries: &str| {
            format!(
                "Error performing GET http://localhost:1/bucket in {retries} - HTTP error: no connection could be made in time"
            )
        };
        let tried = |text: &str| explain(&whose(), "reading", "x", generic(text)).to_string();
        let often = tried(&text(
            "155.4s, after 12 retries, max_retries: 12, retry_timeout: 180s ",
        ));
        assert!(often.ends_with("(tried 13 times in 155 s)"), "{often}");
        let once = tried(&text("2.1s"));
        assert!(once.ends_with("in time"), "{once}");
    }

    #[test]
    fn the_rest_of_an_answer_is_not_repeated() {
        let body = "<Code>SignatureDoesNotMatch</Code><StringToSign>hush</StringToSign>";
        let e = explain(&whose(), "reading", "x", answer("403 Forbidden", body));
        assert!(!e.to_string().contains("hush"), "{e}");
    }
}
