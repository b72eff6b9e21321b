//! URLs of trackers.

use std::str::FromStr;

use super::ClientError;

/// The URL of a tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerUrl {
    /// `udp://host:port/path?query`
    Udp {
        /// Name or address of the host, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Path and query, with the leading `/`; empty if there is none (BEP 41).
        path: String,
    },
    /// `http://` or `https://`, as it was written, without a fragment.
    Http(String),
}

impl FromStr for TrackerUrl {
    type Err = ClientError;

    fn from_str(url: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let whole = url.split('#').next().unwrap_or(url);
        match scheme.to_ascii_lowercase().as_str() {
            "udp" => parse_udp(rest).ok_or_else(bad),
            "http" | "https" if !rest.is_empty() => Ok(Self::Http(whole.to_owned())),
            _ => Err(bad()),
        }
    }
}

fn parse_udp(rest: &str) -> Option<TrackerUrl> {
    let rest = rest.split('#').next()?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority.rsplit_once(':')?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    if host.is_empty() || host.contains(['[', ']', '@']) || inner.is_none() && host.contains(':') {
        return None;
    }
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    Some(TrackerUrl::Udp { host: host.to_owned(), port: port.parse().ok()?, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(host: &str, port: u16, path: &str) -> TrackerUrl {
        TrackerUrl::Udp { host: host.into(), port, path: path.into() }
    }

    #[test]
    fn urls_of_trackers_are_read() {
        for (url, expected) in [
            ("udp://tracker.example:6969", udp("tracker.example", 6969, "")),
            ("udp://192.0.2.7:80/announce?a=b", udp("192.0.2.7", 80, "/announce?a=b")),
            ("UDP://[2001:db8::7]:7/", udp("2001:db8::7", 7, "/")),
            ("udp://x:1?a=b#c", udp("x", 1, "/?a=b")),
            ("http://x/announce#c", TrackerUrl::Http("http://x/announce".into())),
            ("https://x/announce", TrackerUrl::Http("https://x/announce".into())),
        ] {
            assert_eq!(url.parse::<TrackerUrl>().unwrap(), expected, "{url}");
        }
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        for url in [
            "",
            "x",
            "udp://",
            "udp://x",
            "udp://x:y",
            "udp://::1:7",
            "udp://x:65536",
            "ftp://x:1",
            "udp://:1",
        ] {
            let error = url.parse::<TrackerUrl>().unwrap_err().to_string();
            assert!(error.contains(&format!("{url:?}")) && error.contains("expected udp://"), "{error}");
        }
    }
}
