"""Inside a session: send each TCP client a numbered line every few milliseconds, and answer each byte it sends.

Knows nothing of moves; what the numbers and the pauses mean is the client's to judge.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import selectors
import socket
import time

PAGE_BYTES = 4096


class Client:
    """One connection: its ticks are numbered from 0; bytes that do not fit into the socket wait here."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.number = 0
        self.pending = b""

    def tick(self) -> None:
        self.send(b"tick %d\n" % self.number)
        self.number += 1

    def answer(self) -> bool:
        """Answer what came; False when the client has gone."""
        try:
            data = self.connection.recv(4096)
        except BlockingIOError:
            return True
        if data:
            self.send(b"".join(b"key %d\n" % byte for byte in data))
        return bool(data)

    def send(self, data: bytes) -> None:
        self.pending += data
        with contextlib.suppress(BlockingIOError):
            self.pending = self.pending[self.connection.send(self.pending) :]


def touch(megabytes: int) -> mmap.mmap | None:
    """Private memory of that size, each page with other content so that none can be shared or left out."""
    if not megabytes:
        return None
    memory = mmap.mmap(-1, megabytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(memory), PAGE_BYTES):
        memory[page : page + 8] = (page + 1).to_bytes(8, "little")
    return memory


class Server:
    """The listener and its clients."""

    def __init__(self, port: int, period_s: float) -> None:
        self.period_s = period_s
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("", port), backlog=16)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.clients: dict[int, Client] = {}

    def run(self) -> None:
        due_s = time.monotonic()
        while True:
            for key, _ in self.selector.select(max(0.0, due_s - time.monotonic())):
                self.ready(key.fd)
            if time.monotonic() >= due_s:
                self.tick()
                due_s = max(due_s + self.period_s, time.monotonic())

    def ready(self, fd: int) -> None:
        if fd == self.listener.fileno():
            self.accept()
            return
        with contextlib.suppress(ConnectionError):
            if self.clients[fd].answer():
                return
        self.forget(fd)

    def accept(self) -> None:
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.clients[connection.fileno()] = Client(connection)
        self.selector.register(connection, selectors.EVENT_READ)

    def tick(self) -> None:
        for fd, client in list(self.clients.items()):
            try:
                client.tick()
            except ConnectionError:
                self.forget(fd)

    def forget(self, fd: int) -> None:
        client = self.clients.pop(fd)
        self.selector.unregister(client.connection)
        client.connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--period-ms", type=float, default=5.0)
    parser.add_argument("--mb", type=int, default=0, help="megabytes of memory to fill")
    options = parser.parse_args()
    memory = touch(options.mb)
    Server(options.port, options.period_ms / 1000).run()
    del memory


if __name__ == "__main__":
    main()
