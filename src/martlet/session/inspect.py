"""What can be seen of a session from its node: its processes, its load, and what would stop it from moving.

Reads only. What blocks a move is decided by `blockers`, a pure function over what was read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from martlet.kernel import proc
from martlet.kernel.proc import Lock, Task
from martlet.model import Reason
from martlet.session.place import Place

WAITS = "uninterruptible"
LOOKS = 40
LOOK_AGAIN_S = 0.05
NAMESPACES = ("pid", "user", "mnt", "ipc", "uts", "net")
UNDUMPABLE = {
    "anon_inode:[io_uring]": ("io_uring", "io_uring rings cannot be saved"),
    "anon_inode:[userfaultfd]": ("userfaultfd", "a userfaultfd in use cannot be saved"),
    "anon_inode:[perf_event]": ("perf_event", "perf counters cannot be saved"),
    "anon_inode:[fanotify]": ("fanotify", "fanotify groups cannot be saved"),
    "anon_inode:bpf-prog": ("bpf", "BPF programs cannot be saved"),
    "anon_inode:bpf-map": ("bpf", "BPF maps cannot be saved"),
    "/dev/dri/": ("gpu", "graphics devices cannot be saved"),
    "/dev/snd/": ("sound_device", "sound devices cannot be saved"),
    "/dev/fuse": ("fuse", "FUSE file systems cannot be saved"),
    "/dev/kvm": ("kvm", "virtual machines cannot be saved"),
}
"""How a descriptor's target begins, and why it blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One process as far as it matters for a move. `namespaces` holds inode numbers in the order of NAMESPACES,
    `shared_locks` the files on shared storage on which it holds a lock."""

    task: Task
    namespaces: tuple[int, ...]
    descriptors: tuple[str, ...]
    shared_locks: tuple[str, ...] = ()


def look(place: Place) -> tuple[list[Seen], int | None]:
    """All processes of a session, and which of them is its first."""
    pids = place.group.processes()
    homes = os.stat(place.config.paths.homes).st_dev
    locks = [lock for lock in proc.locks() if lock.device == homes]
    seen = [
        Seen(
            task=task,
            shared_locks=tuple(_locked_file(lock) for lock in locks if lock.host_pid == task.host_pid),
            namespaces=tuple(proc.namespace_inode(task.host_pid, kind) for kind in NAMESPACES),
            descriptors=tuple(proc.descriptors(task.host_pid)),
        )
        for task in proc.read_all(pids)
    ]
    return seen, proc.init_of(pids, net=place.net)


def lasting_blockers(place: Place) -> list[Reason]:
    """What blocks a session now and still does a moment later; a process that waits for a disk soon does not."""
    for _ in range(LOOKS):
        reasons = blockers(*look(place))
        if not reasons or any(reason.code != WAITS for reason in reasons):
            return reasons
        time.sleep(LOOK_AGAIN_S)
    return reasons


def blockers(seen: Sequence[Seen], init: int | None) -> list[Reason]:
    """Why this session cannot move now; empty when it can."""
    first = next((one for one in seen if one.task.host_pid == init), None)
    if first is None:
        return [Reason(code="no_init", text="its first process is not there", hint="the session is ending")]
    strangers = brought_in(seen, first)
    leaders = {one.task.pid for one in seen}
    reasons = [_of_stranger(one) for one in strangers if one.namespaces == first.namespaces]
    if strangers and not reasons:  # on their way in
        reasons = [_of_stranger(one) for one in strangers]
    for one in seen:
        if one not in strangers:
            reasons += _of_process(one, first, leaders)
    return reasons


def brought_in(seen: Sequence[Seen], first: Seen) -> list[Seen]:
    """The processes that do not descend from the session's first one, those that carry them in from outside too."""
    parents = {one.task.host_pid: one.task.parent for one in seen}

    def descends(host_pid: int) -> bool:
        while host_pid in parents and host_pid != first.task.host_pid:
            host_pid = parents[host_pid]
        return host_pid == first.task.host_pid

    return [one for one in seen if not descends(one.task.host_pid)]


def _locked_file(lock: Lock) -> str:
    return proc.path_of(lock.host_pid, lock.inode) or f"the file {lock.inode} in a shared home"


def _of_stranger(one: Seen) -> Reason:
    hint = "wait for it to end, or end it; what is to move must be started inside the session"
    return Reason(code="exec_running", text=f"{_name(one.task)} was brought in by 'session exec'", hint=hint)


def _name(task: Task) -> str:
    return f"process {task.pid} ({task.command[:60]})"


def _of_process(one: Seen, first: Seen, leaders: set[int]) -> list[Reason]:
    task = one.task
    who = _name(task)
    reasons: list[Reason] = []
    if task.tracer:
        reasons.append(Reason(code="traced", text=f"{who} is being traced", hint="end the debugger or strace"))
    if task.session_leader not in leaders and task.parent != first.task.host_pid:
        hint = "it is a job whose terminal's leader is gone; end it"
        reasons.append(
            Reason(code="leader_gone", text=f"{who} belongs to a terminal session without leader", hint=hint)
        )
    if task.state == "D":
        reasons.append(Reason(code=WAITS, text=f"{who} waits for a device", hint="try again in a moment"))
    nested = [kind for kind, a, b in zip(NAMESPACES, one.namespaces, first.namespaces, strict=True) if a and a != b]
    if nested:
        hint = "start the program without its sandbox"
        text = f"{who} has namespaces of its own: {', '.join(nested)}"
        reasons.append(Reason(code="nested_namespaces", text=text, hint=hint))
    for path in one.shared_locks:
        # The copy would wait at its restore for a lock that the frozen original holds.
        hint = "end that program to move the session; locks on shared storage cannot be handed over yet"
        reasons.append(Reason(code="shared_lock", text=f"{who} holds a lock on {path}", hint=hint))
    for prefix, (code, text) in UNDUMPABLE.items():
        if any(target.startswith(prefix) for target in one.descriptors):
            reasons.append(Reason(code=code, text=f"{who}: {text}", hint="end that program to move the session"))
    return reasons


def cut_log(place: Place, *, limit_bytes: int) -> None:
    """Keep a session's log within bounds: beyond `limit_bytes` its older half goes.

    Its writers append, so cutting under them is safe; what they write in the same instant may be lost.
    """
    try:
        size = place.log.stat().st_size
    except OSError:
        return
    if size <= limit_bytes:
        return
    with place.log.open("r+b") as file:
        file.seek(size - limit_bytes // 2)
        file.readline()
        cut = file.tell()
        kept = file.read()
        file.truncate(0)
    with place.log.open("ab") as file:
        file.write(kept)
    dropped = _dropped(place)
    dropped.write_text(str(read_dropped(place) + cut))


def read_log(place: Place, *, offset: int, limit_bytes: int) -> tuple[str, int]:
    """Log text from `offset` (counted from the session's birth, cut parts included), and the next offset."""
    dropped = read_dropped(place)
    start = max(0, offset - dropped)
    with open(place.log, "rb") as file:
        file.seek(min(start, os.fstat(file.fileno()).st_size))
        data = file.read(limit_bytes)
        end = file.tell()
    return data.decode(errors="replace"), dropped + end


def read_dropped(place: Place) -> int:
    """How many bytes have been cut from the log's beginning. Kept beside the log, so that it moves with it."""
    try:
        return int(_dropped(place).read_text())
    except (OSError, ValueError):
        return 0


def _dropped(place: Place) -> Path:
    return place.log.with_name("log.dropped")
