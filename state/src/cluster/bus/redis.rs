//! [`RedisBus`]: one plain connection to a Redis or Valkey server, or to the master that a Sentinel names, or
//! to the node of a Redis Cluster that has the stream. It follows redirections by itself, and repeats
//! nothing that may have been appended: the link sees each failure, and decides.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{Client, Cmd, Connection, ConnectionAddr, IntoConnectionInfo, TlsCertificates};
use redis::{RedisConnectionInfo, RedisError, Value};

use super::replies::{self, CommandReply, FIELD, Redirection, error_of};
use super::{Bus, BusError, EntryId, Exchange, Exchanged, StreamState};
use crate::clock::Clock;

/// The least version: older ones cannot trim by age.
const VERSION_MIN: (u32, u32) = (6, 2);
/// After more redirections than this within [`REDIRECTION_PERIOD`] the configured servers are asked again.
const REDIRECTIONS_MAX: usize = 5;
const REDIRECTION_PERIOD: Duration = Duration::from_secs(60);

/// Where the server is, and how it is reached.
#[derive(Clone)]
pub struct RedisSettings {
    address: ConnectionAddr,
    user: Option<String>,
    password: Option<String>,
    database: i64,
    /// More servers to ask: nodes of a Redis Cluster, or Sentinels.
    seeds: Vec<(String, u16)>,
    /// The name of the master that the Sentinels watch; `None` = the servers are no Sentinels.
    sentinel_master: Option<String>,
    /// Certificates in PEM that sign the server's; `None` = those of the system.
    ca_pem: Option<Vec<u8>>,
    timeouts: RedisTimeouts,
    /// What the server calls this connection.
    client_name: String,
    /// Said once for all links: the server may drop streams to make room.
    warned: Arc<AtomicBool>,
}

/// The longest waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedisTimeouts {
    /// For a connection, with TLS and login.
    pub connect: Duration,
    /// For a reply.
    pub read: Duration,
    /// For the server to take a request.
    pub write: Duration,
}

/// Why a URL is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisUrlError {
    /// Another scheme, or not a URL.
    #[error("expected redis://[user:password@]host[:port][/db], rediss://.. or unix:///path")]
    Form,
}

impl RedisSettings {
    /// Reads a URL: `redis://`, `rediss://` (TLS) or `unix://`; user and password %-encoded.
    ///
    /// # Errors
    /// Fails for anything else.
    pub fn from_url(url: &str, timeouts: RedisTimeouts, client_name: String) -> Result<Self, RedisUrlError> {
        if !["redis://", "rediss://", "unix://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(RedisUrlError::Form);
        }
        let info = url.into_connection_info().map_err(|_| RedisUrlError::Form)?;
        let address = match info.addr() {
            // Its text may ask for no check of the server's name.
            ConnectionAddr::TcpTls { host, port, .. } => tls_address(host.clone(), *port),
            other => other.clone(),
        };
        let redis = info.redis_settings();
        Ok(Self {
            address,
            user: redis.username().map(str::to_owned),
            password: redis.password().map(str::to_owned),
            database: redis.db(),
            seeds: Vec::new(),
            sentinel_master: None,
            ca_pem: None,
            timeouts,
            client_name,
            warned: Arc::default(),
        })
    }

    /// Adds more servers to ask: nodes of a Redis Cluster, or Sentinels.
    #[must_use]
    pub fn with_seeds(self, seeds: Vec<(String, u16)>) -> Self {
        Self { seeds, ..self }
    }

    /// Declares that the servers are Sentinels that watch the master of this name.
    #[must_use]
    pub fn with_sentinel(self, master: String) -> Self {
        Self { sentinel_master: Some(master), ..self }
    }

    /// Trusts only certificates that these have signed, in PEM.
    #[must_use]
    pub fn with_ca(self, pem: Vec<u8>) -> Self {
        Self { ca_pem: Some(pem), ..self }
    }

