"""Kills one part of a lab at a named moment of a move, and looks from outside what runs where afterwards.

The moment is taken from the journals that the agents write; what runs is read from the cgroups and /proc of this
machine, not from the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from martlet.kernel.cgroup import Group, Hierarchies
from martlet.lab import registry
from martlet.move.machine import Phase, Side

WATCH_S = 60.0
SPIN_S = 0.0002


def node_group(lab: str, node: str) -> Group:
    """A node's cgroup, seen from the host."""
    return Hierarchies.find().group(registry.group(lab).name).child(node)


def journals(lab: str, node: str) -> Path:
    return registry.bulk(lab) / node / "upper/var/lib/martlet/moves"


def agent_pid(lab: str, node: str) -> int:
    """The host's pid of a node's agent."""
    for pid in node_group(lab, node).child("system").processes():
        if b"martlet.agent" in _read(pid, "cmdline"):
            return pid
    raise AssertionError(f"no agent runs on {node}")


def criu_pids(lab: str, node: str) -> list[int]:
    return [pid for pid in node_group(lab, node).processes() if _read(pid, "comm").strip() == b"criu"]


def copies(lab: str, nodes: list[str], session: str) -> dict[str, bool]:
    """The nodes on which a copy of a session has processes, and whether it runs there.

    It does not run while its cgroup is frozen, nor while the criu that restores it has not let it go.
    """
    found: dict[str, bool] = {}
    for node in nodes:
        group = node_group(lab, node).child("martlet").child(session)
        names = [_read(pid, "comm").strip() for pid in group.processes()] if group.exists() else []
        if any(name != b"criu" for name in names):
            found[node] = not group.frozen() and b"criu" not in names
    return found


class Trap:
    """Waits for a moment of the next move, and then acts once. `sprung` tells whether it did."""

    def __init__(self, is_now: Callable[[], bool], act: Callable[[], None]) -> None:
        self._is_now, self._act = is_now, act
        self.sprung = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Trap:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        until = time.monotonic() + WATCH_S
        while not self._stop.is_set() and time.monotonic() < until:
            if self._is_now():
                self._act()
                self.sprung.set()
                return
            time.sleep(SPIN_S)


def reached(lab: str, node: str, side: Side, phase: Phase) -> Callable[[], bool]:
    """Whether a move that begins after this call has come to `phase` on one side."""
    folder = journals(lab, node)
    old = set(folder.glob(f"*.{side}.jsonl"))

    def look() -> bool:
        return any(phase in phases_of(path) for path in set(folder.glob(f"*.{side}.jsonl")) - old)

    return look


def frozen(lab: str, node: str, session: str) -> Callable[[], bool]:
    """Whether the session's cgroup on a node is held frozen: at the source, between the dump and the end."""
    return node_group(lab, node).child("martlet").child(session).frozen


def kill_agent(lab: str, node: str) -> Callable[[], None]:
    pid = agent_pid(lab, node)
    return lambda: os.kill(pid, signal.SIGKILL)


def kill_criu(lab: str, node: str) -> Callable[[], None]:
    def act() -> None:
        for pid in criu_pids(lab, node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    return act


def stop_bus(lab: str, *, for_s: float) -> Callable[[], None]:
    """Stop the NATS server where it stands, and let it go on after a while: an outage without a lost connection."""
    group = Hierarchies.find().group(registry.group(lab).name).child("mother1").child("system")
    pid = next(pid for pid in group.processes() if _read(pid, "comm").strip() == b"nats-server")

    def act() -> None:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(for_s, os.kill, (pid, signal.SIGCONT)).start()

    return act


def phases_of(path: Path) -> list[str]:
    return list(_phases(path))


def _phases(path: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)["phase"]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
