"""The bus as the daemons and the command line see it: ask, serve, tell, and the tables and events.

Carries bodies; knows no verb. Errors of the other side arrive as the exceptions that it raised.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.abc
import msgspec

from martlet.bus import nats
from martlet.bus.events import Events
from martlet.bus.lease import Lease, LeaseRecord
from martlet.bus.names import Bucket, Role, identity
from martlet.bus.orders import Answer, Order
from martlet.bus.store import Table
from martlet.bus.transport import ALL_LOGS, Message, Subscription, Transport
from martlet.config import Config
from martlet.errors import BY_EXIT, Exit, MartletError, TooSlow, Unreachable

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")
Handler = Callable[[B, Order], Awaitable[object]]
"""Takes the decoded body and its envelope; returns the answer's body or raises MartletError."""

Gone = Callable[[], Awaitable[MartletError]]
"""Returns when the other side has ended, with the error that says so; as long as it lives it does not return."""

ASK_DEADLINE_S = 10.0
ENSURE_RETRY_S = 1.0
TAKEN_S = 0.3
"""An order that was not refused within this time has been taken."""


class Bus:
    """One connection to the bus as one identity; made by `connect` or `attached`."""

    def __init__(self, transport: Transport, *, who: str, tasks: anyio.abc.TaskGroup) -> None:
        self.who = who
        self.events = Events(transport, source=who)
        self._transport = transport
        self._tasks = tasks

    async def ask(
        self, subject: str, body: object, answer: type[A], deadline_s: float = ASK_DEADLINE_S, *, term: int = 0
    ) -> A:
        """Send an order and return the answer's body as `answer` (`type(None)` for null).

        Raises:
            MartletError: the subclass that the other side raised, with its reasons.
            NobodyThere: nobody serves `subject` (at once). TooSlow: no answer within `deadline_s`.
            Unreachable: both of these, or no connection.
        """
        order = Order(body=msgspec.Raw(msgspec.json.encode(body)), term=term, sender=self.who)
        raw = await self._transport.request(subject, msgspec.json.encode(order), deadline_s=deadline_s)
        return _opened(raw, answer)

    async def ask_while(self, gone: Gone, ask: Coroutine[Any, Any, A]) -> A:
        """The answer to `ask`, or the error that `gone` returns, if it does so first: for orders that take long.

        Raises:
            MartletError: what `ask` raises, or what `gone` returned.
        """
        ended: list[A] = []
        failed: list[MartletError] = []
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                failed.append(await gone())
                tasks.cancel_scope.cancel()

            async def wait() -> None:
                try:
                    ended.append(await ask)
                except MartletError as error:
                    failed.append(error)
                tasks.cancel_scope.cancel()

            tasks.start_soon(watch)
            tasks.start_soon(wait)
        if ended:
            return ended[0]
        raise failed[0]

    async def tell(self, subject: str, body: object) -> None:
        """Send an order and wait only long enough to know that somebody took it.

        Raises:
            MartletError: it was answered with an error at once. NobodyThere: nobody serves `subject`.
        """
        with contextlib.suppress(TooSlow):
            await self.ask(subject, body, object, TAKEN_S)

    async def serve(self, subject: str, body: type[B], handler: Handler[B]) -> Subscription:
        """Answer the orders on `subject` with `handler`, each in a task of its own, until the result is stopped."""

        def deliver(message: Message) -> None:
            self._tasks.start_soon(self._handle, message, body, handler)

        return await self._transport.subscribe(subject, deliver)

    async def publish(self, subject: str, body: object) -> None:
        """Send `body` to whoever listens now. Raises Unreachable without a connection."""
        await self._transport.publish(subject, msgspec.json.encode(body))

    async def listen(self, subject: str, body: type[B], deliver: Callable[[B], None]) -> Subscription:
        """Call `deliver`, which must not block, with every body published on `subject`."""
        return await self._transport.subscribe(subject, lambda message: _deliver(message, body, deliver))

    def table(self, bucket: Bucket, shape: type[A]) -> Table[A]:
        """The records of `bucket`."""
        return Table(self._transport, bucket, shape)

    def lease(self, key: str) -> Lease:
        """The lease `key`, to be held by this identity."""
        return Lease(self.table(Bucket.LEASES, LeaseRecord), key, self.who)

    async def ensure_stores(self) -> None:
        """Make the buckets and the record of events where they are missing; waits for a bus that is not there."""
        for log in ALL_LOGS:
            while True:
                try:
                    await self._transport.ensure(log)
                    break
                except Unreachable as error:
                    logger.warning("the store is not ready: %s", error)
                    await anyio.sleep(ENSURE_RETRY_S)

    async def _handle(self, message: Message, body: type[B], handler: Handler[B]) -> None:
        answer = await _answered(message, body, handler)
        if not message.reply:
            return
        try:
            await self._transport.publish(message.reply, msgspec.json.encode(answer))
        except MartletError as error:
            logger.warning("the answer to %s was not sent: %s", message.subject, error)


@asynccontextmanager
async def attached(transport: Transport, *, who: str) -> AsyncIterator[Bus]:
    """A bus over `transport`. Leaving the context ends its handlers; a lone error inside it stays unwrapped."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_end_when_broken, transport)
            yield Bus(transport, who=who, tasks=tasks)
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _lone(group) from None


@asynccontextmanager
async def connect(config: Config, role: Role, *, deadline_s: float | None = None) -> AsyncIterator[Bus]:
    """Connect as `role` of this machine with the configured certificate, and stay connected.

    Raises:
        UsageError: certificates cannot be read. Unreachable: not connected within `deadline_s` (None: wait on).
    """
    who = identity(role, config.node.name)
    async with nats.connected(config, who=who, deadline_s=deadline_s) as transport, attached(transport, who=who) as bus:
        yield bus


def _lone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The only exception in `group`, or `group`."""
    only = group.exceptions[0]
    if len(group.exceptions) > 1:
        return group
    return _lone(only) if isinstance(only, BaseExceptionGroup) else only


async def _end_when_broken(transport: Transport) -> None:
    await transport.broken()
    raise Unreachable("the bus closed the connection for good: see its log for why it refuses this identity")


async def _answered(message: Message, body: type[B], handler: Handler[B]) -> Answer:
    try:
        order = msgspec.json.decode(message.data, type=Order)
        result = await handler(msgspec.json.decode(order.body, type=body), order)
        return Answer(body=msgspec.Raw(msgspec.json.encode(result)))
    except MartletError as error:
        return Answer(exit=Exit(error.exit), error=error.message, reasons=error.reasons)
    except msgspec.MsgspecError as error:
        return Answer(exit=Exit.USAGE, error=f"the order on '{message.subject}' is not of the expected shape: {error}")
    except Exception as error:
        logger.exception("the handler of %s failed", message.subject)
        return Answer(
            exit=Exit.FAILED, error=f"'{message.subject}' failed by a defect: {type(error).__name__}: {error}"
        )


def _opened(raw: bytes, shape: type[A]) -> A:
    answer = msgspec.json.decode(raw, type=Answer)
    if answer.exit is not Exit.DONE:
        raise BY_EXIT[answer.exit](answer.error, reasons=answer.reasons)
    return msgspec.json.decode(answer.body, type=shape)


def _deliver(message: Message, body: type[B], deliver: Callable[[B], None]) -> None:
    try:
        deliver(msgspec.json.decode(message.data, type=body))
    except msgspec.MsgspecError as error:
        logger.warning("ignored a message on %s: %s", message.subject, error)
