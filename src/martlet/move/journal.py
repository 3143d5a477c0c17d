"""What one side of a move has promised, on disk before it is said: one line a step, synced.

The journal alone decides nothing; `recovery` reads it together with the store's epoch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from martlet.model import MoveMode, SessionSpec
from martlet.move import machine
from martlet.move.machine import Phase, Side

KEPT_CLOSED = 50


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step. The first entry says what the move is; `revision` is that of the owner's record, for the permit."""

    phase: Phase
    move: str = ""
    spec: SessionSpec | None = None
    source: str = ""
    target: str = ""
    target_address: str = ""
    target_port: int = 0
    mode: MoveMode = MoveMode.STOP_COPY
    epoch: int = 0
    revision: int = 0
    why: str = ""


class Journal:
    """One side of one move. `phase` is the last one written."""

    def __init__(self, path: Path, entries: list[Entry]) -> None:
        self.path = path
        self.first = entries[0]
        self.phase = entries[-1].phase
        self.revision = max(entry.revision for entry in entries)

    @property
    def side(self) -> Side:
        return Side(self.path.stem.rpartition(".")[2])

    @property
    def move(self) -> str:
        return self.first.move

    @property
    def spec(self) -> SessionSpec:
        assert self.first.spec is not None
        return self.first.spec

    @property
    def is_open(self) -> bool:
        return self.phase not in machine.CLOSED

    def write(self, phase: Phase, *, revision: int = 0, why: str = "", sync: bool = True) -> None:
        """Take a step: it is on disk when this returns, unless `sync` is off (for steps that promise nothing).

        Raises:
            IllegalStep: the table of moves does not allow it.
        """
        machine.step(self.phase, phase)
        append(self.path, Entry(phase=phase, revision=revision, why=why), sync=sync)
        self.phase = phase
        self.revision = max(self.revision, revision)

    def close(self, phase: Phase, *, why: str) -> None:
        """Close a move, from any phase, to `done` or `abandoned`. The journal stays until `forget`."""
        assert phase in machine.CLOSED
        append(self.path, Entry(phase=phase, why=why), sync=True)
        self.phase = phase

    def forget(self) -> None:
        """Remove the journal of a closed move that nobody will ask about any more."""
        assert not self.is_open
        self.path.unlink(missing_ok=True)


def begin(folder: Path, side: Side, first: Entry) -> Journal:
    """Start the journal of one side of a move; it is on disk when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{first.move}.{side}.jsonl"
    append(path, first, sync=True)
    _sync_folder(folder)
    _forget_old(folder)
    return Journal(path, [first])


def append(path: Path, entry: Entry, *, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(msgspec.json.encode(entry) + b"\n")
        file.flush()
        if sync:
            os.fdatasync(file.fileno())


def read_all(folder: Path) -> Iterator[Journal]:
    """Every journal in `folder`, open and closed; a last line that a power cut halved is left out."""
    for path in sorted(folder.glob("*.jsonl")):
        entries = list(_entries(path))
        if entries and entries[0].spec is not None:
            yield Journal(path, entries)


def find(folder: Path, move: str, side: Side) -> Journal | None:
    path = folder / f"{move}.{side}.jsonl"
    entries = list(_entries(path)) if path.exists() else []
    return Journal(path, entries) if entries else None


def _entries(path: Path) -> Iterator[Entry]:
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=Entry)
        except msgspec.DecodeError:
            return


def _forget_old(folder: Path) -> None:
    """Keep the newest closed journals, for a source that was away, and the newest logs of failures; drop the rest."""
    closed = [journal.path for journal in read_all(folder) if not journal.is_open]
    for paths in (closed, list(folder.glob("*.criu.log"))):
        paths.sort(key=lambda path: path.stat().st_mtime)
        for path in paths[:-KEPT_CLOSED]:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
