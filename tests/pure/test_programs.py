"""The parts of the measuring programs that judge what came, without a socket or a clock."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator

import pytest

from bench.cluster import failure, programs_archive, with_json
from bench.programs.channels import BLOCK_BYTES, Channel
from bench.programs.tick_client import Watcher
from bench.programs.windows import MS, Window
from martlet.errors import MartletError, Refused


def watcher(times_ms: list[float], *, start_ms: float = 0, end_ms: float = 1e9) -> Watcher:
    """A watcher with one window that has seen ticks 0, 1, … at these times."""
    found = Watcher(period_ms=5, last_ns=0)
    found.windows.append(Window(name="w", start_ns=int(start_ms * MS), end_ns=int(end_ms * MS)))
    for number, at_ms in enumerate(times_ms):
        found.line(b"tick %d" % number, int(at_ms * MS))
    return found


def test_the_longest_interval_less_the_period_is_the_gap() -> None:
    (report,) = watcher([1, 6, 11, 91, 96, 101], end_ms=100).done()
    assert (report["gap_ms"], report["gap_from_mark_ms"], report["errors"]) == (75.0, 11.0, [])


def test_intervals_outside_the_window_do_not_count() -> None:
    (report,) = watcher([0, 300, 305, 310, 400, 700], start_ms=302, end_ms=308).done()
    assert report["gap_ms"] == 0.0


def test_a_window_stays_open_until_a_tick_comes_after_it() -> None:
    found = watcher([1, 6, 11], end_ms=20)
    assert not found.done()
    found.line(b"tick 3", 5000 * MS)
    (report,) = found.done()
    assert report["gap_ms"] == 4984.0


@pytest.mark.parametrize("line", [b"tick 4", b"tick 2", b"tick 33", b"tick", b""])
def test_a_lost_repeated_or_changed_tick_is_an_error(line: bytes) -> None:
    found = watcher([1, 6, 11])
    found.line(line, 16 * MS)
    assert len(found.errors) == 1


def test_a_key_is_counted_from_the_first_tick_after_the_gap() -> None:
    found = watcher([1, 6])
    found.key_sent_ns = 40 * MS
    found.answered(99 * MS)
    found.line(b"tick 2", 96 * MS)
    found.windows[0].end_ns = 96 * MS
    (report,) = found.done()
    assert (report["key_sent_after_ms"], report["key_late_ms"], report["key_unanswered"]) == (34.0, 3.0, False)


def test_a_key_without_an_answer_is_told() -> None:
    found = watcher([1, 6])
    found.key_sent_ns = 40 * MS
    found.line(b"tick 2", 96 * MS)
    found.windows[0].end_ns = 96 * MS
    (report,) = found.done()
    assert (report["key_late_ms"], report["key_unanswered"]) == (None, True)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """The two ends of a pair of pipes."""
    (down_read, down_write), (up_read, up_write) = os.pipe(), os.pipe()
    left = Channel("pipe", up_read, down_write, mine="left", theirs="right")
    yield left, Channel("pipe", down_read, up_write, mine="right", theirs="left")
    for fd in (down_read, down_write, up_read, up_write):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_channels_take_what_the_other_end_sent(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    for _ in range(3):
        left.send()
        right.receive()
    assert right.counters() == {"pipe/right sent": 0, "pipe/left received": 3}


def test_a_full_channel_waits_and_goes_on_where_it_was(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    for _ in range(2 * 65536 // BLOCK_BYTES):
        left.send()
    right.receive()
    left.send()
    right.receive()
    assert right.received == left.sent == 65536 // BLOCK_BYTES + 1


@pytest.mark.parametrize("position", [0, BLOCK_BYTES - 1])
def test_one_changed_byte_is_found(ends: tuple[Channel, Channel], position: int) -> None:
    left, right = ends
    left.send()
    data = bytearray(os.read(right.fd_in, BLOCK_BYTES))
    data[position] ^= 1
    os.write(left.fd_out, data)
    with pytest.raises(ValueError, match="block 0 is not what was sent"):
        right.receive()


def test_a_closed_channel_is_found(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    os.close(left.fd_out)
    with pytest.raises(ValueError, match="closed after block 0"):
        right.receive()


def test_json_is_asked_of_martlet_and_not_of_the_sessions_command() -> None:
    assert with_json(("ps",)) == ["ps", "--output", "json"]
    assert with_json(("session", "start", "--", "ls")) == ["session", "start", "--output", "json", "--", "ls"]


def test_a_printed_failure_comes_back_as_its_class_with_reasons() -> None:
    reasons = [{"code": "no_memory", "text": "too small", "hint": "choose another"}]
    error = failure(("migrate", "s1"), 3, json.dumps({"error": "refused", "reasons": reasons}).encode())
    assert isinstance(error, Refused)
    assert error.reasons[0].code == "no_memory"


def test_a_move_that_stayed_is_an_error_with_its_reasons() -> None:
    report = {"outcome": "stayed", "reasons": [{"code": "full", "text": "node2 is full", "hint": ""}]}
    error = failure(("migrate", "s1"), 1, json.dumps(report).encode())
    assert "stayed" in error.message
    assert error.reasons[0].text == "node2 is full"


@pytest.mark.parametrize("code", [1, 77, -9])
def test_a_silent_failure_still_names_command_and_code(code: int) -> None:
    error = failure(("ps",), code, b"")
    assert type(error) is MartletError
    assert str(code) in error.message


def test_the_archive_holds_each_program_and_no_paths_outside() -> None:
    with tarfile.open(fileobj=io.BytesIO(programs_archive())) as tar:
        found = tar.getnames()
    assert {"bench/__init__.py", "bench/programs/everything.py"} <= set(found)
    assert all(name.startswith("bench/") and name.endswith(".py") for name in found)
