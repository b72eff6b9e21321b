//! From the document to the settings of the crates. The files that the document names are read here, and
//! names of hosts, services, users and groups are looked up, so that a configuration is accepted or refused
//! as a whole.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hayate_gateway::config as gateway;
use hayate_gateway::tls::Tls;
use hayate_state::admission::access::Access;
use hayate_state::admission::hooks::jwk::KeyringSource;
use hayate_state::admission::hooks::{HookInputs, Hooks};
use hayate_state::admission::rate_limit::{RateLimit, RateLimiter};
use hayate_state::admission::{OverLimitAction, RateLimitRule};
use hayate_state::report::export;
use hayate_state::store::{Bounds, Dsn, SpillPaths, WriterSettings};
use hayate_state::{Clock, Policy, text};
use hayate_udp::config as udp;
use ipnet::IpNet;
use nix::unistd::Gid;

use super::address::{Listen, Transport};
use super::check::key_warning;
use super::cluster_settings::{ClusterSettings, key_note};
use super::database::DataSource;
use super::document::{self, AccessMode, Document, HookEntry, LimitAnswer, Mode};
use super::values::Network;
use super::{Config, ConfigError};
use crate::process::malloc_trim::available_memory;
use crate::process::privileges::{Identity, find_group};

/// Where names of services are looked up.
const SERVICES: &str = "/etc/services";
/// File of the generated key, in `state_dir`.
const KEY_FILE: &str = "udp.key";
/// Longest key of the connection ids, in octets.
const KEY_MAX: usize = 4096;
/// Allowed lengths of a token, in octets.
const TOKEN_LEN: std::ops::RangeInclusive<usize> = 16..=128;

/// The settings of all crates, ready to be applied.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Decisions about announces.
    pub(crate) policy: Policy,
    /// The UDP server, if it is on; its key is still missing if [`Settings::key`] is `None`.
    pub(crate) udp: Option<(udp::SocketConfig, udp::UdpConfig)>,
    /// Sockets of the gateway and the operator's pages; possibly none.
    pub(crate) listen: gateway::ListenConfig,
    /// The gateway.
    pub(crate) http: gateway::HttpConfig,
    /// The key of the connection ids, if one is configured; otherwise it is derived from the secret of the
    /// cluster or, without a cluster, generated.
    pub(crate) key: Option<Vec<u8>>,
    /// Where a generated key is kept.
    pub(crate) key_file: PathBuf,
    /// The settings of the storage.
    pub(crate) storage: StorageSettings,
    /// The cluster, if there is one.
    pub(crate) cluster: Option<ClusterSettings>,
    /// The token of the admin API, if there is one.
    pub(crate) admin_token: Option<AdminToken>,
    /// The user that the process becomes.
    pub(crate) identity: Option<Identity>,
    /// Warnings about the files: legal but unwise.
    pub(crate) warnings: Vec<String>,
    /// Notes about the files that may interest the operator.
    pub(crate) notes: Vec<String>,
}

/// What the storage keeps, and where.
#[derive(Clone, Debug)]
pub(crate) struct StorageSettings {
    /// The folder of everything that is kept.
    pub(crate) state_dir: PathBuf,
    /// The database, if there is one.
    pub(crate) dsn: Option<Dsn>,
    /// Where rows wait on the disk, and where refused rows end.
    pub(crate) spill_paths: SpillPaths,
    /// Limits of the rows that wait in memory.
    pub(crate) bounds: Bounds,
    /// How the store's writer works.
    pub(crate) writer_settings: WriterSettings,
    /// Whether announces with traffic are recorded in files (mode private).
    pub(crate) record_announces: bool,
    /// Seconds between two snapshots of the swarms.
    pub(crate) snapshot_seconds: u32,
    /// Seconds between two readings of the registered torrents.
    pub(crate) reload_seconds: u64,
    /// Seconds for which old rows of hayate's own tables stay; 0 = forever (mode private).
    pub(crate) history_seconds: u32,
    /// The file of the list of torrents, if there is one.
    pub(crate) access_path: Option<PathBuf>,
    /// Where the counts of all torrents are written, and how often.
    pub(crate) export: export::ExportSettings,
}

