"""What would stop a session from moving: each with its own reason, all at once, and nothing that is harmless."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from martlet.kernel.proc import Task
from martlet.session.inspect import NAMESPACES, UNDUMPABLE, Seen, blockers

INIT = 1000
OWN = tuple(range(1, len(NAMESPACES) + 1))
HARMLESS = ("/dev/null", "socket:[42]", "pipe:[7]", "anon_inode:[eventpoll]", "/dev/pts/0", "/memfd:x (deleted)")


def task(host_pid: int, pid: int, *, parent: int, leader: int = 1, **changes: Any) -> Task:
    usual = Task(
        host_pid=host_pid,
        pid=pid,
        parent=parent,
        session_leader=leader,
        threads=1,
        tracer=0,
        cpu_ticks=0,
        age_s=1.0,
        rss_bytes=4096,
        state="S",
        command=f"program{pid}",
    )
    return replace(usual, **changes)


def seen(one: Task, *, namespaces: tuple[int, ...] = OWN, descriptors: tuple[str, ...] = HARMLESS) -> Seen:
    return Seen(task=one, namespaces=namespaces, descriptors=descriptors)


FIRST = seen(task(INIT, 1, parent=1, leader=1))
SHELL = seen(task(1001, 5, parent=INIT, leader=5))
JOB = seen(task(1002, 6, parent=1001, leader=5))


def codes(*others: Seen) -> list[str]:
    return [reason.code for reason in blockers([FIRST, SHELL, *others], INIT)]


def test_ordinary_programs_block_nothing() -> None:
    assert codes(JOB, seen(task(1003, 9, parent=INIT, leader=9, threads=40, state="R"))) == []


def test_without_its_first_process_it_is_ending() -> None:
    assert [reason.code for reason in blockers([SHELL], INIT)] == ["no_init"]
    assert [reason.code for reason in blockers([], None)] == ["no_init"]


def test_what_is_traced_blocks() -> None:
    assert codes(seen(task(1003, 9, parent=1001, leader=5, tracer=77))) == ["traced"]


def test_what_was_brought_in_from_outside_blocks() -> None:
    """The parent of such a process is no member of the session."""
    assert codes(seen(task(1003, 9, parent=50, leader=9))) == ["exec_running"]


def test_a_job_whose_leader_is_gone_blocks_unless_the_first_process_adopted_it() -> None:
    assert codes(seen(task(1003, 9, parent=1001, leader=8))) == ["leader_gone"]
    assert codes(seen(task(1003, 9, parent=INIT, leader=8))) == []


def test_what_waits_for_a_device_blocks() -> None:
    assert codes(seen(task(1003, 9, parent=1001, leader=5, state="D"))) == ["uninterruptible"]


def test_a_lock_on_a_shared_file_blocks_and_is_named() -> None:
    holder = replace(seen(task(1003, 9, parent=1001, leader=5)), shared_locks=("/home/ada/.mozilla/lock",))
    (reason,) = blockers([FIRST, SHELL, holder], INIT)
    assert reason.code == "shared_lock"
    assert "/home/ada/.mozilla/lock" in reason.text


@pytest.mark.parametrize("kind", range(len(NAMESPACES)), ids=NAMESPACES)
def test_a_sandbox_blocks_and_its_namespaces_are_named(kind: int) -> None:
    other = tuple(99 if position == kind else inode for position, inode in enumerate(OWN))
    (reason,) = blockers([FIRST, seen(task(1003, 9, parent=INIT, leader=9), namespaces=other)], INIT)
    assert reason.code == "nested_namespaces"
    assert reason.text.endswith(f": {NAMESPACES[kind]}")


def test_a_process_that_ended_while_it_was_looked_at_blocks_nothing() -> None:
    gone = seen(task(1003, 9, parent=INIT, leader=9), namespaces=(0,) * len(NAMESPACES), descriptors=())
    assert codes(gone) == []


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("anon_inode:[io_uring]", "io_uring"),
        ("anon_inode:[userfaultfd]", "userfaultfd"),
        ("anon_inode:[perf_event]", "perf_event"),
        ("anon_inode:[fanotify]", "fanotify"),
        ("anon_inode:bpf-prog", "bpf"),
        ("anon_inode:bpf-map", "bpf"),
        ("/dev/dri/renderD128", "gpu"),
        ("/dev/snd/pcmC0D0p", "sound_device"),
        ("/dev/fuse", "fuse"),
        ("/dev/kvm", "kvm"),
    ],
)
def test_what_criu_cannot_save_blocks(target: str, code: str) -> None:
    holder = seen(task(1003, 9, parent=1001, leader=5), descriptors=(*HARMLESS, target))
    assert codes(holder) == [code]


def test_every_undumpable_thing_was_tried_above() -> None:
    assert len(UNDUMPABLE) == 10


def test_all_reasons_of_all_processes_at_once_with_what_to_do() -> None:
    worst = seen(
        task(1003, 9, parent=1001, leader=8, tracer=77, state="D"),
        namespaces=(99,) * len(NAMESPACES),
        descriptors=("/dev/kvm", "/dev/fuse"),
    )
    traced = seen(task(1004, 10, parent=1001, leader=5, tracer=77))
    stranger = seen(task(1005, 11, parent=50, leader=11))
    reasons = blockers([FIRST, SHELL, worst, traced, stranger], INIT)
    found = sorted(reason.code for reason in reasons)
    wanted = ["traced", "traced", "exec_running", "leader_gone", "uninterruptible", "nested_namespaces", "kvm", "fuse"]
    assert found == sorted(wanted)
    assert all(reason.hint for reason in reasons)
    assert all(any(f"process {pid} (program{pid})" in reason.text for reason in reasons) for pid in (9, 10, 11))
