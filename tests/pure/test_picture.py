"""What the mother shows: records joined with reports, and the states that follow from both."""

from __future__ import annotations

import pytest

from martlet.model import (
    ImageRef,
    NodeFacts,
    NodeLoad,
    NodeRecord,
    NodeState,
    Ownership,
    Pressure,
    SessionLoad,
    SessionRecord,
    SessionSpec,
    SessionState,
)
from martlet.mother.picture import Picture, candidates, node_views, session_views
from martlet.mother.watching import GRACE_S, present


def record(name: str, state: SessionState = SessionState.RUNNING) -> SessionRecord:
    spec = SessionSpec(
        id=name,
        user="ada",
        uid=2001,
        gid=2001,
        home="/home/ada",
        group="7b",
        image=ImageRef(name="base", digest="sha256:0"),
        argv=("sleep", "a b"),
        address="10.77.1.1",
        mac="02:00:0a:4d:01:01",
        created_at="2026-11-22T00:00:00Z",
    )
    return SessionRecord(spec=spec, state=state, started_at="2026-11-22T00:00:01Z")


def report(node: str, *sessions: SessionLoad) -> NodeLoad:
    return NodeLoad(
        node=node,
        at="",
        cpu_pct=12.0,
        memory_bytes=100,
        memory_free_bytes=60,
        pressure=Pressure(cpu=3.0),
        sessions=sessions,
    )


def load(name: str, state: SessionState = SessionState.RUNNING) -> SessionLoad:
    return SessionLoad(id=name, state=state, epoch=3, memory_bytes=42, cpu_pct=1.0, processes=2, movable=True)


def facts(node: str) -> NodeRecord:
    return NodeRecord(
        facts=NodeFacts(
            node=node,
            address="10.77.0.11",
            door_port=7411,
            version="0",
            protocol=1,
            kernel="6",
            cores=2,
            memory_bytes=100,
        )
    )


def picture(*sessions: SessionLoad, state: SessionState = SessionState.RUNNING, present: str = "n1 n2") -> Picture:
    return Picture(
        sessions={"s1": record("s1", state)},
        owners={"s1": Ownership(node="n1", epoch=3)},
        nodes={"n1": facts("n1"), "n2": facts("n2")},
        loads={"n1": report("n1", *sessions), "n2": report("n2")},
        present=frozenset(present.split()),
    )


@pytest.mark.parametrize(
    ("recorded", "reported", "present", "shown"),
    [
        (SessionState.RUNNING, SessionState.RUNNING, "n1 n2", SessionState.RUNNING),
        (SessionState.RUNNING, None, "n1 n2", SessionState.RUNNING),
        (SessionState.RUNNING, SessionState.MOVING, "n1", SessionState.MOVING),
        (SessionState.RUNNING, SessionState.IN_DOUBT, "n1", SessionState.IN_DOUBT),
        (SessionState.STOPPING, SessionState.RUNNING, "n1", SessionState.STOPPING),
        (SessionState.RUNNING, SessionState.RUNNING, "n2", SessionState.LOST),
    ],
)
def test_session_state(
    recorded: SessionState, reported: SessionState | None, present: str, shown: SessionState
) -> None:
    sessions = [load("s1", reported)] if reported else []
    (view,) = session_views(picture(*sessions, state=recorded, present=present))
    assert view.state is shown


def test_session_view_joins_record_owner_and_report() -> None:
    (view,) = session_views(picture(load("s1")))
    assert (view.node, view.epoch, view.memory_bytes, view.processes, view.movable) == ("n1", 3, 42, 2, True)
    assert (view.user, view.group, view.command) == ("ada", "7b", "sleep 'a b'")


def test_a_starting_session_without_owner_shows_as_recorded() -> None:
    (view,) = session_views(Picture(sessions={"s1": record("s1", SessionState.STARTING)}))
    assert (view.node, view.state) == ("", SessionState.STARTING)


def test_nodes_and_candidates() -> None:
    known = picture(load("s1"), present="n1")
    one, two = node_views(known)
    assert (one.state, one.sessions, one.pressure.cpu) == (NodeState.UP, 1, 3.0)
    assert (two.state, two.sessions, two.cpu_pct) == (NodeState.DOWN, 0, 0.0)
    assert [each.pending for each in candidates(known, {"n2": 4})] == [0, 4]


def test_presence_has_a_grace() -> None:
    assert present({"n1": 10.0}, frozenset(), now_s=10.0 + GRACE_S / 2) == {"n1"}
    assert present({"n1": 10.0}, frozenset({"n2"}), now_s=11.0 + GRACE_S) == {"n2"}
