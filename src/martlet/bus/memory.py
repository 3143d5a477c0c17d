"""The transport's twin in memory, for tests and the simulator: same answers, no server, no disk.

Any number of clients of one `Broker` share its logs. Proven equal to the real one by one contract test for both.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from martlet.bus.names import changed_subject
from martlet.bus.transport import Entry, Log, Message, Transport
from martlet.errors import Conflict, NobodyThere, TooSlow, Unreachable


@dataclass(slots=True, eq=False)
class _Listener:
    subject: str
    deliver: Callable[[Message], None]
    listeners: list[_Listener]

    async def stop(self) -> None:
        if self in self.listeners:
            self.listeners.remove(self)


@dataclass(slots=True)
class _Kept:
    entries: list[tuple[float, Entry]] = field(default_factory=list)
    newest: int = 0


class Broker(Transport):
    """A whole bus. `up = False` makes it unreachable; `now` is a monotonic clock in seconds."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.up = True
        self._now = now
        self._listeners: list[_Listener] = []
        self._logs: dict[str, _Kept] = {}
        self._inboxes = itertools.count()

    async def broken(self) -> None:
        await asyncio.Event().wait()

    async def request(self, subject: str, data: bytes, *, deadline_s: float) -> bytes:
        self._need_up(subject)
        inbox = f"_INBOX.{next(self._inboxes)}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def settle(message: Message) -> None:
            if not answer.done():
                answer.set_result(message.data)

        waiting = await self.subscribe(inbox, settle)
        try:
            if not self._send(Message(subject=subject, data=data, reply=inbox)):
                raise NobodyThere(f"nobody on the bus answers '{subject}'")
            async with asyncio.timeout(deadline_s):
                return await answer
        except TimeoutError as error:
            raise TooSlow(f"no answer to '{subject}' within {deadline_s:g} s") from error
        finally:
            await waiting.stop()

    async def publish(self, subject: str, data: bytes) -> None:
        self._need_up(subject)
        self._send(Message(subject=subject, data=data))

    async def subscribe(self, subject: str, deliver: Callable[[Message], None]) -> _Listener:
        listener = _Listener(subject=subject, deliver=deliver, listeners=self._listeners)
        self._listeners.append(listener)
        return listener

    async def ensure(self, log: Log) -> None:
        self._need_up(log.name)
        self._logs.setdefault(log.name, _Kept())

    async def append(
        self, log: Log, subject: str, data: bytes, *, expect: int | None = None, deleted: bool = False
    ) -> int:
        kept = self._kept(log)
        found = await self.last(log, subject)
        if expect is not None and expect != (found.revision if found else 0):
            raise Conflict(f"'{subject}' is not at revision {expect} any more")
        kept.newest += 1
        if log.last_only:
            kept.entries = [item for item in kept.entries if item[1].subject != subject]
        entry = Entry(subject=subject, data=data, revision=kept.newest, deleted=deleted)
        kept.entries.append((self._now(), entry))
        self._send(Message(subject=changed_subject(log.name).replace(">", "entry"), data=b""))
        return kept.newest

    async def last(self, log: Log, subject: str) -> Entry | None:
        return next((entry for _, entry in reversed(self._kept(log).entries) if entry.subject == subject), None)

    async def after(self, log: Log, revision: int) -> Entry | None:
        found = next((item for item in self._kept(log).entries if item[1].revision > revision), None)
        if found is None:
            return None
        at, entry = found
        return replace(entry, age_s=self._now() - at) if entry.deleted else entry

    async def newest(self, log: Log) -> int:
        return self._kept(log).newest

    async def forget(self, log: Log, subject: str, *, through: int) -> None:
        kept = self._kept(log)
        kept.entries = [item for item in kept.entries if item[1].subject != subject or item[1].revision > through]

    def _kept(self, log: Log) -> _Kept:
        self._need_up(log.name)
        if log.name not in self._logs:
            raise Unreachable(f"nobody on the bus keeps '{log.name}'")
        kept = self._logs[log.name]
        if log.max_age_s:
            oldest = self._now() - log.max_age_s
            kept.entries = [item for item in kept.entries if item[0] > oldest]
        return kept

    def _send(self, message: Message) -> int:
        """Deliver to every listener; returns how many there were."""
        hearers = [item for item in self._listeners if matches(item.subject, message.subject)]
        for hearer in hearers:
            hearer.deliver(message)
        return len(hearers)

    def _need_up(self, what: str) -> None:
        if not self.up:
            raise Unreachable(f"no connection to the bus for '{what}'")


def matches(pattern: str, subject: str) -> bool:
    """Whether `subject` falls under `pattern`, by NATS's rules for `*` and `>`."""
    wanted, given = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(given) >= len(wanted) and _tokens_match(wanted[:-1], given[: len(wanted) - 1])
    return len(given) == len(wanted) and _tokens_match(wanted, given)


def _tokens_match(wanted: list[str], given: list[str]) -> bool:
    return all(want in ("*", token) for want, token in zip(wanted, given, strict=True))
