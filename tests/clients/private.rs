//! Real clients on a private site: two users, each with a passkey, are credited what they report.

use std::net::SocketAddr;

use serde_json::json;

use crate::clients::{Namespace, PORT, script};
use crate::fixture::{HIDDEN, PLAIN};
use crate::harness::{Daemon, Folder, hayate};
use crate::kit::site_database::{SiteDatabase, TOKEN};

/// Octets of the file that is transferred.
const FILE_OCTETS: u64 = 3_000_000;

struct TransferSite {
    namespace: Namespace,
    database: SiteDatabase,
    daemon: Daemon,
}

impl TransferSite {
    /// Returns `None` if the machine grants no separate network.
    fn new() -> Option<Self> {
        let namespace = Namespace::new()?;
        let database = SiteDatabase::sqlite();
        database.execute("INSERT INTO approved_clients (peer_id) VALUES ('-LT'), ('A2-'), ('-TR3')");
        // User 1 seeds, user 2 downloads; what they report is credited unchanged.
        database.execute(
            "UPDATE users_main SET DownMultiplier = 1, UpMultiplier = 1, DisableDownload = 0, \
            Uploaded = 0, Downloaded = 0, rawup = 0, rawdl = 0",
        );
        let config = database.config(json!({
            "udp": {"addr": format!(":{PORT}")},
            "http": {"addr": format!(":{PORT}")},
            "intervals": {"announce": 60, "min_announce": 30}
        }));
        let daemon = Daemon::start_in(Folder::new(), config, &mut namespace.command(hayate().get_program()));
        Some(Self { namespace, database, daemon })
    }

    /// Runs the script. Returns its output.
    fn transfer(&self, client: &str, scheme: &str, more: &[&str]) -> String {
        let url = |passkey| format!("{scheme}://10.9.0.1:{PORT}/{passkey}/announce");
        let admin = format!("http://127.0.0.1:{}/{TOKEN}/update", self.daemon.metrics_port);
        let work = Folder::new();
        let output = self
            .namespace
            .command(script("transfer"))
            .args([client, &url(HIDDEN)])
            .arg(work.path())
            .args([
                "--seeder-url",
                &url(PLAIN).replace("udp", if more.contains(&"--timeout") { "http" } else { "udp" }),
            ])
            .args(["--admin", &admin])
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        println!("{text}");
        text
    }
}

/// Returns the octets that libtorrent has uploaded and downloaded, by its own account.
fn totals(output: &str, who: &str) -> [u64; 2] {
    let line = output.lines().find_map(|line| line.strip_prefix(who)?.strip_prefix(" TOTALS ")).unwrap();
    let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

/// Checks that a client completes a download through each of these servers, and that its totals are credited.
/// libtorrent prints its totals.
fn completes(client: &str, schemes: &[&str], is_libtorrent: bool) {
    let Some(mut site) = TransferSite::new() else { return };
    let mut sums = [[0; 2]; 2];
    for scheme in schemes {
        // Transmission reports its completion some seconds later.
        let linger: &[&str] = if client == "transmission-cli" { &["--linger", "6"] } else { &[] };
        let output = site.transfer(client, scheme, linger);
        assert!(output.contains("PASS"), "{client} through {scheme}");
        let leecher = if is_libtorrent { totals(&output, "client") } else { [0, FILE_OCTETS] };
        for (sum, more) in sums.iter_mut().zip([totals(&output, "seeder"), leecher]) {
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
    site.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(site.daemon.wait().success());
    let raw = site.database.query("SELECT rawup, rawdl FROM users_main WHERE ID < 3 ORDER BY ID");
    let credited =
        site.database.query("SELECT Uploaded, Downloaded FROM users_main WHERE ID < 3 ORDER BY ID");
    assert_eq!(raw, credited);
    let expected = sums.map(|[up, down]| format!("{up} {down}")).join("\n");
    assert_eq!(raw, expected, "the octets that they have reported");
    assert!(sums[1][1] >= FILE_OCTETS * schemes.len() as u64);
    let snatched = "SELECT count(*), sum(snatched) FROM transfer_history WHERE uid = 2 AND fid > 3";
    // If aria2 does not seed, it announces `stopped` without `completed`.
    let completed = if client == "aria2" { 0 } else { schemes.len() };
    assert_eq!(site.database.query(snatched), format!("{} {completed}", schemes.len()));
    // Transmission is ended before it announces `stopped`.
    let active = "SELECT sum(active) FROM transfer_history WHERE uid = 1 AND fid > 3";
    assert_eq!(site.database.query(active), "0");
    // User 2 is hidden.
    let hidden = "SELECT count(*) FROM transfer_ips WHERE fid > 3 AND uid = 2 AND ip != 2130706433";
    assert_eq!(site.database.query(hidden), "0");
}

#[test]
fn libtorrent_of_debian_completes_private_transfers_over_both_servers() {
    completes("libtorrent", &["udp", "http"], true);
}

#[test]
fn libtorrent_of_pypi_completes_private_transfers_over_both_servers() {
    completes("libtorrent-pypi", &["udp", "http"], true);
}

#[test]
fn aria2_completes_a_private_transfer_over_http() {
    completes("aria2", &["http"], false);
}

#[test]
fn transmission_completes_a_private_transfer_over_http() {
    completes("transmission-cli", &["http"], false);
}

#[test]
fn clients_that_send_no_path_over_udp_are_refused_for_their_passkey() {
    for client in ["aria2", "transmission-cli"] {
        let Some(site) = TransferSite::new() else { return };
        let output = site.transfer(client, "udp", &["--timeout", "8"]);
        assert!(output.contains("FAIL") && !output.contains("PASS"), "{client}");
        let address = SocketAddr::from(([127, 0, 0, 1], site.daemon.metrics_port));
        let page = site
            .namespace
            .command("curl")
            .args(["-s", &format!("http://{address}/metrics")])
            .output()
            .unwrap();
        let page = String::from_utf8_lossy(&page.stdout);
        let refusals =
            page.lines().find(|line| line.contains(r#"udp_refusals_total{reason="invalid_passkey"}"#));
        assert!(refusals.is_some_and(|line| !line.ends_with(" 0")), "{client}: {refusals:?}");
    }
}
