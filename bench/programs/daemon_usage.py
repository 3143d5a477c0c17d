"""In a node: how much of a core and how much memory the processes of one daemon take over some time.

Reads /proc only; a process counts when its command line has the given word.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def processes(word: str) -> dict[int, Path]:
    """The processes whose command line has `word` as one of its arguments, without this one."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (path / "cmdline").read_bytes().split(b"\0") and int(path.name) != os.getpid():
                found[int(path.name)] = path
    return found


def cpu_s(process: Path) -> float:
    """User and system time used so far (fields 14 and 15 of proc_pid_stat(5))."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_bytes(process: Path) -> int:
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("word", help="an argument of the daemon's command line")
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    before = {pid: cpu_s(path) for pid, path in processes(options.word).items()}
    time.sleep(options.seconds)
    after = {pid: path for pid, path in processes(options.word).items() if pid in before}
    used_s = sum(cpu_s(path) - before[pid] for pid, path in after.items())
    memory = sum(rss_bytes(path) for path in after.values())
    print(
        json.dumps(
            {
                "pids": sorted(after),
                "restarted": sorted(before) != sorted(after),
                "cpu_pct": round(100 * used_s / options.seconds, 3),
                "rss_bytes": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
