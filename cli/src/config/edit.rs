//! Owns the changing of a configuration file that a person wrote.
//!
//! Always: comments, order and whatever else stands there stay; a comment goes with the setting that it is about. The file is replaced as a whole. Never: leaves two keys where one is meant.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use cryostore_engine::Error;
use toml_edit::{DocumentMut, Item, Table, value};

use super::known;
use crate::exit::Failure;

/// What a file may say, as it is written there.
const SETTINGS: [&str; 9] = [
    "storage",
    "storage_options",
    "cache_dir",
    "cache_size",
    "max_memory",
    "append_only",
    "key_file",
    "key_command",
    "passphrase_file",
];

/// The settings that are named, as they are written in the file.
pub(crate) fn names(names: &[String]) -> Result<Vec<String>, Failure> {
    let one = |name: &String| {
        let (name, option) = match name.split_once('.') {
            Some((name, option)) => (name, Some(option)),
            None => (name.as_str(), None),
        };
        let mut key = name.trim_start_matches('-').replace('-', "_");
        if key == "storage_option" {
            key.push('s');
        }
        if !SETTINGS.contains(&key.as_str()) || option.is_some() && key != "storage_options" {
            return Err(Failure::usage(
                format!("there is no setting `{name}`"),
                format!("the settings are {}", SETTINGS.join(", ")),
            ));
        }
        Ok(option.map_or(key.clone(), |option| format!("{key}.{option}")))
    };
    names.iter().map(one).collect()
}

/// Changes the file, in which all else stays. `false`: it said so already.
pub(crate) fn write(
    file: &Path,
    set: &[(String, String)],
    unset: &[String],
) -> Result<bool, Failure> {
    let failed = |e| Error::io(format!("the configuration file {}", file.display()), e);
    let old = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        Err(e) => return Err(failed(e).into()),
    };
    let new = changed(&old, set, unset).map_err(|what| {
        Failure::usage(
            format!("{}: {what}", file.display()),
            "correct it by hand first",
        )
    })?;
    if new == old {
        return Ok(false);
    }
    if let Some(dir) = file.parent() {
        let mut make = DirBuilder::new();
        make.recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
    }
    known::replace(file, &new).map_err(failed)?;
    Ok(true)
}

/// The file's text with what is set and without what is not; comments stay.
fn changed(old: &str, set: &[(String, String)], unset: &[String]) -> Result<String, String> {
    let mut document: DocumentMut = old
        .parse()
        .map_err(|e: toml_edit::TomlError| e.message().to_owned())?;
    for key in unset {
        match key.split_once('.') {
            None => drop(document.remove(key)),
            Some((table, option)) => {
                let table = document.get_mut(table).and_then(Item::as_table_like_mut);
                let left = table.map(|table| {
                    table.remove(option);
                    table.len()
                });
                if left == Some(0) {
                    document.remove("storage_options");
                }
            }
        }
    }
    // A key of one kind takes the place of another.
    let keys = ["key_file", "key_command", "passphrase_file"];
    if set.iter().any(|(key, _)| keys.contains(&key.as_str())) {
        for key in keys {
            if !set.iter().any(|(said, _)| said == key) {
                document.remove(key);
            }
        }
    }
    for (key, text) in set {
        let new = match key.as_str() {
            "append_only" => value(true),
            _ => value(text.as_str()),
        };
        let (table, key) = match key.split_once('.') {
            None => (
                document.as_table_mut() as &mut dyn toml_edit::TableLike,
                key.as_str(),
            ),
            Some((table, option)) => {
                let table = document.entry(table).or_insert(Item::Table(Table::new()));
                let table = table.as_table_like_mut();
                (table.ok_or("`storage_options` is not a table")?, option)
            }
        };
        match table.get_mut(key).and_then(Item::as_value_mut) {
            // What stands around the value stays.
            Some(old) => {
                let around = old.decor().clone();
                if let Item::Value(mut new) = new {
                    *new.decor_mut() = around;
                    *old = new;
                }
            }
            None => drop(table.insert(key, new)),
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str =
        "# ours\nstorage = \"/old\" # the big disk\n\n[storage_options]\n# near\nregion = \"x\"\n";

    fn change(set: &[(&str, &str)], unset: &[&str]) -> String {
        let set: Vec<_> = set
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let unset: Vec<_> = unset.iter().map(|k| (*k).to_owned()).collect();
        changed(OLD, &set, &unset).unwrap()
    }

    #[test]
    fn a_setting_is_changed_and_comments_and_order_stay() {
        assert_eq!(
            change(&[("storage", "/new"), ("max_memory", "1G")], &[]),
            "# ours\nstorage = \"/new\" # the big disk\nmax_memory = \"1G\"\n\n[storage_options]\n# near\nregion = \"x\"\n"
        );
        assert_eq!(
            change(
                &[
                    ("storage_options.region", "y"),
                    ("storage_options.endpoint", "e")
                ],
                &[]
            ),
            OLD.replace("\"x\"\n", "\"y\"\nendpoint = \"e\"\n")
        );
        assert_eq!(change(&[], &["storage_options.region", "storage"]), "");
        assert_eq!(change(&[], &["cache_dir"]), OLD);
    }

    #[test]
    fn a_key_of_another_kind_takes_the_place_of_the_one_that_was_there() {
        let set = [("key_command".to_owned(), "c".to_owned())];
        let new = changed("key_file = \"/k\"\n", &set, &[]).unwrap();
        assert_eq!(new, "key_command = \"c\"\n");
    }

    #[test]
    fn names_are_taken_as_they_are_written_in_the_file_or_as_flags() {
        let names = |text: &str| super::names(&[text.to_owned()]).map(|mut names| names.remove(0));
        assert_eq!(names("--max-memory").unwrap(), "max_memory");
        assert_eq!(names("storage-option").unwrap(), "storage_options");
        assert_eq!(
            names("storage_options.region").unwrap(),
            "storage_options.region"
        );
        assert!(names("storge").is_err() && names("storage.x").is_err());
    }
}
