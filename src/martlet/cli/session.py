"""`martlet session`: start, list, show, stop, log, why, screenshot."""

from __future__ import annotations

import getpass
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from martlet.bus.orders import LogChunk, LogOrder, MotherVerb, SessionOrder
from martlet.cli import cluster as clusters
from martlet.cli.asking import ORDER_DEADLINE_S, ask, ask_mother, session_view, tell
from martlet.cli.cluster import cluster_option
from martlet.cli.output import (
    Column,
    Output,
    human_bytes,
    output_option,
    print_json,
    reason_line,
    show_list,
    show_one,
)
from martlet.model import DisplayAccess, Movability, NodeVerdict, NodeView, SessionView, StartRequest

if TYPE_CHECKING:
    from martlet.bus.client import Bus

LAB_USER = "student1"
DESKTOP_PORT = 5901
LOG_POLL_S = 0.5

COLUMNS = [
    Column(title="ID", cell=lambda view: view.id),
    Column(title="USER", cell=lambda view: view.user),
    Column(title="GROUP", cell=lambda view: view.group or "-"),
    Column(title="NODE", cell=lambda view: view.node or "-"),
    Column(title="ADDRESS", cell=lambda view: view.address),
    Column(title="STATE", cell=lambda view: view.state),
    Column(title="MEMORY", cell=lambda view: human_bytes(view.memory_bytes), number=True),
    Column(title="CPU %", cell=lambda view: f"{view.cpu_pct:.0f}", number=True),
    Column(title="PROCESSES", cell=lambda view: str(view.processes), number=True),
    Column(title="MOVABLE", cell=lambda view: "yes" if view.movable else "no"),
    Column(title="COMMAND", cell=lambda view: view.command or "desktop"),
]
DETAILS = [
    *COLUMNS,
    Column(title="IMAGE", cell=lambda view: view.image),
    Column(title="EPOCH", cell=lambda view: str(view.epoch)),
    Column(title="STARTED", cell=lambda view: view.started_at),
]
VERDICTS = [
    Column(title="NODE", cell=lambda verdict: verdict.name),
    Column(title="TAKES IT", cell=lambda verdict: "yes" if verdict.ok else "no"),
    Column(title="WHY", cell=lambda verdict: "; ".join(reason_line(reason) for reason in verdict.reasons)),
]


@click.group("session")
def command() -> None:
    """Start, look at and stop sessions: desktops, or single programs, that can move between nodes.

    \b
    Example:
      martlet session start
      martlet session start --user ada -- python3 -m http.server 8000
      martlet session list --output json
    """


@command.command("start")
@click.option("--user", help=f"Whose session it is.  [default: you; in a lab {LAB_USER}]")
@click.option("--group", default="", help="The class or room it belongs to.")
@click.option("--node", default="", help="Where to start it.  [default: the least pressed node]")
@click.option("--image", default="", help="The image it runs on.  [default: desktop; base with a CMD]")
@click.option("--display", metavar="HOST:N", default="", help="The X display on which CMD shows its windows.")
@click.option(
    "--display-access",
    type=click.Choice([each.value for each in DisplayAccess]),
    default=DisplayAccess.DIRECT.value,
    show_default=True,
    help="Who may connect to the desktop: anybody on the LAN, or the gateway only.",
)
@click.option("--no-wait", is_flag=True, help="Return at once, without the session's id.")
@click.argument("argv", metavar="[-- CMD…]", nargs=-1, type=click.UNPROCESSED)
@output_option
@cluster_option
def start(
    *,
    user: str | None,
    group: str,
    node: str,
    image: str,
    display: str,
    display_access: str,
    no_wait: bool,
    argv: tuple[str, ...],
    output: Output,
    cluster: str | None,
) -> None:
    """Start a desktop, or CMD alone, and print the session's id when it runs.

    \b
    Example:
      martlet session start --user ada --group 7b
    """
    request = StartRequest(
        user=user or default_user(cluster),
        group=group,
        image=image,
        argv=argv,
        node=node,
        display=display,
        display_access=DisplayAccess(display_access),
    )
    if no_wait:
        tell(cluster, MotherVerb.START, request)
        return
    view = ask(cluster, MotherVerb.START, request, SessionView, deadline_s=ORDER_DEADLINE_S)
    if output is Output.JSON:
        print_json(view)
    else:
        click.echo(view.id)


@command.command("list")
@output_option
@cluster_option
def list_(*, output: Output, cluster: str | None) -> None:
    """List all sessions, oldest first."""
    show_list(ask(cluster, MotherVerb.SESSIONS, None, list[SessionView]), COLUMNS, output)


