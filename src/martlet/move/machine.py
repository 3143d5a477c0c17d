"""What a move may do next, on either side, and what to do about one that was cut: pure.

The table of legal steps is one literal; recovery is one function from what was observed to one act. Nothing here
reads a clock, a file or the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from martlet.errors import MartletError
from martlet.model import Ownership


class Side(StrEnum):
    SOURCE = "source"
    TARGET = "target"


class Phase(StrEnum):
    """How far a move got on one side, as its journal there says."""

    ASKED = "asked"
    PREPARED = "prepared"
    COPIED = "copied"
    FROZEN = "frozen"
    PERMITTED = "permitted"
    COMMITTED = "committed"
    RESUMED = "resumed"
    DONE = "done"
    ABANDONED = "abandoned"
    """The source goes on; at the target this is a refusal, and its word that it will never commit."""


CLOSED = frozenset({Phase.DONE, Phase.ABANDONED})

LEGAL: dict[Phase, frozenset[Phase]] = {
    Phase.ASKED: frozenset({Phase.PREPARED, Phase.ABANDONED}),
    Phase.PREPARED: frozenset({Phase.COPIED, Phase.ABANDONED}),
    Phase.COPIED: frozenset({Phase.COPIED, Phase.FROZEN, Phase.ABANDONED}),
    Phase.FROZEN: frozenset({Phase.PERMITTED, Phase.ABANDONED}),
    # From here the source goes on only by winning the swap or by the target's refusal.
    Phase.PERMITTED: frozenset({Phase.COMMITTED, Phase.ABANDONED}),
    # The target may still give back until it has resumed.
    Phase.COMMITTED: frozenset({Phase.RESUMED, Phase.ABANDONED}),
    Phase.RESUMED: frozenset({Phase.DONE}),
    Phase.DONE: frozenset(),
    Phase.ABANDONED: frozenset(),
}
"""Which phase may follow which. The same on both sides."""


class IllegalStep(MartletError):
    """A step that the table does not allow: a defect of ours, stopped before it does harm."""

    def __init__(self, from_: Phase, to: Phase) -> None:
        super().__init__(f"a move cannot go from '{from_}' to '{to}'")
        self.from_ = from_
        self.to = to


def step(from_: Phase, to: Phase) -> Phase:
    """The next phase.

    Raises:
        IllegalStep: the table does not have it.
    """
    if to not in LEGAL[from_]:
        raise IllegalStep(from_, to)
    return to


class Copy(StrEnum):
    """What is on this node of the session's processes."""

    NONE = "none"
    HALF_BUILT = "half_built"
    WHOLE = "whole"


class Act(StrEnum):
    """What recovery does next on one side."""

    NOTHING = "nothing"
    GO_ON = "go_on"  # source: end the freeze and run on; close the journal as abandoned
    ASK = "ask"  # source: ask the target for its word, and if it has none, swap for ourselves
    DISCARD = "discard"  # kill the copy with its link down, free everything
    REFUSE = "refuse"  # target: kill the copy, journal the refusal, free everything
    SWAP = "swap"  # target: find out by another swap on the permit's revision whether we committed
    RESUME = "resume"  # target: let the copy run, open the port, announce
    GIVE_BACK = "give_back"  # target: we own it but have no whole copy: owner = source, epoch + 2
    WAIT = "wait"  # in doubt: keep frozen, tell, try again


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one side knows of one move. `epoch` and `source` are as of its beginning; `owner` is what a *lost swap*
    showed (never a plain read, which may be stale), None while unknown; `refused` and `resumed` are the target's word.
    """

    side: Side
    me: str
    source: str
    epoch: int
    phase: Phase
    copy: Copy
    owner: Ownership | None = None
    refused: bool = False
    resumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    act: Act
    why: str


def decide(evidence: Evidence) -> Decision:
    """What to do about a move that was cut at this point. Doing it and asking again ends in NOTHING or WAIT."""
    if evidence.phase in CLOSED:
        return Decision(act=Act.NOTHING, why="the move is over")
    match evidence.side:
        case Side.SOURCE:
            return _source(evidence)
        case Side.TARGET:
            return _target(evidence)
        case _:
            assert_never(evidence.side)


def _source(seen: Evidence) -> Decision:
    if seen.phase in (Phase.ASKED, Phase.PREPARED, Phase.COPIED, Phase.FROZEN):
        return Decision(act=Act.GO_ON, why="no permit was given, so the target cannot have committed")
    if seen.refused:
        return Decision(act=Act.GO_ON, why="the target has journaled that it will not commit")
    if seen.resumed or seen.phase is Phase.RESUMED:
        return Decision(act=Act.DISCARD, why="the target has resumed the session")
    if seen.owner is None:
        return Decision(act=Act.ASK, why="the permit was given, and nobody has said what became of it")
    if seen.owner.node == seen.me:
        return Decision(act=Act.GO_ON, why=f"the store says that we own it with epoch {seen.owner.epoch}")
    return Decision(act=Act.WAIT, why="the target owns it and has not said that it runs; it may still give it back")


def _target(seen: Evidence) -> Decision:
    if seen.phase == Phase.RESUMED:
        return Decision(act=Act.RESUME, why="the session is to run here; it may not yet have been let go")
    if seen.phase in (Phase.ASKED, Phase.PREPARED, Phase.COPIED, Phase.FROZEN):
        return Decision(act=Act.REFUSE, why="nothing was committed")
    if seen.phase == Phase.PERMITTED and seen.owner is None:
        return Decision(act=Act.SWAP, why="a swap may have been sent and not answered")
    ours = seen.phase == Phase.COMMITTED or (seen.owner is not None and seen.owner.node == seen.me)
    if not ours:
        return Decision(act=Act.REFUSE, why="the source has taken the session back")
    if seen.copy == Copy.WHOLE:
        return Decision(act=Act.RESUME, why="we own it and its copy here is whole")
    return Decision(act=Act.GIVE_BACK, why="we own it, but its copy here is not whole; the source still has one")
