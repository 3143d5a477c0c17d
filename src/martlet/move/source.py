"""The source's side of a move, from the order to the end of the copy that stayed behind.

Blocking, in a thread of its own: inside the freeze nothing else of the agent delays it. Every failure before the
permit ends with the session running here; after it `settlement` decides, with the store.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass

from martlet import wire
from martlet.errors import MartletError, Refused, ToolFailed
from martlet.kernel import criu, criu_images, descriptor, namespace
from martlet.kernel.criu import Criu, Identity
from martlet.model import MoveMode, MoveOutcome, MoveReport, NodeFacts, Reason
from martlet.move import check, files, journal, messages, settlement
from martlet.move.ahead import SendAhead
from martlet.move.context import Context
from martlet.move.hold import Frame, Hold, Way
from martlet.move.machine import Phase, Side
from martlet.move.messages import Area, Kind
from martlet.session import inspect
from martlet.session import place as places
from martlet.session.place import Place

logger = logging.getLogger(__name__)

PREPARE_S = 30.0
RESTORE_S = 120.0
IN_DOUBT_S = 10.0
GOODBYE_S = 5.0
LATE_S = 0.3
"""How long frames that still come here are forwarded: until switches have heard the target's announcements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An order to move a session out."""

    move: str
    place: Place
    target: NodeFacts
    mode: MoveMode


class Timer:
    """Milliseconds since the beginning, and between laps."""

    def __init__(self) -> None:
        self.phases_ms: dict[str, float] = {}
        self._begin = self._last = time.monotonic()

    def lap(self, phase: Phase | str) -> float:
        """End a lap under this name; when it ended."""
        now = time.monotonic()
        self.phases_ms[str(phase)] = round((now - self._last) * 1000, 2)
        self._last = now
        return now

    def total_ms(self) -> float:
        return round((time.monotonic() - self._begin) * 1000, 2)


def move_out(context: Context, order: Outgoing) -> MoveReport:
    """Move a session to `order.target`. Returns how it went; `stayed` with all reasons when it did not.

    Raises:
        Refused: this node does not own the session, or the session cannot move now; nothing was touched.
    """
    ownership, revision = context.owners.read(order.place.spec.id)
    if ownership.node != context.me:
        raise Refused(f"the session {order.place.spec.id} is owned by {ownership.node}, not by {context.me}")
    reasons = mode_objections(order.mode) + objections(context, order.place)
    if reasons:
        raise Refused(f"the session {order.place.spec.id} cannot move now", reasons=reasons)
    book = journal.begin(
        context.journals,
        Side.SOURCE,
        journal.Entry(
            phase=Phase.ASKED,
            move=order.move,
            spec=order.place.spec,
            source=context.me,
            target=order.target.node,
            target_address=order.target.address,
            target_port=order.target.door_port,
            mode=order.mode,
            epoch=ownership.epoch,
            revision=revision,
        ),
    )
    return _Move(context, order, book).run()


def objections(context: Context, place: Place) -> list[Reason]:
    """Why a session cannot move away from here now; empty when it can."""
    faults = check.faults_now(context.facts(), has_criu=criu.is_installed())
    return faults + inspect.lasting_blockers(place)


def mode_objections(mode: MoveMode) -> list[Reason]:
    """Why a move cannot be made in this mode; empty when it can."""
    if mode in (MoveMode.AUTO, *check.SUPPORTED):
        return []
    return [Reason(code="mode", text=f"the mode '{mode}' is not there yet", hint="use --mode stop-copy")]


