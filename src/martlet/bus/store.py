"""Key-value buckets with compare-and-swap, holding the model's records as JSON.

Reads go to the leader. Knows no record in particular and decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import msgspec

from martlet.bus.feed import Feed, following
from martlet.bus.names import Bucket
from martlet.bus.transport import Entry, Transport, bucket_log
from martlet.errors import Conflict

T = TypeVar("T")


class Stored(NamedTuple, Generic[T]):
    """A value and the revision at which it stands."""

    value: T
    revision: int


class Change(NamedTuple, Generic[T]):
    """A key's new value, None when it was deleted."""

    key: str
    value: T | None
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Generic[T]):
    """All values of a bucket; `watch(after=revision)` goes on from here."""

    values: Mapping[str, Stored[T]]
    revision: int


class Changes(Generic[T]):
    """An endless iterator of changes; made by `Table.watch`."""

    def __init__(self, table: Table[T], feed: Feed) -> None:
        self._table = table
        self._feed = feed

    def __aiter__(self) -> Changes[T]:
        return self

    async def __anext__(self) -> Change[T]:
        return self._table.change(await anext(self._feed))


class Table(Generic[T]):
    """One bucket. Every method may raise Unreachable: for a write this means that the outcome is unknown."""

    def __init__(self, transport: Transport, bucket: Bucket, shape: type[T]) -> None:
        self.bucket = bucket
        self._transport = transport
        self._shape = shape
        self._log = bucket_log(bucket)

    async def get(self, key: str) -> Stored[T] | None:
        """The value of `key` with its revision, None when there is none."""
        entry = await self._transport.last(self._log, self._subject(key))
        return None if entry is None or entry.deleted else Stored(self._decoded(entry), entry.revision)

    async def create(self, key: str, value: T) -> int:
        """Write `key`, which must have no value, and return the revision.

        Raises:
            Conflict: it has one.
        """
        try:
            return await self.swap(key, value, 0)
        except Conflict:
            marker = await self._transport.last(self._log, self._subject(key))
            if marker is None or not marker.deleted:
                raise
            return await self.swap(key, value, marker.revision)

    async def put(self, key: str, value: T) -> int:
        """Write `key` whatever it holds, and return the revision. Only for keys with one writer."""
        return await self._transport.append(self._log, self._subject(key), msgspec.json.encode(value))

    async def swap(self, key: str, value: T, revision: int) -> int:
        """Write `key` only while it stands at `revision`, and return the new revision.

        Raises:
            Conflict: it stands elsewhere: somebody else swapped, or this caller did in an earlier call whose answer
                was lost. After a Conflict a `get` says which.
            Unreachable: unknown outcome. Swap again on the same revision: success or Conflict settles it, a read
                before that does not (the first swap may still be on its way).
        """
        return await self._transport.append(self._log, self._subject(key), msgspec.json.encode(value), expect=revision)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete `key`, only while it stands at `revision` if that is given (else Conflict)."""
        await self._transport.append(self._log, self._subject(key), b"", expect=revision, deleted=True)

    async def snapshot(self) -> Snapshot[T]:
        """All values. Changes during the reading are in it or come after its revision."""
        values: dict[str, Stored[T]] = {}
        revision = 0
        while entry := await self._transport.after(self._log, revision):
            revision = entry.revision
            change = self.change(entry)
            if change.value is None:
                values.pop(change.key, None)
            else:
                values[change.key] = Stored(change.value, revision)
        return Snapshot(values=values, revision=revision)

    async def all(self) -> dict[str, T]:
        """All values by key."""
        return {key: stored.value for key, stored in (await self.snapshot()).values.items()}

    async def keys(self) -> list[str]:
        """All keys that have a value, sorted."""
        return sorted((await self.snapshot()).values)

    @asynccontextmanager
    async def watch(self, *, after: int = 0) -> AsyncIterator[Changes[T]]:
        """Changes above revision `after`, beginning with what is there: `async with t.watch() as c: async for …`."""
        async with following(self._transport, self._log, after=after) as feed:
            yield Changes(self, feed)

    async def forget_deleted(self, *, older_s: float) -> int:
        """Remove the marks that keys deleted more than `older_s` ago leave behind; returns how many.

        Readings stay short that way. A watch that is further behind than `older_s` would miss the deletion.
        """
        revision, count = 0, 0
        while entry := await self._transport.after(self._log, revision):
            revision = entry.revision
            if entry.deleted and entry.age_s >= older_s:
                await self._transport.forget(self._log, entry.subject, through=revision)
                count += 1
        return count

    def change(self, entry: Entry) -> Change[T]:
        """The change that `entry` is."""
        key = entry.subject.removeprefix(f"$KV.{self.bucket}.")
        return Change(key, None if entry.deleted else self._decoded(entry), entry.revision)

    def _subject(self, key: str) -> str:
        return f"$KV.{self.bucket}.{key}"

    def _decoded(self, entry: Entry) -> T:
        return msgspec.json.decode(entry.data, type=self._shape)
