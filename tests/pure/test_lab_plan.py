"""What a lab consists of, and the files of its machines."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from martlet import config
from martlet.config import Config
from martlet.errors import UsageError
from martlet.lab import files, lock, machine, plan, settings
from martlet.lab.files import Base
from martlet.lab.lifecycle import UNITS
from martlet.lab.machine import Build
from martlet.lab.plan import Role, Service
from martlet.lab.ready import missing
from martlet.lab.registry import LabState, State
from martlet.lab.settings import Bound, Setting
from martlet.model import NodeState, NodeView, Pressure

BASE = Base(
    passwd="root:x:0:0::/root:/bin/sh\n",
    group="root:x:0:\n",
    units={service: (UNITS / f"martlet-{service}.service").read_text() for service in Service},
)


def test_machines_have_names_addresses_and_clocks_of_their_own() -> None:
    machines = plan.make("a", nodes=40, mothers=5).machines
    assert len({item.name for item in machines}) == 46
    assert len({item.address for item in machines}) == 46
    offsets = [item.clock_offset_s for item in machines]
    assert len(set(offsets)) == 46
    assert 0 not in offsets


def test_only_the_first_mother_runs_the_bus_and_everybody_finds_it() -> None:
    lab = plan.make("a", mothers=2)
    assert [item.name for item in lab.machines if Service.NATS in item.services] == ["mother1"]
    assert lab.bus_url == "tls://10.77.0.2:4222"
    assert lab.identities == ("mother.mother1", "mother.mother2", "agent.node1", "agent.node2", "agent.node3", "admin")


@pytest.mark.parametrize("name", ["", "Lab", "a_b", "-a", "a-", "a" * 25, "../x", "a/b"])
def test_names_that_no_folder_or_cgroup_should_have(name: str) -> None:
    with pytest.raises(UsageError):
        plan.make(name)


def test_numbers_out_of_range() -> None:
    with pytest.raises(UsageError, match="nodes"):
        plan.make("a", nodes=0)
    with pytest.raises(UsageError, match="cpus-per-node"):
        plan.make("a", cpus_per_node=0)


def test_configuration_is_what_the_daemons_read(tmp_path: Path) -> None:
    lab = plan.make("school", nodes=2)
    path = tmp_path / "config.toml"
    path.write_text(files.config(lab.of_role(Role.NODE)[1], lab))
    found = config.load(path)
    assert found == Config(
        cluster="school",
        node=config.Node(name="node2", address="10.77.0.12"),
        bus=config.Bus(urls=("tls://10.77.0.2:4222",)),
    )


def test_admin_reads_its_keys_from_the_labs_folder(tmp_path: Path) -> None:
    text = files.admin_config(plan.make("a"), tls=tmp_path)
    assert tomllib.loads(text)["tls"]["key"] == str(tmp_path / "key.pem")


@pytest.mark.parametrize("service", list(Service))
def test_run_scripts_have_the_units_command_line(service: Service) -> None:
    unit = BASE.units[service]
    script = files.run_script(unit)
    assert script.startswith("#!/bin/sh\n")
    assert script.endswith(f"\nexec {files.values(unit, 'ExecStart')[0]}\n")


def test_agents_end_alone_under_systemd() -> None:
    assert files.values(BASE.units[Service.AGENT], "KillMode") == ["process"]


def test_files_of_machines() -> None:
    lab = plan.make("a")
    found = {item.name: files.render(item, lab, base=BASE, nats="listen: x") for item in lab.machines}
    assert "/etc/service/agent/run" in found["node1"]
    assert found["mother1"]["/etc/martlet/nats.conf"].mode == 0o600
    assert "/etc/martlet/nats.conf" not in found["node1"]
    assert not any(path.startswith("/etc/service/") for path in found["client"])
    users = found["node3"]["/etc/passwd"].text.splitlines()
    assert users[0].startswith("root:")
    assert users[-1] == "student30:x:2030:2030::/home/student30:/bin/bash"
    assert "10.77.0.12 node2" in found["client"]["/etc/hosts"].text


def test_settings_are_changed_in_their_direction_only() -> None:
    most = Setting(path="/x", bound=Bound.AT_MOST, value=4096, why="")
    least = Setting(path="/x", bound=Bound.AT_LEAST, value=1024, why="")
    assert [settings.wanted(most, now) for now in (512, 262144)] == [512, 4096]
    assert [settings.wanted(least, now) for now in (128, 8192)] == [1024, 8192]


def test_settings_go_back_when_nobody_needs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knob, record = tmp_path / "knob", tmp_path / "settings.json"
    knob.write_text("262144\n")
    absent = Setting(path=str(tmp_path / "absent"), bound=Bound.AT_MOST, value=1, why="")
    table = (Setting(path=str(knob), bound=Bound.AT_MOST, value=4096, why=""), absent)
    monkeypatch.setattr(settings, "SETTINGS", table)
    settings.make(record)
    settings.make(record)
    assert knob.read_text() == "4096\n"
    settings.put_back(record, still_needed=lambda: True)
    assert knob.read_text() == "4096\n"
    settings.put_back(record, still_needed=lambda: False)
    settings.put_back(record, still_needed=lambda: False)
    assert knob.read_text() == "262144\n"


def test_version_1_hierarchies_are_taken_from_the_process() -> None:
    text = "9:name=systemd:/\n4:cpu,cpuacct:/a\n2:memory:/a:b\n0::/\n"
    assert machine.own_controllers(text) == ["name=systemd", "cpu,cpuacct", "memory"]


def test_a_machines_build_survives_the_way_to_its_process() -> None:
    build = Build(
        machine=plan.node(1), group="g/node1", lan_netns=Path("/l"), image=Path("/i"), work=Path("/w"),
        images=Path("/s"), homes=Path("/h"), source=Path("/c"), log=Path("/o"), link_mbit=100.0,
    )  # fmt: skip
    raw = msgspec.json.encode(build, enc_hook=str)
    assert msgspec.json.decode(raw, type=Build, dec_hook=machine.decode_path) == build


def test_missing_nodes_are_those_that_take_no_sessions_yet() -> None:
    lab = LabState(plan=plan.make("a", nodes=4), state=State.STARTING, pids={})
    silent = view("node4", NodeState.UP, memory_free_bytes=0)
    views = [view("node1", NodeState.UP), view("node2", NodeState.DOWN), silent]
    assert missing(lab, views) == ("node2", "node3", "node4")


def view(name: str, state: NodeState, *, memory_free_bytes: int = 1) -> NodeView:
    return NodeView(
        name=name, state=state, address="", cores=1, cpu_pct=0, memory_bytes=0, memory_free_bytes=memory_free_bytes,
        pressure=Pressure(), sessions=0,
    )  # fmt: skip


def test_locks_exclude_each_other_and_vanish(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lab.lock"
    with lock.held(path, wait=False):
        with pytest.raises(BlockingIOError), lock.held(path, wait=False):
            pass
        assert path.exists()
    assert not path.parent.exists()
    with lock.held(path, wait=True):
        pass
