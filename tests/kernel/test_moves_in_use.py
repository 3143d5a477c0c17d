"""Moves of sessions that are in full use, watched from the client machine byte by byte.

Everything goes through the command line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from lab_fixture import Lab

from bench.cluster import (
    HOME,
    Cluster,
    Program,
    client_address,
    client_program,
    install_programs,
    listing,
    node_names,
    output,
    session,
    session_argv,
)
from bench.continuity import complaints, left_behind
from bench.desktop import tell, type_command, watched
from bench.figures import round_trip

pytestmark = pytest.mark.kernel

MOVES = 100
SETTLE_S = 0.2
"""Longer than the slowest counter of `everything` takes to grow."""
LISTEN = 7101
TYPED = "~/typed.txt"
SENTENCE = "the quick brown fox jumps over the lazy dog and"


@pytest.fixture
def cluster(lab: Lab) -> Cluster:
    """The running lab as the measurements use it, with their programs in place."""
    found = Cluster(lab.name)
    install_programs(found, node_names(found)[0])
    return found


def migrate(cluster: Cluster, session_id: str, target: str) -> dict[str, Any]:
    report: dict[str, Any] = cluster.martlet("migrate", session_id, "--to", target)
    assert report["outcome"] == "moved"
    assert report["to"] == target
    return report


def status(client: Program, name: str) -> dict[str, Any]:
    time.sleep(SETTLE_S)
    client.order(f"status {name}")
    found = client.answer()
    assert found["name"] == name
    return found


@contextmanager
def everything(cluster: Cluster, *, node: str) -> Iterator[tuple[dict[str, Any], Program]]:
    """A session that uses everything, with its client's streams in both directions."""
    argv = session_argv("everything", "--connect", f"{client_address(cluster)}:{LISTEN}")
    with ExitStack() as stack:
        started = stack.enter_context(session(cluster, "--node", node, "--", *argv))
        options = (started["address"], "7100", "--listen", str(LISTEN))
        yield started, stack.enter_context(client_program(cluster, "everything_client", *options))


@pytest.mark.timeout(1200)
def test_a_hundred_moves_change_nothing_and_leave_nothing(cluster: Cluster) -> None:
    nodes = node_names(cluster)
    before = {node: listing(cluster, node) for node in nodes}
    with everything(cluster, node=nodes[0]) as (started, client):
        last = status(client, "start")
        for number, target in enumerate(round_trip(nodes, started["node"], MOVES)):
            migrate(cluster, started["id"], target)
            now = status(client, str(number))
            assert complaints(last, now) == [], f"move {number} to {target}"
            last = now
    time.sleep(3)
    assert {node: left_behind(before[node], listing(cluster, node)) for node in nodes} == {node: [] for node in nodes}


@pytest.mark.timeout(300)
def test_moves_under_load_on_both_sides(cluster: Cluster) -> None:
    nodes = node_names(cluster)[:2]
    burn = ("python3", "-c", "import os\nos.fork()\nwhile True: pass")
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(session(cluster, "--node", node, "--", *burn))
        started, client = stack.enter_context(everything(cluster, node=nodes[0]))
        last = status(client, "start")
        for number, target in enumerate(round_trip(nodes, nodes[0], 6)):
            migrate(cluster, started["id"], target)
            now = status(client, str(number))
            assert complaints(last, now) == []
            last = now


@pytest.mark.timeout(300)
def test_five_sessions_to_and_fro_at_once(cluster: Cluster) -> None:
    nodes = node_names(cluster)[:2]
    with ExitStack() as stack:
        starts = [nodes[number % 2] for number in range(5)]
        argv = session_argv("tick_server")
        started = [stack.enter_context(session(cluster, "--node", node, "--", *argv)) for node in starts]
        watchers = [
            stack.enter_context(client_program(cluster, "tick_client", one["address"], "7000")) for one in started
        ]

        def to_and_fro(one: dict[str, Any]) -> None:
            for target in round_trip(nodes, one["node"], 4):
                migrate(cluster, one["id"], target)

        with ThreadPoolExecutor(max_workers=5) as pool:
            list(pool.map(to_and_fro, started))
        for watcher in watchers:
            watcher.order("mark end")
            assert watcher.answer()["errors"] == []


@pytest.mark.timeout(300)
def test_a_session_on_each_end_of_one_connection_both_moved(cluster: Cluster) -> None:
    nodes = node_names(cluster)
    with ExitStack() as stack:
        one = stack.enter_context(session(cluster, "--node", nodes[0], "--", *session_argv("everything")))
        join = ("--join", f"{one['address']}:7100")
        other = stack.enter_context(session(cluster, "--node", nodes[1], "--", *session_argv("everything", *join)))
        ends = [
            stack.enter_context(client_program(cluster, "everything_client", end["address"], "7100"))
            for end in (one, other)
        ]
        last = [status(client, "start") for client in ends]
        for mover, target in ((one, nodes[2]), (other, nodes[0]), (one, nodes[1]), (other, nodes[2])):
            migrate(cluster, mover["id"], target)
            now = [status(client, target) for client in ends]
            assert [complaints(old, new) for old, new in zip(last, now, strict=True)] == [[], []]
            last = now


@pytest.mark.timeout(300)
def test_both_ends_of_one_connection_moved_at_the_same_time(cluster: Cluster) -> None:
    nodes = node_names(cluster)
    with ExitStack() as stack:
        one = stack.enter_context(session(cluster, "--node", nodes[0], "--", *session_argv("everything")))
        join = ("--join", f"{one['address']}:7100")
        other = stack.enter_context(session(cluster, "--node", nodes[1], "--", *session_argv("everything", *join)))
        client = stack.enter_context(client_program(cluster, "everything_client", one["address"], "7100"))
        last = status(client, "start")
        with ThreadPoolExecutor(max_workers=2) as pool:
            moves = [
                pool.submit(migrate, cluster, one["id"], nodes[1]),
                pool.submit(migrate, cluster, other["id"], nodes[0]),
            ]
            for move in moves:
                move.result()
        assert complaints(last, status(client, "end")) == []


@pytest.mark.timeout(300)
def test_a_desktop_keeps_its_viewer_and_every_key(cluster: Cluster) -> None:
    nodes = node_names(cluster)
    with session(cluster, "--node", nodes[0]) as started, watched(cluster, started["address"]) as display:
        targets = round_trip(nodes, nodes[0], 4)
        type_command(cluster, display, started["id"], "PS1= bash --norc", "--norc")
        for target in targets:
            tell(display, do="type", text=f"echo {SENTENCE} to {target} >> {TYPED}\n")
            migrate(cluster, started["id"], target)
        wanted = "".join(f"{SENTENCE} to {target}\n" for target in targets)
        assert await_text(cluster, nodes[0], TYPED, length=len(wanted)) == wanted


def await_text(cluster: Cluster, node: str, path: str, *, length: int) -> str:
    """The file's text when it has grown to `length`, or what there is after a minute."""
    until_s = time.monotonic() + 60
    while True:
        text = output(cluster, node, "sh", "-c", f"cat {path.replace('~', HOME)} 2>&- || :").decode()
        if len(text) >= length or time.monotonic() > until_s:
            return text
        time.sleep(0.5)
