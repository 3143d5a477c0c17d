"""The picture of a measurement: every move a dot, the client's gap beside the agents' freeze.

Draws what it is given; matplotlib is loaded only when a picture is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import GOALS, Cell, Sample, percentile

SHIFTS = {"gap_ms": (-0.15, "tab:blue", "gap, client"), "freeze_ms": (0.15, "tab:orange", "freeze, agents")}


def draw_chart(samples: Mapping[Cell, Sequence[Sample]], path: Path) -> None:
    """Write a PNG with one column for each cell; a dash marks the median, a dotted line the goal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(1.5 + 1.8 * max(1, len(samples)), 4.5), layout="constrained")
    for figure_name, (shift, colour, label) in SHIFTS.items():
        for column, (cell, moves) in enumerate(samples.items()):
            values = [getattr(move, figure_name) for move in moves]
            spread = [column + shift + 0.1 * (index / len(values) - 0.5) for index in range(len(values))]
            axes.scatter(spread, values, s=10, color=colour, label=label if column == 0 else None)
            axes.hlines(percentile(values, 50), column + shift - 0.12, column + shift + 0.12, color=colour)
            if (goal := GOALS.get((cell, figure_name))) is not None:
                axes.hlines(goal.limit, column - 0.4, column + 0.4, color="grey", linestyle="dotted")
    axes.set_xticks(range(len(samples)), [str(cell) for cell in samples])
    axes.set_ylabel("ms")
    axes.set_ylim(bottom=0)
    if samples:
        axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
