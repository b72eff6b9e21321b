"""Replies over UDP per CPU-second, and the cost of one at an offered rate."""

from contextlib import ExitStack

import limits
import load
from limits import BOTH, V4, V6
from process import Daemon
from report import Row, figures, note

TITLE = "UDP"
WILDCARD = {"udp": {"addr": ":{port}"}}
IPV6 = {"udp": {"addr": "[::1]:{port}"}}
WITHOUT_COALESCE = {"udp": {"coalesce": 0}}
# 1 M torrents, uniform, 30 peers wanted: the defaults of both load generators.
SATURATED = {"mixed 50/50 connect/announce": (50, 0.92), "announces only": (0, 0.90)}
# The published 4.5 and 4.0 us were set where the saturated null tracker takes 2.9 us a reply.
OFFERED = {10_000: 4.5 / 2.9, 30_000: 4.0 / 2.9}


def measure(plan):
    text = ""
    if plan.official:
        text = "Load: udpblast.\n\n" + figures(rows(plan, blast)) + "\n\n"
    text += "Load: hayate-load.\n\n" + figures(rows(plan, hayate_load) + a_third_over_ipv6(plan))
    return text + "\n\n" + note(
        "Replies per CPU-second of the tracker; at an offered rate, CPU us per reply, against the null"
        " tracker when *saturated* with the mixed load. Wildcard: hayate listens on every address of both"
        " families. The limit of a row over IPv6 is the null tracker over IPv6; its ratio must reach that of"
        " the same row over IPv4, measured in turn with it. With a third over IPv6, both listen on every"
        " address, the null tracker by one socket."
    )


def rows(plan, run):
    """The rows of the published table, the variants of hayate, and the same over IPv6."""
    found, saturated_us = [], None
    for work, (connects, min_ratio) in SATURATED.items():
        trackers = {"hayate": ({}, V4), "wildcard": (WILDCARD, V4), "over IPv6": (IPV6, V6)}
        medians = measure_one(plan, run, work, connects, 0, trackers)
        saturated_us = saturated_us or medians["null"]["us_per_reply"]
        rate = {name: figures["replies_per_cpu_second"] for name, figures in medians.items()}
        found.append(Row(work, rate["hayate"], rate["null"], min=min_ratio))
        found.append(Row(f"{work}, wildcard", rate["wildcard"], rate["null"]))
        over_ipv4 = rate["hayate"] / rate["null"]
        found.append(Row(f"{work}, over IPv6", rate["over IPv6"], rate["null over IPv6"], min=over_ipv4))
    for offered, max_ratio in OFFERED.items():
        work = f"CPU us per reply, {offered // 1000} k/s offered"
        trackers = {"hayate": ({}, V4), "no coalesce": (WITHOUT_COALESCE, V4)}
        medians = measure_one(plan, run, work, 50, offered, trackers)
        cost = {name: figures["us_per_reply"] for name, figures in medians.items()}
        found.append(Row(work, cost["hayate"], saturated_us, max=max_ratio, digits=2))
        found.append(Row(f"{work}, `udp.coalesce` 0", cost["no coalesce"], saturated_us, digits=2))
        found.append(Row(f"{work}, the null tracker itself", cost["null"], saturated_us, digits=2))
    return found


def measure_one(plan, run, work, connects, rate, trackers):
    """Medians of the null trackers and of hayate with each of these settings and hosts, under one load."""
    # The kernel counts CPU time in hundredths of a second: at a low rate there are few of them in a run.
    seconds = plan.seconds * (2 if rate else 1)
    # If there is the official load, the other one is only a check.
    runs_wanted = max(1, plan.runs // 2) if plan.official and run is hayate_load else plan.runs
    with ExitStack() as stack:
        servers = {"null": (stack.enter_context(limits.null_tracker(plan.folder)), V4)}
        if V6 in (host for _, host in trackers.values()):
            null = stack.enter_context(limits.null_tracker(plan.folder, host=V6))
            servers["null over IPv6"] = (null, V6)
        for name, (changes, host) in trackers.items():
            servers[name] = (stack.enter_context(Daemon(plan.folder, changes)), host)
        contenders = {
            name: lambda seed, at=at: run(plan, *at, connects, rate, seed, seconds)
            for name, at in servers.items()
        }
        runs = plan.interleave(f"udp: {work} ({run.__name__})", contenders, runs_wanted)
    keys = ("replies_per_cpu_second", "us_per_reply")
    return {name: {key: load.median(all_runs, key) for key in keys} for name, all_runs in runs.items()}


def blast(plan, server, host, connects, rate, seed, seconds):
    options = [f"connect={connects}", f"rate={rate}", f"seed={seed + 1}"]
    return load.blast(server, host, plan.folder, seconds, *options)


def hayate_load(_plan, server, host, connects, rate, seed, seconds, *more):
    mix = f"connect={connects},announce={100 - connects},scrape=0"
    options = ["--seconds", seconds, "--mix", mix, "--num-want", 30, "--seed", seed + 1, *more]
    options += ["--torrents", 1_000_000] + (["--rate", rate] if rate else [])
    return load.load(server, load.udp(server, host), *options)["tracker"]


def a_third_over_ipv6(plan):
    """Both families at the same time, to a daemon that listens on every address."""
    found = []
    with limits.null_tracker(plan.folder, host=BOTH) as null, Daemon(plan.folder, WILDCARD) as hayate:
        for work, (connects, _) in SATURATED.items():
            contenders = {
                name: lambda seed, server=server, connects=connects: hayate_load(
                    plan, server, "localhost", connects, 0, seed, plan.seconds, "--ipv6", 33
                )
                for name, server in {"null": null, "hayate": hayate}.items()
            }
            runs = plan.interleave(f"udp: {work}, a third over IPv6", contenders, max(1, plan.runs // 2))
            rate = {name: load.median(figures, "replies_per_cpu_second") for name, figures in runs.items()}
            found.append(Row(f"{work}, a third over IPv6", rate["hayate"], rate["null"]))
    return found
