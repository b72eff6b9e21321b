"""Addresses and ports for the two peers of a transfer."""
import json
import random
import socket
import subprocess
from ipaddress import ip_address
from urllib.parse import urlsplit

# Below the range from which the kernel chooses ports of outgoing connections, so that none of those takes one.
PORTS = range(20_000, 30_000)


def free_ports(count):
    """Ports free for TCP and UDP on every address; random, so that parallel runs hardly ever meet."""
    found = []
    for port in random.sample(PORTS, len(PORTS)):
        if is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError("no free ports")


def is_free(port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with socket.socket(family, kind) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                try:
                    probe.bind((anywhere, port))
                except OSError:
                    return False
    return True


def addresses_towards(url):
    """The address this host uses towards the tracker, and one for the seeder: another one if there is any."""
    parts = urlsplit(url)
    family, _, _, _, target = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)  # sends nothing; the kernel only chooses the route
        own = probe.getsockname()[0]
    if ip_address(own).is_loopback:  # peers on loopback are handed out to loopback only
        return own, own
    others = [a for a in own_addresses(family) if a not in (own, target[0])]
    return own, (others or [own])[0]


def own_addresses(family):
    flag = "-4" if family == socket.AF_INET else "-6"
    listing = subprocess.run(["ip", "-json", flag, "address"], capture_output=True, check=True)
    for link in json.loads(listing.stdout):
        yield from (a["local"] for a in link.get("addr_info", []) if a["scope"] == "global")


def endpoint(address, port):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
