"""In the client machine: the other end of the TCP streams of `everything`, checking every byte.

On standard input `status NAME` prints one JSON object with what both sides see; the end of the input ends it. What
must stay the same over a move stands under `same`, what must grow under `advance`.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

from bench.programs.channels import Channel, Errors, Loop, ask_for_stream, patient_connection


class Client:
    """The other end of the session's TCP streams, in the client machine."""

    def __init__(self, address: tuple[str, int], port: int | None) -> None:
        self.address = address
        self.errors = Errors()
        self.loop = Loop(self.errors)
        self.clock_ns = time.monotonic_ns()
        self.silence_ns = 0
        if port is not None:
            self.open_streams(port)
        self.loop.watch(sys.stdin.fileno(), self.command)

    def open_streams(self, port: int) -> None:
        """One established by the session, one by this client."""
        with socket.create_server(("", port)) as listener:
            listener.settimeout(60)
            self.stream("tcp out", listener.accept()[0])
        self.stream("tcp in", ask_for_stream(self.address))

    def stream(self, name: str, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        fd = connection.detach()
        channel = Channel(name, fd, fd, mine="client", theirs="session")
        self.loop.add(channel)
        self.loop.ready[fd] = lambda: self.receive(channel)

    def receive(self, channel: Channel) -> None:
        now_ns = time.monotonic_ns()
        self.silence_ns, self.clock_ns = max(self.silence_ns, now_ns - self.clock_ns), now_ns
        self.loop.guard(channel, channel.receive)

    def command(self) -> None:
        """`status NAME` on standard input; its end ends the client."""
        line = sys.stdin.readline()
        if not line:
            sys.exit(1 if self.errors.lines else 0)
        with patient_connection(self.address) as connection:
            connection.sendall(b"status\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        silence_ns, self.silence_ns = self.silence_ns, 0
        mine = {"advance": self.loop.counters(), "silence_ms": silence_ns / 1e6, "errors": self.errors.lines}
        print(json.dumps({"name": line.split()[1], "client": mine, **json.loads(answer)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--listen", type=int, help="port to which the session connects; no streams without")
    options = parser.parse_args()
    client = Client((options.host, options.port), options.listen)
    print(json.dumps({"ready": True}), flush=True)
    client.loop.run()


if __name__ == "__main__":
    main()
