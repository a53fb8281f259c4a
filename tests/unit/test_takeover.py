"""A second verification unit: given the same test set ahead of time, it goes on measuring when the first is lost."""

from __future__ import annotations

from tests.builders import (
    JOB,
    UNIT,
    Bench,
    changed,
    facts_of,
    make_data,
    make_mixer,
    make_policy,
    make_request,
    make_site,
    make_unit,
)

from daitn.base.effects import PeerAppeared, PeerVanished
from daitn.base.ids import ArtifactId, NodeId, OperatorId
from daitn.control_center.training.commands import CancelAsked
from daitn.control_center.training.job_desk import TRIES_MOST
from daitn.control_center.training.measuring import PREPARES
from daitn.control_center.training.records import ModelJudged, OtherTestSet, VisitOrdered
from daitn.descriptors.job import Phase
from daitn.descriptors.policy import summarise
from daitn.descriptors.terminals import NodeDescriptor
from daitn.descriptors.work import EvaluateWork, SampleRef, ShareWork, TrainWork
from daitn.wire.center_tools import ReleaseArtifacts, VisitFailed, VisitOrder, VisitPrepare
from daitn.wire.topology_tools import Describe

DEPUTY = NodeId("n0099")
SITES = (NodeId("n0001"), NodeId("n0002"))
assert UNIT < DEPUTY, "of two units that would hold as much, the first by name measures"


def sample_of(order: VisitOrder, version: str = "1") -> ArtifactId:
    """The artifact of a data set's sample: the same for whoever gets it, as long as its records are."""
    assert isinstance(order.work, ShareWork)
    return ArtifactId(f"{order.work.dataset}-{version}-".ljust(64, "f"))


def answer(made: Bench, node: NodeId, order: VisitOrder, *, accuracy: float = 0.5, version: str = "1") -> None:
    """A node does what it was told."""
    if isinstance(order.work, ShareWork):
        made.answer(node, order, artifact=sample_of(order, version))
    elif isinstance(order.work, EvaluateWork):
        made.answer(node, order, accuracy=accuracy)
    else:
        made.answer(node, order)


def answer_all(made: Bench, kind: type, *, version: str = "1", accuracy: float = 0.5) -> int:
    """All orders of a kind are answered; how many there were."""
    found = [(node, order) for node, order in made.orders() if isinstance(order.work, kind)]
    for node, order in found:
        answer(made, node, order, version=version, accuracy=accuracy)
    return len(found)


def two_units(deputy: NodeDescriptor | None = None, **data: object) -> Bench:
    """A job that runs where there are two units; what the deputy is to be given is ordered and not answered."""
    sites = [make_site(number, data=(make_data(f"s{number}", **data),)) for number in (1, 2)]
    made = Bench(*sites, make_unit(), deputy or make_unit(DEPUTY), make_mixer())
    made.submit(make_request("accuracy >= 0.9", until_deadline=True))
    for _ in range(10):
        if made.state().phase is Phase.RUNNING:
            return made
        for node, order in made.orders():
            answer(made, node, order)
    raise AssertionError(made.state().phase)


def ready() -> Bench:
    """Both units have the test set, and a visit trains."""
    made = two_units()
    assert answer_all(made, ShareWork) == 2
    return made


def lose(made: Bench, node: NodeId) -> NodeDescriptor:
    """A node's process ends."""
    gone = made.silence(node)
    made.give(PeerVanished(node=node))
    return gone


def come_back(made: Bench, descriptor: NodeDescriptor) -> None:
    """A node is there again."""
    made.nodes[descriptor.node] = descriptor
    made.say(descriptor.node, Describe(sequence=1, generated_unix_s=0.0, descriptor=descriptor))
    made.give(PeerAppeared(node=descriptor.node))


def measuring(made: Bench, *, most: int = 40) -> tuple[NodeId, VisitOrder]:
    """The next measurement that is ordered; visits before it are answered."""
    for _ in range(most):
        found = [(node, order) for node, order in made.orders() if isinstance(order.work, EvaluateWork)]
        if found:
            return found[0]
        trains = answer_all(made, TrainWork)
        if not trains:
            made.wait(0.5)
    raise AssertionError("nothing is measured")


