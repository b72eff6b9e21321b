"""Replies over UDP per CPU-second, and the cost of one at an offered rate."""

from contextlib import ExitStack

import limits
import load
from process import Daemon
from report import Row, figures, note

TITLE = "UDP"
WILDCARD = {"udp": {"addr": ":{port}"}}
WITHOUT_COALESCE = {"udp": {"coalesce": 0}}
# 1 M torrents, uniform, 30 peers wanted: the defaults of both load generators.
SATURATED = {"mixed 50/50 connect/announce": (50, 0.92), "announces only": (0, 0.90)}
# The published 4.5 and 4.0 us were set where the saturated null tracker takes 2.9 us a reply.
OFFERED = {10_000: 4.5 / 2.9, 30_000: 4.0 / 2.9}


def measure(plan):
    text = ""
    if plan.official:
        text = "Load: udpblast.\n\n" + figures(rows(plan, blast)) + "\n\n"
    text += "Load: hayate-load.\n\n" + figures(rows(plan, hayate_load) + ipv6(plan))
    return text + "\n\n" + note(
        "Replies per CPU-second of the tracker; at an offered rate, CPU us per reply, against the null"
        " tracker when *saturated* with the mixed load. Wildcard: hayate listens on every address of both"
        " families."
    )


def rows(plan, run):
    """The rows of the published table, and the variants of hayate."""
    found, saturated_us = [], None
    for work, (connects, min_ratio) in SATURATED.items():
        trackers = {"hayate": {}, "wildcard": WILDCARD}
        medians = measure_one(plan, run, work, connects, 0, trackers)
        limit = medians["null"]["replies_per_cpu_second"]
        saturated_us = saturated_us or medians["null"]["us_per_reply"]
        rate = {name: medians[name]["replies_per_cpu_second"] for name in trackers}
        found.append(Row(work, rate["hayate"], limit, min=min_ratio))
        found.append(Row(f"{work}, wildcard", rate["wildcard"], limit))
    for offered, max_ratio in OFFERED.items():
        work = f"CPU us per reply, {offered // 1000} k/s offered"
        trackers = {"hayate": {}, "no coalesce": WITHOUT_COALESCE}
        medians = measure_one(plan, run, work, 50, offered, trackers)
        cost = {name: figures["us_per_reply"] for name, figures in medians.items()}
        found.append(Row(work, cost["hayate"], saturated_us, max=max_ratio, digits=2))
        found.append(Row(f"{work}, `udp.coalesce` 0", cost["no coalesce"], saturated_us, digits=2))
        found.append(Row(f"{work}, the null tracker itself", cost["null"], saturated_us, digits=2))
    return found


def measure_one(plan, run, work, connects, rate, trackers):
    """Medians of the null tracker and of hayate with each of these settings, under one load."""
    # The kernel counts CPU time in hundredths of a second: at a low rate there are few of them in a run.
    seconds = plan.seconds * (2 if rate else 1)
    # If there is the official load, the other one is only a check.
    runs_wanted = max(1, plan.runs // 2) if plan.official and run is hayate_load else plan.runs
    with ExitStack() as stack:
        servers = {"null": stack.enter_context(limits.null_tracker(plan.folder))}
        for name, changes in trackers.items():
            servers[name] = stack.enter_context(Daemon(plan.folder, changes))
        contenders = {
            name: lambda seed, server=server: run(plan, server, connects, rate, seed, seconds)
            for name, server in servers.items()
        }
        runs = plan.interleave(f"udp: {work} ({run.__name__})", contenders, runs_wanted)
    keys = ("replies_per_cpu_second", "us_per_reply")
    return {name: {key: load.median(all_runs, key) for key in keys} for name, all_runs in runs.items()}


def blast(plan, server, connects, rate, seed, seconds):
    options = [f"connect={connects}", f"rate={rate}", f"seed={seed + 1}"]
    return load.blast(server, plan.folder, seconds, *options)


def hayate_load(_plan, server, connects, rate, seed, seconds, host="127.0.0.1"):
    mix = f"connect={connects},announce={100 - connects},scrape=0"
    options = ["--seconds", seconds, "--mix", mix, "--num-want", 30, "--seed", seed + 1]
    options += ["--torrents", 1_000_000] + (["--rate", rate] if rate else [])
    return load.load(server, load.udp(server, host), *options)["tracker"]


def ipv6(plan):
    """Announces over IPv6 against the same over IPv4, both to a daemon that listens on every address."""
    with Daemon(plan.folder, WILDCARD) as v4, Daemon(plan.folder, WILDCARD) as v6:
        contenders = {
            "ipv4": lambda seed: hayate_load(plan, v4, 50, 0, seed, plan.seconds),
            "ipv6": lambda seed: hayate_load(plan, v6, 50, 0, seed, plan.seconds, "[::1]"),
        }
        runs = plan.interleave("udp: mixed over IPv6", contenders, max(1, plan.runs // 2))
    rate = {name: load.median(all_runs, "replies_per_cpu_second") for name, all_runs in runs.items()}
    return [Row("mixed over IPv6 (limit: hayate over IPv4)", rate["ipv6"], rate["ipv4"])]
