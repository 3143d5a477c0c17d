"""What a series of moves comes to: percentiles, the figures to reach, and whether they were.

Pure functions of measured values; nothing here measures or prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Cell(StrEnum):
    """What is measured; see `bench.freeze`."""

    TICK0 = "tick0"
    TICK256 = "tick256"
    DESKTOP = "desktop"
    KEY = "key"
    IDLE = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One move: the gap that the client saw, and what the agents reported. `key_late_ms` counts from the first tick
    after the gap and is None where no key was asked for."""

    from_: str
    to: str
    gap_ms: float
    freeze_ms: float
    total_ms: float
    bytes: int
    key_late_ms: float | None = None


class Statistic(StrEnum):
    P50 = "p50"
    P90 = "p90"
    MAX = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The three statistics of one figure; `count` values went into them."""

    p50: float
    p90: float
    max: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure is to stay at or below `limit`, by `statistic`."""

    statistic: Statistic
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. `reached` is None where there is no goal."""

    cell: Cell
    figure: str
    series: Series
    goal: Goal | None
    reached: bool | None


GOALS: Mapping[tuple[Cell, str], Goal] = {
    (Cell.TICK0, "gap_ms"): Goal(statistic=Statistic.P50, limit=90.0),
    (Cell.DESKTOP, "gap_ms"): Goal(statistic=Statistic.P50, limit=200.0),
    (Cell.KEY, "key_late_ms"): Goal(statistic=Statistic.MAX, limit=20.0),
    (Cell.IDLE, "cpu_pct"): Goal(statistic=Statistic.MAX, limit=1.0),
    (Cell.IDLE, "rss_mb"): Goal(statistic=Statistic.MAX, limit=60.0),
}
"""The figures of the first milestone; gaps are the client's."""


def percentile(values: Sequence[float], pct: float) -> float:
    """The `pct` percentile with linear interpolation between the two nearest ranks (NumPy's default method).

    Raises:
        ValueError: `values` is empty or `pct` is not in 0…100.
    """
    if not values or not 0 <= pct <= 100:
        raise ValueError(f"no {pct} percentile of {len(values)} values")
    ordered = sorted(values)
    rank = (len(ordered) - 1) * pct / 100
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def series(values: Sequence[float]) -> Series:
    return Series(p50=percentile(values, 50), p90=percentile(values, 90), max=max(values), count=len(values))


def row(cell: Cell, figure: str, values: Sequence[float]) -> Row:
    """Summarise `values` and hold them against the goal, if there is one."""
    summary = series(values)
    goal = GOALS.get((cell, figure))
    reached = None if goal is None else getattr(summary, goal.statistic) <= goal.limit
    return Row(cell=cell, figure=figure, series=summary, goal=goal, reached=reached)


def rows(cell: Cell, samples: Sequence[Sample]) -> list[Row]:
    """The figures of a cell that moves sessions: gap, freeze, total, and the key's lateness where keys were sent."""
    found = [row(cell, name, [getattr(sample, name) for sample in samples]) for name in ("gap_ms", "freeze_ms")]
    found.append(row(cell, "total_ms", [sample.total_ms for sample in samples]))
    keys = [sample.key_late_ms for sample in samples if sample.key_late_ms is not None]
    return [*found, row(cell, "key_late_ms", keys)] if keys else found


def round_trip(nodes: Sequence[str], start: str, moves: int) -> list[str]:
    """The targets of `moves` moves round the nodes in their order, beginning after `start`.

    Raises:
        ValueError: fewer than two nodes, or `start` is none of them.
    """
    if len(nodes) < 2 or start not in nodes:
        raise ValueError(f"no way round {', '.join(nodes) or 'no nodes'} from {start}")
    first = nodes.index(start) + 1
    return [nodes[(first + step) % len(nodes)] for step in range(moves)]
