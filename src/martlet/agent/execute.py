"""Runs a program inside a session for somebody at a terminal: with the session's rights, limits and namespaces.

It is the session's child in everything but parentage, which is why the session cannot move while it runs
(`session.inspect`, reason exec_running). Blocking, in the door's thread of that stream.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import tempfile
import termios
import threading
from collections.abc import Callable

from martlet import wire
from martlet.errors import MartletError, NotFound, Unreachable
from martlet.process import missing
from martlet.session import launch
from martlet.session.place import Place
from martlet.session.remote import Ended, Exec, Failed, Kind, Size
from martlet.wire import Channel

CHUNK_BYTES = 64 * 1024
IDLE_S = 7 * 86400.0
GRACE_S = 2.0
ENTER = ("--mount", "--uts", "--ipc", "--net", "--pid", "--time")
RIGHTS = ("--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")


def serve(channel: Channel, find: Callable[[str], Place]) -> None:
    """Run what the caller asks for; returns when it has ended, or the caller has gone."""
    _, payload = channel.receive()
    wanted = wire.decode(payload, Exec)
    try:
        place = find(wanted.session)
        running = _Running(place, wanted, channel)
    except MartletError as error:
        channel.send_value(Kind.FAILED, Failed(exit=error.exit, error=error.message, reasons=error.reasons))
        return
    running.relay()


def arguments(place: Place, init: int, wanted: Exec, lock: str) -> list[str]:
    """The command line that becomes the program.

    `flock` waits until we have put it into the session's cgroup, and then becomes `nsenter`, which enters the
    session's namespaces, and `setpriv`, which gives up every right.
    """
    spec = place.spec
    terminal = ["setsid", "--ctty"] if wanted.size is not None else []
    return [
        "flock", "--no-fork", lock, *terminal,
        "nsenter", f"--target={init}", *ENTER, "--",
        "setpriv", f"--reuid={spec.uid}", f"--regid={spec.gid}", *RIGHTS,
        "env", f"--chdir={spec.home}", *wanted.argv,
    ]  # fmt: skip


class _Running:
    """One program. Made running."""

    def __init__(self, place: Place, wanted: Exec, channel: Channel) -> None:
        init = place.init_pid()
        if init is None:
            raise NotFound(f"the session {place.spec.id} has no process to go beside")
        self._channel = channel
        self._outputs: dict[Kind, int] = {}
        theirs = self._terminal(wanted.size) if wanted.size is not None else self._pipes()
        env = launch.environment(place.spec) | ({"TERM": wanted.term} if wanted.term else {})
        try:
            with tempfile.NamedTemporaryFile(dir=place.folder) as gate:
                fcntl.flock(gate, fcntl.LOCK_EX)
                self._process = subprocess.Popen(
                    arguments(place, init, wanted, gate.name),
                    stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], env=env, start_new_session=wanted.size is None,
                )  # fmt: skip
                place.group.attach(self._process.pid)
                fcntl.flock(gate, fcntl.LOCK_UN)
        except FileNotFoundError as error:
            raise missing("flock") from error
        finally:
            for fd in set(theirs):
                os.close(fd)

    def relay(self) -> None:
        """Carry bytes both ways until the program ends."""
        readers = [threading.Thread(target=self._send_output, args=item) for item in self._outputs.items()]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._take_input, daemon=True).start()
        code = self._process.wait()
        for reader in readers:
            reader.join(GRACE_S)
        with contextlib.suppress(MartletError):
            self._channel.send_value(Kind.ENDED, Ended(code=code if code >= 0 else 128 - code))

    def _pipes(self) -> tuple[int, int, int]:
        stdin, self._input = os.pipe()
        self._outputs[Kind.STDOUT], stdout = os.pipe()
        self._outputs[Kind.STDERR], stderr = os.pipe()
        return stdin, stdout, stderr

    def _terminal(self, size: Size) -> tuple[int, int, int]:
        ours, theirs = pty.openpty()
        self._input = self._outputs[Kind.STDOUT] = ours
        self._resize(size)
        return theirs, theirs, theirs

    def _resize(self, size: Size) -> None:
        fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))

    def _send_output(self, kind: Kind, fd: int) -> None:
        try:
            while data := os.read(fd, CHUNK_BYTES):
                self._channel.send(kind, data)
        except OSError:  # a terminal's end reads as EIO
            return
        except MartletError:
            self._end()

    def _take_input(self) -> None:
        try:
            while True:
                kind, payload = self._channel.receive(deadline_s=IDLE_S)
                if kind == Kind.STDIN:
                    os.write(self._input, payload)
                elif kind == Kind.STDIN_END:
                    os.close(self._input)
                elif kind == Kind.RESIZE:
                    self._resize(wire.decode(payload, Size))
        except Unreachable:
            self._end()
        except OSError:
            return

    def _end(self) -> None:
        """The caller has gone: so does what he ran."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)
            try:
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
