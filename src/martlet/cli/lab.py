"""`martlet lab`: a whole cluster on this machine, for trying out and for tests."""

from __future__ import annotations

from dataclasses import dataclass

import click

from martlet.cli.cluster import VARIABLE
from martlet.cli.output import Column, Output, output_option, show_one
from martlet.cli.progress import progress
from martlet.errors import UsageError
from martlet.lab import enter, lifecycle, registry
from martlet.lab import plan as plans
from martlet.lab.registry import LabState, State

DEFAULT_NAME = "lab"
DETAILS = [
    Column(title="NAME", cell=lambda view: view.name),
    Column(title="STATE", cell=lambda view: view.state),
    Column(title="NODES", cell=lambda view: ", ".join(view.nodes)),
    Column(title="MOTHERS", cell=lambda view: ", ".join(view.mothers)),
    Column(title="CLIENT", cell=lambda view: view.client),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineView:
    """One machine of a lab; `pid` is its first process as the host sees it."""

    name: str
    role: plans.Role
    address: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LabView:
    """A lab as `lab status` shows it. `nodes`, `mothers` and `client` are names for `lab exec`."""

    name: str
    state: State
    nodes: tuple[str, ...]
    client: str
    gateway_url: str | None
    mothers: tuple[str, ...]
    machines: tuple[MachineView, ...]


@click.group("lab")
def command() -> None:
    """Run a whole cluster on this machine: each node a set of namespaces with the real agent.

    \b
    Example:
      martlet lab up --nodes 3
      martlet lab exec client -- ping -c1 node1
      martlet lab down
    """


_name = click.option(
    "--name",
    "--cluster",
    "name",
    metavar="LAB",
    envvar=VARIABLE,
    help=f"Which lab.  [env: {VARIABLE}; default: the only one there is]",
)


@command.command("up")
@click.option("--name", default=DEFAULT_NAME, show_default=True, metavar="LAB", help="The new lab's name.")
@click.option("--nodes", default=3, show_default=True, help="How many nodes.")
@click.option("--mothers", default=1, show_default=True, help="How many mothers; one leads.")
@click.option("--cpus-per-node", type=float, metavar="CORES", help="Processor time for the sessions of a node.")
@click.option("--link-mbit", type=float, metavar="MBIT", help="Speed of every machine's link, in each direction.")
@output_option
def up(
    *, name: str, nodes: int, mothers: int, cpus_per_node: float | None, link_mbit: float | None, output: Output
) -> None:
    """Bring a lab up; returns when its cluster takes sessions.

    \b
    Example:
      martlet lab up --nodes 2 --link-mbit 100
    """
    plan = plans.make(name, nodes=nodes, mothers=mothers, cpus_per_node=cpus_per_node, link_mbit=link_mbit)
    with progress(f"starting the lab '{name}'") as report:
        state = lifecycle.up(plan, report=report)
    show_one(view(state), DETAILS, output)


@command.command("down")
@_name
@output_option
def down(*, name: str | None, output: Output) -> None:
    """End a lab and remove all of it, home directories included. Without a lab there is nothing to do."""
    chosen = name or _only_trace()
    if chosen is None:
        return
    plans.check_name(chosen)
    with progress(f"ending the lab '{chosen}'") as report:
        lifecycle.down(chosen, report=report)


@command.command("status")
@_name
@output_option
def status(*, name: str | None, output: Output) -> None:
    """Show a lab: its state and its machines."""
    show_one(view(registry.pick(name)), DETAILS, output)


@command.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_name
@click.argument("machine")
@click.argument("argv", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(*, name: str | None, machine: str, argv: tuple[str, ...]) -> None:
    """Run CMD as root inside MACHINE: a node, a mother, or the client.

    \b
    Example:
      martlet lab exec node1 -- tail /var/log/martlet/agent.log
    """
    words = argv[1:] if argv[0] == "--" else argv
    if not words:
        raise UsageError("no command: write 'martlet lab exec MACHINE -- CMD...'")
    enter.execute(registry.pick(name), machine, words)


def view(state: LabState) -> LabView:
    """What is shown of a lab."""
    machines = (
        MachineView(name=m.name, role=m.role, address=m.address, pid=state.pids.get(m.name, 0))
        for m in state.plan.machines
    )
    return LabView(
        name=state.name,
        state=state.state,
        nodes=state.nodes,
        client=state.client,
        gateway_url=None,
        mothers=tuple(machine.name for machine in state.plan.of_role(plans.Role.MOTHER)),
        machines=tuple(machines),
    )


def _only_trace() -> str | None:
    """The one lab of which anything is left, even if only its folders are."""
    names = registry.traces()
    if len(names) > 1:
        raise UsageError(f"several labs are there: {', '.join(names)}; choose one with --name")
    return names[0] if names else None
