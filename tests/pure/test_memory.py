"""A machine's free memory: what the kernel says, or less where the machine's own root group has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from martlet.kernel import cgroup
from martlet.kernel.cgroup import Hierarchies, Memory

MiB = 1024 * 1024
MEMINFO = "MemTotal:        8192 kB\nMemFree:          100 kB\nMemAvailable:    4096 kB\n"


@pytest.fixture(autouse=True)
def meminfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    monkeypatch.setattr(cgroup, "MEMINFO", path)


def filled(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")
    return folder


def test_without_a_limit_the_kernel_has_the_word(tmp_path: Path) -> None:
    wanted = Memory(total_bytes=8 * MiB, free_bytes=4 * MiB)
    true_root = filled(tmp_path / "root")
    assert Hierarchies(unified=true_root, v1={}).memory() == wanted
    unlimited = filled(tmp_path / "v2", memory__max="max", memory__current=str(3 * MiB))
    assert Hierarchies(unified=unlimited, v1={}).memory() == wanted
    files = {"memory__limit_in_bytes": "9223372036854771712", "memory__usage_in_bytes": str(3 * MiB)}
    assert Hierarchies(unified=true_root, v1={"memory": filled(tmp_path / "v1", **files)}).memory() == wanted


def test_a_limit_counts_in_version_1(tmp_path: Path) -> None:
    files = {"memory__limit_in_bytes": str(6 * MiB), "memory__usage_in_bytes": str(5 * MiB)}
    stat = f"inactive_file 0\ntotal_inactive_file {2 * MiB}"
    limited = filled(tmp_path / "v1", **files, memory__stat=stat)
    found = Hierarchies(unified=tmp_path, v1={"memory": limited}).memory()
    assert found == Memory(total_bytes=6 * MiB, free_bytes=3 * MiB)


def test_a_limit_counts_in_version_2_and_is_never_below_nothing(tmp_path: Path) -> None:
    limited = filled(
        tmp_path / "v2", memory__max=str(MiB), memory__current=str(2 * MiB), memory__stat="inactive_file 0"
    )
    assert Hierarchies(unified=limited, v1={}).memory() == Memory(total_bytes=MiB, free_bytes=0)
