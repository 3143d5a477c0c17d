"""What the builder adds to a tree of packages: the recipe's files and links, and a plain `/dev`. Runs no program.

A session gets the image's own `/dev`, so the device nodes are real ones in the tree.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from martlet.image.recipe import File, Link, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    name: str
    major: int
    minor: int
    mode: int = 0o666


DEVICES = (
    Device(name="null", major=1, minor=3),
    Device(name="zero", major=1, minor=5),
    Device(name="full", major=1, minor=7),
    Device(name="random", major=1, minor=8),
    Device(name="urandom", major=1, minor=9),
    Device(name="tty", major=5, minor=0),
)
"""Linux: Documentation/admin-guide/devices.txt."""

DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
MOUNT_POINTS = ("proc", "sys", "run", "home", "tmp", "var/tmp")
"""Empty in every image: something is mounted there in a session and on a node."""


def finish(root: Path, recipe: Recipe) -> None:
    """Bring the tree under `root` into the shape that `recipe` says."""
    for name in MOUNT_POINTS:
        empty(root / name)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    make_devices(root / "dev")
    for path in recipe.directories:
        inside(root, path).mkdir(parents=True, exist_ok=True)
    write_files(root, recipe.files)
    make_links(root, recipe.links)


def make_devices(folder: Path) -> None:
    """A `/dev` of the usual nodes, links and mount points, whatever was there before."""
    empty(folder)
    fill_devices(folder)


def fill_devices(folder: Path) -> None:
    """The usual nodes, links and mount points in an empty folder."""
    for device in DEVICES:
        path = folder / device.name
        os.mknod(path, stat.S_IFCHR | device.mode, os.makedev(device.major, device.minor))
        path.chmod(device.mode)
    for name, target in DEVICE_LINKS.items():
        (folder / name).symlink_to(target)
    for name in ("pts", "shm"):
        (folder / name).mkdir()


def write_files(root: Path, files: Iterable[File]) -> None:
    for file in files:
        path = inside(root, file.path)
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text.removeprefix("\n"))
        path.chmod(file.mode)


def make_links(root: Path, links: Iterable[Link]) -> None:
    for link in links:
        path = inside(root, link.path)
        remove(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(link.target)


def empty(folder: Path) -> None:
    """An empty directory `folder`, mode 0755."""
    remove(folder)
    folder.mkdir()
    folder.chmod(0o755)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inside(root: Path, path: str) -> Path:
    """`path` of the image as a path of the host; `..` is refused by the recipes' tests, not here."""
    return root / path.lstrip("/")
