//! What becomes of every key of the reference trackers.

use serde_json::{Value, json};

use super::*;

fn draft(text: &str) -> Draft {
    let draft = convert(Path::new("old"), text).unwrap_or_else(|error| panic!("{text}: {error:#}"));
    Config::from_tree(Path::new("old"), draft.tree()).unwrap_or_else(|error| panic!("{text}: {error}"));
    draft
}

fn report(draft: &Draft) -> Vec<String> {
    draft.lines().iter().map(ToString::to_string).collect()
}

/// Holds that a key under `chihaya` becomes `value` at `pointer`, and that a line of the report begins so.
fn holds(yaml: &str, pointer: &str, value: &Value, line: &str) {
    let text = format!("---\nchihaya:\n  {}\n", yaml.replace('\n', "\n  "));
    let draft = draft(&text);
    let tree = draft.tree();
    assert_eq!(tree.pointer(pointer).unwrap_or(&Value::Null), value, "{text}: {pointer}");
    let report = report(&draft);
    assert!(report.iter().any(|found| found.starts_with(line)), "{text}: no {line:?} in {report:#?}");
}

fn complaint(text: &str) -> String {
    let tree = match convert(Path::new("old"), text) {
        Ok(draft) => draft.tree(),
        Err(error) => return format!("{error:#}"),
    };
    Config::from_tree(Path::new("old"), tree).unwrap_err().to_string()
}

#[test]
fn intervals_of_chihaya_are_never_zero() {
    let announce = "/intervals/announce";
    holds("announce_interval: 25m", announce, &json!("25m"), "mapped announce_interval: ");
    holds(
        "announce_interval:",
        announce,
        &json!("30m"),
        "changed announce_interval: intervals.announce = 30m",
    );
    holds("announce_interval: 0s", announce, &json!("30m"), "changed announce_interval: ");
    holds("announce_interval: 1700", announce, &json!("1700s"), "changed announce_interval: ");
    holds("announce_interval: 1700000000000", announce, &json!("1700s"), "changed announce_interval: ");
    holds("announce_interval: 48h", announce, &json!("24h"), "changed announce_interval: ");
    let least = "/intervals/min_announce";
    holds("min_announce_interval: 12m30s", least, &json!("750s"), "mapped min_announce_interval: ");
    holds("announce_interval: 30m", least, &json!("15m"), "changed min_announce_interval: ");
    holds("announce_interval: 10m", least, &json!("10m"), "changed min_announce_interval: ");
    holds("min_announce_interval: 2h", least, &json!("30m"), "changed min_announce_interval: ");
    holds("", "/intervals/announce_drift", &json!(0), "mapped intervals.announce_drift: ");
}

#[test]
fn metrics_of_chihaya_keep_their_names() {
    holds("metrics_addr: ':6880'", "/metrics/addr", &json!(":6880"), "mapped metrics_addr: ");
    holds("metrics_addr: ':6880'", "/enable_metrics", &json!(true), "mapped metrics.prefix: ");
    holds("metrics_addr: ':6880'", "/metrics/prefix", &json!("chihaya"), "mapped metrics.prefix: ");
    holds("metrics_addr: ''", "/metrics/addr", &json!(""), "changed metrics_addr: ");
    holds("", "/enable_metrics", &json!(false), "changed metrics_addr: ");
}

