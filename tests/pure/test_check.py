"""Reasons against a target: each by itself, all of them at once, and none where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.model import ImageRef, NodeFacts, NodeState, Reason, SessionSpec
from martlet.move.check import MARGIN_BYTES, Host, Wanted, faults_of, objections, version_of

MiB = 1 << 20
SPEC = SessionSpec(
    id="abcdef",
    user="ada",
    uid=2001,
    gid=2001,
    home="/home/ada",
    group="7b",
    image=ImageRef(name="desktop", digest="sha256:" + "1" * 64),
    argv=(),
    address="10.77.1.1",
    mac="02:4d:0a:4d:01:01",
    created_at="2026-01-01T00:00:00Z",
)


def facts(node: str, **changes: Any) -> NodeFacts:
    usual = NodeFacts(
        node=node,
        address="10.77.0.11",
        door_port=7411,
        version="0.1.0",
        protocol=1,
        kernel="6.18.1",
        cores=4,
        memory_bytes=16 << 30,
        criu="4.2.1",
        cpu_flags=("avx", "avx2", "sse2"),
    )
    return replace(usual, **changes)


WANTED = Wanted(spec=SPEC, source=facts("node1"), memory_bytes=100 * MiB, private_bytes=10 * MiB)
ENOUGH_BYTES = 2 * 100 * MiB + 10 * MiB + MARGIN_BYTES
HOST = Host(
    facts=facts("node2"),
    state=NodeState.UP,
    free_bytes=ENOUGH_BYTES,
    has_image=True,
    has_session=False,
    has_criu=True,
    uid=2001,
    has_home=True,
)


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a host: changes of the host, or of its facts."""

    code: str
    host: dict[str, Any] | None = None
    facts: dict[str, Any] | None = None


FAULTS = (
    Fault("node_not_up", host={"state": NodeState.DRAINING}),
    Fault("already_there", host={"has_session": True}),
    Fault("image_missing", host={"has_image": False}),
    Fault("no_memory", host={"free_bytes": ENOUGH_BYTES - 1}),
    Fault("no_home", host={"has_home": False}),
    Fault("cpu_features", facts={"cpu_flags": ("avx", "sse2")}),
    Fault("criu_older", facts={"criu": "4.1.9"}),
    Fault("criu_missing", facts={"faults": (Reason(code="criu_missing", text="no criu on node2"),)}),
)


def with_faults(faults: tuple[Fault, ...] | list[Fault]) -> Host:
    host = HOST
    for fault in faults:
        host = replace(host, facts=replace(host.facts, **(fault.facts or {})), **(fault.host or {}))
    return host


def codes(host: Host, wanted: Wanted = WANTED) -> list[str]:
    return sorted(reason.code for reason in objections(wanted, host))


def test_a_fit_host_takes_it() -> None:
    assert objections(WANTED, HOST) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_each_fault_is_one_reason_that_names_the_node(fault: Fault) -> None:
    (reason,) = objections(WANTED, with_faults([fault]))
    assert reason.code == fault.code
    assert "node2" in reason.text


@given(faults=st.lists(st.sampled_from(FAULTS), unique_by=lambda fault: fault.code))
def test_all_reasons_at_once(faults: list[Fault]) -> None:
    assert codes(with_faults(faults)) == sorted(fault.code for fault in faults)


@pytest.mark.parametrize("state", [state for state in NodeState if state is not NodeState.UP])
def test_only_a_node_that_is_up_takes_sessions(state: NodeState) -> None:
    assert codes(replace(HOST, state=state)) == ["node_not_up"]


@pytest.mark.parametrize(("uid", "code"), [(None, "no_user"), (2002, "other_uid")])
def test_a_user_must_be_the_same_on_both(uid: int | None, code: str) -> None:
    """The home is not judged then: it would be somebody else's."""
    assert codes(replace(HOST, uid=uid, has_home=False)) == [code]


def test_memory_is_needed_twice_for_a_moment() -> None:
    """The images, and what is restored from them."""
    larger = replace(WANTED, memory_bytes=WANTED.memory_bytes + 1)
    assert codes(replace(HOST, free_bytes=ENOUGH_BYTES + 1), larger) == ["no_memory"]
    assert codes(replace(HOST, free_bytes=ENOUGH_BYTES + 2), larger) == []


def test_a_better_target_is_no_obstacle() -> None:
    newer = facts("node2", criu="5.0", cpu_flags=("avx", "avx2", "avx512f", "sse2"))
    assert codes(replace(HOST, facts=newer)) == []


@pytest.mark.parametrize(
    ("criu", "kernel", "code"),
    [
        ("", "6.1.0", "criu_missing"),
        ("4.1.1", "6.16.0", "criu_too_old"),
        ("4.1.1", "6.18.44-fc", "criu_too_old"),
        ("3.19", "7.0-rc1", "criu_too_old"),
        ("4.1.1", "6.15.9", None),
        ("4.2", "6.16", None),
        ("4.10", "6.16", None),
    ],
)
def test_criu_must_fit_the_kernel(criu: str, kernel: str, code: str | None) -> None:
    found = faults_of(criu=criu, kernel=kernel, node="node2")
    assert [reason.code for reason in found] == ([code] if code else [])


@pytest.mark.parametrize(
    ("text", "version"), [("6.18.44-fc", (6, 18, 44)), ("4.2", (4, 2)), ("6.1.0+deb", (6, 1)), ("", ())]
)
def test_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert version_of(text) == version
