"""The change feed of a log: every entry in order, first what is there, then what comes.

Reads the log itself, from the leader; the server's word that something changed is only a wake-up, so a lost one
costs `POLL_S`, never an entry. The end of a lease is no entry and does not show here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from martlet.bus.names import changed_subject
from martlet.bus.transport import Entry, Log, Transport
from martlet.errors import Unreachable

logger = logging.getLogger(__name__)

POLL_S = 2.0
RETRY_S = 1.0


class Feed:
    """An endless iterator of entries above a revision. Survives outages; made by `following`."""

    def __init__(self, transport: Transport, log: Log, *, after: int) -> None:
        self._transport = transport
        self._log = log
        self._revision = after
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Entry:
        while True:
            self._changed.clear()
            try:
                entry = await self._transport.after(self._log, self._revision)
            except Unreachable as error:
                logger.debug("feed of %s: %s", self._log.name, error)
                await asyncio.sleep(RETRY_S)
                continue
            if entry is not None:
                self._revision = entry.revision
                return entry
            await self._sleep()

    async def _sleep(self) -> None:
        try:
            async with asyncio.timeout(POLL_S):
                await self._changed.wait()
        except TimeoutError:
            return


@asynccontextmanager
async def following(transport: Transport, log: Log, *, after: int = 0) -> AsyncIterator[Feed]:
    """The entries of `log` above revision `after`, until the context is left."""
    feed = Feed(transport, log, after=after)
    hint = await transport.subscribe(changed_subject(log.name), lambda _: feed.wake())
    try:
        yield feed
    finally:
        await hint.stop()
