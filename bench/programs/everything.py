"""A session that uses everything a session may use, and tells its state to whoever asks over TCP.

Two processes and several threads with pipes, a pty, unix sockets, shared memory, a memfd, epoll, timers, an unlinked
file, and TCP both ways: each byte stream is a known sequence, each memory has known content, checked all the time.
An error is kept and reported, never repaired.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import mmap
import os
import pty
import signal
import socket
import struct
import sys
import termios
import threading
import time
import tty
import zlib
from typing import Any

from bench.programs.channels import PERIOD_S, Channel, Errors, Loop, ask_for_stream, content, patient_connection

REGION_BYTES = 1 << 20
WORKER_BYTES = 1 << 16
ALARM_S = 0.05
CLOCKS = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}


class Region:
    """Memory with known content behind two counters; each process grows its own and reports the other's."""

    def __init__(self, name: str, memory: mmap.mmap) -> None:
        self.name, self.memory = name, memory
        memory[16:] = content(name, REGION_BYTES - 16)

    def beat(self, side: int) -> None:
        self.memory[8 * side : 8 * side + 8] = struct.pack("Q", self.beats(side) + 1)

    def beats(self, side: int) -> int:
        count: int = struct.unpack("Q", self.memory[8 * side : 8 * side + 8])[0]
        return count

    def checksum(self) -> int:
        return zlib.crc32(self.memory[16:])


def regions() -> list[Region]:
    """Shared memory of each kind, and private memory that fork copies."""
    shm = os.open(f"/dev/shm/everything.{os.getpid()}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    memfd = os.memfd_create("everything")
    for fd in (shm, memfd):
        os.ftruncate(fd, REGION_BYTES)
    return [
        Region("anonymous shared", mmap.mmap(-1, REGION_BYTES)),
        Region("/dev/shm", mmap.mmap(shm, REGION_BYTES)),
        Region("memfd", mmap.mmap(memfd, REGION_BYTES)),
    ]


def unlinked_file() -> int:
    """An open file without a name, its offset in the middle."""
    path = f"/tmp/everything.{os.getpid()}"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content("unlinked", REGION_BYTES))
    os.unlink(path)
    os.lseek(fd, 12345, os.SEEK_SET)
    return fd


class Worker:
    """A thread that checks its own private memory and writes the next generation into it, for ever."""

    def __init__(self, name: str, errors: Errors) -> None:
        self.name, self.errors, self.generation = name, errors, 0
        self.memory = mmap.mmap(-1, WORKER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.memory[:] = content(f"{name}:0", WORKER_BYTES)
        threading.Thread(target=self.run, name=name, daemon=True).start()

    def run(self) -> None:
        while self.memory[:] == content(f"{self.name}:{self.generation}", WORKER_BYTES):
            self.generation += 1
            self.memory[:] = content(f"{self.name}:{self.generation}", WORKER_BYTES)
            time.sleep(PERIOD_S)
        self.errors.add(f"{self.name}: private memory changed in generation {self.generation}")


class Clock:
    """Watches that the monotonic clocks neither go back nor jump; sampled at each tick."""

    def __init__(self, errors: Errors) -> None:
        self.errors = errors
        self.last_ns = {name: time.clock_gettime_ns(clock) for name, clock in CLOCKS.items()}
        self.longest_ns = dict.fromkeys(CLOCKS, 0)

    def sample(self) -> None:
        for name, clock in CLOCKS.items():
            now_ns = time.clock_gettime_ns(clock)
            step_ns = now_ns - self.last_ns[name]
            if step_ns < 0:
                self.errors.add(f"the {name} clock went back by {-step_ns} ns")
            self.last_ns[name], self.longest_ns[name] = now_ns, max(self.longest_ns[name], step_ns)

    def report(self) -> dict[str, float]:
        """The longest step of each clock in ms since the last report."""
        steps, self.longest_ns = self.longest_ns, dict.fromkeys(CLOCKS, 0)
        return {name: round(step_ns / 1e6, 3) for name, step_ns in steps.items()}


def descriptors() -> dict[str, str]:
    """The table of open files: what each is, without the inode numbers that no process sees as its own."""
    table = {}
    for fd in sorted(os.listdir("/proc/self/fd"), key=int):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own
            continue
        is_nameless = target.endswith(" (deleted)") and not target.startswith("/memfd:")
        is_numbered = target.startswith(("socket:", "pipe:"))
        table[fd] = "unlinked file" if is_nameless else target.partition(":")[0] if is_numbered else target
    return table


class Process:
    """One of the two processes: its loop, threads and the regions they share. `side` is 0 for the parent."""

    def __init__(self, side: int, shared: list[Region], file: int) -> None:
        self.side, self.shared, self.file = side, shared, file
        self.errors = Errors()
        self.loop = Loop(self.errors)
        self.clock = Clock(self.errors)
        self.loop.every_tick += [self.clock.sample, self.beat]
        self.workers = [Worker(f"worker {side}.{number}", self.errors) for number in range(3 - side)]
        self.alarms = 0
        signal.signal(signal.SIGALRM, self.alarm)
        signal.setitimer(signal.ITIMER_REAL, ALARM_S, ALARM_S)

    def beat(self) -> None:
        for region in self.shared:
            region.beat(self.side)

    def alarm(self, *_: object) -> None:
        self.alarms += 1

    def status(self) -> dict[str, Any]:
        same = {
            "ids": [os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0), *os.getresuid(), *os.getresgid()],
            "tids": sorted(map(int, os.listdir("/proc/self/task"))),
            "cwd": os.getcwd(),
            "environment": zlib.crc32(repr(sorted(os.environ.items())).encode()),
            "regions": {region.name: region.checksum() for region in self.shared},
            "unlinked": [zlib.crc32(os.pread(self.file, REGION_BYTES, 0)), os.lseek(self.file, 0, os.SEEK_CUR)],
            "descriptors": descriptors(),
        }
        advance = self.loop.counters() | {"alarms": self.alarms}
        advance |= {worker.name: worker.generation for worker in self.workers}
        advance |= {f"{region.name} beats": region.beats(1 - self.side) for region in self.shared}
        return {"same": same, "advance": advance, "clock_ms": self.clock.report(), "errors": self.errors.lines}