def names(samples: tuple[SampleRef, ...]) -> set[tuple[str, str]]:
    return {(one.dataset, one.artifact) for one in samples}


def evaluation_of(order: VisitOrder) -> EvaluateWork:
    assert isinstance(order.work, EvaluateWork)
    return order.work


# --- standing by ------------------------------------------------------------------------------------------------------


def test_sites_are_asked_for_the_deputys_samples_beside_the_first_visit():
    made = two_units()

    works = [order.work for _, order in made.orders()]

    assert sum(isinstance(work, TrainWork) for work in works) == 1
    assert [work.receiver for work in works if isinstance(work, ShareWork)] == [DEPUTY, DEPUTY]


def test_visits_go_on_while_the_deputys_samples_are_made():
    made = two_units()
    before = made.state().visits

    answer_all(made, TrainWork)

    assert made.state().visits == before + 1
    assert any(isinstance(order.work, TrainWork | EvaluateWork) for _, order in made.orders())


def test_deputy_is_asked_for_once():
    made = ready()
    made.wait(20.0)

    asked = [one for one in made.journal if isinstance(one, VisitOrdered) and one.purpose == "sample"]

    assert len([one for one in asked if isinstance(one.work, ShareWork) and one.work.receiver == DEPUTY]) == 2


def test_sites_whose_policy_names_another_operator_are_not_asked_for_a_deputy():
    deputy = changed(make_unit(DEPUTY), operator=OperatorId("strangers"))

    made = two_units(deputy, policy=summarise(make_policy()))

    assert not [order for _, order in made.orders() if isinstance(order.work, ShareWork)]


def test_samples_lost_for_a_deputy_are_no_setback_of_the_job():
    made = two_units()

    for node, order in made.orders():
        if isinstance(order.work, ShareWork):
            made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no", blame="unavailable"))

    assert made.state().lost_in_row == 0
    assert made.state().lost == 2
    assert [one for _, order in made.orders() if isinstance(one := order.work, TrainWork)]


# --- taking over ------------------------------------------------------------------------------------------------------


def test_deputy_measures_on_the_same_test_set_when_the_unit_is_lost():
    made = ready()
    lose(made, UNIT)

    node, order = measuring(made)
    answer(made, node, order, accuracy=0.6)

    assert node == DEPUTY
    assert names(evaluation_of(order).samples) == names(made.state().sampled.test_set)
    assert not [one for one in made.journal if isinstance(one, OtherTestSet)]
    (judged,) = [one for one in made.journal if isinstance(one, ModelJudged)]
    assert judged.model == evaluation_of(order).model


def test_deputy_takes_over_what_the_unit_was_measuring_half_a_second_after_it_ended():
    made = ready()
    node, order = measuring(made)
    assert node == UNIT
    lose(made, UNIT)

    made.wait(0.6)

    (again,) = [one for one in made.orders() if isinstance(one[1].work, EvaluateWork)]
    assert again[0] == DEPUTY
    assert evaluation_of(again[1]).model == evaluation_of(order).model


def test_unit_that_comes_back_stands_by_for_the_one_that_took_over():
    made = ready()
    unit = lose(made, UNIT)
    answer(made, *measuring(made))
    come_back(made, unit)
    made.wait(20.0)

    node, _ = measuring(made)

    assert node == DEPUTY


def test_evaluations_are_counted_over_all_units_together():
    made = ready()
    node, order = measuring(made)
    made.answer(node, order, evaluations_left=7)
    lose(made, UNIT)

    made.answer(*measuring(made), evaluations_left=50)

    assert made.state().evaluations_left == 50 - (50 - 7 + 1), "the unit's count fell from 50 to 7, and by one before"


def test_deputy_whose_samples_were_lost_at_their_site_is_not_asked_while_that_site_is_away():
    made = ready()
    lose(made, UNIT)
    lose(made, SITES[0])

    made.wait(1.0)

    assert not [node for node, order in made.orders() if node == DEPUTY and isinstance(order.work, EvaluateWork)]


