"""Bytes to and from one RFB server over asyncio streams, with every failure mapped to a display error.

Knows host and port for the messages, and no word of the protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct

from martlet.rfb.errors import DisplayClosed, DisplayUnreachable


class Wire:
    """A connection; reading gives exactly what was asked for or raises `DisplayClosed`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._reader = reader
        self._writer = writer

    async def read(self, count: int) -> bytes:
        try:
            return await self._reader.readexactly(count)
        except asyncio.IncompleteReadError as error:
            missing = f"{len(error.partial)} of {count} bytes of a message had come"
            raise DisplayClosed(f"the server closed; {missing}", host=self.host, port=self.port) from error
        except OSError as error:
            raise DisplayClosed(f"the connection broke: {error}", host=self.host, port=self.port) from error

    async def number(self, layout: str) -> int:
        """One big-endian number of the `struct` layout `B`, `H` or `I`."""
        data = await self.read(struct.calcsize("!" + layout))
        value: int = struct.unpack("!" + layout, data)[0]
        return value

    async def skip(self, count: int) -> None:
        """Read and forget `count` bytes, a little at a time."""
        while count > 0:
            count -= len(await self.read(min(count, 65536)))

    async def send(self, data: bytes) -> None:
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise DisplayClosed(f"the connection broke: {error}", host=self.host, port=self.port) from error

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def dial(host: str, port: int) -> Wire:
    """Connect.

    Raises:
        DisplayUnreachable: nobody listens there, or the host has no such route.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError as error:
        why = error.strerror or error
        raise DisplayUnreachable(f"cannot connect: {why}; does the session run?", host=host, port=port) from error
    return Wire(reader, writer, host=host, port=port)
