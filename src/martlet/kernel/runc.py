"""runc, for the start of a session only: after its first move runc knows nothing of it, so nothing else asks runc.

Renders the OCI configuration from a session's places (pure) and runs `runc create` and `runc start`.
Source: OCI runtime specification 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from martlet.kernel import seccomp
from martlet.process import run


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What a session's first process needs. `binds` maps mount points inside to folders outside, all writable;
    `cgroup` is the path in every hierarchy; `net` the handle of a prepared network namespace."""

    id: str
    root: Path
    dev: Path
    binds: Mapping[str, Path]
    net: Path
    cgroup: str
    hostname: str
    uid: int
    gid: int
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    open_files: int


def render(container: Container) -> dict[str, Any]:
    """The OCI configuration: unprivileged, no capabilities, no new privileges, seccomp, read-only root.

    Mounts are few, because every one costs time in a move, and each writable one is a bind that moves outside criu.
    """
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": container.uid, "gid": container.gid, "additionalGids": []},
            "args": list(container.argv),
            "env": [f"{key}={value}" for key, value in container.env.items()],
            "cwd": container.cwd,
            "capabilities": {},
            "noNewPrivileges": True,
            "rlimits": [_limit("RLIMIT_NOFILE", container.open_files), _limit("RLIMIT_CORE", 0)],
        },
        "root": {"path": str(container.root), "readonly": True},
        "hostname": container.hostname,
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "bind", "source": str(container.dev), "options": ["bind", "ro"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            *(_bind(point, folder) for point, folder in container.binds.items()),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"},
                {"type": "mount"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "network", "path": str(container.net)},
            ],
            "cgroupsPath": f"/{container.cgroup}",
            "seccomp": seccomp.profile(),
            "rootfsPropagation": "private",
        },
    }


def write_bundle(container: Container, bundle: Path) -> None:
    """Write the configuration where `create` looks for it."""
    bundle.mkdir(parents=True, exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(render(container)))


async def create(container: Container, *, bundle: Path, state: Path) -> int:
    """Make the container in a time namespace of its own; returns its first process's pid, as we see it.

    `bundle` holds the configuration (`write_bundle`). The process waits: the caller puts it into the unified
    hierarchy's group and then lets it run by `release`.

    Raises:
        ToolFailed: runc said no; it has then undone its own part.
    """
    pid_file, log = bundle / "pid", bundle / "log"
    await run(
        "unshare", "--time", "runc", "--root", str(state), "--log", str(log), "create",
        "--bundle", str(bundle), "--pid-file", str(pid_file), container.id, log=log,
    )  # fmt: skip
    return int(await anyio.Path(pid_file).read_text())


async def release(container: Container, *, state: Path) -> None:
    """Let a created container's first process run."""
    await run("runc", "--root", str(state), "start", container.id)


def _bind(point: str, folder: Path) -> dict[str, Any]:
    return {"destination": point, "type": "bind", "source": str(folder), "options": ["bind", "nosuid", "nodev"]}


def _limit(kind: str, value: int) -> dict[str, Any]:
    return {"type": kind, "hard": value, "soft": value}
