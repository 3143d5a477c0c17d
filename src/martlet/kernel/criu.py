"""CRIU, driven over its RPC: one `criu swrk` process for one dump or restore, started and idle before the freeze.

Options and notifications only; what a notification means is the caller's. Blocking, for a worker thread.
Source: criu/images/rpc.proto and criu/cr-service.c (4.2.1), whose Python bindings Debian ships as python3-pycriu.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from martlet.errors import ToolFailed
from martlet.kernel import descriptor
from martlet.kernel.cgroup import Group
from martlet.process import PATH, environment, missing

LOG = "criu.log"
LOG_LEVEL = int(os.environ.get("MARTLET_CRIU_LOG_LEVEL", "1"))
TAIL_BYTES = 4000
GHOST_LIMIT_BYTES = 1 << 30
NOISE = ("RLIMIT_NOFILE for self", "Dumping FAILED", "Restoring FAILED")
"""Errors that say nothing: the first is harmless, the others only repeat that it failed."""
MESSAGE_MAX_BYTES = 1 << 16
NOTIFICATIONS_LEFT = 4
TEMPORARY = ".criu.mntns.*"
LAST_STEPS_S = 2.0
DEADLINE_S = 600.0
NET_KEY = "martlet-net"

Notified = Callable[[str, int], bool]
"""Called with a notification's name (`post-dump`, `pre-resume`, …) and the root task's pid; False means failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The real uid and gid that criu runs with (effective 0): prlimit(2) compares the real ones with the task's,
    which spares CAP_SYS_RESOURCE. The session's own, therefore."""

    uid: int
    gid: int


class Criu:
    """One idle criu process. Use as a context manager: it is gone at the end, whatever happened.

    criu also inherits *our* end of the RPC socket. If this agent dies, criu waits for an answer that never comes
    instead of reading an end of file and going on without leave; recovery finds it waiting (see `move.recovery`).
    """

    def __init__(self, identity: Identity, group: Group, *, pass_fds: Sequence[int] = ()) -> None:
        """Start `criu swrk` inside `group`.

        Raises:
            ToolFailed: criu or setpriv is not installed.
        """
        if not is_installed():
            raise missing("criu")
        _rpc()  # loaded now rather than in the freeze
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = (theirs.fileno(), self._ours.fileno(), *pass_fds)
        ids = [f"--ruid={identity.uid}", f"--rgid={identity.gid}", "--clear-groups"]
        argv = ["setpriv", *ids, "criu", "swrk", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
                pass_fds=fds,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            self._ours.close()
            raise missing("setpriv") from error
        finally:
            theirs.close()
        self._ours.settimeout(DEADLINE_S)
        self._answered = False
        group.attach(self._process.pid)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Criu:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        if self._answered:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=LAST_STEPS_S)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def dump(self, *, pid: int, images: Path, net_inode: int, mounts: Mapping[str, str], notified: Notified) -> None:
        """Dump the tree at `pid` into `images` and leave it to run on (the caller freezes it in `post-dump`).

        `mounts` maps mount points inside the session to keys for `restore`; `net_inode` is its network namespace,
        which stays outside the dump.

        Raises:
            ToolFailed: criu said no; the session runs on.
        """
        options = self._common(images)
        options.pid = pid
        options.leave_running = True
        options.external.append(f"net[{net_inode}]:{NET_KEY}")
        options.external.extend(f"mnt[{point}]:{key}" for point, key in mounts.items())
        self._request("DUMP", options, images, notified)

    def restore(self, *, root: Path, images: Path, net_fd: int, mounts: Mapping[str, Path], notified: Notified) -> int:
        """Restore from `images` and return the root task's pid, which is running when this returns.

        `root` is the mount point of the image; `net_fd` was among `pass_fds`; `mounts` maps the dump's keys to folders.

        Raises:
            ToolFailed: criu said no, or died. Half-built tasks may be left: kill their cgroup.
        """
        options = self._common(images)
        options.root = str(root)
        inherited = options.inherit_fd.add()
        inherited.key, inherited.fd = NET_KEY, net_fd
        options.external.extend(f"mnt[{key}]:{folder}" for key, folder in mounts.items())
        return int(self._request("RESTORE", options, images, notified).restore.pid)

    def _common(self, images: Path) -> Any:
        rpc = _rpc()
        options = rpc.criu_opts()
        options.images_dir_fd = -1
        options.images_dir = str(images)
        options.log_level = LOG_LEVEL
        options.log_file = LOG
        options.notify_scripts = True
        options.tcp_established = True
        options.file_locks = True
        options.ext_unix_sk = True
        options.link_remap = True
        options.ghost_limit = GHOST_LIMIT_BYTES
        options.manage_cgroups_mode = rpc.IGNORE
        options.network_lock = rpc.SKIP
        return options

    def _request(self, kind: str, options: Any, images: Path, notified: Notified) -> Any:
        rpc = _rpc()
        request = rpc.criu_req(type=getattr(rpc, kind), opts=options)
        self._send(request, kind, images)
        while True:
            answer = self._receive(kind, images)
            if answer.type == rpc.NOTIFY:
                success = notified(answer.notify.script, answer.notify.pid)
                self._send(rpc.criu_req(type=rpc.NOTIFY, notify_success=success), kind, images)
                continue
            self._answered = True
            if not answer.success:
                raise ToolFailed(
                    f"criu could not {kind.lower()} the session", tail=answer.cr_errmsg or log_tail(images)
                )
            return answer

    def _send(self, request: Any, kind: str, images: Path) -> None:
        try:
            self._ours.send(request.SerializeToString())
        except OSError as error:
            raise ToolFailed(f"criu ended in the middle of a {kind.lower()}", tail=log_tail(images)) from error

    def _receive(self, kind: str, images: Path) -> Any:
        try:
            data = self._ours.recv(MESSAGE_MAX_BYTES)
        except TimeoutError as error:
            raise ToolFailed(
                f"criu did not end a {kind.lower()} within {DEADLINE_S:g} s", tail=log_tail(images)
            ) from error
        if not data:
            raise ToolFailed(f"criu ended in the middle of a {kind.lower()}", tail=log_tail(images))
        answer = _rpc().criu_resp()
        answer.ParseFromString(data)
        return answer


