//! `hayate probe`: one request by hand against any tracker, its reply printed for people or as JSON.

use std::fmt::Write;

use hayate_state::InfoHash;
use serde_json::{Value, json};

use crate::client::{self, AnnounceRequest, Announced, ClientError, Limits, Scraped};

/// The `User-Agent` of HTTP requests.
pub const USER_AGENT: &str = concat!("hayate-probe/", env!("CARGO_PKG_VERSION"));

/// How the reply is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people, one line per field.
    Text,
    /// One JSON object.
    Json,
}

/// Announces. Returns the reply in the form in which it is printed.
///
/// # Errors
/// Fails when there is no valid reply.
pub fn announce(
    url: &str,
    request: &AnnounceRequest,
    limits: &Limits,
    format: Format,
) -> Result<String, ClientError> {
    let reply = client::announce(url, request, limits)?;
    Ok(match format {
        Format::Text => announce_text(&reply),
        Format::Json => line(&announce_json(&reply)),
    })
}

/// Scrapes. Returns the reply in the form in which it is printed.
///
/// # Errors
/// Fails when there is no valid reply.
pub fn scrape(
    url: &str,
    hashes: &[InfoHash],
    limits: &Limits,
    format: Format,
) -> Result<String, ClientError> {
    let swarms = client::scrape(url, hashes, limits)?;
    Ok(match format {
        Format::Text => scrape_text(hashes, &swarms),
        Format::Json => line(&scrape_json(hashes, &swarms)),
    })
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}

fn announce_text(reply: &Announced) -> String {
    let mut text = format!("interval      {} s\n", reply.interval);
    let mut write = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<13} {value}");
        }
    };
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    write("min interval", reply.min_interval.map(|seconds| format!("{seconds} s")));
    write("seeders", number(reply.seeders));
    write("leechers", number(reply.leechers));
    write("completed", number(reply.completed));
    write("external ip", reply.external_ip.map(|ip| ip.to_string()));
    write("warning", reply.warning.clone());
    for (key, value) in &reply.other_keys {
        write(key, Some(value.clone()));
    }
    write("peers", Some(reply.peers.len().to_string()));
    for peer in &reply.peers {
        let id = peer.id.map(|id| format!("  {id:?}")).unwrap_or_default();
        write("", Some(format!("{peer}{id}")));
    }
    text
}

fn announce_json(reply: &Announced) -> Value {
    let peer = |peer: &client::Peer| {
        let mut entry = json!({ "ip": peer.host, "port": peer.port });
        if let (Some(id), Some(entry)) = (peer.id, entry.as_object_mut()) {
            entry.insert("peer_id".into(), format!("{id:?}").into());
        }
        entry
    };
    json!({
        "interval": reply.interval,
        "min_interval": reply.min_interval,
        "seeders": reply.seeders,
        "leechers": reply.leechers,
        "completed": reply.completed,
        "external_ip": reply.external_ip,
        "warning": reply.warning,
        "further": reply.other_keys.iter().map(|(key, value)| (key.clone(), value.as_str().into()))
            .collect::<serde_json::Map<_, Value>>(),
        "peers": reply.peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

fn scrape_text(hashes: &[InfoHash], swarms: &[Option<Scraped>]) -> String {
    let mut text = String::new();
    for (hash, swarm) in hashes.iter().zip(swarms) {
        let counts = match swarm {
            Some(Scraped { seeders, completed, leechers }) => {
                format!("seeders {seeders}, completed {completed}, leechers {leechers}")
            }
            None => "not in the reply".into(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{hash}  {counts}");
    }
    text
}

fn scrape_json(hashes: &[InfoHash], swarms: &[Option<Scraped>]) -> Value {
    let swarm = |(hash, swarm): (&InfoHash, &Option<Scraped>)| match swarm {
        Some(Scraped { seeders, completed, leechers }) => json!({
            "info_hash": hash.to_string(), "seeders": seeders, "completed": completed, "leechers": leechers,
        }),
        None => json!({ "info_hash": hash.to_string() }),
    };
    hashes.iter().zip(swarms).map(swarm).collect()
}

#[cfg(test)]
mod tests {
    use hayate_state::PeerId;

    use super::*;
    use crate::client::Peer;

    fn reply() -> Announced {
        Announced {
            interval: 1800,
            min_interval: Some(900),
            seeders: Some(7),
            leechers: Some(11),
            external_ip: Some("192.0.2.7".parse().unwrap()),
            other_keys: vec![("tracker id".into(), "\"x\"".into())],
            peers: vec![
                Peer { host: "192.0.2.9".into(), port: 6881, id: None },
                Peer { host: "2001:db8::9".into(), port: 13, id: Some(PeerId([b'A'; 20])) },
            ],
            ..Announced::default()
        }
    }

    #[test]
    fn an_announce_is_printed_for_people() {
        let expected = "\
interval      1800 s
min interval  900 s
seeders       7
leechers      11
external ip   192.0.2.7
tracker id    \"x\"
peers         2
              192.0.2.9:6881
              [2001:db8::9]:13  AAAAAAAAAAAAAAAAAAAA
";
        assert_eq!(announce_text(&reply()), expected);
    }

    #[test]
    fn an_announce_is_printed_as_json() {
        let value = announce_json(&reply());
        assert_eq!(value["interval"], 1800);
        assert_eq!(value["completed"], Value::Null);
        assert_eq!(value["further"]["tracker id"], "\"x\"");
        assert_eq!(value["peers"][0], json!({ "ip": "192.0.2.9", "port": 6881 }));
        assert_eq!(value["peers"][1]["peer_id"], "AAAAAAAAAAAAAAAAAAAA");
    }

    #[test]
    fn a_scrape_is_printed_in_both_forms() {
        let hashes = [InfoHash([0xaa; 20]), InfoHash([0xbb; 20])];
        let swarms = [Some(Scraped { seeders: 7, completed: 11, leechers: 13 }), None];
        let (a, b) = ("aa".repeat(20), "bb".repeat(20));
        let text = scrape_text(&hashes, &swarms);
        assert_eq!(text, format!("{a}  seeders 7, completed 11, leechers 13\n{b}  not in the reply\n"));
        let json = scrape_json(&hashes, &swarms);
        assert_eq!(json[0], json!({ "info_hash": a, "seeders": 7, "completed": 11, "leechers": 13 }));
        assert_eq!(json[1], json!({ "info_hash": b }));
    }
}
