//! A Redis server for one test, on a free loopback port, in a folder of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::server_process::{POLL_INTERVAL, POLLS_MAX, ServerProcess, free_server_port};

/// A server for one test.
pub(crate) struct RedisServer {
    folder: TempDir,
    pub(crate) port: u16,
    /// Lines of its configuration.
    config: Vec<String>,
    is_sentinel: bool,
    running: Option<ServerProcess>,
}

impl RedisServer {
    /// Starts an empty server with more lines of configuration, in which `{port}` stands for its port, and
    /// waits until it answers.
    pub(crate) fn new(config: &[&str]) -> Self {
        Self::with_mode(config, false)
    }

    /// Starts a Sentinel.
    pub(crate) fn sentinel(config: &[&str]) -> Self {
        Self::with_mode(config, true)
    }

    fn with_mode(config: &[&str], is_sentinel: bool) -> Self {
        // Not in cargo's folder: the path of a socket may have 107 octets only.
        let folder = tempfile::Builder::new().prefix("hayate-redis-").tempdir().expect("a folder");
        let config = config.iter().map(|line| (*line).to_owned()).collect();
        let mut server = Self { folder, port: free_server_port(), config, is_sentinel, running: None };
        server.write_config();
        server.start();
        server
    }

    fn write_config(&self) {
        let folder = self.folder.path().display();
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", self.port),
            format!("dir {folder}"),
            format!("logfile {folder}/log"),
        ];
        if !self.is_sentinel {
            lines.push(format!("unixsocket {}", self.socket().display()));
            lines.extend(["save \"\"", "appendonly no", "repl-diskless-sync-delay 0"].map(str::to_owned));
        }
        lines.extend(self.config.iter().map(|line| line.replace("{port}", &self.port.to_string())));
        fs::write(self.folder.path().join("redis.conf"), lines.join("\n") + "\n").expect("a file");
    }

    /// Starts the server again, on the same port; what it held in memory is gone.
    pub(crate) fn start(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        let mut command = Command::new("redis-server");
        command.arg(self.folder.path().join("redis.conf"));
        if self.is_sentinel {
            command.arg("--sentinel");
        }
        let log = fs::File::create(self.folder.path().join("output")).expect("a file");
        command.stdout(log.try_clone().expect("a file")).stderr(log);
        self.running = Some(ServerProcess::start(&mut command));
        for _ in 0..POLLS_MAX {
            // A server with a password, or one that loads, answers, too.
            if self.cli(&["PING"]).is_ok() {
                return;
            }
            if let Some(status) = self.running.as_mut().and_then(ServerProcess::ended) {
                panic!("redis-server ended: {status}\n{}", self.log());
            }
            sleep(POLL_INTERVAL);
        }
        panic!("redis-server does not answer:\n{}", self.log());
    }

    fn log(&self) -> String {
        ["log", "output"]
            .map(|name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .concat()
    }

    /// Returns the path of its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Returns its URL over TCP.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command; returns what `redis-cli` prints.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        self.cli(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn cli(&self, words: &[&str]) -> Result<String, String> {
        let mut cli = Command::new("redis-cli");
        if self.is_sentinel || !self.socket().exists() {
            cli.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        } else {
            cli.arg("-s").arg(self.socket());
        }
        let output = cli.args(words).output().expect("redis-cli; tests/setup installs it");
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if output.status.success() { Ok(text) } else { Err(text + &String::from_utf8_lossy(&output.stderr)) }
    }

    /// Waits until a command prints `expected`, or something that contains it.
    pub(crate) fn wait_for(&self, words: &[&str], expected: &str) {
        let mut last = String::new();
        for _ in 0..POLLS_MAX {
            last = self.run(words);
            if last.contains(expected) {
                return;
            }
            sleep(POLL_INTERVAL);
        }
        panic!("{words:?}: {last}, not {expected}");
    }

    /// Kills the server.
    pub(crate) fn kill9(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Freezes the server: it keeps its connections and answers nothing.
    pub(crate) fn freeze(&self) {
        self.running().freeze();
    }

    /// Lets the server continue.
    pub(crate) fn thaw(&self) {
        self.running().thaw();
    }

    fn running(&self) -> &ServerProcess {
        self.running.as_ref().expect("the server runs")
    }

    fn end(&mut self, signal: Signal) {
        self.running.take().expect("the server runs").end(signal);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.end(Signal::SIGKILL);
        }
    }
}
