//! A server process of one test: it ends with the test, and also when the test process is killed.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time between two checks.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Number of checks before a test gives up: a minute.
pub(crate) const POLLS_MAX: u32 = 3000;

/// A running server.
pub(crate) struct ServerProcess {
    server: Child,
    /// Ends the server as soon as its standard input closes, which it does with this process.
    guard: Child,
}

impl ServerProcess {
    /// Starts a server, whose output is already directed elsewhere.
    pub(crate) fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_string_lossy().into_owned();
        let server = command.stdin(Stdio::null()).spawn();
        let server = server.unwrap_or_else(|error| panic!("{program}: {error}; tests/setup installs it"));
        let guard = Command::new("sh")
            .args(["-c", &format!("read _; kill -9 {}", server.id())])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        Self { server, guard }
    }

    /// Returns how it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.server.try_wait().expect("a child")
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
        panic!("the server does not stop");
    }

    /// Whether all its threads are stopped.
    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.server.id())).expect("its threads");
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
        let pid = i32::try_from(self.server.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a signal to a child");
    }

    /// Ends the server by a signal, and waits for it.
    pub(crate) fn end(mut self, signal: Signal) {
        self.signal(signal);
        // The guard first: once the server is waited for, its process id may be reused.
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        let _ = self.server.wait();
    }
}

/// Returns a port above those of trackers, which start while a server is away, and below those of clients.
pub(crate) fn free_server_port() -> u16 {
    loop {
        let port = fastrand::u16(31_000..32_700);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
