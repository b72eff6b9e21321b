//! What the replies of a Redis server say. A reply that nobody asked for is an error, never a panic.

use std::str;
use std::time::Duration;

use redis::{RedisError, Value};

use super::{BusError, EntryId, StreamState};

/// The name of the one field of an entry.
pub(super) const FIELD: &[u8] = b"b";
/// Characters of a server's text that an error keeps.
const TEXT_MAX: usize = 200;

/// A server's answer to one command.
pub(super) type CommandReply = Result<Value, RedisError>;

/// Where a Redis Cluster has a key instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    /// Empty: the same host.
    pub(super) host: String,
    pub(super) port: u16,
    /// Only while the key is moved: each command needs a word before it.
    pub(super) asking: bool,
}

fn unsuitable(what: &'static str) -> BusError {
    BusError::Unsuitable(format!("the server answers {what} in a way that is not understood"))
}

/// Returns where the key is instead, if the error says so.
pub(super) fn redirection(error: &RedisError) -> Option<Redirection> {
    let asking = match error.code()? {
        "MOVED" => false,
        "ASK" => true,
        _ => return None,
    };
    let (_slot, address) = error.detail()?.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirection { host: host.to_owned(), port: port.parse().ok()?, asking })
}

/// Returns what an error reply means.
pub(super) fn error_of(key: &str, error: &RedisError) -> BusError {
    let text = match (error.code(), error.detail()) {
        // As the server says it.
        (Some(code), detail) => readable(&format!("{code} {}", detail.unwrap_or_default())),
        (None, _) => readable(&error.to_string()),
    };
    match error.code() {
        None if error.is_io_error() => BusError::Away(text),
        None => BusError::Unsuitable(text),
        Some("OOM") => BusError::OutOfMemory(text),
        Some("NOAUTH" | "WRONGPASS" | "NOPERM") => BusError::Denied(text),
        Some("WRONGTYPE") => BusError::WrongType(key.to_owned()),
        Some(
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "MISCONF" | "MOVED" | "ASK"
            | "BUSY" | "NOREPLICAS",
        ) => BusError::Away(text),
        Some(_) => BusError::Unsuitable(text),
    }
}

/// Shortens a server's text, and leaves out what could spoil a line of the log.
fn readable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect()
}

/// Returns the server's clock, since 1970-01-01 UTC.
pub(super) fn time(value: &Value) -> Result<Duration, BusError> {
    let Value::Array(parts) = value else { return Err(unsuitable("TIME")) };
    let [seconds, microseconds] = parts.as_slice() else { return Err(unsuitable("TIME")) };
    let number = |value| text(value).and_then(|text| text.parse().ok()).ok_or_else(|| unsuitable("TIME"));
    let microseconds = Duration::from_micros(number(microseconds)?);
    Duration::from_secs(number(seconds)?).checked_add(microseconds).ok_or_else(|| unsuitable("TIME"))
}

/// Returns the place of an appended entry.
pub(super) fn appended(value: &Value) -> Result<EntryId, BusError> {
    entry_id(value).ok_or_else(|| unsuitable("XADD"))
}

/// Returns the entries of one stream. What another program has appended has no octets.
pub(super) fn entries(value: Value) -> Result<Vec<(EntryId, Vec<u8>)>, BusError> {
    let streams = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(streams) => streams,
        _ => return Err(unsuitable("XREAD")),
    };
    let stream = streams.into_iter().next().and_then(|stream| match stream {
        Value::Array(parts) => parts.into_iter().nth(1),
        _ => None,
    });
    let Some(Value::Array(entries)) = stream else { return Err(unsuitable("XREAD")) };
    entries.into_iter().map(|entry| read_entry(entry).ok_or_else(|| unsuitable("XREAD"))).collect()
}