    /// Returns the host to which a connection that is not encrypted goes.
    #[must_use]
    pub fn plain_host(&self) -> Option<&str> {
        match &self.address {
            ConnectionAddr::Tcp(host, _) => Some(host),
            _ => None,
        }
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self.address, ConnectionAddr::TcpTls { .. })
    }

    fn at(&self, host: String, port: u16) -> ConnectionAddr {
        match self.address {
            ConnectionAddr::TcpTls { .. } => tls_address(host, port),
            _ => ConnectionAddr::Tcp(host, port),
        }
    }

    /// The configured servers.
    fn servers(&self) -> Vec<ConnectionAddr> {
        let seeds = self.seeds.iter().map(|(host, port)| self.at(host.clone(), *port));
        std::iter::once(self.address.clone()).chain(seeds).collect()
    }
}

fn tls_address(host: String, port: u16) -> ConnectionAddr {
    ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
}

/// As the log names it: without user and password.
impl fmt::Display for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            ConnectionAddr::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
            ConnectionAddr::TcpTls { host, port, .. } => write!(f, "rediss://{host}:{port}"),
            ConnectionAddr::Unix(path) => write!(f, "unix://{}", path.display()),
            _ => f.write_str("Redis"),
        }?;
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        match &self.sentinel_master {
            Some(master) => write!(f, " (Sentinel, master {master})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisSettings").field(&format_args!("{self}")).finish()
    }
}

/// The connection of one link.
pub struct RedisBus {
    settings: RedisSettings,
    clock: Clock,
    connection: Option<OpenConnection>,
    /// The configured server that is asked next.
    next_server: usize,
    /// Where the last redirection led.
    redirected: Option<Redirection>,
    /// When redirections came lately.
    redirections: VecDeque<Duration>,
}

struct OpenConnection {
    connection: Connection,
    address: ConnectionAddr,
    /// The key is being moved here.
    asking: bool,
}

