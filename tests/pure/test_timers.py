"""Mending of expired periodic timers in CRIU's list of files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.kernel.timers import mend

HEAD = struct.pack("<II", 0x54564319, 0x56303138)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def timer(*, value_s: int = 0, value_ns: int = 0, period_s: int = 0, period_ns: int = 0, ticks: int = 1) -> bytes:
    """A file_entry of type TIMERFD as criu writes it: type, id, and the timerfd_entry with its owner."""
    numbers = {1: 300, 2: 0o4000}
    later = {4: 1, 5: ticks, 6: 0, 7: value_s, 8: value_ns, 9: period_s, 10: period_ns}
    owner = b"\x1a\x02\x08\x00"
    plain = [b"".join(varint(key << 3) + varint(number) for key, number in part.items()) for part in (numbers, later)]
    content = plain[0] + owner + plain[1]
    return b"\x08\x11" + b"\x10" + varint(300) + b"\x62" + varint(len(content)) + content


def image(*entries: bytes) -> bytes:
    return HEAD + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


OTHER = b"\x08\x01\x10\x07\x1a\x03abc"
NUMBER = st.integers(0, 2**63)


@given(NUMBER, NUMBER, NUMBER)
def test_an_expired_periodic_timer_expires_at_once(period_s: int, period_ns: int, ticks: int) -> None:
    period = {"period_s": period_s, "period_ns": period_ns or 1, "ticks": ticks}
    assert mend(image(OTHER, timer(**period))) == image(OTHER, timer(**period, value_ns=1))


@given(NUMBER, NUMBER, NUMBER)
def test_a_running_timer_stays(value_s: int, value_ns: int, period_ns: int) -> None:
    kept = image(timer(value_s=value_s, value_ns=value_ns or 1, period_ns=period_ns), OTHER)
    assert mend(kept) == kept


def test_a_timer_without_a_period_stays_disarmed() -> None:
    assert mend(image(timer())) == image(timer())


@given(st.lists(st.binary(max_size=300).filter(lambda entry: not entry.startswith(b"\x08\x11"))))
def test_everything_else_stays(entries: list[bytes]) -> None:
    assert mend(image(*entries)) == image(*entries)


@given(st.integers(1, 200))
def test_a_cut_image_is_refused(end: int) -> None:
    whole = image(OTHER, timer(period_ns=5))
    cut = whole[: len(whole) - 1 - end % (len(whole) - len(HEAD) - len(OTHER) - 5)]
    with pytest.raises(ValueError, match="in the middle"):
        mend(cut)
