//! Sends a hundred thousand requests to each mode: valid ones, nearly valid ones, and after each a canary.
//! The canary asks for something that no other request asks for, so its response cannot be mistaken for
//! another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use serde_json::json;

use super::answers::{self, StrictResponse};
use super::heads::{After, Mutant, TargetSet, risky, safe};
use crate::fixture::{FREE, PLAIN};
use crate::harness::{Daemon, TIMEOUT, fetch, percent_encoded};
use crate::kit::site_database::SiteDatabase;

const REQUESTS: usize = 100_000;
const THREADS: u64 = 3;
/// The placeholder for the marker of a canary.
const MARKER: &str = "-ZZ0000-000000000000";

/// A request with a marker, and the body of its response.
struct Canary {
    target: String,
    body: Vec<u8>,
}

impl Canary {
    /// Makes a canary. The target must contain [`MARKER`], and so must the response.
    fn of(address: SocketAddr, target: &str) -> Self {
        let body = fetch(address, target).body;
        assert!(contains(&body, MARKER), "{}", body.escape_ascii());
        Self { target: target.to_owned(), body }
    }

    fn with(&self, marker: &str) -> Self {
        let mut body = self.body.clone();
        let at = body.windows(MARKER.len()).position(|octets| octets == MARKER.as_bytes()).unwrap();
        body[at..at + MARKER.len()].copy_from_slice(marker.as_bytes());
        Self { target: self.target.replace(MARKER, marker), body }
    }

    fn is_answered_by(&self, answer: &StrictResponse) -> bool {
        answer.status == 200 && answer.body == self.body
    }

    fn request(&self, lines: &str) -> Vec<u8> {
        format!("GET {} HTTP/1.1\r\nHost: t\r\n{lines}\r\n", self.target).into_bytes()
    }
}

/// The requests of one connection.
struct Script {
    /// Follow the first canary, each with another canary behind it.
    safe: Vec<Mutant>,
    canaries: Vec<Canary>,
    /// Then a request that may end the connection, followed by two canaries; the last one asks to close.
    risky: Mutant,
    last: [Canary; 2],
    /// The marker of a request that may be in the body of the risky request. It must not be answered.
    smuggled: String,
}

impl Script {
    fn octets(&self) -> Vec<u8> {
        let mut octets = Vec::new();
        for (at, canary) in self.canaries.iter().enumerate() {
            octets.extend(canary.request(""));
            octets.extend(self.safe.get(at).map_or(&[][..], |mutant| &mutant.octets));
        }
        octets.extend(&self.risky.octets);
        octets.extend(self.last[0].request(""));
        octets.extend(self.last[1].request("Connection: close\r\n"));
        octets
    }

    /// Checks what was received up to the end of the connection.
    fn check(&self, received: &[u8]) -> Result<After, String> {
        if contains(received, &self.smuggled) {
            return Err("a request in a body was answered".to_owned());
        }
        let mut rest = received;
        for (at, canary) in self.canaries.iter().enumerate() {
            let answer =
                answers::next_response(&mut rest, false).map_err(|error| format!("canary {at}: {error}"))?;
            if !canary.is_answered_by(&answer) || answer.closes() {
                return Err(format!("canary {at} was answered with {answer:?}"));
            }
            let Some(mutant) = self.safe.get(at) else { continue };
            let octets = mutant.octets.escape_ascii();
            let answer = answers::next_response(&mut rest, mutant.is_head_request)
                .map_err(|error| format!("{octets}: {error}"))?;
            if answer.closes() {
                return Err(format!("{octets} closes the connection"));
            }
            allowed(&answer, mutant)?;
        }
        let mut answers = Vec::new();
        while !rest.is_empty() {
            answers.push(answers::next_response(&mut rest, false)?);
        }
        self.check_end(&answers)
    }

    /// Checks the responses to the risky request and to the canaries behind it. Returns the state of the
    /// connection.
    fn check_end(&self, answers: &[StrictResponse]) -> Result<After, String> {
        let last = answers.last().is_some_and(|answer| self.last[1].is_answered_by(answer));
        let first =
            last && answers.iter().rev().nth(1).is_some_and(|answer| self.last[0].is_answered_by(answer));
        let own = &answers[..answers.len() - usize::from(last) - usize::from(first)];
        if !self.risky.responses.contains(&own.len()) {
            return Err(format!("{} answers, not {:?}", own.len(), self.risky.responses));
        }
        own.iter().try_for_each(|answer| allowed(answer, &self.risky))?;
        if let Some(answer) =
            own.iter().find(|answer| self.last.iter().any(|canary| canary.is_answered_by(answer)))
        {
            return Err(format!("a canary in the wrong place: {answer:?}"));
        }
        let closes = own.iter().any(StrictResponse::closes);
        let may_close = own.last().is_none_or(|answer| closes || answer.version == "HTTP/1.0");
        let became = match (first, last) {
            (true, true) if !closes => After::Open,
            (false, true) if !closes => After::Swallows,
            (false, false) if may_close => After::Closed,
            _ => return Err(format!("of the canaries {first}, {last}, although it closes: {closes}")),
        };
        let is_expected = match self.risky.after {
            After::Either => became != After::Swallows,
            After::Swallows => true,
            after => became == after,
        };
        if is_expected { Ok(became) } else { Err(format!("{became:?}, not {:?}", self.risky.after)) }
    }
}

fn contains(octets: &[u8], marker: &str) -> bool {
    String::from_utf8_lossy(octets).contains(marker)
}