impl fmt::Debug for RedisBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBus").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RedisBus {
    /// Makes a connection that is opened at the first call.
    #[must_use]
    pub fn new(settings: RedisSettings, clock: Clock) -> Self {
        let redirections = VecDeque::with_capacity(REDIRECTIONS_MAX + 1);
        Self { settings, clock, connection: None, next_server: 0, redirected: None, redirections }
    }

    /// Sends commands about one key, each of which is answered once, and returns all replies, with the time
    /// that they took.
    fn request(&mut self, key: &str, commands: &[Cmd]) -> Result<(Vec<CommandReply>, Duration), BusError> {
        let mut open = match self.connection.take() {
            Some(open) => open,
            None => self.connect()?,
        };
        let mut octets = Vec::new();
        for command in commands {
            if open.asking {
                redis::cmd("ASKING").write_packed_command(&mut octets);
            }
            command.write_packed_command(&mut octets);
        }
        let start = self.clock.uptime();
        open.connection.send_packed_command(&octets).map_err(|error| error_of(key, &error))?;
        let mut all = Vec::with_capacity(commands.len());
        for _ in commands {
            if open.asking {
                receive(&mut open.connection).map_err(|error| error_of(key, &error))?;
            }
            let reply = receive(&mut open.connection);
            match &reply {
                Err(error) if error.is_io_error() => return Err(error_of(key, error)),
                Err(error) => self.follow(&open, replies::redirection(error)),
                Ok(_) => {}
            }
            all.push(reply);
        }
        let round_trip = self.clock.uptime().saturating_sub(start);
        // After most errors the next connection goes elsewhere, or waits for the server to be ready.
        let keeps = |error: &RedisError| matches!(error.code(), Some("ERR" | "OOM"));
        if all.iter().filter_map(|reply| reply.as_ref().err()).all(keeps) {
            self.connection = Some(open);
        }
        Ok((all, round_trip))
    }

    /// Notes where the next connection goes.
    fn follow(&mut self, from: &OpenConnection, to: Option<Redirection>) {
        let Some(mut to) = to else { return };
        if to.host.is_empty() {
            to.host = host_of(&from.address).to_owned();
        }
        let now = self.clock.uptime();
        if self.redirected.as_ref() != Some(&to) {
            while self.redirections.front().is_some_and(|at| now.saturating_sub(*at) >= REDIRECTION_PERIOD) {
                self.redirections.pop_front();
            }
            self.redirections.push_back(now);
        }
        self.redirected = Some(to);
        if self.redirections.len() > REDIRECTIONS_MAX {
            self.redirected = None;
            self.redirections.clear();
        }
    }

    fn connect(&mut self) -> Result<OpenConnection, BusError> {
        if let Some(master) = self.settings.sentinel_master.clone() {
            let (host, port) = self.ask_sentinels(&master)?;
            return self.open(self.settings.at(host, port), false);
        }
        if let Some(Redirection { host, port, asking }) = self.redirected.clone() {
            let opened = self.open(self.settings.at(host, port), asking);
            if opened.is_err() {
                self.redirected = None;
            }
            return opened;
        }
        let servers = self.settings.servers();
        let server = servers.get(self.next_server % servers.len().max(1)).cloned();
        let opened = self.open(server.unwrap_or_else(|| self.settings.address.clone()), false);
        if opened.is_err() {
            self.next_server = self.next_server.wrapping_add(1);
        }
        opened
    }

    /// Asks one Sentinel after the other where the master is.
    fn ask_sentinels(&mut self, master: &str) -> Result<(String, u16), BusError> {
        let mut last = BusError::Away("no Sentinel".into());
        for server in self.settings.servers() {
            match self.ask_sentinel(server, master) {
                Ok(address) => return Ok(address),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn ask_sentinel(&self, server: ConnectionAddr, master: &str) -> Result<(String, u16), BusError> {
        let mut connection = self.open_plain(server)?;
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(master);
        let mut reply = run(&mut connection, &ask);
        if reply.as_ref().is_err_and(|error| error.code() == Some("NOAUTH")) {
            self.log_in(&mut connection)?;
            reply = run(&mut connection, &ask);
        }
        let value = reply.map_err(|error| error_of("", &error))?;
        let unknown = || BusError::Away(format!("the Sentinels know no master {master:?}"));
        replies::master(&value)?.ok_or_else(unknown)
    }

    /// Opens a connection without any command.
    fn open_plain(&self, address: ConnectionAddr) -> Result<Connection, BusError> {
        let away = |error: RedisError| error_of("", &error);
        let redis = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = address.clone().into_connection_info().map_err(away)?.set_redis_settings(redis);
        let client = match (&address, &self.settings.ca_pem) {
            (ConnectionAddr::TcpTls { .. }, Some(pem)) => Client::build_with_tls(
                info,
                TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) },
            ),
            _ => Client::open(info),
        }
        .map_err(away)?;
        let RedisTimeouts { connect, read, write } = self.settings.timeouts;
        let connection = client
            .get_connection_with_timeout(connect)
            .map_err(|error| BusError::Away(format!("{}: {error}", host_of(&address))))?;
        connection.set_read_timeout(Some(read)).map_err(away)?;
        connection.set_write_timeout(Some(write)).map_err(away)?;
        Ok(connection)
    }

    fn log_in(&self, connection: &mut Connection) -> Result<(), BusError> {
        let Some(password) = &self.settings.password else { return Ok(()) };
        let mut auth = redis::cmd("AUTH");
        if let Some(user) = &self.settings.user {
            auth.arg(user);
        }
        auth.arg(password);
        run(connection, &auth).map(drop).map_err(|error| match error_of("", &error) {
            // A server that does not know the command repeats what it was sent.
            BusError::Unsuitable(_) => BusError::Denied("it does not understand the login".into()),
            other => other,
        })
    }

    fn open(&self, address: ConnectionAddr, asking: bool) -> Result<OpenConnection, BusError> {
        let mut connection = self.open_plain(address.clone())?;
        self.log_in(&mut connection)?;
        let unsuitable = |error: RedisError| error_of("", &error);
        if self.settings.database != 0 {
            run(&mut connection, redis::cmd("SELECT").arg(self.settings.database)).map_err(unsuitable)?;
        }
        // It is only a name.
        _ = run(&mut connection, redis::cmd("CLIENT").arg("SETNAME").arg(&self.settings.client_name))
            .map_err(|error| log::debug!("cluster: CLIENT SETNAME: {error}"));
        let info = run(&mut connection, redis::cmd("INFO").arg("server")).map_err(unsuitable)?;
        check_version(&info)?;
        let info = run(&mut connection, redis::cmd("INFO").arg("memory")).map_err(unsuitable)?;
        self.check_eviction(&info);
        Ok(OpenConnection { connection, address, asking })
    }

    fn check_eviction(&self, info: &Value) {
        let policy = replies::info_field(info, "maxmemory_policy").unwrap_or("noeviction");
        if policy != "noeviction" && !self.settings.warned.swap(true, Ordering::Relaxed) {
            log::warn!(
                "cluster: maxmemory-policy of Redis is {policy}: it may drop whole streams to make room; \
                 noeviction lets it keep less history instead"
            );
        }
    }
}

