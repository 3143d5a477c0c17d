"""Other processes' descriptors: taking a copy, and what to do with a copied TCP socket.

Only the calls; whose, and when, is decided elsewhere. Source: pidfd_getfd(2), tcp(7), linux/tcp.h (TCP_REPAIR).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterable

_SYS_PIDFD_GETFD = 438
_TCP_REPAIR = 19
_REPAIR_OFF = 0

_libc = ctypes.CDLL(None, use_errno=True)


def take(pidfd: int, fd: int) -> int:
    """A copy, in our process, of descriptor `fd` of the process behind `pidfd`.

    Raises:
        OSError: no such descriptor, or no right to it.
    """
    copy = int(_libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return copy


def sockets_of(pid: int) -> list[socket.socket]:
    """Copies of all open sockets of a process; the caller closes them. A process that is gone has none."""
    copies: list[socket.socket] = []
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
                        copies.append(socket.socket(fileno=take(pidfd, int(name))))
        finally:
            os.close(pidfd)
    return copies


def end_tcp_repair(pids: Iterable[int]) -> int:
    """Take every TCP socket of these processes out of repair mode, in which a killed criu leaves them.

    Returns how many were in it. Leaving it sends a window probe, which wakes the peer.
    """
    ended = 0
    for pid in pids:
        for copy in sockets_of(pid):
            with copy, contextlib.suppress(OSError):
                if copy.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR):
                    copy.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _REPAIR_OFF)
                    ended += 1
    return ended