#[test]
fn the_http_block_of_chihaya_is_taken_over() {
    let http = |line: &str| format!("http:\n  addr: ':7'\n  {line}");
    holds("http:", "/http/addr", &json!(""), "mapped http.addr: http.addr = \"\": there is no HTTP");
    holds(&http(""), "/http/addr", &json!(":7"), "mapped http.addr: ");
    for (name, seconds) in [("read", 2), ("write", 2), ("idle", 30)] {
        let (pointer, key) = (format!("/http/timeout/{name}"), format!("{name}_timeout"));
        let default = json!(format!("{seconds}s"));
        holds(&http(""), &pointer, &default, &format!("mapped http.{key}: http.timeout.{name} = "));
        holds(&http(&format!("{key}: 0s")), &pointer, &default, &format!("mapped http.{key}: "));
        holds(&http(&format!("{key}: 11s")), &pointer, &json!("11s"), &format!("mapped http.{key}: "));
        holds(&http(&format!("{key}: 1ms")), &pointer, &json!("100ms"), &format!("changed http.{key}: "));
    }
    let keep = "/http/enable_keepalive";
    holds(&http(""), keep, &json!(false), "mapped http.enable_keepalive: ");
    holds(&http("enable_keepalive: On"), keep, &json!(true), "mapped http.enable_keepalive: ");
    let most = "/http/max_scrape_infohashes";
    holds(&http(""), most, &json!(50), "mapped http.max_scrape_infohashes: ");
    holds(&http("max_scrape_infohashes: 5_00"), most, &json!(500), "mapped http.max_scrape_infohashes: ");
    holds(&http("max_scrape_infohashes: 7000"), most, &json!(1024), "changed http.max_scrape_infohashes: ");
    let timing = "http.enable_request_timing: ";
    holds(&http("enable_request_timing: yes"), most, &json!(50), &format!("mapped {timing}"));
    holds(&http("enable_request_timing: no"), most, &json!(50), &format!("dropped {timing}"));
    holds(&http("shiny: 1"), "/http/shiny", &Value::Null, "dropped http.shiny: unknown key");
}

#[test]
fn routes_and_the_proxy_of_chihaya_are_taken_over() {
    let http = |line: &str| format!("http:\n  addr: ':7'\n  {line}");
    for name in ["announce", "scrape"] {
        let (pointer, key) = (format!("/http/{name}_routes"), format!("http.{name}_routes: "));
        let routes = json!(["/x", "/y/:key"]);
        let line = http(&format!("{name}_routes: [/x, '/y/:key']"));
        holds(&line, &pointer, &routes, &format!("mapped {key}"));
        holds(&http(""), &pointer, &json!([format!("/{name}")]), &format!("changed {key}"));
    }
    let line = "changed http.real_ip_header: http.proxy_header = \"X-Real-IP\", trusted from loopback only: \
        list your proxies";
    let header = http("real_ip_header: X-Real-IP");
    holds(&header, "/http/proxy_header", &json!("X-Real-IP"), line);
    holds(&header, "/http/trusted_proxies", &json!(["127.0.0.0/8", "::1/128"]), line);
    holds(&http(""), "/http/proxy_header", &json!(""), "mapped http.addr: ");
}

#[test]
fn https_alone_works_now_and_files_without_a_server_are_dropped() {
    let files = "\n  tls_cert_path: c.pem\n  tls_key_path: k.pem";
    let alone = format!("http:\n  https_addr: ':7'{files}");
    holds(&alone, "/http/https_addr", &json!(":7"), "changed http.addr: ");
    holds(&alone, "/http/tls_cert_path", &json!("c.pem"), "mapped http.tls_cert_path: ");
    holds(&alone, "/http/tls_key_path", &json!("k.pem"), "mapped http.tls_key_path: ");
    holds(&format!("http:{files}"), "/http/tls_key_path", &Value::Null, "dropped http.tls_key_path: ");
    let error = complaint(&format!("chihaya:\n http:\n  addr: ':7'{files}\n"));
    assert!(error.contains("http.tls_cert_path: must specify https_addr"), "{error}");
}

