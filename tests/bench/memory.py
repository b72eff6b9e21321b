"""VmRSS: octets per torrent and per peer, what remains when all have gone, the 30 million, the budget."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import limits
import load
from process import Daemon, Failed
from report import Row, figures, number, progress, table

TITLE = "Memory"
ANNOUNCES = "connect=0,announce=100,scrape=0"
# The rate of the slowest fill before it times out, in announces per second.
SLOWEST_RATE = 20_000
PURGE_SECONDS = 10
SHORT_LIVES = {"intervals": {"announce": 30, "min_announce": 0, "announce_drift": 0, "peer_inactivity": 60,
                             "purge_inactive_peers": PURGE_SECONDS}}
BUDGET = 32 * 1024 * 1024


@dataclass
class Fill:
    """A fill: a number of peers, one announce each, in a number of torrents."""

    work: str
    peers: int
    torrents: int
    more_options: tuple = ()

    def options(self):
        return ["--torrents", self.torrents, *self.more_options]

    def run(self, daemon):
        progress(f"memory: {self.work}, filling")
        timeout = 60 + self.peers / SLOWEST_RATE
        return load.fill(daemon, self.peers, *self.options(), timeout=timeout)


def measure(plan):
    small, details = fills(plan)
    headline, throughput = thirty_million(plan)
    return "\n\n".join([figures([*small, *headline]), details, throughput, budget(plan)])


def fills(plan):
    """The four small shapes, each in a daemon of its own; then all peers leave all of them at once."""
    million = plan.scaled(1_000_000)
    shapes = [
        Fill("one IPv4 peer each", million, million, ("--singles", million)),
        Fill("Zipf(1)", 4 * million, million, ("--zipf", 1)),
        Fill("one swarm", million, 1),
        Fill("swarms of 1000", million, million // 1000),
    ]
    with ExitStack() as stack:
        seen = {}
        for fill in shapes:
            daemon = stack.enter_context(Daemon(plan.folder))
            # Connects allocate the buffers that every daemon allocates sooner or later.
            load.load(daemon, load.udp(daemon), "--seconds", 0.5, "--mix", "connect=100")
            before = daemon.rss()
            fill.run(daemon)
            seen[fill.work] = Shape(daemon, before)
        for shape in seen.values():
            shape.daemon.reload(SHORT_LIVES)
        progress("memory: waiting for the peers to leave")
        lines = [shape.wait_until_empty(work) for work, shape in seen.items()]
    singles, large, one, swarms = seen.values()
    bound = {"absolute": True, "digits": 1}
    rows = [
        Row("octets per torrent with one IPv4 peer", singles.per_torrent(), 26, max=72, **bound),
        Row("octets per IPv4 peer, one swarm of 1 M", one.per_peer(), 6, max=14, **bound),
        Row("octets per IPv4 peer, swarms of 1000", swarms.per_peer(), 6, max=14, **bound),
        Row("octets per IPv4 peer, Zipf(1) in 1 M torrents", large.per_peer(), 6, **bound),
    ]
    columns = ["shape", "peers", "torrents", "VmRSS before, MB", "filled", "own count", "all gone"]
    return rows, table(columns, lines) + "\n\nMB = 10^6. The rows above are of what VmRSS grew by."


class Shape:
    """The memory of a filled daemon."""

    def __init__(self, daemon, before):
        self.daemon, self.before, self.filled = daemon, before, daemon.rss()
        self.peers, self.torrents = daemon.peers(), daemon.torrents()
        self.counted = daemon.metric("swarms_memory_bytes")
        if not self.peers:
            raise Failed("hayate holds no peer after a fill")

    def per_torrent(self):
        return (self.filled - self.before) / self.torrents

    def per_peer(self):
        return (self.filled - self.before) / self.peers

    def wait_until_empty(self, work):
        """Waits until no peer is left. Returns the line of this shape."""
        self.daemon.wait_until(lambda: self.daemon.peers() == 0, "still has peers", 120)
        # One more round of the sweep releases the memory of the last peers.
        time.sleep(PURGE_SECONDS / 2)
        after = self.daemon.rss()
        octets = (self.before, self.filled, self.counted, after)
        return [work, number(self.peers), number(self.torrents), *(number(mb / 1e6, 1) for mb in octets)]


def thirty_million(plan):
    """The headline: memory of 30 M peers in 10 M torrents, and what announces cost among them."""
    fill = Fill("30 M peers in 10 M torrents", plan.scaled(30_000_000), plan.scaled(10_000_000),
                ("--singles", plan.scaled(6_000_000), "--zipf", 1))
    with Daemon(plan.folder) as hayate, limits.null_tracker(plan.folder) as null:
        fill.run(hayate)
        rss, peers, torrents = hayate.rss(), hayate.peers(), hayate.torrents()
        counted = hayate.metric("swarms_memory_bytes")

        def once(seed, server):
            options = ["--mix", ANNOUNCES, "--torrents", fill.torrents, *load.population(fill.peers)]
            options += ["--seconds", plan.seconds, "--seed", seed + 1]
            return load.load(server, load.udp(server), *options)

        contenders = {"null": lambda seed: once(seed, null), "hayate": lambda seed: once(seed, hayate)}
        runs = plan.interleave("memory: announces among all these", contenders)
    rate = {name: load.median(found, "tracker", "replies_per_cpu_second") for name, found in runs.items()}
    # A quick run holds a tenth of the peers, and is held to a tenth of the gigabyte.
    max_gb = 0.1 if plan.quick else 1.0
    rows = [
        Row(f"GB (10^9) of VmRSS with {peers:,} IPv4 peers in {torrents:,} torrents", rss / 1e9, max=max_gb,
            absolute=True, digits=3),
        Row("announces only among these, uniform, replies per CPU-second", rate["hayate"], rate["null"]),
    ]
    return rows, f"With the {peers:,} peers hayate's own count is {counted / 1e9:.3f} GB."


def budget(plan):
    """A small `memory.max`, filled far beyond it."""
    fill = Fill("memory.max", plan.scaled(4_000_000), plan.scaled(1_000_000), ("--zipf", 1))
    budget_octets = plan.scaled(BUDGET)
    with Daemon(plan.folder, {"memory": {"max": budget_octets}}) as hayate:
        filled = fill.run(hayate)
        counted, kept = hayate.metric("swarms_memory_bytes"), hayate.peers()
        rss, full = hayate.rss(), hayate.metric("swarms_full_total")
        options = ["--seconds", 1, "--rate", 1000, "--torrents", 1000]
        after = load.load(hayate, load.udp(hayate), *options)
    lines = [
        ["`memory.max`, own count, VmRSS, MB", (budget_octets / 1e6, counted / 1e6, rss / 1e6), 1],
        ["announces, peers kept, `swarms_full_total`", (filled["announces"], kept, full), 0],
        ["requests afterwards at 1 k/s, replies", (after["sent"], after["replies"]), 0],
    ]
    cells = [[work, "; ".join(number(value, digits) for value in values)] for work, values, digits in lines]
    return table(["a budget, filled far beyond it", ""], cells)