fn read_entry(entry: Value) -> Option<(EntryId, Vec<u8>)> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let id = entry_id(&parts.next()?)?;
    let Some(Value::Array(fields)) = parts.next() else { return Some((id, Vec::new())) };
    let [Value::BulkString(name), Value::BulkString(octets)] =
        <[Value; 2]>::try_from(fields).unwrap_or_default()
    else {
        return Some((id, Vec::new()));
    };
    Some((id, if name == FIELD { octets } else { Vec::new() }))
}

/// Returns the state of a stream, or `None` where there is none.
pub(super) fn stream_state(key: &str, reply: CommandReply) -> Result<Option<StreamState>, BusError> {
    let fields = match reply {
        Ok(Value::Array(fields)) => fields,
        Ok(_) => return Err(unsuitable("XINFO")),
        Err(error) if error.code() == Some("ERR") && error.to_string().contains("no such key") => {
            return Ok(None);
        }
        Err(error) => return Err(error_of(key, &error)),
    };
    let (pairs, _) = fields.as_chunks::<2>();
    let field =
        |name: &str| pairs.iter().find(|[field, _]| text(field) == Some(name)).map(|[_, value]| value);
    let first = match field("first-entry") {
        Some(Value::Array(parts)) => {
            Some(parts.first().and_then(entry_id).ok_or_else(|| unsuitable("XINFO"))?)
        }
        Some(Value::Nil) => None,
        _ => return Err(unsuitable("XINFO")),
    };
    let last = field("last-generated-id").and_then(entry_id).ok_or_else(|| unsuitable("XINFO"))?;
    let Some(Value::Int(len)) = field("length") else { return Err(unsuitable("XINFO")) };
    Ok(Some(StreamState { last, first, len: u64::try_from(*len).unwrap_or_default() }))
}

/// Returns the value of a field of INFO.
pub(super) fn info_field<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    let lines = text(value)?.lines();
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value.trim())
}

