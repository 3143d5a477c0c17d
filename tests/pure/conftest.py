"""The pure ring: no root, no network but the loopback device, and no process may be started; this guard makes
that an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system"})
"""Audit events of what starts a program (docs.python.org, audit events table)."""

_running_pure = False


def _refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if _running_pure and event in STARTS:
        raise AssertionError(f"a pure test started a process ({event}); move it to tests/kernel")


sys.addaudithook(_refuse)


@pytest.fixture(autouse=True)
def no_processes() -> Iterator[None]:
    """Audit hooks stay for the life of the interpreter, so this one is switched on for the length of a test."""
    global _running_pure
    _running_pure = True
    yield
    _running_pure = False
