"""The place a session has on a node: folders, mounts, network namespace, port, cgroup; built empty, and torn down.

The same for a session that is born here and for one that moves in. Starts no process and speaks to nobody.

    RUN/sessions/SID/spec.json   the session's specification, written last: a place without it is half-built
                     root/       the image, bind-mounted
                     private/    one memory-backed file system: tmp run shm vartmp
                     net         the network namespace's handle
"""

from __future__ import annotations

import contextlib
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from martlet.config import Config
from martlet.errors import ToolFailed
from martlet.kernel import bridge, cgroup, link, namespace, packet, proc
from martlet.kernel.namespace import Mount, Namespace
from martlet.model import SessionSpec

INNER_LINK = "eth0"
LOG = "run/martlet/log"
PRIVATE = {"/tmp": "tmp", "/run": "run", "/dev/shm": "shm", "/var/tmp": "vartmp"}
"""Mount points inside a session, and their folders in its private file system."""

HOMES_KEY = "homes"
OPEN_TO_ALL, OWNER_ONLY, READABLE = 0o1777, 0o700, 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where everything of one session is on this node. The value makes nothing."""

    spec: SessionSpec
    config: Config
    hierarchies: cgroup.Hierarchies

    @property
    def folder(self) -> Path:
        return sessions_folder(self.config) / self.spec.id

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def private(self) -> Path:
        return self.folder / "private"

    @property
    def net(self) -> Path:
        return self.folder / "net"

    @property
    def log(self) -> Path:
        return self.private / LOG

    @property
    def port(self) -> str:
        """Our end of the session's network cable, a port of the node's bridge."""
        return f"ms{self.spec.id}"

    @property
    def group(self) -> cgroup.Group:
        return sessions_group(self.config, self.hierarchies).child(self.spec.id)

    @property
    def binds(self) -> dict[str, Path]:
        """Writable mount points inside the session, and what is there."""
        private = {point: self.private / name for point, name in PRIVATE.items()}
        return {**private, str(self.config.paths.homes): self.config.paths.homes}

    @property
    def mount_keys(self) -> dict[str, str]:
        """The same mount points by the key under which criu writes them into an image."""
        return {**PRIVATE, str(self.config.paths.homes): HOMES_KEY}

    @property
    def mounts_by_key(self) -> dict[str, Path]:
        return {key: self.binds[point] for point, key in self.mount_keys.items()}

    def init_pid(self) -> int | None:
        """The session's first process as this node sees it, or None when none runs."""
        return proc.init_of(self.group.processes(), net=self.net)


def sessions_folder(config: Config) -> Path:
    return config.paths.run / "sessions"


def sessions_group(config: Config, hierarchies: cgroup.Hierarchies) -> cgroup.Group:
    return hierarchies.group(config.sessions.cgroup)


def build(place: Place, rootfs: Path) -> None:
    """Build the empty place, its port shut. On failure everything is undone.

    Raises:
        ToolFailed: a kernel interface said no, or the place exists already.
    """
    with ExitStack() as undo:
        undo.callback(destroy, place)
        if (place.folder / "spec.json").exists():
            undo.pop_all()
            raise ToolFailed(f"the session {place.spec.id} has a place on {place.config.node.name} already")
        place.folder.mkdir(parents=True, exist_ok=True)
        _mount_root(place, rootfs)
        _mount_private(place)
        _make_network(place)
        place.group.create(
            cgroup.Limits(memory_bytes=place.config.sessions.memory_bytes, processes=place.config.sessions.processes)
        )
        _write_atomically(place.folder / "spec.json", msgspec.json.encode(place.spec))
        undo.pop_all()


def destroy(place: Place) -> None:
    """Take everything away, whatever is there of it; the session's processes are killed with their link down.

    With the link down no FIN or RST of the dying copy reaches a peer. Doing it twice changes nothing.
    """
    with link.links() as links:
        if links.index(place.port) is not None:
            links.down(place.port)
        place.group.kill()
        bridge.forget_mac_everywhere(place.spec.mac, bridge=place.config.network.bridge)
        links.delete(place.port)
    place.group.remove()
    namespace.unmount_below(place.folder)
    shutil.rmtree(place.folder, ignore_errors=True)