def is_installed() -> bool:
    """Whether criu is there now; it may have come or gone since `version` was asked."""
    return shutil.which("criu", path=PATH) is not None


def version() -> str:
    """The installed criu's version, `4.2.1`.

    Raises:
        ToolFailed: criu is not installed.
    """
    first = _output("criu", "--version").splitlines()[0]
    return first.partition(":")[2].strip()


def warm_up() -> str:
    """Let criu probe the kernel as plain root and keep what it found in /run/criu.kdat; returns its objections.

    Once per boot, before the first dump: with different real and effective uids that probe fails.
    """
    return _output("criu", "check", check=False)


def log_tail(images: Path) -> str:
    """The end of criu's log in an images folder: its errors, the first of them last, for that is the cause."""
    try:
        text = (images / LOG).read_bytes()[-TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if not any(noise in line for noise in NOISE)]
    errors = [line for line in lines if "Error" in line]
    return "\n".join(reversed(errors) if errors else lines)


def keep_log(images: Path, copy: Path) -> None:
    """Keep criu's log of a failure where people can read it. None there is fine."""
    with contextlib.suppress(OSError):
        shutil.copyfile(images / LOG, copy)


def workers(group: Group) -> list[int]:
    """The criu processes among those of a group."""
    found: list[int] = []
    for pid in group.processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "criu":
                found.append(pid)
    return found


def answer_for(criu_pid: int, *, success: bool) -> bool:
    """Give a criu whose agent has died its answers; False where it has no such socket.

    It holds the agent's end of the RPC socket itself: take that and write answers into it, enough for the
    notifications that are left. The other end is written to as well (the two look the same); nobody reads that.
    With `success` off, a dump lets the session go on unharmed, which killing criu in the middle might not.
    """
    message = _rpc().criu_req(type=_rpc().NOTIFY, notify_success=success).SerializeToString()
    told = False
    for end in descriptor.sockets_of(criu_pid):
        with end, contextlib.suppress(OSError):
            if end.type == socket.SOCK_SEQPACKET:
                for _ in range(NOTIFICATIONS_LEFT):
                    end.send(message, socket.MSG_DONTWAIT)
                told = True
    return told


def dismiss(group: Group, *, success: bool, deadline_s: float) -> None:
    """End the criu processes of a group whose agent has died: by answers first, by SIGKILL after the deadline."""
    for pid in workers(group):
        if not answer_for(pid, success=success):
            _kill(pid)
    until = time.monotonic() + deadline_s
    while workers(group) and time.monotonic() < until:
        time.sleep(0.005)
    for pid in workers(group):
        _kill(pid)


def tidy(groups: Sequence[Group]) -> None:
    """Remove the mount points that killed restores leave in /tmp, unless a criu is at work in one of `groups`: there is
    no telling whose they are."""
    left = list(Path("/tmp").glob(TEMPORARY))
    if left and not any(workers(group) for group in groups):
        for folder in left:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _output(*argv: str, check: bool = True) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, env=environment(), timeout=30)
    except FileNotFoundError as error:
        raise missing(argv[0]) from error
    text = (done.stdout + done.stderr).decode(errors="replace")
    if check and done.returncode != 0:
        raise ToolFailed(f"'{' '.join(argv)}' ended with code {done.returncode}", tail=text)
    return text


def _rpc() -> Any:
    """The bindings of rpc.proto: generated code, so without types; loaded when first needed."""
    from pycriu import images, rpc

    assert images  # loaded now too, for `criu_images` in the freeze
    return rpc
