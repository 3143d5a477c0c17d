"""What became of a move after its permit, found out by the source: the target's word, or a swap of its own.

Never guesses: until one of the two answers, the session stays frozen here and is marked in doubt.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from enum import Enum

from martlet import wire
from martlet.errors import Conflict, MartletError, NotFound, ToolFailed, Unreachable
from martlet.model import Ownership, SessionState
from martlet.move import machine, messages
from martlet.move.context import Context
from martlet.move.events import event
from martlet.move.journal import Journal
from martlet.move.machine import Act, Copy, Evidence, Side
from martlet.move.messages import Kind

logger = logging.getLogger(__name__)

STEP_S = 0.1
PATIENCE_S = 3.0
"""How long a target that answers "not decided yet" is left to it before the source swaps."""


class Runs(Enum):
    """Where the session runs now."""

    HERE = "here"
    THERE = "there"


def settle_source(context: Context, book: Journal, *, refused: bool = False) -> Runs:
    """Find out where the session of a permitted move runs. Returns only when that is certain."""
    seen = Evidence(
        side=Side.SOURCE,
        me=context.me,
        source=context.me,
        epoch=book.first.epoch,
        phase=book.phase,
        copy=Copy.WHOLE,
        refused=refused,
    )
    since = time.monotonic()
    while True:
        decision = machine.decide(seen)
        logger.info("move %s: %s (%s)", book.move, decision.act, decision.why)
        if decision.act is Act.GO_ON:
            return _settled(context, book, Runs.HERE)
        if decision.act is Act.DISCARD:
            return _settled(context, book, Runs.THERE)
        seen = _learn(context, book, seen, swap=time.monotonic() - since > PATIENCE_S)
        if machine.decide(seen).act in (Act.ASK, Act.WAIT):
            _doubt(context, book, decision.why)
            time.sleep(STEP_S)


def _learn(context: Context, book: Journal, seen: Evidence, *, swap: bool) -> Evidence:
    """Ask the target; when it does not answer, or has been undecided for too long, try to take the session back."""
    try:
        verdict = _ask(context, book)
        seen = replace(seen, refused=verdict.refused, resumed=verdict.resumed)
        if verdict.refused or verdict.resumed or not swap:
            return seen
    except (Unreachable, ToolFailed) as error:
        logger.info("move %s: %s", book.move, error)
    return replace(seen, owner=_take_back(context, book))


def _ask(context: Context, book: Journal) -> messages.Verdict:
    channel = wire.connect(
        book.first.target_address, book.first.target_port, context.config.tls, purpose=messages.PURPOSE_VERDICT
    )
    try:
        channel.send_value(Kind.VERDICT, messages.Ask(move=book.move))
        _, payload = channel.receive(deadline_s=wire.CONNECT_S)
        return wire.decode(payload, messages.Verdict)
    finally:
        channel.close()


def _take_back(context: Context, book: Journal) -> Ownership | None:
    """Swap for ourselves on the permit's revision; who owns it then, or None when the store did not answer."""
    session = book.spec.id
    ours = Ownership(node=context.me, epoch=book.first.epoch + 1)
    try:
        context.owners.swap(session, ours, book.revision)
        return ours
    except Conflict:
        # The record has moved on from the permit's revision: only now does reading it say something.
        try:
            return context.owners.read(session)[0]
        except (MartletError, NotFound):
            return None
    except MartletError as error:
        logger.warning("move %s: the store does not answer: %s", book.move, error)
        return None


def _doubt(context: Context, book: Journal, why: str) -> None:
    if context.marks.get(book.spec.id) is not SessionState.IN_DOUBT:
        context.marks[book.spec.id] = SessionState.IN_DOUBT
        context.tell(event("in_doubt", f"{book.spec.id} is frozen: {why}", session=book.spec.id, node=context.me))


def _settled(context: Context, book: Journal, runs: Runs) -> Runs:
    if context.marks.get(book.spec.id) is SessionState.IN_DOUBT:
        context.marks[book.spec.id] = SessionState.MOVING
        text = f"{book.spec.id} is settled: it runs {'here' if runs is Runs.HERE else 'at ' + book.first.target}"
        context.tell(event("settled", text, session=book.spec.id, node=context.me))
    return runs
