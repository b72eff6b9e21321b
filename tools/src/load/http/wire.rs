//! Text of requests; status, length and failure of replies.

use std::io::Write;

use hayate_state::Event;

use crate::load::plan::Announce;
use crate::percent;

/// The beginning of a bencoded failure (BEP 3).
const FAILURE: &[u8] = b"d14:failure reason";
/// The end of a body in chunks.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// Most headers of a reply.
const HEADERS_MAX: usize = 64;

/// The parts that all requests have in common.
#[derive(Clone, Debug)]
pub struct Requests {
    announces: Vec<String>,
    scrapes: Vec<String>,
    /// Everything after the target.
    tail: String,
}

impl Requests {
    /// Makes requests for these paths; there are as many of scrapes as of announces, or none.
    #[must_use]
    pub fn new(announces: &[String], scrapes: &[String], authority: &str, close: bool) -> Self {
        let begin = |path: &String| {
            let mark = if path.contains('?') { '&' } else { '?' };
            format!("GET {path}{mark}info_hash=")
        };
        let close = if close { "Connection: close\r\n" } else { "" };
        Self {
            announces: announces.iter().map(begin).collect(),
            scrapes: scrapes.iter().map(begin).collect(),
            tail: format!(" HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: hayate-load\r\n{close}\r\n"),
        }
    }