impl Settings {
    /// Reads what the configuration names and translates it.
    ///
    /// # Errors
    /// Fails when a file or a name that the configuration needs is missing or not accepted.
    pub(crate) fn from_config(config: &Config, keyrings: &dyn KeyringSource) -> Result<Self, ConfigError> {
        let document = &config.document;
        let (key, mut warnings) = key(config)?;
        let tls = tls(config, &mut warnings)?;
        let services = std::fs::read_to_string(SERVICES).unwrap_or_default();
        let resolve = |key: &str, listen: &Listen, transport| {
            listen.resolve(transport, &services).map_err(|error| config.value_error(key, error.to_string()))
        };
        let udp_addresses = resolve("udp.addr", &document.udp.addr, Transport::Udp)?;
        let http_addresses = resolve("http.addr", &document.http.addr, Transport::Tcp)?;
        let https_addresses = resolve("http.https_addr", &document.http.https_addr, Transport::Tcp)?;
        let metrics_addresses = resolve("metrics.addr", &document.metrics.addr, Transport::Tcp)?;
        let socket = &document.http.unix_socket;
        let sockets = sockets(document, udp_addresses);
        let udp_config = udp_config(document, key.clone().unwrap_or_default());
        let hooks = hooks(config, keyrings)?;
        warnings.extend(keyrings.warnings());
        let (policy, storage, admin_token) =
            (policy(config)?, storage_settings(config)?, admin_token(config)?);
        let policy = Policy { hooks, ..policy };
        let cluster = ClusterSettings::from_config(config)?;
        warnings.extend(config.remembered.take_warnings());
        let mut notes = list_notes(config, &policy.access, &mut warnings);
        notes.extend(key_note(document));
        warnings.extend(cluster.iter().flat_map(|cluster| cluster.warnings(document, storage.dsn.as_ref())));
        Ok(Self {
            policy,
            udp: (!document.udp.addr.is_off()).then_some((sockets, udp_config)),
            listen: gateway::ListenConfig {
                addresses: http_addresses,
                https_addresses,
                unix_socket: (!socket.is_empty()).then(|| config.resolve_path(socket)),
                unix_access: unix_access(config)?,
                metrics_addresses,
            },
            http: gateway::HttpConfig { tls, ..http_config(document) },
            key,
            key_file: config.resolve_path(&document.state_dir).join(KEY_FILE),
            storage,
            cluster,
            admin_token,
            identity: identity(config)?,
            warnings,
            notes,
        })
    }

    /// Logs the warnings and notes.
    pub(crate) fn log_warnings(&self) {
        self.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        self.notes.iter().for_each(|note| log::info!("{note}"));
    }
}

/// Reads certificate and key, if there is HTTPS.
fn tls(config: &Config, warnings: &mut Vec<String>) -> Result<Option<Tls>, ConfigError> {
    let http = &config.document.http;
    let read = |files| config.read_files(files);
    if http.https_addr.is_off() {
        return Ok(None);
    }
    let [chain, key] =
        read([("http.tls_cert_path", &http.tls_cert_path), ("http.tls_key_path", &http.tls_key_path)])?;
    let tls = Tls::from_pem(&chain, &key, http.enable_keepalive).map_err(|error| {
        let (key, name) = if error.concerns_key() {
            ("http.tls_key_path", &http.tls_key_path)
        } else {
            ("http.tls_cert_path", &http.tls_cert_path)
        };
        config.value_error(key, format!("{}: {error}", config.resolve_path(name).display()))
    })?;
    let now = i64::try_from(Clock::start().now().unix_seconds).unwrap_or(i64::MAX);
    if tls.expires_unix_seconds() <= now {
        warnings.push(format!(
            "the certificate in http.tls_cert_path has expired {} s ago: clients refuse it",
            now - tls.expires_unix_seconds()
        ));
    }
    Ok(Some(tls))
}

/// Returns mode and group of the unix socket.
fn unix_access(config: &Config) -> Result<gateway::SocketAccess, ConfigError> {
    let http = &config.document.http;
    let named = Some(&http.unix_socket_group).filter(|name| !name.is_empty());
    let group = named.map(|name| find_group(name)).transpose();
    let group = group.map_err(|error| config.value_error("http.unix_socket_group", error.to_string()))?;
    Ok(gateway::SocketAccess { mode: http.unix_socket_mode.0, group: group.map(Gid::as_raw) })
}

