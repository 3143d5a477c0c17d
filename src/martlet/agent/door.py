"""The agent's door: one TCP port for streams between identities of the cluster (moves, verdicts, exec).

Takes a stream in, looks who it is and what it wants, and hands it to a worker thread.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio
import anyio.abc

from martlet import wire
from martlet.config import Config
from martlet.errors import MartletError, ToolFailed
from martlet.wire import Channel

logger = logging.getLogger(__name__)

STREAMS_AT_ONCE = 256
BACKLOG = 64
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a purpose leads to, and the roles (first part of an identity) that may ask for it."""

    serve: Callable[[Channel], None]
    roles: frozenset[str]


async def stand_open(config: Config, services: Mapping[str, Service]) -> None:
    """Serve streams until cancelled."""
    context = wire.context(config.tls, server=True)
    limiter = anyio.CapacityLimiter(STREAMS_AT_ONCE)
    listener = socket.create_server((config.node.address, config.node.door_port), backlog=BACKLOG)
    listener.setblocking(False)
    with listener:
        async with anyio.create_task_group() as tasks:
            while True:
                await anyio.wait_readable(listener)
                try:
                    plain, _ = listener.accept()
                except OSError:
                    continue
                tasks.start_soon(_admit, plain, context, services, limiter)


async def _admit(
    plain: socket.socket, context: ssl.SSLContext, services: Mapping[str, Service], limiter: anyio.CapacityLimiter
) -> None:
    await anyio.to_thread.run_sync(_serve, plain, context, services, limiter=limiter, abandon_on_cancel=True)


def _serve(plain: socket.socket, context: ssl.SSLContext, services: Mapping[str, Service]) -> None:
    """One stream from greeting to end, in a thread of its own."""
    try:
        plain.settimeout(PATIENCE_S)
        channel = Channel(context.wrap_socket(plain, server_side=True))
    except (OSError, ValueError) as error:
        logger.warning("a stream was refused: %s", error)
        plain.close()
        return
    try:
        channel.greet(patience_s=PATIENCE_S)
        service = services.get(channel.purpose)
        if service is None or channel.peer.split(".")[0] not in service.roles:
            raise ToolFailed(f"'{channel.peer}' may not ask for '{channel.purpose}' here")
        service.serve(channel)
    except MartletError as error:
        logger.warning("stream '%s' of %s: %s", channel.purpose, channel.peer, error)
    except Exception:
        logger.exception("stream '%s' of %s", channel.purpose, channel.peer)
    finally:
        channel.close()
