"""The cost of a private announce with full accounting, at rates that MariaDB sustains; a reload and an upgrade of
a large site."""

import os
import re
import signal
import struct
import time
import urllib.request
from contextlib import ExitStack

import load
from process import Daemon
from report import note, number, progress, table, yes
from store import mariadb

TITLE = "Mode private"
USERS, TORRENTS = 500, 2000
GOALS = {"HTTP": 80_000, "UDP": 180_000}
RATES = {"HTTP": (5_000, 10_000, 20_000, 40_000), "UDP": (10_000, 20_000, 40_000, 80_000)}
SECONDS = 24
# Octets that each announce adds to the totals of all peers, so that every announce is credited.
TRAFFIC = 16_384
LOAD = ["--mix", "connect=0,announce=100,scrape=0", "--torrents", TORRENTS, "--peers", USERS]
LOAD += ["--traffic", TRAFFIC]
# The size of the site for which reloads are measured.
MANY_TORRENTS, MANY_USERS = 1_000_000, 200_000
# Announces offered while a tracker is upgraded.
UPGRADE_RATE = 2_000
MASK = (1 << 64) - 1


def measure(plan):
    with ExitStack() as stack:
        server = stack.enter_context(mariadb(plan.folder))
        text = announces(plan, server) + "\n\n" + reload(plan, server) + "\n\n" + upgrade(plan, server)
    return text + "\n\n" + note(
        f"{USERS} users with one client each x {TORRENTS:,} torrents, uniform, every announce with traffic:"
        " rows in all of torrents, users, transfer_history, transfer_ips. Tracker on one core, load and"
        " MariaDB on the other. Announces per CPU-second are those of the whole process, writer included, in"
        " the second half of a run; the lag is the age of the oldest row that is not written, flush 3 s, queues"
        " of 200,000 rows for transfer_history and transfer_ips. The"
        " goal counts at the highest rate at which the lag does not grow."
    )


def announces(plan, server):
    lines = []
    for protocol, rates in RATES.items():
        for rate in rates:
            progress(f"private: {protocol}, {rate:,} announces/s")
            lines.append(once(plan, server, protocol, rate))
    columns = ["server", "announces/s offered", "answered/s", "per CPU-second", "goal", "reached"]
    return table([*columns, "lag early, s", "late, s", "lag grows"], lines)


def once(plan, server, protocol, rate):
    database = f"private_{protocol}_{rate}".lower()
    server.create(database)
    server.sql(database, site(USERS, TORRENTS))
    keys = plan.folder / "passkeys"
    keys.write_text("".join(f"{user:032}\n" for user in range(1, USERS + 1)))
    config = {
        "mode": "private", "log_flushes": False, "database": {"dsn": server.dsn(database)},
        "channels": {"transfer_history": 200_000, "transfer_ips": 200_000},
        "http": {"addr": "127.0.0.1:{port}"}, "intervals": {"peer_inactivity": "2h"},
    }
    with Daemon(plan.folder, config) as daemon:
        url = f"{'udp' if protocol == 'UDP' else 'http'}://127.0.0.1:{daemon.port}/{{passkey}}/announce"
        half = plan.scaled(SECONDS, 3) / 2
        options = [*LOAD, "--passkeys", keys, "--rate", rate, "--seconds", half, "--warmup", half]
        with load.running(daemon, url, *options) as result:
            time.sleep(half)
            early = lag(daemon)
            time.sleep(half * 0.9)
            late = lag(daemon)
            figures = result()
    per_second = figures["tracker"]["replies_per_cpu_second"]
    grows = late > early + 1
    goal = GOALS[protocol]
    reached = "-" if grows else yes(per_second >= goal)
    cells = [protocol, number(rate), number(figures["replies_per_second"]), number(per_second), f"≥ {number(goal)}"]
    return [*cells, reached, number(early, 1), number(late, 1), "yes" if grows else "no"]