/// Returns host and port of a master, as a Sentinel says them.
pub(super) fn master(value: &Value) -> Result<Option<(String, u16)>, BusError> {
    match value {
        Value::Nil => Ok(None),
        Value::Array(parts) => match parts.as_slice() {
            [host, port] => {
                let port = text(port).and_then(|port| port.parse().ok());
                let address = text(host).map(str::to_owned).zip(port);
                address.map(Some).ok_or_else(|| unsuitable("SENTINEL"))
            }
            _ => Err(unsuitable("SENTINEL")),
        },
        _ => Err(unsuitable("SENTINEL")),
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(octets) => str::from_utf8(octets).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn entry_id(value: &Value) -> Option<EntryId> {
    let (milliseconds, number) = text(value)?.split_once('-')?;
    Some(EntryId { milliseconds: milliseconds.parse().ok()?, number: number.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(reply: &[u8]) -> Value {
        redis::parse_redis_value(reply).unwrap()
    }

    fn error(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes())
            .and_then(Value::extract_error)
            .unwrap_err()
    }

    #[test]
    fn redirections_name_host_and_port() {
        let to = |host: &str, port, asking| Some(Redirection { host: host.into(), port, asking });
        assert_eq!(redirection(&error("MOVED 866 127.0.0.1:7001")), to("127.0.0.1", 7001, false));
        assert_eq!(redirection(&error("ASK 866 ::1:7001")), to("::1", 7001, true));
        assert_eq!(redirection(&error("MOVED 866 :7001")), to("", 7001, false));
        for line in ["MOVED", "MOVED 866", "MOVED 866 host", "MOVED 866 host:x", "ERR 866 host:1"] {
            assert_eq!(redirection(&error(line)), None, "{line}");
        }
    }

    #[test]
    fn errors_have_their_kinds() {
        let kind = |line| match error_of("key", &error(line)) {
            BusError::Away(_) => 'a',
            BusError::OutOfMemory(_) => 'o',
            BusError::Denied(_) => 'd',
            BusError::WrongType(key) => key.chars().next().unwrap(),
            BusError::Unsuitable(_) => 'u',
        };
        for line in ["LOADING x", "MASTERDOWN x", "CLUSTERDOWN x", "TRYAGAIN x", "READONLY x", "MISCONF x"] {
            assert_eq!(kind(line), 'a', "{line}");
        }
        assert_eq!(kind("OOM command not allowed"), 'o');
        assert_eq!([kind("NOAUTH x"), kind("WRONGPASS x"), kind("NOPERM x")], ['d'; 3]);
        assert_eq!([kind("WRONGTYPE x"), kind("ERR x"), kind("NEWWORD x")], ['k', 'u', 'u']);
        let long = error_of("key", &error(&format!("LOADING {}\x1b[2J", "x".repeat(1000))));
        assert!(long.to_string().len() <= TEXT_MAX && !long.to_string().contains('\x1b'));
    }

    #[test]
    fn replies_to_what_was_asked_are_understood() {
        let t = time(&parse(b"*2\r\n$10\r\n1796045633\r\n$6\r\n299001\r\n")).unwrap();
        assert_eq!(t, Duration::from_micros(1_796_045_633_299_001));
        let id = EntryId { milliseconds: 5, number: 7 };
        assert_eq!(appended(&parse(b"$3\r\n5-7\r\n")).unwrap(), id);
        let beyond = b"*2\r\n$20\r\n18446744073709551615\r\n$7\r\n1000000\r\n";
        assert!(time(&parse(beyond)).is_err());
        assert_eq!(entries(parse(b"*-1\r\n")).unwrap(), []);
        let one = b"*1\r\n*2\r\n$3\r\nkey\r\n*2\r\n*2\r\n$3\r\n5-7\r\n*2\r\n$1\r\nb\r\n$2\r\n\x00\xff\r\n\
                    *2\r\n$3\r\n5-8\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n";
        let foreign = EntryId { number: 8, ..id };
        assert_eq!(entries(parse(one)).unwrap(), [(id, vec![0, 255]), (foreign, Vec::new())]);
        let state = b"*6\r\n$6\r\nlength\r\n:3\r\n$17\r\nlast-generated-id\r\n$3\r\n5-7\r\n\
                      $11\r\nfirst-entry\r\n*2\r\n$3\r\n5-7\r\n*0\r\n";
        let state = stream_state("key", Ok(parse(state))).unwrap();
        assert_eq!(state, Some(StreamState { last: id, first: Some(id), len: 3 }));
        assert_eq!(stream_state("key", Err(error("ERR no such key"))).unwrap(), None);
        let info = parse(b"$38\r\n# Server\r\nredis_version:7.0.15\r\nos:x\r\n\r\n");
        assert_eq!(info_field(&info, "redis_version"), Some("7.0.15"));
        let address = parse(b"*2\r\n$4\r\nhost\r\n$4\r\n6379\r\n");
        assert_eq!(master(&address).unwrap(), Some(("host".into(), 6379)));
        assert_eq!(master(&Value::Nil).unwrap(), None);
    }

    #[test]
    fn anything_else_is_an_error() {
        for reply in [
            &b"+OK\r\n"[..],
            b":7\r\n",
            b"*0\r\n",
            b"*1\r\n:7\r\n",
            b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n",
            b"*1\r\n*2\r\n$1\r\nk\r\n:7\r\n",
            b"*1\r\n*2\r\n$1\r\nk\r\n*1\r\n:7\r\n",
            b"*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*1\r\n$4\r\n5-x7\r\n",
            b"*2\r\n$6\r\nlength\r\n$1\r\nx\r\n",
        ] {
            let value = || parse(reply);
            assert!(time(&value()).is_err(), "{reply:?}");
            assert!(appended(&value()).is_err(), "{reply:?}");
            assert!(entries(value()).is_err(), "{reply:?}");
            assert!(stream_state("key", Ok(value())).is_err(), "{reply:?}");
        }
    }
}
