"""Known sequences of bytes over any file descriptor, and the loop that sends and checks them.

Shared by both ends, so that every byte has one right value; an error is kept, never repaired.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable

BLOCK_BYTES = 256
PERIOD_S = 0.005
MAX_ERRORS = 20


def content(name: str, size: int) -> bytes:
    """The bytes that belong to a name; the same in every process, and hard to hit by accident."""
    return hashlib.shake_128(name.encode()).digest(size)


class Errors:
    """What went wrong, bounded; filled from several threads."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        if len(self.lines) < MAX_ERRORS:
            self.lines.append(line)


class Channel:
    """Both directions of one stream (or packet socket): sends numbered blocks, checks those of the other end."""

    def __init__(self, name: str, fd_in: int, fd_out: int, *, mine: str, theirs: str) -> None:
        self.name, self.fd_in, self.fd_out = name, fd_in, fd_out
        self.mine, self.theirs = f"{name}/{mine}", f"{name}/{theirs}"
        self.sent = self.received = 0
        self.outgoing = self.incoming = b""
        self.wanted = b""
        os.set_blocking(fd_in, False)
        os.set_blocking(fd_out, False)

    def send(self) -> None:
        """Send the next block, or the rest of the last; whoever does not read makes it wait."""
        if not self.outgoing:
            self.outgoing = content(f"{self.mine}:{self.sent}", BLOCK_BYTES)
            self.sent += 1
        try:
            self.outgoing = self.outgoing[os.write(self.fd_out, self.outgoing) :]
        except BlockingIOError:
            return

    def receive(self) -> None:
        """Raises ValueError at the first byte that is not the next of the other end's sequence."""
        data = os.read(self.fd_in, 65536)
        if not data:
            raise ValueError(f"{self.theirs}: closed after block {self.received}")
        self.incoming += data
        while len(self.incoming) >= BLOCK_BYTES:
            got, self.incoming = self.incoming[:BLOCK_BYTES], self.incoming[BLOCK_BYTES:]
            if got != content(f"{self.theirs}:{self.received}", BLOCK_BYTES):
                raise ValueError(f"{self.theirs}: block {self.received} is not what was sent")
            self.received += 1

    def counters(self) -> dict[str, int]:
        return {f"{self.mine} sent": self.sent, f"{self.theirs} received": self.received}


class Loop:
    """An epoll, a timerfd that drives the senders, and the channels; one in each process."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors
        self.epoll = select.epoll()
        self.ready: dict[int, Callable[[], None]] = {}
        self.channels: list[Channel] = []
        self.every_tick: list[Callable[[], None]] = []
        self.timer = timer_fd(PERIOD_S)
        self.expirations = 0
        self.watch(self.timer, self.tick)

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        self.ready[fd] = ready
        self.epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        del self.ready[fd]
        self.epoll.unregister(fd)

    def add(self, channel: Channel) -> None:
        self.channels.append(channel)
        self.watch(channel.fd_in, lambda: self.guard(channel, channel.receive))

    def guard(self, channel: Channel, step: Callable[[], None]) -> None:
        """Run a step of a channel; at its first error the channel stops, and the error stays."""
        try:
            step()
        except BlockingIOError:
            return
        except (OSError, ValueError) as error:
            self.errors.add(f"{channel.name}: {error}")
            self.channels.remove(channel)
            self.forget(channel.fd_in)

    def tick(self) -> None:
        self.expirations += struct.unpack("Q", os.read(self.timer, 8))[0]
        for channel in list(self.channels):
            self.guard(channel, channel.send)
        for call in self.every_tick:
            call()

    def run(self) -> None:
        while True:
            for fd, _ in self.epoll.poll():
                if fd in self.ready:
                    self.ready[fd]()

    def counters(self) -> dict[str, int]:
        counted = {"timerfd": self.expirations}
        for channel in self.channels:
            counted.update(channel.counters())
        return counted


def timer_fd(period_s: float) -> int:
    """A timerfd on CLOCK_MONOTONIC (os.timerfd_create came with Python 3.13; see timerfd_create(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
    period = struct.pack("qqqq", 0, int(period_s * 1e9), 0, int(period_s * 1e9))
    if fd < 0 or libc.timerfd_settime(fd, 0, period, None) < 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd


def patient_connection(address: tuple[str, int]) -> socket.socket:
    """A connection, tried for half a minute: the other side may not be up yet."""
    deadline_s = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.1)


def ask_for_stream(address: tuple[str, int]) -> socket.socket:
    """A connection on which the session of `everything` at `address` has agreed to stream."""
    connection = patient_connection(address)
    connection.sendall(b"stream\n")
    if connection.recv(3) != b"ok\n":
        raise OSError("the session does not take a stream")
    return connection
