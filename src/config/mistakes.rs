//! In which words a configuration is refused: each names file or variable, key, value and what is allowed.

use super::test_folder::TestFolder;
use super::tests::{read, read_as};
use super::*;
use crate::daemon::jwk_fetch::NoFetch;

#[test]
fn a_number_out_of_range_names_file_key_value_and_what_is_allowed() {
    for (text, expected) in [
        (
            r#"{"udp": {"workers": -1}}"#,
            "tracker.json: udp.workers: invalid value: integer `-1`, expected an integer from 0 to 1024",
        ),
        (
            r#"{"udp": {"workers": "two"}}"#,
            "tracker.json: udp.workers: invalid type: string \"two\", expected an integer from 0 to 1024",
        ),
        (
            r#"{"mode": "secret"}"#,
            "tracker.json: mode: unknown variant `secret`, expected one of `open`, `listed`, `private`",
        ),
        (
            r#"{"intervals": {"announce": 0}}"#,
            "tracker.json: intervals.announce: invalid value: integer `0`, expected a duration from 1s to \
             24h, in \
             seconds or as text with h, m, s, ms",
        ),
        (
            r#"{"intervals": {"peer_inactivity": "7h"}}"#,
            "tracker.json: intervals.peer_inactivity: invalid value: 7h, expected a duration from 1m to 6h \
             in this mode",
        ),
        (
            r#"{"udp": {"connection_id_lifetime": 59}}"#,
            "tracker.json: udp.connection_id_lifetime: invalid value: integer `59`, expected a duration \
             from 1m to \
             2h, in seconds or as text with h, m, s, ms",
        ),
        (
            r#"{"memory": {"max": "512MB"}}"#,
            "tracker.json: memory.max: invalid value: string \"512MB\", expected auto, or a size from 0 to \
             16TiB, in octets \
             or as text with KiB, MiB, GiB, TiB",
        ),
    ] {
        assert_eq!(read(text).map(|_| ()).unwrap_err(), expected);
    }
}

