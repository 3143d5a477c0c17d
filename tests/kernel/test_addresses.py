"""The address of a session is where the session is, as seen from the client machine.

Through the command line only; `lab` is a running lab with at least two nodes.
"""

from __future__ import annotations

import pytest

from bench.cluster import Lab, client_program, install_programs, node_names, session, session_argv

pytestmark = pytest.mark.kernel


def test_an_address_given_again_on_another_node_is_reached_at_once(lab: Lab) -> None:
    nodes = node_names(lab)
    install_programs(lab, nodes[0])
    addresses = []
    for node in nodes[:2]:
        with session(lab, "--node", node, "--", *session_argv("tick_server")) as started:
            with client_program(lab, "tick_client", started["address"], "7000") as ticks:
                ticks.order("mark first")
                assert ticks.answer()["errors"] == []
            addresses.append(started["address"])
    assert addresses[0] == addresses[1], "the pool gave another address, so this shows nothing"
