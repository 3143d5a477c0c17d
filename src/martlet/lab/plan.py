"""What a lab consists of: machines with their addresses, clocks and identities. Values only; nothing is made here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from martlet.errors import UsageError

SUBNET = "10.77.0.0/16"
PREFIX = 16
HOST_ADDRESS = "10.77.0.1"
CLIENT_ADDRESS = "10.77.0.9"
FIRST_MOTHER, FIRST_NODE = 2, 11
MAX_MOTHERS, MAX_NODES = 5, 40
STUDENTS = 30
FIRST_UID = 2001
BUS_PORT = 4222
ADMIN = "admin"


class Role(StrEnum):
    MOTHER = "mother"
    NODE = "node"
    CLIENT = "client"


class Service(StrEnum):
    """The daemons of a machine; their command lines are in `packaging/systemd/martlet-NAME.service`."""

    AGENT = "agent"
    MOTHER = "mother"
    NATS = "nats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine of a lab. `clock_offset_s` is how far its monotonic and boot clocks are ahead of the host's."""

    name: str
    role: Role
    address: str
    clock_offset_s: int
    services: tuple[Service, ...] = ()

    @property
    def identities(self) -> tuple[str, ...]:
        """Who its daemons are on the bus."""
        users = (Service.AGENT, Service.MOTHER)
        return tuple(f"{service}.{self.name}" for service in self.services if service in users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One lab. `cpus_per_node` limits the sessions of a node, `link_mbit` every machine's link; None: no limit."""

    name: str
    machines: tuple[Machine, ...]
    cpus_per_node: float | None = None
    link_mbit: float | None = None

    def of_role(self, role: Role) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.role is role)

    @property
    def identities(self) -> tuple[str, ...]:
        """Everybody who may use the bus."""
        return (*(name for machine in self.machines for name in machine.identities), ADMIN)

    @property
    def bus_url(self) -> str:
        return f"tls://{self.of_role(Role.MOTHER)[0].address}:{BUS_PORT}"


def make(
    name: str,
    *,
    nodes: int = 3,
    mothers: int = 1,
    cpus_per_node: float | None = None,
    link_mbit: float | None = None,
) -> Plan:
    """The plan of a lab.

    Raises:
        UsageError: a name or number that no lab can have.
    """
    check_name(name)
    _check_range("nodes", nodes, 1, MAX_NODES)
    _check_range("mothers", mothers, 1, MAX_MOTHERS)
    for what, value in (("cpus-per-node", cpus_per_node), ("link-mbit", link_mbit)):
        if value is not None and value <= 0:
            raise UsageError(f"--{what} is {value:g}; it must be more than 0")
    machines = (
        *(mother(number) for number in range(1, mothers + 1)),
        *(node(number) for number in range(1, nodes + 1)),
        Machine(name="client", role=Role.CLIENT, address=CLIENT_ADDRESS, clock_offset_s=777),
    )
    return Plan(name=name, machines=machines, cpus_per_node=cpus_per_node, link_mbit=link_mbit)


def check_name(name: str) -> None:
    """Raise UsageError unless `name` can name a lab, its folders and its cgroups."""
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9]){0,23}", name):
        raise UsageError(f"'{name}' cannot name a lab: use 1 to 24 small letters, digits and single hyphens")


def mother(number: int) -> Machine:
    """The first one runs the bus, too."""
    services = (Service.NATS, Service.MOTHER) if number == 1 else (Service.MOTHER,)
    return Machine(
        name=f"mother{number}",
        role=Role.MOTHER,
        address=f"10.77.0.{FIRST_MOTHER + number - 1}",
        clock_offset_s=40 * number,
        services=services,
    )


def node(number: int) -> Machine:
    """Neighbours' clocks are far apart, in either order, so that a session that moves meets both directions."""
    return Machine(
        name=f"node{number}",
        role=Role.NODE,
        address=f"10.77.0.{FIRST_NODE + number - 1}",
        clock_offset_s=100_000 * number if number % 2 else 2_600 * number,
        services=(Service.AGENT,),
    )


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise UsageError(f"--{what} is {value}; a lab has {least} to {most}")
