"""`martlet migrate`: move one running session."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext

import click

from martlet.bus.orders import MigrateOrder, MotherVerb
from martlet.cli.asking import ORDER_DEADLINE_S, ask, tell
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Column, Output, human_bytes, output_option, outside, print_json, reason_line, show_one
from martlet.errors import Exit
from martlet.model import MoveMode, MoveOutcome, MoveReport

DETAILS = [
    Column(title="SESSION", cell=lambda report: report.session),
    Column(title="FROM", cell=lambda report: report.from_),
    Column(title="TO", cell=lambda report: report.to),
    Column(title="OUTCOME", cell=lambda report: report.outcome),
    Column(title="MODE", cell=lambda report: report.mode),
    Column(title="FREEZE", cell=lambda report: f"{report.freeze_ms:.0f} ms"),
    Column(title="TOTAL", cell=lambda report: f"{report.total_ms:.0f} ms"),
    Column(title="SENT", cell=lambda report: human_bytes(report.bytes)),
    Column(title="PHASES", cell=lambda report: ", ".join(f"{k} {v:.0f} ms" for k, v in report.phases_ms.items())),
]
CODES = {MoveOutcome.MOVED: Exit.DONE, MoveOutcome.STAYED: Exit.FAILED, MoveOutcome.IN_DOUBT: Exit.IN_DOUBT}


@click.command("migrate")
@click.argument("session", metavar="SID")
@click.option("--to", metavar="NODE", default="", help="Where to.  [default: the mother chooses]")
@click.option(
    "--mode",
    type=click.Choice([each.value for each in MoveMode]),
    default=MoveMode.AUTO.value,
    show_default=True,
    help="How memory is copied: all while frozen, before the freeze, after it, or as the nodes can.",
)
@click.option("--no-wait", is_flag=True, help="Return at once; 'martlet events' tells how it went.")
@output_option
@cluster_option
def command(*, session: str, to: str, mode: str, no_wait: bool, output: Output, cluster: str | None) -> int:
    """Move a running session to another node, while it is used.

    \b
    Example:
      martlet migrate SID --to node2
    """
    order = MigrateOrder(session=session, to=to, mode=MoveMode(mode))
    if no_wait:
        tell(cluster, MotherVerb.MIGRATE, order)
        return Exit.DONE
    with spinner(f"moving {session}"):
        report = ask(cluster, MotherVerb.MIGRATE, order, MoveReport, deadline_s=ORDER_DEADLINE_S)
    show(report, output)
    return CODES[report.outcome]


def show(report: MoveReport, output: Output) -> None:
    """Print how the move went, and on stderr why when it did not."""
    if output is Output.JSON:
        extra = {} if report.outcome is MoveOutcome.MOVED else {"error": f"{report.session} {report.outcome}"}
        print_json({**outside(report), **extra})
        return
    show_one(report, DETAILS, output)
    for reason in report.reasons:
        click.echo(f"  - {reason_line(reason)}", err=True)


def spinner(text: str) -> AbstractContextManager[object]:
    """Something that turns on stderr while we wait, if a person is looking."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(text)