def test_what_is_known_of_units_and_test_set_survives_a_restart_of_the_centre():
    made = ready()
    lose(made, UNIT)
    answer(made, *measuring(made))
    before = facts_of(made.state())

    replayed = facts_of(made.replayed().jobs[JOB].state)

    assert replayed["sampled"] == before["sampled"]
    assert (before["sampled"].unit, set(before["sampled"].told)) == (DEPUTY, {UNIT, DEPUTY})


# --- another test set -------------------------------------------------------------------------------------------------


def other_records() -> Bench:
    """The data has changed since the preflight: the deputy was given other records."""
    made = two_units()
    assert answer_all(made, ShareWork, version="2") == 2
    return made


def test_unit_with_other_records_is_not_asked_while_the_one_that_measured_may_come_back():
    made = other_records()
    node, order = measuring(made)
    answer(made, node, order)
    lose(made, UNIT)
    answer_all(made, TrainWork)

    made.wait(1.0)

    assert not [order for _, order in made.orders() if isinstance(order.work, EvaluateWork)]


def test_where_the_test_set_must_change_the_best_model_is_measured_first_and_others_compared_with_it():
    made = other_records()
    answer(made, *measuring(made), accuracy=0.7)
    best = made.state().best
    lose(made, UNIT)
    answer_all(made, TrainWork)

    node, order = measuring(made)
    assert (node, evaluation_of(order).model) == (DEPUTY, best)
    assert names(evaluation_of(order).samples) != names(made.state().sampled.test_set)
    answer(made, node, order, accuracy=0.4)

    (other,) = [one for one in made.journal if isinstance(one, OtherTestSet)]
    assert (other.unit, other.model) == (DEPUTY, best)
    assert made.state().kept_measurements == made.state().best_measurements == other.measurements
    assert names(made.state().sampled.test_set) == names(evaluation_of(order).samples)
    node, order = measuring(made)
    assert evaluation_of(order).model == made.state().head != best
    answer(made, node, order, accuracy=0.45)
    judged = [one for one in made.journal if isinstance(one, ModelJudged)][-1]
    assert judged.keep, "it is better than the best one is on these records, whatever that was on others"


def test_job_without_any_unit_waits_and_goes_on_when_one_is_there():
    made = ready()
    unit, deputy = lose(made, UNIT), lose(made, DEPUTY)
    answer_all(made, TrainWork)
    made.wait(10.0)
    assert made.state().phase is Phase.RUNNING
    assert made.state().lost_in_row < TRIES_MOST

    come_back(made, unit)

    node, _ = measuring(made)
    assert node == UNIT
    assert deputy.node == DEPUTY


# --- getting ready ----------------------------------------------------------------------------------------------------


def prepares(made: Bench) -> list[tuple[NodeId, VisitPrepare]]:
    """What units were told to get ready for."""
    return [(node, one) for node, one in made.sent if isinstance(one, VisitPrepare) and one.verify]


def answer_every_second(made: Bench, seconds: int) -> None:
    """The job goes on for a while."""
    for _ in range(seconds):
        for node, order in made.orders():
            answer(made, node, order)
        made.wait(1.0)


def test_deputy_is_told_to_get_ready_some_times_once_it_has_been_given_all_samples():
    made = two_units()
    assert not prepares(made)
    answer_all(made, ShareWork)
    answer_every_second(made, 40)

    _, prepare = prepares(made)[0]

    assert [node for node, _ in prepares(made)] == [DEPUTY] * PREPARES
    assert names(prepare.samples) == names(made.state().sampled.test_set)
    assert [one.artifact for one in prepare.inputs] == [one.artifact for one in prepare.samples]
    assert [one.holders[0].node for one in prepare.inputs] == list(SITES)
    assert all(one.grant for one in prepare.inputs)


def test_deputy_whose_process_was_started_again_is_told_again():
    made = ready()
    answer_every_second(made, 40)
    come_back(made, lose(made, DEPUTY))
    answer_every_second(made, 40)

    assert [node for node, _ in prepares(made)] == [DEPUTY] * 2 * PREPARES


def test_deputy_that_never_measured_is_told_when_the_job_has_ended():
    made = ready()
    made.give(CancelAsked(job=JOB, reason="enough"))

    told = [node for node, one in made.sent if isinstance(one, ReleaseArtifacts) and one.job_ended]

    assert DEPUTY in told
