//! Real clients find each other through hayate alone: in a network namespace without a route to the outside,
//! a libtorrent seeder and the client under test each know only the tracker.

mod private;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;

use crate::harness::{Daemon, Folder, eventually, hayate};

pub(crate) const PORT: u16 = 6969;
/// The port of nginx, in front of the gateway.
const NGINX_PORT: u16 = 8080;
const UDP_V4: &str = "udp://10.9.0.1:6969/announce";
const UDP_V6: &str = "udp://[fd09::1]:6969/announce";
const HTTP_V4: &str = "http://10.9.0.1:6969/announce";
const HTTP_V6: &str = "http://[fd09::1]:6969/announce";
const NGINX_V4: &str = "http://10.9.0.1:8080/announce";

pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// A separate network for one tracker and its clients.
pub(crate) struct Namespace(String);

impl Namespace {
    /// Returns `None` if the machine grants no namespace; then the test prints that and is skipped.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("hayate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(script("namespace")).args(["up", &name]).output().unwrap();
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.code() {
            Some(0) => Some(Self(name)),
            Some(77) => None,
            other => panic!("namespace up ended with {other:?}"),
        }
    }

    /// Returns a command that runs inside the network.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn daemon(&self) -> Daemon {
        let config = json!({
            "udp": {"addr": format!(":{PORT}")},
            "http": {
                "addr": format!(":{PORT}"),
                "proxy_header": "X-Real-IP",
                "trusted_proxies": ["10.9.0.1/32"],
            },
            // Clients that are restarted announce again soon.
            "intervals": {"announce": 60, "min_announce": 30, "announce_drift": 0}
        });
        Daemon::start_in(Folder::new(), config, &mut self.command(hayate().get_program()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        _ = Command::new(script("namespace")).args(["down", &self.0]).status();
    }
}

/// Checks that `client` completes a transfer through each of `urls`.
fn completes(client: &str, urls: &[&str]) {
    let Some(namespace) = Namespace::new() else { return };
    let _daemon = namespace.daemon();
    let _nginx = urls.contains(&NGINX_V4).then(|| Nginx::start(&namespace));
    for url in urls {
        // A client that dies by a signal (rtorrent does now and then at its start) proves nothing about
        // hayate.
        let done = (0..3).find_map(|_| transfer(&namespace, client, url));
        assert_eq!(done, Some(true), "{client} through {url}");
    }
}

/// Returns whether a transfer succeeds, or `None` if a client died by a signal.
fn transfer(namespace: &Namespace, client: &str, url: &str) -> Option<bool> {
    let work = Folder::new();
    let output = namespace.command(script("transfer")).args([client, url]).arg(work.path()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    println!("{text}");
    (output.status.success() || !text.contains("ended with status -")).then_some(output.status.success())
}

/// A proxy that overwrites `X-Real-IP`. It is one process, which ends with its test.
struct Nginx {
    process: Child,
    _folder: Folder,
}

impl Nginx {
    fn start(namespace: &Namespace) -> Self {
        let folder = Folder::new();
        let listen = format!("10.9.0.1:{NGINX_PORT}");
        let process = namespace
            .command(script("nginx"))
            .arg(folder.path())
            .args([&listen, &format!("10.9.0.1:{PORT}")])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut nginx = Self { process, _folder: folder };
        let up = || {
            let url = format!("http://{listen}/announce");
            let probe = namespace
                .command(hayate().get_program())
                .args(["probe", "scrape", &url, &"00".repeat(20)])
                .output();
            probe.is_ok_and(|output| output.status.success())
        };
        if !eventually(up) {
            _ = nginx.process.kill();
            let mut text = String::new();
            _ = nginx.process.stderr.take().unwrap().read_to_string(&mut text);
            panic!("nginx does not serve: {text}");
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn libtorrent_of_debian_completes_transfers() {
    completes("libtorrent", &[UDP_V4, UDP_V6, HTTP_V4, HTTP_V6, NGINX_V4]);
}

#[test]
fn libtorrent_of_pypi_completes_transfers() {
    completes("libtorrent-pypi", &[UDP_V4, UDP_V6, HTTP_V4, HTTP_V6]);
}

#[test]
fn aria2_completes_transfers() {
    completes("aria2", &[UDP_V4, HTTP_V4, NGINX_V4]);
}

#[test]
fn transmission_completes_transfers() {
    completes("transmission-cli", &[UDP_V4, HTTP_V4, HTTP_V6]);
}

#[test]
fn rtorrent_completes_transfers() {
    // Over UDP and IPv6 it reads the 18-octet peers as 6-octet ones.
    completes("rtorrent", &[UDP_V4, HTTP_V4, HTTP_V6]);
}

#[test]
fn qbittorrent_completes_transfers() {
    completes("qbittorrent-nox", &[UDP_V4, UDP_V6, HTTP_V4, HTTP_V6, NGINX_V4]);
}

#[test]
fn ctorrent_completes_a_transfer() {
    completes("ctorrent", &[HTTP_V4, NGINX_V4]);
}

#[test]
fn the_npm_client_announces_and_scrapes() {
    completes("npm", &[UDP_V4, HTTP_V4, HTTP_V6, NGINX_V4]);
}
