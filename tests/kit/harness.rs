//! A daemon with free loopback ports, a folder and a log of its own, which ends with its test; and clients of
//! it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use hayate_tools::bencode::Value;
use serde_json::json;
use tempfile::TempDir;

/// Longest wait for anything that should happen immediately.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a command that runs the binary under test.
pub(crate) fn hayate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hayate"));
    command.env_remove("RUST_LOG");
    command
}

/// Raises the limit of open files as far as possible. Prints a note and returns false if it stays below
/// `wanted`.
pub(crate) fn may_open_files(wanted: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    if hard < wanted {
        println!("skipped: only {hard} files may be open, {wanted} are needed");
    }
    hard >= wanted
}

/// A folder that is removed when the test ends.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        // Other users may enter it, as nginx and a tracker that drops its privileges do.
        let permissions = PermissionsExt::from_mode(0o777);
        Self(tempfile::Builder::new().prefix("hayate-test-").permissions(permissions).tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Returns a port that is free for UDP and TCP now, and that no other test of this process gets.
pub(crate) fn free_port() -> u16 {
    /// Below the ports that the system chooses for clients, of which the tests have many.
    const PORTS: std::ops::Range<u16> = 10_000..31_000;
    static NEXT: OnceLock<AtomicUsize> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicUsize::new(fastrand::usize(..PORTS.len())));
    loop {
        let step = u16::try_from(next.fetch_add(1, Ordering::Relaxed) % PORTS.len()).unwrap();
        let port = PORTS.start + step;
        let free = |address: &str| {
            UdpSocket::bind((address, port)).is_ok() && TcpListener::bind((address, port)).is_ok()
        };
        if free("127.0.0.1") && free("::1") {
            return port;
        }
    }
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) folder: Folder,
    pub(crate) port: u16,
    pub(crate) metrics_port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Starts with the defaults and `changes` over them, and waits until it serves. Unless `changes` say
    /// otherwise it listens on every address of one free port.
    pub(crate) fn start(changes: serde_json::Value) -> Self {
        Self::start_in(Folder::new(), changes, &mut hayate())
    }

    /// Starts `command` in `folder`, with `changes` over the defaults.
    pub(crate) fn start_in(folder: Folder, changes: serde_json::Value, command: &mut Command) -> Self {
        let (port, metrics_port) = Self::prepare(&folder, changes, command);
        Self::start_command(folder, port, metrics_port, command)
    }

    /// Sets the configuration of `command` in `folder`: the defaults on free ports, and `changes` over them.
    /// Returns the ports.
    pub(crate) fn prepare(folder: &Folder, changes: serde_json::Value, command: &mut Command) -> (u16, u16) {
        let (port, metrics_port) = (free_port(), free_port());
        let mut config = json!({
            "udp": {"addr": format!(":{port}")},
            "http": {"addr": format!(":{port}")},
            "metrics": {"addr": format!("127.0.0.1:{metrics_port}")},
            "state_dir": "."
        });
        merge(&mut config, changes);
        let path = folder.write("tracker.json", &config.to_string());
        command.arg("--config").arg(path);
        (port, metrics_port)
    }

    /// Runs a command that serves at these ports, and waits until it does.
    pub(crate) fn start_command(folder: Folder, port: u16, metrics_port: u16, command: &mut Command) -> Self {
        let mut child = command.arg("--json").stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let daemon = Self { child, folder, port, metrics_port, log };
        daemon.wait_for_log("\"serving\"", 1);
        daemon
    }

    /// Runs a command whose stderr is a full pipe that nobody reads, and waits until it serves. Returns the
    /// pipe, to be kept for as long as the command must not notice that it is closed.
    pub(crate) fn start_with_full_stderr(
        folder: Folder,
        (port, metrics_port): (u16, u16),
        command: &mut Command,
    ) -> (Self, PipeReader) {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (reader, mut writer) = std::io::pipe().unwrap();
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        while writer.write(&[b'x'; 1 << 12]).is_ok() {}
        while writer.write(b"x").is_ok() {}
        fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        let child = command.stderr(writer).spawn().unwrap();
        let daemon = Self { child, folder, port, metrics_port, log: Arc::default() };
        assert!(eventually(|| daemon.page("/health").is_some_and(|page| page.status == 200)));
        (daemon, reader)
    }

    /// Fetches a page of the metrics address.
    pub(crate) fn page(&self, path: &str) -> Option<Response> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.metrics_port));
        exchange(TcpStream::connect(address).ok()?, &get(path)).ok()
    }

    /// Returns the value of a metric, its labels in braces as `/metrics` writes them; 0 if it is missing.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let response = self.page("/metrics").expect("metrics are served");
        let text = String::from_utf8(response.body).unwrap();
        let wanted = format!("hayate_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn v4(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn v6(&self) -> SocketAddr {
        (std::net::Ipv6Addr::LOCALHOST, self.port).into()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns every log line so far, in JSON.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Returns the number of log lines that contain `text`.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn wait_for_log(&self, text: &str, times: usize) {
        assert!(eventually(|| self.logged(text) >= times), "no {text:?} in the log: {:#?}", self.log());
    }

    pub(crate) fn rewrite_config(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.folder.path().join("tracker.json");
        let mut config = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(path, config.to_string()).unwrap();
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_at_most(TIMEOUT)
    }

    /// Waits for the end of the process, but no longer than `timeout`.
    pub(crate) fn wait_at_most(&mut self, timeout: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < timeout, "the daemon does not end; log: {:#?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Runs `hayate` with the configuration of this daemon. Returns its exit code and its output.
    pub(crate) fn run_command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let config = self.folder.path().join("tracker.json");
        let output = hayate().arg("--config").arg(config).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("log of the daemon: {:#?}", self.log());
        }
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Merges `changes` into a configuration.
pub(crate) fn merge(into: &mut serde_json::Value, changes: serde_json::Value) {
    match (into, changes) {
        (serde_json::Value::Object(into), serde_json::Value::Object(changes)) => {
            for (key, value) in changes {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

/// Stops a background activity when its test ends, even if the test fails.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls the condition until it holds, for at most [`TIMEOUT`]. Returns whether it came to hold.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < TIMEOUT {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// An HTTP response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// Returns the body as a bencoded value.
    pub(crate) fn bencoded(&self) -> Value {
        Value::decode(&self.body).expect("a bencoded body")
    }

    /// Returns the peers of a compact announce reply.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        let reply = self.bencoded();
        let octets = |key| reply.at(key).and_then(Value::octets).unwrap_or_default().to_vec();
        let mut peers = peers_of(&octets("peers"), 6);
        peers.extend(peers_of(&octets("peers6"), 18));
        peers
    }
}

/// Returns the peers of a compact form with `len` octets a peer, sorted.
pub(crate) fn peers_of(octets: &[u8], len: usize) -> Vec<SocketAddr> {
    assert_eq!(octets.len() % len, 0, "whole peers");
    let peer = |peer: &[u8]| {
        let (address, port) = peer.split_at(len - 2);
        let address: IpAddr = match <[u8; 4]>::try_from(address) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(address).unwrap().into(),
        };
        SocketAddr::new(address, u16::from_be_bytes(port.try_into().unwrap()))
    };
    let mut peers: Vec<_> = octets.chunks(len).map(peer).collect();
    peers.sort_unstable();
    peers
}

/// Returns a GET request that ends its connection.
pub(crate) fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
}

/// Sends a request and reads the response up to the end of the connection.
pub(crate) fn exchange<S: Read + Write>(mut stream: S, request: &str) -> std::io::Result<Response> {
    stream.write_all(request.as_bytes())?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets)?;
    parse_response(&octets).ok_or_else(|| std::io::Error::other("not a response"))
}

