//! The blocks `http` and `udp` of chihaya. A setting that each server had for itself goes to
//! `announce` if both agree.

use std::time::Duration;

use serde_json::{Value, json};

use super::block::Block;
use super::report::{Draft, ImportError};
use super::rule::{ConvertedValue, DurationRule, IntRule, WhenUnset, take_duration, take_int, take_switch};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const ALWAYS_TIMED: &str = "requests are always timed";

/// The settings that both servers have.
#[derive(Debug)]
pub(super) struct ServerSettings {
    /// Whether the server was on.
    enabled: bool,
    spoofing: ConvertedValue<bool>,
    max_numwant: ConvertedValue<u32>,
    numwant: ConvertedValue<u32>,
}

/// The settings of both servers.
#[derive(Debug)]
pub(super) struct BothServers {
    pub(super) http: ServerSettings,
    pub(super) udp: ServerSettings,
}

impl ServerSettings {
    fn take_from(block: &mut Block, on: bool) -> Result<Self, ImportError> {
        let number = |name, default| IntRule { name, default, min: 0, max: 65535 };
        let spoofing = block.switch("allow_ip_spoofing")?;
        Ok(Self {
            enabled: on,
            spoofing: ConvertedValue {
                key: block.key("allow_ip_spoofing"),
                value: spoofing.unwrap_or(false),
                given: spoofing.is_some(),
                notes: Vec::new(),
            },
            max_numwant: take_int(block, &number("max_numwant", 100))?,
            numwant: take_int(block, &number("default_numwant", 50))?,
        })
    }
}

/// Converts the block `http`.
pub(super) fn take_http(block: &mut Block, draft: &mut Draft) -> Result<ServerSettings, ImportError> {
    let mut http = block.block("http")?;
    let on = http_addresses(&mut http, draft)?;
    timeouts(&mut http, draft)?;
    take_switch(&mut http, draft, ("enable_keepalive", "http.enable_keepalive"), false)?;
    routes(&mut http, draft, on)?;
    let header = http.text("real_ip_header")?;
    if !header.is_empty() {
        let text = format!(
            "http.proxy_header = {header:?}, trusted from loopback only: list your proxies in \
             http.trusted_proxies"
        );
        draft.changed(http.key("real_ip_header"), text);
    }
    draft.put("http.proxy_header", header);
    draft.put("http.trusted_proxies", json!(["127.0.0.0/8", "::1/128"]));
    take_common(http, draft, on, ("http.max_scrape_infohashes", 1024))
}

/// Converts the address. Returns whether the server is on.
fn http_addresses(http: &mut Block, draft: &mut Draft) -> Result<bool, ImportError> {
    let (addr, https) = (http.text("addr")?, http.text("https_addr")?);
    let key = http.key("addr");
    match (addr.is_empty(), https.is_empty()) {
        (false, _) => draft.mapped(key, format!("http.addr = {addr:?}")),
        (true, true) => draft.mapped(key, "http.addr = \"\": there is no HTTP"),
        (true, false) => {
            draft.changed(key, "http.addr = \"\": HTTPS alone did not start, now it does");
        }
    }
    draft.put("http.addr", addr.clone());
    let files = [http.text("tls_cert_path")?, http.text("tls_key_path")?];
    if !https.is_empty() {
        draft.mapped(http.key("https_addr"), format!("http.https_addr = {https:?}"));
    }
    let off = addr.is_empty() && https.is_empty();
    draft.put("http.https_addr", https);
    for (name, path) in ["tls_cert_path", "tls_key_path"].into_iter().zip(files) {
        match (path.is_empty(), off) {
            (true, _) => {}
            (false, true) => draft.dropped(http.key(name), "there is no HTTP"),
            (false, false) => {
                draft.mapped(http.key(name), format!("http.{name} = {path:?}"));
                draft.put(&format!("http.{name}"), path);
            }
        }
    }
    Ok(!off)
}

fn timeouts(http: &mut Block, draft: &mut Draft) -> Result<(), ImportError> {
    for (name, to, seconds) in [
        ("read_timeout", "http.timeout.read", 2),
        ("write_timeout", "http.timeout.write", 2),
        ("idle_timeout", "http.timeout.idle", 30),
    ] {
        let rule = DurationRule {
            name,
            to,
            default: seconds * SECOND,
            when_unset: WhenUnset::Default,
            min: Duration::from_millis(100),
            max: HOUR,
        };
        take_duration(http, draft, &rule)?;
    }
    Ok(())
}

fn routes(http: &mut Block, draft: &mut Draft, on: bool) -> Result<(), ImportError> {
    for (name, default) in [("announce_routes", "/announce"), ("scrape_routes", "/scrape")] {
        let (key, to) = (http.key(name), format!("http.{name}"));
        let routes = http.texts(name)?;
        if !routes.is_empty() {
            draft.mapped(key, format!("{to} = {routes:?}"));
            draft.put(&to, routes);
            continue;
        }
        draft.put(&to, json!([default]));
        if on {
            draft.changed(
                key,
                format!("there were none, which the reference tracker refuses; {default:?} now"),
            );
        }
    }
    Ok(())
}

