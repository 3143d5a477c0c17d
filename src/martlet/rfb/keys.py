"""X key symbols of the characters of a text, for key events (RFC 6143 section 7.5.4).

A table and a rule; sends nothing.
"""

from __future__ import annotations

RETURN = 0xFF0D
CONTROLS = {"\b": 0xFF08, "\t": 0xFF09, "\n": RETURN, "\r": RETURN, "\x1b": 0xFF1B, "\x7f": 0xFFFF}
UNICODE = 0x0100_0000


def keysym(character: str) -> int:
    """The key symbol of one character: Latin-1 is its own number, the rest of Unicode lies above 0x01000000.

    Raises:
        ValueError: a control character that no key writes.
    """
    code = ord(character)
    if character in CONTROLS:
        return CONTROLS[character]
    if 0x20 <= code < 0x7F or 0xA0 <= code <= 0xFF:
        return code
    if code < 0xA0:
        raise ValueError(f"no key writes the control character {character!r}")
    return UNICODE + code
