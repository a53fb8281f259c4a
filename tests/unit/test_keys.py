"""The key scheme: what is built is what is read back, and nothing else is taken for a key of ours."""

from __future__ import annotations

import pytest

from daitn.base.errors import PeerError
from daitn.base.ids import DomainId, NodeId
from daitn.node.fabric import keys
from daitn.node.fabric.contract import Plane

DOMAIN = DomainId("clinic")
ALICE, BOB = NodeId("n0001"), NodeId("n0002")


@pytest.mark.parametrize("lane", keys.LANES)
def test_message_key_names_its_sender_last(lane: str) -> None:
    key = keys.message(DOMAIN, lane, BOB, ALICE)

    assert key == f"daitn/clinic/{lane}/to/n0002/from/n0001"
    assert keys.sender_of_message(key, DOMAIN, lane, BOB) == ALICE


@pytest.mark.parametrize(
    "key",
    [
        "daitn/clinic/cp/to/n0003/from/n0001",  # another receiver
        "daitn/other/cp/to/n0002/from/n0001",  # another domain
        "daitn/clinic/dp/to/n0002/from/n0001",  # another plane
        "daitn/clinic/cp/to/n0002/from/*",  # not one sender
        "daitn/clinic/cp/to/n0002/from/**",
        "daitn/clinic/cp/to/n0002/from/",
        "daitn/clinic/cp/to/n0002/from/n0001/n0003",
        "daitn/clinic/cp/to/n0002/from/N0001",
        "",
    ],
)
def test_message_key_that_is_not_to_us_is_the_peers_fault(key: str) -> None:
    with pytest.raises(PeerError):
        keys.sender_of_message(key, DOMAIN, Plane.CP, BOB)


def test_telemetry_key_carries_sender_and_topic() -> None:
    key = keys.telemetry(DOMAIN, ALICE, "load.cpu")

    assert keys.source_of_telemetry(key, DOMAIN) == (ALICE, "load.cpu")


@pytest.mark.parametrize("topic", ["*", "a/b", ""])
def test_telemetry_key_with_bad_topic_is_the_peers_fault(topic: str) -> None:
    with pytest.raises(PeerError):
        keys.source_of_telemetry(keys.telemetry(DOMAIN, ALICE, topic), DOMAIN)


def test_presence_key_names_its_node() -> None:
    assert keys.node_of_presence(keys.presence(DOMAIN, BOB), DOMAIN) == BOB


@pytest.mark.parametrize("key", ["daitn/clinic/live/*", "daitn/other/live/n0002", "daitn/clinic/live/n0002/x"])
def test_presence_key_of_nobody_is_the_peers_fault(key: str) -> None:
    with pytest.raises(PeerError):
        keys.node_of_presence(key, DOMAIN)


def test_lanes_never_share_a_key() -> None:
    built = {keys.message(DOMAIN, lane, BOB, ALICE) for lane in keys.LANES}

    assert len(built) == len(keys.LANES)
