"""What the two sides of a move say to each other over a channel: kinds of frames and their shapes.

Shapes only. Frames that carry raw bytes say so; all others hold one MessagePack value.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from martlet.model import MoveMode, NodeFacts, Reason, SessionSpec

PURPOSE_MOVE = "move"
PURPOSE_VERDICT = "verdict"


class Kind(IntEnum):
    """Kinds of frames. 0 is the greeting."""

    PREPARE = 1  # source: Prepare
    PREPARED = 2  # target: Prepared
    REFUSED = 3  # target: Refused; journaled: it will never commit
    FILES = 4  # source: list[Entry] of `files`
    DATA = 5  # source: raw: 8 bytes of offset, then what stands there in the last file named
    COMPLETE = 6  # source: all files of the frozen session have been sent; restore
    PERMIT = 7  # source: Permit; journaled
    HELD_IN = 8  # source: raw frame that was meant for the session
    HELD_OUT = 9  # source: raw frame that the session had sent
    COMMITTED = 10  # target: Committed
    RESUMED = 11  # target: Resumed
    VERDICT = 12  # source asks: Ask; target answers: Verdict
    GOODBYE = 13  # source: no more frames will come; target: everything of the move is freed here


class Area(IntEnum):
    """Which of the target's folders a file belongs to."""

    IMAGES = 0
    PRIVATE = 1


class Prepare(msgspec.Struct, frozen=True, kw_only=True):
    move: str
    spec: SessionSpec
    mode: MoveMode
    source: NodeFacts
    epoch: int
    memory_bytes: int
    private_bytes: int


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    target: str


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    reasons: tuple[Reason, ...] = ()


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """The source's word that the target may commit: by a swap on this revision of the owner's record."""

    revision: int
    epoch: int


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    revision: int


class Resumed(msgspec.Struct, frozen=True, kw_only=True):
    """The session runs at the target. Durations in milliseconds, by the target's clock."""

    phases_ms: dict[str, float]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    move: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The target's word on a move whose stream broke. Neither: it is still at it, ask again."""

    refused: bool = False
    resumed: bool = False
