"""The cost of a store for the tracker, and how many records a second MariaDB sustains."""

import json
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

import load
from process import LOAD_CORE, ROOT, TRACKER_CORE, Daemon, Failed, Server, free_port, pinned
from report import note, number, progress, table, yes

TITLE = "Stores"
RATIO_MIN = 0.90
RATES = (25_000, 50_000, 100_000)
RECORDS_SECONDS = 30
# In mode open the store gets finished downloads: far more of them here than in any real swarm.
LOAD = ["--mix", "connect=5,announce=95,scrape=0", "--torrents", 100_000, "--completed", 5]


def measure(plan):
    with ExitStack() as stack:
        server = stack.enter_context(mariadb(plan.folder))
        text = costs(plan, server) + "\n\n" + records(plan, server)
    return text + "\n\n" + note(
        "Announces per CPU-second of the tracker, a twentieth of them finished downloads, tracker on one"
        " core, load and database on the other, medians of interleaved runs against the same tracker without"
        " a store. Records are those of mode private, four an announce, 500 users x 2,000 torrents, by the"
        " example `records`; the lag is the age of the oldest row that is not written, `intervals.flush` 3 s."
    )


def costs(plan, server):
    stores = {"none": "", "SQLite": "sqlite:hayate.db", "MariaDB": server.dsn("tracker")}
    with ExitStack() as stack:
        daemons = {}
        for name, dsn in stores.items():
            if name == "MariaDB":
                server.create("tracker")
            daemons[name] = stack.enter_context(Daemon(plan.folder, {"database": {"dsn": dsn}}))
        contenders = {
            name: lambda seed, daemon=daemon: once(plan, daemon, seed) for name, daemon in daemons.items()
        }
        runs = plan.interleave("store: cost", contenders)
    off = [run["tracker"]["replies_per_cpu_second"] for run in runs["none"]]
    lines = []
    for name in ("SQLite", "MariaDB"):
        on = [run["tracker"]["replies_per_cpu_second"] for run in runs[name]]
        ratio = sorted(a / b for a, b in zip(on, off))[len(on) // 2]
        verdict = [f"{ratio:.2f}", f"≥ {RATIO_MIN:.2f}", yes(ratio >= RATIO_MIN)]
        lines.append([name, number(sorted(on)[len(on) // 2]), *verdict])
    return table(["store", "replies per CPU-second", "of none", "must reach", "reached"], lines)


def once(plan, daemon, seed):
    options = [*LOAD, "--seconds", plan.seconds, "--seed", seed + 1]
    return load.load(daemon, load.udp(daemon), *options)


def records(plan, server):
    lines = []
    for rate in RATES:
        for bound in (0, 50_000):
            progress(f"store: {rate:,} records/s, queues of {bound or 'default'}")
            database = f"records_{rate}_{bound}"
            server.create(database)
            server.sql(database, BASE_ROWS)
            seconds = plan.scaled(RECORDS_SECONDS, 3)
            run = ["cargo", "run", "--release", "-q", "-p", "hayate-state", "--example", "records", "--"]
            command = [*run, server.dsn(database), rate, seconds, bound]
            command = pinned(command, TRACKER_CORE)
            output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if output.returncode:
                raise Failed(f"records: {output.stderr[-800:]}")
            figures = json.loads(output.stdout.splitlines()[-1])
            grows = figures["lag_late"] > figures["lag_early"] + 1
            cells = [number(rate), number(bound) if bound else "default"]
            cells += [number(figures["records_per_second"])]
            cells += [number(figures["rows_written_per_second"]), number(figures["lag_early"], 1)]
            lines.append([*cells, number(figures["lag_late"], 1), "yes" if grows else "no"])
    columns = ["records/s offered", "queues", "put", "rows written/s", "lag early, s", "late, s", "lag grows"]
    return table(columns, lines)


# Rows that the records only update.
BASE_ROWS = """
INSERT INTO users_main (ID, torrent_pass) SELECT seq, seq FROM seq_1_to_500;
INSERT INTO torrents (ID, GroupID, TorrentType, info_hash)
    SELECT seq, 1, 'music', UNHEX(SHA1(seq)) FROM seq_1_to_2000;
"""


class Mariadb(Server):
    """A database server for the measurement, with default settings, on the core of the load."""

    def __init__(self, folder):
        # Sections of one run share the folder, and each has a server of its own.
        self.home = Path(tempfile.mkdtemp(prefix="mariadb-", dir=folder))
        self.port, self.socket = free_port(), self.home / "socket"
        install = ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.home / 'data'}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        if subprocess.run(install, capture_output=True).returncode:
            raise Failed("mariadb-install-db fails; tests/setup installs it")
        command = ["mariadbd", "--no-defaults", "--user=root", "--bind-address=127.0.0.1", "--skip-log-bin"]
        command += [f"--datadir={self.home / 'data'}", f"--socket={self.socket}", f"--port={self.port}"]
        super().__init__("MariaDB", command, self.home, self.answers, LOAD_CORE)

    def answers(self):
        return self.client("", "SELECT 1").returncode == 0

    def client(self, database, text):
        command = ["mariadb", "--no-defaults", "--user=root", f"--socket={self.socket}", database]
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def sql(self, database, text):
        result = self.client(database, text)
        if result.returncode:
            raise Failed(f"MariaDB: {result.stderr}")

    def dsn(self, database):
        return f"root@unix({self.socket})/{database}"

    def create(self, database):
        """Creates a database with the tables of hayate."""
        self.sql("", f"CREATE DATABASE IF NOT EXISTS {database}")
        config = self.home / "migrate.json"
        config.write_text(json.dumps({"database": {"dsn": self.dsn(database)}}))
        command = [ROOT / "target" / "release" / "hayate", "migrate", "--config", config]
        if subprocess.run(command, capture_output=True).returncode:
            raise Failed("hayate migrate fails")


@contextmanager
def mariadb(folder):
    with Mariadb(folder) as server:
        yield server
