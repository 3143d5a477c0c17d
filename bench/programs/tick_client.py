"""In the client machine: watch a tick server, check its numbers, and tell how long the ticks were away.

Times are CLOCK_MONOTONIC_RAW of this machine. On standard input `mark NAME` notes the time and opens a window; when
the window has passed (and a tick has come after it) one JSON object is printed. At the end of the input, or when the
server is lost, what was seen in all is printed. With `--keys` a byte is sent in each long silence, on a connection of
its own, and the window tells when its answer came, counted from the first tick after the silence.
"""

from __future__ import annotations

import argparse
import os
import selectors
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.programs.channels import patient_connection
from bench.programs.windows import MS, Window, now, say

SILENCE_PERIODS = 5
"""So many missing ticks make a silence in which a key is pressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    sent_ns: int
    answered_ns: int


@dataclass(slots=True, kw_only=True)
class Watcher:
    """What has been seen; fed with lines and times, so that it can be tried without a clock or a socket."""

    period_ms: float
    last_ns: int
    next_number: int = 0
    windows: list[Window] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    longest_ns: int = 0
    first_seen: bool = False
    key_sent_ns: int = 0
    """When the key was pressed that has no answer yet; 0 for none."""

    def line(self, line: bytes, now_ns: int) -> None:
        """Check one complete line of the server."""
        wanted = b"tick %d" % self.next_number
        if line != wanted and len(self.errors) < 20:
            self.errors.append(f"wanted {wanted.decode()!r}, got {line.decode(errors='replace')!r}")
        self.next_number += 1
        if self.first_seen:
            self.longest_ns = max(self.longest_ns, now_ns - self.last_ns)
            for window in self.windows:
                window.arrival(self.last_ns, now_ns)
        self.first_seen = True
        self.last_ns = now_ns

    def answered(self, now_ns: int) -> None:
        """The pressed key's answer has come."""
        self.keys.append(Key(sent_ns=self.key_sent_ns, answered_ns=now_ns))
        self.key_sent_ns = 0

    def done(self) -> Iterable[dict[str, Any]]:
        """The reports of the windows that a tick has closed."""
        closed = [window for window in self.windows if self.last_ns >= window.end_ns]
        self.windows = [window for window in self.windows if self.last_ns < window.end_ns]
        return [self.report(window) for window in closed]

    def report(self, window: Window) -> dict[str, Any]:
        before_ns, after_ns = window.longest
        gap_ms = max(0.0, window.longest_ms - self.period_ms)
        # A key that was pressed in the longest silence and answered; it may be answered before the first tick.
        keys = [key for key in self.keys if before_ns < key.sent_ns < after_ns]
        return {
            "mark": window.name,
            "gap_ms": round(gap_ms, 3),
            "gap_from_mark_ms": round((before_ns - window.start_ns) / MS, 3),
            "ticks": window.arrivals,
            "key_sent_after_ms": round((keys[0].sent_ns - before_ns) / MS, 3) if keys else None,
            "key_unanswered": before_ns < self.key_sent_ns < after_ns,
            "key_late_ms": round((keys[0].answered_ns - after_ns) / MS, 3) if keys else None,
            "errors": self.errors,
        }

    def summary(self) -> dict[str, Any]:
        longest_ms = max(0.0, self.longest_ns / MS - self.period_ms)
        return {"end": True, "ticks": self.next_number, "longest_gap_ms": round(longest_ms, 3), "errors": self.errors}


class Program:
    """Sockets and standard input around a `Watcher`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.watcher = Watcher(period_ms=options.period_ms, last_ns=now())
        self.selector = selectors.DefaultSelector()
        self.ticks = self.connect()
        self.key = self.connect() if options.keys else None
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self.buffers: dict[int, bytes] = {}
        self.open = True

    def connect(self) -> socket.socket:
        address = (self.options.host, self.options.port)
        connection = patient_connection(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        connection.setblocking(False)
        self.selector.register(connection, selectors.EVENT_READ)
        return connection

    def run(self) -> None:
        silence_s = SILENCE_PERIODS * self.options.period_ms / 1000
        while self.open:
            events = self.selector.select(silence_s / 4)
            now_ns = now()
            for key, _ in events:
                self.read(key.fd, now_ns)
            if (
                self.key is not None
                and not self.watcher.key_sent_ns
                and now_ns - self.watcher.last_ns > silence_s * 1e9
            ):
                self.watcher.key_sent_ns = now_ns
                self.key.send(b"k")
            for report in self.watcher.done():
                say(report)
        say(self.watcher.summary())

    def read(self, fd: int, now_ns: int) -> None:
        data = os.read(fd, 65536)
        if not data:
            if fd != sys.stdin.fileno():
                self.watcher.errors.append("the server closed the connection")
            self.open = False
            return
        *lines, self.buffers[fd] = (self.buffers.get(fd, b"") + data).split(b"\n")
        for line in lines:
            self.line(fd, line, now_ns)

    def line(self, fd: int, line: bytes, now_ns: int) -> None:
        if fd == self.ticks.fileno():
            self.watcher.line(line, now_ns)
        elif fd == sys.stdin.fileno():
            self.mark(line.decode(), now_ns)
        elif line.startswith(b"key "):
            self.watcher.answered(now_ns)

    def mark(self, words: str, now_ns: int) -> None:
        _, name = words.split(" ", 1)
        end_ns = now_ns + int(self.options.window_s * 1e9)
        self.watcher.windows.append(Window(name=name, start_ns=now_ns, end_ns=end_ns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--period-ms", type=float, default=5.0)
    parser.add_argument("--window-s", type=float, default=5.0)
    parser.add_argument("--keys", action="store_true")
    try:
        program = Program(parser.parse_args())
        say({"ready": True})
        program.run()
    except OSError as error:
        say({"end": True, "errors": [f"the tick server was lost: {error}"]})
        return 1
    return 1 if program.watcher.errors else 0


if __name__ == "__main__":
    sys.exit(main())
