"""Keeps the mother's picture: follows the buckets and the load reports, polls the leases.

Decides nothing but who is present; what a picture means is in `picture.py`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import anyio.abc

from martlet.bus.client import Bus
from martlet.bus.events import now
from martlet.bus.lease import LeaseRecord, holders
from martlet.bus.names import LOAD_SUBJECT, Bucket, presence_key
from martlet.bus.store import Snapshot, Table
from martlet.errors import Unreachable
from martlet.model import Event, NodeLoad, NodeRecord, Ownership, SessionRecord
from martlet.mother.picture import Picture

logger = logging.getLogger(__name__)

T = TypeVar("T")

PRESENCE_POLL_S = 1.0
GRACE_S = 2.0
"""A node is down when its lease has been missing so long: after an outage of the bus all leases are gone at once."""
ABSENT_S = 30.0
"""How long an agent that has an order in its hands may be away before the order is given up for lost."""
RETRY_S = 1.0


class Watcher:
    """The live picture; made by `watching`."""

    def __init__(self, bus: Bus) -> None:
        self.sessions = bus.table(Bucket.SESSIONS, SessionRecord)
        self.owners = bus.table(Bucket.OWNERS, Ownership)
        self.nodes = bus.table(Bucket.NODES, NodeRecord)
        self._leases = bus.table(Bucket.LEASES, LeaseRecord)
        self._bus = bus
        self._sessions: dict[str, SessionRecord] = {}
        self._owners: dict[str, Ownership] = {}
        self._nodes: dict[str, NodeRecord] = {}
        self._loads: dict[str, NodeLoad] = {}
        self._seen: dict[str, float] = {}
        self._present: frozenset[str] = frozenset()
        self._lives: dict[str, str] = {}

    async def until_gone(self, node: str) -> None:
        """Return when the agent that serves `node` now has ended: another life of it holds the lease, or none for long.

        One that is only slow comes back in the same life. Of one that is not there to begin with, asking it tells at
        once; so this waits for ever.
        """
        if node not in self._present:
            await anyio.sleep_forever()
        life, last_seen = self._lives.get(node), time.monotonic()
        while self._lives.get(node) == life and time.monotonic() - last_seen < ABSENT_S:
            await anyio.sleep(PRESENCE_POLL_S / 2)
            if node in self._present:
                last_seen = time.monotonic()

    def picture(self) -> Picture:
        """The cluster as it is known at this moment."""
        return Picture(
            sessions=dict(self._sessions),
            owners=dict(self._owners),
            nodes=dict(self._nodes),
            loads=dict(self._loads),
            present=self._present,
        )

    def take_load(self, load: NodeLoad) -> None:
        self._loads[load.node] = load

    async def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Read everything once, then go on in `tasks`."""
        await tasks.start(self._follow, self.sessions, self._sessions)
        await tasks.start(self._follow, self.owners, self._owners)
        await tasks.start(self._follow, self.nodes, self._nodes)
        self._seen = dict.fromkeys(self._nodes, time.monotonic())
        self._present = present(self._seen, frozenset(), now_s=time.monotonic())
        tasks.start_soon(self._poll_presence)

    async def _follow(
        self,
        table: Table[T],
        into: dict[str, T],
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        snapshot = await _patiently(table)
        into.update({key: stored.value for key, stored in snapshot.values.items()})
        task_status.started()
        async with table.watch(after=snapshot.revision) as changes:
            async for change in changes:
                if change.value is None:
                    into.pop(change.key, None)
                else:
                    into[change.key] = change.value

    async def _poll_presence(self) -> None:
        while True:
            try:
                leases = await self._leases.all()
                found = holders(leases, prefix=presence_key(""))
            except Unreachable as error:
                logger.warning("presence unknown: %s", error)
                self._seen = dict.fromkeys(self._seen, time.monotonic())
            else:
                self._lives |= {name: leases[presence_key(name)].token for name in found}
                await self._judge(found)
            await anyio.sleep(PRESENCE_POLL_S)

    async def _judge(self, found: frozenset[str]) -> None:
        self._seen |= dict.fromkeys(found, time.monotonic())
        before, self._present = self._present, present(self._seen, found, now_s=time.monotonic())
        for name in sorted(self._present - before):
            await self._tell("node_up", name, f"node {name} is up")
        for name in sorted(before - self._present):
            await self._tell("node_down", name, f"node {name} is down: its presence lease ran out")

    async def _tell(self, kind: str, node: str, text: str) -> None:
        logger.info(text)
        await self._bus.events.publish(Event(time=now(), kind=kind, node=node, text=text))


def present(seen: dict[str, float], found: frozenset[str], *, now_s: float) -> frozenset[str]:
    """The nodes that hold their lease (`found`), or did less than `GRACE_S` ago (`seen`, monotonic seconds)."""
    return found | {name for name, at in seen.items() if now_s - at < GRACE_S}


@asynccontextmanager
async def watching(bus: Bus) -> AsyncIterator[Watcher]:
    """A picture that is complete, and kept up to date until the context is left."""
    watcher = Watcher(bus)
    loads = await bus.listen(LOAD_SUBJECT, NodeLoad, watcher.take_load)
    try:
        async with anyio.create_task_group() as tasks:
            await watcher.start(tasks)
            yield watcher
            tasks.cancel_scope.cancel()
    finally:
        await loads.stop()


async def _patiently(table: Table[T]) -> Snapshot[T]:
    while True:
        try:
            return await table.snapshot()
        except Unreachable as error:
            logger.warning("cannot read '%s' yet: %s", table.bucket, error)
            await anyio.sleep(RETRY_S)
