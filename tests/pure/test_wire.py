"""Frames between two identities of a cluster: whole or an error, in bounded memory, and for nobody else.

The real `Channel` over the loopback device, each end in threads of this process.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
import trustme
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet import wire
from martlet.config import Tls
from martlet.errors import MartletError, ToolFailed, Unreachable
from martlet.wire import FRAME_MAX_BYTES, OLDEST_PROTOCOL, PROTOCOL, Channel

DEADLINE_S = 10.0
SIZES = st.one_of(
    st.integers(0, 3000), st.sampled_from([16383, 16384, 16385, 70_000, FRAME_MAX_BYTES - 1, FRAME_MAX_BYTES])
)
BEYOND_BUFFERS = 64
"""Frames of a MiB: more than two sockets keep for a reader that does not read."""


def identity(folder: Path, authority: trustme.CA, name: str) -> Tls:
    folder.mkdir(parents=True, exist_ok=True)
    tls = Tls(ca=folder / "ca.pem", cert=folder / "cert.pem", key=folder / "key.pem")
    issued = authority.issue_cert(name)
    authority.cert_pem.write_to_path(tls.ca)
    tls.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(tls.key)
    return tls


class Pki:
    """Two identities of one authority, and a stranger of another that calls itself the same."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.one = identity(folder / "1", authority, "agent.node1")
        self.two = identity(folder / "2", authority, "agent.node2")
        self.stranger = identity(folder / "3", trustme.CA(), "agent.node1")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@contextmanager
def streams(client: Tls, server: Tls) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Both ends of one TLS connection, its handshake done."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(max_workers=1) as pool:
        there = pool.submit(lambda: wire.context(server, server=True).wrap_socket(accept(listener), server_side=True))
        plain = socket.create_connection(listener.getsockname(), timeout=DEADLINE_S)
        here = wire.context(client, server=False).wrap_socket(plain)
        with here, there.result(DEADLINE_S) as other:
            yield here, other


def accept(listener: socket.socket) -> socket.socket:
    plain, _ = listener.accept()
    plain.settimeout(DEADLINE_S)
    return plain


@contextmanager
def channels(pki: Pki) -> Iterator[tuple[Channel, Channel]]:
    with streams(pki.one, pki.two) as (here, there):
        one, two = Channel(here, deadline_s=DEADLINE_S), Channel(there, deadline_s=DEADLINE_S)
        try:
            yield one, two
        finally:
            one.close()
            two.close()


def all_of(*jobs: Callable[[], object]) -> None:
    """Run all jobs at once; the first error of any is raised."""
    with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
        for future in [pool.submit(job) for job in jobs]:
            future.result(6 * DEADLINE_S)


def frame(kind: int, payload: bytes, *, checksum: int | None = None, magic: bytes = b"Ma") -> bytes:
    """A frame as it stands on the wire."""
    right = xxhash.xxh3_64_intdigest(payload)
    return struct.pack("!2sHIQ", magic, kind, len(payload), right if checksum is None else checksum) + payload


@given(there=st.lists(SIZES, max_size=8), back=st.lists(SIZES, max_size=8))
@settings(deadline=None, max_examples=20)
def test_frames_of_any_size_both_ways_at_once(there: list[int], back: list[int]) -> None:
    def send(channel: Channel, sizes: Sequence[int]) -> None:
        for kind, size in enumerate(sizes):
            channel.send(kind, bytes([kind + 1]) * size)

    def take(channel: Channel, sizes: Sequence[int]) -> None:
        for number, size in enumerate(sizes):
            kind, payload = channel.receive()
            assert (kind, len(payload)) == (number, size)
            assert payload == bytes([number + 1]) * size

    with channels(kept_pki()) as (one, two):
        all_of(lambda: send(one, there), lambda: send(two, back), lambda: take(two, there), lambda: take(one, back))
        assert one.bytes_sent == sum(there) + 16 * len(there)


_kept: list[Pki] = []


def kept_pki() -> Pki:
    return _kept[0]


@pytest.fixture(scope="module", autouse=True)
def keep_pki(pki: Pki) -> Iterator[None]:
    """For tests of many examples, which may not have fixtures of one example's length."""
    _kept.append(pki)
    yield
    _kept.clear()


def test_both_sides_know_each_other(pki: Pki) -> None:
    with channels(pki) as (one, two):
        all_of(lambda: one.greet("move"), two.greet)
        assert (one.peer, two.peer) == ("agent.node2", "agent.node1")
        assert (one.purpose, two.purpose) == ("", "move")


@pytest.mark.parametrize(
    "damaged",
    [
        frame(7, b"payload", checksum=1),
        frame(7, b"payload").replace(b"pay", b"pax"),
        frame(7, b"payload", magic=b"Mb"),
        struct.pack("!2sHIQ", b"Ma", 7, FRAME_MAX_BYTES + 1, 0),
    ],
    ids=["checksum", "byte", "beginning", "length"],
)
def test_damage_is_found(pki: Pki, damaged: bytes) -> None:
    with streams(pki.one, pki.two) as (here, there):
        channel = Channel(there, deadline_s=DEADLINE_S)
        here.sendall(frame(6, b"whole") + damaged)
        assert bytes(channel.receive()[1]) == b"whole"
        with pytest.raises(ToolFailed, match=r"damaged stream from agent\.node1"):
            channel.receive()


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 22])
def test_a_stream_that_ends_in_a_frame_is_a_lost_peer(pki: Pki, cut: int) -> None:
    with streams(pki.one, pki.two) as (here, there):
        channel = Channel(there, deadline_s=DEADLINE_S)
        here.sendall(frame(7, b"payload")[:cut])
        here.shutdown(socket.SHUT_RDWR)
        with pytest.raises(Unreachable):
            channel.receive()


