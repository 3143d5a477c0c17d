"""Events: what happened, for people and for the record, kept for 30 days or 256 MB.

An event that cannot be written is logged and lost: nothing waits for the record.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec

from martlet.bus.feed import Feed, following
from martlet.bus.names import event_subject
from martlet.bus.transport import EVENTS_LOG, Transport
from martlet.errors import Unreachable
from martlet.model import Event

logger = logging.getLogger(__name__)


def now() -> str:
    """The time as events write it: ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class EventFeed:
    """An endless iterator of events; made by `Events.follow`."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __aiter__(self) -> EventFeed:
        return self

    async def __anext__(self) -> Event:
        return msgspec.json.decode((await anext(self._feed)).data, type=Event)


class Events:
    """The record of events, as `source` writes it."""

    def __init__(self, transport: Transport, *, source: str) -> None:
        self._transport = transport
        self._source = source

    async def publish(self, event: Event) -> None:
        """Write `event`; when the bus is unreachable, log it and go on."""
        try:
            await self._transport.append(EVENTS_LOG, event_subject(self._source), msgspec.json.encode(event))
        except Unreachable as error:
            logger.warning("event not recorded (%s): %s", error, event.text)

    async def history(self, limit: int = 1000) -> list[Event]:
        """The last events, at most `limit`, oldest first."""
        revision = max(0, await self._transport.newest(EVENTS_LOG) - limit)
        found: list[Event] = []
        while entry := await self._transport.after(EVENTS_LOG, revision):
            revision = entry.revision
            found.append(msgspec.json.decode(entry.data, type=Event))
        return found

    @asynccontextmanager
    async def follow(self, *, last: int = 0) -> AsyncIterator[EventFeed]:
        """The last `last` events and then every new one: `async with e.follow() as f: async for event in f`."""
        start = max(0, await self._transport.newest(EVENTS_LOG) - last)
        async with following(self._transport, EVENTS_LOG, after=start) as feed:
            yield EventFeed(feed)
