"""VmRSS: octets per torrent and per peer, what is left when all have gone, the 30 million, the budget."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import limits
import load
from process import Daemon, Failed
from report import Row, figures, number, progress, table

TITLE = "Memory"
ANNOUNCES = "connect=0,announce=100,scrape=0"
# Slowest fill that is waited for, in announces per second.
SLOW = 20_000
PURGE_SECONDS = 10
SHORT_LIVES = {"intervals": {"announce": 30, "min_announce": 0, "announce_drift": 0, "peer_inactivity": 60,
                             "purge_inactive_peers": PURGE_SECONDS}}
BUDGET = 32 * 1024 * 1024


@dataclass
class Fill:
    """So many peers, one announce each, in so many torrents."""

    work: str
    peers: int
    torrents: int
    words: tuple = ()

    def options(self):
        return ["--torrents", self.torrents, *self.words]

    def into(self, daemon):
        progress(f"memory: {self.work}, filling")
        patience = 60 + self.peers / SLOW
        return load.fill(daemon, self.peers, *self.options(), patience=patience)


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
            # Connects touch the buffers that every daemon touches sooner or later.
            load.load(daemon, load.udp(daemon), "--seconds", 0.5, "--mix", "connect=100")
            before = daemon.rss()
            fill.into(daemon)
            seen[fill.work] = Shape(daemon, before)
        for shape in seen.values():
            shape.daemon.reload(SHORT_LIVES)
        progress("memory: waiting for the peers to leave")
        lines = [shape.leave(work) for work, shape in seen.items()]
    singles, large, one, swarms = seen.values()
    bound = {"absolute": True, "digits": 1}
    rows = [
        Row("octets per torrent with one IPv4 peer", singles.per_torrent(), 26, most=72, **bound),
        Row("octets per IPv4 peer, one swarm of 1 M", one.per_peer(), 6, most=14, **bound),
        Row("octets per IPv4 peer, swarms of 1000", swarms.per_peer(), 6, most=14, **bound),
        Row("octets per IPv4 peer, Zipf(1) in 1 M torrents", large.per_peer(), 6, **bound),
    ]
    columns = ["shape", "peers", "torrents", "VmRSS before, MB", "filled", "own count", "all gone"]
    return rows, table(columns, lines) + "\n\nMB = 10^6. The rows above are of what VmRSS grew by."


class Shape:
    """What a filled daemon holds."""

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

    def leave(self, work):
        """Waits until no peer is left; the line of this shape."""
        self.daemon.wait_until(lambda: self.daemon.peers() == 0, "still has peers", 120)
        # One more round of the sweep gives back what the last peers left.
        time.sleep(PURGE_SECONDS / 2)
        after = self.daemon.rss()
        octets = (self.before, self.filled, self.counted, after)
        return [work, number(self.peers), number(self.torrents), *(number(mb / 1e6, 1) for mb in octets)]


def thirty_million(plan):
    """The headline: memory of 30 M peers in 10 M torrents, and what announces cost among them."""
    fill = Fill("30 M peers in 10 M torrents", plan.scaled(30_000_000), plan.scaled(10_000_000),
                ("--singles", plan.scaled(6_000_000), "--zipf", 1))
    with Daemon(plan.folder) as hayate, limits.null_tracker(plan.folder) as null:
        fill.into(hayate)
        rss, peers, torrents = hayate.rss(), hayate.peers(), hayate.torrents()
        counted = hayate.metric("swarms_memory_bytes")

        def once(seed, server):
            words = ["--mix", ANNOUNCES, "--torrents", fill.torrents, *load.population(fill.peers)]
            words += ["--seconds", plan.seconds, "--seed", seed + 1]
            return load.load(server, load.udp(server), *words)

        contenders = {"null": lambda seed: once(seed, null), "hayate": lambda seed: once(seed, hayate)}
        runs = plan.interleave("memory: announces among all these", contenders)
    rate = {name: load.median(found, "tracker", "replies_per_cpu_second") for name, found in runs.items()}
    # A quick run holds a tenth of the peers, and is held to a tenth of the gigabyte.
    most = 0.1 if plan.quick else 1.0
    rows = [
        Row(f"GB (10^9) of VmRSS with {peers:,} IPv4 peers in {torrents:,} torrents", rss / 1e9, most=most,
            absolute=True, digits=3),
        Row("announces only among these, uniform, replies per CPU-second", rate["hayate"], rate["null"]),
    ]
    return rows, f"With the {peers:,} peers hayate's own count is {counted / 1e9:.3f} GB."


def budget(plan):
    """A small `memory.max`, filled far beyond it."""
    fill = Fill("memory.max", plan.scaled(4_000_000), plan.scaled(1_000_000), ("--zipf", 1))
    most = plan.scaled(BUDGET)
    with Daemon(plan.folder, {"memory": {"max": most}}) as hayate:
        filled = fill.into(hayate)
        counted, kept = hayate.metric("swarms_memory_bytes"), hayate.peers()
        rss, full = hayate.rss(), hayate.metric("swarms_full_total")
        words = ["--seconds", 1, "--rate", 1000, "--torrents", 1000]
        after = load.load(hayate, load.udp(hayate), *words)
    lines = [
        ["`memory.max`, own count, VmRSS, MB", (most / 1e6, counted / 1e6, rss / 1e6), 1],
        ["announces, peers kept, `swarms_full_total`", (filled["announces"], kept, full), 0],
        ["requests afterwards at 1 k/s, replies", (after["sent"], after["replies"]), 0],
    ]
    cells = [[work, "; ".join(number(value, digits) for value in values)] for work, values, digits in lines]
    return table(["a budget, filled far beyond it", ""], cells)
