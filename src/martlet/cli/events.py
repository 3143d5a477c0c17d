"""`martlet events`: the record of what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from martlet.cli import cluster as clusters
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Column, Output, one_line, output_option, outside, show_list
from martlet.model import Event

if TYPE_CHECKING:
    from martlet.bus.client import Bus

COLUMNS = [
    Column(title="TIME", cell=lambda event: event.time),
    Column(title="KIND", cell=lambda event: event.kind),
    Column(title="SESSION", cell=lambda event: event.session or "-"),
    Column(title="NODE", cell=lambda event: event.node or "-"),
    Column(title="WHAT", cell=lambda event: event.text),
]


@click.command("events")
@click.option("--follow", is_flag=True, help="Go on as things happen, until Ctrl-C; as JSON one object a line.")
@click.option("--last", metavar="N", default=100, show_default=True, type=click.IntRange(0, 100_000), help="How many.")
@output_option
@cluster_option
def command(*, follow: bool, last: int, output: Output, cluster: str | None) -> None:
    """Show the last events of the cluster, oldest first.

    \b
    Example:
      martlet events --follow
    """
    if follow:
        clusters.call(cluster, lambda bus: print_all(bus, last, output))
    else:
        show_list(clusters.call(cluster, lambda bus: history(bus, last)), COLUMNS, output)


async def history(bus: Bus, last: int) -> list[Event]:
    """The last `last` events."""
    return await bus.events.history(last)


async def print_all(bus: Bus, last: int, output: Output) -> None:
    """Print the last `last` events and every new one, a line each."""
    async with bus.events.follow(last=last) as feed:
        async for event in feed:
            click.echo(line(event, output))


def line(event: Event, output: Output) -> str:
    """An event as one line."""
    if output is Output.JSON:
        return msgspec.json.encode(outside(event)).decode()
    return "  ".join(one_line(column.cell(event)) for column in COLUMNS)
