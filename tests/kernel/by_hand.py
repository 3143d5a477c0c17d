"""Changes things in a lab by hand, as an administrator or an accident would, and puts them back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import faults
from lab_fixture import MARTLET, Lab, environment

from bench.cluster import output
from martlet import config
from martlet.bus import client
from martlet.bus.client import Bus
from martlet.bus.names import Bucket, Role
from martlet.kernel import namespace
from martlet.kernel.cgroup import Group
from martlet.kernel.namespace import Namespace
from martlet.lab import registry
from martlet.lab.plan import Service
from martlet.model import NodeRecord, NodeState

REPORTED_S = 15.0
"""Within this a change on a node is seen by the mother, and an agent that ended is back."""
ROOM_BYTES = 40 << 20
"""What a node is left with; a move wants more to spare than this."""
POOL = '\npool_first = "10.77.9.1"\npool_last = "10.77.9.1"\n'
CONFIG = "/etc/martlet/config.toml"


@contextmanager
def little_memory(group: Group) -> Iterator[None]:
    """A node's group with a limit just above what it uses, set from the host."""
    v1 = group.hierarchies.v1
    name, none = ("memory.limit_in_bytes", "-1") if v1 else ("memory.max", "max")
    limit = v1.get("memory", group.hierarchies.unified) / group.name / name
    limit.write_text(str(group.memory_bytes() + ROOM_BYTES))
    try:
        yield
    finally:
        limit.write_text(none)


@contextmanager
def hidden(lab: Lab, node: str, folder: str) -> Iterator[None]:
    output(lab, node, "mount", "-t", "tmpfs", "tmpfs", folder)
    try:
        yield
    finally:
        output(lab, node, "umount", folder)


@contextmanager
def without_criu(lab: Lab, node: str) -> Iterator[None]:
    path = output(lab, node, "sh", "-c", "command -v criu").decode().strip()
    output(lab, node, "mv", path, f"{path}.away")
    try:
        yield
    finally:
        output(lab, node, "mv", f"{path}.away", path)


@contextmanager
def node_state(lab: Lab, node: str, state: NodeState) -> Iterator[None]:
    """What the administrator wants of a node, in the store; as before at the end."""

    async def put(bus: Bus, wanted: NodeState) -> None:
        nodes = bus.table(Bucket.NODES, NodeRecord)
        before = await nodes.get(node)
        assert before is not None
        await nodes.swap(node, NodeRecord(facts=before.value.facts, state=wanted), before.revision)

    def is_now(wanted: NodeState) -> bool:
        return any(one["name"] == node and one["state"] == wanted for one in lab.martlet("node", "list"))

    as_admin(lab, lambda bus: put(bus, state))
    try:
        await_that(lambda: is_now(state))
        yield
    finally:
        as_admin(lab, lambda bus: put(bus, NodeState.UP))
        await_that(lambda: is_now(NodeState.UP))


@contextmanager
def pool_of_one(lab: Lab, node: str) -> Iterator[None]:
    before = output(lab, node, "cat", CONFIG)
    assert before.rstrip().splitlines()[-2].startswith(b"bridge"), "the table [network] is no longer the last"
    output(lab, node, "tee", CONFIG, input=before.rstrip() + POOL.encode())
    try:
        restart_agent(lab, node)
        yield
    finally:
        output(lab, node, "tee", CONFIG, input=before)
        restart_agent(lab, node)


@contextmanager
def in_session(lab: Lab, session_id: str, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs in a session by `session exec`; its caller is ended at the end."""
    caller = subprocess.Popen(
        [str(MARTLET), "session", "exec", session_id, "--", *argv],
        env=environment(lab.name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield caller
    finally:
        caller.kill()
        caller.communicate()


def as_admin(lab: Lab, ask: Callable[[Bus], Any]) -> None:
    """Make one call to the lab's bus, on its network."""
    state = registry.read(lab.name)
    assert state is not None

    async def call() -> None:
        async with client.connect(config.load(state.admin_config), Role.ADMIN, deadline_s=10.0) as bus:
            await ask(bus)

    namespace.within(Namespace.NET, state.lan_netns, lambda: anyio.run(call))


def restart_agent(lab: Lab, node: str, *, number: signal.Signals = signal.SIGTERM) -> None:
    """End a node's agent by a signal, and wait until its successor serves and the mother knows."""
    before = times_served(lab, node)
    os.kill(faults.agent_pid(lab.name, node), number)
    await_that(lambda: times_served(lab, node) > before)
    await_that(lambda: any(one["name"] == node and one["state"] != "down" for one in lab.martlet("node", "list")))


def times_served(lab: Lab, node: str) -> int:
    """How many agents of a node have come to serve, by its log."""
    log = f"/var/log/martlet/{Service.AGENT}.log"
    return int(output(lab, node, "grep", "-c", f"agent of {node} serves", log))


def await_that(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + REPORTED_S
    while not holds():
        assert time.monotonic() < until, f"not so within {REPORTED_S:g} s"
        time.sleep(0.1)


def free_bytes(lab: Lab, node: str) -> int:
    return int(next(one["memory_free_bytes"] for one in lab.martlet("node", "list") if one["name"] == node))
