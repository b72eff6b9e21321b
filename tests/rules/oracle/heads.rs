//! Generates HTTP requests, valid and nearly valid ones, with the responses that they may get.

use std::ops::RangeInclusive;

use fastrand::Rng;

/// A request, and how it may be answered.
#[derive(Debug)]
pub(super) struct Mutant {
    pub(super) octets: Vec<u8>,
    /// The status must be one of these.
    pub(super) statuses: &'static [u16],
    /// How many responses it may get.
    pub(super) responses: RangeInclusive<usize>,
    pub(super) after: After,
    /// Whether the method is HEAD: the response has no body.
    pub(super) is_head_request: bool,
}

/// The state of the connection afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// The next request is answered.
    Open,
    Closed,
    /// The next request may become part of this one: any state is allowed.
    Swallows,
    /// Open or closed.
    Either,
}

/// Targets for one mode.
#[derive(Clone, Copy)]
pub(super) struct TargetSet<'a> {
    /// Targets with a query, that are answered with 200.
    pub(super) good: &'a [&'a str],
    /// Targets that are answered with 404.
    pub(super) missing: &'a [&'a str],
}

const ANY: &[u16] = &[200, 400, 404, 405, 414, 431, 505];
const METHODS: [&str; 9] =
    ["POST", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE", "BREW", "get", "G!#$%&'*+-.^_`|~9"];
/// Octets that need no escaping in a query, and `%`; repeated ones are picked more often.
const PLAIN: &[u8] = b"abcXYZ0189-_.~!$&&&'()*+,;===:@/?%%%";
const ODD: &[u8] = b"\"<>\\^`{|}#";

/// One request that is answered once and keeps the connection open.
pub(super) fn safe(random: &mut Rng, targets: TargetSet<'_>) -> Mutant {
    let (good, missing) = (pick(random, targets.good), pick(random, targets.missing));
    let more = query(random);
    let (octets, statuses): (String, &[u16]) = match random.u8(..12) {
        0 => (get(missing, ""), &[404]),
        1 => (format!("GET {good} HTTP/1.1\r\n\r\n"), &[200]),
        2 => (get(&format!("http://other.example:80{good}"), ""), &[200]),
        3 => (format!("{} {good} HTTP/1.1\r\nHost: t\r\n\r\n", pick(random, &METHODS)), &[405]),
        4 => (format!("HEAD {good} HTTP/1.1\r\nHost: t\r\n\r\n"), &[200, 405]),
        5 => (get(&format!("//{good}"), ""), &[200, 404]),
        6 => (get(&format!("{good}&{more}"), ""), &[200, 404]),
        7 => (get(&format!("/{more}"), ""), &[200, 404]),
        8 => (get(good, "X-Tab:\ta\tb \r\nX-Empty:\r\nx-%&'*+-.^_`|~9: 7\r\n"), &[200]),
        9 => (get(good, "Expect: 100-continue\r\nAccept-Encoding: gzip\r\n"), &[200]),
        10 => (get(good, &format!("Cookie: {}\r\n", "y".repeat(random.usize(..15_000)))), &[200]),
        _ => (get(good, ""), &[200]),
    };
    let is_head_request = octets.starts_with("HEAD");
    Mutant { octets: octets.into_bytes(), statuses, responses: 1..=1, after: After::Open, is_head_request }
}

/// One request that may end or confuse the connection. `smuggled` is a whole request that must never be
/// answered when it is in a body.
pub(super) fn risky(random: &mut Rng, targets: TargetSet<'_>, smuggled: &str) -> Mutant {
    let good = pick(random, targets.good);
    match random.u8(..10) {
        0 | 1 => odd_target(random, good),
        2 => bad_header(random, good),
        3 => refused_body(random, good, smuggled),
        4 => odd_version(random, good),
        5 => odd_size(random, good),
        6 => odd_request_line(random, good),
        7 => foreign_request(random),
        _ => noise(random, good, targets),
    }
}

fn mutant(octets: impl Into<Vec<u8>>, statuses: &'static [u16], after: After) -> Mutant {
    Mutant { octets: octets.into(), statuses, responses: 1..=1, after, is_head_request: false }
}

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: t\r\n{lines}\r\n")
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

/// A random query from [`PLAIN`]; its escapes may be broken.
fn query(random: &mut Rng) -> String {
    let len = random.usize(..60);
    (0..len).map(|_| char::from(pick(random, PLAIN))).collect()
}

/// Inserts into the target an octet that does not belong there.
fn odd_target(random: &mut Rng, good: &str) -> Mutant {
    let mut octets = get(good, "").into_bytes();
    let at = "GET ".len() + 1 + random.usize(..good.len() - 1);
    let (octet, statuses): (u8, &[u16]) = match random.u8(..4) {
        0 => (pick(random, ODD), &[200, 400, 404]),
        1 => (random.u8(0x80..), &[400]),
        2 => (0x7f, &[400]),
        // Not LF or a space: either would make a different, possibly valid request line.
        _ => (pick(random, &[0, 1, 8, b'\t', b'\r', 0x0b, 0x1f]), &[400]),
    };
    octets.insert(at, octet);
    mutant(octets, statuses, After::Either)
}

fn bad_header(random: &mut Rng, good: &str) -> Mutant {
    let bad: &[u8] = pick(
        random,
        &[
            b"X-A : b\r\n",
            b": b\r\n",
            b"no colon\r\n",
            b"X-A\r\n",
            b"X@A: b\r\n",
            b"X-\x80: b\r\n",
            b"X-A: b\r\n folded\r\n",
            b"X-A: \x00\r\n",
            b"X-A: a\rb\r\n",
            b"X-A: a\x01\r\n",
            b"X-A: a\x7f\r\n",
            b" X-A: b\r\n",
            b"\tX-A: b\r\n",
            b"X-A: b\n\rX-B: c\r\n",
        ],
    );
    let odd: &[u8] = pick(
        random,
        &[
            b"Host: other\r\n",
            b"Host: t\r\nHost: \r\n",
            b"X-A: \xff\x80\r\n",
            b"X-A: b\nX-B: c\r\n",
            b"Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
            b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Length: 0\r\nContent-Length: 0\r\n",
        ],
    );
    let (lines, statuses): (_, &[u16]) = if random.bool() { (bad, &[400]) } else { (odd, &[200, 400]) };
    let octets = [format!("GET {good} HTTP/1.1\r\nHost: t\r\n").as_bytes(), lines, b"\r\n"].concat();
    mutant(octets, statuses, After::Either)
}

/// A request whose body contains a whole request. Any body is refused.
fn refused_body(random: &mut Rng, good: &str, smuggled: &str) -> Mutant {
    let (len, chunked) = (smuggled.len(), format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()));
    let fine = format!("Content-Length: {len}\r\n");
    let (lines, body) = match random.u8(..16) {
        0 => (format!("Content-Length: +{len}\r\n"), smuggled),
        1 => (format!("Content-Length: {len}, {}\r\n", len + 1), smuggled),
        2 => (format!("Content-Length: 0x{len:x}\r\n"), smuggled),
        3 => ("Content-Length: -1\r\n".into(), smuggled),
        4 => ("Content-Length: 99999999999999999999999\r\n".into(), smuggled),
        5 => (format!("Content-Length: 0\r\n{fine}"), smuggled),
        6 => (format!("{fine}Content-Length: 0\r\n"), smuggled),
        7 => (format!("{fine}Transfer-Encoding: chunked\r\n"), &*chunked),
        8 => (format!("Transfer-Encoding: chunked\r\n{fine}"), &*chunked),
        9 => ("Transfer-Encoding: chunked\r\n".into(), &*chunked),
        10 => ("Transfer-Encoding:\tchunked \r\n".into(), &*chunked),
        11 => ("Transfer-Encoding: gzip, chunked\r\n".into(), &*chunked),
        12 => ("Transfer-Encoding: identity\r\n".into(), smuggled),
        13 => ("Transfer-Encoding: chunked, xchunked\r\n".into(), &*chunked),
        14 => ("transfer-encoding: x\r\ntransfer-encoding: chunked\r\n".into(), &*chunked),
        _ => (fine, smuggled),
    };
    let method = pick(random, &["GET", "GET", "GET", "POST", "PUT"]);
    let octets = format!("{method} {good} HTTP/1.1\r\nHost: t\r\n{lines}\r\n{body}");
    let statuses: &[u16] = if method == "GET" { &[400] } else { &[400, 405] };
    mutant(octets, statuses, After::Closed)
}

