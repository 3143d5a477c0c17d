"""`martlet ps`: every process of every session."""

from __future__ import annotations

import click

from martlet.bus.orders import MotherVerb
from martlet.cli.asking import ask
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Column, Output, human_bytes, output_option, show_list
from martlet.model import ProcessInfo

COLUMNS = [
    Column(title="NODE", cell=lambda process: process.node),
    Column(title="SESSION", cell=lambda process: process.session),
    Column(title="USER", cell=lambda process: process.user),
    Column(title="PID", cell=lambda process: str(process.pid), number=True),
    Column(title="HOST PID", cell=lambda process: str(process.host_pid), number=True),
    Column(title="THREADS", cell=lambda process: str(process.threads), number=True),
    Column(title="CPU %", cell=lambda process: f"{process.cpu_pct:.0f}", number=True),
    Column(title="RESIDENT", cell=lambda process: human_bytes(process.rss_bytes), number=True),
    Column(title="COMMAND", cell=lambda process: process.command),
]


@click.command("ps")
@output_option
@cluster_option
def command(*, output: Output, cluster: str | None) -> None:
    """List every process of every session, wherever it runs; PID is what the session itself sees.

    \b
    Example:
      martlet ps --output json
    """
    show_list(ask(cluster, MotherVerb.PROCESSES, None, list[ProcessInfo], deadline_s=30.0), COLUMNS, output)
