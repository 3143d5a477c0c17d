"""A lab of its own for tests, through the command line, and a look at what is left of one that was taken down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cluster import with_json
from martlet.errors import Exit

CHECKOUT = Path(__file__).resolve().parents[2]
MARTLET = Path(sys.executable).with_name("martlet")
LOGS = CHECKOUT / "test-logs"
BULK, RUN = Path("/var/lib/martlet-labs"), Path("/run/martlet-labs")
ORDER_DEADLINE_S = 300.0


class CommandFailed(AssertionError):
    """A command ended with another code than 0; `code`, `error` and `reasons` as the contract has them."""

    def __init__(self, arguments: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> None:
        answer = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        self.code = Exit(done.returncode) if done.returncode in set(Exit) else done.returncode
        self.error = str(answer.get("error", ""))
        self.reasons: list[dict[str, str]] = answer.get("reasons", [])
        super().__init__(f"martlet {' '.join(arguments)} ended with {self.code!r}:\n{done.stdout}{done.stderr}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """A running lab as an outside program sees it."""

    name: str

    def martlet(self, *arguments: str) -> Any:
        """`martlet ARGUMENTS --output json`, its answer parsed. Raises CommandFailed."""
        done = martlet(*with_json(arguments), lab=self.name)
        if done.returncode != 0:
            raise CommandFailed(arguments, done)
        return json.loads(done.stdout or "null")

    def exec(self, machine: str, *argv: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program in a machine to its end."""
        return martlet("lab", "exec", machine, "--", *argv, lab=self.name, input=input)

    def popen(self, machine: str, *argv: str) -> subprocess.Popen[bytes]:
        """Start a program in a machine, with pipes for standard input, output and errors, in a session of its own."""
        return subprocess.Popen(
            [str(MARTLET), "lab", "exec", machine, "--", *argv],
            env=environment(self.name), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip


def martlet(*arguments: str, lab: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the checkout's `martlet` for `lab`."""
    return subprocess.run(
        [str(MARTLET), *arguments], env=environment(lab), text=True, capture_output=True, check=False,
        timeout=ORDER_DEADLINE_S, **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
    )  # fmt: skip


def environment(lab: str) -> dict[str, str]:
    return {**os.environ, "MARTLET_CLUSTER": lab}


def start(name: str, *options: str) -> Lab:
    """Bring a lab up. Raises CommandFailed, its logs kept."""
    arguments = ("lab", "up", "--name", name, *options)
    done = martlet(*arguments, "--output", "json", lab=name)
    if done.returncode != 0:
        keep_logs(name, "lab-up")
        martlet("lab", "down", "--name", name, lab=name)
        raise CommandFailed(arguments, done)
    return Lab(name=name)


def end(name: str) -> None:
    """Take a lab down, and make sure that nothing is left of it."""
    spaces = namespaces(name)
    done = martlet("lab", "down", "--name", name, lab=name)
    assert done.returncode == 0, done.stderr
    assert left_behind(name, spaces) == []


def namespaces(name: str) -> set[str]:
    """The namespaces of a lab's machines that are not the host's own, as `net:[4026532000]`."""
    pids = json.loads((RUN / name / "lab.json").read_text())["pids"].values()
    found = {space for pid in pids for space in spaces_of(Path(f"/proc/{pid}"))}
    return found - spaces_of(Path("/proc/self"))


def spaces_of(process: Path) -> set[str]:
    try:
        return {os.readlink(path) for path in (process / "ns").iterdir()}
    except OSError:
        return set()


def left_behind(name: str, spaces: set[str]) -> list[str]:
    """What there still is of a lab that was taken down: processes, mounts, control groups, folders."""
    processes = [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
    inside = [f"process {path.name}" for path in processes if spaces_of(path) & spaces]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/martlet-lab-{name}")]
    folders = [str(place) for place in (BULK / name, RUN / name, RUN / f".{name}.lock") if place.exists()]
    return inside + mounts + groups + folders


def keep_logs(name: str, test: str) -> None:
    """Copy the logs of every machine of a lab to `test-logs/TEST/`."""
    for folder in (BULK / name).glob("*/upper/var/log/martlet"):
        target = LOGS / test.replace("/", "_") / folder.relative_to(BULK / name).parts[0]
        shutil.rmtree(target, ignore_errors=True)  # an earlier run's
        shutil.copytree(folder, target, symlinks=True, dirs_exist_ok=True)
