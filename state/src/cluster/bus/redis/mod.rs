//! [`RedisBus`]: a [`Bus`] of a real server: one Redis, one of a Redis Cluster, or the master that Sentinels
//! name (docs/decisions/0042).
//!
//! | module | what is in it |
//! |---|---|
//! | `connection` | one connection and its requests |
//! | `failure` | what an error of the server means |
//! | `reply` | RESP2, as far as it is needed |
//! | [`settings`] | where the server is, and how to log in |
//! | `socket` | sockets with deadlines, plain or with TLS |
//!
//! What is absent on purpose: pools, retries in the background, and blocking reads. Each failure ends the
//! connection and is returned, and the next call connects anew.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ClientConfig;

use super::{Bus, BusError, EntryId, Exchange, Exchanged, StreamState};
use crate::clock::Clock;

mod connection;
mod failure;
mod reply;
pub mod settings;
mod socket;

use connection::{ConnectContext, RedisConnection};
use failure::{Redirection, RedisFailure};
use settings::{RedisSettings, RedisSettingsError, ServerAddress, ServerPlace};

/// Redirections within [`REDIRECTIONS_TIME`] that are followed.
const REDIRECTIONS_MAX: usize = 5;
const REDIRECTIONS_TIME: Duration = Duration::from_secs(60);
/// The policy with which a full server refuses entries instead of dropping whole streams.
const NO_EVICTION: &str = "noeviction";

/// What an operator should know of a server that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisNotice {
    /// A full server may drop whole streams: its `maxmemory-policy` is this one.
    Evicts {
        /// As the server spells it.
        policy: String,
    },
}

impl fmt::Display for RedisNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Evicts { policy } = self;
        write!(f, "its maxmemory-policy is {policy}: set {NO_EVICTION}, or it may drop whole streams")
    }
}

/// Notices of a bus, for the one who has given the bus away.
#[derive(Clone, Debug, Default)]
pub struct RedisNotices(Arc<Mutex<Option<RedisNotice>>>);

impl RedisNotices {
    /// Returns what is new since the last call. The same notice is given again only after it was wrong for a
    /// while.
    #[must_use]
    pub fn take(&self) -> Option<RedisNotice> {
        self.0.lock().take()
    }
}

/// One link's way to a Redis server: one plain connection that is opened by the first call.
pub struct RedisBus {
    settings: RedisSettings,
    /// For `rediss://`.
    tls: Option<Arc<ClientConfig>>,
    clock: Clock,
    connection: Option<RedisConnection>,
    /// Where the key is, as a redirection has said.
    home: Option<ServerAddress>,
    /// The servers to begin with, and the one that is next.
    places: Vec<ServerPlace>,
    next: usize,
    /// The uptimes of redirections within [`REDIRECTIONS_TIME`].
    redirections: VecDeque<Duration>,
    eviction: Option<String>,
    notices: RedisNotices,
}

impl RedisBus {
    /// Makes a bus, and opens no socket.
    ///
    /// # Errors
    /// Fails when the settings contradict one another, or the certificates cannot be used.
    pub fn new(settings: RedisSettings, clock: Clock) -> Result<Self, RedisSettingsError> {
        settings.check()?;
        let tls = if matches!(settings.url.place, ServerPlace::Tcp { tls: true, .. }) {
            Some(socket::tls_config(settings.ca_pem.as_deref())?)
        } else {
            None
        };
        Ok(Self {
            places: settings.places(),
            settings,
            tls,
            clock,
            connection: None,
            home: None,
            next: 0,
            redirections: VecDeque::new(),
            eviction: None,
            notices: RedisNotices::default(),
        })
    }

    /// Returns where notices of this bus will be found.
    #[must_use]
    pub fn notices(&self) -> RedisNotices {
        self.notices.clone()
    }

    /// Makes a request about a key, where that key is.
    fn request<T>(
        &mut self,
        request: impl Fn(&mut RedisConnection) -> Result<T, RedisFailure>,
    ) -> Result<T, BusError> {
        // Ends: `follow` fails beyond a number of redirections.
        loop {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.connect()?,
            };
            match request(&mut connection) {
                Ok(answer) => {
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                Err(RedisFailure::Bus(error)) => {
                    if matches!(error, BusError::Away(_)) {
                        // A server that is silent, or no master any more, is not asked first again.
                        self.home = None;
                        self.next = (self.next + 1) % self.places.len();
                    }
                    return Err(error);
                }
                Err(RedisFailure::Redirected(redirection)) => self.follow(redirection, connection.place())?,
            }
        }
    }

