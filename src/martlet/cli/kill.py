"""`martlet kill`: signal a session's process wherever it runs."""

from __future__ import annotations

import re
import signal

import click

from martlet.bus.orders import KillOrder, MotherVerb
from martlet.cli.asking import ask
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Output, output_option, print_json
from martlet.errors import UsageError


@click.command("kill")
@click.argument("target", metavar="SID[:PID]")
@click.option("-s", "--signal", "name", default="TERM", show_default=True, help="A signal's name or number.")
@output_option
@cluster_option
def command(*, target: str, name: str, output: Output, cluster: str | None) -> None:
    """Send a signal to one process of a session, or to the session's first process.

    \b
    Example:
      martlet kill SID:42 -s 9
    """
    session, pid = parse_target(target)
    order = KillOrder(session=session, pid=pid, signal=signal_number(name))
    ask(cluster, MotherVerb.KILL, order, type(None))
    if output is Output.JSON:
        print_json(order)


def parse_target(text: str) -> tuple[str, int]:
    """The session and the pid (0: none given) of `SID[:PID]`. Raises UsageError."""
    match = re.fullmatch(r"([^:]+)(?::([0-9]+))?", text)
    if match is None or (match[2] and int(match[2]) < 1):
        raise UsageError(f"'{text}' is not of the form SID or SID:PID")
    return match[1], int(match[2] or 0)


def signal_number(text: str) -> int:
    """The number of `9`, `KILL`, `sigkill` or `SIGKILL`. Raises UsageError."""
    name = text.upper()
    try:
        return signal.Signals(int(name)) if name.isdigit() else signal.Signals["SIG" + name.removeprefix("SIG")]
    except (KeyError, ValueError):
        raise UsageError(f"'{text}' is no signal; use a name such as TERM or a number such as 9") from None
