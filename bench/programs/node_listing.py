"""In a node: list everything that a move could leave behind, as JSON with one sorted list of strings for each kind.

Looks and changes nothing; numbers that differ from run to run (pids, inodes) are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("/run/martlet", "/var/lib/martlet", "/tmp", "/var/tmp", "/dev/shm")
OUTSIDE = ("/var/lib/martlet/images", "/var/lib/martlet/nats")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


def processes() -> Iterator[tuple[Path, str]]:
    """Each process but this one and its parent, with its command line."""
    mine = {os.getpid(), os.getppid()}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if int(path.name) not in mine:
                yield path, command


def namespaces() -> list[str]:
    """How many namespaces of each kind the processes are in."""
    seen: dict[str, set[str]] = {kind: set() for kind in NAMESPACES}
    for path, _ in processes():
        for kind in NAMESPACES:
            with contextlib.suppress(OSError):
                seen[kind].add(os.readlink(path / "ns" / kind))
    return [f"{kind}: {len(found)}" for kind, found in seen.items()]


def mounts() -> list[str]:
    """Mount points and file system types of the node's first process (proc_pid_mountinfo(5))."""
    lines = Path("/proc/1/mountinfo").read_text().splitlines()
    return [f"{line.split()[4]} {line.partition(' - ')[2].split()[0]}" for line in lines]


def files() -> list[str]:
    found = []
    for folder in FOLDERS:
        for path, names, plain in os.walk(folder):
            names[:] = [name for name in names if os.path.join(path, name) not in OUTSIDE]
            found += [os.path.join(path, name) for name in (*names, *plain)]
    return found


def descriptors(word: str) -> list[str]:
    """The open files of the processes with `word` in their command line, sockets and pipes without their inodes."""
    found = []
    for path, command in processes():
        if word in command:
            for fd in (path / "fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(fd)
                    found.append(target.partition(":")[0] if target.startswith(("socket:", "pipe:")) else target)
    return found


def listing(daemon: str) -> dict[str, list[str]]:
    rules = subprocess.run(["nft", "--stateless", "list", "ruleset"], capture_output=True, text=True, check=True)
    found = {
        "processes": [command for _, command in processes()],
        "namespaces": namespaces(),
        "mounts": mounts(),
        "links": [name for _, name in socket.if_nameindex()],
        "cgroups": [path for path, _, _ in os.walk("/sys/fs/cgroup")],
        "rules": rules.stdout.splitlines(),
        "files": files(),
        "descriptors": descriptors(daemon),
    }
    return {kind: sorted(lines) for kind, lines in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--daemon", default="martlet.agent", help="whose open files to list")
    print(json.dumps(listing(parser.parse_args().daemon)))


if __name__ == "__main__":
    main()
