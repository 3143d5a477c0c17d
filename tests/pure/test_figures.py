"""The statistics of the measurements."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Cell, Sample, percentile, round_trip, row, rows

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 100))
def test_a_percentile_lies_among_the_values(values: list[float], pct: float) -> None:
    assert min(values) <= percentile(values, pct) <= max(values)


@given(VALUES)
def test_the_ends_and_the_middle(values: list[float]) -> None:
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)
    assert percentile(values, 50) == pytest.approx(statistics.median(values))


@given(VALUES, st.floats(0, 100), st.floats(0, 100))
def test_a_higher_percentile_is_not_lower(values: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert percentile(values, low) <= percentile(values, high) or percentile(values, low) == pytest.approx(
        percentile(values, high)
    )


@pytest.mark.parametrize(("values", "pct"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_no_percentile(values: list[float], pct: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, pct)


def test_a_goal_is_reached_at_its_limit_and_missed_above() -> None:
    assert row(Cell.TICK0, "gap_ms", [90.0]).reached
    assert row(Cell.TICK0, "gap_ms", [90.1]).reached is False
    assert row(Cell.TICK256, "gap_ms", [9.0]).reached is None


def sample(key_late_ms: float | None) -> Sample:
    return Sample(from_="a", to="b", gap_ms=80, freeze_ms=70, total_ms=300, bytes=1, key_late_ms=key_late_ms)


def test_the_worst_key_decides() -> None:
    found = {line.figure: line for line in rows(Cell.KEY, [sample(1.0), sample(None), sample(20.1)])}
    assert found["key_late_ms"].reached is False
    assert found["key_late_ms"].series.count == 2
    assert "key_late_ms" not in {line.figure for line in rows(Cell.TICK0, [sample(None)])}


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 20))
def test_every_move_of_a_round_trip_leaves_its_node(count: int, start: int, moves: int) -> None:
    nodes = [f"node{number}" for number in range(count)]
    where = nodes[start % count]
    targets = round_trip(nodes, where, moves)
    assert len(targets) == moves
    for target in targets:
        assert target != where
        where = target


@pytest.mark.parametrize(("nodes", "start"), [([], "a"), (["a"], "a"), (["a", "b"], "c")])
def test_no_round_trip(nodes: list[str], start: str) -> None:
    with pytest.raises(ValueError, match="no way round"):
        round_trip(nodes, start, 1)
