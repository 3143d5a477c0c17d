"""What is asked over the bus, by whom and with which answer: the one table of verbs, shapes and subjects.

Shapes only. `Order` and `Answer` are the envelopes of every request, encoded as JSON by msgspec
(structs, because msgspec keeps a raw body only in its own classes).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from martlet.errors import Exit
from martlet.model import MoveMode, Reason, StartRequest


class AgentVerb(StrEnum):
    """Orders an agent takes on `martlet.agent.NODE.VERB`, with the body's type and the answer's."""

    START = "start"  # StartOrder -> SessionRecord
    STOP = "stop"  # SessionOrder -> null
    MIGRATE = "migrate"  # MigrateOrder -> MoveReport
    WHY = "why"  # SessionOrder -> Movability (nodes left empty)
    ADMIT = "admit"  # AdmitOrder -> NodeVerdict: would this node take that session?
    PROCESSES = "processes"  # null -> list[ProcessInfo]
    KILL = "kill"  # KillOrder -> null
    LOG = "log"  # LogOrder -> LogChunk


class MotherVerb(StrEnum):
    """Requests the leading mother answers on `martlet.mother.VERB`."""

    START = "start"  # StartRequest -> SessionView
    STOP = "stop"  # SessionOrder -> null
    SESSIONS = "sessions"  # null -> list[SessionView]
    NODES = "nodes"  # null -> list[NodeView]
    MIGRATE = "migrate"  # MigrateOrder (to may be empty) -> MoveReport
    WHY = "why"  # SessionOrder -> Movability
    PROCESSES = "processes"  # null -> list[ProcessInfo]
    KILL = "kill"  # KillOrder -> null
    LOG = "log"  # LogOrder -> LogChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    id: str
    request: StartRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOrder:
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateOrder:
    session: str
    to: str = ""
    mode: MoveMode = MoveMode.AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitOrder:
    """`memory_bytes` as the source's last load report has it."""

    session: str
    source: str
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KillOrder:
    """`pid` as the session sees it; 0 means the whole session's init."""

    session: str
    pid: int = 0
    signal: int = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOrder:
    """`offset` counts bytes ever written; a log that was cut answers from its oldest byte kept."""

    session: str
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    text: str
    next_offset: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """`term` is the revision with which the sender leads, so that an old leader is not obeyed; 0 from a person."""

    body: msgspec.Raw
    term: int = 0
    sender: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Either `body` (exit 0) or an error with its exit code and reasons."""

    body: msgspec.Raw = msgspec.Raw(b"null")
    exit: Exit = Exit.DONE
    error: str = ""
    reasons: tuple[Reason, ...] = ()
