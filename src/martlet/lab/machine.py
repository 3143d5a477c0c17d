"""Makes one machine of a lab: joins its cgroup, unshares, builds its root, and becomes its first process.

Run as `python -m martlet.lab.machine` with a `Build` as JSON on stdin; prints the first process's pid. Decides nothing:
files, addresses and offsets come with the build.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from martlet.errors import MartletError
from martlet.image import layout
from martlet.kernel import namespace
from martlet.kernel.cgroup import Hierarchies
from martlet.kernel.link import Links, links, mac_of
from martlet.kernel.namespace import Mount, Namespace
from martlet.lab.plan import PREFIX, Machine, Role
from martlet.process import environment

SYSTEM = "system"
"""The group of a machine's own daemons. Version 2 wants processes in leaves only."""
OWN = Namespace.MNT | Namespace.NET | Namespace.UTS | Namespace.IPC | Namespace.CGROUP
OF_THE_CHILD = Namespace.PID | Namespace.TIME
"""Entered by the next child only; after this no thread can be started any more."""
FIRST_PROCESS = ("/usr/bin/tini", "--", "/usr/bin/runsvdir", "-P", "/etc/service")
"""tini reaps orphans at once, as a real init does; runsvdir supervises, but looks only every five seconds."""
BRIDGE = "martlet0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """All that one machine is made from. `work` holds the folders `upper`, `work` and `root` of its overlay."""

    machine: Machine
    group: str
    lan_netns: Path
    image: Path
    work: Path
    images: Path
    homes: Path
    source: Path
    log: Path
    link_mbit: float | None = None


def main() -> None:
    build = msgspec.json.decode(sys.stdin.buffer.read(), type=Build, dec_hook=decode_path)
    try:
        print(start(build))
    except MartletError as error:
        sys.exit(f"{build.machine.name}: {error.message}")


def start(build: Build) -> int:
    """Make the machine and return the pid of its first process, which runs when this returns.

    Raises:
        MartletError: a step failed; what was made ends with the processes, and with the lab's cgroup.
    """
    hierarchies = Hierarchies.find()
    group = hierarchies.group(build.group)
    controllers = own_controllers(Path("/proc/self/cgroup").read_text())
    group.attach(os.getpid())
    with namespace.opened(build.lan_netns) as lan:
        namespace.unshare(OWN)
        group.child(SYSTEM).attach(os.getpid())
        connect(build, lan)
    namespace.unshare(OF_THE_CHILD)
    set_clocks(build.machine.clock_offset_s)
    return _fork_first(build, pure_v2=not hierarchies.v1, controllers=controllers)


def connect(build: Build, lan: int) -> None:
    """Cable `eth0` of this network namespace to the lab's LAN. A node puts it into the bridge its sessions join."""
    machine, mac = build.machine, mac_of(build.machine.address)
    with links() as here:
        here.up("lo")
        here.add_veth("eth0", peer=machine.name, peer_net_fd=lan)
        here.set_mac("eth0", mac)
        namespace.within(Namespace.NET, build.lan_netns, lambda: _plug(machine.name, build.link_mbit))
        if build.link_mbit is not None:
            here.limit_rate("eth0", mbit=build.link_mbit)
        here.up("eth0")
        _address(here, machine, mac)


def set_clocks(offset_s: int) -> None:
    """Give the next child's monotonic and boot clocks an offset; time_namespaces(7)."""
    Path("/proc/self/timens_offsets").write_text(f"monotonic {offset_s} 0\nboottime {offset_s} 0\n")


def own_controllers(text: str) -> list[str]:
    """The version 1 hierarchies in a /proc/PID/cgroup, as mount options: `cpu,cpuacct`, `name=systemd`."""
    fields = (line.split(":", 2) for line in text.splitlines())
    return [controllers for _, controllers, _ in fields if controllers]