#[test]
fn the_udp_block_of_chihaya_is_taken_over() {
    let udp = |line: &str| format!("udp:\n  addr: ':7'\n  {line}");
    holds("", "/udp/addr", &json!(""), "mapped udp.addr: udp.addr = \"\": there is no UDP");
    holds(&udp(""), "/udp/addr", &json!(":7"), "mapped udp.addr: ");
    let key = "0123456789012345";
    holds(&udp(&format!("private_key: {key}")), "/udp/private_key", &json!(key), "mapped udp.private_key: ");
    holds(&udp(""), "/udp/private_key", &Value::Null, "mapped udp.private_key: none was set");
    let skew = "/udp/max_clock_skew";
    holds(&udp("max_clock_skew: 11s"), skew, &json!("11s"), "mapped udp.max_clock_skew: ");
    holds(&udp(""), skew, &json!("0s"), "mapped udp.max_clock_skew: ");
    holds(&udp("max_clock_skew: -1s"), skew, &json!("0s"), "changed udp.max_clock_skew: ");
    let most = "/udp/max_scrape_infohashes";
    holds(&udp("max_scrape_infohashes: 500"), most, &json!(102), "changed udp.max_scrape_infohashes: ");
    holds(&udp("enable_request_timing: off"), most, &json!(50), "dropped udp.enable_request_timing: ");
}

#[test]
fn what_both_servers_had_alike_is_written_once() {
    let both = |http: &str, udp: &str| format!("http:\n  addr: ':7'\n  {http}\nudp:\n  addr: ':7'\n  {udp}");
    let alike = both("max_numwant: 70", "max_numwant: 70");
    holds(&alike, "/announce/max_numwant", &json!(70), "mapped udp.max_numwant: announce.max_numwant = 70");
    holds(&alike, "/udp/max_numwant", &Value::Null, "mapped http.max_numwant: announce.max_numwant = 70");
    let apart = both("max_numwant: 70", "max_numwant: 110");
    holds(&apart, "/http/max_numwant", &json!(70), "mapped http.max_numwant: http.max_numwant = 70");
    holds(&apart, "/udp/max_numwant", &json!(110), "mapped udp.max_numwant: udp.max_numwant = 110");
    holds(&apart, "/announce/max_numwant", &Value::Null, "mapped ");
    holds(&both("", ""), "/announce/max_numwant", &json!(100), "mapped http.max_numwant: ");
    holds(&both("", ""), "/announce/numwant", &json!(50), "mapped http.default_numwant: ");
    let heard = "changed udp.default_numwant: udp.numwant = 13; it is used now";
    holds(&both("default_numwant: 11", "default_numwant: 13"), "/udp/numwant", &json!(13), heard);
    let same = both("", "max_numwant: 50");
    holds(&same, "/announce/numwant", &json!(50), "mapped udp.default_numwant: ");
    let one = "http:\n  addr: ':7'\n  max_numwant: 77";
    holds(one, "/announce/max_numwant", &json!(77), "mapped http.max_numwant: ");
    let claims = both("allow_ip_spoofing: yes", "");
    let line = "changed http.allow_ip_spoofing: http.allow_ip_spoofing = true; ";
    holds(&claims, "/http/allow_ip_spoofing", &json!(true), line);
    holds(&claims, "/udp/allow_ip_spoofing", &json!(false), "mapped udp.allow_ip_spoofing: ");
    holds(&claims, "/announce/spoofing_sources", &json!(["0.0.0.0/0", "::/0"]), line);
}

