"""Mother and bus die while a session is in use: nobody at it sees that, and when they are back it moves again."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from lab_fixture import CommandFailed, Lab

from bench.cluster import Cluster, client_program, install_programs, session, session_argv

pytestmark = pytest.mark.kernel

BACK_S = 30.0
LONGEST_GAP_MS = 500.0
"""Far above what a busy machine does to a program that ticks every 5 ms, far below any time-out of the cluster."""


@pytest.mark.timeout(120)
def test_death_of_mother_and_bus_stops_no_session(lab: Lab) -> None:
    cluster = Cluster(lab.name)
    install_programs(cluster, "node1")
    argv = session_argv("tick_server")
    with (
        session(cluster, "--node", "node1", "--", *argv) as started,
        client_program(cluster, "tick_client", started["address"], "7000") as watcher,
    ):
        watcher.order("mark death")
        for program in ("nats-server", "martlet[.]mother"):
            assert lab.exec("mother1", "pkill", "-KILL", "-f", program).returncode == 0
        death = watcher.answer()
        assert death["errors"] == []
        assert death["gap_ms"] < LONGEST_GAP_MS
        report = moved_when_they_are_back(lab, started["id"], "node2")
        assert report["outcome"] == "moved"
        watcher.order("mark end")
        assert watcher.answer()["errors"] == []


def moved_when_they_are_back(lab: Lab, session_id: str, target: str) -> dict[str, Any]:
    """The report of a move that is ordered again until mother and agents are there to take it."""
    until = time.monotonic() + BACK_S
    while time.monotonic() < until:
        with contextlib.suppress(CommandFailed):
            report: dict[str, Any] = lab.martlet("migrate", session_id, "--to", target)
            return report
        time.sleep(0.5)
    raise AssertionError(f"no move within {BACK_S:g} s; nodes are {lab.martlet('node', 'list')}")
