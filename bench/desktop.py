"""A desktop of the lab with a person in front of it: the display watched from the client machine, and typing.

Shared by the demonstration and the measurements; measures nothing itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.cluster import Lab, Program, client_program, wait_for_process
from martlet.errors import ToolFailed

TRIES = 5
KEY_S = 0.1
"""Longer than the time between two keys of `watch_display`."""


@contextlib.contextmanager
def watched(lab: Lab, address: str, *options: str) -> Iterator[Program]:
    """A VNC client of the desktop at `address`, connected until the block ends; see `bench.programs.watch_display`."""
    with client_program(lab, "watch_display", address, "5901", *options) as display:
        yield display


def tell(display: Program, **order: Any) -> None:
    display.order(json.dumps(order))


def type_command(lab: Lab, display: Program, session: str, command: str, word: str) -> None:
    """Type `command` into the terminal, as a person would, until a process with `word` in its command is seen.

    The terminal may not be there yet, so the typing is repeated.

    Raises:
        ToolFailed: it did not start.
    """
    for _ in range(TRIES):
        tell(display, do="click")
        time.sleep(0.5)
        tell(display, do="type", text=command + "\n")
        if wait_for_process(lab, session, word, deadline_s=len(command) * KEY_S + 3):
            return
    raise ToolFailed(f"'{command}', typed {TRIES} times into the terminal of {session}, did not start")


def type_program(lab: Lab, display: Program, session: str, module: str, *args: str) -> None:
    """Start `bench.programs.MODULE` by typing; see `type_command`."""
    words = ("PYTHONPATH=~", "python3", "-m", f"bench.programs.{module}", *args)
    type_command(lab, display, session, " ".join(words), module)


def save_picture(display: Program, path: Path) -> None:
    """Write the picture as the watching client has built it from updates, as PNG."""
    tell(display, do="screenshot")
    picture = base64.b64decode(display.answer()["screenshot"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
