"""What the node and each session use, sampled once a second from /proc and the cgroups.

Differences between two samples; keeps nothing older.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from martlet.bus.events import now
from martlet.kernel import cgroup
from martlet.model import NodeLoad, Pressure, SessionLoad, SessionState
from martlet.session import inspect
from martlet.session.place import Place

MOVABLE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usage:
    at: float
    cpu_s: float


class Sampler:
    """Samples one node. `sample` is synchronous and takes a millisecond or two per session."""

    def __init__(self, node: str, cores: float, hierarchies: cgroup.Hierarchies) -> None:
        self._node = node
        self._hierarchies = hierarchies
        self._cores = cores
        self._last = _Usage(at=time.monotonic(), cpu_s=_busy_s())
        self._sessions: dict[str, _Usage] = {}
        self._movable: dict[str, tuple[float, bool]] = {}

    def sample(self, owned: list[tuple[Place, int, SessionState]]) -> NodeLoad:
        """The load now. `owned` holds the sessions with their epoch and state."""
        usage = _Usage(at=time.monotonic(), cpu_s=_busy_s())
        cpu_pct = _share_pct(self._last, usage) / self._cores
        self._last = usage
        memory = self._hierarchies.memory()
        self._sessions = {
            place.spec.id: self._sessions[place.spec.id] for place, _, _ in owned if place.spec.id in self._sessions
        }
        return NodeLoad(
            node=self._node,
            at=now(),
            cpu_pct=round(cpu_pct, 1),
            memory_bytes=memory.total_bytes,
            memory_free_bytes=memory.free_bytes,
            pressure=pressure(),
            sessions=tuple(self._session(place, epoch, state) for place, epoch, state in owned),
        )

    def _session(self, place: Place, epoch: int, state: SessionState) -> SessionLoad:
        session = place.spec.id
        usage = _Usage(at=time.monotonic(), cpu_s=place.group.cpu_usec() / 1e6)
        before = self._sessions.get(session, usage)
        self._sessions[session] = usage
        return SessionLoad(
            id=session,
            state=state,
            epoch=epoch,
            memory_bytes=place.group.memory_bytes(),
            cpu_pct=round(_share_pct(before, usage), 1),
            processes=len(place.group.processes()),
            movable=self._is_movable(place, usage.at),
            cpu_pressure_pct=place.group.pressure().cpu,
        )

    def _is_movable(self, place: Place, at: float) -> bool:
        """Looked at every few seconds only: it reads every process's descriptors."""
        seen_at, movable = self._movable.get(place.spec.id, (0.0, False))
        if at - seen_at > MOVABLE_EVERY_S or not movable:
            movable = not inspect.blockers(*inspect.look(place))
            self._movable[place.spec.id] = (at, movable)
        return movable


def pressure() -> Pressure:
    """The node's pressure stall information; zeros where the kernel has none."""
    values = {kind: cgroup.some_pct(_read(f"/proc/pressure/{kind}")) for kind in ("cpu", "memory", "io")}
    return Pressure(**values)


def _share_pct(before: _Usage, after: _Usage) -> float:
    span_s = after.at - before.at
    return 100.0 * (after.cpu_s - before.cpu_s) / span_s if span_s > 0 else 0.0


def _busy_s() -> float:
    """Processor time that was not idle, all cores together (proc(5), /proc/stat)."""
    ticks = [int(part) for part in _read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / 100.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