#[test]
fn the_storage_of_chihaya_becomes_intervals() {
    let storage = |name: &str, line: &str| format!("storage:\n  name: {name}\n  config:\n    {line}");
    let (purge, peers) = ("/intervals/purge_inactive_peers", "/intervals/peer_inactivity");
    holds(&storage("memory", ""), purge, &json!("3m"), "mapped storage.config.gc_interval: ");
    holds(&storage("memory", "gc_interval: 7m"), purge, &json!("7m"), "mapped storage.config.gc_interval: ");
    holds(&storage("memory", ""), peers, &json!("30m"), "mapped storage.config.peer_lifetime: ");
    holds(
        &storage("memory", "peer_lifetime: 31m"),
        peers,
        &json!("31m"),
        "mapped storage.config.peer_lifetime",
    );
    holds(&storage("memory", ""), peers, &json!("30m"), "mapped storage.name: ");
    let line = "changed storage.name: swarms are always in memory; set cluster.redis.url and cluster.secret";
    holds(&storage("redis", ""), peers, &json!("30m"), line);
    holds(&storage("tape", ""), peers, &json!("30m"), "dropped storage.name: there is no storage \"tape\"");
    holds("", peers, &json!("30m"), "changed storage.name: it is missing");
    for key in ["shard_count", "prometheus_reporting_interval"] {
        let line = format!("dropped storage.config.{key}: not needed");
        holds(&storage("memory", &format!("{key}: 1")), peers, &json!("30m"), &line);
    }
    for key in ["redis_broker", "redis_connect_timeout", "redis_read_timeout", "redis_write_timeout"] {
        let line = format!("dropped storage.config.{key}: set cluster.redis.url and cluster.secret if");
        holds(&storage("redis", &format!("{key}: 1")), peers, &json!("30m"), &line);
    }
}

fn hooks(list: &str, entry: &str) -> String {
    format!("{list}:\n  - {entry}")
}

#[test]
fn hooks_of_chihaya_keep_names_and_options() {
    let first = "/prehooks/0";
    for (name, entry) in [("client approval", "OP1011, 010203"), ("torrent approval", &"aB".repeat(20))] {
        for list in ["whitelist", "blacklist"] {
            let yaml = hooks("prehooks", &format!("{{name: {name}, options: {{{list}: [{entry}]}}}}"));
            let entries: Vec<&str> = entry.split(", ").collect();
            let value = json!({"name": name, "options": {list: entries}});
            holds(&yaml, first, &value, &format!("mapped prehooks[0].name: {name:?}"));
            let behind = hooks("posthooks", &format!("{{name: {name}, options: {{{list}: [{entry}]}}}}"));
            holds(&behind, "/posthooks/0", &value, "mapped posthooks[0].name: ");
        }
    }
    let jwt = "{name: jwt, options: {issuer: i, audience: a, jwk_set_url: 'https://j/'";
    let value = |pause: &str| {
        let url = "https://j/";
        json!({"name": "jwt", "options":
            {"issuer": "i", "audience": "a", "jwk_set_url": url, "jwk_set_update_interval": pause}})
    };
    let key = "prehooks[0].options.jwk_set_update_interval: ";
    let mapped = "mapped prehooks[0].name: \"jwt\"";
    holds(
        &hooks("prehooks", &format!("{jwt}, jwk_set_update_interval: 7m}}}}")),
        first,
        &value("7m"),
        mapped,
    );
    holds(&hooks("prehooks", &format!("{jwt}}}}}")), first, &value("5m"), &format!("changed {key}"));
    let bare = hooks("prehooks", &format!("{jwt}, jwk_set_update_interval: 70}}}}"));
    holds(&bare, first, &value("70s"), &format!("changed {key}"));
    let variation =
        "{name: interval variation, options: {modify_response_probability: .2, max_increase_delta: 60}}";
    let value = json!({"name": "interval variation", "options":
        {"modify_response_probability": 0.2, "max_increase_delta": 60, "modify_min_interval": false}});
    holds(&hooks("prehooks", variation), first, &value, "mapped prehooks[0].name: \"interval variation\"");
    holds(&hooks("posthooks", variation), "/posthooks", &Value::Null, "dropped posthooks[0].name: ");
    holds("prehooks:\nposthooks: []", "/prehooks", &Value::Null, "mapped ");
}

