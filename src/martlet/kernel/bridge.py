"""The verbs on a bridge's ports that stand inside a freeze: open, shut, and where a MAC's frames go.

Speaks rtnetlink by itself, a message a verb in about 30 µs, where pyroute2 takes a millisecond (and cannot set a port's
state: its `state` means the link's own). Works in the current thread's network namespace.
Source: linux/if_link.h (IFLA_BRPORT_*), linux/neighbour.h, kernel net/bridge/br_netlink.c and br_fdb.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from enum import IntEnum

from martlet.errors import ToolFailed

_AF_BRIDGE = 7
_RTM_SETLINK, _RTM_NEWNEIGH, _RTM_DELNEIGH = 19, 28, 29
_REQUEST_ACK = 0x01 | 0x04
_REPLACE, _CREATE = 0x100, 0x400
_NLMSG_ERROR = 2
_NESTED = 0x8000
_IFLA_PROTINFO, _NDA_LLADDR = 12, 2
_NTF_MASTER, _NUD_NOARP = 0x04, 0x40


class PortState(IntEnum):
    """States of a bridge port (linux/if_bridge.h). A shut one forwards in neither direction and learns nothing."""

    SHUT = 0
    OPEN = 3


class _Attribute(IntEnum):
    STATE = 1
    LEARNING = 8
    UNICAST_FLOOD = 9


def set_port_state(port: str, state: PortState) -> None:
    """Open or shut a bridge port, both directions at once.

    Raises:
        ToolFailed: there is no such link, it is no port, or its carrier is off.
    """
    _set_port(port, {_Attribute.STATE: int(state)}, f"make the port {port} {state.name.lower()}")


def deliver_only_known(port: str) -> None:
    """A port that gets the frames of its own forwarding entries and broadcasts, nothing unknown, and learns nothing."""
    _set_port(port, {_Attribute.LEARNING: 0, _Attribute.UNICAST_FLOOD: 0}, f"set the flooding of the port {port}")


def point_mac(mac: str, *, port: str) -> None:
    """Send frames for `mac` to `port` from now on, whatever the bridge had learned."""
    _neighbour(_RTM_NEWNEIGH, _REPLACE | _CREATE, mac, port, f"point {mac} at {port}")


def forget_mac(mac: str, *, port: str) -> None:
    """Drop the forwarding entry for `mac` at `port`. An absent entry, or link, is fine."""
    with contextlib.suppress(FileNotFoundError):
        _neighbour(_RTM_DELNEIGH, 0, mac, port, f"forget {mac} at {port}")


def forget_mac_everywhere(mac: str, *, bridge: str) -> None:
    """Drop the bridge's forwarding entries for `mac`: one we set follows the MAC to other ports when it moves."""
    with contextlib.suppress(FileNotFoundError):
        for port in os.listdir(f"/sys/class/net/{bridge}/brif"):
            forget_mac(mac, port=port)


def _set_port(port: str, values: dict[_Attribute, int], what: str) -> None:
    nested = b"".join(_attribute(key, struct.pack("B", value)) for key, value in values.items())
    header = struct.pack("=BxHiII", _AF_BRIDGE, 0, _index(port), 0, 0)
    try:
        _transact(_RTM_SETLINK, 0, header + _attribute(_IFLA_PROTINFO | _NESTED, nested))
    except OSError as error:
        raise ToolFailed(f"cannot {what}: {error.strerror}") from error


def _neighbour(kind: int, flags: int, mac: str, port: str, what: str) -> None:
    header = struct.pack("=BxxxiHBB", _AF_BRIDGE, _index(port), _NUD_NOARP, _NTF_MASTER, 0)
    try:
        _transact(kind, flags, header + _attribute(_NDA_LLADDR, bytes.fromhex(mac.replace(":", ""))))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ToolFailed(f"cannot {what}: {error.strerror}") from error


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise FileNotFoundError(errno.ENOENT, f"there is no link '{name}' in this network namespace") from error


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _transact(kind: int, flags: int, body: bytes) -> None:
    """Send one rtnetlink request and wait for the kernel's acknowledgement; its error is raised as OSError."""
    message = struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK | flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as route:
        route.sendto(message, (0, 0))
        answer = route.recv(65536)
    answer_kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
    if answer_kind != _NLMSG_ERROR or code != 0:
        raise OSError(-code, os.strerror(-code))
