"""Imports point downward only: a part of `martlet` may import itself and what stands before it in `LAYERS`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import martlet

PACKAGE = Path(martlet.__file__).parent
LAYERS = (
    {"__init__", "model", "errors", "config", "process", "log", "authority", "wire", "rfb"},
    {"policy"},
    {"bus"},
    {"kernel"},
    {"image"},
    {"session"},
    {"move"},
    {"mother", "agent"},
    {"gateway"},
    {"cli", "lab", "sim"},
)


def layer_of(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported(path: Path) -> Iterator[str]:
    """The parts of martlet that a file imports, at its top or anywhere inside."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("martlet."))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    parts = {part for part in imported(path) if part != own and not part.startswith("__")}
    upward = sorted(part for part in parts if layer_of(part) > layer_of(own))
    assert not upward, f"{own} stands below {', '.join(upward)} and must not import it"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_under_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
