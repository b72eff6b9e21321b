"""Servers under test: pinned to cores, on free ports, in a folder of their own, ended with their block."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "target" / "release"
# The tracker has one core and the load the other, so that runs can be compared.
TRACKER_CORE, LOAD_CORE = (0,), (1,)
TIMEOUT_SECONDS = 30


class Failed(Exception):
    """A measurement failed; the text says why."""


def pinned(command, cores, nice=0):
    """Returns the command pinned to these cores, or to none if `cores` is empty. Nice 19 gives way to all others."""
    arguments = [str(word) for word in command]
    if nice:
        arguments = ["nice", "-n", str(nice), *arguments]
    return ["taskset", "-c", ",".join(map(str, cores)), *arguments] if cores else arguments


def free_port():
    """Returns a port that is free for UDP and TCP in both families now."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as tcp:
            port = tcp.getsockname()[1]
            if free_for(socket.AF_INET, "127.0.0.1", port) and free_for(socket.AF_INET6, "::1", port):
                return port


def free_for(family, host, port):
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        try:
            udp.bind((host, port))
        except OSError:
            return False
    return True


def tail(path, lines=8):
    """Returns the last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


class Server:
    """A server of any kind; it is polled until `ready` returns true."""

    def __init__(self, name, command, home, ready, cores=TRACKER_CORE):
        self.name, self.log, self.ready = name, home / "log", ready
        self.command = pinned(command, cores)
        self.start()

    def start(self, timeout=TIMEOUT_SECONDS):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command, cwd=self.log.parent, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self.process.pid
        try:
            self.wait_until(self.ready, "does not serve", timeout)
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.kill()
        self.process.wait()

    def check(self):
        """Fails if the server has ended."""
        status = self.process.poll()
        if status is not None:
            raise Failed(f"{self.name} ended with status {status}; its log:\n{tail(self.log)}")

    def wait_until(self, holds, problem, seconds=TIMEOUT_SECONDS):
        end = time.monotonic() + seconds
        while True:
            self.check()
            if holds():
                return
            if time.monotonic() > end:
                raise Failed(f"{self.name} {problem} after {seconds} s; its log:\n{tail(self.log)}")
            time.sleep(0.05)

    def rss(self):
        """Returns VmRSS in octets."""
        self.check()
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise Failed(f"{self.name} has no VmRSS")


class Daemon(Server):
    """hayate with `changes` to the defaults, and by default with UDP on 127.0.0.1 alone."""

    def __init__(self, folder, changes=None, cores=TRACKER_CORE):
        self.port, self.metrics_port = free_port(), free_port()
        # Not named by its port: a later daemon may get the same one.
        self.home = Path(tempfile.mkdtemp(prefix="hayate-", dir=folder))
        self.config = {
            "udp": {"addr": f"127.0.0.1:{self.port}"},
            "http": {"addr": ""},
            "metrics": {"addr": f"127.0.0.1:{self.metrics_port}"},
        }
        self.write(changes or {})
        command = [RELEASE / "hayate", "--config", self.home / "tracker.json"]
        super().__init__("hayate", command, self.home, lambda: self.page("/health") is not None, cores)

    def write(self, changes):
        """Writes the configuration; `{port}` in an address stands for the daemon's port."""
        for block, keys in changes.items():
            if not isinstance(keys, dict):
                self.config[block] = keys
                continue
            keys = {key: self.with_port(value) for key, value in keys.items()}
            self.config[block] = {**self.config.get(block, {}), **keys}
        (self.home / "tracker.json").write_text(json.dumps(self.config))

    def with_port(self, value):
        return value.replace("{port}", str(self.port)) if isinstance(value, str) else value

    def reload(self, changes):
        """Changes the configuration of the running daemon."""
        before = self.reloads()
        self.write(changes)
        os.kill(self.pid, signal.SIGHUP)
        self.wait_until(lambda: self.reloads() > before, "does not reload")

    def restart(self, timeout=TIMEOUT_SECONDS):
        """Stops the daemon in order and restarts it. Returns the seconds until it serves again."""
        os.kill(self.pid, signal.SIGTERM)
        if self.process.wait(timeout) != 0:
            raise Failed(f"{self.name} does not stop in order; its log:\n{tail(self.log)}")
        begin = time.monotonic()
        self.start(timeout)
        return time.monotonic() - begin

    def reloads(self):
        return self.metric("reloads_total", 'result="ok"')

    def page(self, path):
        """Returns a page of the metrics address, or None if it is not served with status 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
            return text if response.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def metric(self, name, label=""):
        """Returns the sum of a metric over all its labels, or over those that contain `label`."""
        text = self.page("/metrics")
        if text is None:
            self.check()
            raise Failed("hayate does not serve /metrics")
        values = []
        for line in text.splitlines():
            series, _, value = line.rpartition(" ")
            if series.split("{")[0] == f"hayate_{name}" and label in series:
                values.append(float(value))
        if not values:
            raise Failed(f"hayate has no metric hayate_{name}")
        return int(sum(values))

    def peers(self):
        return self.metric("swarm_peers")

    def torrents(self):
        return self.metric("swarms")
