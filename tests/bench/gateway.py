"""Announces and scrapes over HTTP per CPU-second, against bare hyper."""

import limits
import load
from process import Daemon
from report import Row, figures, note

TITLE = "HTTP"
SETTINGS = {"udp": {"addr": ""}, "http": {"addr": "127.0.0.1:{port}"}}
ANNOUNCES, SCRAPES = "connect=0,announce=100,scrape=0", "connect=0,announce=0,scrape=100"
# The published targets of 100 k and 36 k were set on a machine where bare hyper reaches 154 k and 41 k.
WORKLOADS = [
    ("announces, keep-alive, 64 connections", ANNOUNCES, ["--connections", 64], 100 / 154),
    ("announces, one connection each", ANNOUNCES, ["--connections", 64, "--close"], 36 / 41),
    ("scrapes of one torrent, keep-alive, 64 connections", SCRAPES, ["--connections", 64], None),
]


def measure(plan):
    rows = []
    with limits.bare_hyper(plan.folder) as bare, Daemon(plan.folder, SETTINGS) as hayate:
        for workload, mix, options, min_ratio in WORKLOADS:

            def once(seed, server, mix=mix, options=options):
                url = f"http://127.0.0.1:{server.port}/announce"
                arguments = ["--seconds", plan.seconds, "--mix", mix, "--seed", seed + 1, *options]
                return load.load(server, url, *arguments, "--torrents", 1_000_000)

            contenders = {"bare": lambda seed: once(seed, bare), "hayate": lambda seed: once(seed, hayate)}
            runs = plan.interleave(f"http: {workload}", contenders)
            rate = {name: per_cpu_second(all_runs) for name, all_runs in runs.items()}
            rows.append(Row(workload, rate["hayate"], rate["bare"], min=min_ratio))
    return figures(rows) + "\n\n" + note(
        "Replies per CPU-second of the tracker. The targets of 100 k and 36 k were set where bare hyper does"
        " 154 k and 41 k; here they are taken as ratios."
    )


def per_cpu_second(runs):
    return load.median(runs, "tracker", "replies_per_cpu_second")
