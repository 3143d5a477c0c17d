"""Leases: a key that is gone when its holder does not renew it. Presence of a node, leadership of a mother.

A holder gives up by its own clock before the store does. Says nothing about what the lease is for.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import anyio

from martlet.bus.names import LEASE_S
from martlet.bus.store import Stored, Table
from martlet.errors import Conflict, Unreachable

logger = logging.getLogger(__name__)

During = Callable[[int], Coroutine[Any, Any, None]]
"""What runs while a lease is held; takes the revision at which it was acquired."""

ACQUIRE_S = 0.5
"""Seconds between two tries to get a lease that somebody else holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Who holds a lease. `token` tells two lives of one holder apart: the new one takes over from the old. `tenure`
    counts how often this life has acquired it: after a loss, what it did before has ended."""

    holder: str
    token: str
    tenure: int = 0


class Lease:
    """One lease as one holder sees it. `revision` is 0 while it is not held."""

    def __init__(self, table: Table[LeaseRecord], key: str, holder: str) -> None:
        self.key = key
        self.revision = 0
        self._table = table
        self._mine = LeaseRecord(holder=holder, token=uuid.uuid4().hex)
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether the lease is ours for certain: renewed less than `LEASE_S` ago by our own clock."""
        return self.revision > 0 and time.monotonic() < self._until

    async def hold(self, during: During) -> NoReturn:
        """Acquire, renew, and acquire again, for ever; give back when cancelled.

        `during` runs while the lease is held, with the revision at which it was acquired, and is cancelled
        the moment it is lost.
        """
        try:
            while True:
                await self._tenure(during)
        finally:
            await self._give_back()

    async def _tenure(self, during: During) -> None:
        await self._acquire()
        logger.info("lease %s: held since revision %d", self.key, self.revision)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(during, self.revision)
            await self._renew()
            tasks.cancel_scope.cancel()
        logger.warning("lease %s: lost", self.key)

    async def _acquire(self) -> None:
        self._mine = replace(self._mine, tenure=self._mine.tenure + 1)
        while not self.held:
            try:
                await self._try_acquire()
            except (Conflict, Unreachable) as error:
                logger.debug("lease %s: %s", self.key, error)
                await anyio.sleep(ACQUIRE_S)

    async def _try_acquire(self) -> None:
        found = await self._table.get(self.key)
        if found is None:
            await self._write(lambda: self._table.create(self.key, self._mine))
        elif found.value.holder == self._mine.holder:
            await self._write(lambda: self._table.swap(self.key, self._mine, found.revision))
        else:
            raise Conflict(f"held by {found.value.holder}")

    async def _renew(self) -> None:
        """Return when the lease is lost."""
        while self.held:
            await anyio.sleep(LEASE_S / 3)
            with anyio.move_on_at(self._deadline()):
                await self._try_renew()
        self.revision = 0

    async def _try_renew(self) -> None:
        try:
            await self._write(lambda: self._table.swap(self.key, self._mine, self.revision))
        except Unreachable as error:
            logger.warning("lease %s: cannot renew: %s", self.key, error)
        except Conflict:
            await self._settle()

    async def _settle(self) -> None:
        """A swap lost: to an earlier one of our own whose answer never came, or to somebody else."""
        try:
            found = await self._table.get(self.key)
        except Unreachable:
            return
        if found is not None and found.value == self._mine:
            self.revision = found.revision
        else:
            self._until = 0.0

    async def _write(self, write: Callable[[], Awaitable[int]]) -> None:
        before = time.monotonic()
        self.revision = await write()
        self._until = before + LEASE_S

    async def _give_back(self) -> None:
        if self.held:
            with anyio.move_on_after(1.0, shield=True):
                try:
                    await self._table.delete(self.key, revision=self.revision)
                except (Conflict, Unreachable) as error:
                    logger.debug("lease %s: not given back: %s", self.key, error)
        self.revision = 0

    def _deadline(self) -> float:
        return anyio.current_time() + self._until - time.monotonic()


def holders(leases: dict[str, LeaseRecord] | dict[str, Stored[LeaseRecord]], *, prefix: str) -> frozenset[str]:
    """The names behind `prefix` that hold a lease, for instance the nodes present."""
    return frozenset(key.removeprefix(prefix) for key in leases if key.startswith(prefix))
