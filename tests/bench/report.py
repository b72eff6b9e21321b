"""Output: progress, tables, and the generated part of docs/PERFORMANCE.md."""

import os
import platform
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from process import ROOT

DOCUMENT = ROOT / "docs" / "PERFORMANCE.md"
START = time.monotonic()
COLUMNS = ["work", "limit", "hayate", "ratio", "must reach", "reached"]


def progress(text):
    """Prints a line to standard error, with the time since the start."""
    minutes, seconds = divmod(int(time.monotonic() - START), 60)
    print(f"[{minutes:2}:{seconds:02}] {text}", file=sys.stderr, flush=True)


@dataclass
class Row:
    """One line of figures; `min` and `max` bound the ratio, or the figure itself if `absolute`."""

    work: str
    hayate: float
    limit: float | None = None
    min: float | None = None
    max: float | None = None
    absolute: bool = False
    digits: int = 0

    def cells(self):
        ratio = self.hayate / self.limit if self.limit else None
        compared, digits = (self.hayate, self.digits) if self.absolute else (ratio, 2)
        must, reached = "", ""
        if compared is not None and self.min is not None:
            must, reached = f"≥ {number(self.min, digits)}", yes(compared >= self.min)
        elif compared is not None and self.max is not None:
            must, reached = f"≤ {number(self.max, digits)}", yes(compared <= self.max)
        limit = "" if self.limit is None else number(self.limit, self.digits)
        return [self.work, limit, number(self.hayate, self.digits), number(ratio, 2), must, reached]


def yes(reached):
    return "yes" if reached else "**no**"


def number(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def figures(rows):
    """Returns the table of rows that are compared with a limit or a target."""
    return table(COLUMNS, [row.cells() for row in rows])


def table(columns, rows):
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def note(text):
    """Returns a paragraph below a table."""
    return textwrap.fill(text, 105)


def machine():
    """Returns processor, cores and kernel, for the head of the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line for line in lines if line.startswith("model name")]
    model = " ".join(models[0].split(":", 1)[1].split()) if models else platform.machine()
    kernel = platform.release().split("-")[0]
    return f"**Machine**: {os.cpu_count()} cores, {model}, Linux {kernel}."


def commit():
    """Returns the commit that was measured, and whether the tree differed from it."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!*.md")
    name = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{name} with changes" if changed else name


def section(name, title, text, build, command):
    """Returns the block of one section, with the time, the commit and the command of the measurement."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    head = f"*{date}, commit {build}, `{command}`*"
    return f"<!-- figures:{name} -->\n### {title}\n\n{head}\n\n{text}\n<!-- /figures:{name} -->\n"


def write(blocks, order):
    """Writes blocks into the document; sections that were not measured now keep theirs."""
    text = DOCUMENT.read_text()
    begin, end = "<!-- figures -->\n", "<!-- /figures -->"
    before, rest = text.split(begin, 1)
    old, after = rest.split(end, 1)
    kept = {name: blocks.get(name) or block_of(old, name) for name in order}
    parts = [machine() + "\n", *(block for block in kept.values() if block)]
    DOCUMENT.write_text(before + begin + "\n".join(parts) + end + after)


def block_of(text, name):
    """Returns the block of a section in an earlier text, or an empty string."""
    begin, end = f"<!-- figures:{name} -->\n", f"<!-- /figures:{name} -->\n"
    if begin not in text:
        return ""
    return begin + text.split(begin, 1)[1].split(end, 1)[0] + end
