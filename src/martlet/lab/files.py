"""Renders the files of a lab's machines: users, configuration, services. Writes none of them.

A service's run script is made from the systemd unit of the same daemon, so that a lab runs the real command lines.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from martlet.lab.plan import BUS_PORT, FIRST_UID, STUDENTS, SUBNET, Machine, Plan, Role, Service
from martlet.process import PATH

TLS = "/etc/martlet/tls"
NATS_TLS = "/etc/martlet/tls-nats"
NATS_STORE = "/var/lib/martlet/nats"
LOG_BYTES, LOGS = 4 * 1024 * 1024, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The content of a file and its mode."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the files of a machine start from: the image's users and groups, and the systemd units."""

    passwd: str
    group: str
    units: Mapping[Service, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    name: str
    uid: int


def students() -> list[Student]:
    return [Student(name=f"student{number}", uid=FIRST_UID + number - 1) for number in range(1, STUDENTS + 1)]


def render(machine: Machine, plan: Plan, *, base: Base, nats: str) -> dict[str, Text]:
    """Every file that `machine` has beyond its image, by absolute path; `nats` is the configuration of the bus."""
    found = {
        "/etc/hostname": Text(text=f"{machine.name}\n"),
        "/etc/hosts": Text(text=hosts(plan)),
        "/etc/passwd": Text(text=base.passwd + passwd()),
        "/etc/group": Text(text=base.group + group()),
        "/etc/martlet/config.toml": Text(text=config(machine, plan)),
    }
    for service in machine.services:
        found[f"/etc/service/{service}/run"] = Text(text=run_script(base.units[service]), mode=0o755)
        found[f"/etc/service/{service}/log/run"] = Text(text=log_script(service), mode=0o755)
        found[f"/var/log/martlet/{service}/config"] = Text(text=f"s{LOG_BYTES}\nn{LOGS}\n")
    if Service.NATS in machine.services:
        found["/etc/martlet/nats.conf"] = Text(text=nats, mode=0o600)
    return found


def passwd() -> str:
    return "".join(f"{s.name}:x:{s.uid}:{s.uid}::/home/{s.name}:/bin/bash\n" for s in students())


def group() -> str:
    return "".join(f"{s.name}:x:{s.uid}:\n" for s in students())


def hosts(plan: Plan) -> str:
    lines = [f"{machine.address} {machine.name}" for machine in plan.machines]
    return "\n".join(["127.0.0.1 localhost", *lines]) + "\n"


def config(machine: Machine, plan: Plan) -> str:
    """The machine's config.toml: what differs from the defaults of `martlet.config`, and the LAN in plain sight."""
    return toml({
        "": {"cluster": plan.name},
        "node": {"name": machine.name, "address": machine.address},
        "bus": {"urls": [plan.bus_url]},
        "network": {"bridge": "martlet0", "subnet": SUBNET},
    })  # fmt: skip


def admin_config(plan: Plan, *, tls: Path) -> str:
    """The configuration of the host's own commands, which act as `admin`."""
    paths = {"ca": str(tls / "ca.pem"), "cert": str(tls / "cert.pem"), "key": str(tls / "key.pem")}
    return toml({"": {"cluster": plan.name}, "bus": {"urls": [plan.bus_url]}, "tls": paths})


def toml(tables: Mapping[str, Mapping[str, str | list[str]]]) -> str:
    """TOML of tables of texts and lists of texts; JSON's strings are TOML's."""
    parts = []
    for name, table in tables.items():
        head = [f"[{name}]"] if name else []
        parts.append("\n".join(head + [f"{key} = {json.dumps(value)}" for key, value in table.items()]))
    return "\n\n".join(parts) + "\n"


def run_script(unit: str) -> str:
    """A runit run script for a systemd unit: its environment, its file limit as far as allowed, its command line."""
    lines = ["#!/bin/sh", "exec 2>&1", f"export PATH={PATH} HOME=/root LC_ALL=C.UTF-8"]
    lines += [f"export {shlex.join(shlex.split(value))}" for value in values(unit, "Environment")]
    lines += [f"ulimit -n {value} 2>/dev/null || true" for value in values(unit, "LimitNOFILE")]
    return "\n".join([*lines, f"exec {values(unit, 'ExecStart')[0]}"]) + "\n"


def log_script(service: Service) -> str:
    """Keeps the service's output in files of bounded size; `NAME.log` is the newest."""
    place = f"/var/log/martlet/{service}"
    return f"#!/bin/sh\nln -sfn {service}/current {place}.log\nexec svlogd {place}\n"


def values(unit: str, key: str) -> list[str]:
    """The values of `key` in a systemd unit, in order."""
    pairs = (line.partition("=") for line in unit.splitlines() if not line.startswith(("#", ";")))
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def nats_listen(plan: Plan) -> str:
    return f"{plan.of_role(Role.MOTHER)[0].address}:{BUS_PORT}"
