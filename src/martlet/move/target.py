"""The target's side of a move: take in, restore, commit, let run.

Blocking: one thread reads the stream, another restores. Until the commit every failure ends with nothing left here
and a journaled refusal; the commit is one swap, made while the restored session is stopped and its cgroup frozen.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import threading
import time
from contextlib import ExitStack, suppress

from martlet import wire
from martlet.errors import Conflict, MartletError, NotFound, Refused, ToolFailed, Unreachable
from martlet.kernel import criu, namespace
from martlet.kernel.criu import Criu, Identity
from martlet.model import MoveMode, NodeVerdict, Ownership, Reason, SessionSpec, SessionState
from martlet.move import check, files, journal, messages
from martlet.move.context import Context
from martlet.move.hold import Frame, Way
from martlet.move.landing import Landing
from martlet.move.machine import Phase, Side
from martlet.move.messages import Area, Kind
from martlet.session import place as places
from martlet.wire import Channel

logger = logging.getLogger(__name__)

STREAM_S = 60.0
PERMIT_S = 60.0
RESTORE_S = 120.0
RETRY_S = 0.2


def admit(context: Context, wanted: check.Wanted) -> NodeVerdict:
    """Would this node take that session? With every reason when not."""
    spec = wanted.spec
    host = check.Host(
        facts=context.facts(),
        state=context.state(),
        free_bytes=context.hierarchies.memory().free_bytes,
        has_image=_has_image(context, spec),
        has_criu=criu.is_installed(),
        has_session=(places.sessions_folder(context.config) / spec.id).exists(),
        uid=_uid(spec.user),
        has_home=os.path.isdir(spec.home),
    )
    reasons = check.objections(wanted, host)
    return NodeVerdict(name=context.me, ok=not reasons, reasons=tuple(reasons))


def take_in(context: Context, channel: Channel) -> None:
    """Serve one move that a source has opened; returns when its stream has ended and all is settled here."""
    kind, payload = channel.receive()
    if kind != Kind.PREPARE:
        raise ToolFailed(f"{channel.peer} began a move with a frame of kind {kind}")
    prepare = wire.decode(payload, messages.Prepare)
    wanted = check.Wanted(
        spec=prepare.spec,
        source=prepare.source,
        memory_bytes=prepare.memory_bytes,
        private_bytes=prepare.private_bytes,
    )
    verdict = admit(context, wanted)
    if not verdict.ok:
        text = f"{context.me} cannot take the session {prepare.spec.id}"
        channel.send_value(Kind.REFUSED, messages.Refused(text=text, reasons=verdict.reasons))
        return
    context.marks[prepare.spec.id] = SessionState.MOVING
    try:
        _Incoming(context, channel, prepare).run()
    finally:
        context.marks.pop(prepare.spec.id, None)
    channel.send(Kind.GOODBYE)


def answer(context: Context, channel: Channel) -> None:
    """Say what became of a move here; of one that this node does not know it can say nothing."""
    _, payload = channel.receive()
    move = wire.decode(payload, messages.Ask).move
    book = journal.find(context.journals, move, Side.TARGET)
    verdict = messages.Verdict(
        refused=book is not None and book.phase is Phase.ABANDONED,
        resumed=book is not None and book.phase in (Phase.RESUMED, Phase.DONE),
    )
    channel.send_value(Kind.VERDICT, verdict)


class _Incoming:
    """One session coming in."""

    def __init__(self, context: Context, channel: Channel, prepare: messages.Prepare) -> None:
        self._context, self._channel, self._prepare = context, channel, prepare
        self._place = context.place(prepare.spec)
        self._rootfs = context.rootfs(prepare.spec)
        self._group = context.group(prepare.move)
        self._permit: messages.Permit | None = None
        self._permitted = threading.Event()
        self._given_up = threading.Event()
        self._deciding = threading.Lock()
        self._committing = False
        self._committed = False
        self._landing: Landing | None = None
        self._failure: MartletError | None = None
        self._phases_ms: dict[str, float] = {}
        self._may_be_asked = False

    def run(self) -> None:
        self._book = journal.begin(
            self._context.journals,
            Side.TARGET,
            journal.Entry(
                phase=Phase.ASKED,
                move=self._prepare.move,
                spec=self._prepare.spec,
                source=self._prepare.source.node,
                target=self._context.me,
                epoch=self._prepare.epoch,
                mode=MoveMode.STOP_COPY,
            ),
        )
        with ExitStack() as undo:
            try:
                self._build(undo)
                self._receive()
                restoring = threading.Thread(target=self._restore, name=f"restore-{self._prepare.spec.id}")
                restoring.start()
                self._may_be_asked = True
                self._listen(restoring)
                self._await_restore(restoring)
                if self._failure is not None:
                    raise self._failure
            except MartletError as error:
                self._refuse(error)
        if self._book.phase is Phase.ABANDONED:
            criu.tidy(self._context.working_groups)
        if not self._may_be_asked and not self._book.is_open:
            self._book.forget()

    def _build(self, undo: ExitStack) -> None:
        place = self._place
        self._group.create()
        undo.callback(self._group.remove)
        undo.callback(self._group.kill)
        self._images = self._context.images(self._prepare.move)
        self._images.mkdir(parents=True)
        undo.callback(shutil.rmtree, self._images.parent, ignore_errors=True)
        places.build(place, self._rootfs)
        self._landing = Landing(place)
        undo.callback(self._landing.close)
        self._net_fd = undo.enter_context(namespace.opened(place.net))
        identity = Identity(uid=place.spec.uid, gid=place.spec.gid)
        self._criu = undo.enter_context(Criu(identity, place.group, pass_fds=(self._net_fd,)))
        self._files = files.Receiver({Area.IMAGES: self._images, Area.PRIVATE: place.private})
        undo.callback(self._files.close)
        self._book.write(Phase.PREPARED, sync=False)
        self._channel.send_value(Kind.PREPARED, messages.Prepared(target=self._context.me))

    def _receive(self) -> None:
        """Lay out files until the source says that they are complete."""
        self._book.write(Phase.COPIED, sync=False)
        self._book.write(Phase.FROZEN, sync=False)
        while True:
            kind, payload = self._channel.receive(deadline_s=STREAM_S)
            match kind:
                case Kind.FILES:
                    self._files.files(payload)
                case Kind.DATA:
                    self._files.data(payload)
                case Kind.COMPLETE:
                    self._files.finish()
                    return
                case _:
                    raise ToolFailed(f"{self._prepare.source.node} sent a frame of kind {kind} among files")

    def _listen(self, restoring: threading.Thread) -> None:
        """Take the permit and held frames until the source says that no more will come."""
        try:
            while True:
                kind, payload = self._channel.receive(deadline_s=STREAM_S)
                if kind == Kind.GOODBYE:
                    self._may_be_asked = False
                    return
                if kind == Kind.PERMIT:
                    self._permit = wire.decode(payload, messages.Permit)
                    self._book.write(Phase.PERMITTED, revision=self._permit.revision)
                    self._permitted.set()
                elif kind in (Kind.HELD_IN, Kind.HELD_OUT):
                    assert self._landing is not None
                    self._landing.take(Frame(way=Way.IN if kind == Kind.HELD_IN else Way.OUT, data=bytes(payload)))
        except MartletError as error:
            if restoring.is_alive() and not self._permitted.is_set():
                logger.warning("move %s: %s", self._prepare.move, error)
                self._given_up.set()
                self._permitted.set()

    def _await_restore(self, restoring: threading.Thread) -> None:
        """Wait for the restore; one that does not come to its commit in time is killed, and refused by that."""
        restoring.join(RESTORE_S)
        with self._deciding:
            if not self._committing:
                self._given_up.set()
        if self._given_up.is_set():
            self._permitted.set()
            self._place.group.kill()
        restoring.join()

    def _restore(self) -> None:
        """In a thread of its own: restore, and in criu's last notification commit."""
        self._began = time.monotonic()
        try:
            self._criu.restore(
                root=self._place.root,
                images=self._images,
                net_fd=self._net_fd,
                mounts=self._place.mounts_by_key,
                notified=self._notified,
            )
            self._book.write(Phase.DONE)
        except MartletError as error:
            self._failure = error
            self._tell_refusal(error)
        except Exception as error:  # the top of a thread: a defect of ours must not leave a half-built copy
            logger.exception("move %s", self._prepare.move)
            self._failure = ToolFailed(f"a defect in the restore: {error!r}")
            self._tell_refusal(self._failure)

    def _notified(self, what: str, _pid: int) -> bool:
        """criu ignores the answer to `pre-resume`: to stop there, kill before answering."""
        if what == "pre-resume":
            self._lap("restored")
            try:
                self._commit()
            except MartletError:
                self._place.group.kill()
                self._group.kill()
                raise
            self._committed = True
            self._let_run()
        return True

    def _commit(self) -> None:
        """The one point of no return: owner = this node, epoch + 1, on the permit's revision.

        The cgroup is frozen meanwhile, criu in it: should criu die now, the copy that it lets go still does not run.
        """
        self._place.group.hold_frozen()
        with self._deciding:
            self._committing = not self._given_up.is_set()
        if not self._permitted.wait(PERMIT_S) or self._given_up.is_set() or self._permit is None:
            raise Refused("the source gave no permit")
        self._lap("permit")
        owner = Ownership(node=self._context.me, epoch=self._permit.epoch + 1)
        while True:
            try:
                self._context.owners.swap(self._place.spec.id, owner, self._permit.revision)
                break
            except Conflict as error:
                if not self._is_ours():
                    raise Refused("the source has taken the session back") from error
                break
            except Unreachable as error:
                # Done or not done: only another swap on the same revision tells.
                logger.warning("move %s: no answer to the commit, trying again: %s", self._prepare.move, error)
                time.sleep(RETRY_S)
        self._lap("commit")

    def _is_ours(self) -> bool:
        """Whether the swap that we lost was lost to our own earlier try."""
        while True:
            with suppress(Unreachable):
                return self._context.owners.read(self._place.spec.id)[0].node == self._context.me
            time.sleep(RETRY_S)

    def _let_run(self) -> None:
        """Committed: let it run, open the port, replay the hold, tell the source. Nothing here may undo anything."""
        assert self._landing is not None
        with suppress(OSError):  # a full disk must not stop what the store has decided
            self._book.write(Phase.COMMITTED, sync=False)
        self._place.group.thaw()
        self._landing.open()
        self._lap("resume")
        self._context.marks[self._place.spec.id] = SessionState.RUNNING  # as people see it; orders still wait
        self._context.arrived(self._place.spec.id, self._prepare.epoch + 1)
        with suppress(MartletError):
            self._channel.send_value(Kind.COMMITTED, messages.Committed(revision=0))
            self._channel.send_value(Kind.RESUMED, messages.Resumed(phases_ms=self._phases_ms))
        self._book.write(Phase.RESUMED, sync=False)

    def _tell_refusal(self, error: MartletError) -> None:
        """Kill what was restored, journal that it never will be, and only then say so. Not after the commit: then the
        session is this node's, and runs."""
        if self._committed:
            logger.error("move %s: after the commit: %s", self._prepare.move, error)
            self._place.group.thaw()
            places.open_port(self._place)
            return
        criu.keep_log(self._context.images(self._prepare.move), self._book.path.with_suffix(".criu.log"))
        self._place.group.kill()
        self._group.kill()
        places.destroy(self._place)
        self._book.close(Phase.ABANDONED, why=error.message)
        reasons = error.reasons or (Reason(code="restore_failed", text=error.message),)
        with suppress(MartletError):
            self._channel.send_value(Kind.REFUSED, messages.Refused(text=error.message, reasons=reasons))

    def _refuse(self, error: MartletError) -> None:
        logger.warning("move %s: %s", self._prepare.move, error)
        if self._book.is_open:
            self._tell_refusal(error)

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self._phases_ms[name] = round((now - self._began) * 1000, 2)
        self._began = now


def _has_image(context: Context, spec: SessionSpec) -> bool:
    try:
        context.rootfs(spec)
    except NotFound:
        return False
    return True


def _uid(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
