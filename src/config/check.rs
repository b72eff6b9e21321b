//! What must hold between settings, and warnings about settings that are legal but unwise.

use std::time::Duration;

use hayate_gateway::engine::routes::TrackerRoutes;

use super::bounded::duration_text;
use super::cluster::Cluster;
use super::cluster_settings::check_cluster;
use super::database::Database;
use super::document::{AccessMode, Document, Mode, PEER_INACTIVITY_MAX};
use super::servers::Http;
use super::{Config, ConfigError};

/// Fewest octets of a key that cannot be found by trying all.
const PRIVATE_KEY_SAFE_LEN: usize = 16;
/// The key in the sample files of the reference tracker.
const PRIVATE_KEY_SAMPLE: &[u8] = b"paste a random string here that will be used to hmac connection IDs";

/// Checks what the types of the settings cannot check, and returns warnings.
pub(super) fn check_config(config: &Config) -> Result<Vec<String>, ConfigError> {
    check_intervals(config)?;
    check_database(config)?;
    check_access(config)?;
    check_routes(config)?;
    check_tls(config)?;
    check_cluster(config)?;
    let document = &config.document;
    if !document.udp.private_key.reveal().is_empty() && !document.udp.private_key_file.is_empty() {
        return Err(
            config.value_error("udp.private_key_file", "udp.private_key is set too; one of them is allowed")
        );
    }
    if super::show::is_mask(document.udp.private_key.reveal()) {
        let text = "is the mask that print-config shows instead of a key; write the key itself";
        return Err(config.value_error("udp.private_key", text));
    }
    if document.privileges.user.is_empty() && !document.privileges.group.is_empty() {
        let text = format!("{:?} without privileges.user; set both or none", document.privileges.group);
        return Err(config.value_error("privileges.group", text));
    }
    Ok(warnings(document))
}

fn check_intervals(config: &Config) -> Result<(), ConfigError> {
    let intervals = &config.document.intervals;
    if config.document.mode == Mode::Private {
        return Ok(());
    }
    let (silence, most) = (intervals.peer_inactivity.duration(), Duration::from_millis(PEER_INACTIVITY_MAX));
    if !(Duration::from_secs(60)..=most).contains(&silence) {
        let text = format!(
            "invalid value: {}, expected a duration from 1m to {} in this mode",
            duration_text(silence),
            duration_text(most)
        );
        return Err(config.value_error("intervals.peer_inactivity", text));
    }
    let (least, announce) = (intervals.min_announce.duration(), intervals.announce.duration());
    if least.is_zero() || (Duration::from_secs(1)..=announce).contains(&least) {
        return Ok(());
    }
    let text = format!(
        "invalid value: {}, expected 0, or a duration from 1s to intervals.announce ({})",
        duration_text(least),
        duration_text(announce),
    );
    Err(config.value_error("intervals.min_announce", text))
}

fn check_database(config: &Config) -> Result<(), ConfigError> {
    let database = &config.document.database;
    if config.document.mode == Mode::Private && database.dsn_file.is_empty() && database.dsn.dsn().is_none() {
        let text = "invalid value: \"\", expected a database, because mode private keeps its users there";
        return Err(config.value_error("database.dsn", text));
    }
    if !database.dsn_file.is_empty() && database.dsn != Database::default().dsn {
        return Err(
            config.value_error("database.dsn_file", "database.dsn is set too; one of them is allowed")
        );
    }
    for (key, path) in
        [("database.spill_dir", &database.spill_dir), ("database.dead_letter", &database.dead_letter)]
    {
        if path.is_empty() {
            return Err(config.value_error(key, "invalid value: \"\", expected a path"));
        }
    }
    Ok(())
}

fn check_access(config: &Config) -> Result<(), ConfigError> {
    let (mode, access) = (config.document.mode, &config.document.access);
    if mode == Mode::Private {
        if access.mode != AccessMode::Off {
            let mode = if access.mode == AccessMode::Allow { "allow" } else { "deny" };
            let text = format!(
                "invalid value: {mode:?}, expected \"off\" in mode private, where the database says which \
                 torrents there are"
            );
            return Err(config.value_error("access.mode", text));
        }
        return Ok(());
    }
    if mode == Mode::Listed && access.mode == AccessMode::Deny {
        let text = "invalid value: \"deny\", expected \"off\" or \"allow\" in mode listed, where the list \
            holds the registered torrents";
        return Err(config.value_error("access.mode", text));
    }
    let database = &config.document.database;
    let needed = match (mode, access.mode) {
        (Mode::Listed, _) if database.dsn.dsn().is_some() || !database.dsn_file.is_empty() => return Ok(()),
        (Mode::Listed, _) => "mode listed without a database",
        (_, AccessMode::Allow) => "access.mode allow",
        (_, AccessMode::Deny) => "access.mode deny",
        (_, AccessMode::Off) => return Ok(()),
    };
    if access.path.is_empty() {
        let text =
            format!("invalid value: \"\", expected the path of a list of torrents, because of {needed}");
        return Err(config.value_error("access.path", text));
    }
    Ok(())
}

