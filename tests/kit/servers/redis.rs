//! Redis servers for one test: alone, as a Cluster, with a replica and a Sentinel, or with TLS. Each has its
//! own folder, loopback port and socket; it ends with the test, and also when the test process is killed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// Time between two checks.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Number of checks before a test gives up: a minute.
const POLLS_MAX: u32 = 3000;

/// A server for one test.
pub(crate) struct RedisServer {
    folder: TempDir,
    pub(crate) port: u16,
    arguments: Vec<String>,
    running: Option<Running>,
}

struct Running {
    server: Child,
    /// Ends the server as soon as its standard input closes, which it does with this process.
    guard: Child,
}

impl RedisServer {
    /// Starts an empty server and waits until it answers.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Starts an empty server with more arguments, such as `--maxmemory 4mb`.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        Self::in_folder(folder(), arguments)
    }

    /// Starts a server in a folder that has what the arguments name.
    fn in_folder(folder: TempDir, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        // Another process may take the port before the server does.
        let mut server = Self { folder, port: 0, arguments, running: None };
        for _ in 0..10 {
            server.port = free_redis_port();
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server does not start:\n{}", server.log());
    }

    /// Starts one with TLS alone, with a certificate of `localhost` that a fresh authority has signed, and
    /// returns that authority's certificate as PEM.
    pub(crate) fn with_tls() -> (Self, String) {
        let folder = folder();
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_pem = authority.self_signed(&authority_key).expect("a certificate").pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("parameters");
        let certificate = certificate.signed_by(&key, &issuer).expect("a certificate");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let files = [path("cert"), path("key"), path("ca")];
        let pems = [certificate.pem(), key.serialize_pem(), authority_pem.clone()];
        for (file, pem) in files.iter().zip(pems) {
            fs::write(file, pem).expect("a file");
        }
        let [cert, key, ca] = &files;
        let arguments = ["--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", ca];
        let arguments = [&arguments[..], &["--tls-auth-clients", "no"]].concat();
        (Self::in_folder(folder, &arguments), authority_pem)
    }

    /// Starts three masters that share the slots of a Cluster, and waits until all of them know.
    pub(crate) fn cluster() -> [Self; 3] {
        let start = || Self::with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "60000"]);
        let servers = [start(), start(), start()];
        for (server, slots) in servers.iter().zip(["0 5460", "5461 10922", "10923 16383"]) {
            server.cli(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
            server.cli(&format!("CLUSTER MEET 127.0.0.1 {}", servers[0].port));
        }
        for server in &servers {
            server.wait_for("CLUSTER INFO", "cluster_state:ok");
            server.wait_for("CLUSTER INFO", "cluster_known_nodes:3");
        }
        servers
    }

    /// Starts a Sentinel that watches `master` by the name `main`, and waits until it knows its replica.
    pub(crate) fn sentinel(master: &Self) -> Self {
        let folder = folder();
        let config = folder.path().join("sentinel.conf");
        let port = master.port;
        let text = format!(
            "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 60000\n\
             sentinel failover-timeout main 60000\n"
        );
        fs::write(&config, text).expect("a file");
        let sentinel = Self::in_folder(folder, &[&config.display().to_string(), "--sentinel"]);
        sentinel.wait_for("SENTINEL MASTER main", "num-slaves 1");
        sentinel
    }

    /// Starts the server again, on the same data and port.
    pub(crate) fn start(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        assert!(self.try_start(), "redis-server does not start:\n{}", self.log());
    }

    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.path().join("log")).expect("a log");
        let (is_sentinel, with_tls) = (self.has("--sentinel"), self.has("--tls-cert-file"));
        let mut command = Command::new("redis-server");
        // The file of a Sentinel comes before all options.
        command.args(&self.arguments);
        let port = self.port.to_string();
        let (plain, tls) = if with_tls { ("0", port.as_str()) } else { (port.as_str(), "0") };
        command.args(["--bind", "127.0.0.1", "--port", plain, "--tls-port", tls]);
        command.arg("--dir").arg(self.path()).arg("--unixsocket").arg(self.socket());
        if !is_sentinel {
            command.args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        }
        let server = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("redis-server; tests/setup installs it");
        let guard = Command::new("sh")
            .args(["-c", &format!("read _; kill -9 {}", server.id())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        self.running = Some(Running { server, guard });
        for _ in 0..POLLS_MAX {
            let running = self.running.as_mut().expect("it was started");
            if running.server.try_wait().expect("a child").is_some() {
                let Running { mut guard, .. } = self.running.take().expect("it was started");
                let _ = guard.kill();
                let _ = guard.wait();
                return false;
            }
            // A login may be needed; that is an answer, too.
            if self.try_cli("PING").is_ok_and(|answer| !answer.contains("LOADING")) {
                return true;
            }
            sleep(POLL_INTERVAL);
        }
        panic!("redis-server does not answer:\n{}", self.log());
    }

    fn has(&self, argument: &str) -> bool {
        self.arguments.iter().any(|it| it == argument)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join("socket")
    }

    /// Returns its url, with a login such as `user:password@` or nothing.
    pub(crate) fn url(&self, login: &str) -> String {
        format!("redis://{login}127.0.0.1:{}", self.port)
    }

    /// Runs a command of words without spaces, by the socket. Returns its answer as words of one line, the
    /// server's errors included.
    pub(crate) fn cli(&self, command: &str) -> String {
        self.try_cli(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_cli(&self, command: &str) -> std::io::Result<String> {
        let stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut reader = BufReader::new(stream);
        reader.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        // The server closes the connection as soon as it has answered.
        reader.get_mut().shutdown(Shutdown::Write)?;
        let mut words = Vec::new();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            let text = line.trim_end();
            if !text.starts_with(['$', '*']) {
                words.push(text.trim_start_matches([':', '+']).to_owned());
            }
            line.clear();
        }
        Ok(words.join(" "))
    }

    /// Waits until the answer to a command has `expected` in it. A Sentinel closes all connections of a server
    /// that it makes a master or a replica.
    pub(crate) fn wait_for(&self, command: &str, expected: &str) {
        let mut last = None;
        for _ in 0..POLLS_MAX {
            let answer = self.try_cli(command);
            if answer.as_ref().is_ok_and(|answer| answer.contains(expected)) {
                return;
            }
            last = Some(answer);
            sleep(POLL_INTERVAL);
        }
        panic!("{command}: {last:?}, without {expected}");
    }

    /// Kills the server.
    pub(crate) fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        let Running { mut server, mut guard } = self.running.take().expect("the server runs");
        // The guard first: once the server is waited for, its process id may be reused.
        let _ = guard.kill();
        let _ = guard.wait();
        let _ = server.wait();
    }

    /// Freezes the server: it keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        // A thread on another processor runs until the signal arrives there.
        for _ in 0..POLLS_MAX {
            if self.is_stopped() {
                return;
            }
            sleep(POLL_INTERVAL);
        }
        panic!("redis-server does not stop");
    }

    /// Whether all its threads are stopped.
    fn is_stopped(&self) -> bool {
        let running = self.running.as_ref().expect("the server runs");
        let threads = fs::read_dir(format!("/proc/{}/task", running.server.id())).expect("its threads");
        threads.flatten().all(|thread| {
            // The state follows the name, which is in parentheses; a thread that has ended counts as stopped.
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['T', 't']))
        })
    }

    /// Lets the server continue.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("the server runs");
        let pid = i32::try_from(running.server.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a signal to a child");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill9();
        }
    }
}

/// Returns a folder; not in cargo's, as the path of a socket may have 107 octets only.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("hayate-redis-").tempdir().expect("a folder for a server")
}

fn free_redis_port() -> u16 {
    loop {
        // Below the ports of clients, as is that of a Cluster's bus, 10000 above.
        let port = fastrand::u16(20_000..20_990);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) {
            return port;
        }
    }
}
