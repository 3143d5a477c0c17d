"""Measure the freeze as a client outside sees it, and print it against the figures to reach.

The gap of a move is the longest interval between two ticks that reach the client machine in the five seconds from the
order, less the tick period (5 ms). A tick is a line sent over TCP by a small server inside the session.

Cells: `tick0` is that server alone, `tick256` the same with 256 MB of filled memory; `desktop` is a whole desktop with
a VNC client attached and the tick server started in its terminal, beside the desktop and in the same session; `key` is
`tick0` with a byte sent while the ticks are away, and tells how long after the first tick its answer comes; `idle` is
what each agent takes of a core and of memory in 30 s without any session. Everything runs on one machine, so a busy
machine shows in the figures: the longest silence of five seconds without a move is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.chart import draw_chart
from bench.cluster import (
    CHECKOUT,
    HOME,
    Cluster,
    Lab,
    Program,
    client_program,
    install_programs,
    node_names,
    session,
    session_argv,
    up,
)
from bench.desktop import type_program, watched
from bench.figures import Cell, Row, Sample, round_trip, row, rows
from martlet.errors import MartletError, ToolFailed
from martlet.model import MoveMode

RESULTS = CHECKOUT / "bench" / "results"
PORT = "7000"
IDLE_S = 30
WIDTH = 120
"""Columns of the table in a pipe or a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell: its figures, every sample, and the longest silence of a window in which nothing moved."""

    cell: Cell
    rows: list[Row]
    samples: list[Sample]
    still_gap_ms: float | None = None


def window(ticks: Program, name: str) -> dict[str, Any]:
    """The report on the five seconds that end about now.

    Raises:
        ToolFailed: a tick was lost, repeated or changed, or a key was not answered.
    """
    seen = ticks.answer()
    if seen["errors"]:
        raise ToolFailed(f"the tick stream broke in '{name}': {seen['errors'][0]}")
    if seen["key_unanswered"]:
        raise ToolFailed(f"the key pressed in the freeze of '{name}' was not answered in the window")
    return seen


def moves_of(lab: Lab, ticks: Program, started: dict[str, Any], *, moves: int, mode: MoveMode) -> list[Sample]:
    """Move a session round the nodes and note each move."""
    samples = []
    for target in round_trip(node_names(lab), started["node"], moves):
        ticks.order(f"mark {target}")
        report = lab.martlet("migrate", started["id"], "--to", target, "--mode", mode)
        seen = window(ticks, target)
        samples.append(
            Sample(
                from_=report["from"],
                to=report["to"],
                gap_ms=seen["gap_ms"],
                freeze_ms=report["freeze_ms"],
                total_ms=report["total_ms"],
                bytes=report["bytes"],
                key_late_ms=seen["key_late_ms"],
            )
        )
    return samples


def measure(lab: Lab, cell: Cell, started: dict[str, Any], *options: str, moves: int, mode: MoveMode) -> Result:
    """One cell: a window in which nothing moves, then the moves."""
    with client_program(lab, "tick_client", started["address"], PORT, *options) as ticks:
        ticks.order("mark still")
        still = window(ticks, "still")
        samples = moves_of(lab, ticks, started, moves=moves, mode=mode)
    return Result(cell=cell, rows=rows(cell, samples), samples=samples, still_gap_ms=still["gap_ms"])


def ticking(lab: Lab, cell: Cell, *options: str, megabytes: int, moves: int, mode: MoveMode) -> Result:
    argv = session_argv("tick_server", "--port", PORT, "--mb", str(megabytes))
    with session(lab, "--", *argv) as started:
        return measure(lab, cell, started, *options, moves=moves, mode=mode)


def tick0(lab: Lab, moves: int, mode: MoveMode) -> Result:
    return ticking(lab, Cell.TICK0, megabytes=0, moves=moves, mode=mode)


def tick256(lab: Lab, moves: int, mode: MoveMode) -> Result:
    return ticking(lab, Cell.TICK256, megabytes=256, moves=moves, mode=mode)


def key(lab: Lab, moves: int, mode: MoveMode) -> Result:
    return ticking(lab, Cell.KEY, "--keys", megabytes=0, moves=moves, mode=mode)


def desktop(lab: Lab, moves: int, mode: MoveMode) -> Result:
    with session(lab) as started, watched(lab, started["address"]) as display:
        type_program(lab, display, started["id"], "tick_server", "--port", PORT)
        return measure(lab, Cell.DESKTOP, started, moves=moves, mode=mode)


def idle(lab: Lab, moves: int, mode: MoveMode) -> Result:
    """All agents at the same time; `moves` and `mode` have no say here."""
    del moves, mode
    argv = ("env", f"PYTHONPATH={HOME}", "python3", "-m", "bench.programs.daemon_usage")
    asked = ("martlet.agent", "--seconds", str(IDLE_S))
    probes = [Program(f"daemon_usage on {node}", lab.popen(node, *argv, *asked)) for node in node_names(lab)]
    found = [probe.answer(deadline_s=IDLE_S + 30) for probe in probes]
    for probe in probes:
        probe.finish()
    if any(one["restarted"] or not one["pids"] for one in found):
        raise ToolFailed("an agent was not there, or was started again, while it was watched")
    cpu_pct, rss_mb = [one["cpu_pct"] for one in found], [one["rss_bytes"] / 1e6 for one in found]
    return Result(
        cell=Cell.IDLE, rows=[row(Cell.IDLE, "cpu_pct", cpu_pct), row(Cell.IDLE, "rss_mb", rss_mb)], samples=[]
    )


CELLS: dict[Cell, Callable[[Lab, int, MoveMode], Result]] = {
    Cell.IDLE: idle,
    Cell.TICK0: tick0,
    Cell.TICK256: tick256,
    Cell.DESKTOP: desktop,
    Cell.KEY: key,
}
"""In the order of measuring: the idle agents before anything has run."""


def table(results: Sequence[Result]) -> Table:
    """One line a figure, with its goal and whether it was reached."""
    shown = Table(title="Freeze, as the client saw it (gap) and as the agents measured it (freeze)")
    for heading in ("cell", "figure"):
        shown.add_column(heading)
    for heading in ("p50", "p90", "max", "values", "without a move"):
        shown.add_column(heading, justify="right")
    for heading in ("to reach", ""):
        shown.add_column(heading)
    for result in results:
        for line in result.rows:
            still = result.still_gap_ms if line.figure == "gap_ms" else None
            shown.add_row(*cells_of(line, still))
        shown.add_section()
    return shown


def cells_of(line: Row, still_gap_ms: float | None) -> list[str]:
    verdict = {None: "", True: "reached", False: "missed"}[line.reached]
    goal = f"{line.goal.statistic} ≤ {line.goal.limit:g}" if line.goal else ""
    numbers = [f"{value:.1f}" for value in (line.series.p50, line.series.p90, line.series.max)]
    still = "" if still_gap_ms is None else f"{still_gap_ms:.1f}"
    return [line.cell, line.figure, *numbers, str(line.series.count), still, goal, verdict]


def save(results: Sequence[Result], *, moves: int, mode: MoveMode) -> Path:
    """Write the JSON, and the picture beside it; returns the JSON's path."""
    now = datetime.now(UTC).replace(microsecond=0)
    path = RESULTS / f"freeze-{now:%Y%m%dT%H%M%SZ}.json"
    machine = {"kernel": os.uname().release, "processors": os.cpu_count(), "load": os.getloadavg()[0]}
    content = {"at": now.isoformat(), "machine": machine, "moves": moves, "mode": mode}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "cells": [asdict(result) for result in results]}, indent=1) + "\n")
    draw_chart({result.cell: result.samples for result in results if result.samples}, path.with_suffix(".png"))
    return path