def build_root(build: Build, *, pure_v2: bool, controllers: list[str]) -> Path:
    """Mount the machine's whole root, in a mount namespace of its own. Returns where."""
    namespace.mount("none", Path("/"), flags=Mount.REC | Mount.PRIVATE)
    root, upper, work = (build.work / name for name in ("root", "upper", "work"))
    namespace.mount("overlay", root, "overlay", options=f"lowerdir={build.image},upperdir={upper},workdir={work}")
    namespace.mount("proc", root / "proc", "proc", Mount.NOSUID | Mount.NODEV | Mount.NOEXEC)
    namespace.mount("sysfs", root / "sys", "sysfs", Mount.NOSUID | Mount.NODEV | Mount.NOEXEC)
    namespace.mount("tmpfs", root / "run", "tmpfs", Mount.NOSUID, "mode=755")
    namespace.bind(build.source, root / "opt/martlet/src", read_only=True)
    namespace.bind(build.images, root / "var/lib/martlet/images", read_only=True)
    namespace.bind(build.homes, root / "home")
    mount_devices(root / "dev")
    mount_cgroups(root / "sys/fs/cgroup", pure_v2=pure_v2, controllers=controllers)
    return root


def mount_devices(folder: Path) -> None:
    """A machine's `/dev` in memory: the usual nodes, `net/tun`, terminals and shared memory of its own."""
    namespace.mount("tmpfs", folder, "tmpfs", Mount.NOSUID, "mode=755")
    layout.fill_devices(folder)
    (folder / "net").mkdir()
    os.mknod(folder / "net/tun", stat.S_IFCHR | 0o666, os.makedev(10, 200))
    namespace.mount(
        "devpts", folder / "pts", "devpts", Mount.NOSUID | Mount.NOEXEC, "newinstance,ptmxmode=0666,mode=620"
    )
    namespace.mount("tmpfs", folder / "shm", "tmpfs", Mount.NOSUID | Mount.NODEV, "mode=1777")


def mount_cgroups(folder: Path, *, pure_v2: bool, controllers: list[str]) -> None:
    """The hierarchies as the host has them, at the usual places, rooted at the machine's own group."""
    flags = Mount.NOSUID | Mount.NODEV | Mount.NOEXEC
    if pure_v2:
        namespace.mount("cgroup2", folder, "cgroup2", flags)
        return
    namespace.mount("tmpfs", folder, "tmpfs", flags, "mode=755")
    for options in controllers:
        name = options.removeprefix("name=")
        (folder / name).mkdir()
        namespace.mount("cgroup", folder / name, "cgroup", flags, options)
        for single in name.split(",") if "," in name else ():
            (folder / single).symlink_to(name)
    (folder / "unified").mkdir()
    namespace.mount("cgroup2", folder / "unified", "cgroup2", flags)


def _fork_first(build: Build, *, pure_v2: bool, controllers: list[str]) -> int:
    """Fork the machine's pid 1; a pipe that closes on its exec, or brings the error, tells how that went."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become_first(build, pure_v2=pure_v2, controllers=controllers)
        except (OSError, MartletError) as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        failure = pipe.read().decode()
    if failure:
        os.waitpid(pid, 0)
        raise MartletError(failure)
    return pid


def _become_first(build: Build, *, pure_v2: bool, controllers: list[str]) -> None:
    os.setsid()
    log = os.open(build.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    root = build_root(build, pure_v2=pure_v2, controllers=controllers)
    namespace.pivot_root(root)
    socket.sethostname(build.machine.name)
    os.umask(0o022)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.execve(FIRST_PROCESS[0], FIRST_PROCESS, environment())


def _plug(name: str, link_mbit: float | None) -> None:
    with links() as lan:
        lan.enslave(name, bridge="lan0")
        if link_mbit is not None:
            lan.limit_rate(name, mbit=link_mbit)
        lan.up(name)


def _address(here: Links, machine: Machine, mac: str) -> None:
    if machine.role is Role.NODE:
        here.add_bridge(BRIDGE, mac=mac)
        here.enslave("eth0", bridge=BRIDGE)
    name = BRIDGE if machine.role is Role.NODE else "eth0"
    here.add_address(name, machine.address, prefix=PREFIX)


def decode_path(kind: type, value: object) -> Path:
    """For msgspec, which knows no paths."""
    if kind is Path:
        return Path(str(value))
    raise NotImplementedError(f"no decoder for {kind}")


if __name__ == "__main__":
    main()
