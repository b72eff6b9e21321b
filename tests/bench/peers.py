"""hayate beside other trackers, aquatic and opentracker, each on one core at saturation; their latency at
overload."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import limits
import load
from process import LOAD_CORE, ROOT, TRACKER_CORE, Daemon, Failed, free_port, pinned
from report import note, number, progress, table, yes

TITLE = "Other trackers"
VERSION = "0.9.0"
# Both without what needs an older compiler: the metrics of aquatic.
PROGRAMS = {"aquatic_udp_load_test": [], "aquatic_udp": ["--no-default-features", "--features", "mimalloc"]}
TOOLS = ROOT / ".test-tools" / "peers"
# What the others must be exceeded by.
GOALS = {"opentracker": 1.15, "aquatic": 1.3}
# Share of connects; the rest are announces. The null tracker knows no scrapes.
WORKS = {"mixed 50/50 connect/announce": 50, "announces only": 0}
# The load test of aquatic counts in periods of so many seconds.
PERIOD_SECONDS = 5
# More than any tracker can do on one core.
OVERLOAD = 2_000_000
MOST_MILLISECONDS = 2
# Completed downloads would be written to a database, which the others do not have.
WITHOUT_STORE = {"database": {"dsn": ""}}
COLUMNS = ["work", "tracker", "replies per CPU-second", "of the null tracker", "replies/s", "of its core"]
COLUMNS += ["hayate is", "must reach", "reached"]


def measure(plan):
    install()
    tables = {}
    for name, run in {"aquatic_udp_load_test": aquatic_load, "hayate-load": hayate_load}.items():
        lines = []
        for work, connects in WORKS.items():
            lines += compared(plan, name, run, work, connects)
        tables[name] = f"Load: {name}.\n\n" + table(COLUMNS, lines)
    return "\n\n".join([*tables.values(), latencies(plan)]) + "\n\n" + note(
        f"aquatic_udp and its load test {VERSION}, one socket worker; hayate without a database. Each tracker"
        " is on one core, the load on the other, 1 M torrents and 2 M peers, 30 peers wanted; CPU time is"
        " that of the tracker's process. Medians of runs in turn. The round trips are those of single"
        f" connects, one every 5 ms, while hayate-load offers {number(OVERLOAD)} requests a second, half of"
        " them connects; the goal is for p99."
    )


def install():
    """Installs aquatic below this tree, which takes some minutes."""
    for program, features in PROGRAMS.items():
        if (TOOLS / "bin" / program).exists():
            continue
        progress(f"peers: installing {program} {VERSION}")
        command = ["cargo", "install", "--locked", f"{program}@{VERSION}", "--root", TOOLS, *features]
        target = {"CARGO_TARGET_DIR": str(ROOT / "target" / "peers")}
        if subprocess.run(command, cwd=ROOT, env={**os.environ, **target}).returncode != 0:
            raise Failed(f"cargo cannot install {program}")


def trackers(plan, stack):
    """All trackers, running; those that are not here are nothing."""
    servers = {
        "null": limits.null_tracker(plan.folder),
        "hayate": Daemon(plan.folder, WITHOUT_STORE),
        "aquatic": aquatic(plan.folder),
        "opentracker": opentracker(plan.folder),
    }
    return {name: server and stack.enter_context(server) for name, server in servers.items()}


def aquatic(folder):
    port = free_port()
    config = folder / f"aquatic-{port}.toml"
    config.write_text(f'socket_workers = 1\n[network]\naddress = "127.0.0.1:{port}"\n')
    command = [TOOLS / "bin" / "aquatic_udp", "-c", config]
    return limits.start("aquatic_udp", command, folder, port, limits.answers_connect, TRACKER_CORE)


def opentracker(folder):
    """Only if somebody has built it."""
    program = shutil.which("opentracker") or shutil.which("opentracker", path=f"{TOOLS}/bin:{TOOLS.parent}")
    if not program:
        return None
    port = free_port()
    command = [program, "-i", "127.0.0.1", "-p", port, "-P", port]
    return limits.start("opentracker", command, folder, port, limits.answers_connect, TRACKER_CORE)


def compared(plan, load_name, run, work, connects):
    """The lines of all trackers under one load."""
    with ExitStack() as stack:
        servers = trackers(plan, stack)
        contenders = {
            name: lambda seed, server=server: run(plan, server, connects, seed)
            for name, server in servers.items() if server
        }
        runs = plan.interleave(f"peers: {work}, {load_name}", contenders)
    keys = ("per_cpu_second", "per_second", "core")
    medians = {name: {key: load.median(found, key) for key in keys} for name, found in runs.items()}
    return [line(work, name, medians) for name in servers]


def line(work, name, medians):
    if name not in medians:
        return [work, name, "not here", *[""] * (len(COLUMNS) - 3)]
    figures, hayate, null = medians[name], medians["hayate"], medians["null"]
    cells = [number(figures["per_cpu_second"]), number(figures["per_cpu_second"] / null["per_cpu_second"], 2)]
    cells += [number(figures["per_second"]), f"{100 * figures['core']:.0f} %"]
    goal = GOALS.get(name)
    if goal is None:
        return [work, name, *cells, "", "", ""]
    times = hayate["per_cpu_second"] / figures["per_cpu_second"]
    return [work, name, *cells, f"{times:.2f} x", f"≥ {goal:.2f} x", yes(times >= goal)]


def hayate_load(plan, server, connects, seed):
    mix = f"connect={connects},announce={100 - connects},scrape=0"
    words = ["--seconds", plan.seconds, "--mix", mix, "--seed", seed + 1, "--torrents", 1_000_000]
    figures = load.load(server, load.udp(server), *words)
    tracker = figures["tracker"]
    return {"per_cpu_second": tracker["replies_per_cpu_second"], "per_second": figures["replies_per_second"],
            "core": tracker["cpus_used"]}


def aquatic_load(plan, server, connects, _seed):
    """One run of aquatic's load test, whose numbers of torrents and peers are those of hayate-load."""
    periods = max(1, -(-int(plan.seconds) // PERIOD_SECONDS))
    seconds = periods * PERIOD_SECONDS
    config = plan.folder / "aquatic-load.toml"
    config.write_text(
        f'server_address = "127.0.0.1:{server.port}"\nduration = {seconds}\nextra_statistics = false\n'
        f"[requests]\nweight_connect = {connects}\nweight_announce = {100 - connects}\nweight_scrape = 0\n"
    )
    before = cpu_seconds(server.pid)
    command = pinned([TOOLS / "bin" / "aquatic_udp_load_test", "-c", config], LOAD_CORE)
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    output = load.finish(run, "aquatic_udp_load_test", server, seconds + load.GRACE_SECONDS)
    cpu = cpu_seconds(server.pid) - before
    replies = float(re.search(r"Average responses per second: ([0-9.]+)", output)[1])
    errors = float(re.findall(r"Error responses: +([0-9.]+)", output)[-1])
    if not replies or errors > replies / 1000:
        raise Failed(f"{server.name}: {replies} replies/s to aquatic's load test, {errors} errors/s")
    return {"per_cpu_second": replies * seconds / cpu, "per_second": replies, "core": cpu / seconds}


def cpu_seconds(pid):
    """What a process has used so far, in the kernel and outside."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def latencies(plan):
    with ExitStack() as stack:
        servers = trackers(plan, stack)
        contenders = {
            name: lambda seed, server=server: overloaded(plan, server, seed)
            for name, server in servers.items() if server
        }
        runs = plan.interleave("peers: latency at overload", contenders, max(1, plan.runs // 2))
    lines = []
    for name in servers:
        if name not in runs:
            lines.append([name, "not here", "", "", "", "", ""])
            continue
        p50, p99, answered, rate = (
            load.median(runs[name], key) for key in ("p50_ms", "p99_ms", "answered", "per_second")
        )
        must = [f"≤ {MOST_MILLISECONDS}", yes(p99 <= MOST_MILLISECONDS)] if name == "hayate" else ["", ""]
        lines.append([name, number(p50, 2), number(p99, 2), *must, f"{100 * answered:.0f} %", number(rate)])
    columns = ["round trips at overload", "p50, ms", "p99, ms", "must reach", "reached"]
    return table([*columns, "connects answered", "replies/s in all"], lines)


def overloaded(plan, server, seed):
    """Round trips of a client while the tracker is offered more than it can do."""
    words = ["--rate", OVERLOAD, "--seconds", plan.seconds + 1, "--mix", "connect=50,announce=50,scrape=0"]
    words += ["--torrents", 1_000_000, "--seed", seed + 1]
    with load.running(server, load.udp(server), *words) as result:
        probe = Path(__file__).with_name("latency.py")
        command = pinned([sys.executable, probe, server.port, plan.seconds], LOAD_CORE)
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found = json.loads(load.finish(run, "the probe", server, plan.seconds + load.GRACE_SECONDS))
        figures = result()
    if not found["replies"]:
        raise Failed(f"{server.name} answers no single connect at overload")
    found["answered"] = found["replies"] / found["sent"]
    return {**found, "per_second": figures["replies_per_second"]}
