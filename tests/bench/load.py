"""Runs of the load generators, as dictionaries of figures."""

import json
import re
import statistics
import subprocess
from contextlib import contextmanager

from process import LOAD_CORE, RELEASE, Failed, pinned

# Time that a load may take beyond what it was told, before it counts as hung.
GRACE_SECONDS = 60
# Ports that hayate-load announces for one source address.
PORTS = 64_512


def blast(server, host, folder, seconds, *options):
    """One run of the official load against a server on this host: replies per CPU-second, us per reply."""
    command = [folder / "udpblast", host, server.port, server.pid, seconds, *options]
    run = subprocess.Popen(
        pinned(command, LOAD_CORE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output = finish(run, "udpblast", server, seconds + GRACE_SECONDS)
    names = {"replies_per_cpu_second": "replies/cpu_s", "us_per_reply": "us/reply", "errors": "errors/s"}
    figures = {name: float(re.search(rf"{word} ([0-9.]+)", output)[1]) for name, word in names.items()}
    if not figures["replies_per_cpu_second"]:
        raise Failed(f"udpblast got no replies of {server.name}: {output.strip()}")
    return figures


@contextmanager
def running(server, url, *options, cores=LOAD_CORE, nice=0, patience=GRACE_SECONDS, watched=True):
    """hayate-load, running; what it gives back waits for the end and returns the figures. Not `watched`: the
    server's process may end meanwhile."""
    watch = ["--pid", server.pid] if watched else []
    command = [RELEASE / "hayate-load", url, *options, *watch, "--json", "--quiet"]
    run = subprocess.Popen(
        pinned(command, cores, nice), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield lambda: json.loads(finish(run, "hayate-load", server if watched else None, patience))
    finally:
        run.kill()
        run.wait()


def load(server, url, *options, **more):
    """One run of hayate-load."""
    with running(server, url, *options, **more) as result:
        figures = result()
    if not figures["replies"]:
        raise Failed(f"hayate-load got no replies of {server.name}")
    if figures["errors"] > figures["replies"] / 1000:
        raise Failed(f"{server.name} answered with {figures['errors']} errors")
    return figures


def fill(server, peers, *options, patience, host="127.0.0.1"):
    """Announces so many peers, each of its own address and port, and each once."""
    words = ["--fill", peers, *population(peers), *options]
    return load(server, udp(server, host), *words, patience=patience)


def population(peers):
    """The words that give room for so many peers, and draw from all of them where none are filled in."""
    sockets = max(16, -(-peers // PORTS))
    # Some thousand requests on their way, however many sockets there are: more would overflow buffers.
    return ["--peers", peers, "--sockets", sockets, "--window", max(1, min(64, 4096 // sockets))]


def udp(server, host="127.0.0.1"):
    """Where a tracker listens, for hayate-load."""
    return f"udp://[{host}]:{server.port}" if ":" in host else f"udp://{host}:{server.port}"


def finish(run, name, server, patience):
    """Standard output of a load that ends well and in time."""
    try:
        output, complaint = run.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} does not end within {patience:.0f} s") from None
    finally:
        run.kill()
        run.wait()
    if server:
        server.check()
    if run.returncode != 0:
        raise Failed(f"{name} ended with status {run.returncode}: {complaint.strip()[-800:]}")
    return output


def median(runs, *path):
    """The median over runs of the figure at this path of keys."""

    def at(figures):
        for key in path:
            figures = figures[key]
        return figures

    return statistics.median(map(at, runs))
