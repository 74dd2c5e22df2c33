//! Owns the search for a snapshot by its id, in the storage that was said, else in the default, else in those that are known.
//!
//! Always: STORAGE#ID is looked for there and nowhere else. Never: takes `latest` of one storage among several.

use cryostore_engine::format::SnapshotId;
use cryostore_engine::{Error, Filter, Found, Kind, Repository};

use super::{Answer, ask, nothing_said};
use crate::config::known::name_of;
use crate::context::{Context, Places};
use crate::exit::Failure;

/// Hexadecimal digits of a whole id.
const WHOLE: usize = 32;
/// The fewest characters by which an id can be said.
const FEWEST: usize = 4;

/// STORAGE and ID of STORAGE#ID; none: it is an id.
pub(crate) fn split(text: &str) -> Option<(&str, &str)> {
    let (storage, id) = text.rsplit_once('#')?;
    let is_id = id.len() >= FEWEST && id.bytes().all(|b| b.is_ascii_hexdigit());
    (!storage.is_empty() && (is_id || id == "latest")).then_some((storage, id))
}

/// The context and the ids for a command that works on one storage, where each id may be written STORAGE#ID.
pub(crate) fn several_said(
    context: &Context,
    ids: &[String],
) -> Result<(Context, Vec<String>), Failure> {
    let mut storage: Option<&str> = None;
    let mut bare = Vec::new();
    for text in ids {
        let Some((said, id)) = split(text) else {
            bare.push(text.clone());
            continue;
        };
        let said_before = storage.or(context.flags.storage.as_deref());
        if said_before.is_some_and(|before| name_of(before) != name_of(said)) {
            return Err(Failure::usage(
                "the ids are in different storages",
                "run it once for each storage",
            ));
        }
        storage = Some(said);
        bare.push(id.to_owned());
    }
    let is_bare = |text: &String| text != "none" && split(text).is_none();
    if storage.is_some() && ids.iter().any(is_bare) {
        return Err(Failure::usage(
            "some ids name their storage, and others do not",
            "say --storage STORAGE, and the ids alone",
        ));
    }
    let context = storage.map_or_else(|| context.clone(), |said| context.with_storage(said));
    Ok((context, bare))
}

/// A search; what it opened stays open.
pub(crate) struct Search<'c> {
    context: &'c Context,
    places: Places,
    open: Vec<(String, Repository)>,
    sure: bool,
}

impl<'c> Search<'c> {
    pub(crate) fn new(context: &'c Context) -> Result<Self, Failure> {
        Ok(Self {
            places: context.places()?,
            open: Vec::new(),
            sure: false,
            context,
        })
    }

    /// The same, which takes the start of an id only if no storage is left where another could begin so.
    pub(crate) fn sure(self) -> Self {
        Self { sure: true, ..self }
    }

    /// The snapshot that `text` means, see [`Context::find`].
    pub(crate) fn snapshot(
        &mut self,
        text: &str,
        filter: &Filter,
    ) -> Result<(Repository, Found), Failure> {
        let filter = filter.clone();
        self.find(text, move |context, repo, text| {
            let found = context.find(repo, text, &filter)?;
            Ok((found.snapshot.id, found))
        })
    }

