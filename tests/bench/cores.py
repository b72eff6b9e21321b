"""One worker on one core against two workers on two, while the load runs on the same two cores."""

from contextlib import ExitStack

import load
from process import Daemon
from report import Row, figures, note

TITLE = "Cores"
BOTH = (0, 1)
TRACKERS = {"one worker, one core": (1, (0,)), "two workers, two cores": (2, BOTH)}
MIX = "connect=50,announce=50,scrape=0"


def measure(plan):
    with ExitStack() as stack:
        contenders = {}
        for name, (workers, cores) in TRACKERS.items():
            server = stack.enter_context(Daemon(plan.folder, {"udp": {"workers": workers}}, cores))
            contenders[name] = lambda seed, server=server: two_loads(plan, server, seed)
        runs = plan.interleave("cores: mixed", contenders)
    one, two = ({key: load.median(runs[name], key) for key in ("total", "per_cpu")} for name in TRACKERS)
    rows = [
        Row("mixed, replies/s in all", two["total"], one["total"]),
        Row("mixed, replies per CPU-second", two["per_cpu"], one["per_cpu"]),
    ]
    return figures(rows) + "\n\n" + note(
        "Here the limit is one worker on one core, hayate two workers on two cores. Two loads share these two"
        " cores with the tracker: this is what they leave of the second core, not all it can do."
    )


def two_loads(plan, server, seed):
    """Runs two loads at once, each with sockets of its own, so that both workers get requests."""
    options = ["--seconds", plan.seconds, "--mix", MIX, "--torrents", 1_000_000]
    with ExitStack() as stack:
        results = [
            stack.enter_context(
                load.running(server, load.udp(server), *options, "--seed", 2 * seed + half, cores=BOTH)
            )
            for half in (1, 2)
        ]
        halves = [result() for result in results]
    total = sum(half["replies_per_second"] for half in halves)
    return {"total": total, "per_cpu": total / halves[0]["tracker"]["cpus_used"]}