fn allowed(answer: &StrictResponse, to: &Mutant) -> Result<(), String> {
    let names_get =
        answer.status != 405 || answer.header("allow").is_some_and(|methods| methods.contains("GET"));
    if names_get && to.statuses.contains(&answer.status) {
        return Ok(());
    }
    Err(format!("{} was answered with {answer:?}, not {:?}", to.octets.escape_ascii(), to.statuses))
}

/// The state of a thread that sends.
struct Sender<'a> {
    address: SocketAddr,
    site: TargetSet<'a>,
    canary: &'a Canary,
    random: Rng,
    /// The number of the last canary.
    number: u64,
    requests_sent: &'a AtomicUsize,
    /// Number of connections by their state at the end.
    became: &'a [AtomicUsize; 3],
}

impl Sender<'_> {
    fn send(&mut self) {
        while self.requests_sent.load(Ordering::Relaxed) < REQUESTS {
            let script = self.script();
            let octets = script.octets();
            let received = self.exchange(&octets);
            let became = script.check(&received).unwrap_or_else(|error| {
                self.requests_sent.store(REQUESTS, Ordering::Relaxed);
                let (sent, received) = (octets.escape_ascii(), received.escape_ascii());
                panic!("{error}\nsent {sent}\nreceived {received}")
            });
            self.became[became as usize].fetch_add(1, Ordering::Relaxed);
            self.requests_sent.fetch_add(2 * script.safe.len() + 4, Ordering::Relaxed);
        }
    }

    fn marker(&mut self) -> String {
        self.number += THREADS;
        format!("-ZZ0000-{:012}", self.number)
    }

    fn canary(&mut self) -> Canary {
        let marker = self.marker();
        self.canary.with(&marker)
    }

    fn script(&mut self) -> Script {
        let safe: Vec<_> = (0..self.random.usize(..7)).map(|_| safe(&mut self.random, self.site)).collect();
        let canaries = (0..=safe.len()).map(|_| self.canary()).collect();
        let smuggled = self.marker();
        let request = String::from_utf8(self.canary.with(&smuggled).request("")).unwrap();
        let risky = risky(&mut self.random, self.site, &request);
        let last = [self.canary(), self.canary()];
        Script { safe, canaries, risky, last, smuggled }
    }

    /// Sends in one or several pieces, and reads up to the end of the connection.
    fn exchange(&mut self, octets: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut rest = octets;
        while !rest.is_empty() {
            let len = if self.random.u8(..4) == 0 { self.random.usize(1..=rest.len()) } else { rest.len() };
            // The tracker may have closed already.
            if stream.write_all(&rest[..len]).is_err() {
                break;
            }
            rest = &rest[len..];
        }
        // A client that sends no more still gets all answers.
        if self.random.u8(..8) == 0 {
            _ = stream.shutdown(Shutdown::Write);
        }
        let mut received = Vec::new();
        match stream.read_to_end(&mut received) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                self.requests_sent.store(REQUESTS, Ordering::Relaxed);
                panic!("{error}\nsent {}\nreceived {}", octets.escape_ascii(), received.escape_ascii())
            }
            _ => received,
        }
    }
}

/// Sends to the gateway of a daemon from [`THREADS`] threads.
fn fuzz(daemon: &Daemon, site: TargetSet<'_>, canary: &str) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (address, requests_sent, became) = (daemon.v4(), AtomicUsize::new(0), Default::default());
    let canary = Canary::of(address, canary);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let random = Rng::with_seed(seed ^ thread);
            let (canary, requests_sent, became) = (&canary, &requests_sent, &became);
            let mut sender = Sender { address, site, canary, random, number: thread, requests_sent, became };
            scope.spawn(move || sender.send());
        }
    });
    let [open, closed, swallowed] = became.map(AtomicUsize::into_inner);
    assert!(open > 1000 && closed > 1000 && swallowed > 10, "{open}, {closed}, {swallowed}");
}

#[test]
fn whatever_comes_before_a_request_it_gets_its_own_answer_in_the_open_mode() {
    let daemon = Daemon::start(json!({}));
    let good = [
        "/announce?info_hash=AAAAAAAAAAAAAAAAAAAA&peer_id=-XX0001-000000000001&port=7001&left=9",
        "/announce?x=%zz",
        "/scrape?info_hash=%00%ffAAAAAAAAAAAAAAAAAA",
        "/alive?x",
    ];
    let site =
        TargetSet { good: &good, missing: &["/favicon.ico", "/announce/", "/metrics", "/%61nnouncee?x"] };
    fuzz(&daemon, site, &format!("/scrape?info_hash={MARKER}"));
}

#[test]
fn whatever_comes_before_a_request_it_gets_its_own_answer_from_a_private_site() {
    let database = SiteDatabase::sqlite();
    let daemon = database.daemon(json!({}));
    let hash = percent_encoded(&FREE);
    let announce = format!("/{PLAIN}/announce?info_hash={hash}&port=7001&uploaded=0&downloaded=0&left=9");
    let good = [
        &*format!("{announce}&peer_id=-TR2940-000000000001"),
        &*format!("/{PLAIN}/announce?info_hash=x"),
        &*format!("/{PLAIN}/scrape?info_hash=AAAAAAAAAAAAAAAAAAAA"),
        "/wrong/announce?x",
        "/alive?x",
    ];
    let site = TargetSet { good: &good, missing: &["/favicon.ico", "/announce?x", "/metrics"] };
    // The failure names the client, which is not approved.
    fuzz(&daemon, site, &format!("{announce}&peer_id={MARKER}"));
}
