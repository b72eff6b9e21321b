//! Trackers over HTTP (BEP 3, BEP 7, BEP 23, BEP 24, BEP 48).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hayate_state::{Event, InfoHash, PeerId};
use ureq::config::IpFamily;

use super::udp::{peers_v4, peers_v6};
use super::{AnnounceRequest, Announced, ClientError, Family, Limits, Peer, Scraped};
use crate::bencode::{SIZE_MAX, Value};
use crate::percent;

/// Keys of an announce reply that [`Announced`] has a field for.
const KNOWN: [&str; 9] = [
    "complete",
    "downloaded",
    "external ip",
    "incomplete",
    "interval",
    "min interval",
    "peers",
    "peers6",
    "warning message",
];
/// Most redirects that are followed.
const REDIRECTS_MAX: u32 = 3;

/// Sends one announce.
///
/// # Errors
/// Fails when there is no valid reply.
pub fn announce(url: &str, request: &AnnounceRequest, limits: &Limits) -> Result<Announced, ClientError> {
    read_announced(&fetch(&announce_url(url, request), limits)?)
}

/// Sends one scrape to the URL that BEP 48 derives from the URL of announces.
///
/// # Errors
/// Fails when there is no valid reply, or no such URL.
pub fn scrape(url: &str, hashes: &[InfoHash], limits: &Limits) -> Result<Vec<Option<Scraped>>, ClientError> {
    let mut url = scrape_url(url).ok_or_else(|| ClientError::NoScrape(url.to_owned()))?;
    for hash in hashes {
        push(&mut url, "info_hash", &percent::encode(&hash.0));
    }
    let reply = fetch(&url, limits)?;
    let Some(Value::Dictionary(files)) = reply.at("files") else {
        return Err(ClientError::BadReply("a scrape reply without files"));
    };
    Ok(hashes.iter().map(|hash| files.get(hash.0.as_slice()).map(read_scraped)).collect())
}

/// Sends a request and reads the reply, which must be a dictionary without a failure.
fn fetch(url: &str, limits: &Limits) -> Result<Value, ClientError> {
    let (status, body) = get(url, limits)?;
    // Some trackers send failures with another status, but in bencode.
    let value = Value::decode(&body);
    if let Some(reason) =
        value.as_ref().ok().and_then(|value| value.at("failure reason")).and_then(Value::octets)
    {
        return Err(ClientError::Refused(reason.escape_ascii().to_string()));
    }
    if status != 200 {
        return Err(ClientError::Status(status));
    }
    match value? {
        dictionary @ Value::Dictionary(_) => Ok(dictionary),
        _ => Err(ClientError::BadReply("not a dictionary")),
    }
}

/// Fetches status and body of a URL.
///
/// # Errors
/// Fails when there is no answer in time, or a longer one than is read.
pub fn get(url: &str, limits: &Limits) -> Result<(u16, Vec<u8>), ClientError> {
    get_up_to(url, limits, SIZE_MAX as u64)
}

/// Does the same with a body of at most `octets_max`.
///
/// # Errors
/// Fails when there is no answer in time, or a longer one than is read.
pub fn get_up_to(url: &str, limits: &Limits, octets_max: u64) -> Result<(u16, Vec<u8>), ClientError> {
    let family = match limits.family {
        Family::Any => IpFamily::Any,
        Family::V4 => IpFamily::Ipv4Only,
        Family::V6 => IpFamily::Ipv6Only,
    };
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(limits.timeout))
        .user_agent(limits.user_agent)
        .ip_family(family)
        .max_redirects(REDIRECTS_MAX)
        .http_status_as_error(false)
        .proxy(None)
        .build();
    let reply = ureq::Agent::new_with_config(config).get(url).call()?;
    let status = reply.status().as_u16();
    Ok((status, reply.into_body().into_with_config().limit(octets_max).read_to_vec()?))
}

fn announce_url(url: &str, request: &AnnounceRequest) -> String {
    let mut url = url.to_owned();
    push(&mut url, "info_hash", &percent::encode(&request.info_hash.0));
    push(&mut url, "peer_id", &percent::encode(&request.peer_id.0));
    push(&mut url, "port", &request.port.to_string());
    push(&mut url, "uploaded", &request.uploaded.to_string());
    push(&mut url, "downloaded", &request.downloaded.to_string());
    push(&mut url, "left", &request.left.to_string());
    push(&mut url, "compact", if request.compact { "1" } else { "0" });
    push(&mut url, "key", &format!("{:08x}", request.key));
    if let Some(event) = event_name(request.event) {
        push(&mut url, "event", event);
    }
    if let Some(num_want) = request.num_want {
        push(&mut url, "numwant", &num_want.to_string());
    }
    if let Some(address) = request.address {
        push(&mut url, "ip", &percent::encode(address.to_string().as_bytes()));
    }
    if request.supports_crypto {
        push(&mut url, "supportcrypto", "1");
    }
    url
}

/// Returns the URL of scrapes (BEP 48): the last `/announce` becomes `/scrape`, whatever follows it.
fn scrape_url(url: &str) -> Option<String> {
    let (path, query) = url.split_at(url.find('?').unwrap_or(url.len()));
    let (folder, last) = path.rsplit_once('/')?;
    let rest = last.strip_prefix("announce")?;
    Some(format!("{folder}/scrape{rest}{query}"))
}

fn push(url: &mut String, name: &str, value: &str) {
    let separator = if url.contains('?') { '&' } else { '?' };
    *url += &format!("{separator}{name}={value}");
}

fn event_name(event: Event) -> Option<&'static str> {
    match event {
        Event::None => None,
        Event::Completed => Some("completed"),
        Event::Started => Some("started"),
        Event::Stopped => Some("stopped"),
        Event::Paused => Some("paused"),
    }
}

