"""`martlet doctor`: checks this machine and the cluster, one line each: what, found, wanted, what to do.

Changes nothing; every check is one function.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from martlet.bus.names import Bucket
from martlet.bus.orders import MotherVerb
from martlet.cli import cluster as clusters
from martlet.cli.asking import ask_mother
from martlet.cli.cluster import cluster_option
from martlet.cli.output import Column, Output, output_option, show_list
from martlet.errors import Exit, MartletError
from martlet.model import NodeFacts, NodeRecord, NodeState, NodeView

if TYPE_CHECKING:
    from martlet.bus.client import Bus

KERNEL_MIN = (5, 10)
CRIU_MIN = (4, 0)
NEWER_KERNEL, NEWER_CRIU = (6, 16), (4, 2)
"""From this kernel on an older CRIU cannot dump an internet socket: SO_PASSCRED answers EOPNOTSUPP."""
CAP_SYS_RESOURCE = 24
PIPE_MAX_BYTES = 1 << 30
HASHSIZE_MAX = 16384
TOOLS = ("nsenter", "runc", "nft", "criu")

COLUMNS = [
    Column(title="CHECK", cell=lambda check: check.check),
    Column(title="OK", cell=lambda check: "yes" if check.ok else "NO"),
    Column(title="FOUND", cell=lambda check: check.found),
    Column(title="WANTED", cell=lambda check: check.wanted),
    Column(title="WHAT TO DO", cell=lambda check: "" if check.ok else check.hint),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor's."""

    check: str
    ok: bool
    found: str
    wanted: str
    hint: str = ""


@click.command("doctor")
@output_option
@cluster_option
def command(*, output: Output, cluster: str | None) -> int:
    """Check this machine and the cluster; ends with 1 when a check fails.

    \b
    Example:
      martlet doctor
    """
    checks = [check() for check in LOCAL] + on_cluster(cluster)
    show_list(checks, COLUMNS, output)
    return Exit.DONE if all(check.ok for check in checks) else Exit.FAILED


def kernel() -> Check:
    release = platform.release()
    wanted = f"{'.'.join(map(str, KERNEL_MIN))} or newer"
    return Check(check="kernel", ok=version(release) >= KERNEL_MIN, found=release, wanted=wanted, hint="upgrade it")


def root() -> Check:
    uid = os.geteuid()
    return Check(check="root", ok=uid == 0, found=f"uid {uid}", wanted="uid 0", hint="run as root")


def pressure() -> Check:
    there = Path("/proc/pressure/cpu").exists()
    found = "on" if there else "off"
    return Check(check="pressure stall information", ok=there, found=found, wanted="on", hint="boot with psi=1")


def cgroups() -> Check:
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    legacy = Path("/sys/fs/cgroup/freezer").exists() or Path("/sys/fs/cgroup/unified").exists()
    found = "v2" if unified else "v1" if legacy else "none"
    hint = "mount cgroup2 on /sys/fs/cgroup"
    return Check(check="control groups", ok=unified or legacy, found=found, wanted="v1 or v2", hint=hint)


def resource_capability() -> Check:
    """Not needed: the agent works round a missing capability. Only post-copy then wants larger pipes."""
    capable = bool(effective_capabilities() >> CAP_SYS_RESOURCE & 1)
    pipe_bytes = number_in(Path("/proc/sys/fs/pipe-max-size"))
    limited = not capable and pipe_bytes < PIPE_MAX_BYTES
    found = "present" if capable else f"missing{', so no post-copy' if limited else ''}"
    wanted = f"present, or for post-copy fs.pipe-max-size {PIPE_MAX_BYTES}"
    return Check(check="CAP_SYS_RESOURCE", ok=True, found=found, wanted=wanted)


