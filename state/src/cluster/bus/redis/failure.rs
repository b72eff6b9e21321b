//! [`RedisFailure`]: what an error of a server means for a link.

use super::super::BusError;
use super::reply::ReplyError;
use super::settings::{RedisUrl, ServerAddress, ServerPlace};

/// Characters of a server's text that are kept.
const TEXT_MAX: usize = 200;

/// Why a request failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RedisFailure {
    /// For the link to know.
    Bus(BusError),
    /// Another server has the key.
    Redirected(Redirection),
}

/// The server that has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Redirection {
    pub(super) to: ServerAddress,
    /// Only this key is there already; each command needs `ASKING` before it.
    pub(super) asking: bool,
    /// Entries were appended before the redirection came, so the exchange must not be repeated.
    pub(super) has_appended: bool,
}

impl From<BusError> for RedisFailure {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

/// What was asked, as far as it decides what an error means.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind<'a> {
    /// Something without a key.
    General,
    /// A login.
    Auth,
    /// Something about this key.
    Key(&'a str),
}

/// Says what the error of a reply means. `place` is where it comes from, and `url` has the password that no
/// text may show.
pub(super) fn failure(
    error: ReplyError,
    kind: RequestKind<'_>,
    place: &ServerPlace,
    url: &RedisUrl,
) -> RedisFailure {
    let text = match error {
        ReplyError::Io(error) => return BusError::Away(format!("{place}: {error}")).into(),
        ReplyError::Unexpected(text) => return BusError::Unsuitable(text.to_owned()).into(),
        ReplyError::Server(text) => text,
    };
    let mut words = text.split_ascii_whitespace();
    let code = words.next().unwrap_or_default();
    let shown = presentable(&text, url);
    let at_place = || format!("{place}: {shown}");
    let error = match (code, kind) {
        ("MOVED" | "ASK", RequestKind::Key(_)) => {
            let to = words.nth(1).and_then(|to| ServerAddress::of_redirection(to, place.host()));
            if let Some(to) = to {
                let asking = code == "ASK";
                return RedisFailure::Redirected(Redirection { to, asking, has_appended: false });
            }
            BusError::Away(at_place())
        }
        ("WRONGTYPE", RequestKind::Key(key)) => BusError::WrongType(key.to_owned()),
        ("OOM", _) => BusError::OutOfMemory(at_place()),
        ("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED", _) | ("ERR", RequestKind::Auth) => {
            BusError::Denied(at_place())
        }
        (
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "MISCONF" | "NOREPLICAS"
            | "BUSY",
            _,
        ) => BusError::Away(at_place()),
        ("ERR", _) if text.contains("max number of clients") => BusError::Away(at_place()),
        _ => BusError::Unsuitable(at_place()),
    };
    error.into()
}

/// Returns a server's text for people: short, printable, and without the password.
fn presentable(text: &str, url: &RedisUrl) -> String {
    let mut text = text.to_owned();
    if !url.password.is_empty() {
        text = text.replace(&url.password, "***");
    }
    text.chars().take(TEXT_MAX).map(|it| if it.is_control() { ' ' } else { it }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, kind: RequestKind<'_>) -> RedisFailure {
        let url: RedisUrl = "redis://ann:secret@h".parse().unwrap();
        failure(ReplyError::Server(text.to_owned()), kind, &url.place, &url)
    }

    fn bus_error(text: &str, kind: RequestKind<'_>) -> BusError {
        match of(text, kind) {
            RedisFailure::Bus(error) => error,
            RedisFailure::Redirected(to) => panic!("{text}: {to:?}"),
        }
    }

    #[test]
    fn each_error_has_its_meaning() {
        let key = RequestKind::Key("k");
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "READONLY You can't write against a read only replica.",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOREPLICAS Not enough good replicas to write.",
            "ERR max number of clients reached",
            "MOVED 1 ?:7",
        ] {
            assert_eq!(bus_error(text, key), BusError::Away(format!("h:6379: {text}")));
        }
        for text in ["NOAUTH Authentication required.", "WRONGPASS invalid", "NOPERM no", "DENIED protected"]
        {
            assert_eq!(bus_error(text, key), BusError::Denied(format!("h:6379: {text}")));
        }
        assert_eq!(
            bus_error("ERR no password", RequestKind::Auth),
            BusError::Denied("h:6379: ERR no password".into())
        );
        assert_eq!(bus_error("OOM full", key), BusError::OutOfMemory("h:6379: OOM full".into()));
        assert_eq!(bus_error("WRONGTYPE other", key), BusError::WrongType("k".into()));
        for text in ["ERR unknown command 'XADD'", "", "HUH"] {
            assert!(matches!(bus_error(text, key), BusError::Unsuitable(_)), "{text}");
        }
    }

    #[test]
    fn only_requests_with_a_key_are_redirected() {
        let to = ServerAddress { host: "10.0.0.1".to_owned(), port: 7 };
        for (text, asking) in [("MOVED 3999 10.0.0.1:7", false), ("ASK 3999 10.0.0.1:7", true)] {
            let to = to.clone();
            let expected = RedisFailure::Redirected(Redirection { to, asking, has_appended: false });
            assert_eq!(of(text, RequestKind::Key("k")), expected);
            assert!(matches!(bus_error(text, RequestKind::General), BusError::Unsuitable(_)));
        }
    }

    #[test]
    fn texts_are_short_and_have_no_password() {
        let shown = bus_error(&format!("ERR 'secret'\t{}", "x".repeat(1000)), RequestKind::Auth).to_string();
        assert!(shown.contains("ERR '***' x") && !shown.contains("secret"), "{shown}");
        assert!(shown.len() < TEXT_MAX + 60, "{shown}");
    }
}