@command.command("show")
@click.argument("session", metavar="SID")
@output_option
@cluster_option
def show(*, session: str, output: Output, cluster: str | None) -> None:
    """Show one session."""

    async def look(bus: Bus) -> SessionView:
        return await session_view(bus, session)

    show_one(clusters.call(cluster, look), DETAILS, output)


@command.command("stop")
@click.argument("session", metavar="SID")
@click.option("--no-wait", is_flag=True, help="Return at once.")
@output_option
@cluster_option
def stop(*, session: str, no_wait: bool, output: Output, cluster: str | None) -> None:
    """End a session with all its programs."""
    order = SessionOrder(session=session)
    if no_wait:
        tell(cluster, MotherVerb.STOP, order)
    else:
        ask(cluster, MotherVerb.STOP, order, type(None), deadline_s=ORDER_DEADLINE_S)
    if output is Output.JSON:
        print_json({"id": session, "stopped": not no_wait})


@command.command("exec")
@click.argument("session", metavar="SID")
@click.argument("argv", metavar="-- CMD…", nargs=-1, required=True, type=click.UNPROCESSED)
@cluster_option
def exec_(*, session: str, argv: tuple[str, ...], cluster: str | None) -> None:
    """Run CMD inside a session, as its user; its exit code becomes this command's.

    A session does not move while such a program runs: it is not one of the session's own.

    \b
    Example:
      martlet session exec SID -- ps ax
    """

    async def door(bus: Bus) -> tuple[str, int]:
        view = await session_view(bus, session)
        nodes = await ask_mother(bus, MotherVerb.NODES, None, list[NodeView])
        return next((node.address, node.door_port) for node in nodes if node.name == view.node)

    from martlet import config
    from martlet.cli.execute import execute

    address, port = clusters.call(cluster, door)
    tls = config.load(clusters.find(cluster).config).tls
    raise SystemExit(execute(address, port, tls, session=session, argv=argv))


@command.command("log")
@click.argument("session", metavar="SID")
@click.option("--follow", is_flag=True, help="Go on as the session writes, until Ctrl-C.")
@cluster_option
def log(*, session: str, follow: bool, cluster: str | None) -> None:
    """Print what a session's programs wrote on stdout and stderr."""

    async def read(bus: Bus) -> None:
        offset = await print_log(bus, session, 0)
        while follow:
            await anyio.sleep(LOG_POLL_S)
            offset = await print_log(bus, session, offset)

    import anyio

    clusters.call(cluster, read)


async def print_log(bus: Bus, session: str, offset: int) -> int:
    """Print the log from `offset` to its end; returns where it ended."""
    while True:
        chunk = await ask_mother(bus, MotherVerb.LOG, LogOrder(session=session, offset=offset), LogChunk)
        click.echo(chunk.text, nl=False)
        if chunk.next_offset <= offset or not chunk.text:
            return max(offset, chunk.next_offset)
        offset = chunk.next_offset


@command.command("why")
@click.argument("session", metavar="SID")
@output_option
@cluster_option
def why(*, session: str, output: Output, cluster: str | None) -> None:
    """Say whether a session can move, what blocks it, and which nodes would take it."""
    found = ask(cluster, MotherVerb.WHY, SessionOrder(session=session), Movability, deadline_s=60.0)
    if output is Output.JSON:
        print_json(found)
        return
    click.echo(f"session {session} {'can move' if found.movable else 'cannot move now'}")
    for reason in found.reasons:
        click.echo(f"  - {reason_line(reason)}")
    show_list(list[NodeVerdict](found.nodes), VERDICTS, output)


@command.command("screenshot")
@click.argument("session", metavar="SID")
@click.argument("file", metavar="FILE.png", type=click.Path(dir_okay=False, path_type=Path))
@cluster_option
def screenshot(*, session: str, file: Path, cluster: str | None) -> None:
    """Write the picture of a desktop session to FILE.png."""
    from martlet.rfb.screenshot import screenshot as take

    async def look(bus: Bus) -> None:
        view = await session_view(bus, session)
        await take(view.address, DESKTOP_PORT, file)

    begun = time.monotonic()
    clusters.call(cluster, look)
    click.echo(f"wrote {file} ({human_bytes(file.stat().st_size)}, {time.monotonic() - begun:.1f} s)", err=True)


def default_user(cluster: str | None) -> str:
    """In a lab its first student, elsewhere whoever calls."""
    return LAB_USER if clusters.find(cluster).lab else getpass.getuser()
