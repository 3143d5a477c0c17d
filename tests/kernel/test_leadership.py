"""Mothers as processes and the command line, on a real nats-server: leadership, its change, and the contract."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from nats_fixture import NatsServer, prepare

from martlet.bus.client import connect
from martlet.bus.lease import LeaseRecord
from martlet.bus.names import LEADER_KEY, LEASE_S, Bucket, Role
from martlet.config import Config
from martlet.errors import Unreachable

pytestmark = pytest.mark.kernel

Mother = subprocess.Popen[bytes]


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = prepare(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def start_mother(nats_server: NatsServer) -> Iterator[Callable[[str], Mother]]:
    started: list[Mother] = []

    def start(node: str) -> Mother:
        path = write_config(nats_server.folder, nats_server.config(f"mother.{node}"), name=f"mother.{node}.toml")
        with (nats_server.folder / f"mother.{node}.log").open("ab") as log:
            started.append(
                subprocess.Popen([sys.executable, "-m", "martlet.mother", "--config", str(path)], stderr=log)
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def write_config(folder: Path, config: Config, *, name: str) -> Path:
    tls = config.tls
    text = (
        f"[node]\nname = {json.dumps(config.node.name)}\n[bus]\nurls = {json.dumps(config.bus.urls)}\n"
        f"[tls]\nca = {json.dumps(str(tls.ca))}\ncert = {json.dumps(str(tls.cert))}\nkey = {json.dumps(str(tls.key))}\n"
    )
    path = folder / name
    path.write_text(text)
    return path


def leader(server: NatsServer) -> str:
    """Who holds the lease of leadership now, empty when nobody does."""

    async def look() -> str:
        async with connect(server.config("admin"), Role.ADMIN, deadline_s=5) as bus:
            try:
                found = await bus.table(Bucket.LEASES, LeaseRecord).get(LEADER_KEY)
            except Unreachable:
                return ""
            return found.value.holder if found else ""

    return anyio.run(look)


def wait_for(expected: str, server: NatsServer, *, deadline_s: float) -> float:
    """Seconds until `expected` leads."""
    begun = time.monotonic()
    while leader(server) != expected:
        assert time.monotonic() - begun < deadline_s, f"{expected} does not lead after {deadline_s} s"
        time.sleep(0.1)
    return time.monotonic() - begun


def martlet(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    path = write_config(server.folder, server.config("admin"), name="admin.toml")
    return subprocess.run(
        [sys.executable, "-m", "martlet.cli.main", *words],
        env={**os.environ, "MARTLET_CLUSTER": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_standby_takes_over(nats_server: NatsServer, start_mother: Callable[[str], Mother]) -> None:
    first = start_mother("n1")
    wait_for("mother.n1", nats_server, deadline_s=10)
    second = start_mother("n2")
    time.sleep(1.5)
    assert leader(nats_server) == "mother.n1"
    first.kill()
    first.wait()
    wait_for("mother.n2", nats_server, deadline_s=LEASE_S + 3)
    start_mother("n1")
    time.sleep(1.5)
    second.send_signal(signal.SIGTERM)
    assert second.wait(5) == 0
    assert wait_for("mother.n1", nats_server, deadline_s=5) < 2.5


def test_a_mother_leads_again_after_an_outage(nats_server: NatsServer, start_mother: Callable[[str], Mother]) -> None:
    mother = start_mother("n1")
    wait_for("mother.n1", nats_server, deadline_s=10)
    nats_server.kill()
    time.sleep(LEASE_S + 1)
    nats_server.start()
    wait_for("mother.n1", nats_server, deadline_s=10)
    answer = answered(nats_server, "node", "list", "--output", "json")
    assert (answer.returncode, json.loads(answer.stdout)) == (0, [])
    assert mother.poll() is None


def test_commands(nats_server: NatsServer, start_mother: Callable[[str], Mother]) -> None:
    nobody = martlet(nats_server, "session", "list", "--output", "json")
    assert nobody.returncode == 1
    assert json.loads(nobody.stdout)["reasons"][0]["code"] == "no_mother"
    assert martlet(nats_server, "migrate", "x", "--no-wait").returncode == 1
    start_mother("n1")
    wait_for("mother.n1", nats_server, deadline_s=10)
    assert json.loads(answered(nats_server, "session", "list", "--output", "json").stdout) == []
    refused = martlet(nats_server, "session", "start", "--output", "json")
    assert refused.returncode == 3
    assert json.loads(refused.stdout)["reasons"][0]["code"] == "no_nodes"
    for words in (
        ["migrate", "x", "--no-wait"],
        ["session", "show", "x"],
        ["kill", "x:1"],
        ["migrate", "x"],
        ["session", "why", "x"],
    ):
        assert martlet(nats_server, *words).returncode == 4
    events = json.loads(martlet(nats_server, "events", "--output", "json").stdout)
    assert [event["kind"] for event in events] == ["mother_leads"]
    assert set(events[0]) == {"time", "kind", "session", "node", "text", "data"}


def test_interrupted_follow_is_130(nats_server: NatsServer, start_mother: Callable[[str], Mother]) -> None:
    start_mother("n1")
    wait_for("mother.n1", nats_server, deadline_s=10)
    path = write_config(nats_server.folder, nats_server.config("admin"), name="admin.toml")
    words = [sys.executable, "-m", "martlet.cli.main", "events", "--follow", "--cluster", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follow:
        assert follow.stdout is not None
        assert "mother_leads" in follow.stdout.readline()
        follow.send_signal(signal.SIGINT)
        _, complaint = follow.communicate(timeout=10)
    assert (follow.returncode, complaint.strip()) == (130, "")


def answered(server: NatsServer, *words: str) -> subprocess.CompletedProcess[str]:
    """The command's result, once the new leader serves."""
    for _ in range(50):
        result = martlet(server, *words)
        if result.returncode == 0:
            return result
        time.sleep(0.1)
    return result