class _Move:
    """One move under way. The stack holds what a failure before the permit undoes, in reverse order."""

    def __init__(self, context: Context, order: Outgoing, book: journal.Journal) -> None:
        self._context, self._order, self._place, self._book = context, order, order.place, book
        self._timer = Timer()
        self._undo = ExitStack()
        self._shut_at = 0.0
        self._freeze_ms = 0.0

    def run(self) -> MoveReport:
        """The algorithm: prepare, copy, freeze, promise; behind the promise lies the point of no return."""
        try:
            self._prepare()
            self._freeze()
            self._promise()
        except MartletError as error:
            return self._stay(error)
        except Exception as error:  # a defect of ours must not leave the session frozen
            logger.exception("move %s", self._order.move)
            return self._stay(ToolFailed(f"a defect in the move: {error!r}"))
        try:
            self._permit()
            self._await_target()
        except MartletError as error:
            return self._settle(error)
        except Exception as error:  # nor decide by itself where it runs
            logger.exception("move %s", self._order.move)
            return self._settle(ToolFailed(f"a defect in the move: {error!r}"))
        self._let_go()
        return self._report(MoveOutcome.MOVED)

    def _stay(self, error: MartletError) -> MoveReport:
        """Before the permit: undo everything, and the session runs on here."""
        logger.warning("move %s: %s", self._order.move, error)
        criu.keep_log(self._context.images(self._order.move), self._book.path.with_suffix(".criu.log"))
        self._undo.close()
        self._close(Phase.ABANDONED, error.message)
        return self._report(MoveOutcome.STAYED, error)

    def _prepare(self) -> None:
        undo, place, order = self._undo, self._place, self._order
        self._channel = wire.connect(
            order.target.address,
            order.target.door_port,
            self._context.config.tls,
            purpose=messages.PURPOSE_MOVE,
            patience_s=PREPARE_S,  # the session runs meanwhile: a target that is busy may take its time
        )
        undo.callback(self._channel.close)
        self._ask_target()
        group = self._context.group(order.move).create()
        undo.callback(group.remove)
        undo.callback(group.kill)
        self._images = self._context.images(order.move)
        self._images.mkdir(parents=True)
        undo.callback(shutil.rmtree, self._images.parent, ignore_errors=True)
        self._hold = Hold(place)
        self._hold.prepare()
        undo.callback(self._hold.close)
        undo.callback(self._go_on)
        self._sender = files.Sender(self._channel)
        self._ahead = SendAhead(self._sender, self._images)
        undo.callback(self._ahead.stop)
        self._criu = undo.enter_context(Criu(Identity(uid=place.spec.uid, gid=place.spec.gid), group))
        self._init = place.init_pid()
        if self._init is None:
            raise ToolFailed(f"the session {place.spec.id} ended before it could move")
        self._book.write(Phase.PREPARED, sync=False)
        self._timer.lap(Phase.PREPARED)
        self._book.write(Phase.COPIED, sync=False)

    def _ask_target(self) -> None:
        place, order = self._place, self._order
        self._channel.send_value(
            Kind.PREPARE,
            messages.Prepare(
                move=order.move,
                spec=place.spec,
                mode=order.mode,
                source=self._context.facts(),
                epoch=self._book.first.epoch,
                memory_bytes=place.group.memory_bytes(),
                private_bytes=files.tree_bytes(place.private),
            ),
        )
        self._expect(Kind.PREPARED, deadline_s=PREPARE_S)

    def _freeze(self) -> None:
        place = self._place
        self._book.write(Phase.FROZEN, sync=False)
        self._shut_at = time.monotonic()
        self._is_shut = True
        if not self._hold.shut():
            raise ToolFailed("a connection to the session was never accepted, and such cannot be carried")
        assert self._init is not None
        self._ahead.start()
        self._criu.dump(
            pid=self._init,
            images=self._images,
            net_inode=namespace.inode(place.net),
            mounts=place.mount_keys,
            notified=self._notified,
        )
        self._timer.lap(Phase.FROZEN)
        criu_images.mend_timers(self._images)
        self._ahead.finish()
        self._sender.send_tree(Area.PRIVATE, place.private)
        self._sender.flush()
        self._channel.send(Kind.COMPLETE)
        self._timer.lap("sent")

    def _notified(self, what: str, _pid: int) -> bool:
        if what == "post-dump":
            self._place.group.hold_frozen()
            self._hold.saved()
        return True

    def _promise(self) -> None:
        """Journal the permit. From now on the source does not go on by itself: nothing is undone any more."""
        self._book.write(Phase.PERMITTED, revision=self._book.first.revision)
        self._kept = self._undo.pop_all()

    def _permit(self) -> None:
        """Say it, and let held frames follow."""
        first = self._book.first
        self._channel.send_value(Kind.PERMIT, messages.Permit(revision=first.revision, epoch=first.epoch))
        self._hold.forward_to(self._forward)
        self._timer.lap(Phase.PERMITTED)

    def _await_target(self) -> None:
        self._expect(Kind.COMMITTED, deadline_s=RESTORE_S)
        self._timer.lap(Phase.COMMITTED)
        self._book.write(Phase.COMMITTED, sync=False)
        payload = self._expect(Kind.RESUMED, deadline_s=RESTORE_S)
        resumed_at = self._timer.lap(Phase.RESUMED)
        self._freeze_ms = round((resumed_at - self._shut_at) * 1000, 2)
        for name, duration_ms in wire.decode(payload, messages.Resumed).phases_ms.items():
            self._timer.phases_ms[f"target_{name}"] = duration_ms
        self._book.write(Phase.RESUMED, sync=False)

    def _settle(self, error: MartletError) -> MoveReport:
        """The target said no, or fell silent, after the permit: only the store, or the target's word, decides now.

        That may take as long as the store is away. Whoever gave the order hears "in doubt" after a while; the
        settlement goes on in its thread.
        """
        logger.warning("move %s, after the permit: %s", self._order.move, error)
        ended: list[MoveReport] = []
        waits = threading.Event()
        thread = threading.Thread(
            target=lambda: ended.append(self._settled(error, waits)), name="settlement", daemon=True
        )
        thread.start()
        thread.join(IN_DOUBT_S)
        waits.set()
        return ended[0] if ended else self._report(MoveOutcome.IN_DOUBT, error)

    def _settled(self, error: MartletError, is_late: threading.Event) -> MoveReport:
        refused = isinstance(error, Refused)
        if not refused:
            self._channel.close()
        if settlement.settle_source(self._context, self._book, refused=refused) is settlement.Runs.HERE:
            self._go_on()
            self._close(Phase.ABANDONED, error.message)
            self._say_goodbye()
            self._kept.close()
            report = self._report(MoveOutcome.STAYED, error)
        else:
            self._let_go()
            report = self._report(MoveOutcome.MOVED)
        if is_late.is_set():
            self._context.marks.pop(self._place.spec.id, None)
        return report

    def _let_go(self) -> None:
        """The session runs at the target: kill the copy with its link down, forward late frames, free everything."""
        self._gone = True
        self._context.departed(self._place.spec.id)
        places.destroy(self._place)
        time.sleep(LATE_S)
        self._hold.close()
        self._close(Phase.DONE, "the session runs at the target")
        self._say_goodbye()
        self._kept.close()
        self._timer.lap(Phase.DONE)

    def _close(self, phase: Phase, why: str) -> None:
        """Nobody asks a source what became of a move, so its journal goes with it."""
        self._book.close(phase, why=why)
        self._book.forget()

    def _say_goodbye(self) -> None:
        """Tell the target that it will not be asked, and wait until it has freed what it had for the move."""
        with contextlib.suppress(MartletError):
            self._channel.send(Kind.GOODBYE)
            self._expect(Kind.GOODBYE, deadline_s=GOODBYE_S)

    _is_shut = False
    _gone = False

    def _go_on(self) -> None:
        """End the freeze here: sockets out of repair, frames replayed, port open, processes thawed."""
        if self._is_shut and not self._gone:
            self._is_shut = False
            descriptor.end_tcp_repair(self._place.group.processes())
            self._hold.reopen()
            self._place.group.thaw()
            self._freeze_ms = round((time.monotonic() - self._shut_at) * 1000, 2)

    def _forward(self, frame: Frame) -> None:
        with contextlib.suppress(MartletError):
            self._channel.send(Kind.HELD_IN if frame.way is Way.IN else Kind.HELD_OUT, frame.data)

    def _expect(self, wanted: Kind, *, deadline_s: float) -> memoryview:
        kind, payload = self._channel.receive(deadline_s=deadline_s)
        if kind == Kind.REFUSED:
            refused = wire.decode(payload, messages.Refused)
            raise Refused(refused.text, reasons=refused.reasons)
        if kind != wanted:
            raise ToolFailed(f"{self._order.target.node} said {Kind(kind).name} where {wanted.name} was expected")
        return payload

    def _report(self, outcome: MoveOutcome, error: MartletError | None = None) -> MoveReport:
        reasons: tuple[Reason, ...] = ()
        if error is not None:
            reasons = error.reasons or (Reason(code="failed", text=error.message),)
        return MoveReport(
            session=self._place.spec.id,
            from_=self._context.me,
            to=self._order.target.node,
            mode=MoveMode.STOP_COPY,
            outcome=outcome,
            freeze_ms=self._freeze_ms,
            total_ms=self._timer.total_ms(),
            bytes=self._channel.bytes_sent if hasattr(self, "_channel") else 0,
            phases_ms=self._timer.phases_ms,
            reasons=reasons,
        )
