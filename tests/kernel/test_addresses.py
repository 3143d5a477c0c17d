"""The address of a session is where the session is, as seen from the client machine.

Through the command line only.
"""

from __future__ import annotations

import pytest
from lab_fixture import Lab

from bench.cluster import Cluster, client_program, install_programs, node_names, session, session_argv

pytestmark = pytest.mark.kernel


def test_an_address_given_again_on_another_node_is_reached_at_once(lab: Lab) -> None:
    cluster = Cluster(lab.name)
    nodes = node_names(cluster)
    install_programs(cluster, nodes[0])
    addresses = []
    for node in nodes[:2]:
        with session(cluster, "--node", node, "--", *session_argv("tick_server")) as started:
            with client_program(cluster, "tick_client", started["address"], "7000") as ticks:
                ticks.order("mark first")
                assert ticks.answer()["errors"] == []
            addresses.append(started["address"])
    assert addresses[0] == addresses[1], "the pool gave another address, so this shows nothing"