fn check_version(info: &Value) -> Result<(), BusError> {
    let version = replies::info_field(info, "redis_version").unwrap_or("unknown");
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(BusError::Unsuitable(format!(
            "it has version {version}; {major}.{minor} or later is needed"
        )));
    }
    Ok(())
}

fn host_of(address: &ConnectionAddr) -> &str {
    match address {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        ConnectionAddr::Unix(path) => path.to_str().unwrap_or_default(),
        _ => "",
    }
}

fn receive(connection: &mut Connection) -> CommandReply {
    connection.recv_response().and_then(Value::extract_error)
}

fn run(connection: &mut Connection, command: &Cmd) -> CommandReply {
    connection.send_packed_command(&command.get_packed_command())?;
    receive(connection)
}

fn id_text(id: EntryId) -> String {
    format!("{}-{}", id.milliseconds, id.number)
}

impl Bus for RedisBus {
    fn exchange(&mut self, exchange: &Exchange<'_>) -> Result<Exchanged, BusError> {
        let Exchange { key, append, oldest, position, read_max } = *exchange;
        let mut commands = Vec::with_capacity(append.len() + 2);
        commands.push(redis::cmd("TIME"));
        for octets in append {
            let mut add = redis::cmd("XADD");
            add.arg(key)
                .arg("MINID")
                .arg("~")
                .arg(id_text(oldest))
                .arg("*")
                .arg(FIELD)
                .arg(octets.as_slice());
            commands.push(add);
        }
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(read_max).arg("STREAMS").arg(key).arg(id_text(position));
        commands.push(read);
        let (replies, round_trip) = self.request(key, &commands)?;
        let mut replies = replies.into_iter().map(|reply| reply.map_err(|error| error_of(key, &error)));
        let mut next =
            || replies.next().unwrap_or_else(|| Err(BusError::Unsuitable("a reply is missing".into())));
        let server_time = replies::time(&next()?)?;
        let appended = append.iter().map(|_| replies::appended(&next()?)).collect::<Result<_, _>>()?;
        Ok(Exchanged { server_time, round_trip, appended, entries: replies::entries(next()?)? })
    }

    fn stream_state(&mut self, key: &str) -> Result<Option<StreamState>, BusError> {
        let mut info = redis::cmd("XINFO");
        info.arg("STREAM").arg(key);
        let mut redirections = 0;
        loop {
            let (replies, _) = self.request(key, std::slice::from_ref(&info))?;
            let missing = || Err(RedisError::from((redis::ErrorKind::Client, "a reply is missing")));
            let reply = replies.into_iter().next().unwrap_or_else(missing);
            // Nothing was appended, so it can be asked again. A link begins each connection with this.
            redirections += 1;
            let goes_elsewhere = reply.as_ref().err().and_then(replies::redirection).is_some();
            if !goes_elsewhere || redirections > REDIRECTIONS_MAX {
                return replies::stream_state(key, reply);
            }
        }
    }

    fn trim(&mut self, key: &str, oldest: EntryId, entries_max: u64) -> Result<(), BusError> {
        let mut by_age = redis::cmd("XTRIM");
        by_age.arg(key).arg("MINID").arg("~").arg(id_text(oldest));
        let mut by_len = redis::cmd("XTRIM");
        by_len.arg(key).arg("MAXLEN").arg("~").arg(entries_max);
        let (replies, _) = self.request(key, &[by_age, by_len])?;
        replies.into_iter().try_for_each(|reply| reply.map(drop).map_err(|error| error_of(key, &error)))
    }
}
