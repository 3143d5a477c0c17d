"""Placement: the least pressed node first, a storm spreads, and every refusal says why."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from martlet.model import NodeFacts, NodeLoad, NodeState, Pressure, Reason
from martlet.policy.placement import START_BYTES, Candidate, Placement, place

GiB = 1 << 30


def node(
    name: str,
    *,
    state: NodeState = NodeState.UP,
    cores: float = 8,
    cpu_pct: float = 5.0,
    cpu_pressure: float = 0.0,
    free_bytes: int = 24 * GiB,
    sessions: int = 0,
    pending: int = 0,
) -> Candidate:
    facts = NodeFacts(
        node=name,
        address="10.0.0.1",
        door_port=1,
        version="1",
        protocol=1,
        kernel="6.1",
        cores=cores,
        memory_bytes=32 * GiB,
    )
    load = NodeLoad(
        node=name,
        at="",
        cpu_pct=cpu_pct,
        memory_bytes=32 * GiB,
        memory_free_bytes=free_bytes,
        pressure=Pressure(cpu=cpu_pressure),
    )
    return Candidate(facts=facts, state=state, load=load, sessions=sessions, pending=pending)


def codes(placement: Placement) -> set[str]:
    return {reason.code for reason in placement.refusals}


def test_pressure_counts_before_processor_and_memory() -> None:
    pressed = node("pressed", cpu_pressure=40, cpu_pct=10)
    busy = node("busy", cpu_pressure=1, cpu_pct=90, free_bytes=2 * GiB)
    assert place([pressed, busy]).order == ("busy", "pressed")


def test_processor_counts_before_memory() -> None:
    assert place([node("a", cpu_pct=70), node("b", cpu_pct=20, free_bytes=8 * GiB)]).best == "b"


def test_noise_does_not_decide() -> None:
    assert place([node("a", cpu_pct=5.1, sessions=9), node("b", cpu_pct=5.4, sessions=1)]).best == "b"


def test_all_reasons_at_once() -> None:
    bad = node("a", state=NodeState.DRAINING, free_bytes=0)
    bad = replace(bad, facts=replace(bad.facts, faults=(Reason(code="criu_missing", text="no criu"),)))
    placement = place([bad], source="a")
    assert placement.best is None
    assert codes(placement) == {"node_draining", "criu_missing", "already_there", "no_memory"}


def test_down_and_silent_nodes_are_refused() -> None:
    silent = replace(node("b"), load=None)
    assert codes(place([node("a", state=NodeState.DOWN), silent])) == {"node_down", "no_report"}


def storm(nodes: list[Candidate], count: int) -> list[int]:
    """How many of `count` sessions each node gets, when they are placed one after the other."""
    for _ in range(count):
        best = place(nodes).best
        nodes = [replace(each, pending=each.pending + (each.facts.node == best)) for each in nodes]
    return [each.pending for each in nodes]


@given(st.integers(1, 6), st.integers(0, 30))
def test_a_storm_spreads_evenly_over_equal_nodes(width: int, count: int) -> None:
    spread = storm([node(f"n{number}") for number in range(width)], count)
    assert sum(spread) == count
    assert max(spread) - min(spread) <= 1


def test_a_storm_prefers_the_larger_node() -> None:
    small, large = storm([node("small", cores=2), node("large", cores=8)], 20)
    assert large > 2 * small


nodes_strategy = st.lists(
    st.builds(
        node,
        st.sampled_from([f"n{number}" for number in range(8)]),
        state=st.sampled_from(NodeState),
        cores=st.floats(0.5, 64),
        cpu_pct=st.floats(0, 100),
        cpu_pressure=st.floats(0, 100),
        free_bytes=st.integers(0, 32 * GiB),
        sessions=st.integers(0, 200),
        pending=st.integers(0, 20),
    ),
    unique_by=lambda each: each.facts.node,
)


@given(nodes_strategy)
def test_every_node_has_a_verdict_with_reasons(nodes: list[Candidate]) -> None:
    placement = place(nodes)
    assert [verdict.name for verdict in placement.verdicts] == [each.facts.node for each in nodes]
    assert all(verdict.reasons for verdict in placement.verdicts)
    assert {verdict.name for verdict in placement.verdicts if verdict.ok} == set(placement.order)


@given(nodes_strategy)
def test_the_choice_is_up_and_has_room(nodes: list[Candidate]) -> None:
    chosen = next((each for each in nodes if each.facts.node == place(nodes).best), None)
    if chosen is not None and chosen.load is not None:
        assert chosen.state is NodeState.UP
        assert chosen.load.memory_free_bytes >= START_BYTES * (1 + chosen.pending)


@given(nodes_strategy)
def test_the_choice_does_not_depend_on_the_order_of_the_question(nodes: list[Candidate]) -> None:
    assert place(nodes).order == place(nodes[::-1]).order


@given(nodes_strategy)
def test_more_pressure_never_makes_a_node_more_attractive(nodes: list[Candidate]) -> None:
    best = place(nodes).best
    worse = [
        replace(each, load=replace(each.load, pressure=Pressure(cpu=100.0)))
        if each.facts.node != best and each.load
        else each
        for each in nodes
    ]
    assert place(worse).best == best
