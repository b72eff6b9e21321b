//! [`RedisConnection`]: one connection, and the requests that a link makes by it.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use super::super::{BusError, EntryId, Exchange, Exchanged, StreamState};
use super::failure::{RedisFailure, RequestKind, failure};
use super::reply::{ReplyError, ReplyReader, Requests};
use super::settings::{RedisSettings, ServerPlace};
use super::socket::RedisStream;
use crate::clock::Clock;

/// The field of an entry.
const FIELD: &[u8] = b"b";
/// Since this version a stream can be trimmed by id.
const VERSION_MIN: (u32, u32) = (6, 2);
/// Characters of a version, or of a policy, at most.
const WORD_MAX: usize = 32;

/// What every connection needs to know.
#[derive(Clone, Copy)]
pub(super) struct ConnectContext<'a> {
    pub(super) settings: &'a RedisSettings,
    pub(super) tls: Option<&'a Arc<ClientConfig>>,
    pub(super) clock: Clock,
}

/// One connection. After an error it must not be used again: replies may still be on their way.
pub(super) struct RedisConnection {
    reader: ReplyReader<RedisStream>,
    place: ServerPlace,
    settings: RedisSettings,
    clock: Clock,
    /// Each command about a key needs `ASKING` before it.
    asking: bool,
    /// The server's `maxmemory-policy`, if it has told one.
    pub(super) eviction: Option<String>,
}

impl RedisConnection {
    /// Connects, and sends nothing.
    pub(super) fn open(place: ServerPlace, context: ConnectContext<'_>) -> Result<Self, BusError> {
        let ConnectContext { settings, tls, clock } = context;
        let stream = RedisStream::connect(&place, settings, tls, clock)
            .map_err(|error| BusError::Away(format!("{place}: {error}")))?;
        let (reader, settings) = (ReplyReader::new(stream), settings.clone());
        Ok(Self { reader, place, settings, clock, asking: false, eviction: None })
    }

    /// Logs in, and looks whether the server is suitable.
    pub(super) fn log_in(&mut self, asking: bool) -> Result<(), BusError> {
        self.asking = asking;
        let url = self.settings.url.clone();
        let database = url.database.to_string();
        let mut requests = Requests::default();
        add_auth(&mut requests, &url.user, &url.password);
        if url.database != 0 {
            requests.add(&[b"SELECT", database.as_bytes()]);
        }
        requests.add(&[b"CLIENT", b"SETNAME", self.settings.client_name.as_bytes()]);
        let asks_role = self.settings.sentinel_master.is_some();
        for section in ["server", "memory", "replication"].iter().take(if asks_role { 3 } else { 2 }) {
            requests.add(&[b"INFO", section.as_bytes()]);
        }
        self.send(&requests)?;
        if !url.password.is_empty() {
            let answer = self.reader.ok();
            self.of(RequestKind::Auth, answer)?;
        }
        for _ in 0..1 + u32::from(url.database != 0) {
            let answer = self.reader.ok();
            self.of(RequestKind::General, answer)?;
        }
        let server = self.info()?;
        let memory = self.info()?;
        check_version(&server)?;
        self.eviction = info_field(&memory, "maxmemory_policy");
        if asks_role && info_field(&self.info()?, "role").as_deref() != Some("master") {
            let text = format!("{}: the Sentinels name a server that is no master yet", self.place);
            return Err(BusError::Away(text));
        }
        Ok(())
    }

    fn info(&mut self) -> Result<String, BusError> {
        let answer = self.reader.text();
        self.of(RequestKind::General, answer)
    }

    /// Asks a Sentinel for the master's address; `None` where it does not know the name. The login is only
    /// told to a Sentinel that wants one.
    pub(super) fn master(&mut self, name: &str) -> Result<Option<(String, u64)>, BusError> {
        let mut ask = Requests::default();
        ask.add(&[b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()]);
        self.send(&ask)?;
        let mut head = self.reader.array();
        let url = &self.settings.url;
        if matches!(&head, Err(ReplyError::Server(text)) if text.starts_with("NOAUTH"))
            && !url.password.is_empty()
        {
            let mut auth = Requests::default();
            add_auth(&mut auth, &url.user, &url.password);
            self.send(&auth)?;
            let answer = self.reader.ok();
            self.of(RequestKind::Auth, answer)?;
            self.send(&ask)?;
            head = self.reader.array();
        }
        match self.of(RequestKind::General, head)? {
            None => Ok(None),
            Some(2) => {
                let host = self.reader.text();
                let host = self.of(RequestKind::General, host)?;
                let port = self.reader.decimal_text();
                Ok(Some((host, self.of(RequestKind::General, port)?)))
            }
            Some(_) => Err(BusError::Unsuitable("a Sentinel answers no host and port".to_owned())),
        }
    }

