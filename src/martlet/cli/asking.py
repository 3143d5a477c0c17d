"""Asks the leading mother: the one way in which commands reach the cluster's verbs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import anyio

from martlet.bus.lease import LeaseRecord
from martlet.bus.names import LEADER_KEY, Bucket, mother_subject
from martlet.bus.orders import MotherVerb
from martlet.cli import cluster as clusters
from martlet.errors import MartletError, NotFound, Unreachable
from martlet.model import Reason, SessionView

if TYPE_CHECKING:
    from martlet.bus.client import Bus
    from martlet.bus.store import Table

A = TypeVar("A")

ASK_DEADLINE_S = 15.0
LEADER_POLL_S = 1.0
MOTHER_GONE = Reason(
    code="mother_gone",
    text="another mother leads now, or the same one anew; the order may have been carried out, or be under way",
    hint="'martlet session list' and 'martlet events' show what became of it",
)
ORDER_DEADLINE_S = 1800.0


async def ask_mother(
    bus: Bus, verb: MotherVerb, body: object, answer: type[A], *, deadline_s: float = ASK_DEADLINE_S
) -> A:
    """The leading mother's answer.

    Raises:
        Unreachable: none leads, or it did not answer in time.
    """

    async def gone() -> MartletError:
        await until_replaced(bus)
        return MartletError("the mother that had the order leads no more", reasons=[MOTHER_GONE])

    with no_mother_explained():
        return await bus.ask_while(gone, bus.ask(mother_subject(verb), body, answer, deadline_s))


@contextmanager
def no_mother_explained() -> Iterator[None]:
    """Say in an Unreachable what it means and what to do."""
    try:
        yield
    except Unreachable as error:
        hint = "'martlet doctor' says what is missing; a new mother leads within seconds when one is there"
        reason = Reason(code="no_mother", text="no mother leads the cluster, or it is too busy to answer", hint=hint)
        raise Unreachable(f"the mother gave no answer: {error.message}", reasons=[reason]) from error


async def until_replaced(bus: Bus) -> None:
    """Return when another mother leads than does now, or the same one anew: what it had in its hands is lost to us."""
    leases = bus.table(Bucket.LEASES, LeaseRecord)
    first = await _leader(leases)
    while (now := await _leader(leases)) is None or first is None or now == first:
        first = first or now
        await anyio.sleep(LEADER_POLL_S)


async def _leader(leases: Table[LeaseRecord]) -> LeaseRecord | None:
    """Which tenure of which mother leads; None while none does, or the store is away."""
    try:
        stored = await leases.get(LEADER_KEY)
    except Unreachable:
        return None
    return stored.value if stored is not None else None


def ask(
    cluster: str | None, verb: MotherVerb, body: object, answer: type[A], *, deadline_s: float = ASK_DEADLINE_S
) -> A:
    """Connect, ask the mother, disconnect."""

    async def once(bus: Bus) -> A:
        return await ask_mother(bus, verb, body, answer, deadline_s=deadline_s)

    return clusters.call(cluster, once)


def tell(cluster: str | None, verb: MotherVerb, body: object) -> None:
    """Send the mother an order, and wait only until it is taken or refused."""

    async def once(bus: Bus) -> None:
        with no_mother_explained():
            await bus.tell(mother_subject(verb), body)

    clusters.call(cluster, once)


async def session_view(bus: Bus, session: str) -> SessionView:
    """The session as the mother sees it. Raises NotFound."""
    views = await ask_mother(bus, MotherVerb.SESSIONS, None, list[SessionView])
    found = next((view for view in views if view.id == session), None)
    if found is None:
        raise NotFound(f"there is no session '{session}'; 'martlet session list' shows them")
    return found
