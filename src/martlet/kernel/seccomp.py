"""The system calls that a session may not make, so that it can move: the one table, for runc and as a filter.

Source: the rules of the sessions that were tried (nested namespaces, io_uring, userfaultfd, keyrings and the like
cannot be dumped, memfd_secret and landlock would be lost silently), and docker's default profile for the rest.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from martlet.errors import ToolFailed
from martlet.model import Reason

EPERM, ENOSYS, EINVAL = 1, 38, 22
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEW_ANY = 0x7E020080
"""CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET} together; TIME only counts for unshare."""

UNMOVABLE = (
    "io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd", "keyctl", "add_key", "request_key",
    "fanotify_init", "fanotify_mark", "perf_event_open", "bpf", "memfd_secret", "landlock_create_ruleset",
    "landlock_add_rule", "landlock_restrict_self",
)  # fmt: skip
"""State that CRIU cannot carry."""

DANGEROUS = (
    "mount", "umount2", "pivot_root", "open_tree", "move_mount", "fsopen", "fsmount", "fsconfig", "fspick",
    "mount_setattr", "setns", "chroot", "swapon", "swapoff", "reboot", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module", "acct", "quotactl", "quotactl_fd", "open_by_handle_at", "iopl", "ioperm",
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "syslog", "nfsservctl", "lookup_dcookie", "vhangup",
    "move_pages", "mbind", "migrate_pages", "set_mempolicy",
)  # fmt: skip
"""What needs capabilities that a session has not; refused once more, at the door."""


def profile() -> dict[str, Any]:
    """The seccomp part of an OCI runtime configuration (config-linux.md, section Seccomp)."""
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            _refuse(["clone3"], ENOSYS),
            _refuse([*UNMOVABLE, *DANGEROUS], EPERM),
            *(_refuse(["clone", "unshare"], EPERM, _any_bit(0, bit)) for bit in _bits(CLONE_NEW_ANY)),
            _pretend("prctl", {"index": 0, "value": PR_SET_CHILD_SUBREAPER, "op": "SCMP_CMP_EQ"}),
        ],
    }


@functools.cache
def program() -> bytes:
    """The same as a program for seccomp(2), SECCOMP_SET_MODE_FILTER. Compiled when first asked for.

    Raises:
        ToolFailed: Debian's python3-seccomp is not installed.
    """
    try:
        import seccomp  # not before it is needed: an idle agent does without
    except ImportError as error:
        reason = Reason(
            code="tool_missing",
            text="the bindings of libseccomp are not installed on the node",
            hint="install the package 'python3-seccomp' there",
        )
        raise ToolFailed("the filter of system calls cannot be made", reasons=[reason]) from error
    filter_ = seccomp.SyscallFilter(seccomp.ALLOW)
    for architecture in (seccomp.Arch.X86_64, seccomp.Arch.X86, seccomp.Arch.X32):
        if not filter_.exist_arch(architecture):
            filter_.add_arch(architecture)
    for rule in profile()["syscalls"]:
        conditions = [_condition(seccomp, condition) for condition in rule["args"]]
        for name in rule["names"]:
            filter_.add_rule(seccomp.ERRNO(rule["errnoRet"]), name, *conditions)
    with os.fdopen(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b") as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


def _condition(seccomp: Any, condition: dict[str, Any]) -> Any:
    if condition["op"] == "SCMP_CMP_MASKED_EQ":
        return seccomp.Arg(condition["index"], seccomp.MASKED_EQ, condition["value"], condition["valueTwo"])
    return seccomp.Arg(condition["index"], seccomp.EQ, condition["value"])


def _refuse(names: list[str], error: int, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error, "args": list(conditions)}


def _pretend(name: str, condition: dict[str, Any]) -> dict[str, Any]:
    """Answer success without doing it: errno 0."""
    return {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": [condition]}


def _any_bit(index: int, bit: int) -> dict[str, Any]:
    return {"index": index, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}


def _bits(mask: int) -> list[int]:
    return [1 << position for position in range(32) if mask >> position & 1]