#[test]
fn odd_hooks_of_chihaya_are_reported_or_refused() {
    let (none, first) = (Value::Null, "/prehooks/0/options/blacklist");
    let both =
        hooks("prehooks", "{name: client approval, options: {whitelist: [AAAAAA], blacklist: [BBBBBB]}}");
    holds(&both, first, &none, "dropped prehooks[0].options.blacklist: both lists");
    let short = hooks("prehooks", "{name: client approval, options: {whitelist: [AAAAAA, B]}}");
    holds(&short, first, &none, "dropped prehooks[0].options.whitelist: \"B\" is not 6 octets");
    let empty = hooks("prehooks", "{name: torrent approval}");
    holds(&empty, first, &none, "mapped prehooks[0].options.whitelist: both lists of");
    holds(&hooks("prehooks", "{name: own}"), first, &none, "dropped prehooks[0].name: there is no hook");
    let wide =
        "{name: interval variation, options: {modify_response_probability: 1, max_increase_delta: 100000}}";
    let (delta, text) =
        ("max_increase_delta", "changed prehooks[0].options.max_increase_delta: it was 100000");
    holds(&hooks("prehooks", wide), &format!("/prehooks/0/options/{delta}"), &json!(86_400), text);
    let more = hooks("prehooks", "{name: torrent approval, shiny: 1, options: {shinier: 2}}");
    holds(&more, first, &none, "dropped prehooks[0].shiny: unknown key");
    holds(&more, first, &none, "dropped prehooks[0].options.shinier: unknown key");
    for (entry, words) in [
        ("{name: client approval, options: {whitelist: [A]}}", "whitelist: \"A\" is not 6 octets"),
        ("{name: torrent approval, options: {blacklist: [07]}}", "blacklist: \"07\" is not 40"),
        ("{name: jwt, options: {issuer: i}}", "prehooks[0].options.audience: it is missing"),
        ("{name: interval variation, options: {max_increase_delta: 1}}", "modify_response_probability"),
        (
            "{name: interval variation, options: {modify_response_probability: 1}}",
            "options.max_increase_delta",
        ),
        ("7", "prehooks[0]: a block of keys is expected"),
    ] {
        let error = complaint(&format!("chihaya:\n prehooks:\n  - {entry}\n"));
        assert!(error.starts_with("old: ") && error.contains(words), "{entry}: {error}");
    }
}

#[test]
fn keys_outside_are_reported_and_peer_ids_are_kept() {
    let draft = draft("x-rest: 1\nchihaya: {unknown_key: 7}\n");
    let report = report(&draft);
    for line in ["dropped x-rest: ", "dropped unknown_key: ", "mapped announce.keep_peer_ids: "] {
        assert!(report.iter().any(|found| found.starts_with(line)), "{line}: {report:#?}");
    }
    assert_eq!(draft.tree()["announce"]["keep_peer_ids"], true);
    assert_eq!(draft.tree()["mode"], "open");
}

#[test]
fn what_cannot_be_converted_names_file_and_key() {
    for (text, words) in [
        ("chihaya: {http: 7}", "old: http: a block of keys is expected"),
        ("chihaya: {announce_interval: soon}", "old: announce_interval: \"soon\" is there"),
        ("chihaya: {http: {max_numwant: [1]}}", "old: http.max_numwant: an integer is expected"),
        ("chihaya: {udp: {addr: '7'}}", "old: udp.addr: invalid value: string \"7\""),
        ("chihaya: [", "old: "),
        ("{\"http\": {", "old: EOF while parsing"),
        ("{\"intervals\": {}, \"intervals\": {}}", "old: the key `intervals` occurs twice"),
        ("{\"mode\": \"open\"}", "old: mode: this is a configuration of hayate already"),
        ("{\"shiny\": 1}", "old: neither chihaya's YAML"),
        ("[]", "old: neither chihaya's YAML"),
        ("", "old: neither chihaya's YAML"),
    ] {
        let error = complaint(text);
        assert!(error.starts_with(words), "{text}: {error}");
    }
    let error = complaint("chihaya: {udp: {private_key: [hunter2]}}");
    assert!(error.contains("udp.private_key") && !error.contains("hunter2"), "{error}");
    assert_eq!(draft("\u{feff}{\"chihaya\": {\"udp\": {\"addr\": \":7\"}}}").tree()["udp"]["addr"], ":7");
}