@pytest.mark.parametrize(
    ("protocol", "oldest", "understood"),
    [
        (PROTOCOL, OLDEST_PROTOCOL, True),
        (PROTOCOL + 7, PROTOCOL, True),
        (PROTOCOL + 7, PROTOCOL + 1, False),
        (OLDEST_PROTOCOL - 1, 0, False),
    ],
)
def test_versions_must_overlap(pki: Pki, protocol: int, oldest: int, *, understood: bool) -> None:
    with streams(pki.one, pki.two) as (here, there):
        channel = Channel(there, deadline_s=DEADLINE_S)
        here.sendall(frame(0, msgspec.msgpack.encode({"protocol": protocol, "oldest": oldest})))
        if understood:
            assert channel.greet().protocol == protocol
        else:
            with pytest.raises(ToolFailed, match="upgrade the older one"):
                channel.greet()


def test_a_value_of_another_shape_is_damage() -> None:
    with pytest.raises(ToolFailed, match="not a Hello"):
        wire.decode(memoryview(msgspec.msgpack.encode([1, 2])), wire.Hello)


@contextmanager
def door(tls: Tls) -> Iterator[int]:
    """A listener that greets one caller, as an agent's door does; its port."""

    def serve() -> None:
        with suppress(OSError, MartletError):
            channel = Channel(wire.context(tls, server=True).wrap_socket(accept(listener), server_side=True))
            channel.greet()
            channel.send(1, b"come in")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(DEADLINE_S)
        assert not thread.is_alive()


def test_an_identity_of_the_cluster_is_let_in(pki: Pki) -> None:
    with door(pki.two) as port:
        channel = wire.connect("127.0.0.1", port, pki.one, purpose="move")
        assert bytes(channel.receive()[1]) == b"come in"
        channel.close()


def test_a_door_of_another_authority_is_not_entered(pki: Pki) -> None:
    with door(pki.stranger) as port, pytest.raises(ToolFailed, match="not of this cluster"):
        wire.connect("127.0.0.1", port, pki.one, purpose="move")


def test_a_stranger_is_not_let_in(pki: Pki) -> None:
    """It knows the cluster's authority, which is no secret, but has no certificate of it."""
    knows = Tls(ca=pki.one.ca, cert=pki.stranger.cert, key=pki.stranger.key)
    with door(pki.two) as port, pytest.raises(MartletError):
        wire.connect("127.0.0.1", port, knows, purpose="move").receive()


def test_a_missing_certificate_is_named(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match=r"missing\.pem is missing"):
        wire.context(Tls(ca=pki.one.ca, cert=tmp_path / "missing.pem", key=pki.one.key), server=False)


def test_nobody_at_the_door_is_unreachable(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="nobody answers"):
        wire.connect("127.0.0.1", port, pki.one, purpose="move")


def test_a_slow_reader_holds_the_writer_back_and_no_memory_grows(pki: Pki) -> None:
    payload = bytes(FRAME_MAX_BYTES)

    def send() -> None:
        for _ in range(BEYOND_BUFFERS):
            one.send(1, payload)

    with channels(pki) as (one, two), ThreadPoolExecutor(max_workers=1) as pool:
        tracemalloc.start()
        try:
            done = pool.submit(send)
            held = wait_until_still(lambda: one.bytes_sent)
            assert not done.done()
            assert 0 < held < BEYOND_BUFFERS * FRAME_MAX_BYTES // 2
            for _ in range(BEYOND_BUFFERS):
                assert len(two.receive()[1]) == FRAME_MAX_BYTES
            done.result(DEADLINE_S)
            assert tracemalloc.get_traced_memory()[1] < 4 * FRAME_MAX_BYTES
        finally:
            tracemalloc.stop()


def wait_until_still(value: Callable[[], int]) -> int:
    """What `value` is when it has been the same for a while."""
    last, until = -1, time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        time.sleep(0.3)
        now = value()
        if now == last and now:
            return now
        last = now
    raise AssertionError("the writer never came to rest")


def test_silence_ends_at_the_deadline(pki: Pki) -> None:
    with channels(pki) as (one, _):
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="did not move within the deadline"):
            one.receive(deadline_s=0.2)
        assert 0.2 <= time.monotonic() - begun < DEADLINE_S


def test_closing_wakes_whoever_waits(pki: Pki) -> None:
    with channels(pki) as (one, _), ThreadPoolExecutor(max_workers=1) as pool:
        waiting = pool.submit(one.receive, deadline_s=6 * DEADLINE_S)
        time.sleep(0.2)
        one.close()
        with pytest.raises(Unreachable):
            waiting.result(DEADLINE_S)


def test_two_writers_do_not_mix_their_frames(pki: Pki) -> None:
    def send(kind: int) -> None:
        for _ in range(20):
            one.send(kind, bytes([kind]) * 40_000)

    def take() -> None:
        for _ in range(40):
            kind, payload = two.receive()
            assert payload == bytes([kind]) * 40_000
            order.append(kind)

    order: list[int] = []
    with channels(pki) as (one, two):
        all_of(lambda: send(1), lambda: send(2), take)
    assert sorted(order) == [1] * 20 + [2] * 20
