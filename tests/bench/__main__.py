"""Measures hayate against the limits of the machine and writes the figures into docs/PERFORMANCE.md.

    python3 tests/bench [--quick] [--runs N] [--seconds S] [--print] [SECTION ...]

Sections: udp memory sweep snapshot store private http cores floods; all, in at most 50 minutes, unless some
are named. Two run only when they are named: peers (beside other trackers, which it installs) and huge (a
hundred million peers, an hour). A quick run takes a few minutes, with a tenth of the peers, or a hundredth of
huge's, and only prints. The tracker runs on core 0, the load on core 1.
"""

import sys

sys.dont_write_bytecode = True  # nothing but the document changes in the tree

import argparse
import os
import signal
import tempfile
from pathlib import Path

import cores
import floods
import gateway
import huge
import limits
import memory
import peers
import private
import report
import snapshot
import store
import sweep
import udp
from plan import Plan
from process import Failed

SECTIONS = {"udp": udp, "memory": memory, "sweep": sweep, "snapshot": snapshot, "store": store}
SECTIONS |= {"private": private, "http": gateway, "cores": cores, "floods": floods}

# Those that take long or install something, so that they run only when they are named.
ON_DEMAND = {"peers": peers, "huge": huge}
EVERY_SECTION = SECTIONS | ON_DEMAND


def main():
    options = read_options()
    if os.cpu_count() < 2:
        sys.exit("bench: two cores are needed, one for the tracker and one for the load")
    # So that the servers end when this program gets a signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: ended by a signal"))
    with tempfile.TemporaryDirectory(prefix="hayate-bench-") as folder:
        folder = Path(folder)
        try:
            official = limits.build(folder)
        except Failed as failure:
            sys.exit(f"bench: {failure}")
        plan = Plan(folder, options.runs, options.seconds, options.quick, official)
        failures = run_all(options, plan, report.commit())
    report.progress("done" if not failures else f"failed: {', '.join(failures)}")
    sys.exit(1 if failures else 0)


def run_all(options, plan, build):
    """Measures all sections, and prints and writes each when done. Returns those that failed."""
    failures = []
    for name in options.sections or list(SECTIONS):
        try:
            text = EVERY_SECTION[name].measure(plan)
        except Failed as failure:
            print(f"bench: {name}: {failure}", file=sys.stderr, flush=True)
            failures.append(name)
            continue
        block = report.section(name, EVERY_SECTION[name].TITLE, text, build, command(options))
        print(block, flush=True)
        if not (options.print or options.quick):
            report.write({name: block}, EVERY_SECTION)
    return failures


def read_options():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="tests/bench", description=__doc__, formatter_class=raw)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(EVERY_SECTION))
    parser.add_argument("--quick", action="store_true", help="a tenth of it, 2 runs of 1 s; only prints")
    parser.add_argument("--runs", type=int, help="runs whose median counts (5)")
    parser.add_argument("--seconds", type=float, help="seconds of each run (3)")
    parser.add_argument("--print", action="store_true", help="leave docs/PERFORMANCE.md as it is")
    options = parser.parse_args()
    for unknown in set(options.sections) - set(EVERY_SECTION):
        parser.error(f"no section {unknown}; there are {', '.join(EVERY_SECTION)}")
    options.runs = options.runs or (2 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 3)
    return options


def command(options):
    """Returns the command line of the same measurement."""
    arguments = ["python3 tests/bench", *options.sections]
    arguments += ["--quick"] if options.quick else []
    return " ".join([*arguments, f"--runs {options.runs} --seconds {options.seconds:g}"])


if __name__ == "__main__":
    main()
