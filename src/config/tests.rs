//! What files and variables are accepted, and what follows from them.

use std::ffi::OsString;

use super::test_folder::TestFolder;
use super::*;
use crate::daemon::jwk_fetch::NoFetch;

pub(crate) fn environment(variables: &[(&str, &str)]) -> Environment {
    let texts = variables.iter().map(|&(name, value)| (OsString::from(name), OsString::from(value)));
    Environment::from_variables(texts).unwrap()
}

pub(crate) fn read_as(name: &str, text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let folder = TestFolder::new();
    let path = folder.write(name, text);
    let folder = format!("{}/", folder.as_ref().display());
    Config::read_file(Some(&path), &environment(variables))
        .map_err(|error| error.to_string().replace(&folder, ""))
}

pub(crate) fn read(text: &str) -> Result<Config, String> {
    read_as("tracker.json", text, &[])
}

#[test]
fn tracker_json_holds_every_setting_at_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tracker.json");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, show::defaults_json(), "write it anew with `hayate print-config` in an empty folder");
    assert_eq!(read(&text).unwrap().document, Document::default());
}

#[test]
fn the_committed_schema_is_what_hayate_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tracker.schema.json");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, show::schema(), "write it anew with `hayate schema > docs/tracker.schema.json`");
}

#[test]
fn the_schema_describes_every_key_and_allows_no_other() {
    fn walk(block: &serde_json::Value, schema: &serde_json::Value, root: &serde_json::Value, key: &str) {
        let schema = match schema.get("$ref").and_then(|target| target.as_str()) {
            Some(target) => root.pointer(target.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        let Some(block) = block.as_object() else { return };
        assert_eq!(schema["additionalProperties"], false, "{key}");
        for (name, value) in block {
            let setting = &schema["properties"][name];
            assert!(setting["description"].is_string(), "{key}.{name} has no description");
            assert!(!setting["default"].is_null() || value.is_null(), "{key}.{name} has no default");
            walk(value, setting, root, &format!("{key}.{name}"));
        }
    }
    let schema: serde_json::Value = serde_json::from_str(&show::schema()).unwrap();
    let defaults = serde_json::to_value(Document::default()).unwrap();
    walk(&defaults, &schema, &schema, "");
}

#[test]
fn zero_min_announce_and_equal_intervals_are_fine() {
    assert!(read(r#"{"intervals": {"min_announce": 0}}"#).is_ok());
    assert!(read(r#"{"intervals": {"min_announce": "30m"}}"#).is_ok());
}

#[test]
fn the_unwise_is_warned_of() {
    assert_eq!(read("{}").unwrap().warnings, Vec::<String>::new());
    for (text, warning) in [
        (r#"{"udp": {"addr": ""}, "http": {"addr": ""}}"#, "nobody can announce"),
        (r#"{"intervals": {"peer_inactivity": 2100}}"#, "intervals.peer_inactivity is not above"),
        (r#"{"intervals": {"announce": 299, "min_announce": 200}}"#, "not within 300 to 10800"),
        (r#"{"intervals": {"announce": "3h", "peer_inactivity": "6h"}}"#, "not within 300 to 10800"),
        (r#"{"http": {"proxy_header": "X-Real-IP", "trusted_proxies": []}}"#, "never believed"),
        (r#"{"udp": {"private_key": "0123456789abcde"}}"#, "udp.private_key has fewer than 16 octets"),
        (
            r#"{"udp":
                {"private_key": "paste a random string here that will be used to hmac connection IDs"}}"#,
            "udp.private_key is the text of a sample file",
        ),
        (
            r#"{"http": {"allow_ip_spoofing": true}, "announce": {"spoofing_sources": []}}"#,
            "no claimed address",
        ),
        (
            r#"{"announce": {"allow_ip_spoofing": true, "spoofing_sources": ["0.0.0.0/0"]}}"#,
            "the whole internet",
        ),
        (r#"{"access": {"path": "list"}}"#, "access.path is not read"),
        (r#"{"http": {"unix_socket": "s"}}"#, "nobody can announce through the socket"),
        (r#"{"http": {"unix_socket_mode": "0666"}}"#, "http.unix_socket_mode lets every user"),
    ] {
        let warnings = read(text).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(warning), "{text}: {warnings:?}");
        assert!(!warnings[0].contains("0123456789abcde"));
    }
    let defaults = Config::read_file(None, &Environment::default()).unwrap();
    assert!(defaults.warnings[0].contains("built-in defaults"));
}

#[test]
fn yaml_says_the_same_as_json() {
    let yaml = "---\n# a comment\nmode: listed\nintervals:\n  announce: 1h30m\n  min_announce: 600\nudp:\n\
        \n  addr: :7000\n  workers: 2\n  private_key: \"0123456789abcdef\"\n\
        \nhttp:\n  trusted_proxies:\n    - 10.0.0.0/8\n\
        \nannounce: {}\nmemory:\nmetrics:\n  addr:\naccess: {mode: off, path: list}\nenable_scrape: false\n";
    let json = r#"{"mode": "listed", "intervals": {"announce": "1h30m", "min_announce": 600},
        "udp": {"addr": ":7000", "workers": 2, "private_key": "0123456789abcdef"},
        "http": {"trusted_proxies": ["10.0.0.0/8"]}, "access": {"path": "list"}, "memory": null,
        "enable_scrape": false}"#;
    for name in ["t.yaml", "t.YML"] {
        assert_eq!(read_as(name, yaml, &[]).unwrap().document, read(json).unwrap().document);
    }
}

#[test]
fn an_empty_yaml_file_means_defaults() {
    for text in ["", "---\n", "# nothing\n", "--- {}\n", "---\nudp:\nhttp:\n"] {
        assert_eq!(read_as("t.yaml", text, &[]).unwrap().document, Document::default(), "{text:?}");
    }
}

#[test]
fn variables_win_over_the_file() {
    let variables = [
        ("HAYATE__UDP__WORKERS", "7"),
        ("HAYATE__HTTP__TIMEOUT__READ", "300ms"),
        ("HAYATE__UDP__PRIVATE_KEY", "12345678901234567890"),
        ("HAYATE__HTTP__TRUSTED_PROXIES", r#"["192.0.2.7"]"#),
        ("HAYATE__STATE_DIR", "/var/lib/hayate"),
        ("HAYATE__ENABLE_SCRAPE", "false"),
        ("HAYATE__UDP__NUMWANT", "11"),
        ("HAYATE__UDP__COALESCE", "0"),
        ("HAYATE__UDP__SEND_BUFFER", "65536"),
        ("HAYATE__MEMORY__MAX", "7MiB"),
        ("HAYATE__METRICS__ADDR", ""),
        ("PATH", "/bin"),
    ];
    let document =
        read_as("t.json", r#"{"udp": {"workers": 3, "numwant": 13}}"#, &variables).unwrap().document;
    assert_eq!(document.udp.workers.as_usize(), 7);
    assert_eq!(document.http.timeout.read.duration().as_millis(), 300);
    assert_eq!(document.udp.private_key.reveal(), b"12345678901234567890");
    assert_eq!(document.http.trusted_proxies.len(), 1);
    assert_eq!(document.state_dir, "/var/lib/hayate");
    assert!(!document.enable_scrape && document.metrics.addr.is_off());
    assert_eq!(document.udp.numwant.map(|n| n.as_u16()), Some(11));
    assert_eq!(document.memory.max.octets(1), 7 << 20);
    assert!(document.udp.coalesce.duration().is_zero());
    assert_eq!(document.udp.send_buffer.octets(), 65_536);
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = TestFolder::new();
    let path = folder.write(
        "t.json",
        r#"{"access": {"mode": "deny", "path": "list"}, "udp": {"private_key_file": "key"},
            "state_dir": "state",
            "http": {"unix_socket": "socket", "proxy_header": "X-Real-IP"}}"#,
    );
    folder.write("list", &format!("# none but\n{}\n", "ab".repeat(20)));
    folder.write("key", "0123456789abcdef\n");
    let config = Config::read_file(Some(&path), &Environment::default()).unwrap();
    let settings = Settings::from_config(&config, &NoFetch).unwrap();
    assert_eq!(settings.key_file, folder.path("state/udp.key"));
    assert_eq!(settings.listen.unix_socket, Some(folder.path("socket")));
    assert_eq!(settings.key.as_deref(), Some(&b"0123456789abcdef"[..]));
    assert!(!settings.policy.admits_torrent(&hayate_state::InfoHash([0xab; 20])));
    assert!(settings.warnings.is_empty());
}

#[test]
fn servers_may_differ_from_the_common_settings() {
    let config = read(
        r#"{"announce": {"numwant": 7, "max_numwant": 11, "allow_ip_spoofing": true},
            "udp": {"numwant": 13, "allow_ip_spoofing": false}, "http": {"max_numwant": 17},
            "enable_scrape": false}"#,
    );
    let settings = Settings::from_config(&config.unwrap(), &NoFetch).unwrap();
    let (sockets, udp) = settings.udp.unwrap();
    assert_eq!((udp.num_want, udp.num_want_max), (13, 11));
    assert_eq!((settings.http.num_want, settings.http.num_want_max), (7, 17));
    assert!(udp.spoofing_sources.is_empty() && settings.http.spoofing_sources.len() == 7);
    assert!(settings.http.scrape_routes.is_empty());
    assert_eq!(sockets.addresses.len(), 2);
}

#[test]
fn the_effective_configuration_masks_secrets_and_names_origins() {
    let text = r#"{"udp": {"private_key": "hunter2hunter2hunter2", "workers": 3}, "mode": "open"}"#;
    let config = read_as("t.json", text, &[("HAYATE__INTERVALS__SCRAPE", "7")]).unwrap();
    let json = config.json();
    assert!(!json.contains("hunter2") && json.contains("\"private_key\": \"********\""), "{json}");
    assert!(json.contains("\"scrape\": 7"));
    let origins = config.origins();
    assert_eq!(origins.len(), 3, "{origins:?}");
    assert_eq!(origins[0], "intervals.scrape = 7 (HAYATE__INTERVALS__SCRAPE)");
    assert!(origins[1].starts_with("udp.workers = 3 (") && origins[1].ends_with("t.json)"));
    assert!(origins[2].starts_with("udp.private_key = \"********\" ("));
    let debug = format!("{config:?}");
    assert!(!debug.contains("hunter2"));
}

/// A document, as text, with random pieces changed, doubled and taken out.
fn mangled(random: &mut fastrand::Rng, text: &str) -> String {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        "\"",
        ":",
        ",",
        "-",
        "null",
        "1e9",
        "\u{e9}",
        "\n",
        " ",
        "9".repeat(30).as_str(),
    ]
    .map(str::to_owned);
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..random.usize(1..4) {
        let start = random.usize(..characters.len());
        let end = (start + random.usize(..6)).min(characters.len());
        let piece = &pieces[random.usize(..pieces.len())];
        characters.splice(start..end, piece.chars());
        characters.push(' ');
    }
    characters.into_iter().collect()
}

#[test]
fn no_text_makes_the_reader_panic_and_what_is_read_can_be_written() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TestFolder::new();
    let json = show::defaults_json();
    for round in 0..600 {
        let text = mangled(&mut random, &json);
        let name = if round % 2 == 0 { "t.json" } else { "t.yaml" };
        let path = folder.write(name, &text);
        if let Ok(config) = Config::read_file(Some(&path), &Environment::default()) {
            let path = folder.write("again.json", &config.json());
            let again = Config::read_file(Some(&path), &Environment::default());
            let masked = config.json().contains("********");
            assert!(masked || again.unwrap().document == config.document, "{text}");
        }
    }
}

#[test]
fn mode_private_has_defaults_of_its_own_wherever_the_mode_comes_from() {
    for config in [
        read(r#"{"mode": "private"}"#).unwrap(),
        read_as("tracker.json", "{}", &[("HAYATE__MODE", "private")]).unwrap(),
        read_as("t.yaml", "mode: private", &[]).unwrap(),
    ] {
        let document = &config.document;
        let numbers = (document.announce.numwant.as_u16(), document.announce.max_numwant.as_u16());
        assert_eq!(numbers, (25, 50));
        assert!(!document.announce.external_ip && document.announce.keep_peer_ids && document.log_flushes);
        assert!(document.udp.addr.is_off() && !document.http.addr.is_off());
        let dsn = document.database.dsn.dsn().unwrap().to_string();
        assert!(dsn.contains("127.0.0.1:3306") && dsn.contains("chihaya"), "{dsn}");
        let origins = config.origins();
        assert!(origins.iter().all(|line| !line.starts_with("announce.")), "{origins:?}");
    }
}

#[test]
fn what_is_said_wins_over_the_defaults_of_mode_private() {
    let text = r#"{"mode": "private", "announce": {"numwant": 7}, "database": {"dsn_file": "x"},
        "intervals": {"min_announce": "1h", "peer_inactivity": 1}, "udp": {"addr": ":7000"}}"#;
    let config = read(text).unwrap();
    let document = &config.document;
    assert_eq!((document.announce.numwant.as_u16(), document.announce.max_numwant.as_u16()), (7, 50));
    assert_eq!(document.intervals.peer_inactivity.as_seconds(), 1);
    assert!(!document.udp.addr.is_off());
    assert!(config.warnings.iter().any(|warning| warning.contains("intervals.peer_inactivity")));
}
