"""The command line's contract: keys, exit codes, the error object, and what tables show."""

from __future__ import annotations

import json
import signal

import pytest

from martlet.bus import server
from martlet.bus.memory import matches
from martlet.cli import kill, man
from martlet.cli.doctor import criu, version
from martlet.cli.main import COMMANDS, martlet, run, wanted_output
from martlet.cli.output import Output, human_bytes, one_line, outside
from martlet.errors import UsageError
from martlet.model import MoveMode, MoveOutcome, MoveReport, NodeFacts


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (300 << 20, "300 MiB"), (5 << 40, "5 TiB")],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_cells_are_harmless() -> None:
    assert one_line("a\nb \x1b[31mred\u202e") == "a b ·[31mred·"


def test_move_report_says_from() -> None:
    report = MoveReport(session="s", from_="a", to="b", mode=MoveMode.AUTO, outcome=MoveOutcome.MOVED)
    assert list(outside(report)) == [
        "session", "from", "to", "mode", "outcome", "freeze_ms", "total_ms", "bytes", "phases_ms", "reasons",
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["kill", "nonsense", "migrate s --mode fast", "kill a:b:c", "events --last x"])
def test_wrong_usage_is_2_with_an_object(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    assert run([*words, "--output", "json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"error", "reasons"}


def test_no_such_cluster_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["node", "list", "--cluster", "/nowhere", "--output", "json"]) == 4
    (reason,) = json.loads(capsys.readouterr().out)["reasons"]
    assert set(reason) == {"code", "text", "hint"}


def test_what_follows_two_dashes_is_not_ours() -> None:
    assert wanted_output(["session", "start", "--", "x", "--output", "json"]) is Output.TABLE
    assert wanted_output(["session", "list", "--output=json"]) is Output.JSON


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("session", "migrate", "node", "ps", "kill", "events", "doctor", "config"):
        assert name in COMMANDS
        assert run([name, "--help"]) == 0
        assert "Example:" in capsys.readouterr().out


def test_manual_pages(tmp_path: object) -> None:
    import click

    context = click.Context(martlet, info_name="martlet")
    pages = dict(man.pages(martlet, context))
    assert "\\fB\\-\\-to NODE\\fR" in pages["martlet-migrate.1"]


@pytest.mark.parametrize(("text", "parsed"), [("s1", ("s1", 0)), ("s1:42", ("s1", 42))])
def test_kill_target(text: str, parsed: tuple[str, int]) -> None:
    assert kill.parse_target(text) == parsed


@pytest.mark.parametrize("text", ["s1:", ":4", "s1:x", "s1:0", ""])
def test_bad_kill_target(text: str) -> None:
    with pytest.raises(UsageError):
        kill.parse_target(text)


@pytest.mark.parametrize("text", ["9", "KILL", "sigkill", "SIGKILL"])
def test_signal_number(text: str) -> None:
    assert kill.signal_number(text) == signal.SIGKILL


def test_unknown_signal() -> None:
    with pytest.raises(UsageError):
        kill.signal_number("NOPE")


def test_version() -> None:
    assert version("6.18.5+deb14-amd64") == (6, 18, 5)
    assert version("4.2.1") > (4, 2) > version("4.1.1") > version("")


@pytest.mark.parametrize(
    ("kernel", "found", "ok"), [("6.18.1", "4.1.1", False), ("6.18.1", "4.2.1", True), ("6.12.0", "4.1.1", True)]
)
def test_newer_kernels_want_a_newer_criu(kernel: str, found: str, *, ok: bool) -> None:
    facts = NodeFacts(
        node="n",
        address="",
        door_port=1,
        version="",
        protocol=1,
        kernel=kernel,
        cores=1,
        memory_bytes=1,
        criu=found,
    )
    assert criu(facts).ok is ok


@pytest.mark.parametrize(
    ("pattern", "subject", "same"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.b", "a.c", False),
    ],
)
def test_subjects(pattern: str, subject: str, *, same: bool) -> None:
    assert matches(pattern, subject) is same


def test_permissions_name_only_the_agent_itself() -> None:
    rights = server.permissions("agent.n1")
    assert "martlet.agent.n1.*" in rights["subscribe"]
    assert "$KV.nodes.n1" in rights["publish"]
    assert not [subject for subject in rights["publish"] if subject.startswith(("martlet.agent", "$KV.nodes.>"))]


@pytest.mark.parametrize("who", ["bus", "agent", "agent.", "root.n1", "admin.n1"])
def test_unknown_roles_are_refused(who: str) -> None:
    with pytest.raises(UsageError):
        server.permissions(who)