def reload(plan, server):
    """Latencies while a large site is read repeatedly, against the same tracker without reloads."""
    torrents, users = plan.scaled(MANY_TORRENTS), plan.scaled(MANY_USERS)
    progress(f"private: a site of {torrents:,} torrents and {users:,} users")
    server.create("large")
    server.sql("large", site(users, torrents))
    keys = plan.folder / "passkeys"
    keys.write_text("".join(f"{user:032}\n" for user in range(1, USERS + 1)))
    lines = []
    for name, every in (("no reload", 86_400), ("reload every 2 s", 2)):
        config = {
            "mode": "private", "log_flushes": False, "database": {"dsn": server.dsn("large")},
            "intervals": {"database_reload": every, "database_serialize": 86_400},
        }
        with Daemon(plan.folder, config) as daemon:
            url = f"udp://127.0.0.1:{daemon.port}/{{passkey}}/announce"
            options = [*LOAD, "--passkeys", keys, "--rate", 10_000, "--warmup", 3, "--seconds", 20]
            figures = load.load(daemon, url, *options)
            sums = metrics(daemon, r'reload_milliseconds\{source="[a-z_]+"\}')
        latency = figures["latency_us"]
        took = sum(sums) / 1000 if every < 60 else 0
        cells = [name, number(latency["p50"]), number(latency["p99.9"]), number(latency["p99.99"])]
        lines.append([*cells, f"{took:.1f}" if took else "-", yes(took <= 5) if took else "-"])
    columns = ["tracker", "p50, us", "p99.9, us", "p99.99, us", "a reload takes, s", "≤ 5 s"]
    return table(columns, lines)


def upgrade(plan, server):
    """How long datagrams wait from the stop of the old process until the new one has restored the peers."""
    lines = []
    # After the reloads: the database `large` has the torrents.
    for peers in (plan.scaled(100_000), plan.scaled(1_000_000)):
        progress(f"private: an upgrade with {peers:,} peers")
        config = {
            "mode": "private", "log_flushes": False, "database": {"dsn": server.dsn("large")},
            "intervals": {"peer_inactivity": "2h"},
        }
        with Daemon(plan.folder, config) as daemon:
            url = f"udp://127.0.0.1:{daemon.port}/{{passkey}}/announce"
            options = ["--mix", "connect=0,announce=100,scrape=0", "--torrents", peers // 100, "--peers", USERS]
            options += ["--traffic", TRAFFIC, "--passkeys", plan.folder / "passkeys"]
            filled = 0
            while filled < peers:
                load.load(daemon, url, *options, "--seconds", 2)
                filled = int(sum(metrics(daemon, r'swarm_peers\{family="ipv4",role="[a-z]+"\}')))
            # Wait until the database has all rows, as it would at a rate that it sustains.
            daemon.wait_until(lambda: lag(daemon) < 1, "has not written its rows", 300)
            begin = daemon.log.stat().st_size
            with load.running(daemon, url, *options, "--rate", UPGRADE_RATE, "--seconds", 20, watched=False) as result:
                time.sleep(3)
                os.kill(daemon.pid, signal.SIGUSR2)
                daemon.process.wait(60)
                figures = result()
            log = daemon.log.read_text()[begin:]
            written = re.search(r"everything is on the disk after (\d+) ms", log)
            restored = re.search(r"process (\d+) serves (\d+) ms after", log)
            os.kill(int(restored[1]), signal.SIGKILL)
        waited = int(written[1]) + int(restored[2])
        cells = [number(filled), number(int(written[1])), number(int(restored[2])), number(waited)]
        lines.append([*cells, number(figures["sent"]), number(figures["lost"])])
    columns = ["peers", "written in, ms", "restored in, ms", "datagrams wait, ms"]
    return table([*columns, f"announces at {number(UPGRADE_RATE)}/s", "lost"], lines)


def lag(daemon):
    return max(metrics(daemon, r'queue_lag_seconds\{channel="[a-z_]+"\}') or [0.0])


def metrics(daemon, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.metrics_port}/metrics") as page:
        text = page.read().decode()
    return [float(value) for value in re.findall(rf"^hayate_{name} (\S+)$", text, re.MULTILINE)]


def site(users, torrents):
    """The rows of a site whose torrents are those that hayate-load announces."""
    statements = []
    for start in range(0, torrents, 5000):
        rows = (f"({n + 1},{n % 1000},'music',X'{info_hash(n)}')" for n in range(start, min(start + 5000, torrents)))
        statements.append(f"INSERT INTO torrents (ID, GroupID, TorrentType, info_hash) VALUES {','.join(rows)};")
    return "\n".join([
        "SET unique_checks = 0, autocommit = 0;",
        "INSERT INTO users_main (ID, Enabled, torrent_pass)"
        f" SELECT seq, '1', LPAD(seq, 32, '0') FROM seq_1_to_{users};",
        "INSERT INTO approved_clients (peer_id) VALUES ('-HL'), ('-TR2'), ('-DE13');",
        *statements,
        "COMMIT;",
    ])


def mix(value):
    """Spreads numbers as hayate-load does."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def info_hash(torrent):
    first = mix(torrent)
    second = mix(first)
    return struct.pack(">QQQ", first, second, mix(second))[:20].hex()
