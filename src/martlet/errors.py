"""The exceptions that cross module borders, each with the exit code and the reasons that a person is shown.

Adapters map foreign exceptions to these where they meet them (`raise … from`); nothing here logs or exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from martlet.model import Reason


class Exit(IntEnum):
    """Exit codes of the command line; part of its contract."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NOT_FOUND = 4
    IN_DOUBT = 5


class MartletError(Exception):
    """Base: a message that says what failed, with what; reasons say why and what to do about it."""

    exit = Exit.FAILED

    def __init__(self, message: str, *, reasons: Sequence[Reason] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.reasons = tuple(reasons)


class UsageError(MartletError):
    """The caller's words or a configuration file are wrong."""

    exit = Exit.USAGE


class Refused(MartletError):
    """Checked and not done: nothing was changed. All reasons are given at once."""

    exit = Exit.REFUSED


class NotFound(MartletError):
    """The named session, node, image or lab does not exist."""

    exit = Exit.NOT_FOUND


class InDoubt(MartletError):
    """The store did not say which node owns the session; it is frozen until it does."""

    exit = Exit.IN_DOUBT


class Conflict(MartletError):
    """A compare-and-swap lost: the record was no longer at the revision that was read."""


class Unreachable(MartletError):
    """The other side (bus, agent, mother) did not answer in time. What was asked may or may not be done."""


class NobodyThere(Unreachable):
    """Nobody serves what was asked for: it is certain that nothing was done."""


class TooSlow(Unreachable):
    """The order was sent and no answer came in time: it may be done or under way."""


class ToolFailed(MartletError):
    """A program or kernel interface failed. `tail` is the end of what it wrote to stderr or its log."""

    def __init__(self, message: str, *, tail: str = "", reasons: Sequence[Reason] = ()) -> None:
        super().__init__(f"{message}: {tail.strip().splitlines()[-1]}" if tail.strip() else message, reasons=reasons)
        self.tail = tail


BY_EXIT: dict[Exit, type[MartletError]] = {
    Exit.FAILED: MartletError,
    Exit.USAGE: UsageError,
    Exit.REFUSED: Refused,
    Exit.NOT_FOUND: NotFound,
    Exit.IN_DOUBT: InDoubt,
}
"""The class that carries an exit code over the bus and back."""