fn odd_version(random: &mut Rng, good: &str) -> Mutant {
    let with = |version: &str, lines: &str| format!("GET {good}{version}\r\nHost: t\r\n{lines}\r\n");
    match random.u8(..4) {
        0 => mutant(with(" HTTP/1.0", ""), &[200], After::Closed),
        1 => mutant(with(" HTTP/1.0", "Connection: keep-alive\r\n"), &[200], After::Open),
        2 => mutant(with(" HTTP/1.1", "Connection: close\r\n"), &[200], After::Closed),
        _ => {
            let odd = [
                "",
                " ",
                " HTTP/0.9",
                " HTTP/1.2",
                " HTTP/2.0",
                " HTTP/11",
                " HTTX/1.1",
                " http/1.1",
                " HTTP/1.1x",
            ];
            mutant(with(pick(random, &odd), ""), &[400, 505], After::Closed)
        }
    }
}

/// Around the limits: request line 8192, header lines 16384 octets and (the HTTP parser's) 100 lines.
fn odd_size(random: &mut Rng, good: &str) -> Mutant {
    let (octets, statuses): (String, &[u16]) = match random.u8(..40) {
        0 => (get(&format!("{good}&{}", "x".repeat(66_000)), ""), &[414, 431]),
        1 => (get(good, &format!("X-Long: {}\r\n", "y".repeat(66_000))), &[431]),
        2..10 => (get(&format!("{good}&{}", "x".repeat(random.usize(8200..20_000))), ""), &[414]),
        10..20 => (get(good, &format!("X-Long: {}\r\n", "y".repeat(random.usize(16_500..24_000)))), &[431]),
        20..25 => (get(good, &"X: y\r\n".repeat(random.usize(101..200))), &[431]),
        25..32 => (get(good, &"X: y\r\n".repeat(random.usize(..99))), &[200]),
        _ => (get(&format!("{good}&{}", "x".repeat(random.usize(..7500))), ""), &[200]),
    };
    let after = if statuses == [200] { After::Open } else { After::Closed };
    mutant(octets, statuses, after)
}

