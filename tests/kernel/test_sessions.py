"""The life of a session: what it may do and see, how it is looked at and entered, and how it ends, whatever happens to
its agent. Nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import faults
import pytest
from by_hand import await_that, in_session, restart_agent
from lab_fixture import MARTLET, CommandFailed, Lab, environment, martlet

from bench.cluster import (
    HOME,
    client_program,
    install_programs,
    listing,
    node_names,
    output,
    session,
    session_argv,
    wait_for_process,
)
from bench.continuity import left_behind
from martlet.config import Sessions
from martlet.errors import Exit

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

CLASS = 30
AT_ONCE = 6
"""Commands of this machine at a time; the sessions are started within the time of a few."""
UID = 2001
"""Of student1."""
LINES = 50_000
WRITER = f"""
import time
for number in range({LINES}):
    print(f"{{number:099d}}", flush=True)
    if number % 5000 == 0: time.sleep(0.5)
print("end", flush=True)
time.sleep(1000)
"""
"""Writes 5 MB in lines of 100 bytes."""
PROBE = Path(__file__).with_name("probe.py").read_text()


def execute(lab: Lab, session_id: str, *argv: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in a session to its end."""
    return martlet("session", "exec", session_id, "--", *argv, lab=lab.name, input=input)


def processes(lab: Lab, session_id: str) -> dict[int, dict[str, Any]]:
    """The processes of a session by the pid that it sees."""
    return {one["pid"]: one for one in lab.martlet("ps") if one["session"] == session_id}


def read_log(lab: Lab, session_id: str) -> str:
    done = martlet("session", "log", session_id, lab=lab.name)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(lab: Lab, session_id: str) -> tuple[str, str, int]:
    view = lab.martlet("session", "show", session_id)
    return view["node"], view["state"], view["epoch"]


def is_gone(lab: Lab, session_id: str) -> bool:
    return session_id not in {one["id"] for one in lab.martlet("session", "list")}


@pytest.fixture(scope="module")
def quiet(lab: Lab) -> Iterator[dict[str, Any]]:
    """A session that does nothing, for looks and entries."""
    with session(lab, "--", "sleep", "infinity") as started:
        yield started


@pytest.fixture
def clean(lab: Lab) -> Iterator[None]:
    """Nothing may be left on any node of what the test did."""
    nodes = node_names(lab)
    install_programs(lab, nodes[0])
    before = {node: listing(lab, node) for node in nodes}
    yield
    after: dict[str, list[str]] = {}
    with contextlib.suppress(AssertionError):
        await_that(
            lambda: not any(after.update({n: left_behind(before[n], listing(lab, n))}) or after[n] for n in nodes)
        )
    assert after == {node: [] for node in nodes}


@pytest.mark.parametrize("entered", [False, True], ids=["born inside", "by exec"])
def test_what_a_program_may_do(lab: Lab, quiet: dict[str, Any], *, entered: bool) -> None:
    if entered:
        done = execute(lab, quiet["id"], "python3", "-c", PROBE)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
    else:
        with session(lab, "--", "sh", "-c", 'python3 -c "$0"; exec sleep infinity', PROBE) as started:
            await_that(lambda: read_log(lab, started["id"]).endswith("\n"))
            found = json.loads(read_log(lab, started["id"]))
    status, mounts, calls = found["status"], found["mounts"], found["calls"]
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(UID)}
    assert status.get("Groups", "").split() in ([], [str(UID)])
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert calls.pop("clone3") == "ENOSYS"
    assert set(calls.values()) == {"EPERM"}, calls
    assert found["subreaper"] == [0, 0, 0]
    assert mounts.pop("/")[1] == "ro"
    assert mounts.pop("/home")[1] == "rw"
    assert list(mounts.values()) == [["tmpfs", "rw"]] * 4
    assert [folder for folder, may in found["writable"].items() if not may] == ["/", "/etc", "/usr", "/dev", "/run"]


def test_what_one_session_writes_another_does_not_see_but_at_home(lab: Lab, quiet: dict[str, Any]) -> None:
    node = next(name for name in node_names(lab) if name != quiet["node"])
    points = ("/tmp", "/dev/shm", "/var/tmp", f"/run/user/{UID}", HOME)
    with session(lab, "--node", node, "--", "sleep", "infinity") as other:
        wrote = execute(
            lab, other["id"], "sh", "-c", 'for p; do echo mine > "$p/private-mark" || exit; done', "sh", *points
        )
        assert wrote.returncode == 0, wrote.stderr
        seen = execute(
            lab, quiet["id"], "sh", "-c", 'for p; do cat "$p/private-mark" && echo "$p"; done', "sh", *points
        )
        assert seen.stdout == f"mine\n{HOME}\n"
        assert execute(lab, quiet["id"], "rm", f"{HOME}/private-mark").returncode == 0
        assert execute(lab, other["id"], "ls", f"{HOME}/private-mark").returncode != 0


