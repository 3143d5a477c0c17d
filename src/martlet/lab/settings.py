"""The kernel settings of the whole machine that labs need; the first lab makes them, the last one puts them back.

Former values are written down before a setting is changed. Nothing else of the host is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from martlet.lab import lock

logger = logging.getLogger(__name__)


class Bound(Enum):
    """On which side of its value a setting is left alone."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    path: str
    bound: Bound
    value: int
    why: str


SETTINGS = (
    Setting(
        path="/sys/module/nf_conntrack/parameters/hashsize",
        bound=Bound.AT_MOST,
        value=4096,
        why="the kernel walks the whole table whenever a network namespace is dumped or removed",
    ),
    Setting(
        path="/proc/sys/fs/inotify/max_user_instances",
        bound=Bound.AT_LEAST,
        value=1024,
        why="all machines of all labs share root's allowance",
    ),
)


def wanted(setting: Setting, present: int) -> int:
    """The value to set where `present` is the one now."""
    return max(present, setting.value) if setting.bound is Bound.AT_LEAST else min(present, setting.value)


def make(record: Path) -> None:
    """Make the settings that are not as needed, former values kept in `record`. A setting this kernel lacks is fine."""
    with lock.held(record.with_suffix(".lock"), wait=True):
        former = _read(record)
        for setting in SETTINGS:
            present = _value(setting.path)
            if present is None or wanted(setting, present) == present:
                continue
            former.setdefault(setting.path, present)
            record.write_bytes(msgspec.json.encode(former))
            _set(setting.path, wanted(setting, present))


def put_back(record: Path, *, still_needed: Callable[[], bool]) -> None:
    """Set the former values again and forget them, unless another lab needs them. Nothing recorded is fine."""
    with lock.held(record.with_suffix(".lock"), wait=True):
        if still_needed():
            return
        for path, value in _read(record).items():
            _set(path, value)
        record.unlink(missing_ok=True)


def _value(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _set(path: str, value: int) -> None:
    """A setting that cannot be changed makes a lab slower, not wrong: it is reported, not fatal."""
    try:
        Path(path).write_text(f"{value}\n")
    except OSError as error:
        logger.warning("cannot set %s to %d: %s", path, value, error.strerror)


def _read(record: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(record.read_bytes(), type=dict[str, int])
    except FileNotFoundError:
        return {}
