"""The slowest replies while millions of peers are swept, beside those of the null tracker."""

import time
from dataclasses import dataclass

import limits
import load
from process import LOAD_CORE, TRACKER_CORE, Daemon
from report import note, number, progress, table, yes

TITLE = "Sweep"
PEERS, RATE = 5_000_000, 50_000
# A window holds half a million replies, so that p99.99 stands on fifty.
WINDOW_SECONDS = 10
# In each half of this time the sweep meets all peers.
PURGE_SECONDS = 10
LONG_LIVES = {"intervals": {"purge_inactive_peers": PURGE_SECONDS}}
# The least that may be configured.
SHORT_SECONDS = 60
SHORT_LIVES = {"intervals": {"announce": 30, "min_announce": 0, "announce_drift": 0,
                             "peer_inactivity": SHORT_SECONDS}}
# In one swarm, the load refreshes the peers of the fill; in many it mostly brings others.
SHAPES = {"1 M torrents": 1_000_000, "one swarm": 1}
# Where tracker and load run: on a core each, or anywhere.
PLACES = {"pinned": (TRACKER_CORE, LOAD_CORE), "unpinned": ((), ())}
MOST_EXCESS_MS = 5
COLUMNS = ["work", "limit, ms", "hayate, ms", "excess, ms", "must reach", "reached"]
COLUMNS += ["slowest, ms", "lost", "peers before, after"]


def measure(plan):
    windows = Windows(plan, (plan.runs + 1) // 2)
    # Half of the null tracker's windows before and half after: what the machine does may drift.
    places = ["pinned"] if plan.quick else list(PLACES)
    nulls = {place: null_windows(windows, place, (windows.count + 1) // 2) for place in places}
    lines = []
    for shape in SHAPES:
        for place in places:
            lines += swept(windows, shape, place)
    for place in places:
        nulls[place] += null_windows(windows, place, (windows.count + 1) // 2)
    return table(COLUMNS, [line.cells(nulls[line.place]) for line in lines]) + "\n\n" + note(
        f"p99.99 of replies to announces, {RATE // 1000} k/s offered, medians over windows of"
        f" {windows.seconds} s; slowest and lost of all windows. Every {PURGE_SECONDS // 2} s the sweep meets"
        " all peers. While none expires they live for 70 minutes; then a reload lets them live for 60 s, and"
        " those of the fill leave, but for the ones that the load refreshes: many in one swarm, few in many."
    )


@dataclass
class Line:
    """Windows of one kind of work."""

    work: str
    place: str
    runs: list
    peers: str

    def cells(self, nulls):
        limit, hayate = (load.median(runs, "latency_us", "p99.99") / 1e3 for runs in (nulls, self.runs))
        slowest = max(run["latency_us"]["max"] for run in self.runs) / 1e3
        excess, lost = hayate - limit, sum(run["lost"] for run in self.runs)
        # What is lost is in no percentile, so little of it makes a good one worthless.
        reached = excess <= MOST_EXCESS_MS and lost <= sum(run["sent"] for run in self.runs) / 10_000
        judged = [f"{excess:+.2f}", f"≤ {MOST_EXCESS_MS}", yes(reached)]
        figures = [number(limit, 2), number(hayate, 2), *judged, number(slowest, 2), number(lost)]
        return [self.work, *figures, self.peers]


class Windows:
    """Short runs at the offered rate."""

    def __init__(self, plan, count):
        self.folder, self.count = plan.folder, count
        self.peers, self.seconds = plan.scaled(PEERS), plan.scaled(WINDOW_SECONDS, 5)
        self.seed = 0

    def of(self, server, place, count, torrents):
        """The figures of so many windows."""
        return [self.one(server, place, torrents) for _ in range(count)]

    def one(self, server, place, torrents):
        self.seed += 1
        words = ["--mix", "connect=0,announce=100,scrape=0", "--torrents", torrents, "--rate", RATE]
        words += [*load.population(self.peers), "--seconds", self.seconds, "--seed", self.seed]
        return load.load(server, load.udp(server), *words, cores=PLACES[place][1])


def null_windows(windows, place, count):
    progress(f"sweep: the null tracker, {place}")
    with limits.null_tracker(windows.folder, PLACES[place][0]) as null:
        return windows.of(null, place, count, SHAPES["1 M torrents"])


def swept(windows, shape, place):
    """The lines of one filled daemon: none of its peers expires, then most do."""
    torrents, work = SHAPES[shape], f"{shape}, {place}"
    lines = []
    with Daemon(windows.folder, LONG_LIVES, PLACES[place][0]) as hayate:

        def line(name, count):
            progress(f"sweep: {work}, {name}")
            before = hayate.peers()
            runs = windows.of(hayate, place, count, torrents)
            peers = f"{before / 1e6:.2f} M, {hayate.peers() / 1e6:.2f} M"
            lines.append(Line(f"{work}: {name}", place, runs, peers))

        progress(f"sweep: {work}, filling with {windows.peers:,} peers")
        start = time.monotonic()
        load.fill(hayate, windows.peers, "--torrents", torrents, patience=300)
        line("none expires", windows.count)
        hayate.reload(SHORT_LIVES)
        # Then the first peers of the fill are old enough.
        time.sleep(max(0, start + SHORT_SECONDS + windows.seconds / 2 - time.monotonic()))
        line("peers expire", windows.count)
    return lines
