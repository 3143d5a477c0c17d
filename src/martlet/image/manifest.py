"""The digest of a file tree: one hash over a sorted list of all that a session could tell apart. Changes nothing.

A line an entry: path, type, mode, uid, gid, and by type the SHA-256 of the content, the target of a link or the
numbers of a device. Times are left out, so that the same content has the same digest wherever it was unpacked.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What `measure` found: the digest as `sha256:…`, and the size of all files, hard links counted once."""

    digest: str
    bytes: int


def measure(root: Path) -> Tree:
    """Read the whole tree under `root`."""
    total, seen, digest = 0, set(), hashlib.sha256()
    for path in walk(root):
        info = path.lstat()
        digest.update(line(path, info, root=root))
        if stat.S_ISREG(info.st_mode) and info.st_ino not in seen:
            seen.add(info.st_ino)
            total += info.st_size
    return Tree(digest=f"sha256:{digest.hexdigest()}", bytes=total)


def walk(root: Path) -> Iterator[Path]:
    """`root` and all below it, in an order that depends on names alone."""
    yield root
    for folder, folders, files in os.walk(root):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = sorted(set(folders) - set(linked))
        yield from (Path(folder) / name for name in sorted([*folders, *files, *linked]))


def line(path: Path, info: os.stat_result, *, root: Path) -> bytes:
    """The manifest's line for one entry; fields end in NUL, which no name can hold."""
    kind = stat.S_IFMT(info.st_mode)
    fields = [f"{kind:o}", f"{stat.S_IMODE(info.st_mode):o}", str(info.st_uid), str(info.st_gid), detail(path, info)]
    name = os.fsencode(path.relative_to(root))
    return b"\0".join([name, *(os.fsencode(item) for item in fields)]) + b"\0\n"


def detail(path: Path, info: os.stat_result) -> str:
    """What an entry holds: content hash, link target, device numbers, or nothing."""
    if stat.S_ISREG(info.st_mode):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path)
    if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
        return f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
    return ""
