"""The caller's end of `session exec`: this terminal, or these pipes, joined to a program inside a session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from types import FrameType

from martlet import wire
from martlet.config import Tls
from martlet.errors import BY_EXIT, MartletError, Unreachable
from martlet.session.remote import PURPOSE_EXEC, Ended, Exec, Failed, Kind, Size
from martlet.wire import Channel

CHUNK_BYTES = 64 * 1024
IDLE_S = 7 * 86400.0
STDIN, STDOUT, STDERR = 0, 1, 2


def execute(address: str, port: int, tls: Tls, *, session: str, argv: Sequence[str]) -> int:
    """Run `argv` inside `session` through the door of its node's agent; returns its exit code.

    Raises:
        MartletError: it could not be run, or the stream broke.
    """
    channel = wire.connect(address, port, tls, purpose=PURPOSE_EXEC)
    terminal = os.isatty(STDIN) and os.isatty(STDOUT)
    try:
        size = _size() if terminal else None
        wanted = Exec(session=session, argv=tuple(argv), term=os.environ.get("TERM", "") if terminal else "", size=size)
        channel.send_value(Kind.EXEC, wanted)
        with contextlib.ExitStack() as stack:
            if terminal:
                stack.enter_context(_raw())
                stack.enter_context(_following_size(channel))
            threading.Thread(target=_send_input, args=(channel,), daemon=True).start()
            return _show_output(channel)
    finally:
        channel.close()


def _show_output(channel: Channel) -> int:
    while True:
        kind, payload = channel.receive(deadline_s=IDLE_S)
        match kind:
            case Kind.STDOUT:
                _write(STDOUT, payload)
            case Kind.STDERR:
                _write(STDERR, payload)
            case Kind.ENDED:
                return wire.decode(payload, Ended).code
            case Kind.FAILED:
                failed = wire.decode(payload, Failed)
                raise BY_EXIT[failed.exit](failed.error, reasons=failed.reasons)
            case _:
                raise MartletError(f"the agent sent a frame of kind {kind}, which this version does not know")


def _send_input(channel: Channel) -> None:
    with contextlib.suppress(Unreachable, OSError):
        while data := os.read(STDIN, CHUNK_BYTES):
            channel.send(Kind.STDIN, data)
        channel.send(Kind.STDIN_END)


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _size() -> Size:
    columns, rows = shutil.get_terminal_size()
    return Size(rows=rows, columns=columns)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Let every key through to the program, Ctrl-C too."""
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
        sys.stdout.flush()


@contextlib.contextmanager
def _following_size(channel: Channel) -> Iterator[None]:
    def tell(_number: int, _frame: FrameType | None) -> None:
        channel.send_value(Kind.RESIZE, _size())

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
