"""SIGKILL of an agent or of criu, on either side, at every stage of a move: afterwards the session runs exactly once,
where the promises say, its streams whole, and it moves again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import faults
import pytest
from faults import Trap

from bench.cluster import (
    Lab,
    client_address,
    client_program,
    install_programs,
    listing,
    node_names,
    session,
    session_argv,
)
from bench.continuity import complaints, left_behind
from martlet.errors import MartletError
from martlet.move.machine import Phase, Side

pytestmark = pytest.mark.kernel

SETTLE_S = 30.0
STREAMS_S = 4.0
"""A peer's retransmissions back off while an agent is restarted; within this they have come through."""
LISTEN = 7101

Moment = Callable[[str, str, str, str], Callable[[], bool]]
"""From lab, source, target and session to the question whether it is now."""


def at(side: Side, phase: Phase) -> Moment:
    return lambda lab, source, target, _: faults.reached(lab, source if side is Side.SOURCE else target, side, phase)


def in_post_dump(lab: str, source: str, _target: str, session_id: str) -> Callable[[], bool]:
    return faults.frozen(lab, source, session_id)


STAYS, GOES, EITHER = "source", "target", "either"
"""Where the promises say that the session runs afterwards; `either` where the kill races with the commit."""

CASES = [
    pytest.param(
        faults.kill_agent, Side.SOURCE, at(Side.SOURCE, Phase.PREPARED), STAYS, id="source-agent-before-freeze"
    ),
    pytest.param(faults.kill_agent, Side.SOURCE, at(Side.SOURCE, Phase.FROZEN), STAYS, id="source-agent-in-dump"),
    pytest.param(faults.kill_agent, Side.SOURCE, in_post_dump, STAYS, id="source-agent-after-dump"),
    pytest.param(faults.kill_agent, Side.SOURCE, at(Side.SOURCE, Phase.PERMITTED), EITHER, id="source-agent-permitted"),
    pytest.param(faults.kill_agent, Side.SOURCE, at(Side.TARGET, Phase.COMMITTED), GOES, id="source-agent-committed"),
    pytest.param(
        faults.kill_agent, Side.TARGET, at(Side.TARGET, Phase.PREPARED), STAYS, id="target-agent-before-freeze"
    ),
    pytest.param(faults.kill_agent, Side.TARGET, in_post_dump, STAYS, id="target-agent-in-freeze"),
    pytest.param(faults.kill_agent, Side.TARGET, at(Side.TARGET, Phase.PERMITTED), EITHER, id="target-agent-permitted"),
    pytest.param(faults.kill_agent, Side.TARGET, at(Side.TARGET, Phase.COMMITTED), GOES, id="target-agent-committed"),
    pytest.param(faults.kill_agent, Side.TARGET, at(Side.TARGET, Phase.RESUMED), GOES, id="target-agent-resumed"),
    pytest.param(faults.kill_agent, Side.SOURCE, at(Side.TARGET, Phase.RESUMED), GOES, id="source-agent-resumed"),
    pytest.param(faults.kill_criu, Side.SOURCE, at(Side.SOURCE, Phase.PREPARED), STAYS, id="source-criu-before-freeze"),
    pytest.param(faults.kill_criu, Side.SOURCE, in_post_dump, EITHER, id="source-criu-after-dump"),
    pytest.param(faults.kill_criu, Side.TARGET, at(Side.TARGET, Phase.PREPARED), STAYS, id="target-criu-before-freeze"),
    pytest.param(faults.kill_criu, Side.TARGET, at(Side.TARGET, Phase.PERMITTED), EITHER, id="target-criu-permitted"),
    pytest.param(faults.kill_criu, Side.TARGET, at(Side.TARGET, Phase.COMMITTED), GOES, id="target-criu-committed"),
]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("kill", "side", "moment", "runs"), CASES)
def test_killed_in_the_middle(
    lab: Lab, kill: Callable[[str, str], Callable[[], None]], side: Side, moment: Moment, runs: str
) -> None:
    nodes = node_names(lab)
    victim = nodes[0] if side is Side.SOURCE else nodes[1]
    survives(lab, moment, lambda: kill(lab.name, victim), runs)