def find_all(config: Config, hierarchies: cgroup.Hierarchies) -> list[Place]:
    """The places on this node, half-built ones left out."""
    specs = sorted(sessions_folder(config).glob("*/spec.json"))
    return [
        Place(spec=msgspec.json.decode(path.read_bytes(), type=SessionSpec), config=config, hierarchies=hierarchies)
        for path in specs
    ]


def fill_private(place: Place) -> None:
    """Put into a new session's private folders what it expects to find at its birth."""
    spec = place.spec
    for name in PRIVATE.values():
        _folder(place.private / name, READABLE if name == "run" else OPEN_TO_ALL)
    run = place.private / "run"
    _folder(run / "lock", OPEN_TO_ALL)
    _folder(run / "user", READABLE)
    _folder(run / "user" / str(spec.uid), OWNER_ONLY, owner=spec)
    _folder(run / "martlet", READABLE)
    _folder(run / "martlet/extrausers", READABLE)
    passwd = f"{spec.user}:x:{spec.uid}:{spec.gid}:{spec.user}:{spec.home}:/bin/bash\n"
    (run / "martlet/extrausers/passwd").write_text(passwd)
    (run / "martlet/extrausers/group").write_text(f"{spec.user}:x:{spec.gid}:\n")
    (run / "martlet/extrausers/shadow").write_text(f"{spec.user}:!:::::::\n")
    (run / "martlet/resolv.conf").write_text(_resolver())
    place.log.touch()
    os.chown(place.log, spec.uid, spec.gid)


def _mount_root(place: Place, rootfs: Path) -> None:
    place.root.mkdir(exist_ok=True)
    namespace.bind(rootfs, place.root)


def _mount_private(place: Place) -> None:
    place.private.mkdir(exist_ok=True)
    options = f"size={place.config.sessions.private_bytes},mode=755"
    namespace.mount("martlet", place.private, "tmpfs", Mount.NOSUID | Mount.NODEV, options)
    for name in PRIVATE.values():
        (place.private / name).mkdir()


def _make_network(place: Place) -> None:
    """The namespace, and a cable from its eth0 to a shut port of the bridge.

    A port opens by itself when its carrier comes up, so it is shut after that; until then the inside has no address
    and is silent.
    """
    namespace.make_net(place.net)
    with link.links() as links, namespace.opened(place.net) as net_fd:
        links.add_veth(place.port, peer=INNER_LINK, peer_net_fd=net_fd, peer_mac=place.spec.mac)
        _sysctl(f"net/ipv6/conf/{place.port}/disable_ipv6", "1")
        links.set_arp(place.port, on=False)
        links.enslave(place.port, bridge=place.config.network.bridge)
        namespace.within(Namespace.NET, place.net, lambda: _raise_inner(place))
        links.up(place.port)
        links.wait_running(place.port)
    bridge.set_port_state(place.port, bridge.PortState.SHUT)
    namespace.within(Namespace.NET, place.net, lambda: _address_inner(place))


def _raise_inner(place: Place) -> None:
    with link.links() as links:
        _sysctl(f"net/ipv6/conf/{INNER_LINK}/disable_ipv6", "1")
        links.up("lo")
        links.up(INNER_LINK)


def _address_inner(place: Place) -> None:
    network = place.config.network
    with link.links() as links:
        links.add_address(INNER_LINK, place.spec.address, prefix=int(network.subnet.rpartition("/")[2]))
        if network.gateway:
            links.add_default_route(network.gateway)


def open_port(place: Place) -> None:
    """Let frames pass, and point the session's MAC at its port."""
    bridge.point_mac(place.spec.mac, port=place.port)
    bridge.set_port_state(place.port, bridge.PortState.OPEN)


def announce(place: Place) -> None:
    """Say on the LAN where the session's address is; switches may have learnt another place from its last holder."""
    with contextlib.closing(packet.packet_socket_in(place.net, INNER_LINK)) as outward:
        outward.send(packet.arp_announcement(place.spec.mac, place.spec.address))


def _folder(path: Path, mode: int, *, owner: SessionSpec | None = None) -> None:
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def _resolver() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except OSError:
        return ""


def _sysctl(name: str, value: str) -> None:
    """Set a kernel setting of the current thread's network namespace; one the kernel does not have is fine."""
    path = Path("/proc/sys") / name
    if path.exists():
        path.write_text(value)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    temporary.replace(path)
