"""A client of one display: the handshake, the updates that keep its picture true, keys and pointer.

Speaks RFB 3.8 (RFC 6143) without a password, to one server at a time; makes no decision about what it sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from martlet.rfb import keys, protocol
from martlet.rfb.errors import DisplayGarbled, DisplayRefused, DisplayUnreachable
from martlet.rfb.framebuffer import Framebuffer
from martlet.rfb.protocol import Encoding, Rectangle, Security, ServerMessage
from martlet.rfb.wire import Wire, dial

PORT = 5901
TEXT_BYTES = 4096
"""Longest name or reason that is kept; the rest is read and dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One FramebufferUpdate, applied. `at_ns` is CLOCK_MONOTONIC_RAW after its last byte; `pixels` were painted."""

    at_ns: int
    rectangles: int
    pixels: int
    resized: bool


class Display:
    """A connected display. Use `connect`; `framebuffer` is the picture, `name` what the server calls itself.

    One task may iterate `updates()` while others send keys. Every method may raise a `DisplayError`.
    """

    def __init__(self, wire: Wire, framebuffer: Framebuffer, name: str) -> None:
        self.framebuffer = framebuffer
        self.name = name
        self._wire = wire

    async def updates(self) -> AsyncGenerator[Update, None]:
        """The whole screen first, then each change as it comes: a new request is sent before an update is yielded."""
        await self.request(incremental=False)
        while True:
            update = await self.update()
            await self.request(incremental=not update.resized)
            yield update

    async def request(self, *, incremental: bool) -> None:
        """Ask for one update."""
        screen = self.framebuffer
        await self._wire.send(
            protocol.update_request(width=screen.width, height=screen.height, incremental=incremental)
        )

    async def update(self) -> Update:
        """Wait for the next update and apply it; other messages are read and dropped."""
        while True:
            kind = await self._wire.number("B")
            match kind:
                case ServerMessage.FRAMEBUFFER_UPDATE:
                    return await self._rectangles()
                case ServerMessage.SET_COLOUR_MAP_ENTRIES:
                    await self._wire.skip(3)
                    await self._wire.skip(6 * await self._wire.number("H"))
                case ServerMessage.BELL:
                    pass
                case ServerMessage.SERVER_CUT_TEXT:
                    await self._wire.skip(3)
                    await self._wire.skip(await self._wire.number("I"))
                case _:
                    raise self._garbled(f"message type {kind}")

    async def key(self, keysym: int, *, down: bool) -> None:
        await self._wire.send(protocol.key_event(keysym, down=down))

    async def press(self, keysym: int) -> None:
        """A key down and up again."""
        await self._wire.send(protocol.key_event(keysym, down=True) + protocol.key_event(keysym, down=False))

    async def type_text(self, text: str, *, interval_s: float = 0.0) -> None:
        """Press the keys of `text`, `interval_s` apart."""
        for character in text:
            await self.press(keys.keysym(character))
            await asyncio.sleep(interval_s)

    async def click(self, x: int, y: int) -> None:
        """Move the pointer to `x`, `y` and press its left button."""
        for buttons in (0, 1, 0):
            await self._wire.send(protocol.pointer_event(x, y, buttons=buttons))

    async def close(self) -> None:
        await self._wire.close()

    async def _rectangles(self) -> Update:
        await self._wire.skip(1)
        count = await self._wire.number("H")
        areas = [await self._rectangle() for _ in range(count)]
        resized = any(area.encoding == Encoding.DESKTOP_SIZE for area in areas)
        pixels = sum(area.pixels for area in areas if area.encoding != Encoding.DESKTOP_SIZE)
        now_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        return Update(at_ns=now_ns, rectangles=count, pixels=pixels, resized=resized)

    async def _rectangle(self) -> Rectangle:
        area = protocol.rectangle(await self._wire.read(protocol.RECTANGLE.size))
        try:
            await self._apply(area)
        except ValueError as error:
            raise self._garbled(str(error)) from error
        return area

    async def _apply(self, area: Rectangle) -> None:
        match area.encoding:
            case Encoding.RAW:
                self.framebuffer.check(area)
                self.framebuffer.put(area, await self._wire.read(area.pixels * protocol.PIXEL_BYTES))
            case Encoding.COPY_RECT:
                from_x, from_y = struct.unpack("!HH", await self._wire.read(4))
                self.framebuffer.copy(area, from_x=from_x, from_y=from_y)
            case Encoding.DESKTOP_SIZE:
                self.framebuffer.resize(width=area.width, height=area.height)
            case unknown:
                raise ValueError(f"encoding {unknown}")

    def _garbled(self, what: str) -> DisplayGarbled:
        return DisplayGarbled(f"the server sent {what}", host=self._wire.host, port=self._wire.port)


@contextlib.asynccontextmanager
async def connect(host: str, port: int = PORT, *, deadline_s: float = 10.0) -> AsyncIterator[Display]:
    """A display to use within the block; other clients of it stay connected.

    Raises:
        DisplayUnreachable: nobody answers, or the handshake takes longer than `deadline_s`.
        DisplayRefused: the server asks for a password, speaks another version, or gives its own reason.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(deadline_s):
                wire = await dial(host, port)
                stack.push_async_callback(wire.close)
                display = await handshake(wire)
        except TimeoutError as error:
            raise DisplayUnreachable(f"no answer within {deadline_s:g} s", host=host, port=port) from error
        yield display


async def handshake(wire: Wire) -> Display:
    """Version, security and both init messages (sections 7.1 to 7.3), then pixel format and encodings."""
    await _agree_version(wire)
    await _agree_security(wire)
    await wire.send(protocol.client_init(shared=True))
    init = protocol.server_init(await wire.read(protocol.SERVER_INIT.size))
    name = await _text(wire, init.name_bytes)
    await wire.send(protocol.set_pixel_format() + protocol.set_encodings())
    try:
        framebuffer = Framebuffer(width=init.width, height=init.height)
    except ValueError as error:
        raise DisplayGarbled(f"the server sent {error}", host=wire.host, port=wire.port) from error
    return Display(wire, framebuffer, name)


async def _agree_version(wire: Wire) -> None:
    banner = await wire.read(len(protocol.VERSION))
    if not banner.startswith(b"RFB "):
        raise DisplayGarbled(f"the server sent {banner!r}, which is no RFB", host=wire.host, port=wire.port)
    if banner < protocol.VERSION:
        version = banner[4:11].decode(errors="replace")
        raise DisplayRefused(f"the server speaks RFB {version}, not 3.8", host=wire.host, port=wire.port)
    await wire.send(protocol.VERSION)


async def _agree_security(wire: Wire) -> None:
    offered = await wire.read(await wire.number("B"))
    if not offered:
        raise DisplayRefused(await _reason(wire), host=wire.host, port=wire.port)
    if Security.NONE not in offered:
        types = ", ".join(map(str, offered))
        raise DisplayRefused(f"only security types {types} offered, not None (1)", host=wire.host, port=wire.port)
    await wire.send(bytes([Security.NONE]))
    if await wire.number("I") != 0:
        raise DisplayRefused(await _reason(wire), host=wire.host, port=wire.port)


async def _reason(wire: Wire) -> str:
    return "refused: " + await _text(wire, await wire.number("I"))


async def _text(wire: Wire, length: int) -> str:
    data = await wire.read(min(length, TEXT_BYTES))
    await wire.skip(length - len(data))
    return data.decode(errors="replace")