/// Fetches `target` from the gateway at `address`.
pub(crate) fn fetch(address: SocketAddr, target: &str) -> Response {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    exchange(stream, &get(target)).unwrap()
}

pub(crate) fn parse_response(octets: &[u8]) -> Option<Response> {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&octets[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        (name.to_lowercase(), value.to_owned())
    };
    Some(Response { status, headers: lines.map(header).collect(), body: octets[end + 4..].to_vec() })
}

/// Returns the target of an announce of torrent `letter`.
pub(crate) fn announce_target(letter: char, port: u16, more: &str) -> String {
    let hash = letter.to_string().repeat(20);
    format!(
        "/announce?info_hash={hash}&peer_id=-XX0001-000000000001&port={port}&uploaded=0&downloaded=0{more}"
    )
}

/// Returns octets with every one of them percent-encoded.
pub(crate) fn percent_encoded(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("%{octet:02x}")).collect()
}

/// A UDP client with a verified address.
pub(crate) struct UdpClient {
    pub(crate) socket: UdpSocket,
    pub(crate) id: [u8; 8],
}

impl UdpClient {
    /// Sends from `source` to the tracker and connects (BEP 15).
    pub(crate) fn connect(source: &str, tracker: SocketAddr) -> Self {
        let socket = udp_socket(source, tracker);
        let reply = ask(&socket, &connect_request()).expect("a connect reply");
        assert_eq!((reply.len(), &reply[..8]), (16, &[0, 0, 0, 0, 1, 2, 3, 4][..]));
        Self { id: reply[8..16].try_into().unwrap(), socket }
    }

