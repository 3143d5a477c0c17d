"""What a command line and an agent say to each other about a program run inside a session (`session exec`).

Shapes only; they travel as frames of `wire`.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from martlet.errors import Exit
from martlet.model import Reason

PURPOSE_EXEC = "exec"


class Kind(IntEnum):
    """Kinds of frames. Raw ones carry bytes, EXEC, RESIZE, ENDED and FAILED a value, STDIN_END nothing."""

    EXEC = 32  # caller: Exec
    STDIN = 33  # caller: raw
    STDIN_END = 34  # caller
    RESIZE = 35  # caller: Size
    STDOUT = 36  # agent: raw; with a terminal everything the program writes
    STDERR = 37  # agent: raw
    ENDED = 38  # agent: Ended
    FAILED = 39  # agent: Failed; the program was not run


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal's size in characters."""

    rows: int
    columns: int


class Exec(msgspec.Struct, frozen=True, kw_only=True):
    """Run `argv` inside the session, as its user, with a terminal of `size` when there is one."""

    session: str
    argv: tuple[str, ...]
    term: str = ""
    size: Size | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The program's exit code, as a shell has it: 128 and the signal's number for one that a signal ended."""

    code: int


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    exit: Exit
    error: str
    reasons: tuple[Reason, ...] = ()
