"""Runs of the load generators, as dictionaries of figures."""

import json
import re
import statistics
import subprocess
from contextlib import contextmanager

from process import LOAD_CORE, RELEASE, Failed, pinned

# Time that a load may take beyond its duration before it counts as hung.
GRACE_SECONDS = 60
# Ports that hayate-load announces for one source address.
PORTS = 64_512


def blast(server, host, folder, seconds, *options):
    """Runs the official load once against a server on this host. Returns replies per CPU-second and us per reply."""
    command = [folder / "udpblast", host, server.port, server.pid, seconds, *options]
    run = subprocess.Popen(
        pinned(command, LOAD_CORE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output = finish(run, "udpblast", server, seconds + GRACE_SECONDS)
    names = {"replies_per_cpu_second": "replies/cpu_s", "us_per_reply": "us/reply", "errors": "errors/s"}
    figures = {name: float(re.search(rf"{word} ([0-9.]+)", output)[1]) for name, word in names.items()}
    if not figures["replies_per_cpu_second"]:
        raise Failed(f"udpblast got no replies from {server.name}: {output.strip()}")
    return figures


@contextmanager
def running(server, url, *options, cores=LOAD_CORE, nice=0, timeout=GRACE_SECONDS, watched=True):
    """Runs hayate-load, and yields a function that waits for its end and returns the figures. Unless `watched`, the
    server's process may end meanwhile."""
    watch = ["--pid", server.pid] if watched else []
    command = [RELEASE / "hayate-load", url, *options, *watch, "--json", "--quiet"]
    run = subprocess.Popen(
        pinned(command, cores, nice), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield lambda: json.loads(finish(run, "hayate-load", server if watched else None, timeout))
    finally:
        run.kill()
        run.wait()


def load(server, url, *options, **more):
    """Runs hayate-load once. Returns its figures."""
    with running(server, url, *options, **more) as result:
        figures = result()
    if not figures["replies"]:
        raise Failed(f"hayate-load got no replies from {server.name}")
    if figures["errors"] > figures["replies"] / 1000:
        raise Failed(f"{server.name} answered with {figures['errors']} errors")
    return figures


def fill(server, peers, *options, timeout, host="127.0.0.1"):
    """Announces `peers` peers once each, with different addresses or ports."""
    options = ["--fill", peers, *population(peers), *options]
    return load(server, udp(server, host), *options, timeout=timeout)


def population(peers):
    """Returns options with enough sockets for `peers` peers, from which announces are drawn unless in a fill."""
    sockets = max(16, -(-peers // PORTS))
    # Some thousand requests in flight, however many sockets there are: more would overflow buffers.
    return ["--peers", peers, "--sockets", sockets, "--window", max(1, min(64, 4096 // sockets))]


def udp(server, host="127.0.0.1"):
    """Returns the URL of a tracker, for hayate-load."""
    return f"udp://[{host}]:{server.port}" if ":" in host else f"udp://{host}:{server.port}"


def finish(run, name, server, timeout):
    """Returns the standard output of a load, which must end successfully and in time."""
    try:
        output, stderr = run.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failed(f"{name} does not end within {timeout:.0f} s") from None
    finally:
        run.kill()
        run.wait()
    if server:
        server.check()
    if run.returncode != 0:
        raise Failed(f"{name} ended with status {run.returncode}: {stderr.strip()[-800:]}")
    return output


def median(runs, *path):
    """Returns the median over runs of the figure at this path of keys."""

    def at(figures):
        for key in path:
            figures = figures[key]
        return figures

    return statistics.median(map(at, runs))