fn identity(config: &Config) -> Result<Option<Identity>, ConfigError> {
    let names = &config.document.privileges;
    if names.user.is_empty() {
        return Ok(None);
    }
    let found = Identity::find(&names.user, &names.group);
    found.map(Some).map_err(|error| config.value_error(error.key(), error.to_string()))
}

/// Returns the configured key, from the document or from its file, and a warning if that of the file is
/// unwise.
fn key(config: &Config) -> Result<(Option<Vec<u8>>, Vec<String>), ConfigError> {
    let udp = &config.document.udp;
    if !udp.private_key.reveal().is_empty() {
        return Ok((Some(udp.private_key.reveal().to_vec()), Vec::new()));
    }
    if udp.private_key_file.is_empty() {
        return Ok((None, Vec::new()));
    }
    let refuse = |text: String| config.value_error("udp.private_key_file", text);
    let path = config.resolve_path(&udp.private_key_file);
    let [octets] = config.read_files([("udp.private_key_file", &udp.private_key_file)])?;
    let end = octets.iter().rposition(|octet| !b"\r\n".contains(octet)).map_or(0, |last| last + 1);
    let key = octets.get(..end).unwrap_or_default().to_vec();
    if key.is_empty() || key.len() > KEY_MAX {
        let text = format!("{}: {} octets, expected 1 to {KEY_MAX}", path.display(), key.len());
        return Err(refuse(text));
    }
    let warning = key_warning(&key).map(|text| format!("the key in udp.private_key_file {text}"));
    Ok((Some(key), warning.into_iter().collect()))
}

/// The token of the admin API; never shown.
#[derive(Clone)]
pub(crate) struct AdminToken(pub(crate) Vec<u8>);

impl std::fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

fn admin_token(config: &Config) -> Result<Option<AdminToken>, ConfigError> {
    let name = &config.document.admin.token_file;
    if name.is_empty() {
        return Ok(None);
    }
    let path = config.resolve_path(name);
    let refuse = |text: &str| config.value_error("admin.token_file", format!("{}: {text}", path.display()));
    let [octets] = config.read_files([("admin.token_file", name)])?;
    let token = text::without_bom(&octets).trim_ascii_end();
    let good = |octet: &u8| octet.is_ascii_graphic() && !b"/?#%<>`".contains(octet);
    if !TOKEN_LEN.contains(&token.len()) || !token.iter().all(good) {
        let text = "is not a token: 16 to 128 printable characters without / ? # % < > ` are needed";
        return Err(refuse(text));
    }
    Ok(Some(AdminToken(token.to_vec())))
}

fn storage_settings(config: &Config) -> Result<StorageSettings, ConfigError> {
    let Document { database, channels, intervals, access, export, log_flushes, .. } = &config.document;
    let state_dir = config.resolve_path(&config.document.state_dir);
    Ok(StorageSettings {
        dsn: data_source(config)?.dsn().map(|dsn| dsn.resolve(&state_dir)),
        spill_paths: SpillPaths {
            spill_dir: state_dir.join(&database.spill_dir),
            dead_letter: state_dir.join(&database.dead_letter),
        },
        bounds: Bounds {
            torrents: channels.torrents.as_usize(),
            users: channels.users.as_usize(),
            transfer_history: channels.transfer_history.as_usize(),
            transfer_ips: channels.transfer_ips.as_usize(),
            snatches: channels.snatches.as_usize(),
            completed: channels.completed.as_usize(),
        },
        writer_settings: WriterSettings {
            flush: intervals.flush.duration(),
            deadlock_pause: database.deadlock_pause.duration(),
            deadlock_retries: u32::from(database.deadlock_retries.as_u16()),
            log_flushes: *log_flushes,
            peer_inactivity: intervals.peer_inactivity.duration(),
        },
        record_announces: config.document.record_announces,
        snapshot_seconds: intervals.database_serialize.as_seconds(),
        reload_seconds: u64::from(intervals.database_reload.as_seconds()),
        history_seconds: config.document.admin.keep_history.as_seconds(),
        access_path: (!access.path.is_empty()).then(|| config.resolve_path(&access.path)),
        export: export::ExportSettings {
            path: if export.path.is_empty() {
                state_dir.join(export::FILE_NAME)
            } else {
                config.resolve_path(&export.path)
            },
            every_seconds: u64::from(export.interval.as_seconds()),
        },
        state_dir,
    })
}