    /// Returns the datagram of a request: connection id, action, transaction id 01020304, and the rest.
    pub(crate) fn request(&self, action: u32, rest: &[u8]) -> Vec<u8> {
        let mut datagram = self.id.to_vec();
        datagram.extend(action.to_be_bytes());
        datagram.extend([1, 2, 3, 4]);
        datagram.extend(rest);
        datagram
    }

    /// Announces torrent `letter` and returns leechers, seeders and the octets of the peers.
    pub(crate) fn announce(&self, letter: u8, port: u16, left: u64, event: u32) -> (u32, u32, Vec<u8>) {
        let request = self.request(1, &announce_rest(letter, port, left, event, -1));
        let reply = ask(&self.socket, &request).expect("an announce reply");
        assert_eq!(&reply[..8], &[0, 0, 0, 1, 1, 2, 3, 4], "{:?}", String::from_utf8_lossy(&reply));
        let word = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
        (word(12), word(16), reply[20..].to_vec())
    }

    /// Scrapes torrent `letter`. Returns seeders, completed, leechers.
    pub(crate) fn scrape(&self, letter: u8) -> [u32; 3] {
        let reply = ask(&self.socket, &self.request(2, &[letter; 20])).expect("a scrape reply");
        assert_eq!((reply.len(), &reply[..4]), (20, &[0, 0, 0, 2][..]));
        [8, 12, 16].map(|at| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap()))
    }
}

/// Returns a connect request with transaction id 01020304.
pub(crate) fn connect_request() -> Vec<u8> {
    [&0x0417_2710_1980_u64.to_be_bytes()[..], &[0, 0, 0, 0, 1, 2, 3, 4]].concat()
}

/// Returns an announce of torrent `letter` from offset 16 on (BEP 15).
pub(crate) fn announce_rest(letter: u8, port: u16, left: u64, event: u32, num_want: i32) -> Vec<u8> {
    let mut rest = [letter; 20].to_vec();
    rest.extend(b"-XX0001-000000000001");
    rest.extend(0_u64.to_be_bytes());
    rest.extend(left.to_be_bytes());
    rest.extend(0_u64.to_be_bytes());
    rest.extend(event.to_be_bytes());
    rest.extend([0; 8]);
    rest.extend(num_want.to_be_bytes());
    rest.extend(port.to_be_bytes());
    rest
}

/// Returns a socket at `source` that is connected to the tracker.
pub(crate) fn udp_socket(source: &str, tracker: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).unwrap();
    socket.connect(tracker).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// Sends one datagram and waits for one.
pub(crate) fn ask(socket: &UdpSocket, datagram: &[u8]) -> Option<Vec<u8>> {
    socket.send(datagram).unwrap();
    receive(socket)
}

/// Waits for one datagram.
pub(crate) fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    let len = socket.recv(&mut buffer).ok()?;
    buffer.truncate(len);
    Some(buffer)
}
