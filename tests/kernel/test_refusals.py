"""Every refusal names its reasons and leaves the session as it was: its processes, its streams, its owner and epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import faults
import pytest
from by_hand import (
    ROOM_BYTES,
    await_that,
    free_bytes,
    hidden,
    in_session,
    little_memory,
    node_state,
    pool_of_one,
    restart_agent,
    without_criu,
)
from lab_fixture import CommandFailed, Lab

from bench.cluster import (
    Program,
    client_address,
    client_program,
    install_programs,
    session,
    session_argv,
    wait_for_process,
)
from bench.continuity import complaints
from martlet.errors import Exit
from martlet.model import NodeState

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(120)]

SOURCE, TARGET, OTHER = "node1", "node2", "node3"
LISTEN = 7102
GROW_S = 0.2
"""Longer than the slowest counter of `everything` takes to grow."""
TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()
print("traced", flush=True)
sys.stdin.read()
"""
"""PTRACE_SEIZE: the process runs on while it is traced, up to its next signal."""


class Watched:
    """A session in full use on SOURCE, whose every byte is watched."""

    def __init__(self, lab: Lab, started: dict[str, Any], client: Program) -> None:
        self.lab, self.id, self._client = lab, str(started["id"]), client
        self._before = self._look()

    def refuses(self, to: str = TARGET, *, code: Exit = Exit.REFUSED, reasons: set[str]) -> CommandFailed:
        """A move is refused before the freeze: with just these reasons, and nothing of the session has changed."""
        failed = refused(self.lab, "migrate", self.id, *(("--to", to) if to else ()))
        assert (failed.code, {reason["code"] for reason in failed.reasons}) == (code, reasons), failed
        self.is_unharmed()
        return failed

    def is_unharmed(self) -> None:
        before, now = self._before, self._look()
        assert complaints(before["streams"], now["streams"]) == []
        assert {key: now[key] for key in ("view", "processes")} == {key: before[key] for key in ("view", "processes")}
        self._before = now

    def _look(self) -> dict[str, Any]:
        time.sleep(GROW_S)
        self._client.order("status look")
        view = self.lab.martlet("session", "show", self.id)
        found = [process for process in self.lab.martlet("ps") if process["session"] == self.id]
        return {
            "streams": self._client.answer(),
            "view": {key: view[key] for key in ("node", "state", "epoch", "address", "started_at")},
            "processes": sorted((one["pid"], one["host_pid"], one["command"]) for one in found),
        }


@pytest.fixture(scope="module")
def watched(lab: Lab) -> Iterator[Watched]:
    install_programs(lab, SOURCE)
    with ExitStack() as stack:
        argv = session_argv("everything", "--connect", f"{client_address(lab)}:{LISTEN}")
        started = stack.enter_context(session(lab, "--node", SOURCE, "--", *argv))
        options = (started["address"], "7100", "--listen", str(LISTEN))
        yield Watched(lab, started, stack.enter_context(client_program(lab, "everything_client", *options)))


def refused(lab: Lab, *arguments: str) -> CommandFailed:
    with pytest.raises(CommandFailed) as caught:
        lab.martlet(*arguments)
    return caught.value


def verdict(lab: Lab, session_id: str, node: str) -> set[str]:
    """The reasons of `node`, by `session why`, against being a session's target."""
    nodes = lab.martlet("session", "why", session_id)["nodes"]
    found = next(one for one in nodes if one["name"] == node)
    assert found["ok"] == (not found["reasons"])
    return {reason["code"] for reason in found["reasons"]}


def test_no_memory_at_the_target(lab: Lab, watched: Watched) -> None:
    with little_memory(faults.node_group(lab.name, TARGET)):
        assert verdict(lab, watched.id, TARGET) == {"no_memory"}
        watched.refuses(code=Exit.FAILED, reasons={"no_memory"})
        await_that(lambda: free_bytes(lab, TARGET) < 2 * ROOM_BYTES)
    await_that(lambda: free_bytes(lab, TARGET) > 2 * ROOM_BYTES)
    assert verdict(lab, watched.id, TARGET) == set()


def test_another_image_digest_at_the_target(lab: Lab, watched: Watched) -> None:
    with hidden(lab, TARGET, "/var/lib/martlet/images/base"):
        assert verdict(lab, watched.id, TARGET) == {"image_missing"}
        watched.refuses(code=Exit.FAILED, reasons={"image_missing"})
    assert verdict(lab, watched.id, TARGET) == set()


def test_criu_vanished_at_the_target(lab: Lab, watched: Watched) -> None:
    with without_criu(lab, TARGET):
        assert verdict(lab, watched.id, TARGET) == {"criu_missing"}
        failed = watched.refuses(code=Exit.FAILED, reasons={"criu_missing"})
        assert TARGET in failed.reasons[0]["text"]
    assert verdict(lab, watched.id, TARGET) == set()


def test_criu_was_never_there_at_the_target(lab: Lab, watched: Watched) -> None:
    with without_criu(lab, TARGET):
        restart_agent(lab, TARGET)
        watched.refuses(reasons={"criu_missing"})
    restart_agent(lab, TARGET)
    assert verdict(lab, watched.id, TARGET) == set()


def test_criu_vanished_at_the_source(lab: Lab, watched: Watched) -> None:
    with without_criu(lab, SOURCE):
        why = lab.martlet("session", "why", watched.id)
        assert (why["movable"], [reason["code"] for reason in why["reasons"]]) == (False, ["criu_missing"])
        failed = watched.refuses(reasons={"criu_missing"})
        assert SOURCE in failed.reasons[0]["text"]
    assert lab.martlet("session", "why", watched.id)["movable"]


