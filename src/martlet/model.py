"""The values that Martlet's parts speak of to each other: sessions, nodes, moves, reasons.

Values only: frozen, keyword-only, units in the field's name, times as ISO 8601 strings in UTC. No behaviour that
touches the world. Anything here may travel over the bus or a stream; add fields with defaults, never rename one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why something was refused, failed or chosen: a stable code, a sentence, and what to do about it."""

    code: str
    text: str
    hint: str = ""


class SessionState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    MOVING = "moving"
    IN_DOUBT = "in_doubt"
    STOPPING = "stopping"
    LOST = "lost"


class NodeState(StrEnum):
    UP = "up"
    DRAINING = "draining"
    DRAINED = "drained"
    DOWN = "down"


class MoveMode(StrEnum):
    STOP_COPY = "stop-copy"
    PRE_COPY = "pre-copy"
    POST_COPY = "post-copy"
    AUTO = "auto"


class MoveOutcome(StrEnum):
    MOVED = "moved"
    STAYED = "stayed"
    IN_DOUBT = "in_doubt"


class DisplayAccess(StrEnum):
    DIRECT = "direct"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """An image by name and content digest (`sha256:…`); nodes compare digests before a move."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """What a session is, fixed at its birth and the same on every node.

    `argv` is empty for a desktop. `display` is `HOST:N` for a program that shows its windows elsewhere.
    `address` is without prefix length; `mac` is derived from it (`kernel.link.mac_of`).
    """

    id: str
    user: str
    uid: int
    gid: int
    home: str
    group: str
    image: ImageRef
    argv: tuple[str, ...]
    address: str
    mac: str
    created_at: str
    display: str = ""
    display_access: DisplayAccess = DisplayAccess.DIRECT

    @property
    def is_desktop(self) -> bool:
        return not self.argv


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a user asks for; the agent makes a `SessionSpec` of it."""

    user: str
    group: str = ""
    image: str = ""
    argv: tuple[str, ...] = ()
    node: str = ""
    display: str = ""
    display_access: DisplayAccess = DisplayAccess.DIRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Who runs a session. Kept in a bucket of its own and changed by compare-and-swap only; `epoch` grows by one
    at each change of hands, so the copy with the newest epoch is the true one."""

    node: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session as the store keeps it. `state` is starting, running, stopping or lost; that it is moving or in
    doubt is seen in its owner's load report."""

    spec: SessionSpec
    state: SessionState
    started_at: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLoad:
    """One session as its owner's agent saw it a moment ago."""

    id: str
    state: SessionState
    epoch: int
    memory_bytes: int
    cpu_pct: float
    processes: int
    movable: bool
    cpu_pressure_pct: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """Pressure stall information, the `some` share over 10 s in per cent (kernel: Documentation/accounting/psi)."""

    cpu: float = 0.0
    memory: float = 0.0
    io: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLoad:
    """What an agent publishes each second."""

    node: str
    at: str
    cpu_pct: float
    memory_bytes: int
    memory_free_bytes: int
    pressure: Pressure
    sessions: tuple[SessionLoad, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a node is and can do, probed once when its agent starts."""

    node: str
    address: str
    door_port: int
    version: str
    protocol: int
    kernel: str
    cores: float
    memory_bytes: int
    criu: str = ""
    criu_features: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    images: tuple[ImageRef, ...] = ()
    faults: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node as the store keeps it: facts of its agent, and what the administrator wants of it."""

    facts: NodeFacts
    state: NodeState = NodeState.UP


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """One process of one session; `pid` as the session sees it, `host_pid` as its node does."""

    node: str
    session: str
    user: str
    pid: int
    host_pid: int
    threads: int
    cpu_pct: float
    rss_bytes: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveReport:
    """How one move went; `from_` is written `from` outside."""

    session: str
    from_: str
    to: str
    mode: MoveMode
    outcome: MoveOutcome
    freeze_ms: float = 0.0
    total_ms: float = 0.0
    bytes: int = 0
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Movability:
    """Can this session move, and what blocks it. `nodes` says the same of each node as a target."""

    session: str
    movable: bool
    reasons: tuple[Reason, ...] = ()
    nodes: tuple[NodeVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeVerdict:
    name: str
    ok: bool
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, for people and for the record."""

    time: str
    kind: str
    text: str
    session: str = ""
    node: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """A session as `session list` shows it: the store's record joined with its owner's last load report."""

    id: str
    user: str
    group: str
    node: str
    address: str
    state: SessionState
    epoch: int
    memory_bytes: int
    cpu_pct: float
    processes: int
    started_at: str
    movable: bool
    image: str = ""
    command: str = ""
    display_access: DisplayAccess = DisplayAccess.DIRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as `node list` shows it. `sessions` is how many it owns."""

    name: str
    state: NodeState
    address: str
    cores: float
    cpu_pct: float
    memory_bytes: int
    memory_free_bytes: int
    pressure: Pressure
    sessions: int
    door_port: int = 0
    version: str = ""
    kernel: str = ""
    criu: str = ""
