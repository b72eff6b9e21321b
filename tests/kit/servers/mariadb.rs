//! A MariaDB server for one test, with a copy of a data folder that is made once, a free loopback port and a
//! socket. It ends with the test, and also when the test process is killed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;

use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use super::server_process::{POLL_INTERVAL, POLLS_MAX, ServerProcess, free_server_port};

/// The user with which the tests log in over the network.
const USER: &str = "site";
/// The password of the user, with characters that are special in a DSN.
const PASSWORD: &str = "p@ss:w/rd";
static TEMPLATE: Mutex<()> = Mutex::new(());

/// A server for one test.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) port: u16,
    running: Option<ServerProcess>,
}

impl Server {
    /// Starts an empty server and waits until it answers.
    pub(crate) fn new() -> Self {
        // Not in cargo's folder: the path of a socket may have 107 octets only.
        let folder =
            tempfile::Builder::new().prefix("hayate-mariadb-").tempdir().expect("a folder for a server");
        copy(&template(), &folder.path().join("data"));
        let mut server = Self { folder, port: free_server_port(), running: None };
        server.start();
        server
    }

    /// Starts the server again, on the same data and port.
    pub(crate) fn start(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        let log = fs::File::create(self.path().join("log")).expect("a log");
        let init = self.path().join("init.sql");
        let sql = format!(
            "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL PRIVILEGES ON `%`.* TO '{USER}'@'%';\n"
        );
        fs::write(&init, sql).expect("a file");
        let mut command = Command::new(program("mariadbd"));
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--key-buffer-size=1M"])
            .args(["--performance-schema=OFF", "--character-set-server=utf8mb4", "--max-connections=40"])
            // As lax as a server may be: each session has to set its own modes.
            .arg("--sql-mode=")
            .arg(format!("--user={}", user()))
            .arg(format!("--port={}", self.port))
            .arg(option("--datadir", &self.path().join("data")))
            .arg(option("--tmpdir", self.path()))
            .arg(option("--socket", &self.socket()))
            .arg(option("--pid-file", &self.path().join("pid")))
            .arg(option("--init-file", &init))
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        self.running = Some(ServerProcess::start(&mut command));
        self.wait_until_it_answers();
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn wait_until_it_answers(&mut self) {
        for _ in 0..POLLS_MAX {
            // The server creates the user before it accepts the first connection.
            if self.client("", "SELECT 1").is_ok() {
                return;
            }
            if let Some(status) = self.running.as_mut().and_then(ServerProcess::ended) {
                eprintln!("mariadbd ended: {status}");
                break;
            }
            sleep(POLL_INTERVAL);
        }
        let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        panic!("mariadbd does not answer:\n{log}");
    }

    /// Makes a database and returns its DSN, as the driver of the reference tracker would write it.
    pub(crate) fn database(&self, name: &str) -> String {
        self.sql(&format!("CREATE DATABASE IF NOT EXISTS `{name}`"));
        self.dsn(name)
    }

    /// Returns the DSN of a database.
    pub(crate) fn dsn(&self, name: &str) -> String {
        format!("{USER}:{PASSWORD}@tcp(127.0.0.1:{})/{name}", self.port)
    }

    /// Returns the DSN of a database by the socket, without the network.
    pub(crate) fn socket_dsn(&self, name: &str) -> String {
        format!("{USER}:{PASSWORD}@unix({})/{name}", self.socket().display())
    }

    /// Runs statements as the server's root. Returns the rows of their results, with tabs between columns.
    pub(crate) fn sql(&self, text: &str) -> String {
        self.sql_in("", text)
    }

    /// Does the same in a database.
    pub(crate) fn sql_in(&self, database: &str, text: &str) -> String {
        self.client(database, text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn client(&self, database: &str, text: &str) -> Result<String, String> {
        let mut client = Command::new(program("mariadb"))
            .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--connect-timeout=5"])
            .args(["--default-character-set=utf8mb4", "--binary-mode"])
            .arg(option("--socket", &self.socket()))
            .arg(format!("--database={database}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mariadb; tests/setup installs it");
        let _ = client.stdin.take().expect("it is piped").write_all(text.as_bytes());
        let output = client.wait_with_output().expect("a child");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Waits until the query `text` returns `expected`.
    pub(crate) fn wait_for(&self, text: &str, expected: &str) {
        let mut last = String::new();
        for _ in 0..POLLS_MAX {
            last = self.sql(text);
            if last == expected {
                return;
            }
            sleep(POLL_INTERVAL);
        }
        panic!("{text}: {last}, not {expected}");
    }

    /// Stops the server in order.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::SIGTERM);
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

    /// Returns the socket by which root logs in without a password.
    pub(crate) fn socket_path(&self) -> String {
        self.socket().display().to_string()
    }

    fn socket(&self) -> PathBuf {
        self.path().join("socket")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.end(Signal::SIGKILL);
        }
    }
}

/// Returns a data folder with the system's tables, made once for all runs.
fn template() -> PathBuf {
    let _one_at_a_time = TEMPLATE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let version = Command::new(program("mariadbd")).arg("--version").output();
    let version = version.expect("mariadbd; tests/setup installs it").stdout;
    let name: String =
        String::from_utf8_lossy(&version).chars().filter(char::is_ascii_alphanumeric).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mariadb-{name}"));
    if folder.exists() {
        return folder;
    }
    let unfinished = folder.with_extension(std::process::id().to_string());
    let _ = fs::remove_dir_all(&unfinished);
    let output = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"])
        .arg(format!("--user={}", user()))
        .arg(option("--datadir", &unfinished))
        .output()
        .expect("mariadb-install-db; tests/setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    if fs::rename(&unfinished, &folder).is_err() {
        // Another test process was faster.
        let _ = fs::remove_dir_all(&unfinished);
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Returns the path of a program; daemons are not in the `PATH` of every user.
fn program(name: &str) -> PathBuf {
    let daemon = Path::new("/usr/sbin").join(name);
    if daemon.exists() { daemon } else { PathBuf::from(name) }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn user() -> String {
    User::from_uid(geteuid()).ok().flatten().expect("a user").name
}
