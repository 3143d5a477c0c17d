"""Links, bridges and addresses over rtnetlink (pyroute2), as verbs.

Synchronous: a caller in an event loop runs them in a worker thread; one that means another network namespace runs
them by `namespace.within`. Knows nothing of sessions beyond how their MAC follows from their address.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from martlet.errors import ToolFailed


def mac_of(address: str) -> str:
    """The MAC of a session: locally administered prefix 02:4d and the four bytes of its IPv4 address."""
    packed = ipaddress.IPv4Address(address).packed
    return "02:4d:" + ":".join(f"{byte:02x}" for byte in packed)


class Links:
    """Verbs on the links of the current thread's network namespace. Open it with `links()`."""

    def __init__(self, route: IPRoute) -> None:
        self._route = route

    def index(self, name: str) -> int | None:
        """The index of a link, or None where there is none of that name."""
        found = self._route.link_lookup(ifname=name)
        return int(found[0]) if found else None

    def names(self) -> list[str]:
        return [str(link.get("ifname")) for link in self._route.get_links()]

    def add_bridge(self, name: str, *, mac: str | None = None) -> None:
        """A learning bridge without spanning tree and without forwarding delay, up."""
        extra = {"address": mac} if mac else {}
        self._do(
            f"add the bridge {name}", "add", ifname=name, kind="bridge", br_stp_state=0, br_forward_delay=0, **extra
        )
        self.up(name)

    def add_veth(self, name: str, *, peer: str, peer_net_fd: int | None = None, peer_mac: str | None = None) -> None:
        """A pair of virtual cables' ends; the peer goes into another network namespace when one is given."""
        far: dict[str, object] = {"ifname": peer}
        if peer_net_fd is not None:
            far["net_ns_fd"] = peer_net_fd
        if peer_mac:
            far["address"] = peer_mac
        self._do(f"add the veth pair {name}, {peer}", "add", ifname=name, kind="veth", peer=far)

    def delete(self, name: str) -> None:
        """Delete a link (a veth's peer goes with it). Absent is fine."""
        index = self.index(name)
        if index is not None:
            self._do(f"delete {name}", "del", index=index)

    def up(self, name: str) -> None:
        self._do(f"set {name} up", "set", index=self._known(name), state="up")

    def down(self, name: str) -> None:
        self._do(f"set {name} down", "set", index=self._known(name), state="down")

    def wait_running(self, name: str, *, deadline_s: float = 2.0) -> None:
        """Wait until the kernel has taken notice of the carrier of a link that was set up.

        Raises:
            ToolFailed: it had no carrier after `deadline_s`.
        """
        until = time.monotonic() + deadline_s
        while Path(f"/sys/class/net/{name}/operstate").read_text().strip() != "up":
            if time.monotonic() > until:
                raise ToolFailed(f"the link {name} has no carrier after {deadline_s:g} s")
            time.sleep(0.001)

    def set_mac(self, name: str, mac: str) -> None:
        self._do(f"set the MAC of {name}", "set", index=self._known(name), address=mac)

    def set_arp(self, name: str, *, on: bool) -> None:
        """Whether the kernel speaks ARP on this link itself (a port of a bridge need not)."""
        noarp = 0x80
        self._do(f"set arp on {name}", "set", index=self._known(name), flags=0 if on else noarp, change=noarp)

    def enslave(self, name: str, *, bridge: str) -> None:
        """Make `name` a port of `bridge`: from now on it forwards."""
        self._do(f"make {name} a port of {bridge}", "set", index=self._known(name), master=self._known(bridge))

    def add_address(self, name: str, address: str, *, prefix: int) -> None:
        with _mapped(f"give {name} the address {address}/{prefix}"):
            self._route.addr("add", index=self._known(name), address=address, prefixlen=prefix)

    def add_default_route(self, gateway: str) -> None:
        with _mapped(f"route everything to {gateway}"):
            self._route.route("add", dst="default", gateway=gateway)

    def limit_rate(self, name: str, *, mbit: float) -> None:
        """Limit what leaves by `name` with a token bucket (tbf): burst 10 ms or 64 kB, queue 50 ms."""
        rate = int(mbit * 1_000_000 / 8)
        with _mapped(f"limit {name} to {mbit:g} Mbit/s"):
            self._route.tc(
                "add",
                "tbf",
                index=self._known(name),
                handle="0:",
                rate=rate,
                burst=max(65536, rate // 100),
                latency="50ms",
            )

    def _known(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise ToolFailed(f"there is no link '{name}' in this network namespace")
        return index

    def _do(self, what: str, verb: str, **arguments: object) -> None:
        with _mapped(what):
            self._route.link(verb, **arguments)


@contextmanager
def links() -> Iterator[Links]:
    """Open rtnetlink in the current thread's network namespace."""
    with IPRoute() as route:
        yield Links(route)


@contextmanager
def _mapped(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise ToolFailed(f"cannot {what}: {error}") from error
