"""The real transport: NATS with JetStream over mutual TLS, through nats-py. Nothing else imports nats-py.

Buffers nothing across an outage: what was not sent before the connection broke is never sent.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from martlet.bus.names import SERVER_IDENTITY, changed_subject, inbox_prefix
from martlet.bus.transport import STORE_DEADLINE_S, Entry, Log, Message, Subscription, Transport
from martlet.config import Config, Tls
from martlet.errors import Conflict, MartletError, NobodyThere, TooSlow, Unreachable, UsageError

logger = logging.getLogger(__name__)

NS = 1_000_000_000
RECONNECT_S = 1
PING_S = 5
WRONG_REVISION = frozenset({10071, 10164})
BAD_REQUEST = 400
NO_MESSAGE = 10037
EXISTS_OTHERWISE = 10058
DELETE_HEADER = "KV-Operation"
EXPECT_HEADER = "Nats-Expected-Last-Subject-Sequence"


class _ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _StoredMessage(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _State(msgspec.Struct, frozen=True):
    last_seq: int = 0


class _Reply(msgspec.Struct, frozen=True):
    """The parts that we read of every JetStream answer."""

    error: _ApiError | None = None
    seq: int = 0
    message: _StoredMessage | None = None
    state: _State = _State()


class _Stoppable:
    def __init__(self, subscription: NatsSubscription) -> None:
        self._subscription = subscription

    async def stop(self) -> None:
        with contextlib.suppress(nats_errors.Error):
            await self._subscription.unsubscribe()


class NatsTransport(Transport):
    """`Transport` over one connection of nats-py."""

    def __init__(self, client: Client, *, replicas: int, closed: asyncio.Event) -> None:
        self._client = client
        self._replicas = replicas
        self._closed = closed
        self._waiting: set[asyncio.Timeout] = set()

    def connection_lost(self) -> None:
        """End the wait for answers of the store: they are lost with the connection, and the outcome is unknown."""
        for scope in self._waiting:
            if not scope.expired():
                scope.reschedule(0)

    async def broken(self) -> None:
        """Wait until the server has thrown us out for good (it does when it refuses our certificate or messages)."""
        await self._closed.wait()

    async def request(self, subject: str, data: bytes, *, deadline_s: float) -> bytes:
        return await self._request(subject, data, deadline_s=deadline_s)

    async def publish(self, subject: str, data: bytes) -> None:
        try:
            await self._client.publish(subject, data)
        except (nats_errors.Error, OSError) as error:
            raise _mapped(error, subject, deadline_s=0) from error

    async def subscribe(self, subject: str, deliver: Callable[[Message], None]) -> Subscription:
        async def hand_on(message: Msg) -> None:
            deliver(Message(subject=message.subject, data=message.data, reply=message.reply))

        try:
            return _Stoppable(await self._client.subscribe(subject, cb=hand_on))
        except (nats_errors.Error, OSError) as error:
            raise _mapped(error, subject, deadline_s=0) from error

    async def ensure(self, log: Log) -> None:
        reply = await self._api(f"STREAM.CREATE.{log.name}", stream_settings(log, replicas=self._replicas))
        if reply.error and reply.error.err_code == EXISTS_OTHERWISE:
            logger.warning("the stream %s exists with other settings; using it as it is", log.name)
        elif reply.error and reply.error.code == BAD_REQUEST:
            raise MartletError(f"the store cannot hold {log.name}: {reply.error.description}")
        elif reply.error:
            raise _refused(f"make the stream {log.name}", reply.error)

    async def append(
        self, log: Log, subject: str, data: bytes, *, expect: int | None = None, deleted: bool = False
    ) -> int:
        headers = {EXPECT_HEADER: str(expect)} if expect is not None else {}
        headers |= {DELETE_HEADER: "DEL"} if deleted else {}
        raw = await self._store_request(subject, data, headers=headers or None)
        reply = msgspec.json.decode(raw, type=_Reply)
        if reply.error and reply.error.err_code in WRONG_REVISION:
            raise Conflict(f"'{subject}' is not at revision {expect} any more: {reply.error.description}")
        if reply.error:
            raise _refused(f"write '{subject}'", reply.error)
        return reply.seq

    async def last(self, log: Log, subject: str) -> Entry | None:
        return await self._read(log, {"last_by_subj": subject})

    async def after(self, log: Log, revision: int) -> Entry | None:
        return await self._read(log, {"seq": revision + 1, "next_by_subj": log.subject})

    async def newest(self, log: Log) -> int:
        reply = await self._api(f"STREAM.INFO.{log.name}", {})
        if reply.error:
            raise _refused(f"look at the stream {log.name}", reply.error)
        return reply.state.last_seq

    async def forget(self, log: Log, subject: str, *, through: int) -> None:
        reply = await self._api(f"STREAM.PURGE.{log.name}", {"filter": subject, "seq": through + 1})
        if reply.error:
            raise _refused(f"remove old entries of '{subject}'", reply.error)

    async def _read(self, log: Log, query: dict[str, Any]) -> Entry | None:
        reply = await self._api(f"STREAM.MSG.GET.{log.name}", query)
        if reply.error and reply.error.err_code == NO_MESSAGE:
            return None
        if reply.error or reply.message is None:
            raise _refused(f"read {query} of {log.name}", reply.error or _ApiError())
        return _entry(reply.message)

    async def _api(self, verb: str, body: dict[str, Any]) -> _Reply:
        raw = await self._store_request(f"$JS.API.{verb}", msgspec.json.encode(body))
        return msgspec.json.decode(raw, type=_Reply)

    async def _store_request(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None) -> bytes:
        try:
            async with asyncio.timeout(STORE_DEADLINE_S) as scope:
                self._waiting.add(scope)
                try:
                    return await self._request(subject, data, deadline_s=2 * STORE_DEADLINE_S, headers=headers)
                finally:
                    self._waiting.discard(scope)
        except TimeoutError as error:
            raise Unreachable(f"the store did not answer '{subject}'") from error

    async def _request(
        self, subject: str, data: bytes, *, deadline_s: float, headers: dict[str, str] | None = None
    ) -> bytes:
        try:
            answer = await self._client.request(subject, data, timeout=deadline_s, headers=headers)
        except (nats_errors.Error, OSError) as error:
            raise _mapped(error, subject, deadline_s=deadline_s) from error
        return answer.data


@asynccontextmanager
async def connected(config: Config, *, who: str, deadline_s: float | None = None) -> AsyncIterator[NatsTransport]:
    """A connection as identity `who`, which reconnects for ever once it stood.

    Raises:
        UsageError: certificates cannot be read. Unreachable: no server took us within `deadline_s` (None: wait on).
    """
    client = Client()
    context = tls_context(config.tls)
    faults: list[str] = []
    thrown_out = asyncio.Event()

    transport = NatsTransport(client, replicas=3 if len(config.bus.urls) >= 3 else 1, closed=thrown_out)

    async def closed() -> None:
        thrown_out.set()

    async def failed(error: Exception) -> None:
        text = str(error) or type(error).__name__
        logger.warning("bus: %s", text)
        if text not in faults:
            faults[:] = [*faults[-2:], text]

    async def disconnected() -> None:
        _drop_unsent(client)
        transport.connection_lost()
        if not client.is_closed:
            logger.warning("bus: connection lost, trying again every %d s", RECONNECT_S)

    async def reconnected() -> None:
        logger.info("bus: connected again")

    try:
        async with asyncio.timeout(deadline_s):
            await client.connect(
                servers=list(config.bus.urls),
                name=who,
                tls=context,
                tls_hostname=SERVER_IDENTITY,
                inbox_prefix=inbox_prefix(who),
                pending_size=0,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_S,
                ping_interval=PING_S,
                error_cb=failed,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                closed_cb=closed,
            )
    except TimeoutError as error:
        await client.close()
        why = ", ".join(faults) or "no answer"
        raise Unreachable(f"no bus at {', '.join(config.bus.urls)} within {deadline_s:g} s: {why}") from error
    try:
        yield transport
    finally:
        await client.close()


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Mutual TLS: our certificate, and only servers that the cluster's authority vouches for.

    Raises:
        UsageError: a file is missing or is no certificate.
    """
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(tls.ca))
        context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise UsageError(f"cannot use the certificates {tls.ca}, {tls.cert}, {tls.key}: {error}") from error
    return context