/// Returns the DSN of the database, from the document or from its file.
fn data_source(config: &Config) -> Result<DataSource, ConfigError> {
    let database = &config.document.database;
    if database.dsn_file.is_empty() {
        return Ok(database.dsn.clone());
    }
    let path = config.resolve_path(&database.dsn_file);
    let refuse =
        |text: String| config.value_error("database.dsn_file", format!("{}: {text}", path.display()));
    let [octets] = config.read_files([("database.dsn_file", &database.dsn_file)])?;
    let text = str::from_utf8(text::without_bom(&octets)).map_err(|error| refuse(error.to_string()))?;
    DataSource::parse(text).map_err(refuse)
}

fn policy(config: &Config) -> Result<Policy, ConfigError> {
    let Document { intervals, announce, memory, enable_scrape, .. } = &config.document;
    Ok(Policy {
        access: access(config)?,
        announce_seconds: intervals.announce.as_seconds(),
        min_announce_seconds: intervals.min_announce.as_seconds(),
        announce_drift_seconds: intervals.announce_drift.as_seconds(),
        peer_inactivity_seconds: intervals.peer_inactivity.as_seconds(),
        purge_seconds: intervals.purge_inactive_peers.as_seconds(),
        scrape_seconds: intervals.scrape.as_seconds(),
        octets_per_second_max: announce.max_octets_per_second.octets(),
        strict_port: announce.strict_port,
        keep_peer_ids: announce.keep_peer_ids,
        private_peers: announce.allow_private_peers.0,
        denied_ports: announce.denied_ports.iter().map(|port| port.as_u16()).collect(),
        memory_max: memory.max.octets(available_memory() / 2),
        enable_scrape: *enable_scrape,
        rate_limit: limits(&config.document.limits),
        client_stats: config.document.metrics.clients.then(Arc::default),
        ..Policy::default()
    })
}

fn limits(limits: &document::Limits) -> Option<RateLimitRule> {
    let limit = RateLimit {
        per_minute: limits.per_minute.as_u32(),
        burst: limits.burst.as_u32(),
        addresses: limits.addresses.as_usize(),
    };
    let action = match limits.answer {
        LimitAnswer::Count => OverLimitAction::Count,
        LimitAnswer::Slow => OverLimitAction::Slow,
        LimitAnswer::Empty => OverLimitAction::Empty,
    };
    (limit.per_minute > 0).then(|| RateLimitRule { limiter: Arc::new(RateLimiter::new(limit)), action })
}

/// Makes the hooks of the configuration. Keys that a hook needs are fetched, unless they are known already.
fn hooks(config: &Config, keyrings: &dyn KeyringSource) -> Result<Arc<Hooks>, ConfigError> {
    let Document { prehooks, posthooks, .. } = &config.document;
    fn entry(entry: &HookEntry) -> hayate_state::admission::hooks::HookConfig<'_> {
        (&entry.name, &entry.options)
    }
    Hooks::build(prehooks.iter().map(entry), posthooks.iter().map(entry), HookInputs { keyrings }).map_err(
        |(name, error)| {
            config.value_error(&format!("hook {name:?}"), format!("failed to validate hook config: {error}"))
        },
    )
}

fn access(config: &Config) -> Result<Access, ConfigError> {
    let (mode, access) = (config.document.mode, &config.document.access);
    let read = || {
        let list = config.remembered.read_list(config.resolve_path(&access.path));
        list.map_err(|error| config.value_error("access.path", error.to_string()))
    };
    if mode == Mode::Listed && access.path.is_empty() {
        return Ok(Access::Allow(Arc::default()));
    }
    Ok(match (mode, access.mode) {
        (Mode::Private, _) | (Mode::Open, AccessMode::Off) => Access::Off,
        (Mode::Open, AccessMode::Deny) => Access::Deny(read()?),
        (Mode::Open, AccessMode::Allow) | (Mode::Listed, _) => Access::Allow(read()?),
    })
}

