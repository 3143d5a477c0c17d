"""`martlet node`: list and show."""

from __future__ import annotations

import click

from martlet.bus.orders import MotherVerb
from martlet.cli.asking import ask
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Column, Output, human_bytes, output_option, show_list, show_one
from martlet.errors import NotFound
from martlet.model import NodeView

COLUMNS = [
    Column(title="NAME", cell=lambda view: view.name),
    Column(title="STATE", cell=lambda view: view.state),
    Column(title="ADDRESS", cell=lambda view: view.address),
    Column(title="CORES", cell=lambda view: f"{view.cores:g}", number=True),
    Column(title="CPU %", cell=lambda view: f"{view.cpu_pct:.0f}", number=True),
    Column(title="MEMORY", cell=lambda view: human_bytes(view.memory_bytes), number=True),
    Column(title="FREE", cell=lambda view: human_bytes(view.memory_free_bytes), number=True),
    Column(title="PRESSURE CPU %", cell=lambda view: f"{view.pressure.cpu:.0f}", number=True),
    Column(title="MEMORY %", cell=lambda view: f"{view.pressure.memory:.0f}", number=True),
    Column(title="IO %", cell=lambda view: f"{view.pressure.io:.0f}", number=True),
    Column(title="SESSIONS", cell=lambda view: str(view.sessions), number=True),
]
DETAILS = [
    *COLUMNS,
    Column(title="VERSION", cell=lambda view: view.version),
    Column(title="KERNEL", cell=lambda view: view.kernel),
    Column(title="CRIU", cell=lambda view: view.criu),
]


@click.group("node")
def command() -> None:
    """Look at the cluster's servers.

    \b
    Example:
      martlet node list
    """


@command.command("list")
@output_option
@cluster_option
def list_(*, output: Output, cluster: str | None) -> None:
    """List all nodes with their load; pressure is the share of the last 10 s in which work had to wait."""
    show_list(ask(cluster, MotherVerb.NODES, None, list[NodeView]), COLUMNS, output)


@command.command("show")
@click.argument("name", metavar="NODE")
@output_option
@cluster_option
def show(*, name: str, output: Output, cluster: str | None) -> None:
    """Show one node."""
    views = ask(cluster, MotherVerb.NODES, None, list[NodeView])
    found = next((view for view in views if view.name == name), None)
    if found is None:
        raise NotFound(f"there is no node '{name}'; known are {', '.join(view.name for view in views) or 'none'}")
    show_one(found, DETAILS, output)