def conntrack() -> Check:
    path = Path("/sys/module/nf_conntrack/parameters/hashsize")
    size = number_in(path) if path.exists() else 0
    return Check(
        check="nf_conntrack hashsize",
        ok=size <= HASHSIZE_MAX,
        found=str(size) if size else "not loaded",
        wanted=f"at most {HASHSIZE_MAX}, or each freeze is some 20 ms longer",
        hint=f"echo 4096 > {path}",
    )


LOCAL: tuple[Callable[[], Check], ...] = (kernel, root, pressure, cgroups, resource_capability, conntrack)


def tools() -> Check:
    """What an agent on this machine calls."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    found = f"missing: {', '.join(missing)}" if missing else "all"
    hint = f"apt install {' '.join(missing)}"
    return Check(check="tools", ok=not missing, found=found, wanted=", ".join(TOOLS), hint=hint)


def on_cluster(named: str | None) -> list[Check]:
    """The checks of the cluster; the first that fails to get through is the last."""
    try:
        cluster = clusters.find(named)
        here = [] if cluster.lab else [tools()]
        return here + clusters.call(named, ask_cluster)
    except MartletError as error:
        hint = error.reasons[0].hint if error.reasons else "see the error"
        return [Check(check="cluster", ok=False, found=error.message, wanted="an answer", hint=hint)]


async def ask_cluster(bus: Bus) -> list[Check]:
    """Everything that is asked of a cluster that can be reached."""
    reached = Check(check="bus", ok=True, found="answers", wanted="answers")
    records = await bus.table(Bucket.NODES, NodeRecord).all()
    facts = [records[name].facts for name in sorted(records)]
    views = await ask_mother(bus, MotherVerb.NODES, None, list[NodeView])
    mother = Check(check="mother", ok=True, found="leads", wanted="one leads")
    return [reached, mother, agents(views), images(facts), *map(criu, facts), *map(faults, facts)]


def agents(views: list[NodeView]) -> Check:
    away = [view.name for view in views if view.state is NodeState.DOWN]
    found = f"down: {', '.join(away)}" if away else f"{len(views)} nodes, all present"
    hint = "start martlet-agent there, and look at its log"
    return Check(check="agents", ok=bool(views) and not away, found=found, wanted="all nodes present", hint=hint)


def images(facts: list[NodeFacts]) -> Check:
    """Sessions can only move between nodes whose image has the same digest."""
    names = sorted({image.name for each in facts for image in each.images})
    unequal = [name for name in names if len({digests(each, name) for each in facts}) > 1]
    text = f"unequal: {', '.join(unequal)}" if unequal else f"equal: {', '.join(names) or 'none'}"
    hint = "copy one node's image to the others, or build it there anew"
    return Check(
        check="images", ok=bool(digests) and not unequal, found=text, wanted="the same on all nodes", hint=hint
    )


def digests(facts: NodeFacts, name: str) -> frozenset[str]:
    """The digests under which a node has the image `name`; none when it lacks it."""
    return frozenset(image.digest for image in facts.images if image.name == name)


def criu(facts: NodeFacts) -> Check:
    wanted = NEWER_CRIU if version(facts.kernel) >= NEWER_KERNEL else CRIU_MIN
    return Check(
        check=f"criu on {facts.node}",
        ok=version(facts.criu) >= wanted,
        found=f"{facts.criu or 'none'} with kernel {facts.kernel}",
        wanted=f"{'.'.join(map(str, wanted))} or newer",
        hint="install criu from Debian testing",
    )


def faults(facts: NodeFacts) -> Check:
    """What the node's agent itself found wrong at its start."""
    found = "; ".join(reason.text for reason in facts.faults) or "none"
    hint = "; ".join(reason.hint for reason in facts.faults if reason.hint)
    return Check(check=f"faults of {facts.node}", ok=not facts.faults, found=found, wanted="none", hint=hint)


def version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: `6.18.5+deb14-amd64` is (6, 18, 5); nothing is ()."""
    head = text.lstrip("vV").split("-")[0].split("+")[0]
    numbers = []
    for part in head.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def effective_capabilities() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))


def number_in(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
