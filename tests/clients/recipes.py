"""How each client is started without a screen, to download one torrent with peers from the tracker only.

A recipe writes what configuration its client needs and returns the command line; the client runs in `out`.
"""
import dataclasses
import json
from pathlib import Path

from network import endpoint

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / ".test-tools"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a recipe may use. All ports are free for TCP and UDP."""

    url: str
    torrent: Path
    info_hash: str
    out: Path
    state: Path
    address: str
    port: int
    second_port: int
    seeder: str


def libtorrent(plan, python="/usr/bin/python3"):
    # One address only: with several, it sends the id issued to one from the other (rules/udp.md#connection-id) and waits in vain.
    interface = endpoint(plan.address, plan.port)
    return [python, HERE / "libtorrent_peer.py", "leech", plan.torrent, plan.out, interface]


def libtorrent_pypi(plan):
    return libtorrent(plan, TOOLS / "pypi/bin/python")


def aria2(plan):
    # Its UDP tracker client lives in its DHT, so that is on; it knows no node, and the torrent is private.
    return [
        "aria2c", "--no-conf=true", "--enable-dht=true", "--enable-dht6=false", "--bt-enable-lpd=false",
        "--enable-peer-exchange=false", f"--dht-listen-port={plan.port}", f"--listen-port={plan.second_port}",
        f"--dht-file-path={plan.state / 'dht.dat'}", f"--log={plan.state / 'aria2.log'}", "--log-level=info",
        "--summary-interval=0", "--seed-time=0", "--file-allocation=none", f"--dir={plan.out}", plan.torrent,
    ]


def transmission_cli(plan):
    off = ["utp", "dht", "lpd", "pex", "port-forwarding", "watch-dir", "incomplete-dir"]
    (plan.state / "settings.json").write_text(json.dumps({f"{name}-enabled": False for name in off}))
    return ["transmission-cli", "-g", plan.state, "-w", plan.out, "-p", str(plan.port), "-M", plan.torrent]


def rtorrent(plan):
    file = plan.state / "rtorrent.rc"
    file.write_text(f"""\
system.daemon.set = true
session.path.set = {plan.state}
directory.default.set = {plan.out}
network.port_range.set = {plan.port}-{plan.port}
dht.mode.set = disable
protocol.pex.set = no
trackers.use_udp.set = yes
log.open_file = "tracker", "{plan.state / 'tracker.log'}"
log.add_output = "tracker_debug", "tracker"
""")
    return ["rtorrent", "-n", "-o", f"import={file}", plan.torrent]


def qbittorrent_nox(plan):
    folder = plan.state / "qBittorrent/config"
    folder.mkdir(parents=True)
    # One address only, for libtorrent's reason; without that it also dials, and then blocks, itself.
    (folder / "qBittorrent.conf").write_text(f"""\
[LegalNotice]
Accepted=true
[BitTorrent]
Session\\DHTEnabled=false
Session\\LSDEnabled=false
Session\\PeXEnabled=false
Session\\Port={plan.port}
Session\\InterfaceAddress={plan.address}
[Network]
PortForwardingEnabled=false
[Preferences]
WebUI\\Address=127.0.0.1
WebUI\\Port={plan.second_port}
WebUI\\UseUPnP=false
""")
    places = [f"--profile={plan.state}", f"--save-path={plan.out}"]
    return ["qbittorrent-nox", *places, "--skip-dialog=true", plan.torrent]


def ctorrent(plan):
    return ["ctorrent", "-p", str(plan.port), "-e", "0", plan.torrent]


def npm(plan):
    return ["node", HERE / "npm_client.mjs", plan.url, plan.info_hash, str(plan.port), plan.seeder]


def as_strings(recipe):
    return lambda plan: [str(word) for word in recipe(plan)]


RECIPES = [libtorrent, libtorrent_pypi, aria2, transmission_cli, rtorrent, qbittorrent_nox, ctorrent, npm]
CLIENTS = {recipe.__name__.replace("_", "-"): as_strings(recipe) for recipe in RECIPES}
ANNOUNCE_ONLY = {"npm"}
