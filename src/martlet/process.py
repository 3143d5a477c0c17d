"""The one way to run a program: argv list, never a shell, stdin closed, a deadline, TERM then KILL.

Knows no program in particular (those are in `kernel/`), and never prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from martlet.errors import ToolFailed
from martlet.model import Reason

logger = logging.getLogger(__name__)

TAIL_BYTES = 4096
GRACE_S = 2.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A program that ended by itself; `code` is negative for a signal."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The small environment programs get: a fixed PATH, no locale, and `extra`."""
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **(extra or {})}


async def run(
    *argv: str,
    deadline_s: float = 60.0,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pass_fds: Sequence[int] = (),
    check: bool = True,
    log: Path | None = None,
) -> Completed:
    """Run `argv` to its end and return what it wrote.

    With `log`, a file that the program itself writes its complaints to, it gets no pipes of ours: what it leaves
    running would hold them open.

    Raises:
        ToolFailed: the program is missing, ended with another code than 0 (when `check`), or passed `deadline_s`.
    """
    logger.debug("run: %s", shlex.join(argv))
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL if input is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if log is None else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE if log is None else asyncio.subprocess.DEVNULL,
            env=environment(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise missing(argv[0]) from error
    try:
        async with asyncio.timeout(deadline_s):
            stdout, stderr = await process.communicate(input)
    except TimeoutError as error:
        raise ToolFailed(f"'{shlex.join(argv)}' did not end within {deadline_s:g} s") from error
    finally:
        await end(process)
    assert process.returncode is not None
    if check and process.returncode != 0:
        tail = (_content(log) or stderr or stdout)[-TAIL_BYTES:].decode(errors="replace")
        raise ToolFailed(f"'{shlex.join(argv)}' ended with code {process.returncode}", tail=tail)
    return Completed(argv=argv, code=process.returncode, stdout=stdout or b"", stderr=stderr or b"")


def _content(log: Path | None) -> bytes:
    try:
        return log.read_bytes() if log is not None else b""
    except OSError:
        return b""


async def end(process: asyncio.subprocess.Process, *, grace_s: float = GRACE_S) -> int:
    """Make sure `process` is over: TERM, then KILL after `grace_s`. Returns its code. Safe to call twice."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode


def missing(program: str) -> ToolFailed:
    """The error for a program that is not installed."""
    return ToolFailed(
        f"the program '{program}' is not installed",
        reasons=[
            Reason(
                code="tool_missing",
                text=f"'{program}' was not found in {PATH}",
                hint=f"install '{program}' on this machine",
            )
        ],
    )
