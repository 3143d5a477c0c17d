"""Where labs are written down, and which are running: `/run/martlet-labs/NAME/lab.json`. Starts and ends nothing.

The record is written before anything else of a lab is made, so that whatever a crash leaves can be found by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from martlet.errors import NotFound, Refused, UsageError
from martlet.kernel.cgroup import Group, Hierarchies
from martlet.lab import lock
from martlet.lab.plan import Plan, Role, check_name
from martlet.model import Reason

RUN = Path("/run/martlet-labs")
"""What a running lab is known by; gone after a boot, like the lab."""
BULK = Path("/var/lib/martlet-labs")
"""What a lab's machines write: too large for memory."""


class State(StrEnum):
    STARTING = "starting"
    UP = "up"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What lab.json holds. `pids` are the first processes of the machines, by name, as the host sees them."""

    plan: Plan
    state: State
    pids: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabState:
    """A lab as others see it."""

    plan: Plan
    state: State
    pids: dict[str, int]

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def dir(self) -> Path:
        return folder(self.name)

    @property
    def lan_netns(self) -> Path:
        """Enter this network namespace to be on the lab's LAN."""
        return self.dir / "lan.netns"

    @property
    def admin_config(self) -> Path:
        """The configuration with which the host's commands speak to this lab."""
        return self.dir / "admin" / "config.toml"

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(machine.name for machine in self.plan.of_role(Role.NODE))

    @property
    def client(self) -> str:
        return self.plan.of_role(Role.CLIENT)[0].name


def folder(name: str) -> Path:
    return RUN / name


def bulk(name: str) -> Path:
    return BULK / name


def group(name: str) -> Group:
    """The control group of a whole lab; each machine has one below it, and its daemons in `system` below that."""
    return Hierarchies.find().group(f"martlet-lab-{name}")


def write(record: Record) -> None:
    place = folder(record.plan.name)
    place.mkdir(parents=True, exist_ok=True)
    fresh = place / ".lab.json"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    fresh.rename(place / "lab.json")


def read(name: str) -> LabState | None:
    """The lab `name`, or None. One whose record says that it is up but where a machine is dead is `BROKEN`."""
    try:
        record = msgspec.json.decode((folder(name) / "lab.json").read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    state = record.state
    if state is State.UP and not _all_alive(name, record.pids):
        state = State.BROKEN
    return LabState(plan=record.plan, state=state, pids=record.pids)


def traces() -> list[str]:
    """The names of all labs of which anything is left, running or not."""
    found = {path.name for top in (RUN, BULK) if top.is_dir() for path in top.iterdir() if path.is_dir()}
    return sorted(found)


def running() -> list[LabState]:
    """The labs that are up, by name."""
    states = (read(name) for name in traces())
    return [state for state in states if state is not None and state.state is State.UP]


def pick(name: str | None) -> LabState:
    """The lab `name`, or the only one there is.

    Raises:
        NotFound: there is no such lab, or none at all.
        UsageError: no name was given and there are several.
    """
    if name is not None:
        check_name(name)
        state = read(name)
        if state is None:
            raise NotFound(f"there is no lab '{name}'", reasons=[_how_to_start()])
        return state
    states = [state for state in map(read, traces()) if state is not None]
    if not states:
        raise NotFound("no lab is running", reasons=[_how_to_start()])
    if len(states) > 1:
        raise UsageError(f"several labs are there: {', '.join(s.name for s in states)}; choose one with --name")
    return states[0]


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """One command at a time changes a lab.

    Raises:
        Refused: another one is at it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.held(RUN / f".{name}.lock", wait=False))
        except BlockingIOError as error:
            text = f"another command is starting or ending the lab '{name}'"
            reason = Reason(code="lab_busy", text=text, hint="wait until it is done")
            raise Refused(text, reasons=[reason]) from error
        yield


def _all_alive(name: str, pids: dict[str, int]) -> bool:
    return set(pids.values()) <= set(group(name).processes())


def _how_to_start() -> Reason:
    return Reason(code="no_lab", text="no such lab is recorded under /run/martlet-labs", hint="run 'martlet lab up'")