/// Request lines with wrong spaces and line ends.
fn odd_request_line(random: &mut Rng, good: &str) -> Mutant {
    let octets = match random.u8(..9) {
        0 => format!("GET  {good} HTTP/1.1\r\n\r\n"),
        1 => format!("GET\t{good} HTTP/1.1\r\n\r\n"),
        2 => format!("GET {good}  HTTP/1.1\r\n\r\n"),
        3 => format!("GET {good} HTTP/1.1 \r\n\r\n"),
        4 => format!(" GET {good} HTTP/1.1\r\n\r\n"),
        5 => format!("{}GET {good} HTTP/1.1\r\n\r\n", "\r\n".repeat(random.usize(1..5))),
        6 => format!("GET {good} HTTP/1.1\nHost: t\n\n"),
        7 => format!("GET {good} HTTP/1.1\r\r\n\r\n"),
        _ => format!("GET {good} x HTTP/1.1\r\nHost: t\r\n\r\n"),
    };
    mutant(octets, &[200, 400], After::Either)
}

/// Other protocols, and HTTP requests not in origin form. The HTTP/2 preface can look like two requests.
fn foreign_request(random: &mut Rng) -> Mutant {
    let octets: &[u8] = pick(
        random,
        &[
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n",
            b"GET * HTTP/1.1\r\nHost: t\r\n\r\n",
            b"GET t:80 HTTP/1.1\r\nHost: t\r\n\r\n",
            b"GET http:// HTTP/1.1\r\nHost: t\r\n\r\n",
            b"GET / HTTP/1.1: \x00\r\n\r\n",
        ],
    );
    Mutant { responses: 0..=2, ..mutant(octets, &[200, 400, 404, 405, 505], After::Either) }
}

/// Changes, removes or inserts octets, or truncates the request.
fn noise(random: &mut Rng, good: &str, targets: TargetSet<'_>) -> Mutant {
    let good = if random.bool() { good } else { pick(random, targets.missing) };
    let mut octets = get(good, "Accept: */*\r\nX-A: b\r\n").into_bytes();
    for _ in 0..=random.usize(..3) {
        let at = random.usize(..octets.len());
        match random.u8(..8) {
            0 | 1 => octets[at] ^= 1 << random.u8(..8),
            2 => octets[at] = pick(random, b"\r\n \t:\0%"),
            3 => octets.insert(at, pick(random, b"\r\n \t:\0%#/?")),
            4 => octets.insert(at, random.u8(..)),
            5 | 6 if octets.len() > 1 => _ = octets.remove(at),
            _ => octets.truncate(at + 1),
        }
    }
    let whole = octets.ends_with(b"\r\n\r\n") || octets.ends_with(b"\n\n");
    // Each empty line may end a request.
    let empty_lines = octets.windows(2).filter(|two| two == b"\n\n").count();
    let empty_lines = empty_lines + octets.windows(3).filter(|three| three == b"\n\r\n").count();
    let after = if whole { After::Either } else { After::Swallows };
    Mutant { octets, statuses: ANY, responses: 0..=empty_lines + 1, after, is_head_request: false }
}