@pytest.mark.timeout(120)
def test_a_store_that_is_away_at_the_commit_delays_the_move_and_no_more(lab: Lab) -> None:
    survives(lab, at(Side.SOURCE, Phase.FROZEN), lambda: faults.stop_bus(lab.name, for_s=5.0), EITHER)


@pytest.mark.timeout(120)
def test_in_doubt_it_stays_frozen_and_is_settled_when_the_store_answers(lab: Lab) -> None:
    """After the permit the target's agent dies and the store is away: nobody may thaw before it answers."""

    def act() -> Callable[[], None]:
        stop, kill = faults.stop_bus(lab.name, for_s=15.0), faults.kill_agent(lab.name, node_names(lab)[1])
        return lambda: (stop(), kill(), None)[2]

    survives(lab, at(Side.SOURCE, Phase.PERMITTED), act, EITHER)


def survives(lab: Lab, moment: Moment, prepare: Callable[[], Callable[[], None]], runs: str) -> None:
    """Move a session that is in full use, do the harm at the moment, and hold the outcome against the promises."""
    nodes = node_names(lab)
    source, target = nodes[0], nodes[1]
    install_programs(lab, source)
    before = {node: seen(lab, node) for node in nodes}
    with ExitStack() as stack:
        argv = session_argv("everything", "--connect", f"{client_address(lab)}:{LISTEN}")
        started = stack.enter_context(session(lab, "--node", source, "--", *argv))
        options = (started["address"], "7100", "--listen", str(LISTEN))
        client = stack.enter_context(client_program(lab, "everything_client", *options))
        first = status(client, "start")
        trap = Trap(moment(lab.name, source, target, started["id"]), prepare())
        with trap:
            order(lab, started["id"], target)
        assert trap.sprung.is_set(), "the moment never came"
        owner = settled(lab, nodes, started["id"])
        assert owner in {STAYS: [source], GOES: [target], EITHER: [source, target]}[runs]
        time.sleep(STREAMS_S)
        after = status(client, "after")
        assert complaints(first, after) == []
        again = nodes[2]
        assert lab.martlet("migrate", started["id"], "--to", again)["outcome"] == "moved"
        assert complaints(after, status(client, "again")) == []
    time.sleep(1)
    assert {node: left_behind(before[node], seen(lab, node)) for node in nodes} == {node: [] for node in nodes}


def seen(lab: Lab, node: str) -> dict[str, list[str]]:
    """What there is on a node, but for the record of a move that was cut, which is kept and bounded."""
    found = listing(lab, node)
    return found | {"files": [path for path in found["files"] if "/var/lib/martlet/moves/" not in path]}


def order(lab: Lab, session_id: str, target: str) -> None:
    """Order the move; the order itself may fail with the part that was killed, which is then seen by what runs."""
    with contextlib.suppress(MartletError, AssertionError):
        lab.martlet("migrate", session_id, "--to", target)


def settled(lab: Lab, nodes: list[str], session_id: str) -> str:
    """Wait until all agents are back and there is exactly one copy, which runs; the node where.

    Never, at any look, may two copies run.
    """
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        copies = faults.copies(lab.name, nodes, session_id)
        assert sum(copies.values()) <= 1, f"it runs twice: {copies}"
        view = lab.martlet("session", "show", session_id)
        if list(copies.values()) == [True] and view["state"] == "running" and [view["node"]] == list(copies):
            up = {node["name"] for node in lab.martlet("node", "list") if node["state"] == "up"}
            if up == set(nodes):
                return next(iter(copies))
        time.sleep(0.2)
    raise AssertionError(f"not settled within {SETTLE_S:g} s: copies (node: runs) {copies}, shown as {view}")


def status(client: Any, name: str) -> dict[str, Any]:
    time.sleep(0.2)
    client.order(f"status {name}")
    found: dict[str, Any] = client.answer()
    assert found["name"] == name
    return found
