"""Round trips of single connects over UDP, as a client that sends one every 5 ms sees them.

    python3 tests/bench/latency.py PORT SECONDS

Prints one JSON object. It runs at real-time priority where it may, so that it does not wait for the load that
shares its core.
"""

import json
import os
import socket
import struct
import sys
import time

EVERY_SECONDS = 0.005
# A reply is waited for so long after the last connect.
TIMEOUT_SECONDS = 0.5
CONNECT, PROTOCOL_ID = 0, 0x41727101980


def main(port, seconds):
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.connect(("127.0.0.1", port))
        print(json.dumps(probe(udp, seconds)))


def probe(udp, seconds):
    sent, round_trips = {}, []
    start = time.monotonic()
    for number in range(max(1, round(seconds / EVERY_SECONDS))):
        sent[number] = time.monotonic()
        udp.send(struct.pack(">QII", PROTOCOL_ID, CONNECT, number))
        round_trips += replies(udp, sent, start + (number + 1) * EVERY_SECONDS)
    round_trips += replies(udp, sent, time.monotonic() + TIMEOUT_SECONDS)
    round_trips.sort()
    at = {name: 1e3 * round_trips[int(share * len(round_trips))] if round_trips else None
          for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99))}
    return {"sent": number + 1, "replies": len(round_trips), **at}


def replies(udp, sent, until):
    """The round trips of the connects that are answered until then."""
    found = []
    while (left := until - time.monotonic()) > 0:
        udp.settimeout(left)
        try:
            reply = udp.recv(64)
        except TimeoutError:
            break
        except ConnectionRefusedError:
            continue
        now = time.monotonic()
        if len(reply) == 16:
            begin = sent.pop(struct.unpack_from(">I", reply, 4)[0], None)
            found += [now - begin] if begin else []
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
