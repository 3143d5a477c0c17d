"""The kernel ring: a lab of its own for each run; its logs are kept when a test fails; and after the end nothing of it
may be left on the machine. Fails, never skips, where the machine cannot run it."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator

import pytest
from lab_fixture import LOGS, Lab, end, keep_logs, start


@pytest.fixture(scope="session", autouse=True)
def machine() -> None:
    """This ring needs root, and Ctrl-C: what is started in the background of a shell ignores it, and so would our
    programs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.geteuid() != 0:
        pytest.exit("the kernel ring makes namespaces and control groups: run the tests as root", returncode=1)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of three nodes for all tests of a run."""
    name = f"test-{os.getpid()}"
    yield start(name)
    end(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of the lab that a failed test used."""
    report = yield
    found = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(found, Lab):
        keep_logs(found.name, item.name)
        report.sections.append(("logs of the lab's machines", str(LOGS / item.name.replace("/", "_"))))
    return report