/// Returns notes about the list of torrents that was read.
fn list_notes(config: &Config, access: &Access, warnings: &mut Vec<String>) -> Vec<String> {
    let name = &config.document.access.path;
    let Some(list) = access.list().filter(|_| !name.is_empty()) else { return Vec::new() };
    let path = config.resolve_path(name);
    let path = path.display();
    if list.is_empty() {
        let effect =
            if matches!(access, Access::Deny(_)) { "no torrent is denied" } else { "it allows no torrent" };
        warnings.push(format!("access.path: {path} has no torrents: {effect}"));
    }
    let mut notes = vec![format!("access.path: {} torrents read from {path}", list.len())];
    if list.v2_entries() > 0 {
        let v2 = list.v2_entries();
        notes.push(format!("access.path: {v2} of them have 64 digits (v2) and count by their first 40"));
    }
    notes
}

fn sockets(document: &Document, addresses: Vec<SocketAddr>) -> udp::SocketConfig {
    let udp = &document.udp;
    udp::SocketConfig {
        addresses,
        workers: workers(document),
        receive_buffer: udp.receive_buffer.as_usize(),
        send_buffer: udp.send_buffer.as_usize(),
    }
}

/// Returns the number of threads of the UDP server.
pub(crate) fn workers(document: &Document) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    workers_on(document.udp.workers.as_usize(), cores)
}

/// Returns the number wanted or, if that is 0, one worker for up to two cores, then one per core.
fn workers_on(wanted: usize, cores: usize) -> usize {
    match wanted {
        0 if cores <= 2 => 1,
        0 => cores,
        _ => wanted,
    }
}

/// Returns the networks whose claims about their address a server honours.
fn spoofing_sources(document: &Document, of_server: Option<bool>) -> Vec<IpNet> {
    let allowed = of_server.unwrap_or(document.announce.allow_ip_spoofing);
    if allowed { Network::nets(&document.announce.spoofing_sources) } else { Vec::new() }
}

fn udp_config(document: &Document, private_key: Vec<u8>) -> udp::UdpConfig {
    let Document { udp, announce, .. } = document;
    udp::UdpConfig {
        private_key,
        connection_id_lifetime_seconds: u64::from(udp.connection_id_lifetime.as_seconds()),
        max_clock_skew_seconds: u64::from(udp.max_clock_skew.as_seconds()),
        max_scrape_infohashes: udp.max_scrape_infohashes.as_usize(),
        num_want: udp.numwant.unwrap_or(announce.numwant).as_u16(),
        num_want_max: udp.max_numwant.unwrap_or(announce.max_numwant).as_u16(),
        spoofing_sources: spoofing_sources(document, udp.allow_ip_spoofing),
    }
}

fn http_config(document: &Document) -> gateway::HttpConfig {
    let Document { http, announce, metrics, enable_scrape, enable_metrics, .. } = document;
    let scrape_routes = if *enable_scrape { http.scrape_routes.clone() } else { Vec::new() };
    gateway::HttpConfig {
        announce_routes: http.announce_routes.clone(),
        scrape_routes,
        enable_keepalive: http.enable_keepalive,
        proxy_header: Some(http.proxy_header.0.clone()).filter(|name| !name.is_empty()),
        trusted_proxies: Network::nets(&http.trusted_proxies),
        spoofing_sources: spoofing_sources(document, http.allow_ip_spoofing),
        read_timeout: http.timeout.read.duration(),
        write_timeout: http.timeout.write.duration(),
        idle_timeout: http.timeout.idle.duration(),
        max_scrape_infohashes: http.max_scrape_infohashes.as_usize(),
        max_connections: http.max_connections.as_usize(),
        num_want: http.numwant.unwrap_or(announce.numwant).as_u16(),
        num_want_max: http.max_numwant.unwrap_or(announce.max_numwant).as_u16(),
        tls: None,
        external_ip: announce.external_ip,
        enable_metrics: *enable_metrics,
        pprof: metrics.pprof,
        metrics_prefix: metrics.prefix.0.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_serves_two_cores_and_more_cores_get_one_each() {
        for (wanted, cores, expected) in [(0, 1, 1), (0, 2, 1), (0, 3, 3), (0, 16, 16), (7, 2, 7)] {
            assert_eq!(workers_on(wanted, cores), expected);
        }
    }
}