def pairs() -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """What connects the two processes: (name, fd to read, fd to write) for the parent and for the child."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    master, slave = pty.openpty()
    tty.setraw(slave)
    parent, child = [("pipes", up_read, down_write)], [("pipes", down_read, up_write)]
    parent.append(("pty", master, master))
    child.append(("pty", slave, slave))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        left, right = (end.detach() for end in socket.socketpair(socket.AF_UNIX, kind))
        parent.append((kind.name, left, left))
        child.append((kind.name, right, right))
    return parent, child


def close_all(ends: list[tuple[str, int, int]]) -> None:
    for fd in {fd for _, *fds in ends for fd in fds}:
        os.close(fd)


def run_child(control: socket.socket, ends: list[tuple[str, int, int]], shared: list[Region], file: int) -> None:
    """The child: leads a session of its own on the pty, and answers each message on `control` with its status."""
    os.setsid()
    terminal = next(fd for name, fd, _ in ends if name == "pty")
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    process = Process(1, shared, file)
    for name, fd_in, fd_out in ends:
        process.loop.add(Channel(name, fd_in, fd_out, mine="child", theirs="parent"))

    def answer() -> None:
        if not control.recv(16):
            sys.exit(0)
        control.send(json.dumps(process.status()).encode())

    process.loop.watch(control.fileno(), answer)
    process.loop.run()


class NamedSocket:
    """A listener on a path in /tmp; each check makes a new connection through it."""

    def __init__(self) -> None:
        self.path = f"/tmp/everything.{os.getpid()}.socket"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen()

    def check(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.connect(self.path)
            answerer, _ = self.listener.accept()
            with answerer:
                caller.sendall(b"?")
                return answerer.recv(1) == b"?"


class Session:
    """The parent: its channels to the child, and the TCP listener for status and streams."""

    def __init__(self, port: int) -> None:
        shared, file = regions(), unlinked_file()
        parent_ends, child_ends = pairs()
        self.control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self.control.close()
            close_all(parent_ends)
            run_child(control, child_ends, shared, file)
        control.close()
        close_all(child_ends)
        self.process = Process(0, shared, file)
        self.loop = self.process.loop
        for name, fd_in, fd_out in parent_ends:
            self.loop.add(Channel(name, fd_in, fd_out, mine="parent", theirs="child"))
        self.named = NamedSocket()
        self.listener = socket.create_server(("", port), backlog=16)
        self.loop.watch(self.listener.fileno(), self.accept)

    def stream(self, name: str, connection: socket.socket, *, mine: str = "session", theirs: str = "client") -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        fd = connection.detach()
        self.loop.add(Channel(name, fd, fd, mine=mine, theirs=theirs))

    def connect_out(self, client: tuple[str, int]) -> None:
        """Connect to a client's listener, the second direction of establishment."""
        self.stream("tcp out", patient_connection(client))

    def join(self, session: tuple[str, int]) -> None:
        """Be the client of another session like this one."""
        self.stream("tcp in", ask_for_stream(session), mine="client", theirs="session")

    def accept(self) -> None:
        """One word decides: a stream stays, a status is answered and closed."""
        connection, _ = self.listener.accept()
        connection.settimeout(2.0)
        try:
            word = connection.recv(16)
            if word == b"stream\n":
                connection.sendall(b"ok\n")
                self.stream("tcp in", connection)
                return
            connection.sendall(json.dumps(self.status()).encode())
        except OSError as error:
            self.process.errors.add(f"status: {error}")
        connection.close()

    def status(self) -> dict[str, Any]:
        self.control.send(b"status")
        child = json.loads(self.control.recv(1 << 16))
        parent = self.process.status()
        parent["same"]["named socket"] = self.named.check()
        return {"parent": parent, "child": child}


def address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7100)
    parser.add_argument("--connect", type=address, metavar="HOST:PORT", help="the listener of a client")
    parser.add_argument("--join", type=address, metavar="HOST:PORT", help="another session, to be its client")
    options = parser.parse_args()
    session = Session(options.port)
    if options.connect:
        session.connect_out(options.connect)
    if options.join:
        session.join(options.join)
    session.loop.run()


if __name__ == "__main__":
    main()