fn read_announced(reply: &Value) -> Result<Announced, ClientError> {
    let number = |key: &str| reply.at(key).and_then(Value::integer);
    let interval = number("interval").ok_or(ClientError::BadReply("an announce reply without interval"))?;
    let mut peers = match reply.at("peers") {
        Some(Value::Octets(octets)) => {
            peers_v4(octets).ok_or(ClientError::BadReply("peers of an odd length"))?
        }
        Some(Value::List(list)) => list.iter().map(read_peer).collect::<Result<_, _>>()?,
        Some(_) => return Err(ClientError::BadReply("peers are neither octets nor a list")),
        None => Vec::new(),
    };
    if let Some(octets) = reply.at("peers6").and_then(Value::octets) {
        peers.extend(peers_v6(octets).ok_or(ClientError::BadReply("peers6 of an odd length"))?);
    }
    let text = |octets: &[u8]| octets.escape_ascii().to_string();
    Ok(Announced {
        interval,
        min_interval: number("min interval"),
        seeders: number("complete"),
        leechers: number("incomplete"),
        completed: number("downloaded"),
        external_ip: reply.at("external ip").and_then(Value::octets).and_then(read_address),
        warning: reply.at("warning message").and_then(Value::octets).map(text),
        peers,
        other_keys: other_keys(reply),
    })
}

/// Returns the keys of a reply for which [`Announced`] has no field.
fn other_keys(reply: &Value) -> Vec<(String, String)> {
    let Value::Dictionary(entries) = reply else { return Vec::new() };
    let unknown =
        entries.iter().filter(|(key, _)| !KNOWN.iter().any(|known| known.as_bytes() == key.as_slice()));
    unknown.map(|(key, value)| (key.escape_ascii().to_string(), value.to_string())).collect()
}

/// Reads one entry of the list form (BEP 3).
fn read_peer(entry: &Value) -> Result<Peer, ClientError> {
    let host = entry.at("ip").and_then(Value::octets).ok_or(ClientError::BadReply("a peer without ip"))?;
    let port = entry.at("port").and_then(Value::integer).and_then(|port| u16::try_from(port).ok());
    let id = entry.at("peer id").and_then(Value::octets).and_then(|id| id.try_into().ok()).map(PeerId);
    let port = port.ok_or(ClientError::BadReply("a peer without a good port"))?;
    Ok(Peer { host: host.escape_ascii().to_string(), port, id })
}

/// Reads an address of 4 or 16 octets (BEP 24).
fn read_address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))).ok()
}

fn read_scraped(file: &Value) -> Scraped {
    let number = |key| file.at(key).and_then(Value::integer).unwrap_or(0);
    Scraped { seeders: number("complete"), completed: number("downloaded"), leechers: number("incomplete") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes_are_where_bep_48_says() {
        for (announce, scrape) in [
            ("http://x/announce", Some("http://x/scrape")),
            ("http://x/key/announce.php?a=b/announce", Some("http://x/key/scrape.php?a=b/announce")),
            ("http://x/a", None),
            ("http://x/announce/x", None),
        ] {
            assert_eq!(scrape_url(announce).as_deref(), scrape);
        }
    }

    #[test]
    fn an_announce_holds_every_parameter() {
        let mut request = AnnounceRequest::new(InfoHash([0xff; 20]));
        request.peer_id = PeerId(*b"-HY0100-abc~.def &%+");
        (request.port, request.uploaded, request.downloaded, request.left, request.key) =
            (7, 11, 13, 17, 0x19);
        (request.event, request.num_want, request.compact) = (Event::Started, Some(23), false);
        let expected = format!(
            "http://x/a?k=v&info_hash={}&peer_id=-HY0100-abc~.def%20%26%25%2B&port=7&uploaded=11\
             &downloaded=13&left=17&compact=0&key=00000019&event=started&numwant=23",
            "%FF".repeat(20)
        );
        assert_eq!(announce_url("http://x/a?k=v", &request), expected);
    }

    #[test]
    fn both_forms_of_peers_are_read() {
        let compact = b"d8:completei7e8:intervali1800e5:peers6:\xc0\x00\x02\x09\x1a\xe16:peers60:3:xyzi1ee";
        let reply = read_announced(&Value::decode(compact).unwrap()).unwrap();
        assert_eq!(reply.peers, [Peer { host: "192.0.2.9".into(), port: 6881, id: None }]);
        assert_eq!((reply.interval, reply.seeders, reply.leechers), (1800, Some(7), None));
        assert_eq!(reply.other_keys, [("xyz".to_owned(), "1".to_owned())]);
        let list =
            b"d8:intervali9e5:peersld2:ip11:2001:db8::77:peer id20:-AZ3034-6wfG2wk6wWLc4:porti6881eeee";
        let reply = read_announced(&Value::decode(list).unwrap()).unwrap();
        assert_eq!(reply.peers[0].to_string(), "[2001:db8::7]:6881");
        assert_eq!(reply.peers[0].id, Some(PeerId(*b"-AZ3034-6wfG2wk6wWLc")));
    }

    #[test]
    fn bad_peers_are_a_bad_reply() {
        for text in [
            &b"d5:peers0:e"[..],
            b"d8:intervali9e5:peers5:abcdee",
            b"d8:intervali9e5:peersi7ee",
            b"d8:intervali9e5:peersld2:ip1:xeee",
            b"d8:intervali9e6:peers61:xe",
        ] {
            let reply = read_announced(&Value::decode(text).unwrap());
            assert!(matches!(reply, Err(ClientError::BadReply(_))), "{}", text.escape_ascii());
        }
    }
}
