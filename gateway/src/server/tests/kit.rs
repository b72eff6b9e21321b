//! A server, an actor and their clients, for the tests of the server.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use hayate_state::actor::{Actor, INBOX_MAX};
use hayate_state::{Board, Swarms, Tracker};

use super::super::*;
use crate::config::ListenConfig;
use crate::operator::{HealthCheck, HealthStatus};
use crate::wire::bencode::tests::{Value, decode_canonical};

/// The longest time that a test waits for octets.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const ANNOUNCE: &str =
    "/announce?info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=-XX0001-000000000001&port=6881&left=9";
pub(super) const SCRAPE: &str = "/scrape?info_hash=bbbbbbbbbbbbbbbbbbbb";

pub(super) struct Daemon {
    running: RunningServer,
    actor: Actor,
    pub(super) address: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
    board: Arc<Board>,
    pub(super) healthy: Arc<AtomicBool>,
}

pub(super) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(super) fn listen() -> ListenConfig {
    ListenConfig {
        addresses: vec![loopback()],
        metrics_addresses: vec![loopback()],
        ..ListenConfig::default()
    }
}

pub(super) fn config() -> HttpConfig {
    HttpConfig { trusted_proxies: Vec::new(), ..HttpConfig::default() }
}

impl Daemon {
    pub(super) fn start(listen: &ListenConfig, config: HttpConfig) -> Self {
        Self::start_bounded(listen, config, INBOX_MAX).0
    }

    /// Starts with an inbox of this size, and returns a further sender into it: the actor ends only when that
    /// is gone too.
    pub(super) fn start_bounded(
        listen: &ListenConfig,
        config: HttpConfig,
        inbox_max: usize,
    ) -> (Self, Inbox<ReplyTo>) {
        let server = Server::open(listen).unwrap();
        let (address, metrics) = (server.addresses()[0], server.metrics_addresses().first().copied());
        let (config, policy) = (Published::new(config), Published::new(Policy::default()));
        let clock = Clock::start();
        let tracker = Tracker::new(Swarms::new(0), &policy, 7);
        let (actor, inbox) = Actor::start_bounded(tracker, clock, inbox_max).unwrap();
        let further = inbox.clone();
        let board = Arc::new(Board::default());
        let healthy = Arc::new(AtomicBool::new(true));
        let health = Arc::clone(&healthy);
        let health: HealthCheck =
            Arc::new(
                move || if health.load(Ordering::Relaxed) { HealthStatus::Good } else { HealthStatus::Bad },
            );
        let running = server
            .start(
                &config,
                &policy,
                None,
                inbox,
                clock,
                OperatorPages { admin: None, board: Arc::clone(&board), health, clock },
            )
            .unwrap();
        (Self { running, actor, address, metrics, board, healthy }, further)
    }

    pub(super) fn with(config: HttpConfig) -> Self {
        Self::start(&listen(), config)
    }

    pub(super) fn open() -> Self {
        Self::with(config())
    }

    pub(super) fn connect(&self) -> Client<TcpStream> {
        Client::tcp(self.address)
    }

    pub(super) fn stop(self) {
        self.running.stop();
        self.actor.join();
    }

    pub(super) fn counted(&self, name: &str, label: &str) -> u64 {
        let fits =
            |labels: &[(&str, &str)]| label.is_empty() || labels.iter().any(|(_, value)| *value == label);
        self.board.read_series().iter().filter(|r| r.name == name && fits(&r.labels)).map(|r| r.value).sum()
    }

    /// Waits until a counter has its value: events are counted a moment after the client sees their effect.
    pub(super) fn await_count(&self, name: &str, label: &str, expected: u64) {
        let clock = Clock::start();
        while self.counted(name, label) != expected {
            assert!(clock.uptime() < PATIENCE, "{name}: {}", self.counted(name, label));
            std::thread::yield_now();
        }
    }
}

pub(super) struct Client<S> {
    pub(super) stream: S,
    pub(super) buffer: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Got {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn decoded(&self) -> Value {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/plain")));
        assert_eq!(self.header("content-length"), Some(self.body.len().to_string().as_str()));
        assert_eq!(self.header("transfer-encoding"), None);
        decode_canonical(&self.body)
    }
}

impl Client<TcpStream> {
    pub(super) fn tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }
}

impl<S: io::Read + io::Write> Client<S> {
    pub(super) fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    pub(super) fn get(&mut self, target: &str) -> Got {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: t\r\n\r\n"));
        self.receive()
    }

    pub(super) fn receive_head(&mut self) -> (u16, String) {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|octets| octets == b"\r\n\r\n") {
                break at + 4;
            }
            let mut chunk = [0; 4096];
            let len = self.stream.read(&mut chunk).unwrap();
            assert_ne!(len, 0, "closed without a reply");
            self.buffer.extend_from_slice(&chunk[..len]);
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }

    pub(super) fn receive(&mut self) -> Got {
        let (status, head) = self.receive_head();
        let mut got = Got { status, head, body: Vec::new() };
        let len: usize = got.header("content-length").unwrap().parse().unwrap();
        while self.buffer.len() < len {
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "closed within a reply");
            self.buffer.extend_from_slice(&chunk[..read]);
        }
        got.body = self.buffer.drain(..len).collect();
        got
    }

    /// Waits until the server closes; there must be nothing more to read.
    pub(super) fn is_closed(&mut self) {
        assert!(self.buffer.is_empty(), "{}", self.buffer.escape_ascii());
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => panic!("still open: {other:?}"),
        }
    }
}
