"""Finds the cluster that a command means, and makes one call to it.

In the order of the contract: `--cluster`, `MARTLET_CLUSTER`, the only running lab, `/etc/martlet/config.toml`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from martlet import config
from martlet.errors import NotFound, UsageError
from martlet.model import Reason

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

VARIABLE = "MARTLET_CLUSTER"
CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where a cluster is: the configuration to speak to it with, and for a lab the network it is on."""

    config: Path
    lab: str = ""
    lan_netns: Path | None = None


def cluster_option(command: F) -> F:
    """Give `command` the option `--cluster`, passed to it as `cluster: str | None`."""
    option = click.option(
        "--cluster",
        metavar="LAB|FILE",
        envvar=VARIABLE,
        help=f"A running lab's name or a configuration file.  [env: {VARIABLE}; default: the running lab, if exactly"
        f" one, else {config.DEFAULT_PATH}]",
    )
    return option(command)


def find(named: str | None) -> Cluster:
    """The cluster that `named`, a lab or a file, or else this machine's state says.

    Raises:
        NotFound: there is no such lab, or no cluster at all.
        UsageError: several labs are running and none is named.
    """
    labs = running_labs()
    if named and named in labs:
        return labs[named]
    if named:
        return _of_file(named)
    if len(labs) == 1:
        return next(iter(labs.values()))
    if config.DEFAULT_PATH.is_file():
        return Cluster(config=config.DEFAULT_PATH)
    if labs:
        raise UsageError(f"several labs are running: {', '.join(sorted(labs))}; choose one with --cluster")
    raise NotFound("no cluster: no lab is running and there is no configuration", reasons=[_how_to_get_one()])


def call(named: str | None, ask: Callable[[Any], Awaitable[T]]) -> T:
    """Connect to the cluster, and return what `ask` returns of its bus (`martlet.bus.client.Bus`).

    Raises:
        MartletError: there is no such cluster, it cannot be reached, or what `ask` raises.
    """
    return asyncio.run(_call(enter(find(named)), ask))


def enter(cluster: Cluster) -> Cluster:
    """Put this process on the cluster's network, which for a lab is a namespace of its own."""
    if cluster.lan_netns is not None:
        from martlet.kernel.namespace import Namespace, setns

        setns(cluster.lan_netns, Namespace.NET)
    return cluster


def running_labs() -> dict[str, Cluster]:
    """The labs on this machine that are up, by name."""
    if importlib.util.find_spec("martlet.lab") is None or os.geteuid() != 0:
        return {}
    registry = importlib.import_module("martlet.lab.registry")
    return {
        lab.name: Cluster(config=lab.admin_config, lab=lab.name, lan_netns=lab.lan_netns) for lab in registry.running()
    }


async def _call(cluster: Cluster, ask: Callable[[Any], Awaitable[T]]) -> T:
    from martlet.bus.client import connect
    from martlet.bus.names import Role

    async with connect(config.load(cluster.config), Role.ADMIN, deadline_s=CONNECT_S) as bus:
        return await ask(bus)


def _of_file(named: str) -> Cluster:
    path = Path(named)
    if not path.is_file():
        raise NotFound(f"'{named}' is neither a running lab nor a configuration file", reasons=[_how_to_get_one()])
    return Cluster(config=path)


def _how_to_get_one() -> Reason:
    return Reason(code="no_cluster", text="no cluster was found from here", hint="start one with 'martlet lab up'")