    /// Returns the number of paths, at least 1.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.announces.len()
    }

    /// Writes an announce (BEP 3, BEP 23) to path number `path`.
    pub fn announce(&self, out: &mut Vec<u8>, path: usize, announce: &Announce) {
        out.extend_from_slice(self.announces.get(path).map_or(b"", String::as_bytes));
        percent::encode_into(out, &announce.info_hash);
        out.extend_from_slice(b"&peer_id=");
        percent::encode_into(out, &announce.peer_id);
        // Writing to a Vec cannot fail.
        let transferred = announce.transferred;
        _ = write!(
            out,
            "&port={}&uploaded={transferred}&downloaded={transferred}&left={}",
            announce.port, announce.left
        );
        _ = write!(out, "&key={:08x}&compact=1", announce.key);
        if announce.num_want >= 0 {
            _ = write!(out, "&numwant={}", announce.num_want);
        }
        out.extend_from_slice(match announce.event {
            Event::None | Event::Paused => b"",
            Event::Completed => b"&event=completed",
            Event::Started => b"&event=started",
            Event::Stopped => b"&event=stopped",
        });
        out.extend_from_slice(self.tail.as_bytes());
    }

    /// Writes a scrape (BEP 48) of at least one torrent to path number `path`.
    pub fn scrape(&self, out: &mut Vec<u8>, path: usize, torrents: impl Iterator<Item = [u8; 20]>) {
        out.extend_from_slice(self.scrapes.get(path).map_or(b"", String::as_bytes));
        for (index, info_hash) in torrents.enumerate() {
            if index > 0 {
                out.extend_from_slice(b"&info_hash=");
            }
            percent::encode_into(out, &info_hash);
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// How much of a reply has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpReply {
    /// There is more to come.
    Partial,
    /// The reply is complete.
    Whole {
        /// Whether the status is 200 and there is no failure reason.
        good: bool,
        /// Whether the connection may be used again.
        keeps: bool,
    },
    /// The reply is not HTTP, or ended too early.
    Broken,
}

/// Examines what has arrived of a reply; `ended` = there will be no more.
#[must_use]
pub fn read_reply(octets: &[u8], ended: bool) -> HttpReply {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let unfinished = if ended { HttpReply::Broken } else { HttpReply::Partial };
    let body = match head.parse(octets) {
        Ok(httparse::Status::Complete(len)) => octets.get(len..).unwrap_or_default(),
        Ok(httparse::Status::Partial) => return unfinished,
        Err(_) => return HttpReply::Broken,
    };
    let header = |name: &str| {
        let of_name = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        of_name.map(|header| header.value.trim_ascii())
    };
    let length: Option<usize> =
        header("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    let chunked = header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
    let whole = match length {
        _ if chunked => body.ends_with(LAST_CHUNK),
        Some(length) => body.len() >= length,
        None => ended,
    };
    if !whole {
        return unfinished;
    }
    let connection = header("connection").unwrap_or_default();
    let keeps = match head.version {
        Some(0) => connection.eq_ignore_ascii_case(b"keep-alive"),
        _ => !connection.eq_ignore_ascii_case(b"close"),
    };
    let content = if chunked { after_line(body) } else { body };
    HttpReply::Whole { good: head.code == Some(200) && !content.starts_with(FAILURE), keeps: keeps && !ended }
}

/// Returns what follows the first line, which is the size of the first chunk.
fn after_line(octets: &[u8]) -> &[u8] {
    let end = octets.iter().position(|octet| *octet == b'\n');
    end.and_then(|end| octets.get(end + 1..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(event: Event, num_want: i32) -> Announce {
        let mut info_hash = *b"0123456789abcdefghij";
        info_hash[3] = 0xfa;
        let peer_id = *b"-HL0100-0123456789ab";
        Announce { info_hash, peer_id, key: 0xab, port: 7, left: 11, transferred: 0, event, num_want }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn requests_are_those_of_bep_3_and_48() {
        let requests = Requests::new(&["/a".into(), "/b?c=d".into()], &["/s".into()], "x:7", true);
        assert_eq!(
            text(|out| requests.announce(out, 1, &announce(Event::Started, 13))),
            "GET /b?c=d&info_hash=012%FA456789abcdefghij&peer_id=-HL0100-0123456789ab&port=7&uploaded=0\
             &downloaded=0&left=11&key=000000ab&compact=1&numwant=13&event=started HTTP/1.1\r\nHost: x:7\r\n\
             User-Agent: hayate-load\r\nConnection: close\r\n\r\n"
        );
        let scrape = text(|out| requests.scrape(out, 0, [[b'A'; 20], [b'B'; 20]].into_iter()));
        let target = format!("GET /s?info_hash={}&info_hash={} HTTP/1.1\r\n", "A".repeat(20), "B".repeat(20));
        assert!(scrape.starts_with(&target), "{scrape}");
        let kept = Requests::new(&["/a".into()], &[], "x:7", false);
        let announce = text(|out| kept.announce(out, 0, &announce(Event::None, -1)));
        assert!(announce.contains("&compact=1 HTTP/1.1") && !announce.contains("Connection"), "{announce}");
    }

    #[test]
    fn replies_are_whole_when_their_length_says_so() {
        let whole = |good, keeps| HttpReply::Whole { good, keeps };
        for (octets, ended, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde", false, whole(true, true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nd", false, HttpReply::Partial),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nd", true, HttpReply::Broken),
            ("HTTP/1.1 200 OK\r\nContent-Len", false, HttpReply::Partial),
            ("", true, HttpReply::Broken),
            ("SMTP", false, HttpReply::Broken),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: Close\r\n\r\n", false, whole(true, false)),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, whole(true, false)),
            ("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", false, whole(false, true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\nd14:failure reason", false, whole(false, true)),
            ("HTTP/1.1 200 OK\r\n\r\nde", false, HttpReply::Partial),
            ("HTTP/1.1 200 OK\r\n\r\nde", true, whole(true, false)),
        ] {
            assert_eq!(read_reply(octets.as_bytes(), ended), expected, "{octets}");
        }
    }

    #[test]
    fn replies_in_chunks_end_with_the_empty_chunk() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let good = format!("{head}2\r\nde\r\n");
        assert_eq!(read_reply(good.as_bytes(), false), HttpReply::Partial);
        let good = format!("{good}0\r\n\r\n");
        assert_eq!(read_reply(good.as_bytes(), false), HttpReply::Whole { good: true, keeps: true });
        let failure = format!("{head}12\r\nd14:failure reason\r\n0\r\n\r\n");
        assert_eq!(read_reply(failure.as_bytes(), false), HttpReply::Whole { good: false, keeps: true });
    }
}
