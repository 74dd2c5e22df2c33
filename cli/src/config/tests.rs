use std::collections::HashMap;
use std::io::ErrorKind;

use super::*;

/// What is found among these variables and files.
fn among<T>(
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
    find: impl FnOnce(&Surroundings<'_>) -> T,
) -> T {
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
    find(&Surroundings {
        variable: &variable,
        read: &read,
        is_root: false,
    })
}

/// Settles `flags` among these variables and files.
fn settle(
    flags: &Flags,
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<Settings, Failure> {
    among(variables, files, |around| resolve(flags, around))
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
fn the_size_of_the_cache_comes_from_the_flag_then_the_variable_then_the_files() {
    let size = |flag: Option<&str>, variables: &[(&str, &str)], files: &[(&str, &str)]| {
        let flags = Flags {
            cache_size: flag.map(str::to_owned),
            ..Flags::default()
        };
        settle(&flags, variables, files).map(|settings| settings.cache_size)
    };
    let files = [(USER.0, "cache_size = \"2G\"")];
    let variables = [HOME, ("CRYOSTORE_CACHE_SIZE", "20M")];
    assert_eq!(size(Some("0"), &variables, &files).ok(), Some(Some(0)));
    assert_eq!(size(None, &variables, &files).ok(), Some(Some(20 << 20)));
    assert_eq!(size(None, &[HOME], &files).ok(), Some(Some(2 << 30)));
    assert_eq!(size(None, &[HOME], &[]).ok(), Some(None));
    assert!(size(Some("much"), &[HOME], &[]).is_err());
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

/// The options of `s3://b` among these variables and files, as `Debug` shows them: without values.
fn options(
    flags: &[&str],
    variables: &[(&str, &str)],
    files: &[(&str, &str)],
) -> Result<StoreOptions, Failure> {
    let flags = Flags {
        storage: Some("s3://b".to_owned()),
        storage_options: flags.iter().map(|text| (*text).to_owned()).collect(),
        ..Flags::default()
    };
    settle(&flags, variables, files)
        .map(|settings| settings.storage_options.expect("there is a storage"))
}

/// Options that were said one by one.
fn said(pairs: &[(&str, &str)], from: Option<&str>) -> StoreOptions {
    let mut out = StoreOptions::for_storage("s3://b").expect("it is known");
    for (key, value) in pairs {
        out.set(key, value).expect("it is known");
    }
    if let Some(from) = from {
        out.credentials_from(from);
    }
    out
}

const FILE: (&str, &str) = (
    USER.0,
    "[storage_options]\nregion = \"file\"\nuploads = 3\nallow_http = true",
);
const CREDENTIALS: (&str, &str) = (
    "/home/u/.aws/credentials",
    "[default]\naws_access_key_id = one\naws_secret_access_key = two\naws_session_token = three\n[w]\naws_access_key_id = work\naws_secret_access_key = hush",
);
const AWS_CONFIG: (&str, &str) = (
    "/home/u/.aws/config",
    "[default]\nregion = config\nendpoint_url = http://config\n[profile sso]\nsso_session = s\n[profile process]\ncredential_process = x",
);

#[test]
fn an_option_comes_from_the_nearest_place_that_has_it() {
    let variables = [
        HOME,
        (
            "CRYOSTORE_STORAGE_OPTIONS",
            "region=variable connect_timeout=1s",
        ),
        ("AWS_REGION", "aws"),
    ];
    let found = options(&["region=flag"], &variables, &[FILE, AWS_CONFIG]).expect("it can be");
    let wanted = [
        ("uploads", "3"),
        ("allow_http", "true"),
        ("connect_timeout", "1s"),
        ("region", "flag"),
        ("endpoint", "http://config"),
    ];
    assert_eq!(found, said(&wanted, None));
    let found = options(&[], &[HOME, variables[2]], &[AWS_CONFIG]).expect("it can be");
    assert_eq!(
        found,
        said(&[("region", "aws"), ("endpoint", "http://config")], None)
    );
}

#[test]
fn the_other_storage_of_a_copy_has_what_aws_files_say_and_not_what_ours_say() {
    let other = Other {
        storage: "s3://b".to_owned(),
        storage_options: Vec::new(),
        keys: Sources::default(),
    };
    let files = [FILE, CREDENTIALS, AWS_CONFIG];
    let found = among(&[HOME], &files, |around| {
        resolve_other(&Flags::default(), &other, around)
    });
    let wanted = [
        ("region", "config"),
        ("endpoint", "http://config"),
        ("access_key_id", "one"),
        ("secret_access_key", "two"),
        ("session_token", "three"),
    ];
    let options = found.expect("it can be").storage_options;
    let from = Some("the profile `default` in AWS' files");
    assert_eq!(options, Some(said(&wanted, from)));
}

#[test]
fn parts_of_a_credential_are_never_mixed() {
    let variables = [
        HOME,
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ];
    let found = options(&[], &variables, &[CREDENTIALS]).expect("it can be");
    let wanted = [("access_key_id", "a"), ("secret_access_key", "b")];
    assert_eq!(found, said(&wanted, Some("the variable AWS_ACCESS_KEY_ID")));
    let flags = ["access_key_id=x", "secret_access_key=y"];
    let found =
        options(&flags, &[HOME, ("AWS_SESSION_TOKEN", "t")], &[CREDENTIALS]).expect("it can be");
    let wanted = [("access_key_id", "x"), ("secret_access_key", "y")];
    assert_eq!(found, said(&wanted, Some("--storage-option")));
    let found = options(&[], &[HOME], &[CREDENTIALS]).expect("it can be");
    let wanted = [
        ("access_key_id", "one"),
        ("secret_access_key", "two"),
        ("session_token", "three"),
    ];
    assert_eq!(
        found,
        said(&wanted, Some("the profile `default` in AWS' files"))
    );
    let found = options(&[], &[HOME, ("AWS_PROFILE", "w")], &[CREDENTIALS]).expect("it can be");
    assert!(format!("{found:?}").contains("`w`") && !format!("{found:?}").contains("hush"));
}

#[test]
fn a_profile_that_needs_aws_own_tool_says_what_to_run() {
    for (profile, key) in [("sso", "sso_session"), ("process", "credential_process")] {
        let e = options(&[], &[HOME, ("AWS_PROFILE", profile)], &[AWS_CONFIG]).expect_err(profile);
        assert!(e.text().contains(key), "{}", e.text());
        assert!(
            e.advice()
                .expect("there is advice")
                .contains("export-credentials")
        );
    }
    let e =
        options(&[], &[HOME, ("AWS_PROFILE", "none")], &[AWS_CONFIG]).expect_err("no such profile");
    assert!(e.text().contains("`none`"));
    // Keys that are there make the profile's way to get some unneeded.
    let keys = [
        HOME,
        ("AWS_PROFILE", "sso"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ];
    options(&[], &keys, &[AWS_CONFIG]).expect("it can be");
}

#[test]
fn an_option_that_cannot_be_names_where_it_was_said_and_no_value() {
    for (flags, variables, files, named) in [
        (
            &["regoin=hush"][..],
            &[HOME][..],
            &[][..],
            "--storage-option",
        ),
        (&["hush"], &[HOME], &[], "--storage-option"),
        (
            &[],
            &[HOME, ("CRYOSTORE_STORAGE_OPTIONS", "timeout=hush")],
            &[],
            "CRYOSTORE_STORAGE_OPTIONS",
        ),
        (
            &[],
            &[HOME],
            &[(USER.0, "[storage_options]\nregion = [\"hush\"]")],
            USER.0,
        ),
    ] {
        let e = options(flags, variables, files).expect_err(named);
        assert!(e.text().contains(named), "{}", e.text());
        assert!(!format!("{} {:?}", e.text(), e.advice()).contains("hush"));
    }
}

#[test]
fn azures_connection_string_is_understood() {
    let flags = Flags {
        storage: Some("az://c".to_owned()),
        ..Flags::default()
    };
    let text =
        "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a2V5==;BlobEndpoint=http://x/me";
    let found =
        settle(&flags, &[("AZURE_STORAGE_CONNECTION_STRING", text)], &[]).expect("it can be");
    let mut wanted = StoreOptions::for_storage("az://c").expect("it is known");
    for (key, value) in [
        ("account_name", "me"),
        ("account_key", "a2V5=="),
        ("endpoint", "http://x/me"),
    ] {
        wanted.set(key, value).expect("it is known");
    }
    wanted.credentials_from("the variable AZURE_STORAGE_CONNECTION_STRING");
    assert_eq!(found.storage_options, Some(wanted));
}

#[test]
fn append_only_counts_wherever_it_is_said() {
    let said = |flags: bool, variable: &str, text: &str| {
        let flags = Flags {
            append_only: flags,
            ..Flags::default()
        };
        settle(
            &flags,
            &[HOME, ("CRYOSTORE_APPEND_ONLY", variable)],
            &[("/home/u/.config/cryostore/config.toml", text)],
        )
        .map(|settings| settings.append_only)
    };
    assert!(!said(false, "", "").unwrap());
    assert!(said(true, "false", "append_only = false").unwrap());
    assert!(said(false, "true", "").unwrap());
    assert!(said(false, "", "append_only = true").unwrap());
    assert!(said(false, "", "append_only = \"true\"").unwrap());
    assert!(said(false, "perhaps", "").is_err());
    assert!(said(false, "", "append_only = 3").is_err());
}

const KNOWN: (&str, &str) = (
    "/home/u/.config/cryostore/storages.toml",
    "[[storage]]\nurl = \"s3://b\"\nkey_file = \"/b.key\"\n[storage.options]\nregion = \"known\"\nendpoint = \"http://known\"\n[[storage]]\nurl = \"s3://c\"\n",
);

fn file(path: &str) -> Sources {
    Sources {
        files: vec![path.into()],
        ..Sources::default()
    }
}

fn flag(storage: &str) -> Flags {
    Flags {
        storage: Some(storage.to_owned()),
        ..Flags::default()
    }
}

#[test]
fn what_a_file_says_of_keys_and_options_is_about_the_storage_that_it_names() {
    let text = "storage = \"s3://a\"\nkey_file = \"/a.key\"\n[storage_options]\nregion = \"file\"";
    let files = [(USER.0, text), KNOWN];
    let of = |storage: &str| settle(&flag(storage), &[HOME], &files).expect("it can be");
    let region = |settings: &Settings| {
        let mut pairs = settings.lasting.iter();
        pairs
            .find(|(key, _)| key == "region")
            .map(|(_, value)| value.clone())
    };
    // Its own, however it is written.
    let own = of("s3://a/");
    assert_eq!(
        (own.keys.clone(), region(&own).as_deref()),
        (file("/a.key"), Some("file"))
    );
    let known = of("s3://b/");
    assert_eq!(
        (known.keys.clone(), known.spare.clone()),
        (Sources::default(), file("/a.key"))
    );
    assert_eq!(
        known.known.as_ref().map(|known| known.keys.clone()),
        Some(file("/b.key"))
    );
    assert_eq!(region(&known).as_deref(), Some("known"));
    // One that is new is opened as it always was.
    let new = of("s3://new");
    assert_eq!(
        (new.spare.clone(), region(&new).as_deref()),
        (file("/a.key"), Some("file"))
    );
    // The user's default beside the system's: the system's key is not its.
    let both = [
        (USER.0, "storage = \"s3://b\""),
        (SYSTEM.0, "storage = \"s3://a\"\nkey_file = \"/a.key\""),
        KNOWN,
    ];
    let users = settle(&Flags::default(), &[HOME], &both).expect("it can be");
    assert_eq!(
        (users.keys, users.spare),
        (Sources::default(), file("/a.key"))
    );
    // Where no storage is named, all are meant.
    let files = [
        (
            USER.0,
            "key_file = \"/k\"\n[storage_options]\nregion = \"file\"",
        ),
        KNOWN,
    ];
    let all = settle(&flag("s3://b"), &[HOME], &files).expect("it can be");
    assert_eq!(
        (all.keys.clone(), region(&all).as_deref()),
        (file("/k"), Some("file"))
    );
    let flags = Flags {
        keys: file("/flag"),
        storage_options: vec![
            "region=flag".to_owned(),
            "patience=1m".to_owned(),
            "secret_access_key=hush".to_owned(),
        ],
        ..flag("s3://b")
    };
    let nearer = settle(&flags, &[HOME], &files).expect("it can be");
    assert_eq!(nearer.keys, file("/flag"));
    let lasting = [("endpoint", "http://known"), ("region", "flag")];
    let lasting = lasting.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(nearer.lasting, lasting, "no secret, and nothing of one run");
}

#[test]
fn the_default_and_the_known_storages_are_told_apart_from_one_that_is_said() {
    let files: HashMap<_, _> = [(USER.0, "storage = \"s3://c/\""), KNOWN]
        .into_iter()
        .collect();
    let read = |path: &Path| {
        let text = path.to_str().and_then(|path| files.get(path));
        text.map(|text| (*text).to_owned())
            .ok_or_else(|| ErrorKind::NotFound.into())
    };
    let with = |flags: &Flags, value: &'static str| {
        let variable = |name: &str| match name {
            "HOME" => Some(OsString::from("/home/u")),
            "CRYOSTORE_STORAGE" => Some(OsString::from(value)),
            _ => None,
        };
        let around = Surroundings {
            variable: &variable,
            read: &read,
            is_root: false,
        };
        places(flags, &around).expect("it can be").all()
    };
    assert_eq!(
        with(&Flags::default(), ""),
        ["s3://c/", "s3://b"],
        "each once"
    );
    assert_eq!(with(&Flags::default(), "/v"), ["/v"]);
    assert_eq!(with(&flag("/f"), "/v"), ["/f"]);
}

#[test]
fn time_outs_in_a_file_count_for_every_storage() {
    let text = "storage = \"s3://a\"\n[storage_options]\npatience = \"7m\"\nregion = \"file\"";
    let settings = settle(&flag("s3://b"), &[HOME], &[(USER.0, text), KNOWN]).expect("it can be");
    let mut wanted = StoreOptions::for_storage("s3://b").expect("it is known");
    for (key, value) in [
        ("patience", "7m"),
        ("region", "known"),
        ("endpoint", "http://known"),
    ] {
        wanted.set(key, value).expect("it is known");
    }
    assert_eq!(settings.storage_options, Some(wanted));
}