def cells(text: str) -> list[Cell]:
    """`tick0,desktop` as cells, in the order of measuring; argparse shows what is wrong."""
    asked = {Cell(word) for word in text.split(",")}
    return [cell for cell in CELLS if cell in asked]


def run(cluster: Cluster, options: argparse.Namespace, console: Console) -> list[Result]:
    """Bring the lab up if needed, measure the cells, and end what was brought up."""
    brought_up = up(cluster)
    try:
        install_programs(cluster, node_names(cluster)[0])
        results = []
        for cell in options.cells:
            console.print(f"measuring {cell} …")
            results.append(CELLS[cell](cluster, options.moves, options.mode))
        return results
    finally:
        if brought_up and not options.keep:
            cluster.martlet_shown("lab", "down", "--name", cluster.name)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.freeze", description=__doc__)
    parser.add_argument("--cells", type=cells, default=list(CELLS), help=f"some of {','.join(CELLS)}; default all")
    parser.add_argument("--moves", type=int, default=20, help="moves in each cell")
    parser.add_argument("--mode", type=MoveMode, default=MoveMode.AUTO, choices=list(MoveMode))
    parser.add_argument("--lab", default="bench", help="the lab to use, or to bring up and end")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    options = parser.parse_args()
    errors = Console(stderr=True)
    try:
        results = run(Cluster(options.lab), options, errors)
    except (MartletError, subprocess.TimeoutExpired) as error:
        hints = "".join(f"\n  {one.text}; {one.hint}" for one in getattr(error, "reasons", ()))
        errors.print(f"The measurement failed: {error}{hints}", markup=False, highlight=False)
        return 1
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table(results))
    path = save(results, moves=options.moves, mode=options.mode)
    console.print(f"{path}\n{path.with_suffix('.png')}", soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
