"""VmRSS: octets per torrent and per peer, what remains when all have gone, the 30 million, the budget."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import limits
import load
import namespace
from limits import V4, V6
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
# Every address of both families; and the ids of peers.
WILDCARD = {"udp": {"addr": ":{port}"}}
PEER_IDS = {"announce": {"keep_peer_ids": True}}
# Octets of a peer's address and port, and of an info_hash and a peer id.
V4_PEER, V6_PEER, ID = 6, 18, 20


@dataclass
class Fill:
    """A fill: a number of peers of each of these families, one announce each, in a number of torrents."""

    work: str
    peers: int
    torrents: int
    more_options: tuple = ()
    hosts: tuple = (V4,)
    changes: dict = field(default_factory=dict)

    def settings(self):
        return self.changes if self.hosts == (V4,) else {**WILDCARD, **self.changes}

    def run(self, daemon):
        """Returns the figures of the last family's fill."""
        progress(f"memory: {self.work}, filling")
        timeout = 60 + self.peers / SLOWEST_RATE
        for host in self.hosts:
            options = ["--torrents", self.torrents, *self.more_options]
            options += ["--sources", namespace.SOURCES] if host == V6 else []
            filled = load.fill(daemon, self.peers, *options, host=host, timeout=timeout)
        return filled


def measure(plan):
    small, details = fills(plan)
    headline, throughput = thirty_million(plan)
    return "\n\n".join([figures([*small, *headline]), details, throughput, budget(plan)])


def fills(plan):
    """The small shapes, each in a daemon of its own; then all peers leave all of them at once."""
    million = plan.scaled(1_000_000)
    singles, over_ipv6 = ("--singles", million), {"hosts": (V6,)}
    one_v4 = Fill("one IPv4 peer each", million, million, singles)
    one_v6 = Fill("one IPv6 peer each", million, million, singles, **over_ipv6)
    one_each = Fill("one peer of each family", million, million, singles, hosts=(V4, V6))
    swarm = Fill("one swarm", million, 1)
    swarms = Fill("swarms of 1000", million, million // 1000)
    small_v6 = Fill("swarms of 5 on average, IPv6", 5 * million, million, **over_ipv6)
    zipf = Fill("Zipf(1)", 4 * million, million, ("--zipf", 1))
    zipf_v6 = Fill("Zipf(1), IPv6", 4 * million, million, ("--zipf", 1), **over_ipv6)
    with_ids = Fill("Zipf(1), peer ids kept", 5 * million, million, ("--zipf", 1), changes=PEER_IDS)
    shapes = (one_v4, one_v6, one_each, swarm, swarms, small_v6, zipf, zipf_v6, with_ids)
    with ExitStack() as stack:
        there = namespace.is_possible()
        if there:
            stack.enter_context(namespace.many_ipv6_addresses())
        seen = {}
        for fill in (shape for shape in shapes if there or V6 not in shape.hosts):
            daemon = stack.enter_context(Daemon(plan.folder, fill.settings()))
            # Connects allocate the buffers that every daemon allocates sooner or later.
            for host in fill.hosts:
                load.load(daemon, load.udp(daemon, host), "--seconds", 0.5, "--mix", "connect=100")
            before = daemon.rss()
            fill.run(daemon)
            seen[fill.work] = Shape(daemon, before)
        for shape in seen.values():
            shape.daemon.reload(SHORT_LIVES)
        progress("memory: waiting for the peers to leave")
        lines = [shape.wait_until_empty(work) for work, shape in seen.items()]
    bound = {"absolute": True, "digits": 1}

    def row(work, fill, octets, limit, max=None):
        there = fill.work in seen
        if not there:
            return []
        return [Row(f"octets per {work}", octets(seen[fill.work]), limit, max=max, **bound)]

    torrent, peer = Shape.per_torrent, Shape.per_peer
    rows = [
        *row("torrent with one IPv4 peer", one_v4, torrent, ID + V4_PEER, 72),
        *row("torrent with one IPv6 peer", one_v6, torrent, ID + V6_PEER, 96),
        *row("torrent with one peer of each family", one_each, torrent, ID + V4_PEER + V6_PEER, 112),
        *row("IPv4 peer, one swarm of 1 M", swarm, peer, V4_PEER, 14),
        *row("IPv4 peer, swarms of 1000", swarms, peer, V4_PEER, 14),
        *row("IPv6 peer, swarms of 5 on average", small_v6, peer, V6_PEER),
        *row("IPv4 peer, Zipf(1) in 1 M torrents", zipf, peer, V4_PEER),
        *row("IPv6 peer, Zipf(1) in 1 M torrents", zipf_v6, peer, V6_PEER),
        *row("IPv4 peer with its id, 5 M, Zipf(1) in 1 M torrents", with_ids, peer, V4_PEER + ID, 45),
    ]
    columns = ["shape", "peers", "torrents", "VmRSS before, MB", "filled", "own count", "all gone"]
    text = "MB = 10^6. The rows above are of what VmRSS grew by."
    text += "" if there else f" Without IPv6: {namespace.NEEDS}."
    return rows, table(columns, lines) + "\n\n" + text


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
