"""The demonstration: a desktop goes round the nodes of a lab while a program draws in it and somebody types.

What `make demo` runs once everything is installed. Uses only the public command line and a VNC client in the client
machine; it measures for the eye, `bench.freeze` measures for the record.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench.cluster import CHECKOUT, Cluster, Program, install_programs, node_names, up
from bench.desktop import save_picture, tell, type_program, watched
from bench.figures import Sample, percentile, round_trip
from martlet.errors import MartletError

GROUP = "demo"
PICTURE = CHECKOUT / "demo" / "after-last-move.png"
SENTENCE = "a desktop that never lands "
SETTLE_S = 0.7
"""Between a move's answer and the end of its window, so that the client's first picture after it counts."""


def prepare(cluster: Cluster) -> dict[str, Any]:
    """The programs in place, no desktop of an earlier demonstration, and a fresh one."""
    install_programs(cluster, node_names(cluster)[0])
    for session in cluster.martlet("session", "list"):
        if session["group"] == GROUP:
            cluster.martlet("session", "stop", session["id"])
    started: dict[str, Any] = cluster.martlet("session", "start", "--group", GROUP)
    return started


def move(cluster: Cluster, display: Program, session: str, target: str) -> Sample:
    """One move, with keys pressed all the time and the client's longest silence from the order to its answer."""
    tell(display, do="mark", name=target)
    tell(display, do="type", text=SENTENCE)
    report = cluster.martlet("migrate", session, "--to", target)
    time.sleep(SETTLE_S)
    tell(display, do="close")
    seen = display.answer()
    return Sample(
        from_=report["from"],
        to=report["to"],
        gap_ms=seen["gap_ms"],
        freeze_ms=report["freeze_ms"],
        total_ms=report["total_ms"],
        bytes=report["bytes"],
    )


def run(cluster: Cluster, console: Console, *, moves: int) -> tuple[dict[str, Any], list[Sample]]:
    """The whole demonstration; returns the session and its moves."""
    up(cluster)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, contextlib.ExitStack() as stack:
        task = progress.add_task("start a desktop", total=moves)
        session = prepare(cluster)
        name, node = session["id"], session["node"]
        progress.update(task, description=f"connect a VNC client to {name} at {session['address']} and start drawing")
        display = stack.enter_context(watched(cluster, session["address"], "--window-s", "600"))
        type_program(cluster, display, name, "draw")
        samples = []
        for target in round_trip(node_names(cluster), node, moves):
            progress.update(task, description=f"move {name} to {target}")
            samples.append(move(cluster, display, name, target))
            progress.advance(task)
        progress.update(task, description="take a picture")
        save_picture(display, PICTURE)
    return session, samples


def table(samples: Sequence[Sample]) -> Table:
    """One line a move, and the median of the two measures of the freeze."""
    shown = Table(title="The same desktop, the same VNC connection")
    for heading in ("from", "to"):
        shown.add_column(heading)
    for heading in ("freeze ms\n(agents)", "gap ms\n(client)", "moved MB", "total ms"):
        shown.add_column(heading, justify="right")
    for one in samples:
        megabytes = one.bytes / 1e6
        shown.add_row(
            one.from_, one.to, f"{one.freeze_ms:.0f}", f"{one.gap_ms:.0f}", f"{megabytes:.1f}", f"{one.total_ms:.0f}"
        )
    shown.add_section()
    freeze_ms, gap_ms = (percentile([getattr(one, name) for one in samples], 50) for name in ("freeze_ms", "gap_ms"))
    shown.add_row("median", "", f"{freeze_ms:.0f}", f"{gap_ms:.0f}", "", "")
    return shown


def explanation(cluster: Cluster, session: str, picture: Path) -> str:
    """What the figures mean, and what to try next."""
    martlet = f"MARTLET_CLUSTER={cluster.name} .venv/bin/martlet"
    return f"""
The gap is the longest time between two pictures that reached the client; as the program draws every 20 ms, up to that
much of it would have been there without a move. All nodes share this one machine's processors and no real network lies
between them: elsewhere the figures differ.

The desktop as the VNC client has it after the last move: {picture}

The lab is still up. Try:
  {martlet} session list
  {martlet} migrate {session}                       the mother chooses the node
  {martlet} session screenshot {session} now.png
  {martlet} session why {session}                   can it move, and where to
  {martlet} ps
  {martlet} lab exec client -- bash                 a shell in the client machine
End it with:
  .venv/bin/martlet lab down --name {cluster.name}
"""


def complaint(cluster: Cluster, error: MartletError) -> str:
    """What failed, why, where to look, and how to clean up."""
    reasons = "".join(f"\n  {one.code}: {one.text}{'; ' + one.hint if one.hint else ''}" for one in error.reasons)
    martlet = f"MARTLET_CLUSTER={cluster.name} .venv/bin/martlet"
    return f"""The demonstration failed: {error.message}{reasons}
Logs are in each machine under /var/log/martlet:
  {martlet} lab exec node1 -- tail -n 50 /var/log/martlet/agent.log
  {martlet} events
End the lab with: .venv/bin/martlet lab down --name {cluster.name}"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--name", default="demo", help="the lab's name")
    parser.add_argument("--moves", type=int, default=10)
    options = parser.parse_args()
    console, errors = Console(), Console(stderr=True)
    cluster = Cluster(options.name)
    try:
        session, samples = run(cluster, errors, moves=options.moves)
    except MartletError as error:
        errors.print(complaint(cluster, error), markup=False, highlight=False)
        return int(error.exit)
    except subprocess.TimeoutExpired as error:
        errors.print(complaint(cluster, MartletError(str(error))), markup=False, highlight=False)
        return 1
    console.print(table(samples))
    console.print(explanation(cluster, session["id"], PICTURE), markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
