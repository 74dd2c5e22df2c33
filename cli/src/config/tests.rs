use std::collections::HashMap;

use super::*;

/// Settles `flags` among these variables and files.
fn settle(
    flags: &Flags,
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<Settings, Failure> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    let files: HashMap<_, _> = files
        .iter()
        .map(|(path, text)| (PathBuf::from(path), *text))
        .collect();
    let read = |path: &Path| {
        files
            .get(path)
            .map(|text| (*text).to_owned())
            .ok_or_else(|| ErrorKind::NotFound.into())
    };
    let variable = |name: &str| variables.get(name).map(OsString::from);
    resolve(
        flags,
        &Surroundings {
            variable: &variable,
            read: &read,
            is_root: false,
        },
    )
}

fn storage(flags: &Flags, variables: &[(&str, &str)], files: &[(&str, &str)]) -> Option<String> {
    settle(flags, variables, files)
        .expect("it can be settled")
        .storage
}

const HOME: (&str, &str) = ("HOME", "/home/u");
const USER: (&str, &str) = (
    "/home/u/.config/cryostore/config.toml",
    "storage = \"/user\"",
);
const SYSTEM: (&str, &str) = (
    SYSTEM_FILE,
    "storage = \"/system\"\ncache_dir = \"/syscache\"",
);

#[test]
fn the_flag_counts_before_the_variable_before_the_users_file_before_the_systems() {
    let flag = Flags {
        storage: Some("/flag".to_owned()),
        ..Flags::default()
    };
    let variables = [HOME, ("CRYOSTORE_STORAGE", "/variable")];
    let none = Flags::default();
    assert_eq!(
        storage(&flag, &variables, &[USER, SYSTEM]).as_deref(),
        Some("/flag")
    );
    assert_eq!(
        storage(&none, &variables, &[USER, SYSTEM]).as_deref(),
        Some("/variable")
    );
    assert_eq!(
        storage(&none, &[HOME], &[USER, SYSTEM]).as_deref(),
        Some("/user")
    );
    assert_eq!(
        storage(&none, &[HOME], &[SYSTEM]).as_deref(),
        Some("/system")
    );
    assert_eq!(storage(&none, &[HOME], &[]), None);
    assert_eq!(
        storage(&none, &[HOME, ("CRYOSTORE_STORAGE", "")], &[USER]).as_deref(),
        Some("/user"),
        "empty is not set"
    );
}

#[test]
fn each_key_comes_from_the_first_place_that_has_it() {
    let settings = settle(&Flags::default(), &[HOME], &[USER, SYSTEM]).expect("it can be settled");
    assert_eq!(settings.storage.as_deref(), Some("/user"));
    assert_eq!(settings.cache_dir, Some(PathBuf::from("/syscache")));
}

#[test]
fn the_cache_is_below_the_home_directory_unless_it_is_put_elsewhere() {
    let cache = |flags: &Flags, variables: &[(&str, &str)]| {
        settle(flags, variables, &[])
            .expect("it can be settled")
            .cache_dir
    };
    let none = Flags::default();
    assert_eq!(
        cache(&none, &[HOME]),
        Some(PathBuf::from("/home/u/.cache/cryostore"))
    );
    assert_eq!(
        cache(&none, &[HOME, ("XDG_CACHE_HOME", "/x")]),
        Some(PathBuf::from("/x/cryostore"))
    );
    assert_eq!(
        cache(&none, &[HOME, ("XDG_CACHE_HOME", "x")]),
        Some(PathBuf::from("/home/u/.cache/cryostore")),
        "not absolute"
    );
    assert_eq!(
        cache(&none, &[HOME, ("CRYOSTORE_CACHE_DIR", "/c")]),
        Some(PathBuf::from("/c"))
    );
    assert_eq!(cache(&none, &[]), None);
    assert_eq!(
        cache(
            &Flags {
                no_cache: true,
                ..Flags::default()
            },
            &[HOME]
        ),
        None
    );
    let root = Surroundings {
        variable: &|_| None,
        read: &|_| Err(ErrorKind::NotFound.into()),
        is_root: true,
    };
    let settings = resolve(&none, &root).expect("it can be settled");
    assert_eq!(
        settings.cache_dir,
        Some(PathBuf::from("/var/cache/cryostore"))
    );
}

#[test]
fn what_a_file_cannot_mean_is_an_error_that_names_file_and_key() {
    let path = USER.0;
    for (text, named) in [
        ("storge = \"/x\"", "`storge`"),
        ("storage = 7", "`storage`"),
        ("cache_dir = \"relative\"", "`cache_dir`"),
        ("storage = \"/x\"\nstorage", "line 2"),
    ] {
        let failure = settle(&Flags::default(), &[HOME], &[(path, text)]).expect_err(text);
        assert_eq!(failure.code(), 2, "{text}");
        assert!(
            failure.text().contains(path) && failure.text().contains(named),
            "{}",
            failure.text()
        );
    }
}

#[test]
fn a_tilde_in_a_file_is_the_home_directory_and_a_url_stays_as_it_is() {
    let files = |text| [(USER.0, text)];
    assert_eq!(
        storage(&Flags::default(), &[HOME], &files("storage = \"~/store\"")).as_deref(),
        Some("/home/u/store")
    );
    assert_eq!(
        storage(&Flags::default(), &[HOME], &files("storage = \"s3://b/p\"")).as_deref(),
        Some("s3://b/p")
    );
}

#[test]
fn memory_is_a_size_and_too_little_of_it_says_how_much_is_needed() {
    let memory = |text: &str| {
        let flags = Flags {
            max_memory: Some(text.to_owned()),
            ..Flags::default()
        };
        let around = Surroundings {
            variable: &|_| None,
            read: &|_| Err(ErrorKind::NotFound.into()),
            is_root: false,
        };
        resolve(&flags, &around).map(|settings| settings.memory)
    };
    let mib = |n: u64| Memory::at_most(n << 20).expect("it is enough");
    for (text, wanted) in [
        ("256M", mib(256)),
        ("1G", mib(1024)),
        ("300MiB", mib(300)),
        ("209715200", mib(200)),
        ("262144k", mib(256)),
    ] {
        assert_eq!(memory(text).ok(), Some(wanted), "{text}");
    }
    for text in [
        "",
        "M",
        "1.5G",
        "-1",
        "1T",
        "99999999999999999999",
        "18446744073709551615G",
        "100M",
    ] {
        assert!(memory(text).is_err(), "{text}");
    }
}
