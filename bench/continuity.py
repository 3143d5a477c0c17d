"""What a move must not change: compares two reports of `bench.programs.everything_client` and of `node_listing`.

Pure; returns every complaint as a sentence, and an empty list when there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

SIDES = ("parent", "child")
CLOCK_SLACK_MS = 1000.0


def complaints(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is wrong with `after`, a report on the same session later: changed state, broken streams, stopped
    counters, clocks that went back or jumped by more than the silence that the client saw and a second."""
    silence_ms = after["client"]["silence_ms"]
    found = [f"client: {line}" for line in after["client"]["errors"]]
    found += stopped("client", before["client"]["advance"], after["client"]["advance"])
    for side in SIDES:
        found += [f"{side}: {line}" for line in after[side]["errors"]]
        found += changed(side, before[side]["same"], after[side]["same"])
        found += stopped(side, before[side]["advance"], after[side]["advance"])
        found += jumped(side, after[side]["clock_ms"], silence_ms)
    return found


def changed(side: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    keys = sorted(before.keys() | after.keys())
    differing = [key for key in keys if before.get(key) != after.get(key)]
    return [f"{side}: {key} was {before.get(key)} and is {after.get(key)}" for key in differing]


def stopped(side: str, before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    still = [key for key, count in before.items() if after.get(key, -1) <= count]
    return [f"{side}: {key} stopped at {before[key]} (now {after.get(key)})" for key in still]


def jumped(side: str, steps_ms: Mapping[str, float], silence_ms: float) -> list[str]:
    far = {name: step for name, step in steps_ms.items() if step > silence_ms + CLOCK_SLACK_MS}
    return [f"{side}: the {name} clock jumped {step} ms in a silence of {silence_ms} ms" for name, step in far.items()]


def left_behind(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between two listings of one node: each kind with what came and what went."""
    found = []
    for kind in sorted(before.keys() | after.keys()):
        old, new = Counter(before.get(kind, ())), Counter(after.get(kind, ()))
        came, went = sorted((new - old).elements()), sorted((old - new).elements())
        if came or went:
            found.append(f"{kind}: came {came}, went {went}")
    return found