    pub(super) fn place(&self) -> &ServerPlace {
        &self.place
    }

    /// Does one exchange, in one round trip.
    pub(super) fn exchange(&mut self, exchange: &Exchange<'_>) -> Result<Exchanged, RedisFailure> {
        let key = exchange.key.as_bytes();
        let (oldest, position) = (id_text(exchange.oldest), id_text(exchange.position));
        let count = exchange.read_max.to_string();
        let mut requests = Requests::default();
        requests.add(&[b"TIME"]);
        for entry in exchange.append {
            self.add_asking(&mut requests);
            requests.add(&[b"XADD", key, b"MINID", b"~", oldest.as_bytes(), b"*", FIELD, entry]);
        }
        if exchange.read_max > 0 {
            self.add_asking(&mut requests);
            let from = position.as_bytes();
            requests.add(&[b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", key, from]);
        }
        let begin = self.clock.uptime();
        self.send(&requests)?;
        let server_time = self.reader_time();
        let server_time = self.of(RequestKind::General, server_time)?;
        let appended = self.appended(exchange)?;
        let mut entries = Vec::new();
        if exchange.read_max > 0 {
            let has_appended = !appended.is_empty();
            let read = self.asked().and_then(|()| read_entries(&mut self.reader, exchange, &mut entries));
            self.on_key(exchange.key, read, has_appended)?;
        }
        let round_trip = self.clock.uptime().saturating_sub(begin);
        Ok(Exchanged { server_time, round_trip, appended, entries })
    }

    /// Reads the answers to all appends, and then the first error decides: a redirection is only followed if
    /// nothing was appended, and a slot can move between two entries.
    fn appended(&mut self, exchange: &Exchange<'_>) -> Result<Vec<EntryId>, RedisFailure> {
        let mut appended = Vec::new();
        let mut first_error = None;
        for _ in exchange.append {
            match self.asked().and_then(|()| self.reader.entry_id()) {
                Ok(id) => appended.push(id),
                Err(ReplyError::Server(text)) => {
                    first_error.get_or_insert(text);
                }
                Err(other) => return self.on_key(exchange.key, Err(other), false),
            }
        }
        let result = first_error.map_or(Ok(()), |text| Err(ReplyError::Server(text)));
        self.on_key(exchange.key, result, !appended.is_empty())?;
        Ok(appended)
    }

    /// Reads the state of a stream.
    pub(super) fn stream_state(&mut self, key: &str) -> Result<Option<StreamState>, RedisFailure> {
        let mut requests = Requests::default();
        self.add_asking(&mut requests);
        requests.add(&[b"XINFO", b"STREAM", key.as_bytes()]);
        self.send(&requests)?;
        let state = match self.asked().and_then(|()| read_state(&mut self.reader)) {
            Err(ReplyError::Server(text)) if text == "ERR no such key" => return Ok(None),
            state => state,
        };
        self.on_key(key, state, false).map(Some)
    }

    /// Drops old entries, and then the oldest ones beyond `entries_max`.
    pub(super) fn trim(&mut self, key: &str, oldest: EntryId, entries_max: u64) -> Result<(), RedisFailure> {
        let (oldest, most) = (id_text(oldest), entries_max.to_string());
        let mut requests = Requests::default();
        for [by, limit] in [["MINID", &oldest], ["MAXLEN", &most]] {
            self.add_asking(&mut requests);
            requests.add(&[b"XTRIM", key.as_bytes(), by.as_bytes(), b"~", limit.as_bytes()]);
        }
        self.send(&requests)?;
        for _ in 0..2 {
            let dropped = self.asked().and_then(|()| self.reader.number());
            self.on_key(key, dropped, false)?;
        }
        Ok(())
    }

    fn reader_time(&mut self) -> Result<Duration, ReplyError> {
        self.reader.array_of(2)?;
        let seconds = self.reader.decimal_text()?;
        let micros = self.reader.decimal_text()?;
        let time = Duration::from_secs(seconds).checked_add(Duration::from_micros(micros));
        time.ok_or(ReplyError::Unexpected("it answers an impossible time"))
    }

    fn add_asking(&self, requests: &mut Requests) {
        if self.asking {
            requests.add(&[b"ASKING"]);
        }
    }

    /// Reads the answer to `ASKING`, where it was sent.
    fn asked(&mut self) -> Result<(), ReplyError> {
        if self.asking { self.reader.ok() } else { Ok(()) }
    }

    fn send(&mut self, requests: &Requests) -> Result<(), BusError> {
        self.reader.stream().begin();
        let sent = self.reader.send(requests);
        self.of(RequestKind::General, sent)
    }

    /// Says what an answer without a key means for the link.
    fn of<T>(&self, kind: RequestKind<'_>, answer: Result<T, ReplyError>) -> Result<T, BusError> {
        answer.map_err(|error| match failure(error, kind, &self.place, &self.settings.url) {
            RedisFailure::Bus(error) => error,
            RedisFailure::Redirected(_) => {
                BusError::Unsuitable("it redirects a request without a key".to_owned())
            }
        })
    }

    /// Says what an answer about a key means for the link.
    fn on_key<T>(
        &self,
        key: &str,
        answer: Result<T, ReplyError>,
        has_appended: bool,
    ) -> Result<T, RedisFailure> {
        answer.map_err(|error| {
            let mut failure = failure(error, RequestKind::Key(key), &self.place, &self.settings.url);
            if let RedisFailure::Redirected(redirection) = &mut failure {
                redirection.has_appended = has_appended;
            }
            failure
        })
    }
}

fn add_auth(requests: &mut Requests, user: &str, password: &str) {
    match (user, password) {
        (_, "") => {}
        ("", password) => requests.add(&[b"AUTH", password.as_bytes()]),
        (user, password) => requests.add(&[b"AUTH", user.as_bytes(), password.as_bytes()]),
    }
}

fn id_text(id: EntryId) -> String {
    format!("{}-{}", id.milliseconds, id.number)
}

/// Reads the answer to `XREAD`.
fn read_entries(
    reader: &mut ReplyReader<RedisStream>,
    exchange: &Exchange<'_>,
    entries: &mut Vec<(EntryId, Vec<u8>)>,
) -> Result<(), ReplyError> {
    let Some(streams) = reader.array()? else { return Ok(()) };
    if streams != 1 {
        return Err(ReplyError::Unexpected("it answers entries of another stream"));
    }
    reader.array_of(2)?;
    if reader.octets()?.as_deref() != Some(exchange.key.as_bytes()) {
        return Err(ReplyError::Unexpected("it answers entries of another stream"));
    }
    let len = reader.array()?.unwrap_or_default();
    if len > exchange.read_max as u64 {
        return Err(ReplyError::Unexpected("it answers more entries than were asked for"));
    }
    let mut last = exchange.position;
    for _ in 0..len {
        reader.array_of(2)?;
        let id = reader.entry_id()?;
        if id <= last {
            return Err(ReplyError::Unexpected("it answers entries that are not behind the position"));
        }
        last = id;
        entries.push((id, read_fields(reader)?));
    }
    Ok(())
}

/// Reads the fields of an entry. One of another program is passed over; it is returned as no octets, which
/// can be opened by nobody.
fn read_fields(reader: &mut ReplyReader<RedisStream>) -> Result<Vec<u8>, ReplyError> {
    let len = reader.array()?.unwrap_or_default();
    if len != 2 {
        for _ in 0..len {
            reader.skip()?;
        }
        return Ok(Vec::new());
    }
    let name = reader.octets()?;
    let value = reader.octets()?.unwrap_or_default();
    Ok(if name.as_deref() == Some(FIELD) { value } else { Vec::new() })
}

/// Reads the answer to `XINFO STREAM`: names and values, more of them in later versions.
fn read_state(reader: &mut ReplyReader<RedisStream>) -> Result<StreamState, ReplyError> {
    let unexpected = ReplyError::Unexpected("it answers something other than the state of a stream");
    let len = reader.array()?.unwrap_or_default();
    if !len.is_multiple_of(2) {
        return Err(unexpected);
    }
    let (mut entries, mut last, mut first) = (None, None, None);
    for _ in 0..len / 2 {
        match reader.octets()?.as_deref() {
            Some(b"length") => entries = Some(reader.number()?),
            Some(b"last-generated-id") => last = Some(reader.entry_id()?),
            Some(b"first-entry") => {
                first = match reader.array()? {
                    None => None,
                    Some(2) => {
                        let id = reader.entry_id()?;
                        reader.skip()?;
                        Some(id)
                    }
                    Some(_) => return Err(unexpected),
                };
            }
            _ => reader.skip()?,
        }
    }
    let (Some(len), Some(last)) = (entries, last) else { return Err(unexpected) };
    Ok(StreamState { last, first, len })
}

/// Returns a value of the answer to `INFO`, if it is a word.
fn info_field(info: &str, name: &str) -> Option<String> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim_end();
    let is_word = value.len() <= WORD_MAX && value.bytes().all(|octet| octet.is_ascii_graphic());
    is_word.then(|| value.to_owned())
}

fn check_version(info: &str) -> Result<(), BusError> {
    let Some(version) = info_field(info, "redis_version") else {
        return Err(BusError::Unsuitable("it does not tell its version".to_owned()));
    };
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    let numbers = numbers.next().flatten().zip(numbers.next().flatten());
    if numbers.is_some_and(|numbers| numbers >= VERSION_MIN) {
        return Ok(());
    }
    Err(BusError::Unsuitable(format!("its version {version} is older than 6.2")))
}