def stream_settings(log: Log, *, replicas: int) -> dict[str, Any]:
    """The JetStream configuration of `log` (NATS: JetStream API, `STREAM.CREATE`). Durations in nanoseconds."""
    window_s = min(120.0, log.max_age_s) if log.max_age_s else 120.0
    return {
        "name": log.name,
        "subjects": [log.subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new" if log.last_only else "old",
        "max_bytes": log.max_bytes,
        "max_msgs_per_subject": 1 if log.last_only else -1,
        "max_age": int(log.max_age_s * NS),
        "duplicate_window": int(window_s * NS),
        "num_replicas": replicas,
        "allow_direct": False,
        "republish": {"src": log.subject, "dest": changed_subject(log.name), "headers_only": True},
    }


def _drop_unsent(client: Client) -> None:
    """Forget what nats-py would send after it reconnects; a swap must not be applied behind its caller's back."""
    client._pending.clear()
    client._pending_data_size = 0


def _entry(message: _StoredMessage) -> Entry:
    deleted = DELETE_HEADER.encode() + b":" in base64.b64decode(message.hdrs)
    return Entry(
        subject=message.subject,
        data=base64.b64decode(message.data),
        revision=message.seq,
        deleted=deleted,
        age_s=(datetime.now(UTC) - datetime.fromisoformat(message.time)).total_seconds() if deleted else 0.0,
    )


def _refused(what: str, error: _ApiError) -> Unreachable:
    return Unreachable(f"the store did not {what}: {error.description} ({error.err_code})")


def _mapped(error: Exception, subject: str, *, deadline_s: float) -> MartletError:
    match error:
        case nats_errors.NoRespondersError():
            return NobodyThere(f"nobody on the bus answers '{subject}'")
        case nats_errors.TimeoutError():
            return TooSlow(f"no answer to '{subject}' within {deadline_s:g} s")
        case nats_errors.OutboundBufferLimitError():
            return Unreachable(f"no connection to the bus for '{subject}'")
        case nats_errors.MaxPayloadError():
            return MartletError(f"the message to '{subject}' is too large for the bus")
        case _:
            return Unreachable(f"the bus failed '{subject}': {error or type(error).__name__}")
