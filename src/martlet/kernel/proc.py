"""What /proc says of a session's processes: pids inside and outside, what they hold, what would block a move.

Only reads; a process that ends while it is read is left out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One process. `pid` inside its own PID namespace, `host_pid` in ours; processor time in ticks since birth, which
    was `age_s` ago."""

    host_pid: int
    pid: int
    parent: int
    session_leader: int
    threads: int
    tracer: int
    cpu_ticks: int
    age_s: float
    rss_bytes: int
    state: str
    command: str


def read(host_pid: int) -> Task | None:
    """One process, or None when it is gone."""
    base = PROC / str(host_pid)
    try:
        status = dict(line.split(":\t", 1) for line in (base / "status").read_text().splitlines() if ":\t" in line)
        stat = (base / "stat").read_text().rpartition(")")[2].split()
        command = (base / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except (OSError, ValueError):
        return None
    return Task(
        host_pid=host_pid,
        pid=int(status["NSpid"].split()[-1]),
        parent=int(status["PPid"]),
        session_leader=int(status.get("NSsid", "0").split()[-1]),
        threads=int(status["Threads"]),
        tracer=int(status["TracerPid"]),
        cpu_ticks=int(stat[11]) + int(stat[12]),
        age_s=time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / CLOCK_TICKS,
        rss_bytes=int(stat[21]) * PAGE_BYTES,
        state=stat[0],
        command=command or f"[{status['Name']}]",
    )


def read_all(host_pids: Iterable[int]) -> list[Task]:
    tasks = (read(pid) for pid in host_pids)
    return [task for task in tasks if task is not None]


def init_of(host_pids: Iterable[int], *, net: Path) -> int | None:
    """The pid, as we see it, of the process that is pid 1 of the session whose network namespace is `net`."""
    with contextlib.suppress(OSError):
        wanted = os.stat(net).st_ino
        for host_pid in host_pids:
            with contextlib.suppress(OSError, StopIteration):
                if _inner_pid(host_pid) == 1 and os.stat(PROC / str(host_pid) / "ns/net").st_ino == wanted:
                    return host_pid
    return None


def _inner_pid(host_pid: int) -> int:
    lines = (PROC / str(host_pid) / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def namespace_inode(host_pid: int, kind: str) -> int:
    """The number that names one namespace of a process; 0 when it is gone."""
    try:
        return os.stat(PROC / str(host_pid) / "ns" / kind).st_ino
    except OSError:
        return 0


def descriptors(host_pid: int) -> list[str]:
    """What the descriptors of a process point at (`socket:[123]`, `anon_inode:[eventpoll]`, paths)."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC / str(host_pid) / "fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(entry.path))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """A lock on a file that a process holds; `device` is the file system's, as `os.stat` has it."""

    host_pid: int
    kind: str
    device: int
    inode: int


def locks() -> list[Lock]:
    """The file locks of processes that we can see (proc(5), /proc/locks); those of an open file have no process."""
    return parse_locks((PROC / "locks").read_text())


def parse_locks(text: str) -> list[Lock]:
    """`1: POSIX  ADVISORY  WRITE 49 fe:00:2072636 0 EOF`; lines of waiters (`->`) are left out."""
    found: list[Lock] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] != "->":
            major, minor, inode = fields[5].split(":")
            device = os.makedev(int(major, 16), int(minor, 16))
            found.append(Lock(host_pid=int(fields[4]), kind=fields[1], device=device, inode=int(inode)))
    return found


def path_of(host_pid: int, inode: int) -> str:
    """Under which path a process has a file open, by the file's inode number; empty when it has not."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC / str(host_pid) / "fd"):
            with contextlib.suppress(OSError):
                if os.stat(entry.path).st_ino == inode:
                    return os.readlink(entry.path)
    return ""
