"""Runs a command inside a machine of a lab as if it were run here: stdin, stdout, exit code and Ctrl-C go through.

Enters the namespaces itself, because nsenter dies of a Ctrl-C that its program would handle. Knows no lab's making.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from martlet.errors import NotFound
from martlet.kernel import namespace
from martlet.lab import registry
from martlet.lab.machine import OF_THE_CHILD, OWN, SYSTEM
from martlet.lab.registry import LabState
from martlet.process import environment

PYTHONPATH = "/opt/martlet/src:/opt/martlet/site-packages"
NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit codes as a shell has them."""
PR_SET_PDEATHSIG = 1
FROM_THE_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
"""The terminal sends these to the command, too; what comes of them is the command's business."""
PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


def execute(lab: LabState, machine: str, argv: Sequence[str]) -> NoReturn:
    """Run `argv` inside `machine`, in all its namespaces and among its daemons, and exit as it does.

    Raises:
        NotFound: the lab has no such machine, or it is dead.
    """
    pid = lab.pids.get(machine)
    group = registry.group(lab.name).child(machine)
    if pid is None or pid not in group.processes():
        raise NotFound(f"the lab '{lab.name}' runs no machine '{machine}'; it has: {', '.join(lab.pids)}")
    group.child(SYSTEM).attach(os.getpid())
    namespace.setns(os.pidfd_open(pid), OWN | OF_THE_CHILD)
    for number in FROM_THE_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        _become(argv)
    for number in PASSED_ON:
        signal.signal(number, lambda passed, _: _pass_on(child, passed))
    _exit_like(os.waitpid(child, 0)[1])


def _become(argv: Sequence[str]) -> NoReturn:
    """Never returns, in this copy of the process: it is `argv`, or it says why not and ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    for number in (*FROM_THE_TERMINAL, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    code = NOT_EXECUTABLE
    try:
        os.execvpe(argv[0], list(argv), environment({"PYTHONPATH": PYTHONPATH, "TERM": os.environ.get("TERM", "dumb")}))
    except FileNotFoundError:
        code = NOT_FOUND
        os.write(sys.stderr.fileno(), f"martlet: the program '{argv[0]}' is not there\n".encode())
    except OSError as error:
        os.write(sys.stderr.fileno(), f"martlet: cannot run '{argv[0]}': {error.strerror}\n".encode())
    finally:
        os._exit(code)


def _pass_on(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _exit_like(status: int) -> NoReturn:
    """End as the child did: by its code, or by the signal that ended it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))
