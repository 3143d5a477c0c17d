"""Mends `files.img` for periodic timerfds that had expired, but were not yet read, when CRIU dumped them.

Only bytes in, bytes out; it knows of an image just what it changes.

The kernel starts the next period of such a timer when it is read, so what CRIU 4.2 finds is a remaining time of zero,
and zero restored by timerfd_settime(2) means disarmed: the program would wait for ever. A timer with a period of 5 ms
is found like this in every longer freeze. One nanosecond instead of zero makes it expire at once.

Source: criu/images/fdinfo.proto and timerfd.proto; the encoding is that of protocol buffers, version 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEAD_BYTES = 8
TYPE_TIMERFD = b"\x08\x11"
"""The first field of a file_entry, `type`, with the value TIMERFD."""
TFD, VALUE_S, VALUE_NS, PERIOD_S, PERIOD_NS = 12, 7, 8, 9, 10
VARINT, DOUBLE, BYTES, SINGLE = 0, 1, 2, 5
SOON_NS = 1

Field = tuple[int, int, int | bytes]
"""Number, wire type and value."""


def mend(image: bytes) -> bytes:
    """`files.img` with its expired periodic timers armed; the same bytes if there are none.

    Raises:
        ValueError: the image is cut off or holds what protocol buffers do not have.
    """
    entries = [_mend_entry(entry) for entry in _entries(image)]
    return image[:HEAD_BYTES] + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


def _entries(image: bytes) -> Iterator[bytes]:
    at = HEAD_BYTES
    while at < len(image):
        size = int.from_bytes(_cut(image, at, 4), "little")
        yield _cut(image, at + 4, size)
        at += 4 + size


def _mend_entry(entry: bytes) -> bytes:
    if not entry.startswith(TYPE_TIMERFD):
        return entry
    return _encoded([_mend_timer(field) if field[0] == TFD else field for field in _fields(entry)])


def _mend_timer(timer: Field) -> Field:
    number, kind, content = timer
    assert isinstance(content, bytes)
    found = {inner[0]: inner[2] for inner in _fields(content)}
    is_periodic = found.get(PERIOD_S, 0) or found.get(PERIOD_NS, 0)
    has_expired = not found.get(VALUE_S, 0) and not found.get(VALUE_NS, 0)
    if not (is_periodic and has_expired):
        return timer
    kept = [inner for inner in _fields(content) if inner[0] != VALUE_NS]
    return number, kind, _encoded(sorted([*kept, (VALUE_NS, VARINT, SOON_NS)], key=lambda inner: inner[0]))


def _fields(message: bytes) -> list[Field]:
    fields: list[Field] = []
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _varint(message, at)
        elif kind == BYTES:
            size, at = _varint(message, at)
            value, at = _cut(message, at, size), at + size
        elif kind in (DOUBLE, SINGLE):
            size = 8 if kind == DOUBLE else 4
            value, at = _cut(message, at, size), at + size
        else:
            raise ValueError(f"wire type {kind} in a file entry")
        fields.append((number, kind, value))
    return fields


def _encoded(fields: list[Field]) -> bytes:
    parts = []
    for number, kind, value in fields:
        parts.append(_from_number(number << 3 | kind))
        if isinstance(value, int):
            parts.append(_from_number(value))
        else:
            parts.append(_from_number(len(value)) + value if kind == BYTES else value)
    return b"".join(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte from the lowest, and where the next field begins."""
    number, shift = 0, 0
    while True:
        byte = _cut(data, at, 1)[0]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _from_number(number: int) -> bytes:
    low = bytearray()
    while number >= 0x80:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*low, number])


def _cut(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError(f"files.img ends at {len(data)}, in the middle of an entry")
    return data[at : at + size]
