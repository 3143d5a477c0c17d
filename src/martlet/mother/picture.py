"""What the mother knows of the cluster, and the views of it that people are shown.

Pure: the picture is a value; `watching.py` keeps it up to date.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from martlet.model import (
    NodeLoad,
    NodeRecord,
    NodeState,
    NodeView,
    Ownership,
    Pressure,
    SessionLoad,
    SessionRecord,
    SessionState,
    SessionView,
)
from martlet.policy.placement import Candidate

SEEN_ONLY_BY_OWNER = frozenset({SessionState.MOVING, SessionState.IN_DOUBT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The store's records, the last load report of each node, and which nodes are present."""

    sessions: Mapping[str, SessionRecord] = field(default_factory=dict)
    owners: Mapping[str, Ownership] = field(default_factory=dict)
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    loads: Mapping[str, NodeLoad] = field(default_factory=dict)
    present: frozenset[str] = frozenset()


def node_state(picture: Picture, name: str) -> NodeState:
    """What the administrator wants of the node, or down while its presence lease is gone."""
    return picture.nodes[name].state if name in picture.present else NodeState.DOWN


def session_state(record: SessionRecord, load: SessionLoad | None, *, owner_present: bool) -> SessionState:
    """The state to show: as recorded, unless the owner reports a move; `lost` only when the owner's presence is gone.

    A session that is starting has no owner yet and shows as recorded.
    """
    if not owner_present:
        return SessionState.LOST
    if load is not None and load.state in SEEN_ONLY_BY_OWNER:
        return load.state
    return record.state


def session_view(picture: Picture, record: SessionRecord) -> SessionView:
    """One session: the store's record joined with its owner's last report.

    Before the first report the figures are zero, and a running session counts as movable: all are born so.
    """
    spec = record.spec
    owner = picture.owners.get(spec.id)
    load = last_load(picture, spec.id)
    return SessionView(
        id=spec.id,
        user=spec.user,
        group=spec.group,
        node=owner.node if owner else "",
        address=spec.address,
        state=session_state(record, load, owner_present=owner is None or owner.node in picture.present),
        epoch=owner.epoch if owner else 0,
        memory_bytes=load.memory_bytes if load else 0,
        cpu_pct=load.cpu_pct if load else 0.0,
        processes=load.processes if load else 0,
        started_at=record.started_at,
        movable=load.movable if load else record.state is SessionState.RUNNING,
        image=spec.image.name,
        command=shlex.join(spec.argv),
        display_access=spec.display_access,
    )


def last_load(picture: Picture, session: str) -> SessionLoad | None:
    """The owner's report on `session`; just after a move, the report of the node it came from."""
    owner = picture.owners.get(session)
    reporters = sorted(picture.loads, key=lambda name: owner is None or name != owner.node)
    reports = (load for name in reporters for load in picture.loads[name].sessions)
    return next((load for load in reports if load.id == session), None)


def session_views(picture: Picture) -> list[SessionView]:
    """All sessions, oldest first."""
    records = sorted(picture.sessions.values(), key=lambda record: (record.spec.created_at, record.spec.id))
    return [session_view(picture, record) for record in records]


def node_view(picture: Picture, name: str) -> NodeView:
    """One node: its record joined with its last report, zeros before the first and while it is down."""
    facts, state = picture.nodes[name].facts, node_state(picture, name)
    load = picture.loads.get(name) if state is not NodeState.DOWN else None
    return NodeView(
        name=name,
        state=state,
        address=facts.address,
        cores=facts.cores,
        cpu_pct=load.cpu_pct if load else 0.0,
        memory_bytes=load.memory_bytes if load else facts.memory_bytes,
        memory_free_bytes=load.memory_free_bytes if load else 0,
        pressure=load.pressure if load else Pressure(),
        sessions=owned(picture)[name],
        door_port=facts.door_port,
        version=facts.version,
        kernel=facts.kernel,
        criu=facts.criu,
    )


def node_views(picture: Picture) -> list[NodeView]:
    """All nodes by name."""
    return [node_view(picture, name) for name in sorted(picture.nodes)]


def owned(picture: Picture) -> Counter[str]:
    """How many sessions each node owns."""
    return Counter(owner.node for session, owner in picture.owners.items() if session in picture.sessions)


def candidates(picture: Picture, pending: Mapping[str, int]) -> list[Candidate]:
    """The nodes as placement wants them; `pending` counts the sessions on their way to each."""
    counts = owned(picture)
    return [
        Candidate(
            facts=record.facts,
            state=node_state(picture, name),
            load=picture.loads.get(name),
            sessions=counts[name],
            pending=pending.get(name, 0),
        )
        for name, record in sorted(picture.nodes.items())
    ]
