"""A hundred million peers: memory, the fill, and what announces notice of all that meets every peer."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass

import load
import namespace
from limits import V4
from process import RELEASE, Daemon, Failed
from report import Row, figures, note, number, progress, table

TITLE = "A hundred million peers"
PEERS, TORRENTS, SINGLES = 100_000_000, 20_000_000, 12_000_000
# A quick run holds this share of them.
QUICK_SHARE = 100
RATE, UPGRADE_RATE = 10_000, 100_000
WINDOW_SECONDS = 10
# Any one operation may take as long as this.
TIMEOUT_SECONDS = 1200
TOKEN = "bench-token-of-a-tracker-on-loopback"
ANNOUNCES = ["--mix", "connect=0,announce=100,scrape=0"]
# None of the work of which the rows tell, unless a reload says so; nobody leaves.
NEVER, OFTEN, SWEEP_SECONDS = 86_400, 1, 10
QUIET = {
    "database": {"dsn": ""}, "memory": {"max": 0},
    "intervals": {"database_serialize": NEVER, "purge_inactive_peers": 3600, "peer_inactivity": "6h"},
}
WILDCARD = {"udp": {"addr": ":{port}"}}
COLUMNS = ["operation", "time, s", "p50 before, us", "during", "p99.9 before, us", "during", "slowest, ms"]
COLUMNS += ["announces", "lost before", "during"]


def measure(plan):
    token = plan.folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    settings = QUIET | {"admin": {"token_file": str(token)}}
    parts = [filled(plan, Case("IPv4", V4, (), settings, 2.2))]
    if namespace.is_possible():
        words = ("--ipv6", 33, "--sources", namespace.SOURCES)
        with namespace.many_ipv6_addresses():
            parts.append(filled(plan, Case("a third IPv6", "localhost", words, settings | WILDCARD, 3.2)))
    else:
        parts.append(f"Without IPv6: {namespace.NEEDS}.")
    return "\n\n".join(parts) + "\n\n" + note(
        f"{number(plan.scaled(SINGLES, QUICK_SHARE))} torrents with one peer, the other peers by Zipf(1)."
        f" Announces of peers drawn from all, each in its torrent, {RATE // 1000} k/s offered,"
        f" {UPGRADE_RATE // 1000} k/s during the upgrade; tracker and load on a core each. The first four"
        f" operations begin anew until a window of {WINDOW_SECONDS} s is over. The time of the sweep is the"
        f" work of one round, which is spread over {SWEEP_SECONDS // 2} s. A restart writes the snapshot,"
        " ends, begins and reads it; lost are the peers. An upgrade is done when `hayate upgrade` returns."
    )


@dataclass
class Case:
    """Peers of one or both families, and the most GB (10^9) they may take."""

    name: str
    host: str
    words: tuple
    settings: dict
    most: float


def filled(plan, case):
    """The tables of one tracker, from the fill to the upgrade."""
    peers, torrents, singles = (plan.scaled(count, QUICK_SHARE) for count in (PEERS, TORRENTS, SINGLES))
    with Daemon(plan.folder, case.settings) as hayate:
        progress(f"huge: {case.name}, filling with {peers:,} peers")
        words = ("--torrents", torrents, "--singles", singles, "--zipf", 1, *case.words)
        fill = load.fill(hayate, peers, *words, host=case.host, timeout=60 + peers / 10_000)
        held, gigabytes = f"{hayate.peers():,} peers, {case.name}", hayate.rss() / 1e9
        most = case.most / QUICK_SHARE if plan.quick else case.most
        rows = [
            Row(f"GB (10^9) of VmRSS with {held}", gigabytes, max=most, absolute=True, digits=3),
            Row("peers filled in per second", peers / fill["seconds"]),
        ]
        progress(f"huge: {held}: {gigabytes:.3f} GB")
        load_of = Load(hayate, case, ["--refresh", peers, *load.population(peers), *words])
        before = load_of.window(RATE)
        operations = {
            "sweep": lambda: beside(before, *sweep(hayate, load_of)),
            "snapshot": lambda: beside(before, *snapshot(hayate, load_of)),
            "export": lambda: beside(before, *export(hayate, load_of)),
            "report": lambda: beside(before, *report(hayate, load_of)),
            "restart": lambda: restart(hayate),
            f"upgrade at {UPGRADE_RATE // 1000} k/s": lambda: upgrade(hayate, load_of, 30 + peers // 400_000),
        }
        lines = [attempt(case, name, operation) for name, operation in operations.items()]
    return figures(rows) + f"\n\nWith {held}:\n\n" + table(COLUMNS, lines)


def attempt(case, name, operation):
    """The line of one operation. One that fails is a finding like the others."""
    progress(f"huge: {case.name}, {name}")
    try:
        cells = operation()
    except (Failed, subprocess.TimeoutExpired) as failure:
        cells = [f"failed: {one_line(failure)}", *[""] * (len(COLUMNS) - 2)]
    progress(f"huge: {case.name}, {name}: {' | '.join(cells)}")
    return [name, *cells]


def one_line(text):
    """Its last words, for a cell of a table."""
    return " ".join(str(text).split())[-200:].replace("|", "/")


def beside(before, took, during):
    """All cells but the name: how long it took, and the windows before and during it."""
    percentiles = [number(run["latency_us"][at]) for at in ("p50", "p99.9") for run in (before, during)]
    took = took if isinstance(took, str) else number(took, 2)
    slowest = number(during["latency_us"]["max"] / 1e3, 1)
    return [took, *percentiles, slowest, *map(number, (during["sent"], before["lost"], during["lost"]))]


class Load:
    """Announces of the peers that are there, at an offered rate."""

    def __init__(self, hayate, case, words):
        self.hayate, self.url, self.words = hayate, load.udp(hayate, case.host), [*ANNOUNCES, *words]

    def running(self, rate, seconds=WINDOW_SECONDS, watched=True):
        words = [*self.words, "--rate", rate, "--seconds", seconds]
        timeout = seconds + TIMEOUT_SECONDS
        return load.running(self.hayate, self.url, *words, timeout=timeout, watched=watched)

    def window(self, rate):
        with self.running(rate) as result:
            return result()

    def during(self, operation):
        """The mean of what an operation gives that is repeated for a window, and the window's figures."""
        given, failed, over = [], [], threading.Event()

        def repeat():
            try:
                while not over.is_set():
                    given.append(operation())
            except (Failed, OSError, ValueError) as failure:
                failed.append(failure)

        with self.running(RATE) as result:
            thread = threading.Thread(target=repeat)
            thread.start()
            try:
                figures_of_window = result()
            finally:
                over.set()
                thread.join()
        if failed:
            raise Failed(f"hayate cannot be asked: {failed[0]}")
        return sum(given) / len(given), figures_of_window


