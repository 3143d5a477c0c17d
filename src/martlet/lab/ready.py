"""Waits until a lab's cluster takes sessions: the mother answers and has every node up. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from martlet import config
from martlet.bus import client, names, orders
from martlet.errors import MartletError, Unreachable
from martlet.kernel import namespace
from martlet.kernel.namespace import Namespace
from martlet.lab.registry import LabState
from martlet.model import NodeState, NodeView, Reason

DEADLINE_S = 40.0
PERIOD_S = 0.1


def wait(lab: LabState, *, report: Callable[[str], None]) -> None:
    """Return when every node of `lab` is up in the mother's eyes.

    Raises:
        MartletError: that did not happen in time; says which nodes are missing and where to look.
    """
    namespace.within(Namespace.NET, lab.lan_netns, lambda: asyncio.run(_wait(lab, report)))


def missing(lab: LabState, views: Iterable[NodeView]) -> tuple[str, ...]:
    """The nodes of `lab` that take no sessions yet: not up, or up without a first report of their load (all zeros)."""
    present = {view.name for view in views if view.state is NodeState.UP and view.memory_free_bytes > 0}
    return tuple(name for name in lab.nodes if name not in present)


async def _wait(lab: LabState, report: Callable[[str], None]) -> None:
    report("waiting for the bus, the mother and the agents")
    last = "the bus did not answer"
    try:
        async with asyncio.timeout(DEADLINE_S):
            settings = config.load(lab.admin_config)
            async with client.connect(settings, names.Role.ADMIN) as bus:
                while last:
                    last = await _what_is_missing(lab, bus)
                    report(last or "the cluster takes sessions")
                    await asyncio.sleep(PERIOD_S if last else 0)
    except TimeoutError as error:
        raise _failure(lab, last) from error


async def _what_is_missing(lab: LabState, bus: client.Bus) -> str:
    subject = names.mother_subject(orders.MotherVerb.NODES)
    try:
        views = await bus.ask(subject, None, list[NodeView], deadline_s=2.0)
    except Unreachable:
        return "the mother does not answer yet"
    away = missing(lab, views)
    return f"waiting for {', '.join(away)}" if away else ""


def _failure(lab: LabState, last: str) -> MartletError:
    hint = (
        f"look at 'martlet lab exec --name {lab.name} MACHINE -- tail /var/log/martlet/DAEMON.log' "
        f"(mother1: nats, mother; {', '.join(lab.nodes)}: agent); end it with 'martlet lab down --name {lab.name}'"
    )
    reason = Reason(code="not_ready", text=last, hint=hint)
    return MartletError(f"the lab '{lab.name}' was not ready within {DEADLINE_S:g} s: {last}", reasons=[reason])