def test_the_log_is_bounded_and_its_reader_goes_on(lab: Lab, tmp_path: Path) -> None:
    bound = Sessions().log_bytes
    with ExitStack() as stack:
        started = stack.enter_context(session(lab, "--", "python3", "-c", WRITER))
        followed = stack.enter_context((tmp_path / "followed").open("w"))
        command = [str(MARTLET), "session", "log", "--follow", started["id"]]
        follower = subprocess.Popen(command, env=environment(lab.name), stdout=followed)
        stack.callback(follower.wait, 10)
        stack.callback(follower.send_signal, signal.SIGINT)
        await_that(lambda: read_log(lab, started["id"]).endswith("end\n"))
        await_that(lambda: len(read_log(lab, started["id"])) <= bound)
        kept = read_log(lab, started["id"]).splitlines()
        assert len(kept) * 100 > bound // 4
        assert [int(line) for line in kept[:-1]] == list(range(LINES + 1 - len(kept), LINES)), "not its end"
        await_that(lambda: (tmp_path / "followed").read_text().endswith("end\n"))
        numbers = [int(line) for line in (tmp_path / "followed").read_text().splitlines()[:-1]]
        assert numbers[-1] == LINES - 1
        assert numbers == sorted(set(numbers)), "the follower saw something twice"
        assert lab.martlet("migrate", started["id"])["outcome"] == "moved"
        assert read_log(lab, started["id"]).splitlines() == kept
        append = execute(lab, started["id"], "sh", "-c", "echo after >> /run/martlet/log")
        assert append.returncode == 0, append.stderr
        assert read_log(lab, started["id"]).splitlines() == [*kept, "after"]


