"""What a session may not do, as rendered for runc: no rights, no system call that it could not move with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from martlet.kernel.runc import Container, render, write_bundle
from martlet.kernel.seccomp import profile

CONTAINER = Container(
    id="abcdef",
    root=Path("/run/martlet/sessions/abcdef/root"),
    dev=Path("/run/martlet/dev"),
    binds={"/tmp": Path("/private/tmp"), "/run": Path("/private/run"), "/home": Path("/home")},
    net=Path("/run/martlet/sessions/abcdef/net"),
    cgroup="martlet/abcdef",
    hostname="abcdef",
    uid=2001,
    gid=2002,
    argv=("sleep", "60"),
    env={"HOME": "/home/ada", "LANG": "C.UTF-8"},
    cwd="/home/ada",
    open_files=4096,
)
ALLOWED = "allowed"
EPERM, ENOSYS = 1, 38
SIGCHLD = 17
THREAD = 0x003D0F00
"""The flags with which glibc makes a thread."""
NEW = {
    "NEWNS": 0x00020000, "NEWCGROUP": 0x02000000, "NEWUTS": 0x04000000, "NEWIPC": 0x08000000,
    "NEWUSER": 0x10000000, "NEWPID": 0x20000000, "NEWNET": 0x40000000,
}  # fmt: skip
"""sched.h"""


def answer(name: str, *arguments: int) -> str | int:
    """What a call gets under the profile: an errno (0: it pretends), or ALLOWED; the first rule counts."""
    made = profile()
    assert made["defaultAction"] == "SCMP_ACT_ALLOW"
    for rule in made["syscalls"]:
        if name in rule["names"] and all(matches(one, arguments) for one in rule["args"]):
            assert rule["action"] == "SCMP_ACT_ERRNO"
            number: int = rule["errnoRet"]
            return number
    return ALLOWED


def matches(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    given = arguments[condition["index"]]
    match condition["op"]:
        case "SCMP_CMP_EQ":
            return bool(given == condition["value"])
        case "SCMP_CMP_MASKED_EQ":
            return bool(given & condition["value"] == condition["valueTwo"])
    raise AssertionError(condition["op"])


@pytest.mark.parametrize("flag", NEW.values(), ids=NEW)
def test_no_namespace_can_be_made(flag: int) -> None:
    assert answer("clone", flag | SIGCHLD) == EPERM
    assert answer("unshare", flag) == EPERM
    assert answer("clone", flag | NEW["NEWUSER"] | SIGCHLD) == EPERM


def test_a_time_namespace_can_not_be_made_either() -> None:
    assert answer("unshare", 0x80) == EPERM


def test_threads_and_processes_can_be_made() -> None:
    assert answer("clone", THREAD) == ALLOWED
    assert answer("clone", SIGCHLD) == ALLOWED
    assert answer("unshare", 0x400) == ALLOWED  # CLONE_FILES: a table of descriptors of its own


def test_clone3_is_unknown_so_that_libraries_fall_back() -> None:
    assert answer("clone3", 0, 88) == ENOSYS


@pytest.mark.parametrize(
    "name",
    [
        "io_uring_setup", "userfaultfd", "keyctl", "add_key", "fanotify_init", "perf_event_open", "bpf",
        "memfd_secret", "landlock_create_ruleset", "mount", "umount2", "pivot_root", "setns", "fsopen", "open_tree",
        "move_mount", "kexec_load", "init_module", "finit_module", "open_by_handle_at", "reboot", "clock_settime",
    ],
)  # fmt: skip
def test_what_could_not_move_or_needs_rights_is_refused(name: str) -> None:
    assert answer(name, 0, 0, 0, 0, 0, 0) == EPERM


@pytest.mark.parametrize("name", ["read", "openat", "socket", "ptrace", "memfd_create", "epoll_wait", "timerfd_create"])
def test_what_programs_need_is_allowed(name: str) -> None:
    assert answer(name, 0, 0, 0, 0, 0, 0) == ALLOWED


def test_a_subreaper_is_pretended_and_nothing_else_of_prctl() -> None:
    assert answer("prctl", 36, 1) == 0
    assert answer("prctl", 15, 0) == ALLOWED


def test_older_ways_in_are_filtered_too() -> None:
    assert set(profile()["architectures"]) == {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}


def test_no_rights() -> None:
    process = render(CONTAINER)["process"]
    assert process["user"] == {"uid": 2001, "gid": 2002, "additionalGids": []}
    assert process["capabilities"] == {}
    assert process["noNewPrivileges"] is True
    assert {"type": "RLIMIT_CORE", "hard": 0, "soft": 0} in process["rlimits"]
    assert {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096} in process["rlimits"]
    assert render(CONTAINER)["linux"]["seccomp"] == profile()


def test_only_the_private_folders_and_homes_are_writable() -> None:
    made = render(CONTAINER)
    assert made["root"] == {"path": str(CONTAINER.root), "readonly": True}
    kernels = {"proc", "devpts"}
    writable = {
        mount["destination"]: mount["source"]
        for mount in made["mounts"]
        if "ro" not in mount["options"] and mount["type"] not in kernels
    }
    assert writable == {point: str(folder) for point, folder in CONTAINER.binds.items()}
    for mount in made["mounts"]:
        if mount["destination"] in writable:
            assert {"nosuid", "nodev"} <= set(mount["options"])


def test_its_own_namespaces_and_the_prepared_network() -> None:
    spaces = {one["type"]: one.get("path") for one in render(CONTAINER)["linux"]["namespaces"]}
    assert spaces == {"pid": None, "mount": None, "ipc": None, "uts": None, "network": str(CONTAINER.net)}
    assert render(CONTAINER)["linux"]["cgroupsPath"] == "/martlet/abcdef"


def test_standard_streams_are_no_terminal_of_the_node() -> None:
    assert render(CONTAINER)["process"]["terminal"] is False


def test_the_command_and_its_environment_are_passed_as_they_are(tmp_path: Path) -> None:
    write_bundle(CONTAINER, tmp_path / "new/bundle")
    process = json.loads((tmp_path / "new/bundle/config.json").read_text())["process"]
    assert process["args"] == ["sleep", "60"]
    assert process["env"] == ["HOME=/home/ada", "LANG=C.UTF-8"]
    assert process["cwd"] == "/home/ada"
