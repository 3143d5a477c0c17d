"""Control groups, version 2 alone or version 1 with the unified hierarchy beside it (hybrid), behind one set of verbs.

Freezing, killing and pressure always go through the unified hierarchy, which has them without any controller; only
limits and usage differ. A group is named by its path below the root of the (cgroup) namespace.
Source: kernel Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import ToolFailed
from martlet.model import Pressure

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer", "devices", "blkio", "cpuset", "systemd")
NEEDED_V2 = ("cpu", "memory", "pids")
PERIOD_USEC = 100_000
MEMINFO = Path("/proc/meminfo")
V1_MEMORY = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2_MEMORY = ("memory.max", "memory.current", "inactive_file")
"""The files of limit and usage, and the line of memory.stat with what is only cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a group; None leaves one as it is. `cpus` is in cores."""

    memory_bytes: int | None = None
    processes: int | None = None
    cpus: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a machine has, and what new programs could still take."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where the hierarchies are mounted: `unified` always, `v1` by controller and empty on a pure version 2 host."""

    unified: Path
    v1: dict[str, Path]

    @classmethod
    def find(cls, root: Path = ROOT) -> Hierarchies:
        """Look below `root`.

        Raises:
            ToolFailed: there is no unified hierarchy.
        """
        if (root / "cgroup.procs").exists() and (root / "cgroup.controllers").exists():
            return cls(unified=root, v1={})
        unified = root / "unified"
        if not (unified / "cgroup.procs").exists():
            raise ToolFailed(f"no unified cgroup hierarchy at {root} or {unified}: mount cgroup2 there")
        v1 = {name: root / name for name in CONTROLLERS if (root / name / "cgroup.procs").exists()}
        return cls(unified=unified, v1=v1)

    def group(self, name: str) -> Group:
        return Group(name=name.strip("/"), hierarchies=self)

    def memory(self) -> Memory:
        """This machine's memory: the kernel's, or less where the root that we see is itself a group with a limit."""
        lines = dict(line.split(":", 1) for line in _read_text(MEMINFO).splitlines())
        total, free = (int(lines.get(key, "0").split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        limit, used = self._root_memory()
        if limit is None:
            return Memory(total_bytes=total, free_bytes=free)
        return Memory(total_bytes=min(total, limit), free_bytes=max(0, min(free, limit - used)))

    def _root_memory(self) -> tuple[int | None, int]:
        """The limit of the root group, None without one, and what is used of it and cannot be dropped at once."""
        folder = self.v1.get("memory", self.unified)
        limit, usage, cache = V1_MEMORY if "memory" in self.v1 else V2_MEMORY
        text = _read_text(folder / limit).strip()
        if not text.isdigit():
            return None, 0
        stat = dict(line.split(" ", 1) for line in _read_text(folder / "memory.stat").splitlines())
        return int(text), int(_read_text(folder / usage) or 0) - int(stat.get(cache, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One group, in every hierarchy. Making the value makes nothing; `create` does."""

    name: str
    hierarchies: Hierarchies

    @property
    def path(self) -> Path:
        """Its folder in the unified hierarchy."""
        return self.hierarchies.unified / self.name

    def child(self, name: str) -> Group:
        return Group(name=f"{self.name}/{name}", hierarchies=self.hierarchies)

    def children(self) -> list[Group]:
        if not self.path.is_dir():
            return []
        return [self.child(entry.name) for entry in sorted(self.path.iterdir()) if entry.is_dir()]

    def folders(self) -> list[Path]:
        """Its folder in every hierarchy, the unified one first."""
        return [self.path, *(top / self.name for top in self.hierarchies.v1.values())]

    def exists(self) -> bool:
        return self.path.is_dir()

    def create(self, limits: Limits | None = None) -> Group:
        """Make it, parents included, delegating controllers down to it, and set `limits`. Existing is fine."""
        for folder in self.folders():
            folder.mkdir(parents=True, exist_ok=True)
        if "cpuset" in self.hierarchies.v1:
            self._inherit_cpuset()
        if not self.hierarchies.v1:
            self._delegate()
        if limits is not None:
            self.limit(limits)
        return self

    def limit(self, limits: Limits) -> None:
        v1 = self.hierarchies.v1
        if limits.memory_bytes is not None:
            if v1:
                self._write("memory", "memory.limit_in_bytes", str(limits.memory_bytes))
            else:
                self._write("memory", "memory.max", str(limits.memory_bytes))
        if limits.processes is not None:
            self._write("pids", "pids.max", str(limits.processes))
        if limits.cpus is not None:
            quota = int(limits.cpus * PERIOD_USEC)
            if v1:
                self._write("cpu", "cpu.cfs_period_us", str(PERIOD_USEC))
                self._write("cpu", "cpu.cfs_quota_us", str(quota))
            else:
                self._write("cpu", "cpu.max", f"{quota} {PERIOD_USEC}")

    def attach(self, pid: int) -> None:
        """Move a process with all its threads into this group, in every hierarchy.

        Raises:
            ProcessLookupError: there is no such process.
        """
        for folder in self.folders():
            (folder / "cgroup.procs").write_text(str(pid))

    def processes(self) -> list[int]:
        """Pids in this group and below it, as this pid namespace sees them."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError):
                found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
        return found

    def freeze(self, *, deadline_s: float = 5.0) -> None:
        """Stop every process here and below until `thaw`, and wait until the kernel says so.

        Raises:
            ToolFailed: not all had stopped within `deadline_s` (one sleeps uninterruptibly); thawed again.
        """
        (self.path / "cgroup.freeze").write_text("1")
        if not self._wait_event("frozen 1", deadline_s):
            self.thaw()
            raise ToolFailed(f"the cgroup {self.name} did not freeze within {deadline_s:g} s")

    def hold_frozen(self) -> None:
        """Ask for the freeze without waiting: tasks stopped by a tracer stop here when they are let go."""
        (self.path / "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        (self.path / "cgroup.freeze").write_text("0")

    def frozen(self) -> bool:
        """Whether a freeze was asked for."""
        try:
            return (self.path / "cgroup.freeze").read_text().strip() == "1"
        except FileNotFoundError:
            return False

    def kill(self, *, deadline_s: float = 10.0) -> None:
        """Kill every process here and below, frozen ones too, and wait until they are gone. Absent is fine.

        Raises:
            ToolFailed: some were still there after `deadline_s`.
        """
        if not self.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        if not self._wait_event("populated 0", deadline_s):
            raise ToolFailed(
                f"processes {self.processes()} of the cgroup {self.name} did not die within {deadline_s:g} s"
            )

    def remove(self, *, deadline_s: float = 5.0) -> None:
        """Remove it and everything below, in every hierarchy. Absent is fine.

        Raises:
            ToolFailed: it stayed busy for `deadline_s`.
        """
        until = time.monotonic() + deadline_s
        for top in self.folders():
            folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
            for folder in folders:
                while not _rmdir(folder):
                    if time.monotonic() > until:
                        raise ToolFailed(f"the cgroup {folder} stayed busy for {deadline_s:g} s")
                    time.sleep(0.002)

    def memory_bytes(self) -> int:
        """Memory charged to it, page cache and private files included."""
        name = "memory.usage_in_bytes" if self.hierarchies.v1 else "memory.current"
        return int(self._read("memory", name) or 0)

    def cpu_usec(self) -> int:
        """Processor time used since it was made."""
        if self.hierarchies.v1:
            return int(self._read("cpuacct", "cpuacct.usage") or 0) // 1000
        for line in self._read("cpu", "cpu.stat").splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1])
        return 0

    def pressure(self) -> Pressure:
        """Its pressure stall information; zeros where the kernel has none."""
        return Pressure(
            **{kind: some_pct(_read_text(self.path / f"{kind}.pressure")) for kind in ("cpu", "memory", "io")}
        )

    def _folder(self, controller: str) -> Path:
        return self.hierarchies.v1.get(controller, self.hierarchies.unified) / self.name

    def _read(self, controller: str, file: str) -> str:
        return _read_text(self._folder(controller) / file)

    def _write(self, controller: str, file: str, text: str) -> None:
        path = self._folder(controller) / file
        try:
            path.write_text(text)
        except OSError as error:
            raise ToolFailed(f"cannot write '{text}' to {path}: {error.strerror}") from error

    def _delegate(self) -> None:
        enable = " ".join(f"+{name}" for name in NEEDED_V2)
        folder = self.hierarchies.unified
        for part in Path(self.name).parts:
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text(enable)
            folder = folder / part

    def _inherit_cpuset(self) -> None:
        folder = self.hierarchies.v1["cpuset"]
        for part in Path(self.name).parts:
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not _read_text(folder / part / file).strip():
                    (folder / part / file).write_text((folder / file).read_text())
            folder = folder / part

    def _wait_event(self, line: str, deadline_s: float) -> bool:
        """Wait until cgroup.events holds `line`; the kernel wakes pollers of that file at each change."""
        until = time.monotonic() + deadline_s
        fd = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI)
            while line not in os.pread(fd, 4096, 0).decode():
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return False
                poller.poll(min(left_s, 0.1) * 1000)
            return True
        finally:
            os.close(fd)


def some_pct(text: str) -> float:
    """The 10 s average of the `some` line of a pressure file, in per cent; 0 where there is none."""
    for line in text.splitlines():
        if line.startswith("some"):
            return float(line.split()[1].removeprefix("avg10="))
    return 0.0


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
