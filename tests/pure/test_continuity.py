"""What the comparison of two reports complains about."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bench.continuity import complaints, left_behind

SIDE = {"same": {"ids": [7]}, "advance": {"timerfd": 5}, "clock_ms": {"monotonic": 5.0}, "errors": []}
BEFORE: dict[str, Any] = {
    "client": {"advance": {"tcp": 5}, "silence_ms": 100.0, "errors": []},
    "parent": SIDE,
    "child": copy.deepcopy(SIDE),
}


def later() -> dict[str, Any]:
    report = copy.deepcopy(BEFORE)
    for side, key in (("client", "tcp"), ("parent", "timerfd"), ("child", "timerfd")):
        report[side]["advance"][key] += 1
    return report


def test_the_same_session_later_is_fine() -> None:
    assert complaints(BEFORE, later()) == []


@pytest.mark.parametrize(
    ("side", "part", "value", "words"),
    [
        ("parent", "same", {"ids": [8]}, "parent: ids was"),
        ("child", "same", {"ids": [7], "cwd": "/"}, "child: cwd was None"),
        ("child", "advance", {"timerfd": 5}, "child: timerfd stopped at 5"),
        ("client", "advance", {}, "client: tcp stopped"),
        ("child", "errors", ["broken"], "child: broken"),
        ("client", "errors", ["broken"], "client: broken"),
        ("parent", "clock_ms", {"monotonic": 1101.0}, "monotonic clock jumped"),
    ],
)
def test_each_kind_of_damage_is_one_complaint(side: str, part: str, value: object, words: str) -> None:
    after = later()
    after[side][part] = value
    (complaint,) = complaints(BEFORE, after)
    assert words in complaint


def test_what_came_and_what_went_is_named_as_often_as_it_did() -> None:
    before, after = {"mounts": ["/a", "/a", "/b"]}, {"mounts": ["/a", "/b", "/c", "/c"]}
    assert left_behind(before, after) == ["mounts: came ['/c', '/c'], went ['/a']"]
    assert left_behind(before, before) == []
