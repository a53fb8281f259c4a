"""What each role of a terminal accepts."""

from __future__ import annotations

import pytest
from tests.builders import JOB, PACKAGE, UNIT, make_evaluation, make_order, make_policy, make_work

from daitn.base.ids import ArtifactId, DataSetId, JobId, NodeId
from daitn.descriptors.work import AggregateWork, ShareWork, UpdateRef
from daitn.terminal.roles import DAY_NS, DataNode, Roles, VerificationUnit

HERE = DataSetId("s1/records")


def share(kind: str, operator: str = "lab") -> ShareWork:
    """Give records or a sample to somebody."""
    return ShareWork(dataset=HERE, kind=kind, receiver=NodeId("n0003"), receiver_operator=operator, contract=PACKAGE)


AVERAGE = AggregateWork(updates=(UpdateRef(model=ArtifactId("c" * 64), weight=1.0),))


@pytest.mark.parametrize("work", [make_work(), make_evaluation(), AVERAGE, share("sample")])
def test_node_without_roles_refuses_everything_and_says_what_is_missing(work):
    faults = Roles().judge(make_order(work=work))

    assert faults
    assert {fault.rule for fault in faults} == {"role"}
    assert {fault.allowed for fault in faults} == {"none"}


def test_training_needs_compute_and_the_data_sets_policy():
    roles = Roles(data=DataNode({HERE: make_policy(owners=())}))

    assert {fault.rule for fault in roles.judge(make_order())} == {"role", "owners"}


def test_training_on_streamed_records_needs_compute_only():
    roles = Roles(computes=True)

    assert roles.judge(make_order(work=make_work(records=ArtifactId("d" * 64)))) == ()


def test_data_set_that_is_not_here_is_refused_naming_those_that_are():
    roles = Roles(data=DataNode({HERE: make_policy()}), computes=True)

    (fault,) = roles.judge(make_order(work=make_work("s2/records")))

    assert (fault.rule, fault.asked, fault.allowed) == ("dataset", "s2/records", HERE)


@pytest.mark.parametrize(
    ("kind", "operator", "policy", "refused"),
    [
        ("sample", "trust", {}, set()),
        ("sample", "lab", {}, {"verification_operators"}),
        ("sample", "trust", {"sample_frac": 0.0}, {"sample_frac"}),
        ("records", "lab", {}, {"raw_records"}),
        ("records", "lab", {"raw_records": "trust-zone", "compute_operators": ("lab",)}, set()),
        ("records", "x", {"raw_records": "trust-zone", "compute_operators": ("lab",)}, {"compute_operators"}),
    ],
)
def test_sharing_is_judged_by_kind_and_receiver(kind, operator, policy, refused):
    roles = Roles(data=DataNode({HERE: make_policy(**policy)}))

    assert {fault.rule for fault in roles.judge(make_order(work=share(kind, operator)))} == refused


def test_verification_unit_counts_per_job():
    unit = VerificationUnit(UNIT, 1)
    unit.count(JOB)

    assert unit.left(JOB) == 0
    assert unit.left(JobId("other")) == 1
    assert unit.judge(make_order(work=make_evaluation()))


def test_verification_unit_that_answers_nobody_refuses_a_job_it_never_saw():
    (fault,) = VerificationUnit(UNIT, 0).judge(make_order(work=make_evaluation()))

    assert (fault.asked, fault.allowed) == ("1", "0")


def test_visits_of_a_day_are_counted_against_the_policy():
    node = DataNode({HERE: make_policy(visits_per_day=2)})
    order = make_order(work=make_work())
    node.note_visit(HERE, 1)
    assert node.judge(order, DAY_NS // 2) == ()

    node.note_visit(HERE, 2)
    assert [fault.rule for fault in node.judge(order, DAY_NS // 2)] == ["visits_per_day"]
    assert node.judge(order, 2 * DAY_NS) == ()
