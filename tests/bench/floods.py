"""Floods at full rate, and their effect on valid clients."""

import load
from process import Daemon
from report import note, number, progress, table

TITLE = "Floods"
MIB = 1024 * 1024
BUDGET = 256 * MIB
SECONDS = 60
VALID = ["--rate", 1000, "--mix", "connect=50,announce=50,scrape=0", "--torrents", 10_000, "--seed", 7]
ANNOUNCES = ["--mix", "connect=0,announce=100,scrape=0"]
FLOODS = {
    "none": None,
    "forged connection ids": [*ANNOUNCES, "--forged", 100],
    "fresh info_hashes, valid ids": [*ANNOUNCES, "--fresh-torrents"],
}
COLUMNS = ["flood", "rate, /s", "valid answered", "p50, ms", "p99.9, ms", "max, ms"]
COLUMNS += ["VmRSS, MB", "own count, MB", "refused as forged", "full", "dropped by the kernel"]


def measure(plan):
    lines = [measure_flood(plan, flood, options) for flood, options in FLOODS.items()]
    return table(COLUMNS, lines) + "\n\n" + note(
        f"Each for {plan.scaled(SECONDS)} s, in a daemon of its own with `memory.max` of {BUDGET // MIB} MiB."
        " Valid clients: 1 k/s offered, half connects. They share one core with the flood, which has nice 19,"
        " so that what they wait for is the tracker."
    )


def measure_flood(plan, flood, options):
    """Returns the line of one flood."""
    seconds = plan.scaled(SECONDS if options else SECONDS // 3)
    progress(f"floods: {flood}, {seconds} s")
    with Daemon(plan.folder, {"memory": {"max": BUDGET}}) as hayate:
        url, timeout = load.udp(hayate), seconds + load.GRACE_SECONDS
        sent = 0
        if options is None:
            valid = load.load(hayate, url, "--seconds", seconds, *VALID, timeout=timeout)
        else:
            more = {"nice": 19, "timeout": timeout}
            # The flood begins before the valid clients and ends after them.
            with load.running(hayate, url, "--seconds", seconds + 2, *options, **more) as result:
                valid = load.load(hayate, url, "--seconds", seconds, *VALID, timeout=timeout)
                flooded = result()
                sent = (flooded["sent"] + flooded["forged"]) / flooded["seconds"]
        latency = valid["latency_us"]
        octets = (hayate.rss(), hayate.metric("swarms_memory_bytes"))
        counters = (hayate.metric("udp_refusals_total", "forged"), hayate.metric("swarms_full_total"),
                    hayate.metric("udp_socket_drops_total"))
    return [
        flood, number(sent), f"{100 * valid['replies'] / valid['sent']:.3f} %",
        *(number(latency[name] / 1e3, 2) for name in ("p50", "p99.9", "max")),
        *(number(value / 1e6, 1) for value in octets), *map(number, counters),
    ]