/// Converts the block `udp`.
pub(super) fn take_udp(block: &mut Block, draft: &mut Draft) -> Result<ServerSettings, ImportError> {
    let mut udp = block.block("udp")?;
    let (addr, key) = (udp.text("addr")?, udp.text("private_key")?);
    let on = !addr.is_empty();
    let text = if on { format!("udp.addr = {addr:?}") } else { "udp.addr = \"\": there is no UDP".into() };
    draft.mapped(udp.key("addr"), text);
    draft.put("udp.addr", addr);
    let named = udp.key("private_key");
    if key.is_empty() {
        draft.mapped(named, "none was set; one is generated at the first start and kept in state_dir");
    } else {
        draft.mapped(named, "udp.private_key, not shown here");
        draft.put("udp.private_key", key);
    }
    let rule = DurationRule {
        name: "max_clock_skew",
        to: "udp.max_clock_skew",
        default: Duration::ZERO,
        when_unset: WhenUnset::Zero,
        min: Duration::ZERO,
        max: 600 * SECOND,
    };
    take_duration(&mut udp, draft, &rule)?;
    // As many as fit into one packet.
    take_common(udp, draft, on, ("udp.max_scrape_infohashes", 102))
}

/// Takes the settings that both servers have.
fn take_common(
    mut block: Block,
    draft: &mut Draft,
    on: bool,
    (to, max): (&str, u32),
) -> Result<ServerSettings, ImportError> {
    let server = ServerSettings::take_from(&mut block, on)?;
    let rule = IntRule { name: "max_scrape_infohashes", default: 50, min: 1, max };
    let converted = take_int(&mut block, &rule)?;
    draft.put(to, converted.value);
    draft.report_converted(converted.key.clone(), &note_of(&converted, to), &converted.notes);
    let name = "enable_request_timing";
    match block.switch(name)? {
        Some(true) => draft.mapped(block.key(name), ALWAYS_TIMED),
        Some(false) => draft.dropped(block.key(name), ALWAYS_TIMED),
        None => {}
    }
    block.finish(draft);
    Ok(server)
}

fn note_of<T: std::fmt::Display>(converted: &ConvertedValue<T>, to: &str) -> String {
    let default = if converted.given { "" } else { ", the reference tracker's default" };
    format!("{to} = {}{default}", converted.value)
}

impl BothServers {
    /// Puts the settings that both servers have: once if they agree.
    pub(super) fn put_settings(self, draft: &mut Draft) {
        let Self { mut http, mut udp } = self;
        // Over UDP a client always says how many peers it wants; -1 was taken as more than any maximum.
        let was_unused = udp.enabled && udp.numwant.value != udp.max_numwant.value;
        if was_unused {
            let text = format!(
                "it is used now: clients that leave the number open got {}, and get {}",
                udp.max_numwant.value, udp.numwant.value
            );
            udp.numwant.notes.push(text);
        }
        let everywhere = "the address a client claims is honoured from everybody, by \
            announce.spoofing_sources = 0.0.0.0/0, ::/0, so that anybody can put any address into a swarm: \
            list the sources that you trust";
        for server in [&mut http, &mut udp] {
            if server.spoofing.value {
                server.spoofing.notes.push(everywhere.into());
                draft.put("announce.spoofing_sources", json!(["0.0.0.0/0", "::/0"]));
            }
        }
        let open = [http.enabled, udp.enabled];
        put_pair(draft, open, "allow_ip_spoofing", [http.spoofing, udp.spoofing]);
        put_pair(draft, open, "max_numwant", [http.max_numwant, udp.max_numwant]);
        put_pair(draft, open, "numwant", [http.numwant, udp.numwant]);
    }
}

/// Puts a value of both servers. A server that is off and has no value follows the other.
fn put_pair<T>(draft: &mut Draft, open: [bool; 2], name: &str, [mut http, mut udp]: [ConvertedValue<T>; 2])
where
    T: Copy + PartialEq + std::fmt::Display + Into<Value>,
{
    let [http_follows, udp_follows] = [!open[0] && !http.given, !open[1] && !udp.given];
    if http_follows {
        http.value = udp.value;
    } else if udp_follows {
        udp.value = http.value;
    }
    let equal = http.value == udp.value;
    if equal {
        draft.put(&format!("announce.{name}"), http.value);
    }
    for (converted, server, follows) in [(http, "http", http_follows), (udp, "udp", udp_follows)] {
        if follows {
            continue;
        }
        let to = if equal { format!("announce.{name}") } else { format!("{server}.{name}") };
        draft.report_converted(converted.key.clone(), &note_of(&converted, &to), &converted.notes);
        if !equal {
            draft.put(&to, converted.value);
        }
    }
}
