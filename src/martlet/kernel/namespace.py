"""Namespaces and mounts by system call, for what the standard library of Python 3.11 lacks.

Only the calls themselves, with errors that name the place; what to mount where is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from enum import IntFlag
from pathlib import Path
from typing import TypeVar

from martlet.errors import ToolFailed

T = TypeVar("T")

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


class Namespace(IntFlag):
    """Kinds of namespace (sched.h, CLONE_NEW*); the names are those of `/proc/PID/ns`."""

    TIME = 0x00000080
    MNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    PID = 0x20000000
    NET = 0x40000000


class Mount(IntFlag):
    """Mount flags (sys/mount.h, MS_*)."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    BIND = 4096
    MOVE = 8192
    REC = 16384
    PRIVATE = 1 << 18
    SLAVE = 1 << 19
    SHARED = 1 << 20


def unshare(kinds: Namespace) -> None:
    """Put the calling thread (for PID and TIME: its next child) into new namespaces."""
    _check(_libc.unshare(int(kinds)), f"unshare({kinds!r})")


def setns(path_or_fd: Path | int, kind: Namespace | None = None) -> None:
    """Put the calling thread into the namespace at a path (`/proc/PID/ns/net`, a bind mount of one) or descriptor."""
    if isinstance(path_or_fd, int):
        _check(_libc.setns(path_or_fd, int(kind or 0)), f"setns(fd {path_or_fd})")
        return
    fd = os.open(path_or_fd, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, int(kind or 0)), f"setns({path_or_fd})")
    finally:
        os.close(fd)


def mount(source: str | Path, target: Path, kind: str = "", flags: Mount = Mount.NONE, options: str = "") -> None:
    """mount(2). `kind` is the file system's name, empty for bind, remount and propagation changes."""
    result = _libc.mount(
        os.fsencode(str(source)),
        os.fsencode(str(target)),
        os.fsencode(kind) or None,
        ctypes.c_ulong(int(flags)),
        os.fsencode(options) or None,
    )
    _check(result, f"mount {kind or flags!r} {source} on {target}")


def bind(source: Path, target: Path, *, read_only: bool = False, recursive: bool = False) -> None:
    """Make `source` visible at `target`, private, and read-only if asked (which takes a second call)."""
    deep = Mount.REC if recursive else Mount.NONE
    mount(source, target, flags=Mount.BIND | deep)
    mount("none", target, flags=Mount.PRIVATE | deep)
    if read_only:
        mount("none", target, flags=Mount.BIND | Mount.REMOUNT | Mount.RDONLY)


def unmount(target: Path, *, lazy: bool = False) -> None:
    """umount2(2); `lazy` detaches now and frees when the last user is gone."""
    _check(_libc.umount2(os.fsencode(str(target)), 2 if lazy else 0), f"unmount {target}")


def mounts_below(top: Path, *, pid: int | str = "self") -> list[Path]:
    """Mount points at or below `top`, deepest and newest first: the order in which to unmount them."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    points = [Path(_unescape(line.split()[4])) for line in lines]
    return [point for point in reversed(points) if point == top or top in point.parents]


def unmount_below(top: Path) -> None:
    """Unmount everything at or below `top`; nothing mounted there is fine."""
    for point in mounts_below(top):
        try:
            unmount(point)
        except ToolFailed:
            unmount(point, lazy=True)


def pivot_root(new_root: Path) -> None:
    """Make `new_root` (a mount point) the root of this mount namespace and let go of the old one."""
    os.chdir(new_root)
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, b".", b"."), f"pivot_root({new_root})")
    unmount(Path("."), lazy=True)
    os.chdir("/")


def within(kind: Namespace, path: Path, call: Callable[[], T]) -> T:
    """Run `call` in a thread of its own that has entered one namespace, and return what it returns.

    Descriptors opened by `call` (sockets above all) keep belonging to that namespace. Only for kinds that a single
    thread may enter: net, uts, ipc, cgroup.
    """

    def enter_and_call() -> T:
        setns(path, kind)
        return call()

    return _in_thread(enter_and_call)


def make_net(handle: Path) -> None:
    """Make a new, empty network namespace that lives as long as the bind mount `handle` (an empty file is made)."""

    def unshare_and_pin() -> None:
        unshare(Namespace.NET)
        mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", handle, flags=Mount.BIND)

    handle.touch()
    _in_thread(unshare_and_pin)


def _in_thread(call: Callable[[], T]) -> T:
    """Run `call` in a new thread, so that what it does to its own namespaces ends with it."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # handed to the caller below, whatever it is
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A read-only descriptor of a namespace or folder, closed at the end."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def inode(path: Path) -> int:
    """The number that names a namespace (CRIU's `net[INODE]`)."""
    return os.stat(path).st_ino


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise ToolFailed(f"{what} failed: {os.strerror(number)}")


def _unescape(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
