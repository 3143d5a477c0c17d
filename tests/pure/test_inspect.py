"""What blocks a move, from what was read of a session's processes."""

from __future__ import annotations

from martlet.kernel.proc import Task
from martlet.session.inspect import NAMESPACES, Seen, blockers

INSIDE = tuple(range(1, len(NAMESPACES) + 1))
OUTSIDE = tuple(number + 100 for number in INSIDE)


def process(
    host_pid: int, pid: int, parent: int, *, sid: int = 1, spaces: tuple[int, ...] = INSIDE, tracer: int = 0
) -> Seen:
    task = Task(
        host_pid=host_pid, pid=pid, parent=parent, session_leader=sid, threads=1, tracer=tracer, cpu_ticks=0, age_s=1.0,
        rss_bytes=0, state="S", command=f"program{pid}",
    )  # fmt: skip
    return Seen(task=task, namespaces=spaces, descriptors=())


def codes(*seen: Seen) -> list[tuple[str, str]]:
    return [(reason.code, reason.text.split("(")[-1].split(")")[0]) for reason in blockers(seen, 101)]


INIT = process(101, 1, 50)
CHILD = process(102, 2, 101)


def test_a_session_of_its_own_moves() -> None:
    assert codes(INIT, CHILD, process(103, 3, 102)) == []


def test_a_program_brought_in_is_named_and_its_bearer_is_not() -> None:
    bearer = process(200, 200, 60, sid=200, spaces=OUTSIDE)
    program, its_child = process(201, 7, 200, sid=0), process(202, 8, 201, sid=0)
    found = codes(INIT, CHILD, bearer, program, its_child)
    assert found == [("exec_running", "program7"), ("exec_running", "program8")]


def test_one_that_is_just_coming_in_blocks_too() -> None:
    bearer = process(200, 200, 60, sid=200, spaces=OUTSIDE)
    assert codes(INIT, CHILD, bearer) == [("exec_running", "program200")]


def test_an_orphan_whose_leader_is_outside_can_stay_only_below_init() -> None:
    assert codes(INIT, process(102, 2, 101, sid=0)) == []
    assert codes(INIT, CHILD, process(103, 3, 102, sid=9)) == [("leader_gone", "program3")]


def test_a_sandbox_and_a_tracer_block() -> None:
    sandbox = process(103, 3, 102, spaces=(*INSIDE[:-1], 99))
    assert codes(INIT, CHILD, sandbox, process(104, 4, 102, tracer=5)) == [
        ("nested_namespaces", "program3"),
        ("traced", "program4"),
    ]