#[test]
fn a_good_private_configuration_has_nothing_to_look_at() {
    let text = r#"{"http": {"addr": "127.0.0.1:34000", "timeout": {"read": 700, "write": 1100, "idle": 130}},
        "database": {"dsn": "t:hunter2@tcp(h:1)/x"}, "enable_metrics": true}"#;
    let draft = draft(text);
    assert!(!draft.needs_attention(), "{:#?}", report(&draft));
    assert!(report(&draft).iter().all(|line| !line.contains("hunter2")));
    let expected = json!({
        "mode": "private",
        "http": {
            "addr": "127.0.0.1:34000",
            "timeout": {"read": "700ms", "write": "1100ms", "idle": "130s"},
            "proxy_header": "X-Real-Ip",
            "trusted_proxies": ["127.0.0.0/8", "::1/128"],
        },
        "database": {"dsn": "t:hunter2@tcp(h:1)/x"},
        "enable_metrics": true,
        "metrics": {"addr": "", "prefix": "chihaya"},
    });
    assert_eq!(draft.tree(), expected);
}

#[test]
fn bad_and_unknown_keys_of_a_private_configuration_are_reported() {
    let text = r#"{"intervals": {"announce": "soon", "flush": 0, "scrape": 1800.0, "shiny": 1,
        "min_announce": null},
        "http": {"timeout": {"read": 20, "write": "300ms"}}, "database": {"dsn": ["hunter2"]}, "channels": 7,
        "shinier": {"a": 1}, "udp": {"addr": ":7"}}"#;
    let draft = draft(text);
    let report = report(&draft);
    for line in [
        "changed intervals.announce: invalid value: string \"soon\", expected a duration",
        "changed intervals.flush: invalid value: integer `0`",
        "changed intervals.scrape: invalid type: floating point",
        "dropped intervals.shiny: unknown key",
        "mapped intervals.min_announce: null",
        "changed http.timeout.read: 100ms: it was out of range",
        "changed http.timeout.write: 300ms: it was no number above 0",
        "mapped http.timeout.idle: 5m: the reference tracker's default",
        "changed database.dsn: expected a string",
        "changed channels: invalid type",
        "dropped shinier: unknown key",
        "mapped udp: a key of hayate's own",
        "mapped enable_metrics: false",
        "changed http.proxy_header: X-Real-Ip was trusted from any address, now from loopback only",
    ] {
        assert!(report.iter().any(|found| found.starts_with(line)), "{line}: {report:#?}");
    }
    assert!(report.iter().all(|line| !line.contains("hunter2")));
    assert_eq!(draft.tree().get("intervals"), None);
    assert_eq!(super::tests::draft("{}").tree()["mode"], "private");
}

#[test]
fn no_text_makes_an_import_panic_and_what_is_accepted_is_one_line_a_key() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let pieces =
        ["{", "}", "[", "]", "\"", ":", ",", "-", "&a", "*a", "<<", "null", "9e9", "\u{e9}", "\n", " ", "#"];
    for sample in ["chihaya.yaml", "chihaya-redis.yaml", "oddities.yaml", "private.json", "private-odd.json"]
    {
        let path = format!("{}/tests/kit/fixtures/import/{sample}", env!("CARGO_MANIFEST_DIR"));
        let characters: Vec<char> = std::fs::read_to_string(path).unwrap().chars().collect();
        for _ in 0..100 {
            let mut mangled = characters.clone();
            for _ in 0..random.usize(1..5) {
                let start = random.usize(..mangled.len());
                let end = (start + random.usize(..6)).min(mangled.len());
                let piece = pieces[random.usize(..pieces.len())];
                mangled.splice(start..end, piece.chars());
            }
            let text: String = mangled.into_iter().collect();
            if let Ok(draft) = convert(Path::new("old"), &text) {
                assert!(report(&draft).iter().all(|line| !line.contains('\n')), "{text}");
                let _ = Config::from_tree(Path::new("old"), draft.tree());
            }
        }
    }
}
