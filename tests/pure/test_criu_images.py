"""Taking criu's images apart and putting them together again: pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.errors import ToolFailed
from martlet.kernel import criu_images

COMMON = bytes.fromhex("19435654") + bytes(4)


@given(entries=st.lists(st.binary(max_size=300), max_size=20))
def test_an_image_survives_being_taken_apart(entries: list[bytes]) -> None:
    assert criu_images.split(criu_images.join(COMMON, entries)) == (COMMON, entries)


def test_a_truncated_image_is_an_error() -> None:
    image = criu_images.join(COMMON, [b"one", b"two"])
    with pytest.raises(ToolFailed, match="middle of an entry"):
        criu_images.split(image[:-1])
