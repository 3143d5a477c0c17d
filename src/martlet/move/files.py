"""A tree of files as a stream of frames, and back: everything that a memory-backed folder can hold.

Small files travel inside their entry, many to a frame; large ones in pieces, holes left out. Blocking; the memory it
takes is a frame's, whatever the files' size.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from martlet.errors import ToolFailed
from martlet.move.messages import Area, Kind
from martlet.wire import FRAME_MAX_BYTES, Channel, decode

INLINE_MAX_BYTES = 64 * 1024
BATCH_BYTES = 256 * 1024
_OFFSET = struct.Struct("!Q")


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One file. `path` is relative to its area, in the file system's own bytes; `link` is a symlink's target or, of
    a regular file, the path of the file that it is another name of."""

    area: int
    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    link: bytes = b""
    data: bytes | None = None
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Sender:
    """Sends trees over a channel."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._batch: list[Entry] = []
        self._batch_bytes = 0
        self._piece = bytearray(FRAME_MAX_BYTES)
        self._names: dict[tuple[int, int], bytes] = {}

    def send_tree(self, area: Area, top: Path, *, skip: Callable[[bytes], bool] = lambda _: False) -> None:
        """Send everything below `top`, folders before what is in them, but what `skip` says by its file name."""
        base = os.fsencode(top)
        for path in _walk(base):
            if not skip(os.path.basename(path)):
                self._send_one(area, base, path)

    def send_part(self, area: Area, top: Path, path: Path, *, start: int, end: int) -> None:
        """Send bytes `start` to `end` of a file that is still growing; parts must follow each other."""
        name = os.fsencode(path.relative_to(top))
        with open(path, "rb", buffering=0) as file:
            self._gather(_entry(area, name, os.fsencode(path), os.fstat(file.fileno())))
            self.flush()
            self._send_range(file.fileno(), start, end)

    def flush(self) -> None:
        """Send what has been gathered."""
        if self._batch:
            self._channel.send_value(Kind.FILES, self._batch)
            self._batch, self._batch_bytes = [], 0

    def _send_one(self, area: Area, base: bytes, path: bytes) -> None:
        status = os.lstat(path)
        name = os.path.relpath(path, base)
        if stat.S_ISREG(status.st_mode):
            self._send_regular(area, name, path, status)
        else:
            link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
            self._gather(_entry(area, name, path, status, link=link))

    def _send_regular(self, area: Area, name: bytes, path: bytes, status: os.stat_result) -> None:
        inode = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and inode in self._names:
            self._gather(_entry(area, name, path, status, link=self._names[inode]))
            return
        self._names[inode] = name
        with open(path, "rb", buffering=0) as file:
            if status.st_size <= INLINE_MAX_BYTES:
                self._gather(_entry(area, name, path, status, data=file.read(status.st_size)))
                return
            self._gather(_entry(area, name, path, status))
            self.flush()
            self._send_pieces(file.fileno(), status.st_size)

    def _send_pieces(self, fd: int, size: int) -> None:
        for start, end in _data_ranges(fd, size):
            self._send_range(fd, start, end)

    def _send_range(self, fd: int, start: int, end: int) -> None:
        view = memoryview(self._piece)
        while start < end:
            _OFFSET.pack_into(self._piece, 0, start)
            length = min(end - start, FRAME_MAX_BYTES - _OFFSET.size)
            got = os.preadv(fd, [view[_OFFSET.size : _OFFSET.size + length]], start)
            if got == 0:
                return
            self._channel.send(Kind.DATA, view[: _OFFSET.size + got])
            start += got

    def _gather(self, entry: Entry) -> None:
        self._batch.append(entry)
        self._batch_bytes += 100 + len(entry.path) + len(entry.link) + len(entry.data or b"")
        self._batch_bytes += sum(len(name) + len(value) for name, value in entry.xattrs)
        if self._batch_bytes >= BATCH_BYTES:
            self.flush()


class Receiver:
    """Lays out what a `Sender` sent, below one folder an area."""

    def __init__(self, folders: dict[Area, Path]) -> None:
        self._folders = {int(area): os.fsencode(folder) for area, folder in folders.items()}
        self._fd = -1
        self._mtime_ns = 0
        self._times: list[tuple[bytes, int]] = []
        self.bytes = 0

    def files(self, payload: memoryview) -> None:
        """A FILES frame.

        Raises:
            ToolFailed: a path leads out of its area, or a file cannot be made (no space).
        """
        for entry in decode(payload, list[Entry]):
            path = self._path(entry, entry.path)
            try:
                self._make(path, entry)
            except OSError as error:
                raise ToolFailed(f"cannot make '{os.fsdecode(path)}' of the session: {error.strerror}") from error

    def data(self, payload: memoryview) -> None:
        """A DATA frame: a piece of the last file named."""
        offset = _OFFSET.unpack_from(payload)[0]
        self.bytes += len(payload)
        try:
            os.pwrite(self._fd, payload[_OFFSET.size :], offset)
        except OSError as error:
            raise ToolFailed(f"cannot store a file of the session: {error.strerror}") from error

    def finish(self) -> None:
        """Close the last file, and give folders their times (making files in them has changed those)."""
        self.close()
        for path, mtime_ns in reversed(self._times):
            os.utime(path, ns=(mtime_ns, mtime_ns))

    def close(self) -> None:
        if self._fd >= 0:
            os.utime(self._fd, ns=(self._mtime_ns, self._mtime_ns))
            os.close(self._fd)
            self._fd = -1

    def _path(self, entry: Entry, name: bytes) -> bytes:
        if entry.area not in self._folders or name.startswith(b"/") or b".." in name.split(b"/"):
            raise ToolFailed(f"damaged stream: the path {name!r} leads out of the session")
        return os.path.join(self._folders[entry.area], name)

    def _make(self, path: bytes, entry: Entry) -> None:
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFREG:
            self._make_regular(path, entry)
            return
        if kind == stat.S_IFDIR:
            with suppress(FileExistsError):
                os.mkdir(path)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.link, path)
        else:
            os.mknod(path, entry.mode, entry.device)
        os.lchown(path, entry.uid, entry.gid)
        if kind != stat.S_IFLNK:
            os.chmod(path, stat.S_IMODE(entry.mode))
        _set_xattrs(path, entry)
        if kind == stat.S_IFDIR:
            self._times.append((path, entry.mtime_ns))
        else:
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _make_regular(self, path: bytes, entry: Entry) -> None:
        self.close()
        if entry.link:
            os.link(self._path(entry, entry.link), path)
            return
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if entry.data is not None:
            self.bytes += len(entry.data)
            os.write(self._fd, entry.data)
        os.ftruncate(self._fd, entry.size)
        os.fchown(self._fd, entry.uid, entry.gid)
        os.fchmod(self._fd, stat.S_IMODE(entry.mode))
        _set_xattrs(path, entry)
        self._mtime_ns = entry.mtime_ns


def tree_bytes(top: Path) -> int:
    """How much memory the files below `top` take."""
    total = 0
    for path in _walk(os.fsencode(top)):
        with suppress(OSError):
            total += os.lstat(path).st_blocks * 512
    return total


def _walk(base: bytes) -> Iterator[bytes]:
    """Everything below `base`, folders first, in a stable order."""
    for entry in sorted(os.scandir(base), key=lambda one: one.name):
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)


def _entry(
    area: Area, name: bytes, path: bytes, status: os.stat_result, *, link: bytes = b"", data: bytes | None = None
) -> Entry:
    return Entry(
        area=int(area),
        path=name,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size,
        link=link,
        data=data,
        device=status.st_rdev,
        xattrs=_get_xattrs(path),
    )


def _get_xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return ()
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def _set_xattrs(path: bytes, entry: Entry) -> None:
    for name, value in entry.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The parts of a file that are not holes."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position