def sweep(hayate, load_of):
    """Rounds at the shortest period; the working time of one."""
    intervals(hayate, purge_inactive_peers=SWEEP_SECONDS)
    # A round that began at the old period ends first.
    next_round(hayate)
    before = rounds(hayate)
    during = load_of.window(RATE)
    next_round(hayate)
    milliseconds, count = (after - first for after, first in zip(rounds(hayate), before))
    intervals(hayate, purge_inactive_peers=QUIET["intervals"]["purge_inactive_peers"])
    return milliseconds / count / 1e3, during


def next_round(hayate):
    count = rounds(hayate)[1]
    hayate.wait_until(lambda: rounds(hayate)[1] > count, "completes no round of the sweep", TIMEOUT_SECONDS)


def rounds(hayate):
    """Working milliseconds of the sweep, and rounds, since the start."""
    return [hayate.metric(f"storage_gc_duration_milliseconds_{name}") for name in ("sum", "count")]


def snapshot(hayate, load_of):
    """Snapshots one after the other; how long the last took."""
    before = hayate.metric("snapshots_total")
    intervals(hayate, database_serialize=OFTEN)
    during = load_of.window(RATE)
    intervals(hayate, database_serialize=NEVER)
    hayate.wait_until(
        lambda: hayate.metric("snapshots_total") > before, "writes no snapshot", TIMEOUT_SECONDS
    )
    seconds = hayate.metric("snapshot_milliseconds") / 1e3
    # The next may have begun before the reload.
    time.sleep(1.5 * seconds + 1)
    return seconds, during


def export(hayate, load_of):
    """Exports one after the other, as the admin API times them."""
    return load_of.during(lambda: json.loads(ask(hayate, "export"))["seconds"])


def report(hayate, load_of):
    """Reports one after the other, as the client times them."""

    def once():
        begin = time.monotonic()
        ask(hayate, "torrents?top=20")
        return time.monotonic() - begin

    return load_of.during(once)


def restart(hayate):
    before, begin = hayate.peers(), time.monotonic()
    starts = hayate.restart(TIMEOUT_SECONDS)
    stops = time.monotonic() - begin - starts
    times = f"{number(stops, 1)} to the end, {number(starts, 1)} to service"
    return [times, *[""] * (len(COLUMNS) - 3), number(max(0, before - hayate.peers()))]


def upgrade(hayate, load_of, seconds):
    """The successor is ended here, for it is no child of this program."""
    before = load_of.window(UPGRADE_RATE)
    with ExitStack() as stack:
        stack.callback(end_successor, hayate)
        result = stack.enter_context(load_of.running(UPGRADE_RATE, seconds, watched=False))
        time.sleep(3)
        begin = time.monotonic()
        command = [RELEASE / "hayate", "upgrade", "-c", hayate.home / "tracker.json"]
        command += ["--timeout", f"{TIMEOUT_SECONDS}s"]
        run = subprocess.run(command, cwd=hayate.home, capture_output=True, text=True)
        took = time.monotonic() - begin
        during = result()
    # An upgrade that outlasts the load would seem to lose less than it does.
    outcome = number(took, 1) + (" (longer than the load)" if took + 3 > seconds else "")
    if run.returncode != 0:
        outcome += f", failed: {one_line(run.stderr)}"
    return beside(before, outcome, during)


def end_successor(hayate):
    pid = int((hayate.home / "hayate.lock").read_text().split("\n", 1)[0])
    if pid != hayate.pid:
        os.kill(pid, signal.SIGKILL)


def intervals(hayate, **keys):
    hayate.reload({"intervals": keys})


def ask(hayate, what):
    url = f"http://127.0.0.1:{hayate.metrics_port}/{TOKEN}/{what}"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as page:
        return page.read()
