"""SPECIFICATION.md names files and tests that are there, and hides no promise without proof."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (TOP / "SPECIFICATION.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]
NODE_ID = re.compile(r"`((?:pure|kernel)/\w+\.py)::([\w:]+)(?:\[([\w-]+)\])?`")


def names_in(path: Path) -> Iterator[str]:
    """Every test of a file as `name` or `Class::name`."""
    for node in ast.parse(path.read_text()).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        yield from (prefix + one.name for one in inner if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_promise_names_what_is_there(row: list[str]) -> None:
    _, _, kept_in, proof = row
    found = NODE_ID.findall(proof)
    assert len(found) == len(re.findall(r"`[^`]*::[^`]*`", proof)), "not every node id could be read"
    for file, name, parameter in found:
        path = TOP / "tests" / file
        assert name in names_in(path), f"{file} has no {name}"
        assert not parameter or re.search(rf"""["']{parameter}["']""", path.read_text()), f"no case {parameter}"
    assert found or "**no test**" in proof, "neither a test nor the word that there is none"
    for file in re.findall(r"`([^`]+)`", kept_in):
        assert (TOP / "src/martlet" / file).is_file() or (TOP / file).is_file(), f"there is no {file}"


def test_numbers_are_given_once_and_in_order() -> None:
    numbers = [tuple(map(int, row[0].split("."))) for row in ROWS]
    assert len(numbers) > 40
    assert numbers == sorted(set(numbers))
