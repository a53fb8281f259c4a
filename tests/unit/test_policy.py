"""Policies: default deny, and every rule that refuses is named."""

from __future__ import annotations

import msgspec
import pytest
from tests.builders import make_policy

from daitn.descriptors.policy import Policy, PolicySummary, Use, allows, check_use, summarise


def use(**changes) -> Use:
    """Ada trains for care."""
    values = {"owner": "ada", "purpose": "care", "method": "tram-fl", "signer": "key", "kind": "train"}
    return Use(**(values | changes))


def rules(policy: Policy, asked: Use) -> set[str]:
    """Rules that refuse, which must be the same for the summary that the network sees."""
    found = {fault.rule for fault in check_use(policy, asked)}
    assert {fault.rule for fault in check_use(summarise(policy), asked)} == found
    return found


@pytest.mark.parametrize("kind", ["train", "records", "sample"])
def test_policy_as_it_comes_allows_nothing(kind):
    assert {"owners", "purposes"} <= rules(Policy(), use(kind=kind))


@pytest.mark.parametrize(
    ("changes", "asked", "refused"),
    [
        ({}, {}, set()),
        ({"owners": ("grace",)}, {}, {"owners"}),
        ({"purposes": ()}, {}, {"purposes"}),
        ({"methods": ("fedavg",)}, {}, {"methods"}),
        ({"signers": ("other",)}, {}, {"signers"}),
        ({"signers": ("key",)}, {}, set()),
        ({"methods": ("fedavg",), "signers": ("other",)}, {"kind": "sample", "operator": "trust"}, set()),
        ({"sample_frac": 0.0}, {"kind": "sample", "operator": "trust"}, {"sample_frac"}),
        ({}, {"kind": "sample"}, {"verification_operators"}),
        ({}, {"kind": "records", "operator": "lab"}, {"raw_records"}),
        ({"raw_records": "trust-zone"}, {"kind": "records", "operator": "lab"}, {"compute_operators"}),
        ({"raw_records": "trust-zone", "compute_operators": ("*",)}, {"kind": "records", "operator": "lab"}, set()),
    ],
)
def test_rules_that_refuse_are_named(changes, asked, refused):
    assert rules(make_policy(**changes), use(**asked)) == refused


def test_fault_says_what_was_asked_and_what_is_allowed():
    (fault,) = check_use(make_policy(owners=("grace", "mary")), use())

    assert (fault.asked, fault.allowed) == ("ada", "grace, mary")


def test_star_allows_all_and_names_are_whole():
    assert allows(("*",), "anybody")
    assert not allows(("ada",), "ad")
    assert not allows((), "*")


def test_summary_leaves_out_what_the_network_need_not_know():
    assert set(PolicySummary.__struct_fields__) < set(Policy.__struct_fields__)
    assert "epsilon_per_period" not in PolicySummary.__struct_fields__
    assert "python_signers" not in PolicySummary.__struct_fields__


@pytest.mark.parametrize("text", [b'{"owner": ["ada"]}', b'{"sample_frac": 2}', b'{"raw_records": "anywhere"}'])
def test_policy_with_a_slip_is_refused_rather_than_read_as_less(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Policy)
