"""The RFB client against a server of known bytes, in any fragments: the same picture, or a display error."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.rfb import DisplayClosed, DisplayError, DisplayGarbled, DisplayRefused
from martlet.rfb.client import Display, handshake
from martlet.rfb.keys import keysym
from martlet.rfb.wire import Wire

WIDTH, HEIGHT = 6, 5
PIXEL = st.binary(min_size=4, max_size=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    x: int
    y: int
    width: int
    height: int

    def head(self, encoding: int) -> bytes:
        return struct.pack("!HHHHi", self.x, self.y, self.width, self.height, encoding)

    def places(self) -> list[tuple[int, int]]:
        return [(self.x + dx, self.y + dy) for dy in range(self.height) for dx in range(self.width)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    area: Area
    pixels: tuple[bytes, ...]

    def wire(self) -> bytes:
        return self.area.head(0) + b"".join(self.pixels)

    def paint(self, screen: dict[tuple[int, int], bytes]) -> None:
        screen.update(zip(self.area.places(), self.pixels, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    area: Area
    from_x: int
    from_y: int

    def wire(self) -> bytes:
        return self.area.head(1) + struct.pack("!HH", self.from_x, self.from_y)

    def paint(self, screen: dict[tuple[int, int], bytes]) -> None:
        before = dict(screen)
        for x, y in self.area.places():
            screen[x, y] = before[x - self.area.x + self.from_x, y - self.area.y + self.from_y]


@st.composite
def areas(draw: st.DrawFn) -> Area:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return Area(x=x, y=y, width=draw(st.integers(1, WIDTH - x)), height=draw(st.integers(1, HEIGHT - y)))


@st.composite
def raws(draw: st.DrawFn) -> Raw:
    area = draw(areas())
    count = area.width * area.height
    return Raw(area=area, pixels=tuple(draw(st.lists(PIXEL, min_size=count, max_size=count))))


@st.composite
def copies(draw: st.DrawFn) -> Copy:
    area = draw(areas())
    from_x, from_y = draw(st.integers(0, WIDTH - area.width)), draw(st.integers(0, HEIGHT - area.height))
    return Copy(area=area, from_x=from_x, from_y=from_y)


RECTANGLES = st.lists(st.lists(st.one_of(raws(), copies()), max_size=3), min_size=1, max_size=4)
NOISE = st.sampled_from(
    [
        b"",
        b"\x02",
        struct.pack("!BxxxI", 3, 5) + b"hello",
        struct.pack("!BxHH", 1, 0, 2) + bytes(12),
    ]
)
GREETING = b"RFB 003.008\n" + b"\x02\x02\x01" + bytes(4)
INIT = struct.pack("!HH16sI", WIDTH, HEIGHT, bytes(16), 4) + b"test"


def update(*rectangles: Raw | Copy) -> bytes:
    return struct.pack("!BxH", 0, len(rectangles)) + b"".join(one.wire() for one in rectangles)


def fragments(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


async def against(pieces: Sequence[bytes], talk: Callable[[Wire], Awaitable[None]]) -> bytes:
    """Let `talk` read `pieces` and then the end of the stream; returns what it wrote."""
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    reader = asyncio.StreamReader()

    async def serve() -> None:
        for piece in pieces:
            reader.feed_data(piece)
            await asyncio.sleep(0)
        reader.feed_eof()

    wire = Wire(reader, writer, host="there", port=5901)
    with theirs:
        async with asyncio.timeout(10):
            await asyncio.gather(serve(), talk(wire))
        await wire.close()
        return theirs.recv(1 << 20)


async def read_for_ever(wire: Wire) -> None:
    """What a watching client does."""
    display = await handshake(wire)
    while True:
        await display.update()


@given(RECTANGLES, NOISE, st.lists(st.integers(0, 5000), max_size=30))
def test_any_fragments_give_the_same_picture(updates: list[list[Raw | Copy]], noise: bytes, cuts: list[int]) -> None:
    script = GREETING + INIT + b"".join(noise + update(*rectangles) for rectangles in updates)
    wanted = {(x, y): bytes(4) for y in range(HEIGHT) for x in range(WIDTH)}
    for rectangle in (one for rectangles in updates for one in rectangles):
        rectangle.paint(wanted)

    async def talk(wire: Wire) -> None:
        display = await handshake(wire)
        for rectangles in updates:
            assert (await display.update()).rectangles == len(rectangles)
        assert display.name == "test"
        assert bytes(display.framebuffer.data) == b"".join(wanted[x, y] for y in range(HEIGHT) for x in range(WIDTH))

    written = asyncio.run(against(fragments(script, cuts), talk))
    assert written.startswith(b"RFB 003.008\n\x01\x01")


@given(RECTANGLES, st.data())
def test_a_script_cut_anywhere_ends_in_a_closed_display(updates: list[list[Raw | Copy]], data: st.DataObject) -> None:
    script = GREETING + INIT + b"".join(update(*rectangles) for rectangles in updates)
    end = data.draw(st.integers(0, len(script)))
    with pytest.raises(DisplayClosed, match="there:5901") as caught:
        asyncio.run(against([script[:end]], read_for_ever))
    assert (caught.value.host, caught.value.port) == ("there", 5901)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_after_the_greeting_end_in_a_display_error(garbage: bytes) -> None:
    with pytest.raises(DisplayError):
        asyncio.run(against([GREETING + INIT + garbage], read_for_ever))


@given(st.binary(max_size=60))
def test_any_greeting_ends_in_a_display_error(garbage: bytes) -> None:
    with pytest.raises(DisplayError):
        asyncio.run(against([garbage], read_for_ever))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"RFB 003.003\n", "003.003"),
        (b"RFB 003.008\n" + b"\x01\x02", "security types 2"),
        (b"RFB 003.008\n" + b"\x00" + struct.pack("!I", 4) + b"full", "full"),
        (b"RFB 003.008\n" + b"\x01\x01" + struct.pack("!II", 1, 4) + b"late", "late"),
    ],
)
def test_a_refusal_says_why(script: bytes, words: str) -> None:
    with pytest.raises(DisplayRefused, match=words):
        asyncio.run(against([script], read_for_ever))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x09", "message type 9"),
        (b"\0\0\0\1" + struct.pack("!HHHHi", 0, 0, 1, 1, 16), "encoding 16"),
        (b"\0\0\0\1" + struct.pack("!HHHHi", 5, 0, 2, 1, 0), "rectangle of 2x1 at 5,0"),
        (b"\0\0\0\1" + struct.pack("!HHHHiHH", 0, 0, 2, 1, 1, 5, 0), "rectangle of 2x1 at 5,0"),
        (b"\0\0\0\1" + struct.pack("!HHHHi", 0, 0, 65535, 65535, -223), "65535x65535"),
        (b"\0\0\0\1" + struct.pack("!HHHHi", 0, 0, 0, 9, -223), "0x9"),
    ],
)
def test_what_was_not_asked_for_is_garbled(message: bytes, words: str) -> None:
    with pytest.raises(DisplayGarbled, match=words):
        asyncio.run(against([GREETING + INIT + message], read_for_ever))


def test_a_new_size_starts_again_with_a_whole_picture() -> None:
    resize = struct.pack("!BxHHHHHi", 0, 1, 0, 0, 3, 2, -223)
    whole = update(Raw(area=Area(x=0, y=0, width=3, height=2), pixels=(b"abcd",) * 6))

    async def talk(wire: Wire) -> None:
        display = await handshake(wire)
        seen = display.updates()
        assert (await anext(seen)).resized
        assert (await anext(seen)).pixels == 6
        assert (display.framebuffer.width, display.framebuffer.height) == (3, 2)
        assert display.framebuffer.image().getpixel((2, 1)) == (ord("c"), ord("b"), ord("a"))
        await seen.aclose()

    written = asyncio.run(against([GREETING + INIT + resize + whole], talk))
    requests = [struct.pack("!BBHHHH", 3, incremental, 0, 0, *size) for incremental, size in REQUESTED]
    assert written.endswith(b"".join(requests))


REQUESTED = [(0, (WIDTH, HEIGHT)), (0, (3, 2)), (1, (3, 2))]


def test_keys_and_pointer_are_written_as_the_protocol_has_them() -> None:
    async def talk(wire: Wire) -> None:
        display: Display = await handshake(wire)
        await display.type_text("a\n")
        await display.click(7, 8)

    written = asyncio.run(against([GREETING + INIT], talk))
    keys = [(1, 0x61), (0, 0x61), (1, 0xFF0D), (0, 0xFF0D)]
    events = [struct.pack("!BBxxI", 4, down, symbol) for down, symbol in keys]
    events += [struct.pack("!BBHH", 5, buttons, 7, 8) for buttons in (0, 1, 0)]
    assert written.endswith(b"".join(events))


@pytest.mark.parametrize(("character", "symbol"), [(" ", 0x20), ("ä", 0xE4), ("€", 0x010020AC), ("\t", 0xFF09)])
def test_keysyms(character: str, symbol: int) -> None:
    assert keysym(character) == symbol


def test_a_control_character_has_no_keysym() -> None:
    with pytest.raises(ValueError, match="x01"):
        keysym("\x01")
