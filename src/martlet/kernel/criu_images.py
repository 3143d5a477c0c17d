"""Mends what criu's images would lose: they are read, changed where needed, and written back before a restore.

Only entries named here are touched. Source of the layout: criu/images/*.proto and lib/pycriu/images/images.py (4.2.1):
a magic of one or two words, then entries, each a 32-bit length and a protobuf message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from martlet.errors import ToolFailed

_COMMON_MAGICS = (0x54564319, 0x55105940)
_WORD = struct.Struct("<I")


def mend_timers(images: Path) -> int:
    """Let periodic timers that had run out at the moment of the dump go on; returns how many there were.

    The kernel arms such a timer again when its owner reads it (or takes its signal). In between it has no time left,
    which criu writes down as zero, and restoring zero turns the timer off: it would never fire again. It gets one
    full period instead.
    """
    from pycriu.images import core_pb2, fdinfo_pb2

    mended = _mend(images / "files.img", fdinfo_pb2.file_entry, _mend_descriptor)
    for path in images.glob("core-*.img"):
        mended += _mend(path, core_pb2.core_entry, _mend_task)
    return mended


def _mend_descriptor(entry: Any) -> int:
    if not entry.HasField("tfd"):
        return 0
    timer = entry.tfd
    if timer.vsec or timer.vnsec or not (timer.isec or timer.insec):
        return 0
    timer.vsec, timer.vnsec = timer.isec, timer.insec
    return 1


def _mend_task(entry: Any) -> int:
    if not entry.HasField("tc") or not entry.tc.HasField("timers"):
        return 0
    timers = entry.tc.timers
    return sum(_mend_interval(timer) for timer in (timers.real, timers.virt, timers.prof))


def _mend_interval(timer: Any) -> int:
    if timer.vsec or timer.vusec or not (timer.isec or timer.iusec):
        return 0
    timer.vsec, timer.vusec = timer.isec, timer.iusec
    return 1


def _mend(path: Path, kind: Callable[[], Any], mend: Callable[[Any], int]) -> int:
    """Mend every entry of an image; it is written back only when one was changed. A missing image has none."""
    if not path.exists():
        return 0
    magic, entries = split(path.read_bytes())
    mended = 0
    for number, data in enumerate(entries):
        entry = kind()
        entry.ParseFromString(data)
        changed = mend(entry)
        if changed:
            entries[number] = entry.SerializeToString()
            mended += changed
    if mended:
        path.write_bytes(join(magic, entries))
    return mended


def split(image: bytes) -> tuple[bytes, list[bytes]]:
    """An image's magic, and its entries.

    Raises:
        ToolFailed: it ends in the middle of an entry.
    """
    start = 8 if _WORD.unpack_from(image)[0] in _COMMON_MAGICS else 4
    magic, position = image[:start], start
    entries: list[bytes] = []
    while position < len(image):
        length = _WORD.unpack_from(image, position)[0]
        entry = image[position + 4 : position + 4 + length]
        if len(entry) != length:
            raise ToolFailed("a criu image ends in the middle of an entry")
        entries.append(entry)
        position += 4 + length
    return magic, entries


def join(magic: bytes, entries: list[bytes]) -> bytes:
    """The image that `split` would take apart so."""
    return magic + b"".join(_WORD.pack(len(entry)) + entry for entry in entries)
