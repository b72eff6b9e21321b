"""The slowest replies while millions of peers are swept, beside those of the null tracker."""

import time
from dataclasses import dataclass

import limits
import load
from process import LOAD_CORE, TRACKER_CORE, Daemon
from report import note, number, progress, table, yes

TITLE = "Sweep"
PEERS, RATE = 5_000_000, 50_000
# A window holds half a million replies, so that p99.99 is determined by fifty.
WINDOW_SECONDS = 10
# In each half of this time the sweep visits all peers.
PURGE_SECONDS = 10
LONG_LIVES = {"intervals": {"purge_inactive_peers": PURGE_SECONDS}}
# The smallest value that may be configured.
SHORT_SECONDS = 60
SHORT_LIVES = {"intervals": {"announce": 30, "min_announce": 0, "announce_drift": 0,
                             "peer_inactivity": SHORT_SECONDS}}
# In one swarm, the load refreshes the peers of the fill; in many it mostly brings others.
SHAPES = {"1 M torrents": 1_000_000, "one swarm": 1}
# The cores of tracker and load: one each, or any.
PINNINGS = {"pinned": (TRACKER_CORE, LOAD_CORE), "unpinned": ((), ())}
EXCESS_MAX_MS = 5
COLUMNS = ["work", "limit, ms", "hayate, ms", "excess, ms", "must reach", "reached"]
COLUMNS += ["slowest, ms", "lost", "peers before, after"]


def measure(plan):
    windows = Windows(plan, (plan.runs + 1) // 2)
    # Half of the null tracker's windows before and half after, because the machine may drift.
    pinnings = ["pinned"] if plan.quick else list(PINNINGS)
    nulls = {pinning: null_windows(windows, pinning, (windows.count + 1) // 2) for pinning in pinnings}
    lines = []
    for shape in SHAPES:
        for pinning in pinnings:
            lines += swept(windows, shape, pinning)
    for pinning in pinnings:
        nulls[pinning] += null_windows(windows, pinning, (windows.count + 1) // 2)
    return table(COLUMNS, [line.cells(nulls[line.pinning]) for line in lines]) + "\n\n" + note(
        f"p99.99 of replies to announces, {RATE // 1000} k/s offered, medians over windows of"
        f" {windows.seconds} s; slowest and lost of all windows. Every {PURGE_SECONDS // 2} s the sweep meets"
        " all peers. While none expires they live for 70 minutes; then a reload lets them live for 60 s, and"
        " those of the fill leave, but for the ones that the load refreshes: many in one swarm, few in many."
    )


@dataclass
class Line:
    """Windows of one workload."""

    work: str
    pinning: str
    runs: list
    peers: str

    def cells(self, nulls):
        limit, hayate = (load.median(runs, "latency_us", "p99.99") / 1e3 for runs in (nulls, self.runs))
        slowest = max(run["latency_us"]["max"] for run in self.runs) / 1e3
        excess, lost = hayate - limit, sum(run["lost"] for run in self.runs)
        # Lost replies are in no percentile, so a few of them make a good percentile worthless.
        reached = excess <= EXCESS_MAX_MS and lost <= sum(run["sent"] for run in self.runs) / 10_000
        verdict = [f"{excess:+.2f}", f"≤ {EXCESS_MAX_MS}", yes(reached)]
        figures = [number(limit, 2), number(hayate, 2), *verdict, number(slowest, 2), number(lost)]
        return [self.work, *figures, self.peers]


class Windows:
    """Short runs at the offered rate."""

    def __init__(self, plan, count):
        self.folder, self.count = plan.folder, count
        self.peers, self.seconds = plan.scaled(PEERS), plan.scaled(WINDOW_SECONDS, 5)
        self.seed = 0

    def run(self, server, pinning, count, torrents):
        """Returns the figures of `count` windows."""
        return [self.run_once(server, pinning, torrents) for _ in range(count)]

    def run_once(self, server, pinning, torrents):
        self.seed += 1
        options = ["--mix", "connect=0,announce=100,scrape=0", "--torrents", torrents, "--rate", RATE]
        options += [*load.population(self.peers), "--seconds", self.seconds, "--seed", self.seed]
        return load.load(server, load.udp(server), *options, cores=PINNINGS[pinning][1])


def null_windows(windows, pinning, count):
    progress(f"sweep: the null tracker, {pinning}")
    with limits.null_tracker(windows.folder, PINNINGS[pinning][0]) as null:
        return windows.run(null, pinning, count, SHAPES["1 M torrents"])


def swept(windows, shape, pinning):
    """Returns the lines of one filled daemon: none of its peers expires, then most do."""
    torrents, work = SHAPES[shape], f"{shape}, {pinning}"
    lines = []
    with Daemon(windows.folder, LONG_LIVES, PINNINGS[pinning][0]) as hayate:

        def line(name, count):
            progress(f"sweep: {work}, {name}")
            before = hayate.peers()
            runs = windows.run(hayate, pinning, count, torrents)
            peers = f"{before / 1e6:.2f} M, {hayate.peers() / 1e6:.2f} M"
            lines.append(Line(f"{work}: {name}", pinning, runs, peers))

        progress(f"sweep: {work}, filling with {windows.peers:,} peers")
        start = time.monotonic()
        load.fill(hayate, windows.peers, "--torrents", torrents, timeout=300)
        line("none expires", windows.count)
        hayate.reload(SHORT_LIVES)
        # Then the first peers of the fill are old enough.
        time.sleep(max(0, start + SHORT_SECONDS + windows.seconds / 2 - time.monotonic()))
        line("peers expire", windows.count)
    return lines
