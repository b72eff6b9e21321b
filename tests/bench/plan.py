"""How long to measure; rows are measured in turn with their limit."""

from dataclasses import dataclass
from pathlib import Path

from report import progress


@dataclass
class Plan:
    """The parameters of every section."""

    folder: Path
    runs: int
    seconds: float
    quick: bool
    official: bool

    def interleave(self, what, contenders, runs=None):
        """Runs each contender once without counting it, then all in turn. Returns the figures of each by name.

        So disturbances of the machine affect all of them alike.
        """
        runs = runs or self.runs
        results = {name: [] for name in contenders}
        for run in range(runs + 1):
            progress(f"{what}, " + (f"run {run} of {runs}" if run else "warming up"))
            for name, once in contenders.items():
                figures = once(run)
                if run:
                    results[name].append(figures)
        return results

    def scaled(self, count, quick_share=10):
        """Returns a count of peers or seconds, or a share of it in a quick run."""
        return count // quick_share if self.quick else count
