"""A session's log: bounded, and read on from where one was, whatever has been cut from its beginning."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from martlet.session.inspect import cut_log, read_dropped, read_log
from martlet.session.place import Place

LIMIT_BYTES = 1000


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return of(tmp_path)


def of(folder: Path) -> Place:
    (folder / "log").write_bytes(b"")
    return cast(Place, SimpleNamespace(log=folder / "log"))


def write(place: Place, lines: range) -> None:
    with place.log.open("ab") as log:
        log.writelines(b"line %04d\n" % number for number in lines)


def test_a_log_within_its_bounds_is_left_alone(place: Place) -> None:
    write(place, range(100))
    cut_log(place, limit_bytes=LIMIT_BYTES)
    assert place.log.stat().st_size == 1000
    assert read_dropped(place) == 0


def test_beyond_them_its_older_half_goes_by_whole_lines(place: Place) -> None:
    write(place, range(200))
    cut_log(place, limit_bytes=LIMIT_BYTES)
    kept = place.log.read_bytes()
    assert len(kept) <= LIMIT_BYTES // 2
    assert kept.startswith(b"line 01")
    assert kept.endswith(b"line 0199\n")
    assert read_dropped(place) == 2000 - len(kept)


@given(batches=st.lists(st.integers(0, 300), min_size=1, max_size=12))
@settings(deadline=None, max_examples=30)
def test_a_reader_that_keeps_up_reads_every_line_once(
    batches: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = of(tmp_path_factory.mktemp("log"))
    text, offset, written = "", 0, 0
    for batch in batches:
        write(place, range(written, written + batch))
        written += batch
        more, offset = read_log(place, offset=offset, limit_bytes=1 << 20)
        text += more
        cut_log(place, limit_bytes=LIMIT_BYTES)
        assert place.log.stat().st_size <= LIMIT_BYTES
    assert text == "".join(f"line {number:04}\n" for number in range(written))


def test_a_reader_that_comes_late_begins_with_what_is_kept(place: Place) -> None:
    write(place, range(200))
    cut_log(place, limit_bytes=LIMIT_BYTES)
    text, offset = read_log(place, offset=0, limit_bytes=1 << 20)
    assert text.encode() == place.log.read_bytes()
    assert (offset, read_log(place, offset=offset, limit_bytes=100)) == (2000, ("", 2000))


def test_long_logs_come_in_pieces(place: Place) -> None:
    write(place, range(50))
    first, offset = read_log(place, offset=0, limit_bytes=30)
    rest, _ = read_log(place, offset=offset, limit_bytes=1 << 20)
    assert (len(first), first + rest) == (30, place.log.read_text())


def test_a_session_without_a_log_has_nothing_to_cut(place: Place) -> None:
    place.log.unlink()
    cut_log(place, limit_bytes=LIMIT_BYTES)
    assert not place.log.exists()
