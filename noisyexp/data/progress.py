"""How far a long preparation is: a line on stderr now and then, with throughput."""

from __future__ import annotations

import sys
import time
from types import TracebackType

SECONDS = 5.0
"""Between two lines; a preparation that is shorter says nothing."""


class Counter:
    """Counts what is done within its context.

    Args:
        name: what is being done.
        unit: what is counted, for example "lines".
        total: how many there are, if that is known.
        seconds: between two lines.
    """

    def __init__(
        self, name: str, unit: str, total: int | None = None, seconds: float = SECONDS
    ) -> None:
        self.name, self.unit, self.total, self.seconds = name, unit, total, seconds
        self.done = self.counted = 0
        self._began = self._printed = time.monotonic()
        self._spoke = False

    @property
    def rate(self) -> float:
        """What counts, a second."""
        return self.counted / max(time.monotonic() - self._began, 1e-9)

    def add(self, count: int, *, counts: bool = True) -> None:
        """`count` more are done; `counts` says whether they took time, for the rate."""
        self.done += count
        self.counted += count if counts else 0
        now = time.monotonic()
        if now - self._printed >= self.seconds:
            self._printed = now
            self._print()

    def _print(self) -> None:
        of = left = ""
        if self.total is not None:
            of = f" of {self.total:,}"
            left = f", {(self.total - self.done) / max(self.rate, 1e-9):,.0f} s left"
        # On a terminal the line is written over.
        end = "\r" if sys.stderr.isatty() else "\n"
        rate = f"{self.rate:,.{1 if self.rate < 10 else 0}f}"
        text = f"{self.name}: {self.done:,}{of} {self.unit}, {rate} {self.unit}/s{left}"
        print(text, file=sys.stderr, end=end, flush=True)
        self._spoke = True

    def __enter__(self) -> Counter:
        """Start the clock."""
        self._began = self._printed = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Say what it came to, if it took long enough to be mentioned before."""
        if self._spoke and kind is None:
            self._print()
            if sys.stderr.isatty():
                print(file=sys.stderr)
