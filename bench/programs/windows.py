"""Windows of time in which a client looks for the longest silence, and the clock and output that clients share.

Knows no protocol: what arrives is only a time.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

MS = 1_000_000


@dataclass(slots=True, kw_only=True)
class Window:
    """The time from a mark: `longest` is the longest pair of neighbouring arrivals that overlaps it."""

    name: str
    start_ns: int
    end_ns: int
    longest: tuple[int, int] = (0, 0)
    arrivals: int = 0

    def arrival(self, before_ns: int, now_ns: int) -> None:
        self.arrivals += 1
        if now_ns > self.start_ns and before_ns < self.end_ns:
            self.longest = max(self.longest, (before_ns, now_ns), key=lambda pair: pair[1] - pair[0])

    @property
    def longest_ms(self) -> float:
        return (self.longest[1] - self.longest[0]) / MS


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def say(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)