def test_exec_passes_input_output_errors_and_code_through(lab: Lab, quiet: dict[str, Any]) -> None:
    done = execute(lab, quiet["id"], "sh", "-c", "cat; id -un; pwd; echo wrong >&2; exit 7", input="given\n")
    assert (done.stdout, done.stderr, done.returncode) == (f"given\nstudent1\n{HOME}\n", "wrong\n", 7)
    assert execute(lab, quiet["id"], "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert execute(lab, quiet["id"], "no-such-program").returncode == 127
    big = "x" * (3 << 20)
    assert execute(lab, quiet["id"], "cat", input=big).stdout == big
    assert execute(lab, quiet["id"], "true", input=big).returncode == 0
    assert execute(lab, "nobody", "true").returncode == Exit.NOT_FOUND


def test_exec_leaves_nothing_open_in_its_program_or_its_agent(lab: Lab, quiet: dict[str, Any]) -> None:
    agent = faults.agent_pid(lab.name, quiet["node"])

    def pipes() -> int:
        links = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{agent}/fd"))
        return sum(link.startswith(("pipe:", "/memfd:")) for link in links)

    before = pipes()
    for _ in range(3):
        done = execute(lab, quiet["id"], "python3", "-c", "import os; print(sorted(os.listdir('/proc/self/fd')))")
        assert done.stdout == "['0', '1', '2', '3']\n"  # 3 is the listing's own
    await_that(lambda: pipes() <= before)


@pytest.mark.parametrize("deaf", [False, True], ids=["at its first call", "deaf to its call"])
def test_what_exec_ran_ends_when_its_caller_goes(lab: Lab, quiet: dict[str, Any], *, deaf: bool) -> None:
    ignore = "trap '' HUP; " if deaf else ""
    with in_session(lab, quiet["id"], "sh", "-c", f"{ignore}sleep 4321 & sleep 4322; wait") as caller:
        assert wait_for_process(lab, quiet["id"], "sleep 4322")
        caller.kill()
        caller.wait()
        await_that(lambda: len(processes(lab, quiet["id"])) == 2)
    assert sorted(one["command"] for one in processes(lab, quiet["id"]).values())[1] == "sleep infinity"


def test_what_exec_ran_ends_when_its_caller_goes_in_the_middle_of_input_that_nobody_reads(
    lab: Lab, quiet: dict[str, Any]
) -> None:
    with in_session(lab, quiet["id"], "sleep", "4323") as caller:
        assert wait_for_process(lab, quiet["id"], "sleep 4323")
        assert caller.stdin is not None
        caller.stdin.write(bytes(96 * 1024))
        caller.stdin.flush()
        time.sleep(0.5)
        caller.kill()
        caller.wait()
        await_that(lambda: len(processes(lab, quiet["id"])) == 2)


def test_signals_reach_the_process_that_the_session_sees(lab: Lab) -> None:
    child = "trap 'echo got USR1' USR1; echo ready; while :; do sleep 0.1; done"
    with session(lab, "--", "sh", "-c", child) as started:
        await_that(lambda: read_log(lab, started["id"]) == "ready\n")
        shell = next(pid for pid, one in processes(lab, started["id"]).items() if "trap" in one["command"] and pid != 1)
        lab.martlet("kill", f"{started['id']}:{shell}", "-s", "USR1")
        await_that(lambda: read_log(lab, started["id"]) == "ready\ngot USR1\n")
        with pytest.raises(CommandFailed) as caught:
            lab.martlet("kill", f"{started['id']}:9999")
        assert caught.value.code == Exit.NOT_FOUND


def test_ps_shows_every_process_as_the_session_and_the_node_see_it(lab: Lab, quiet: dict[str, Any]) -> None:
    found = processes(lab, quiet["id"])
    assert min(found) == 1
    assert {(one["node"], one["user"], one["session"]) for one in found.values()} == {
        (quiet["node"], "student1", quiet["id"])
    }
    sleeper = next(one for one in found.values() if one["command"] == "sleep infinity")
    assert sleeper["threads"] == 1
    assert sleeper["rss_bytes"] > 100_000
    assert output(lab, quiet["node"], "cat", f"/proc/{sleeper['host_pid']}/comm") == b"sleep\n"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("way", ["by itself", "killed", "killed wholly"])
def test_a_session_that_ends_is_cleared_away(lab: Lab, way: str) -> None:
    seconds = "1" if way == "by itself" else "infinity"
    started = lab.martlet("session", "start", "--", "sh", "-c", f"sleep infinity & sleep {seconds}")
    if way == "killed":
        lab.martlet("kill", started["id"], "-s", "KILL")
    if way == "killed wholly":
        group = faults.node_group(lab.name, started["node"]).child("martlet").child(started["id"])
        for pid in group.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    await_that(lambda: is_gone(lab, started["id"]))
    with pytest.raises(CommandFailed) as caught:
        lab.martlet("session", "show", started["id"])
    assert caught.value.code == Exit.NOT_FOUND
    with session(lab, "--node", started["node"], "--", "sleep", "60") as after:
        assert after["address"] == started["address"], "its address was not given back"


@pytest.mark.usefixtures("clean")
def test_a_session_that_is_stopped_in_the_shells_sense_ends_too(lab: Lab) -> None:
    with session(lab, "--", "sh", "-c", "sleep infinity & sleep infinity") as started:
        for pid in sorted(processes(lab, started["id"]), reverse=True):
            lab.martlet("kill", f"{started['id']}:{pid}", "-s", "STOP")
    assert is_gone(lab, started["id"])


def test_a_session_whose_programs_ignore_the_call_to_end_is_ended(lab: Lab) -> None:
    with session(lab, "--", "sh", "-c", "trap '' TERM HUP INT; while :; do sleep 1; done") as started:
        pass
    assert is_gone(lab, started["id"])


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_outlive_their_agent(lab: Lab, number: signal.Signals) -> None:
    node, target, _ = node_names(lab)
    with ExitStack() as stack:
        started = stack.enter_context(session(lab, "--node", node, "--", *session_argv("tick_server")))
        ticks = stack.enter_context(client_program(lab, "tick_client", started["address"], "7000"))
        before = processes(lab, started["id"])
        restart_agent(lab, node, number=number)
        assert processes(lab, started["id"]).keys() == before.keys()
        assert execute(lab, started["id"], "true").returncode == 0
        assert lab.martlet("migrate", started["id"], "--to", target)["outcome"] == "moved"
        restart_agent(lab, target, number=number)
        await_that(lambda: shown(lab, started["id"]) == (target, "running", 2))
        assert processes(lab, started["id"]).keys() == before.keys()
        ticks.order("mark end")
        assert ticks.answer()["errors"] == []
    assert is_gone(lab, started["id"])


@pytest.mark.usefixtures("clean")
def test_a_class_logs_in_at_once(lab: Lab) -> None:
    def start(_: int) -> dict[str, Any]:
        found: dict[str, Any] = lab.martlet("session", "start", "--group", "7b", "--", *session_argv("tick_server"))
        return found

    def answers(one: dict[str, Any]) -> bool:
        with client_program(lab, "tick_client", one["address"], "7000") as ticks:
            ticks.order("mark seen")
            return ticks.answer()["errors"] == []  # type: ignore[no-any-return]

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        try:
            started = list(pool.map(start, range(CLASS)))
            assert len({one["address"] for one in started}) == len({one["id"] for one in started}) == CLASS
            assert all(pool.map(answers, started))
            listed = [one for one in lab.martlet("session", "list") if one["group"] == "7b"]
            assert {one["id"] for one in listed} == {one["id"] for one in started}
            assert {one["state"] for one in listed} == {"running"}
            spread = Counter(one["node"] for one in listed)
            assert set(spread) == set(node_names(lab))
            assert max(spread.values()) <= CLASS // 2, f"not spread: {spread}"
        finally:
            left = [one["id"] for one in lab.martlet("session", "list") if one["group"] == "7b"]
            list(pool.map(lambda session_id: lab.martlet("session", "stop", session_id), left))
    assert lab.martlet("session", "list") == [one for one in lab.martlet("session", "list") if one["group"] != "7b"]
