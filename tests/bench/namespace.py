"""A network of its own in which this machine has a whole prefix of IPv6 addresses, for peers by the million:
`::1` alone has ports for 64,512."""

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager

from process import Failed

# Of the prefix for documentation (RFC 3849), which is nobody's.
PREFIX = "2001:db8::/64"
# For --sources of hayate-load.
SOURCES = "2001:db8::1/64"
CLONE_NEWNET = 0x40000000
NEEDS = "millions of IPv6 peers need root and `ip` (iproute2), to make a network namespace"


def is_possible():
    return os.geteuid() == 0 and shutil.which("ip") is not None


@contextmanager
def many_ipv6_addresses():
    """What is started meanwhile is in this network and can use all of `PREFIX`."""
    if not is_possible():
        raise Failed(NEEDS)
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise Failed(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            for words in ("link set lo up", f"-6 route add local {PREFIX} dev lo"):
                if subprocess.run(["ip", *words.split()]).returncode != 0:
                    raise Failed(f"ip {words}: failed")
            yield
        finally:
            if libc.setns(outside, CLONE_NEWNET) != 0:
                os._exit(1)  # Nothing could be measured as it should any more.
    finally:
        os.close(outside)
