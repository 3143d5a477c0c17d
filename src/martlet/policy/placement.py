"""Chooses the node for a new session or a move: pressure first, then processor, then memory.

Pure: takes the nodes as they were last reported and what is on its way to them, returns an order of choice and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from martlet.model import NodeFacts, NodeLoad, NodeState, NodeVerdict, Reason

MiB = 1024 * 1024

START_CPU_PCT = 50.0
"""Of one core: what a session on its way is expected to use."""
START_PRESSURE_PCT = 2.0
"""Of one core: the pressure that a session on its way is expected to add."""
START_BYTES = 300 * MiB
"""Memory that a session on its way is expected to use."""

PRESSURE_STEP_PCT = 5.0
CPU_STEP_PCT = 10.0
MEMORY_STEP_PCT = 5.0
"""Differences below a step are noise, and the next criterion decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A node to choose from. `sessions` counts what it owns, `pending` what is on its way and not yet in `load`."""

    facts: NodeFacts
    state: NodeState
    load: NodeLoad | None
    sessions: int = 0
    pending: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Nodes that would do, the best first, and the verdict on every node with its reasons."""

    order: tuple[str, ...]
    verdicts: tuple[NodeVerdict, ...]

    @property
    def best(self) -> str | None:
        return self.order[0] if self.order else None

    @property
    def refusals(self) -> tuple[Reason, ...]:
        """Why each refused node was refused."""
        return tuple(reason for verdict in self.verdicts if not verdict.ok for reason in verdict.reasons)


def place(candidates: Sequence[Candidate], *, need_bytes: int = START_BYTES, source: str = "") -> Placement:
    """Order the nodes for a session that needs `need_bytes` and is on `source` now (empty: it is new)."""
    refused = {each.facts.node: objections(each, need_bytes=need_bytes, source=source) for each in candidates}
    willing = sorted((each for each in candidates if not refused[each.facts.node]), key=rank)
    names = [each.facts.node for each in willing]
    return Placement(
        order=tuple(names),
        verdicts=tuple(
            _verdict(each, refused[each.facts.node], place=names.index(each.facts.node) if each in willing else -1)
            for each in candidates
        ),
    )


def objections(candidate: Candidate, *, need_bytes: int, source: str) -> tuple[Reason, ...]:
    """Everything that speaks against `candidate`, all at once; empty when it will do."""
    name, load = candidate.facts.node, candidate.load
    found = [*_of_state(name, candidate.state), *candidate.facts.faults]
    if name == source:
        found.append(Reason(code="already_there", text=f"the session is on {name} now"))
    if candidate.state is NodeState.DOWN:
        return tuple(found)
    if load is None:
        found.append(Reason(code="no_report", text=f"{name} has not reported its load", hint="look at its agent"))
    elif load.memory_free_bytes - candidate.pending * START_BYTES < need_bytes:
        free = max(0, load.memory_free_bytes - candidate.pending * START_BYTES)
        text = f"{name} has {free // MiB} MiB free and {need_bytes // MiB} MiB are needed"
        found.append(Reason(code="no_memory", text=text, hint="stop or move sessions there"))
    return tuple(found)


def rank(candidate: Candidate) -> tuple[float, float, float, float, str]:
    """The sorting key, smallest first; grows strictly with `pending`, so that a storm of logins spreads."""
    cores = max(candidate.facts.cores, 0.01)
    return (
        expected_pressure_pct(candidate) // PRESSURE_STEP_PCT,
        expected_cpu_pct(candidate) // CPU_STEP_PCT,
        expected_memory_pct(candidate) // MEMORY_STEP_PCT,
        (candidate.sessions + candidate.pending) / cores,
        candidate.facts.node,
    )


def expected_pressure_pct(candidate: Candidate) -> float:
    """The worst pressure of the node, with what its pending sessions will add."""
    reported = candidate.load.pressure if candidate.load else None
    worst = max(reported.cpu, reported.memory, reported.io) if reported else 0.0
    return worst + candidate.pending * START_PRESSURE_PCT / max(candidate.facts.cores, 0.01)


def expected_cpu_pct(candidate: Candidate) -> float:
    """Use of all cores together, in per cent of them, with what pending sessions will add."""
    reported = candidate.load.cpu_pct if candidate.load else 0.0
    return reported + candidate.pending * START_CPU_PCT / max(candidate.facts.cores, 0.01)


def expected_memory_pct(candidate: Candidate) -> float:
    """Memory in use in per cent, with what pending sessions will add."""
    load = candidate.load
    if load is None or load.memory_bytes <= 0:
        return 0.0
    used = load.memory_bytes - load.memory_free_bytes + candidate.pending * START_BYTES
    return 100.0 * used / load.memory_bytes


def _of_state(name: str, state: NodeState) -> list[Reason]:
    match state:
        case NodeState.UP:
            return []
        case NodeState.DRAINING | NodeState.DRAINED:
            hint = f"'martlet node return {name}' puts it back"
            return [Reason(code=f"node_{state}", text=f"{name} is {state} and takes no sessions", hint=hint)]
        case NodeState.DOWN:
            return [Reason(code="node_down", text=f"{name} is down: its agent does not answer", hint="start it")]


def _verdict(candidate: Candidate, refused: tuple[Reason, ...], *, place: int) -> NodeVerdict:
    name = candidate.facts.node
    if refused:
        return NodeVerdict(name=name, ok=False, reasons=refused)
    text = (
        f"{name} is choice {place + 1}: pressure {expected_pressure_pct(candidate):.0f} %, processor"
        f" {expected_cpu_pct(candidate):.0f} %, memory {expected_memory_pct(candidate):.0f} %,"
        f" {candidate.sessions} sessions and {candidate.pending} on their way"
    )
    return NodeVerdict(name=name, ok=True, reasons=(Reason(code="ranked", text=text),))