fn check_routes(config: &Config) -> Result<(), ConfigError> {
    let http = &config.document.http;
    if http.announce_routes.is_empty() && http.scrape_routes.is_empty() {
        return Err(config.value_error("http.announce_routes", "must specify routes"));
    }
    TrackerRoutes::new(&http.announce_routes, &[])
        .map_err(|error| config.value_error("http.announce_routes", error.to_string()))?;
    TrackerRoutes::new(&http.announce_routes, &http.scrape_routes)
        .map_err(|error| config.value_error("http.scrape_routes", error.to_string()))?;
    Ok(())
}

fn check_tls(config: &Config) -> Result<(), ConfigError> {
    let http = &config.document.http;
    let named = [&http.tls_cert_path, &http.tls_key_path].map(|path| !path.is_empty());
    match (http.https_addr.is_off(), named) {
        (true, [false, false]) | (false, [true, true]) => Ok(()),
        (false, _) => Err(config.value_error(
            "http.https_addr",
            "must specify tls_cert_path and tls_key_path when using https_addr",
        )),
        (true, _) => Err(config.value_error(
            "http.tls_cert_path",
            "must specify https_addr when using tls_cert_path and tls_key_path",
        )),
    }
}

fn warnings(document: &Document) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |unwise: bool, text: &str| {
        if unwise {
            warnings.push(text.to_owned());
        }
    };
    let Document { udp, http, announce, access, intervals, .. } = document;
    let all_servers_off =
        udp.addr.is_off() && http.addr.is_off() && http.https_addr.is_off() && http.unix_socket.is_empty();
    warn(
        all_servers_off,
        "udp.addr, http.addr, http.https_addr and http.unix_socket are empty: nobody can announce",
    );
    let silence = intervals.announce.duration() + intervals.announce_drift.duration();
    warn(
        intervals.peer_inactivity.duration() <= silence,
        "intervals.peer_inactivity is not above intervals.announce and announce_drift together: peers are \
         forgotten between their announces",
    );
    warn(
        document.mode == Mode::Private && intervals.peer_inactivity.duration() < 2 * silence,
        "intervals.peer_inactivity is less than twice intervals.announce and announce_drift together: a \
         client that misses one announce loses its time",
    );
    let longest = silence.as_secs();
    warn(
        document.mode != Mode::Private && (intervals.announce.duration().as_secs() < 300 || longest > 10_800),
        "intervals.announce, with announce_drift, is not within 300 to 10800 seconds: public lists of \
         trackers and their monitors take that for a mistake",
    );
    warn(
        document.mode != Mode::Private && document.record_announces,
        "record_announces has an effect in mode private only",
    );
    warn(
        !document.cluster.is_on() && document.cluster != Cluster::default(),
        "cluster.redis.url is empty: there is no cluster, and no key of cluster has an effect",
    );
    proxies(http).into_iter().for_each(|(unwise, text)| warn(unwise, text));
    let spoofing = announce.allow_ip_spoofing
        || udp.allow_ip_spoofing == Some(true)
        || http.allow_ip_spoofing == Some(true);
    warn(
        spoofing && announce.spoofing_sources.is_empty(),
        "allow_ip_spoofing is set but announce.spoofing_sources is empty: no claimed address is honoured",
    );
    warn(
        spoofing && announce.spoofing_sources.iter().any(|network| network.0.prefix_len() == 0),
        "announce.spoofing_sources holds the whole internet: anybody can put any address into a swarm",
    );
    warn(
        document.mode != Mode::Listed && access.mode == AccessMode::Off && !access.path.is_empty(),
        "access.path is not read while access.mode is off",
    );
    warn(
        document.posthooks.iter().any(|hook| hook.name == "interval variation"),
        "interval variation has no effect under posthooks: the interval of the reply is settled before them",
    );
    warn(
        document.prehooks.iter().any(|hook| hook.name == "jwt")
            && document.posthooks.iter().any(|hook| hook.name == "jwt"),
        "the hook jwt is in prehooks and in posthooks: the second has nothing to refuse",
    );
    let key = udp.private_key.reveal();
    warnings
        .extend(key_warning(key).filter(|_| !key.is_empty()).map(|text| format!("udp.private_key {text}")));
    warnings
}

/// Returns whether the settings of proxies are unwise, and why.
fn proxies(http: &Http) -> [(bool, &'static str); 3] {
    let (has_header, has_socket) = (!http.proxy_header.0.is_empty(), !http.unix_socket.is_empty());
    [
        (
            has_header && http.trusted_proxies.is_empty() && !has_socket,
            "http.proxy_header is set but http.trusted_proxies is empty: the header is never believed",
        ),
        (
            has_socket && !has_header,
            "http.unix_socket is set but http.proxy_header is empty: nobody can announce through the socket",
        ),
        (
            http.unix_socket_mode.is_open_to_others(),
            "http.unix_socket_mode lets every user of this machine connect, and name the addresses of peers",
        ),
    ]
}

/// Returns why a key of the connection ids is unwise, if it is.
pub(super) fn key_warning(key: &[u8]) -> Option<&'static str> {
    if key == PRIVATE_KEY_SAMPLE {
        return Some("is the text of a sample file, which everybody knows");
    }
    (key.len() < PRIVATE_KEY_SAFE_LEN)
        .then_some("has fewer than 16 octets: connection ids can be forged by searching")
}
