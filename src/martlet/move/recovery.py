"""The one way out of a cut move: observe, decide (`machine.decide`), act. Run for open journals when an agent starts.

Running it twice changes nothing. It needs no mother; in doubt it needs the store, and waits for it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace

from martlet.errors import Conflict, Unreachable
from martlet.kernel import criu, descriptor
from martlet.model import Ownership, SessionState
from martlet.move import journal, machine, settlement
from martlet.move.context import Context
from martlet.move.events import event
from martlet.move.journal import Journal
from martlet.move.machine import Act, Copy, Evidence, Phase, Side
from martlet.session import place as places
from martlet.session.place import Place

logger = logging.getLogger(__name__)

RETRY_S = 0.5
RESUME_S = 5.0
DUMP_S = 60.0
"""How long a dump that was cut is given to end by itself: killed while its code is inside a task, criu may take the
session with it."""


def open_journals(context: Context) -> Iterator[Journal]:
    """The moves that were under way here when the agent ended."""
    return (book for book in journal.read_all(context.journals) if book.is_open)


def recover(context: Context, book: Journal) -> None:
    """Settle one cut move; returns when the session runs exactly once, as far as this node is concerned."""
    context.marks[book.spec.id] = SessionState.MOVING
    try:
        match book.side:
            case Side.SOURCE:
                _recover_source(context, book)
            case Side.TARGET:
                _recover_target(context, book)
    finally:
        context.marks.pop(book.spec.id, None)


def _recover_source(context: Context, book: Journal) -> None:
    place = context.place(book.spec)
    seen = Evidence(
        side=Side.SOURCE, me=context.me, source=context.me, epoch=book.first.epoch, phase=book.phase, copy=Copy.WHOLE
    )
    if machine.decide(seen).act is not Act.GO_ON and settlement.settle_source(context, book) is settlement.Runs.THERE:
        _clear(context, book)
        context.departed(book.spec.id)
        places.destroy(place)
        _close(context, book, Phase.DONE, "the session runs at the target")
        return
    criu.dismiss(context.group(book.move), success=False, deadline_s=DUMP_S)
    _clear(context, book)
    go_on(place)
    _close(context, book, Phase.ABANDONED, "the session goes on here")


def go_on(place: Place) -> None:
    """End a freeze here: sockets out of repair, the port open, processes thawed. Unfrozen is fine."""
    if place.group.exists():
        descriptor.end_tcp_repair(place.group.processes())
        places.open_port(place)
        place.group.thaw()


def _recover_target(context: Context, book: Journal) -> None:
    place = context.place(book.spec)
    seen = Evidence(
        side=Side.TARGET,
        me=context.me,
        source=book.first.source,
        epoch=book.first.epoch,
        phase=book.phase,
        copy=_copy(place, book),
    )
    while True:
        decision = machine.decide(seen)
        logger.info("move %s: %s (%s)", book.move, decision.act, decision.why)
        match decision.act:
            case Act.SWAP:
                seen = replace(seen, owner=_find_owner(context, book, seen.copy))
            case Act.RESUME:
                _resume(context, book, place)
                return
            case Act.GIVE_BACK:
                place.group.kill()
                _give_back(context, book)
                _refuse(context, book, place, decision.why)
                return
            case Act.NOTHING:
                _clear(context, book)
                return
            case _:
                _refuse(context, book, place, decision.why)
                return


def _copy(place: Place, book: Journal) -> Copy:
    """The copy is whole from criu's last notification on, when its cgroup was frozen; after the commit it is thawed."""
    if not place.group.exists() or not place.group.processes():
        return Copy.NONE
    return Copy.WHOLE if place.group.frozen() or book.phase is Phase.COMMITTED else Copy.HALF_BUILT


def _find_owner(context: Context, book: Journal, copy: Copy) -> Ownership:
    """Settle an unanswered commit by another swap on the same revision: for us if we have a whole copy, else not."""
    node = context.me if copy is Copy.WHOLE else book.first.source
    wanted = Ownership(node=node, epoch=book.first.epoch + 1)
    while True:
        try:
            context.owners.swap(book.spec.id, wanted, book.revision)
            return wanted
        except Conflict:
            return _read(context, book)
        except Unreachable as error:
            _wait(context, book, error)


def _give_back(context: Context, book: Journal) -> None:
    """We own it and have no whole copy: owner = source, epoch + 2."""
    while True:
        try:
            owner, revision = context.owners.read(book.spec.id)
            if owner.node != context.me:
                return
            back = Ownership(node=book.first.source, epoch=owner.epoch + 1)
            context.owners.swap(book.spec.id, back, revision)
            return
        except Conflict:
            continue
        except Unreachable as error:
            _wait(context, book, error)


def _read(context: Context, book: Journal) -> Ownership:
    while True:
        try:
            return context.owners.read(book.spec.id)[0]
        except Unreachable as error:
            _wait(context, book, error)


def _wait(context: Context, book: Journal, error: Unreachable) -> None:
    if context.marks.get(book.spec.id) is not SessionState.IN_DOUBT:
        context.marks[book.spec.id] = SessionState.IN_DOUBT
        text = f"{book.spec.id} is frozen until the store answers: {error}"
        context.tell(event("in_doubt", text, session=book.spec.id, node=context.me))
    time.sleep(RETRY_S)


def _resume(context: Context, book: Journal, place: Place) -> None:
    """Committed: let the copy run. criu may still wait for its dead agent's answer; give it. Running already is fine,
    and so is a session that has ended since."""
    if place.group.exists():
        place.group.thaw()
        criu.dismiss(place.group, success=True, deadline_s=RESUME_S)
        places.open_port(place)
        places.announce(place)
    _clear(context, book)
    for phase in (Phase.COMMITTED, Phase.RESUMED):
        if phase in machine.LEGAL[book.phase]:
            book.write(phase)
    context.arrived(book.spec.id, book.first.epoch + 1)
    _close(context, book, Phase.DONE, "committed; resumed by recovery")


def _refuse(context: Context, book: Journal, place: Place, why: str) -> None:
    context.group(book.move).kill()
    places.destroy(place)
    _clear(context, book)
    criu.tidy(context.working_groups)
    _close(context, book, Phase.ABANDONED, why)


def _clear(context: Context, book: Journal) -> None:
    """Free what worked for the move: its processes, cgroup and images."""
    group = context.group(book.move)
    group.kill()
    group.remove()
    shutil.rmtree(context.images(book.move).parent, ignore_errors=True)


def _close(context: Context, book: Journal, phase: Phase, why: str) -> None:
    book.close(phase, why=why)
    if book.side is Side.SOURCE:
        book.forget()
    text = f"a cut move of {book.spec.id} was recovered: {why}"
    context.tell(event("recovered", text, session=book.spec.id, node=context.me, move=book.move))
