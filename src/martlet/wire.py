"""Framed streams between two of the cluster's identities: mutual TLS, versioned, checksummed, in bounded memory.

A frame is a kind, a length, a checksum and at most one MiB. Blocking, for worker threads: one may send while another
receives. What frames mean is the business of `move` and of the agent's door.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import xxhash

from martlet.config import Tls
from martlet.errors import ToolFailed, Unreachable

PROTOCOL = 1
OLDEST_PROTOCOL = 1
FRAME_MAX_BYTES = 1 << 20
CONNECT_S = 5.0
DEADLINE_S = 60.0

_HEADER = struct.Struct("!2sHIQ")
_MAGIC = b"Ma"
_HELLO = 0
_SMALL = 16384

T = TypeVar("T")


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame each way: versions, and what the caller wants."""

    protocol: int
    oldest: int
    purpose: str = ""


class Channel:
    """One connection. Sending and receiving may happen in two threads; each alone is for one thread at a time.

    `peer` is the other side's identity, the first DNS name of its certificate.
    """

    def __init__(self, stream: ssl.SSLSocket, *, deadline_s: float = DEADLINE_S) -> None:
        stream.setblocking(False)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = stream
        self._deadline_s = deadline_s
        self._tls = threading.Lock()
        self._sending = threading.Lock()
        self._buffer = bytearray(FRAME_MAX_BYTES)
        self.bytes_sent = 0
        self.purpose = ""
        certificate: Any = stream.getpeercert() or {}
        names = [str(name) for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS"]
        self.peer = names[0] if names else "an unknown peer"

    def send(self, kind: int, payload: bytes | bytearray | memoryview = b"") -> None:
        """Send one frame; waits while the other side is slow.

        Raises:
            Unreachable: the connection broke, or nothing could be sent for the deadline.
        """
        header = _HEADER.pack(_MAGIC, kind, len(payload), xxhash.xxh3_64_intdigest(payload))
        with self._sending:
            if len(payload) <= _SMALL:
                self._write(header + bytes(payload))
            else:
                self._write(header)
                self._write(memoryview(payload))
            self.bytes_sent += len(header) + len(payload)

    def send_value(self, kind: int, value: object) -> None:
        """Send a value as MessagePack."""
        self.send(kind, msgspec.msgpack.encode(value))

    def receive(self, *, deadline_s: float | None = None) -> tuple[int, memoryview]:
        """The next frame: its kind and its payload, which is valid until the next call.

        Raises:
            Unreachable: the connection broke, or nothing came within the deadline.
            ToolFailed: the frame was damaged.
        """
        until = time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        header = self._read(_HEADER.size, until)
        magic, kind, length, checksum = _HEADER.unpack(header)
        if magic != _MAGIC or length > FRAME_MAX_BYTES:
            raise ToolFailed(f"damaged stream from {self.peer}: no frame where one should begin")
        payload = self._read(length, until)
        if xxhash.xxh3_64_intdigest(payload) != checksum:
            raise ToolFailed(f"damaged stream from {self.peer}: wrong checksum of a frame of {length} bytes")
        return kind, payload

    def fileno(self) -> int:
        """The connection's descriptor, to wait with others; readable says nothing of whole frames."""
        return self._stream.fileno()

    def close(self) -> None:
        """Break the connection; a thread that waits in it is woken with Unreachable."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def greet(self, purpose: str = "", *, patience_s: float = CONNECT_S) -> Hello:
        """Exchange versions; both sides call it first.

        Raises:
            ToolFailed: the two speak no common version.
        """
        self.send_value(_HELLO, Hello(protocol=PROTOCOL, oldest=OLDEST_PROTOCOL, purpose=purpose))
        kind, payload = self.receive(deadline_s=patience_s)
        hello = decode(payload, Hello)
        if kind != _HELLO or hello.protocol < OLDEST_PROTOCOL or hello.oldest > PROTOCOL:
            raise ToolFailed(
                f"{self.peer} speaks stream versions {hello.oldest} to {hello.protocol}, "
                f"this side {OLDEST_PROTOCOL} to {PROTOCOL}: upgrade the older one"
            )
        self.purpose = hello.purpose
        return hello

    def _write(self, data: bytes | memoryview) -> None:
        view, until = memoryview(data), time.monotonic() + self._deadline_s
        while view:
            try:
                with self._tls:
                    sent = self._stream.send(view)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError) as want:
                self._wait(until, write=isinstance(want, ssl.SSLWantWriteError))
                continue
            except (OSError, ValueError) as error:
                raise Unreachable(f"the stream to {self.peer} broke: {error}") from error
            view = view[sent:]
            until = time.monotonic() + self._deadline_s

    def _read(self, count: int, until: float) -> memoryview:
        view = memoryview(self._buffer)[:count]
        have = 0
        while have < count:
            try:
                with self._tls:
                    got = self._stream.recv_into(view[have:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as want:
                self._wait(until, write=isinstance(want, ssl.SSLWantWriteError))
                continue
            except (OSError, ValueError) as error:
                raise Unreachable(f"the stream from {self.peer} broke: {error}") from error
            if not got:
                raise Unreachable(f"the stream from {self.peer} ended")
            have += got
        return view

    def _wait(self, until: float, *, write: bool) -> None:
        try:
            fd = self._stream.fileno()
            poller = select.poll()
            poller.register(fd, select.POLLOUT if write else select.POLLIN)
            ready = poller.poll(max(0.0, until - time.monotonic()) * 1000)
        except (OSError, ValueError) as error:
            raise Unreachable(f"the stream to {self.peer} was closed") from error
        if not ready:
            raise Unreachable(f"{self.peer} did not move within the deadline")


def connect(
    address: str, port: int, tls: Tls, *, purpose: str, deadline_s: float = DEADLINE_S, patience_s: float = CONNECT_S
) -> Channel:
    """Open a channel to the agent's door at `address`; each step of it may take `patience_s`.

    Raises:
        Unreachable: nobody answers there.
        ToolFailed: it is not of this cluster, or speaks another version.
    """
    try:
        plain = socket.create_connection((address, port), timeout=patience_s)
        stream = context(tls, server=False).wrap_socket(plain)
    except ssl.SSLError as error:
        raise ToolFailed(f"{address}:{port} is not of this cluster: {error.reason}") from error
    except OSError as error:
        raise Unreachable(f"nobody answers at {address}:{port}: {error}") from error
    channel = Channel(stream, deadline_s=deadline_s)
    try:
        channel.greet(purpose, patience_s=patience_s)
    except BaseException:
        channel.close()
        raise
    return channel


def context(tls: Tls, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 in both directions with the cluster's authority as the only one trusted.

    Host names are not checked: addresses change hands in a cluster, and every certificate of the authority is one of
    its own; who may ask for what is decided by the identity (`Channel.peer`).
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(_readable(tls.ca))
    made.load_cert_chain(_readable(tls.cert), _readable(tls.key))
    return made


def decode(payload: memoryview, shape: type[T]) -> T:
    """A value that was sent by `send_value`.

    Raises:
        ToolFailed: it has another shape.
    """
    try:
        return msgspec.msgpack.decode(payload, type=shape)
    except msgspec.DecodeError as error:
        raise ToolFailed(f"damaged stream: not a {shape.__name__}: {error}") from error


def _readable(path: Path) -> str:
    if not path.exists():
        raise ToolFailed(f"the TLS file {path} is missing")
    return str(path)