#[test]
fn a_wrong_word_names_file_key_value_and_what_is_allowed() {
    for (text, expected) in [
        (
            r#"{"udp": {"addr": "6969"}}"#,
            "tracker.json: udp.addr: invalid value: string \"6969\", expected an address such as \":6969\", \
             \"192.0.2.7:6969\" or \"[2001:db8::7]:6969\", or \"\" for off",
        ),
        (
            r#"{"http": {"trusted_proxies": ["127.0.0.1", "x"]}}"#,
            "tracker.json: http.trusted_proxies[1]: invalid value: string \"x\", expected a network such as \
             \"10.0.0.0/8\" or an address",
        ),
        (
            r#"{"announce": {"denied_ports": [7, 70000]}}"#,
            "tracker.json: announce.denied_ports[1]: invalid value: integer `70000`, expected an integer \
             from 1 to \
             65535",
        ),
        (
            r#"{"announce": {"allow_private_peers": "no"}}"#,
            "tracker.json: announce.allow_private_peers: invalid value: string \"no\", expected \"auto\", \
             true or \
             false",
        ),
        (
            r#"{"enable_scrape": "yes"}"#,
            "tracker.json: enable_scrape: invalid type: string \"yes\", expected a boolean",
        ),
        (r#"{"udp": [7]}"#, "tracker.json: udp: invalid type: list, expected a block of keys"),
        ("[]", "tracker.json: invalid type: list, expected a block of keys"),
        (
            r#"{"log": {"format": "xml"}}"#,
            "tracker.json: log.format: unknown variant `xml`, expected `text` or `json`",
        ),
        (
            r#"{"metrics": {"bogus": 1}}"#,
            "tracker.json: metrics.bogus: unknown field `bogus`, expected one of `addr`, `prefix`, `pprof`, \
             `clients`",
        ),
    ] {
        assert_eq!(read(text).map(|_| ()).unwrap_err(), expected);
    }
}

#[test]
fn unknown_keys_are_refused_with_the_known_ones() {
    let error = read(r#"{"bogus": null, "bogus2": 1}"#).unwrap_err();
    assert!(
        error.starts_with("tracker.json: bogus2: unknown field `bogus2`, expected one of `mode`"),
        "{error}"
    );
    let error = read(r#"{"udp": {"reply_to_bad_connection_id": false}}"#).unwrap_err();
    assert!(error.starts_with("tracker.json: udp.reply_to_bad_connection_id: unknown field"), "{error}");
}

#[test]
fn a_text_that_is_no_json_says_where() {
    let error = read("{\"udp\": {\n\"workers\": }}").unwrap_err();
    assert_eq!(error, "tracker.json: expected value at line 2 column 12");
}

#[test]
fn a_key_that_is_twice_there_is_refused() {
    let error = read("{\"udp\": {\"workers\": 1,\n\"workers\": 2}}").unwrap_err();
    assert_eq!(error, "tracker.json: the key `workers` occurs twice at line 2 column 9");
}

#[test]
fn mistakes_between_settings_name_the_keys() {
    for (text, expected) in [
        (
            r#"{"intervals": {"announce": 600}}"#,
            "intervals.min_announce: invalid value: 15m, expected 0, or a duration from 1s to \
             intervals.announce \
             (10m)",
        ),
        (
            r#"{"intervals": {"min_announce": "300ms"}}"#,
            "intervals.min_announce: invalid value: 300ms, expected 0, or a duration from 1s to \
             intervals.announce \
             (30m)",
        ),
        (
            r#"{"access": {"mode": "allow"}}"#,
            "access.path: invalid value: \"\", expected the path of a list of torrents, because of \
             access.mode allow",
        ),
        (
            r#"{"mode": "listed", "database": {"dsn": ""}}"#,
            "access.path: invalid value: \"\", expected the path of a list of torrents, because of mode \
             listed without a database",
        ),
        (
            r#"{"database": {"dsn": "tracker@tcp(db)/x", "dsn_file": "y"}}"#,
            "database.dsn_file: database.dsn is set too; one of them is allowed",
        ),
        (r#"{"database": {"spill_dir": ""}}"#, "database.spill_dir: invalid value: \"\", expected a path"),
        (
            r#"{"mode": "listed", "access": {"mode": "deny", "path": "x"}}"#,
            "access.mode: invalid value: \"deny\", expected \"off\" or \"allow\" in mode listed, where the \
             list \
             holds the registered torrents",
        ),
        (
            r#"{"udp": {"private_key": "0123456789abcdef", "private_key_file": "x"}}"#,
            "udp.private_key_file: udp.private_key is set too; one of them is allowed",
        ),
        (
            r#"{"privileges": {"group": "x"}}"#,
            "privileges.group: \"x\" without privileges.user; set both or none",
        ),
        (
            r#"{"http": {"announce_routes": [], "scrape_routes": []}}"#,
            "http.announce_routes: must specify routes",
        ),
        (
            r#"{"http": {"announce_routes": ["x"]}}"#,
            "http.announce_routes: route \"x\" does not start with \"/\"",
        ),
        (
            r#"{"http": {"scrape_routes": ["/announce"]}}"#,
            "http.scrape_routes: routes \"/announce\" and \"/announce\" match the same paths",
        ),
        (
            r#"{"udp": {"private_key": "********"}}"#,
            "udp.private_key: is the mask that print-config shows instead of a key; write the key itself",
        ),
    ] {
        assert_eq!(read(text).map(|_| ()).unwrap_err(), format!("tracker.json: {expected}"));
    }
}

#[test]
fn a_file_of_chihaya_is_pointed_to_import_config() {
    let error = read_as("chihaya.yaml", "---\nchihaya:\n  announce_interval: 30m\n", &[]).unwrap_err();
    assert!(
        error.starts_with("chihaya.yaml: key `chihaya`") && error.contains("hayate import-config"),
        "{error}"
    );
}

#[test]
fn yaml_mistakes_name_the_place_and_show_no_secret() {
    let error = read_as("t.yaml", "udp:\n  private_key: hunter2hunter2\n  workers: [\n", &[]).unwrap_err();
    assert!(error.starts_with("t.yaml: ") && !error.contains("hunter2"), "{error}");
    let error = read_as("t.yaml", "udp:\n  private_key: 12345678901234567\n", &[]).unwrap_err();
    assert!(error.contains("udp.private_key: invalid type: number") && !error.contains("1234567"), "{error}");
    let error = read_as("t.yaml", "udp:\n  workers: 1\n  workers: 2\n", &[]).unwrap_err();
    assert!(error.contains("workers"), "{error}");
}

#[test]
fn a_bad_variable_is_named() {
    for (name, value, expected) in [
        (
            "HAYATE__UDP__WORKERS",
            "-1",
            "HAYATE__UDP__WORKERS: udp.workers: invalid value: integer `-1`, expected an integer from 0 to \
             1024",
        ),
        (
            "HAYATE__METRICS__PORT",
            "1",
            "HAYATE__METRICS__PORT: there is no key metrics.port, expected one of metrics.addr, \
             metrics.prefix, metrics.pprof, metrics.clients",
        ),
        ("HAYATE__UDP", "{}", "HAYATE__UDP: udp is a block of keys, set one of them"),
        ("HAYATE__MODE__X", "1", "HAYATE__MODE__X: there is no key mode.x, mode has no keys"),
        (
            "HAYATE__INTERVALS__MIN_ANNOUNCE",
            "2h",
            "HAYATE__INTERVALS__MIN_ANNOUNCE: intervals.min_announce: invalid value: 2h, expected 0, or a \
             duration \
             from 1s to intervals.announce (30m)",
        ),
        (
            "HAYATE__HTTP__TRUSTED_PROXIES",
            "[\"x\"]",
            "HAYATE__HTTP__TRUSTED_PROXIES: http.trusted_proxies[0]: invalid value: string \"x\", expected a \
             network such as \"10.0.0.0/8\" or an address",
        ),
    ] {
        assert_eq!(read_as("t.json", "{}", &[(name, value)]).map(|_| ()).unwrap_err(), expected);
    }
    let error = read_as("t.json", "{}", &[("HAYATE__BOGUS", "1")]).unwrap_err();
    assert!(error.starts_with("HAYATE__BOGUS: there is no key bogus, expected one of mode, "), "{error}");
}

#[test]
fn a_missing_file_and_an_unset_variable_are_named() {
    let error = Config::read_file(Some(Path::new("/no/such/t.json")), &Environment::default()).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/t.json: No such file"), "{error}");
    let value = |name: &str| (name == "X").then(|| "/etc".to_owned());
    assert_eq!(expand("$X/t.json", value).unwrap(), "/etc/t.json");
    assert_eq!(expand("${X}y/$X$", value).unwrap(), "/etcy//etc$");
    assert_eq!(expand("a$/b", value).unwrap(), "a$/b");
    assert!(expand("$Y/t.json", value).unwrap_err().to_string().contains("the variable Y is not set"));
}

#[test]
fn an_empty_key_file_and_a_bad_list_are_refused() {
    let folder = TestFolder::new();
    folder.write("key", "\r\n");
    folder.write("list", "xyz\n");
    for (text, expected) in [
        (r#"{"udp": {"private_key_file": "key"}}"#, "udp.private_key_file: "),
        (r#"{"mode": "listed", "access": {"path": "list"}}"#, "access.path: "),
        (r#"{"mode": "listed", "access": {"path": "nowhere"}}"#, "access.path: "),
    ] {
        let path = folder.write("t.json", text);
        let config = Config::read_file(Some(&path), &Environment::default()).unwrap();
        let error = Settings::from_config(&config, &NoFetch).unwrap_err().to_string();
        assert!(error.contains("t.json: ") && error.contains(expected), "{error}");
    }
}

#[test]
fn mistakes_of_mode_private_name_the_keys() {
    for (text, expected) in [
        (
            r#"{"mode": "private", "database": {"dsn": ""}}"#,
            "database.dsn: invalid value: \"\", expected a database, because mode private keeps its users \
             there",
        ),
        (
            r#"{"mode": "private", "access": {"mode": "deny", "path": "x"}}"#,
            "access.mode: invalid value: \"deny\", expected \"off\" in mode private, where the database \
             says which torrents there are",
        ),
    ] {
        let error = read(text).unwrap_err();
        assert_eq!(error, format!("tracker.json: {expected}"));
    }
}
