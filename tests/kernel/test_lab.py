"""The lab itself: machines, the ways into them, two at once, and nothing left when one is gone."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_fixture import RUN, CommandFailed, Lab, end, martlet, start

from martlet.errors import Exit

pytestmark = pytest.mark.kernel

CLOCK = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())"
SEND = """
import socket, sys
with socket.create_connection(("node1", 7000)) as to:
    for _ in range(64): to.sendall(bytes(65536))
    to.shutdown(socket.SHUT_WR)
    to.recv(1)
"""
RECEIVE = """
import socket, time
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    start = time.monotonic()
    count = 0
    while part := peer.recv(65536): count += len(part)
    print(count, time.monotonic() - start, flush=True)
    peer.close()
"""


@pytest.fixture(scope="module")
def limited() -> Iterator[Lab]:
    """A second lab, beside the first one, with limits and two mothers."""
    name = f"test-{os.getpid()}-b"
    yield start(name, "--nodes", "2", "--mothers", "2", "--cpus-per-node", "0.5", "--link-mbit", "50")
    end(name)


def test_status_names_the_machines(lab: Lab) -> None:
    found = lab.martlet("lab", "status")
    assert found["name"] == lab.name
    assert found["state"] == "up"
    assert found["nodes"] == ["node1", "node2", "node3"]
    assert found["client"] == "client"
    assert found["gateway_url"] is None


def test_every_node_is_up_in_the_mothers_eyes(lab: Lab) -> None:
    assert {node["name"]: node["state"] for node in lab.martlet("node", "list")} == {
        "node1": "up", "node2": "up", "node3": "up",
    }  # fmt: skip


def test_a_lab_that_is_up_is_not_started_again(lab: Lab) -> None:
    with pytest.raises(CommandFailed) as caught:
        lab.martlet("lab", "up", "--name", lab.name)
    assert caught.value.code == Exit.REFUSED
    assert [reason["code"] for reason in caught.value.reasons] == ["lab_up"]


def test_exec_passes_input_output_errors_and_code_through(lab: Lab) -> None:
    done = lab.exec("node2", "sh", "-c", "cat; hostname; echo wrong >&2; exit 7", input="given\n")
    assert (done.stdout, done.stderr, done.returncode) == ("given\nnode2\n", "wrong\n", 7)


def test_exec_passes_an_interrupt_through(lab: Lab) -> None:
    program = lab.popen(
        "client", "sh", "-c", "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    os.killpg(program.pid, signal.SIGINT)
    output, _ = program.communicate(timeout=10)
    assert (output, program.returncode) == (b"interrupted\n", 5)


def test_exec_dies_of_what_its_program_dies_of(lab: Lab) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        program = lab.popen("node1", "sh", "-c", "echo ready; exec sleep 60")
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        os.killpg(program.pid, number)
        program.communicate(timeout=10)
        assert program.returncode == -number


def test_exec_says_when_there_is_no_such_machine_or_program(lab: Lab) -> None:
    assert lab.exec("node9", "true").returncode == Exit.NOT_FOUND
    assert lab.exec("node1", "no-such-program").returncode == 127


def test_machines_are_apart_from_the_host_and_from_each_other(lab: Lab) -> None:
    clocks = [lab.exec(name, "python3", "-c", CLOCK).stdout.split() for name in ("node1", "node2", "node3")]
    boots = [float(boot) for boot, _ in clocks]
    assert min(abs(a - b) for a in boots for b in boots if a is not b) > 1000
    assert all(abs(float(wall) - time.time()) < 60 for _, wall in clocks)
    assert lab.exec("node1", "cat", "/proc/1/comm").stdout == "tini\n"
    assert lab.exec("node1", "cat", "/proc/self/cgroup").stdout.splitlines()[-1] == "0::/system"


def test_all_machines_reach_each_other_and_share_homes(lab: Lab) -> None:
    for target in ("mother1", "node1", "node3"):
        assert lab.exec("client", "ping", "-c1", "-W2", target).returncode == 0
    write = ("setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "sh", "-c", "echo mine > /home/student1/note")
    assert lab.exec("node1", *write).returncode == 0
    assert lab.exec("node2", "stat", "-c", "%U", "/home/student1/note").stdout == "student1\n"
    assert lab.exec("node2", "touch", "/var/lib/martlet/images/x").returncode != 0


def test_the_client_has_python_and_martlets_packages(lab: Lab) -> None:
    imports = (
        "import PIL.Image, anyio, cryptography, msgspec, nats, pyroute2, martlet, sys; print(sys.version_info[:2])"
    )
    done = lab.exec("client", "python3", "-c", imports)
    assert (done.stdout, done.returncode) == ("(3, 13)\n", 0), done.stderr


def test_daemons_are_restarted_and_their_logs_kept(lab: Lab) -> None:
    def agent() -> str:
        return lab.exec("node3", "pgrep", "-f", "python3 -m martlet[.]agent").stdout.split("\n")[0]

    before = agent()
    lab.exec("node3", "kill", "-KILL", before)
    until = time.monotonic() + 10
    while agent() in ("", before) and time.monotonic() < until:
        time.sleep(0.2)
    assert agent() not in ("", before)
    assert lab.exec("node3", "test", "-s", "/var/log/martlet/agent.log").returncode == 0


def test_two_labs_do_not_collide(lab: Lab, limited: Lab) -> None:
    mark = "sh", "-c", "echo $0 > /home/student2/lab && cat /home/student2/lab"
    assert lab.exec("node1", *mark, lab.name).stdout == f"{lab.name}\n"
    assert limited.exec("node1", *mark, limited.name).stdout == f"{limited.name}\n"
    assert lab.exec("node1", "cat", "/home/student2/lab").stdout == f"{lab.name}\n"
    assert [len(each.martlet("node", "list")) for each in (lab, limited)] == [3, 2]
    assert limited.martlet("lab", "status")["mothers"] == ["mother1", "mother2"]


def test_links_have_the_speed_that_was_asked_for(limited: Lab) -> None:
    server = limited.popen("node1", "python3", "-c", RECEIVE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    assert limited.exec("client", "python3", "-c", SEND).returncode == 0
    count, seconds = server.communicate(timeout=30)[0].split()
    mbit = int(count) * 8 / 1e6 / float(seconds)
    assert 30 < mbit < 60


def test_a_lab_that_has_just_come_up_takes_sessions() -> None:
    name = f"test-{os.getpid()}-e"
    try:
        fresh = start(name, "--nodes", "1")
        found = fresh.martlet("session", "start", "--image", "base", "--", "sleep", "60")
        assert found["state"] == "running"
    finally:
        end(name)


def test_processor_time_is_limited_for_sessions_alone(limited: Lab) -> None:
    def quota(group: str) -> str:
        files = f"cd /sys/fs/cgroup; cat cpu/{group}/cpu.cfs_quota_us || cat {group}/cpu.max"
        return limited.exec("node1", "sh", "-c", files).stdout.split()[0]

    assert quota("martlet") == "50000"
    assert quota("system") in ("-1", "max")


def test_what_a_crash_leaves_is_cleaned_by_the_next_start() -> None:
    name = f"test-{os.getpid()}-c"
    try:
        start(name, "--nodes", "1")
        pids = json.loads((RUN / name / "lab.json").read_text())["pids"]
        os.kill(pids["node1"], signal.SIGKILL)
        until = time.monotonic() + 5
        while Path(f"/proc/{pids['node1']}/root").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert Lab(name=name).martlet("lab", "status")["state"] == "broken"
        start(name, "--nodes", "1")
        assert Lab(name=name).martlet("lab", "status")["state"] == "up"
    finally:
        end(name)


def test_down_without_a_lab_is_fine() -> None:
    name = f"test-{os.getpid()}-d"
    assert martlet("lab", "down", "--name", name, lab=name).returncode == 0
    assert martlet("lab", "status", "--name", name, lab=name).returncode == Exit.NOT_FOUND
    assert martlet("lab", "up", "--name", "No_Name", lab=name).returncode == Exit.USAGE