    /// Goes where a redirection points. It fails if entries were appended before it came: those that follow
    /// must not be appended again.
    fn follow(&mut self, redirection: Redirection, from: &ServerPlace) -> Result<(), BusError> {
        let now = self.clock.uptime();
        self.redirections.push_back(now);
        while self.redirections.front().is_some_and(|at| now.saturating_sub(*at) >= REDIRECTIONS_TIME) {
            self.redirections.pop_front();
        }
        let Redirection { to, asking, has_appended } = redirection;
        if self.redirections.len() > REDIRECTIONS_MAX {
            self.redirections.clear();
            self.home = None;
            let text = format!("{from}: more than {REDIRECTIONS_MAX} redirections within a minute");
            return Err(BusError::Away(text));
        }
        if has_appended {
            self.home = (!asking).then_some(to);
            return Err(BusError::Away(format!("{from}: the stream has moved during an exchange")));
        }
        if asking {
            // The slot's home is still the old one. This connection is used while it works: until the key
            // has gone elsewhere, which the server then says.
            let place = self.settings.place_at(to);
            self.connection = Some(self.open(place, true)?);
        } else {
            self.home = Some(to);
        }
        Ok(())
    }

    /// Connects to where the key was last, to the master that a Sentinel names, or to any of the servers.
    fn connect(&mut self) -> Result<RedisConnection, BusError> {
        // If it fails, the seeds are next.
        if let Some(home) = self.home.take() {
            let connection = self.open(self.settings.place_at(home.clone()), false)?;
            self.home = Some(home);
            return Ok(connection);
        }
        let begin = self.clock.uptime();
        let mut last = None;
        for _ in 0..self.places.len() {
            let Some(place) = self.places.get(self.next).cloned() else { break };
            let connected = match self.settings.sentinel_master.clone() {
                Some(name) => self.ask_sentinel(place, &name).and_then(|master| self.open(master, false)),
                None => self.open(place, false),
            };
            let error = match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            self.next = (self.next + 1) % self.places.len();
            // Another server may answer, but a call should not take as long as all of them are silent.
            let is_over = self.clock.uptime().saturating_sub(begin) >= self.settings.connect_timeout;
            if is_over || !matches!(error, BusError::Away(_)) {
                return Err(error);
            }
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| BusError::Away("no server to connect to".to_owned())))
    }

    fn context(&self) -> ConnectContext<'_> {
        ConnectContext { settings: &self.settings, tls: self.tls.as_ref(), clock: self.clock }
    }

    fn open(&mut self, place: ServerPlace, asking: bool) -> Result<RedisConnection, BusError> {
        let mut connection = RedisConnection::open(place, self.context())?;
        connection.log_in(asking)?;
        let eviction = connection.eviction.take().filter(|policy| policy != NO_EVICTION);
        if eviction != self.eviction {
            *self.notices.0.lock() = eviction.clone().map(|policy| RedisNotice::Evicts { policy });
            self.eviction = eviction;
        }
        Ok(connection)
    }

    /// Asks one Sentinel where the master is.
    fn ask_sentinel(&self, sentinel: ServerPlace, name: &str) -> Result<ServerPlace, BusError> {
        let mut connection = RedisConnection::open(sentinel.clone(), self.context())?;
        let Some((host, port)) = connection.master(name)? else {
            return Err(BusError::Away(format!("{sentinel}: this Sentinel knows no master {name}")));
        };
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| BusError::Unsuitable("a Sentinel names no port".to_owned()))?;
        Ok(self.settings.place_at(ServerAddress { host, port }))
    }
}

impl Bus for RedisBus {
    fn exchange(&mut self, exchange: &Exchange<'_>) -> Result<Exchanged, BusError> {
        self.request(|connection| connection.exchange(exchange))
    }

    fn stream_state(&mut self, key: &str) -> Result<Option<StreamState>, BusError> {
        self.request(|connection| connection.stream_state(key))
    }

    fn trim(&mut self, key: &str, oldest: EntryId, entries_max: u64) -> Result<(), BusError> {
        self.request(|connection| connection.trim(key, oldest, entries_max))
    }
}
