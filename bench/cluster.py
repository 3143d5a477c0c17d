"""A lab as an outside program sees it: the public command line, and programs that run in its machines.

Everything goes through `martlet … --output json` and `martlet lab exec`; nothing here imports the parts behind them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from martlet.errors import BY_EXIT, Exit, MartletError, NotFound, ToolFailed
from martlet.model import Reason

CHECKOUT = Path(__file__).resolve().parents[1]
MARTLET = Path(sys.executable).with_name("martlet")
HOME = "/home/student1"
"""Where the programs are copied for sessions: the home of the lab's default user, the same on every node."""
CLIENT_HOME = "/root"
CLIENT = "client"
CLIENT_PATH = f"{CLIENT_HOME}:/opt/martlet/src:/opt/martlet/site-packages"
ORDER_DEADLINE_S = 300.0


class Lab(Protocol):
    """What is asked of a lab; `Cluster` is one."""

    @property
    def name(self) -> str:
        """Its name, for `--cluster`."""

    def martlet(self, *args: str) -> Any:
        """Run `martlet ARGS --output json` and return the parsed answer."""

    def popen(self, machine: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program in a machine, with pipes for standard input and output."""


class Cluster:
    """A lab by name, through the command line of this checkout."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.environment = {**os.environ, "MARTLET_CLUSTER": name}

    def martlet(self, *args: str) -> Any:
        """Raises the class of `martlet.errors` that belongs to the exit code, with the reasons that were printed."""
        return self._run(args, stderr=subprocess.PIPE)

    def martlet_shown(self, *args: str) -> Any:
        """The same, and its progress is shown on stderr while it works."""
        return self._run(args, stderr=None)

    def _run(self, args: tuple[str, ...], *, stderr: int | None) -> Any:
        done = subprocess.run(
            [str(MARTLET), *with_json(args)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            timeout=ORDER_DEADLINE_S,
            check=False,
        )
        if done.returncode != 0:
            raise failure(args, done.returncode, done.stdout, done.stderr or b"")
        return json.loads(done.stdout or b"null")

    def popen(self, machine: str, *argv: str) -> subprocess.Popen[bytes]:
        command = [str(MARTLET), "lab", "exec", machine, "--", *argv]
        return subprocess.Popen(command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def with_json(args: tuple[str, ...]) -> list[str]:
    """`--output json` belongs before the `--` that begins a session's own command."""
    end = args.index("--") if "--" in args else len(args)
    return [*args[:end], "--output", "json", *args[end:]]


def failure(args: tuple[str, ...], code: int, stdout: bytes, stderr: bytes = b"") -> MartletError:
    """The error that a command printed, or the report of a move that failed, as the exception it stands for."""
    command = f"'martlet {' '.join(args[:4])}'"
    try:
        answer = json.loads(stdout)
        reasons = tuple(Reason(**reason) for reason in answer["reasons"])
        text = f"{command}: {answer.get('error') or answer['outcome']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        said = stderr.decode(errors="replace").strip() or "it said nothing more"
        reasons, text = (), f"{command} ended with code {code}: {said[-2000:]}"
    kind = BY_EXIT[Exit(code)] if code in set(Exit) and code != Exit.DONE else MartletError
    return kind(text, reasons=reasons)


class Program:
    """A program in a machine that takes orders as lines and answers with JSON objects, one a line."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.process = process
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def order(self, line: str) -> None:
        """Write a line.

        Raises:
            ToolFailed: the program has ended.
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ToolFailed(f"{self.name} in the lab takes no more orders; it has ended") from error

    def answer(self, *, deadline_s: float = 60.0) -> dict[str, Any]:
        """The next JSON object.

        Raises:
            ToolFailed: none came in time, or the program ended; what it wrote on stderr has been shown.
        """
        try:
            line = self.lines.get(timeout=deadline_s)
        except queue.Empty:
            raise ToolFailed(f"{self.name} in the lab said nothing for {deadline_s:g} s") from None
        if not line:
            raise ToolFailed(f"{self.name} in the lab ended with code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "end" in found and ("error" in found or found.get("errors")):
            raise ToolFailed(f"{self.name} in the lab: {found.get('error') or found['errors'][0]}")
        return found

    def finish(self, *, deadline_s: float = 10.0) -> None:
        """End its input, and it; TERM and KILL help if it does not."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for stop in (self.process.terminate, self.process.kill):
            try:
                self.process.wait(deadline_s)
                return
            except subprocess.TimeoutExpired:
                stop()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(b"")


@contextlib.contextmanager
def client_program(lab: Lab, module: str, *args: str) -> Iterator[Program]:
    """`bench.programs.MODULE` in the client machine, ready when the block begins and ended after it."""
    argv = ("env", f"PYTHONPATH={CLIENT_PATH}", "python3", "-m", f"bench.programs.{module}", *args)
    program = Program(module, lab.popen(CLIENT, *argv))
    try:
        if "ready" not in program.answer():
            raise ToolFailed(f"{module} in the lab did not get ready")
        yield program
    finally:
        program.finish()


def session_argv(module: str, *args: str) -> tuple[str, ...]:
    """The command that runs `bench.programs.MODULE` inside a session of the default user."""
    return ("env", f"PYTHONPATH={HOME}", "python3", "-m", f"bench.programs.{module}", *args)


@contextlib.contextmanager
def session(lab: Lab, *args: str) -> Iterator[dict[str, Any]]:
    """A session that is stopped at the end of the block."""
    started = lab.martlet("session", "start", *args)
    try:
        yield started
    finally:
        lab.martlet("session", "stop", started["id"])


def output(lab: Lab, machine: str, *argv: str, input: bytes = b"", deadline_s: float = 60.0) -> bytes:
    """Run a program in a machine to its end and return what it printed.

    Raises:
        ToolFailed: it ended with another code than 0; what it wrote on stderr has been shown.
    """
    process = lab.popen(machine, *argv)
    try:
        stdout, _ = process.communicate(input, timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise ToolFailed(f"'{' '.join(argv)}' in {machine} did not end within {deadline_s:g} s") from error
    if process.returncode != 0:
        raise ToolFailed(f"'{' '.join(argv)}' in {machine} ended with code {process.returncode}")
    return stdout


def client_address(lab: Lab) -> str:
    """The client machine's address on the sessions' LAN."""
    return output(lab, CLIENT, "hostname", "--all-ip-addresses").split()[0].decode()


def listing(lab: Lab, node: str) -> dict[str, list[str]]:
    """What there is on a node; see `bench.programs.node_listing`."""
    argv = ("env", f"PYTHONPATH={HOME}", "python3", "-m", "bench.programs.node_listing")
    found: dict[str, list[str]] = json.loads(output(lab, node, *argv))
    return found


def install_programs(lab: Lab, node: str) -> None:
    """Copy `bench/programs` to the client machine and, through `node`, to the shared home of the default user."""
    archive = programs_archive()
    for machine, folder in ((CLIENT, CLIENT_HOME), (node, HOME)):
        output(lab, machine, "tar", "--extract", "--file=-", "--no-same-owner", "--directory", folder, input=archive)


def programs_archive() -> bytes:
    """A tar of the package `bench.programs`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in (CHECKOUT / "bench/__init__.py", *sorted((CHECKOUT / "bench/programs").glob("*.py"))):
            info = tarfile.TarInfo(str(path.relative_to(CHECKOUT)))
            info.size, info.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
    return buffer.getvalue()


def up(cluster: Cluster, *options: str) -> bool:
    """Bring the lab up unless it is; True when this call did it."""
    with contextlib.suppress(NotFound):
        if cluster.martlet("lab", "status", "--name", cluster.name)["state"] == "up":
            return False
    cluster.martlet_shown("lab", "up", "--name", cluster.name, *options)
    return True


def node_names(lab: Lab) -> list[str]:
    """The nodes that are up, in the order of their names."""
    return sorted(node["name"] for node in lab.martlet("node", "list") if node["state"] == "up")


def wait_for_process(lab: Lab, session: str, word: str, *, deadline_s: float = 5.0) -> bool:
    """Whether a process of `session` with `word` in its command appears in `martlet ps` in time."""
    until_s = time.monotonic() + deadline_s
    while time.monotonic() < until_s:
        if any(found["session"] == session and word in found["command"] for found in lab.martlet("ps")):
            return True
        time.sleep(0.3)
    return False