@pytest.mark.parametrize("state", [NodeState.DRAINING, NodeState.DRAINED])
def test_a_node_that_is_being_emptied(lab: Lab, watched: Watched, state: NodeState) -> None:
    with node_state(lab, TARGET, state):
        watched.refuses(reasons={f"node_{state}"})
        assert verdict(lab, watched.id, TARGET) == {"node_not_up"}
        failed = refused(lab, "session", "start", "--node", TARGET, "--", "sleep", "60")
        assert (failed.code, failed.reasons[0]["code"]) == (Exit.REFUSED, f"node_{state}")


def test_no_node_at_all_takes_it(lab: Lab, watched: Watched) -> None:
    with node_state(lab, TARGET, NodeState.DRAINING), without_criu(lab, OTHER):
        watched.refuses("", reasons={"already_there", "node_draining", "criu_missing"})


def test_an_unknown_node_and_an_unknown_session(lab: Lab, watched: Watched) -> None:
    failed = watched.refuses("node9", code=Exit.NOT_FOUND, reasons=set())
    assert "node9" in failed.error
    assert TARGET in failed.error
    assert refused(lab, "migrate", "nobody", "--to", TARGET).code == Exit.NOT_FOUND


def test_to_where_it_already_is(watched: Watched) -> None:
    watched.refuses(SOURCE, reasons={"already_there"})


def test_a_mode_that_is_not_there(lab: Lab, watched: Watched) -> None:
    failed = refused(lab, "migrate", watched.id, "--to", TARGET, "--mode", "post-copy")
    assert (failed.code, [reason["code"] for reason in failed.reasons]) == (Exit.REFUSED, ["mode"])
    watched.is_unharmed()


def test_a_program_brought_in_by_exec(lab: Lab, watched: Watched) -> None:
    with in_session(lab, watched.id, "sleep", "1234") as program:
        assert wait_for_process(lab, watched.id, "sleep 1234")
        failed = refused(lab, "migrate", watched.id, "--to", TARGET)
        why = lab.martlet("session", "why", watched.id)
        assert failed.code == Exit.REFUSED
        for reasons in (failed.reasons, why["reasons"]):
            assert {reason["code"] for reason in reasons} == {"exec_running"}
            assert any("sleep 1234" in reason["text"] for reason in reasons)
        program.terminate()
        program.wait()
    await_that(lambda: lab.martlet("session", "why", watched.id)["movable"])
    watched.is_unharmed()


def test_a_process_that_is_traced(lab: Lab) -> None:
    with ExitStack() as stack:
        quiet = stack.enter_context(session(lab, "--node", SOURCE, "--", "sleep", "infinity"))["id"]
        traced = max(one["host_pid"] for one in lab.martlet("ps") if one["session"] == quiet)
        tracer = lab.popen(SOURCE, "python3", "-c", TRACER, str(traced))
        stack.callback(tracer.wait, 10)
        stack.callback(tracer.kill)
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"traced\n"
        failed = refused(lab, "migrate", quiet, "--to", TARGET)
        for reasons in (failed.reasons, lab.martlet("session", "why", quiet)["reasons"]):
            assert [reason["code"] for reason in reasons] == ["traced"]
        assert failed.code == Exit.REFUSED
        tracer.communicate(timeout=10)
        assert lab.martlet("session", "why", quiet)["movable"]
        shown = lab.martlet("session", "show", quiet)
        assert (shown["node"], shown["state"], shown["epoch"]) == (SOURCE, "running", 1)
        assert lab.martlet("migrate", quiet, "--to", TARGET)["outcome"] == "moved"


LOCKER = """import fcntl, os, time
file = open(os.path.expanduser("~/locked"), "w")
fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(600)"""


def test_a_lock_on_a_file_in_the_shared_home(lab: Lab) -> None:
    with session(lab, "--node", SOURCE, "--", "python3", "-c", LOCKER) as holder:
        await_that(lambda: not lab.martlet("session", "why", holder["id"])["movable"])
        failed = refused(lab, "migrate", holder["id"], "--to", TARGET)
        assert (failed.code, [reason["code"] for reason in failed.reasons]) == (Exit.REFUSED, ["shared_lock"])
        assert "/locked" in failed.reasons[0]["text"]
        assert lab.martlet("session", "show", holder["id"])["state"] == "running"


def test_no_free_address(lab: Lab, watched: Watched) -> None:
    with pool_of_one(lab, OTHER), session(lab, "--node", OTHER, "--", "sleep", "60") as only:
        assert only["address"] == "10.77.9.1"
        failed = refused(lab, "session", "start", "--node", OTHER, "--", "sleep", "60")
        assert (failed.code, [reason["code"] for reason in failed.reasons]) == (Exit.REFUSED, ["no_address"])
        assert [one["id"] for one in lab.martlet("session", "list") if one["node"] == OTHER] == [only["id"]]
    watched.is_unharmed()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--user", "nobody-here"), "no_user"),
        (("--user", "root"), "root"),
        (("--image", "no-such-image"), "image_missing"),
        (("--display-access", "gateway"), "no_gateway"),
    ],
)
def test_what_cannot_be_started(lab: Lab, watched: Watched, options: tuple[str, ...], reason: str) -> None:
    before = lab.martlet("session", "list")
    failed = refused(lab, "session", "start", *options, "--", "sleep", "60")
    assert (failed.code, {one["code"] for one in failed.reasons}) == (Exit.REFUSED, {reason})
    assert [one["id"] for one in lab.martlet("session", "list")] == [one["id"] for one in before]
    watched.is_unharmed()


def test_a_program_that_ends_at_once_says_so(lab: Lab) -> None:
    failed = refused(lab, "session", "start", "--node", SOURCE, "--", "no-such-program")
    assert [reason["code"] for reason in failed.reasons] == ["ended_at_start"]
    assert "no-such-program" in failed.reasons[0]["text"]
