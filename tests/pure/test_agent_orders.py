"""Whom an agent obeys: the newest mother it has heard of, and a person."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from martlet.agent.orders import Orders
from martlet.bus.client import Bus, attached
from martlet.bus.memory import Broker
from martlet.bus.names import agent_subject
from martlet.bus.orders import AgentVerb, SessionOrder
from martlet.errors import NotFound, Refused

pytestmark = pytest.mark.anyio


class NoSessions:
    """A registry of a node that runs nothing; it counts how often an order came through to it."""

    def __init__(self) -> None:
        self.asked = 0

    async def stop(self, session: str) -> None:
        self.asked += 1
        raise NotFound(f"there is no session {session}")


@pytest.fixture
async def bus() -> AsyncIterator[Bus]:
    async with attached(Broker(), who="mother.n1") as joined:
        yield joined


async def order(bus: Bus, *, term: int) -> None:
    await bus.ask(agent_subject("n1", AgentVerb.STOP), SessionOrder(session="s1"), type(None), term=term)


async def test_an_old_leader_is_not_obeyed(bus: Bus) -> None:
    sessions = NoSessions()
    await Orders(cast(Any, SimpleNamespace(me="n1")), bus, cast(Any, sessions)).serve()
    for term, obeyed in ((4, True), (7, True), (7, True), (6, False), (0, True), (6, False), (8, True)):
        before = sessions.asked
        with pytest.raises(NotFound if obeyed else Refused, match="s1" if obeyed else "term 7 has been seen"):
            await order(bus, term=term)
        assert sessions.asked - before == (1 if obeyed else 0), term
