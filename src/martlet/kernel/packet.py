"""Frames off and onto a link, whole: packet sockets and TAP devices, both with virtio-net headers.

A frame here is always the 10-byte virtio-net header and the Ethernet frame behind it: veth frames can be 36 kB large
(segmentation offload) with an unfinished checksum, and lose their meaning without the header.
Source: packet(7), kernel Documentation/networking/tuntap.rst, linux/virtio_net.h.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from martlet.errors import ToolFailed
from martlet.kernel import namespace

FRAME_MAX_BYTES = 10 + 65536 + 64
RECEIVE_BUFFER_BYTES = 8 * 1024 * 1024
PLAIN_HEADER = bytes(10)

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 15, 23
_SO_RCVBUFFORCE = 33
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM_TSO = 0x01 | 0x02 | 0x04 | 0x08
_ETH_P_ARP, _ARP_REQUEST = 0x0806, 1


class PacketSocket:
    """A packet socket on one link. It sends at once, and receives only after `listen`."""

    def __init__(self, link: str) -> None:
        """Made in the current thread's network namespace, and staying there.

        Raises:
            ToolFailed: there is no such link.
        """
        self._link = link
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
            self._socket.setblocking(False)
            self._socket.bind((link, 0))
        except OSError as error:
            self._socket.close()
            raise ToolFailed(f"cannot open a packet socket on '{link}': {error.strerror}") from error

    def listen(self) -> None:
        """From now on keep what arrives at the link (not what leaves by it)."""
        self._socket.bind((self._link, _ETH_P_ALL))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """The next frame, or None when there is none now."""
        try:
            return self._socket.recv(FRAME_MAX_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.ENETDOWN:
                return None
            raise

    def send(self, frame: bytes) -> bool:
        """Send a frame out of the link; False where the link would not take it (full, down): the network may lose."""
        try:
            self._socket.send(frame)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()


def packet_socket_in(net: Path, link: str) -> PacketSocket:
    """A packet socket on a link of another network namespace."""
    return namespace.within(namespace.Namespace.NET, net, lambda: PacketSocket(link))


class Tap:
    """A TAP device: what the kernel sends out of it, `receive` returns. It is gone when closed, by a crash too."""

    def __init__(self, name: str) -> None:
        """Made in the current thread's network namespace, down.

        Raises:
            ToolFailed: /dev/net/tun is missing, or the name is taken.
        """
        try:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ToolFailed(f"cannot open /dev/net/tun: {error.strerror}; load the module 'tun'") from error
        self.name = name
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _TUN_F_CSUM_TSO)
        except OSError as error:
            os.close(self._fd)
            raise ToolFailed(f"cannot make the TAP device '{name}': {error.strerror}") from error

    def fileno(self) -> int:
        return self._fd

    def receive(self) -> bytes | None:
        """The next frame, or None when there is none now."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._fd, FRAME_MAX_BYTES)
        return None

    def close(self) -> None:
        os.close(self._fd)


def arp_announcement(mac: str, address: str) -> bytes:
    """A gratuitous ARP request (RFC 5227, section 3): `address` is at `mac`; the frame teaches switches its port."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    protocol = socket.inet_aton(address)
    ethernet = b"\xff" * 6 + hardware + struct.pack("!H", _ETH_P_ARP)
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, _ARP_REQUEST) + hardware + protocol + bytes(6) + protocol
    return PLAIN_HEADER + ethernet + arp
