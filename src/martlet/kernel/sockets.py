"""What a network namespace's TCP sockets are doing, from the kernel's socket diagnosis.

Only reads. Source: sock_diag(7), linux/inet_diag.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_DUMP = 0x01 | 0x300
_DONE, _ERROR = 3, 2


class TcpState(IntEnum):
    """include/net/tcp_states.h."""

    ESTABLISHED = 1
    SYN_RECV = 3
    LISTEN = 10
    NEW_SYN_RECV = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSocket:
    """`waiting` is, of a listener, how many connections it has not yet accepted."""

    state: TcpState
    local_port: int
    waiting: int


class Diagnosis:
    """A diagnosis socket: it answers for the network namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        self._socket.settimeout(2.0)

    def unaccepted(self) -> list[TcpSocket]:
        """Connections that exist and that no process has yet: half-open ones, and those in a listener's queue."""
        states = (1 << TcpState.LISTEN) | (1 << TcpState.SYN_RECV) | (1 << TcpState.NEW_SYN_RECV)
        found = [sock for family in (socket.AF_INET, socket.AF_INET6) for sock in self._dump(family, states)]
        return [sock for sock in found if sock.state != TcpState.LISTEN or sock.waiting > 0]

    def close(self) -> None:
        self._socket.close()

    def _dump(self, family: int, states: int) -> Iterator[TcpSocket]:
        request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, states)
        header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _DUMP, 1, 0)
        self._socket.send(header + request)
        while True:
            data = self._socket.recv(65536)
            for kind, body in _messages(data):
                if kind in (_DONE, _ERROR):
                    return
                yield _parse(body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def _parse(body: bytes) -> TcpSocket:
    """struct inet_diag_msg: family, state, timer, retrans, id (48 bytes, ports first), expires, rqueue, …"""
    state = body[1]
    port = struct.unpack_from("!H", body, 4)[0]
    waiting = struct.unpack_from("=I", body, 56)[0]
    return TcpSocket(state=TcpState(state), local_port=port, waiting=waiting)
