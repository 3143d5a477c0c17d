"""Runs a command inside a machine of a lab by becoming it, so that stdin, stdout, exit code and Ctrl-C go through."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from martlet.errors import NotFound
from martlet.lab import registry
from martlet.lab.machine import SYSTEM
from martlet.lab.registry import LabState
from martlet.process import environment, missing

PYTHONPATH = "/opt/martlet/src:/opt/martlet/site-packages"


def execute(lab: LabState, machine: str, argv: Sequence[str]) -> NoReturn:
    """Become `argv` inside `machine`, in all its namespaces and among its daemons' control group.

    Raises:
        NotFound: the lab has no such machine, or it is dead.
    """
    pid = lab.pids.get(machine)
    group = registry.group(lab.name).child(machine)
    if pid is None or pid not in group.processes():
        raise NotFound(f"the lab '{lab.name}' runs no machine '{machine}'; it has: {', '.join(lab.pids)}")
    group.child(SYSTEM).attach(os.getpid())
    term = os.environ.get("TERM", "dumb")
    try:
        os.execvpe("nsenter", arguments(pid, argv), environment({"PYTHONPATH": PYTHONPATH, "TERM": term}))
    except FileNotFoundError as error:
        raise missing("nsenter") from error


def arguments(pid: int, argv: Sequence[str]) -> list[str]:
    """nsenter's command line for all namespaces that a machine has of its own."""
    kinds = ("--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--time")
    return ["nsenter", f"--target={pid}", *kinds, "--", *argv]
