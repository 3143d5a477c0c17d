"""Reading the kernel's list of file locks: pure."""

from __future__ import annotations

import os

from martlet.kernel.proc import Lock, parse_locks

LISTED = """\
1: POSIX  ADVISORY  WRITE 49 fe:00:2072636 0 EOF
1: -> POSIX  ADVISORY  WRITE 50 fe:00:2072636 0 EOF
2: FLOCK  ADVISORY  WRITE 75 00:76:2081041 0 EOF
3: OFDLCK ADVISORY  READ -1 08:11:12 100 199
"""


def test_holders_are_read_and_waiters_left_out() -> None:
    assert parse_locks(LISTED) == [
        Lock(host_pid=49, kind="POSIX", device=os.makedev(0xFE, 0), inode=2072636),
        Lock(host_pid=75, kind="FLOCK", device=os.makedev(0, 0x76), inode=2081041),
        Lock(host_pid=-1, kind="OFDLCK", device=os.makedev(8, 0x11), inode=12),
    ]