    /// Where `look` finds what `text` means, and what it found.
    pub(crate) fn find<T: Send + 'static>(
        &mut self,
        text: &str,
        look: impl Fn(&Context, &Repository, &str) -> Result<(SnapshotId, T), Failure>
        + Clone
        + Send
        + 'static,
    ) -> Result<(Repository, T), Failure> {
        if let Some((storage, id)) = split(text) {
            let said = self.context.flags.storage.as_deref();
            if said.is_some_and(|said| name_of(said) != name_of(storage)) {
                return Err(Failure::usage(
                    format!("{text} is in another storage than --storage"),
                    "leave --storage out",
                ));
            }
            let repo = self.opened(storage)?;
            let found = look(self.context, &repo, id)?.1;
            return Ok((repo, found));
        }
        let first = self.places.said.clone().or(self.places.default.clone());
        let alone = self.places.said.is_some() || self.places.others.is_empty();
        if let Some(storage) = first {
            let repo = self.first(&storage)?;
            return match look(self.context, &repo, text) {
                Ok((_, found)) => Ok((repo, found)),
                Err(e) if is_elsewhere(&e, text) && !alone => self.among_known(text, Some(e), look),
                Err(e) => Err(e),
            };
        }
        match &self.places.others[..] {
            [] => Err(nothing_said(&self.places)),
            [one] => {
                let repo = self.opened(&one.clone())?;
                let found = look(self.context, &repo, text)?.1;
                Ok((repo, found))
            }
            several if text == "latest" => Err(Failure::usage(
                "`latest` of which storage?",
                format!(
                    "say one of {}",
                    several
                        .iter()
                        .map(|storage| format!("{storage}#latest"))
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            )),
            _ => self.among_known(text, None, look),
        }
    }

    /// The storage that was said, or the default.
    fn first(&mut self, storage: &str) -> Result<Repository, Failure> {
        if let Some((_, repo)) = self.open.iter().find(|(name, _)| name == storage) {
            return Ok(repo.clone());
        }
        let repo = self.context.repository()?;
        self.open.push((storage.to_owned(), repo.clone()));
        Ok(repo)
    }

    fn opened(&mut self, storage: &str) -> Result<Repository, Failure> {
        let name = name_of(storage);
        if let Some((_, repo)) = self.open.iter().find(|(open, _)| *open == name) {
            return Ok(repo.clone());
        }
        let repo = self.context.with_storage(storage).repository()?;
        self.open.push((name, repo.clone()));
        Ok(repo)
    }

    fn among_known<T: Send + 'static>(
        &self,
        text: &str,
        not_in_default: Option<Failure>,
        look: impl Fn(&Context, &Repository, &str) -> Result<(SnapshotId, T), Failure>
        + Clone
        + Send
        + 'static,
    ) -> Result<(Repository, T), Failure> {
        let wanted = text.to_owned();
        let places = self.places.clone();
        let answers = ask(
            self.context,
            &self.places.others,
            move |context, storage| {
                let repo = context.known(&places, storage)?.repo;
                // It was opened: what is not found now is not there.
                let found = look(context, &repo, &wanted);
                Ok(found.map(|(id, one)| (repo, id, one)))
            },
        )?;
        let (mut found, mut away) = (Vec::new(), Vec::new());
        for Answer { storage, said } in answers {
            match said {
                Ok(Ok((repo, id, one))) => found.push((storage, repo, id, one)),
                Ok(Err(e)) if is_elsewhere(&e, text) => {}
                // Several there: it is said which.
                Ok(Err(Failure::Engine(e))) if e.kind() == Kind::Invalid => {
                    return Err(e.at(storage).into());
                }
                Ok(Err(e)) if text == "latest" => return Err(e),
                Ok(Err(e)) | Err(e) => away.push((storage, e)),
            }
        }
        if found.len() > 1 {
            let all: Vec<_> = found
                .iter()
                .map(|(storage, _, id, _)| format!("{storage}#{id}"))
                .collect();
            let text = format!("{text} could be any of {}", all.join(", "));
            return Err(Error::new(Kind::Invalid, text)
                .hint("say one of these")
                .into());
        }
        let Some((storage, repo, _, one)) = found.pop() else {
            return Err(nowhere(text, not_in_default, away));
        };
        if text.len() < WHOLE && !away.is_empty() {
            let names: Vec<_> = away.iter().map(|(storage, _)| storage.as_str()).collect();
            let names = names.join(", ");
            let about = format!(
                "{text} is in {storage}; whether another one begins so is not known, for there is no answer of {names}"
            );
            if self.sure {
                let error = Error::new(Kind::Unavailable, about);
                return Err(error
                    .hint(format!("say {storage}#{text}, or the whole id"))
                    .into());
            }
            self.context.screen.warn(&about);
        }
        Ok((repo, one))
    }
}

/// True if the id may be in another storage: it was looked for, and it is not here.
fn is_elsewhere(failure: &Failure, text: &str) -> bool {
    let not_found = matches!(failure, Failure::Engine(e) if e.kind() == Kind::NotFound);
    not_found && text != "latest"
}

fn nowhere(
    text: &str,
    not_in_default: Option<Failure>,
    mut away: Vec<(String, Failure)>,
) -> Failure {
    if away.is_empty() {
        let advice = "`cryostore ls` lists what there is in all storages that are known";
        let error = match not_in_default {
            Some(Failure::Engine(e)) => e,
            _ => Error::new(Kind::NotFound, format!("there is no snapshot {text}")),
        };
        return error.hint(advice).into();
    }
    let reasons: Vec<_> = away
        .iter()
        .map(|(storage, e)| format!("{storage} ({})", e.text()))
        .collect();
    let text = format!(
        "there is no snapshot {text} in the storages that answer; not asked could be {}",
        reasons.join(", ")
    );
    let kind = match away.remove(0).1 {
        Failure::Engine(e) => e.kind(),
        _ => Kind::Unavailable,
    };
    Error::new(kind, text)
        .hint("try again when it answers, or take it out: `cryostore configure --forget STORAGE`")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_stands_before_the_last_number_sign_if_an_id_stands_behind_it() {
        assert_eq!(split("s3://b/p#3f9a"), Some(("s3://b/p", "3f9a")));
        assert_eq!(split("/a#b#3F9A00"), Some(("/a#b", "3F9A00")));
        assert_eq!(split("x#latest"), Some(("x", "latest")));
        for text in ["3f9a", "#3f9a", "x#", "x#3f9", "x#nine", "latest"] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
