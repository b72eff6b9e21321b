"""The limits that hayate is compared with: servers that answer with fixed replies and do no work."""

import shutil
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from process import RELEASE, ROOT, TRACKER_CORE, Failed, Server, free_port

# The official null tracker and load; they are beside a checkout that measures against the published targets.
OFFICIAL = ROOT.parent / "shared" / "bench"
# Where trackers listen: on one loopback address, or on all of both families.
V4, V6, BOTH = "127.0.0.1", "::1", "::"
CONNECT = struct.pack(">QII", 0x41727101980, 0, 0x01020304)


def build(folder):
    """Builds hayate with its tools, and the official programs if they exist. Returns whether they do."""
    command = ["cargo", "build", "--release", "--workspace", "--bins", "--examples"]
    if subprocess.run(command, cwd=ROOT).returncode != 0:
        raise Failed("cargo build failed")
    if not (OFFICIAL / "nulltracker.c").exists() or not shutil.which("gcc"):
        return False
    for name in ("nulltracker", "udpblast"):
        command = ["gcc", "-O2", OFFICIAL / f"{name}.c", "-o", folder / name, "-lm"]
        if subprocess.run(command).returncode != 0:
            raise Failed(f"gcc cannot build {name}.c")
    return True


def null_tracker(folder, cores=TRACKER_CORE, host=V4):
    """Starts a UDP tracker that does no work, on 127.0.0.1, `::1`, or `::` for both families: the official
    one if it was built and can do it."""
    port = free_port()
    official = folder / "nulltracker"
    command = [RELEASE / "examples" / "null_tracker", port, host]
    if official.exists() and host != BOTH:
        command = [official, port, 1, *([6] if host == V6 else [])]
    return start("the null tracker", command, folder, port, lambda port: answers_connect(port, host), cores)


def bare_hyper(folder, cores=TRACKER_CORE):
    """Starts an HTTP server of hyper that answers everything with one fixed body."""
    port = free_port()
    return start("bare hyper", [RELEASE / "examples" / "bare_hyper", port], folder, port, accepts, cores)


def start(name, command, folder, port, ready, cores):
    # Not named by its port: a later server may get the same one.
    home = Path(tempfile.mkdtemp(prefix="limit-", dir=folder))
    server = Server(name, command, home, lambda: ready(port), cores)
    server.port = port
    return server


def answers_connect(port, host=V4):
    with socket.socket(socket.AF_INET if host == V4 else socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.settimeout(1)
        udp.connect((V4 if host == V4 else V6, port))
        try:
            udp.send(CONNECT)
            return len(udp.recv(64)) == 16
        except OSError:
            return False


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
