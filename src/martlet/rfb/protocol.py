"""The messages of RFB 3.8 (RFC 6143) as bytes and values: what a client writes, and the fixed parts of what it reads.

Pure functions; nothing here reads a socket or keeps a picture.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

VERSION = b"RFB 003.008\n"
"""Section 7.1.1: the one version spoken here."""

PIXEL_BYTES = 4
"""Every pixel arrives as blue, green, red, unused; see `set_pixel_format`."""


class Security(IntEnum):
    """Section 7.1.2."""

    INVALID = 0
    NONE = 1


class ServerMessage(IntEnum):
    """Section 7.6."""

    FRAMEBUFFER_UPDATE = 0
    SET_COLOUR_MAP_ENTRIES = 1
    BELL = 2
    SERVER_CUT_TEXT = 3


class Encoding(IntEnum):
    """Sections 7.7 and 7.8: what is asked for, best first."""

    COPY_RECT = 1
    RAW = 0
    DESKTOP_SIZE = -223


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInit:
    """Section 7.3.2 without the name, of which only the length is fixed here."""

    width: int
    height: int
    name_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rectangle:
    """The head of one rectangle of an update (section 7.6.1); `encoding` is a number that may be unknown."""

    x: int
    y: int
    width: int
    height: int
    encoding: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


SERVER_INIT = struct.Struct("!HH16sI")
RECTANGLE = struct.Struct("!HHHHi")


def server_init(data: bytes) -> ServerInit:
    width, height, _, name_bytes = SERVER_INIT.unpack(data)
    return ServerInit(width=width, height=height, name_bytes=name_bytes)


def rectangle(data: bytes) -> Rectangle:
    x, y, width, height, encoding = RECTANGLE.unpack(data)
    return Rectangle(x=x, y=y, width=width, height=height, encoding=encoding)


def client_init(*, shared: bool) -> bytes:
    """Section 7.3.1: `shared` leaves the other clients of the display connected."""
    return struct.pack("!B", shared)


def set_pixel_format() -> bytes:
    """Sections 7.4 and 7.5.1: 32 bits little-endian, depth 24, red at bit 16, green at 8, blue at 0."""
    pixel_format = struct.pack("!BBBBHHHBBB3x", 32, 24, False, True, 255, 255, 255, 16, 8, 0)
    return struct.pack("!B3x", 0) + pixel_format


def set_encodings() -> bytes:
    """Section 7.5.2: all of `Encoding`, in its order."""
    return struct.pack(f"!BxH{len(Encoding)}i", 2, len(Encoding), *Encoding)


def update_request(*, width: int, height: int, incremental: bool) -> bytes:
    """Section 7.5.3: the whole screen, or with `incremental` what has changed since it was last sent."""
    return struct.pack("!BBHHHH", 3, incremental, 0, 0, width, height)


def key_event(keysym: int, *, down: bool) -> bytes:
    """Section 7.5.4."""
    return struct.pack("!BBxxI", 4, down, keysym)


def pointer_event(x: int, y: int, *, buttons: int) -> bytes:
    """Section 7.5.5: bit 0 of `buttons` is the left button."""
    return struct.pack("!BBHH", 5, buttons, x, y)
