"""Runs a program inside a session for somebody at a terminal: with the session's rights, limits and namespaces.

It is the session's child in everything but parentage, which is why the session cannot move while it runs
(`session.inspect`, reason exec_running). Blocking, in the door's thread of that stream.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator

from martlet import wire
from martlet.errors import MartletError, NotFound, Refused, Unreachable
from martlet.kernel import seccomp
from martlet.model import Reason
from martlet.process import missing
from martlet.session import launch
from martlet.session.place import Place
from martlet.session.remote import Ended, Exec, Failed, Kind, Size
from martlet.wire import Channel

CHUNK_BYTES = 64 * 1024
IDLE_S = 7 * 86400.0
GRACE_S = 2.0
STEP_S = 0.05
ENTER = ("--mount", "--uts", "--ipc", "--net", "--pid", "--time")
RIGHTS = ("--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
FILTER = "--seccomp-filter"
SETPRIV = "usr/bin/setpriv"
JOIN = 'filter=$1; shift; while [ "$1" != -- ]; do echo $$ >"$1" || exit; shift; done; shift; exec "$@" 9<"$filter"'
"""Joins the groups whose files are named up to `--`, and opens the filter of system calls as descriptor 9."""
LEAVE = 'exec "$@" 9<&-'


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


def arguments(place: Place, init: int, wanted: Exec, filter_path: str) -> list[str]:
    """The command line that becomes the program.

    A shell puts itself into the session's cgroup and becomes `nsenter`, which enters the session's namespaces, and
    there `setpriv`, which gives up every right and takes the session's filter of system calls.
    """
    spec = place.spec
    terminal = ["setsid", "--ctty"] if wanted.size is not None else []
    groups = [str(folder / "cgroup.procs") for folder in place.group.folders()]
    return [
        "sh", "-c", JOIN, "sh", filter_path, *groups, "--", *terminal,
        "nsenter", f"--target={init}", *ENTER, "--",
        "setpriv", f"--reuid={spec.uid}", f"--regid={spec.gid}", *RIGHTS, FILTER, "/proc/self/fd/9",
        "sh", "-c", LEAVE, "sh", "env", f"--chdir={spec.home}", *wanted.argv,
    ]  # fmt: skip


def need_filtering(place: Place) -> None:
    """Refuse to go into a session whose image's setpriv, which acts inside, cannot set a filter of system calls."""
    try:
        program = (place.root / SETPRIV).read_bytes()
    except OSError:
        program = b""
    if FILTER.removeprefix("--").encode() not in program:
        name = place.spec.image.name
        text = f"the image {name} has no setpriv that knows {FILTER}"
        reason = Reason(code="no_filter", text=text, hint="build it with util-linux 2.41 or later (Debian 13)")
        raise Refused(f"nothing can be run inside the session {place.spec.id} from outside", reasons=[reason])


@contextlib.contextmanager
def filter_file() -> Iterator[str]:
    """The path of a file in memory that holds the filter of system calls."""
    with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(seccomp.program())
        yield f"/proc/{os.getpid()}/fd/{file.fileno()}"


class _Running:
    """One program. Made running, by `relay` carried to its end."""

    def __init__(self, place: Place, wanted: Exec, channel: Channel) -> None:
        init = place.init_pid()
        if init is None:
            raise NotFound(f"the session {place.spec.id} has no process to go beside")
        need_filtering(place)
        self._channel = channel
        self._outputs: dict[Kind, int] = {}
        env = launch.environment(place.spec) | ({"TERM": wanted.term} if wanted.term else {})
        with contextlib.ExitStack() as stack:
            self._filter = stack.enter_context(filter_file())
            theirs = self._terminal(wanted.size) if wanted.size is not None else self._pipes()
            try:
                self._process = subprocess.Popen(
                    arguments(place, init, wanted, self._filter),
                    stdin=theirs[0], stdout=theirs[1], stderr=theirs[2], env=env, start_new_session=wanted.size is None,
                )  # fmt: skip
            except FileNotFoundError as error:
                raise missing("sh") from error
            finally:
                for fd in set(theirs):
                    os.close(fd)
            self._open = stack.pop_all()

    def relay(self) -> None:
        """Carry bytes both ways until the program ends. Each thread closes what it reads or writes."""
        readers = [threading.Thread(target=self._send_output, args=item) for item in self._outputs.items()]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._take_input, daemon=True).start()
        with self._open:
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
        self._outputs[Kind.STDOUT], theirs = pty.openpty()
        self._input = os.dup(self._outputs[Kind.STDOUT])
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
        finally:
            os.close(fd)

    def _take_input(self) -> None:
        """Pass on what the caller sends, until he goes; what the program no longer takes is dropped."""
        open_ = contextlib.ExitStack()
        open_.callback(os.close, self._input)
        taken = True
        with contextlib.suppress(MartletError), open_:
            while True:
                kind, payload = self._channel.receive(deadline_s=IDLE_S)
                try:
                    if kind == Kind.STDIN and taken:
                        self._put(payload)
                    elif kind == Kind.STDIN_END:
                        open_.close()
                        taken = False
                    elif kind == Kind.RESIZE and taken:
                        self._resize(wire.decode(payload, Size))
                except OSError:
                    taken = False
        self._end()

    def _put(self, data: memoryview) -> None:
        """Write `data` in pieces that do not block, so that a caller who goes meanwhile is noticed.

        Raises:
            Unreachable: the caller has gone. OSError: the program takes no more.
        """
        poller = select.poll()
        poller.register(self._input, select.POLLOUT)
        poller.register(self._channel.fileno(), select.POLLRDHUP)
        while data:
            ready = dict(poller.poll())
            if self._input not in ready:
                raise Unreachable(f"{self._channel.peer} has gone")
            data = data[os.write(self._input, data[: select.PIPE_BUF]) :]

    def _end(self) -> None:
        """The caller has gone: so does what he ran, all of its process group."""
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGHUP)
            until = time.monotonic() + GRACE_S
            while time.monotonic() < until:
                time.sleep(STEP_S)
                os.killpg(self._process.pid, 0)
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._process.poll() is None:  # it was not yet a group of its own
            self._process.kill()
