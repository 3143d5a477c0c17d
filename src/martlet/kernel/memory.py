"""Keeping this process's own pages in memory: who holds frozen sessions must not wait for a disk.

Source: mlockall(2).
"""

from __future__ import annotations

import ctypes
import os

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def stay_resident() -> str:
    """Let no page that this process touches be taken away again; returns why that cannot be, else nothing."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0:
        return ""
    return f"mlockall: {os.strerror(ctypes.get_errno())}"
