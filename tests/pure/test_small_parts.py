"""Parts of the kernel's interfaces and of the agent that are pure by themselves: a frame, a pressure file, a pool."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from martlet.agent.registry import pool
from martlet.config import Network
from martlet.kernel.cgroup import some_pct
from martlet.kernel.link import mac_of
from martlet.kernel.packet import arp_announcement

ADDRESSES = st.integers(min_value=0x0A000001, max_value=0x0A00FFFE)


def test_an_announcement_is_a_gratuitous_arp_request() -> None:
    """Byte by byte as RFC 826 and RFC 5227 (section 3) have it, behind an empty virtio-net header."""
    frame = arp_announcement("02:4d:0a:4d:01:07", "10.77.1.7")
    virtio, ethernet, arp = frame[:10], frame[10:24], frame[24:]
    assert virtio == bytes(10)
    assert ethernet == bytes.fromhex("ffffffffffff 024d0a4d0107 0806")
    assert arp == bytes.fromhex("0001 0800 06 04 0001 024d0a4d0107 0a4d0107 000000000000 0a4d0107")


@pytest.mark.parametrize(
    ("text", "pct"),
    [
        ("some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=5.00 avg60=0 avg300=0 total=1\n", 12.34),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 0.0),
        ("full avg10=5.00 avg60=0.00 avg300=0.00 total=1\n", 0.0),
        ("", 0.0),
    ],
)
def test_pressure_is_the_some_share_of_ten_seconds(text: str, pct: float) -> None:
    assert some_pct(text) == pct


def test_the_usual_pool() -> None:
    found = list(pool(Network()))
    assert (found[0], found[-1], len(found)) == ("10.77.1.1", "10.77.3.254", 3 * 254)


@given(first=ADDRESSES, count=st.integers(0, 1000))
def test_a_pool_is_within_its_ends_in_order_and_fit_for_hosts(first: int, count: int) -> None:
    ends = [str(ipaddress.IPv4Address(number)) for number in (first, first + count)]
    numbers = [int(ipaddress.IPv4Address(text)) for text in pool(Network(pool_first=ends[0], pool_last=ends[1]))]
    assert numbers == [number for number in range(first, first + count + 1) if number % 256 not in (0, 255)]


@given(addresses=st.sets(ADDRESSES, min_size=2, max_size=50))
def test_a_mac_is_its_addresss_own_and_local(addresses: set[int]) -> None:
    macs = [bytes.fromhex(mac_of(str(ipaddress.IPv4Address(number))).replace(":", "")) for number in addresses]
    assert len(set(macs)) == len(addresses)
    assert all(len(mac) == 6 and mac[0] & 0b11 == 0b10 for mac in macs)
