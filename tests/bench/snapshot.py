"""The slowest replies while snapshots of millions of peers are written continuously; a warm restart."""

import time

import limits
import load
from process import LOAD_CORE, TRACKER_CORE, Daemon, Failed
from report import note, number, progress, table, yes

TITLE = "Snapshots"
PEERS, RATE = 5_000_000, 50_000
# A window holds half a million replies, so that p99.9 is determined by five hundred.
WINDOW_SECONDS = 10
# In many swarms the load mostly brings new peers; in one it refreshes those of the fill.
SHAPES = {"1 M torrents": 1_000_000, "one swarm": 1}
# The smallest and a very large interval: one snapshot after the other, and none.
ON, OFF = 1, 86_400
EXCESS_MAX_MS = 5
RESTART_MAX_SECONDS = 10
COLUMNS = ["work", "null, ms", "off, ms", "on, ms", "excess, ms", "must reach", "reached"]
COLUMNS += ["slowest, ms", "lost", "snapshots", "each, s", "MB"]


def measure(plan):
    runs = (plan.runs + 1) // 2
    window = Window(plan)
    nulls = null_windows(plan, window, runs)
    lines, restarts = [], []
    for shape, torrents in SHAPES.items():
        with Daemon(plan.folder, settings(plan.folder, shape, OFF)) as hayate:
            progress(f"snapshot: {shape}, filling with {window.peers:,} peers")
            load.fill(hayate, window.peers, "--torrents", torrents, timeout=300)
            lines.append(Line(shape, *compared(window, hayate, shape, torrents, runs)))
            restarts.append(restarted(hayate, shape))
    nulls += null_windows(plan, window, runs)
    columns = ["restart", "peers", "seconds from start to service", "must reach", "reached"]
    figures = table(COLUMNS, [line.cells(nulls) for line in lines])
    return figures + "\n\n" + table(columns, restarts) + "\n\n" + note(
        f"p99.9 of replies to announces, {RATE // 1000} k/s offered, tracker and load on a core each, medians"
        f" over windows of {window.seconds} s; slowest and lost while snapshots are written. With"
        f" `intervals.database_serialize` of {ON} s the next begins when one is done; off means that none"
        " falls into a window. The restart is an orderly one."
    )


class Window:
    """Short runs at the offered rate."""

    def __init__(self, plan):
        self.peers, self.seconds = plan.scaled(PEERS), plan.scaled(WINDOW_SECONDS, 5)
        self.seed = 0

    def run(self, server, torrents):
        self.seed += 1
        options = ["--mix", "connect=0,announce=100,scrape=0", "--torrents", torrents, "--rate", RATE]
        options += [*load.population(self.peers), "--seconds", self.seconds, "--seed", self.seed]
        return load.load(server, load.udp(server), *options, cores=LOAD_CORE)


class Line:
    """Windows of one shape, without snapshots and with them."""

    def __init__(self, shape, off, on, snapshots, seconds, octets):
        self.shape, self.off, self.on = shape, off, on
        self.written = [number(snapshots), number(seconds, 1), number(octets / 1e6, 1)]

    def cells(self, nulls):
        kinds = (nulls, self.off, self.on)
        null, off, on = (load.median(runs, "latency_us", "p99.9") / 1e3 for runs in kinds)
        slowest = max(run["latency_us"]["max"] for run in self.on) / 1e3
        lost = sum(run["lost"] for run in self.on)
        # Lost replies are in no percentile, so a few of them make a good percentile worthless.
        reached = on - off <= EXCESS_MAX_MS and lost <= sum(run["sent"] for run in self.on) / 10_000
        verdict = [f"{on - off:+.2f}", f"≤ {EXCESS_MAX_MS}", yes(reached)]
        times = [number(milliseconds, 2) for milliseconds in (null, off, on)]
        return [self.shape, *times, *verdict, number(slowest, 2), number(lost), *self.written]


def settings(folder, shape, every_seconds):
    """The configuration: where snapshots go, and how often."""
    state = folder / f"state-{shape.replace(' ', '-')}"
    state.mkdir(exist_ok=True)
    return {"state_dir": str(state), "intervals": {"database_serialize": every_seconds}}


def null_windows(plan, window, runs):
    progress("snapshot: the null tracker")
    with limits.null_tracker(plan.folder, TRACKER_CORE) as null:
        return [window.run(null, SHAPES["1 M torrents"]) for _ in range(runs)]


def compared(window, hayate, shape, torrents, runs):
    """Measures windows in turn, because the machine may drift. Returns them, and the snapshots written meanwhile."""
    off, on, written = [], [], 0
    for run in range(1, runs + 1):
        progress(f"snapshot: {shape}, run {run} of {runs}")
        off.append(window.run(hayate, torrents))
        before = snapshots(hayate)
        hayate.reload({"intervals": {"database_serialize": ON}})
        on.append(window.run(hayate, torrents))
        hayate.reload({"intervals": {"database_serialize": OFF}})
        wait_for_snapshot(hayate)
        written += snapshots(hayate) - before
    if hayate.metric("snapshot_failures_total"):
        raise Failed("snapshots could not be written")
    if not written:
        raise Failed("no snapshot was written")
    seconds = hayate.metric("snapshot_milliseconds") / 1e3
    return off, on, written, seconds, hayate.metric("snapshot_bytes")


def snapshots(hayate):
    return hayate.metric("snapshots_total")


def wait_for_snapshot(hayate, seconds=60):
    """Waits until the snapshot in progress is written."""
    before, end = snapshots(hayate), time.monotonic() + seconds
    while snapshots(hayate) == before and time.monotonic() < end:
        time.sleep(0.2)


def restarted(hayate, shape):
    """Returns the line of an orderly restart: the seconds until the peers are served again."""
    progress(f"snapshot: {shape}, restarting")
    before = hayate.peers()
    seconds = hayate.restart()
    if hayate.peers() < before * 0.999:
        raise Failed(f"{before:,} peers before the restart, {hayate.peers():,} after")
    reached = seconds <= RESTART_MAX_SECONDS
    return [shape, number(before), number(seconds, 1), f"≤ {RESTART_MAX_SECONDS}", yes(reached)]
