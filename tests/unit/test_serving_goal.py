"""Goals of a model that is served: read, written and refused."""

from __future__ import annotations

import pytest

from daitn.base.errors import InputError
from daitn.base.ids import OwnerId
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.request import Target
from daitn.descriptors.serving import LatencyTarget, ServingGoal, parse_goal


def test_goal_with_every_part_is_read() -> None:
    goal = parse_goal(
        "p95 <= 50 ms, accuracy@cardiology >= 90%, ≥ 2 replicas, ≤ 3 replicas, region north, region south"
    )

    assert goal == ServingGoal(
        latency=(LatencyTarget(quantile=0.95, most_s=0.05),),
        quality=(Target(metric="accuracy", field="cardiology", value=0.9),),
        replicas_least=2,
        replicas_most=3,
        regions=("north", "south"),
    )


@pytest.mark.parametrize(
    "text",
    ["p95 <= 50 ms, accuracy >= 0.9, <= 3 replicas, region north", "", "= 4 replicas", ">= 0 replicas, idle 60 s"],
)
def test_goal_that_is_written_is_read_again_as_it_was(text: str) -> None:
    goal = parse_goal(text)

    assert parse_goal(str(goal)) == goal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p95 <= 0 ms", "a time within"),
        (">= 3 replicas, <= 2 replicas", "at least 3 and at most 2"),
        ("<= 0 replicas, >= 0 replicas", "at least 0"),
        ("= 9999 replicas", "9999"),
        ("idle 0 s", "from 1 to 1,000,000 s"),
        ("fast", "'fast' cannot be read"),
        ("accuracy >= 1e999", "not finite"),
        ("x" * 5000, "5000 characters"),
    ],
)
def test_goal_that_cannot_be_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_goal(text)


def test_host_says_every_rule_against_a_model() -> None:
    policy = HostPolicy(owners=("ada",), signers=("aa",), licences=("MIT", "Apache-2.0"), model_bytes_most=10)

    assert policy.faults(OwnerId("ada"), "aa", "MIT", 10) == ()
    assert len(policy.faults(OwnerId("bob"), "bb", "GPL-3.0-only", 11)) == 4
    (unstated,) = policy.faults(OwnerId("ada"), "aa", "", 10)
    assert unstated == "models whose licence is not stated are not accepted here, only under MIT, Apache-2.0"
    assert HostPolicy().faults(OwnerId("bob"), "bb", "", 11) == ()
