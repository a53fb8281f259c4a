"""A site that has no room for a visit: what is let go there for it, and what stays."""

from __future__ import annotations

import msgspec
from tests.builders import JOB, Bench, facts_of, make_request, running, the_order

from daitn.base.effects import PeerVanished
from daitn.base.ids import CENTER, ArtifactId, JobId, NodeId
from daitn.control_center.training.records import CopiesLetGo
from daitn.descriptors.job import Phase
from daitn.descriptors.work import EvaluateWork, TrainWork
from daitn.wire.center_tools import ReleaseArtifacts, VisitFailed, VisitOrder

OTHER = JobId("job-2")


def cramped(made: Bench, node: NodeId, order: VisitOrder) -> None:
    """A node could not take in what its order needs."""
    made.say(node, VisitFailed(visit=order.visit, fence=order.fence, reason="no room", blame="no-room"))


def visited(visits: int) -> tuple[Bench, NodeId, VisitOrder]:
    """A job that is measured rarely, after some visits at two sites in turn: bench, and the order that is out."""
    made = running()
    state = made.state()
    assert state.plan is not None
    state.plan = msgspec.structs.replace(state.plan, verify_every=100)
    for _ in range(visits):
        made.answer(*the_order(made))
    return made, *the_order(made)


def held_at(made: Bench, node: NodeId, job: JobId = JOB) -> set[ArtifactId]:
    return {artifact for artifact, nodes in made.state(job).holders.items() if node in nodes}


def told(made: Bench, node: NodeId) -> set[ArtifactId]:
    """What a node was told that it may let go."""
    releases = [one for to, one in made.sent if to == node and isinstance(one, ReleaseArtifacts)]
    return {artifact for one in releases for artifact in one.artifacts}


def let_go(made: Bench) -> list[CopiesLetGo]:
    return [record for record in made.journal if isinstance(record, CopiesLetGo)]


def test_what_others_hold_too_is_let_go_and_the_only_copy_stays():
    made, node, order = visited(4)
    assert isinstance(order.work, TrainWork)
    before = {artifact: list(nodes) for artifact, nodes in made.state().holders.items() if node in nodes}
    only = {artifact for artifact, nodes in before.items() if nodes == [node]}
    assert only < set(before)

    cramped(made, node, order)

    (gone,) = let_go(made)
    assert gone.node == node
    assert set(gone.artifacts) == set(before) - only == told(made, node)
    assert held_at(made, node) == only
    assert all(made.state().holders.values()), "every artifact is somewhere"


def test_what_was_let_go_is_so_after_a_restart_of_the_centre():
    made, node, order = visited(4)
    cramped(made, node, order)
    before = facts_of(made.state())["holders"]

    made.restart()

    assert facts_of(made.state())["holders"] == before


def test_copy_stays_while_the_others_that_hold_it_do_not_answer():
    made, node, order = visited(4)
    others = {one for nodes in made.state().holders.values() for one in nodes} - {node, CENTER}
    for other in others:
        made.silence(other)
        made.give(PeerVanished(node=other))

    cramped(made, node, order)

    assert {artifact for one in let_go(made) for artifact in one.artifacts} == {made.state().request.package}


def test_models_that_wait_for_their_measurement_are_measured_before_a_second_site_has_no_room():
    made, node, order = visited(4)
    cramped(made, node, order)
    made.wait(3.0)
    node, order = the_order(made)
    while isinstance(order.work, TrainWork) and made.state().lost < 6:
        cramped(made, node, order)
        made.wait(3.0)
        node, order = the_order(made)

    assert isinstance(order.work, EvaluateWork)
    assert order.work.model == made.state().head

    made.answer(node, order, accuracy=0.6)
    kept = {made.state().head, made.state().request.package}
    assert {artifact for artifact in made.state().holders if artifact.startswith(JOB)} <= kept
    assert made.state().phase is Phase.RUNNING


def test_other_job_lets_go_of_its_copies_where_one_has_no_room():
    made, node, order = visited(4)
    made.submit(make_request("accuracy >= 0.9"), job=OTHER)
    made.answer_until(lambda state: state.phase is Phase.RUNNING, job=OTHER)
    mine, (there, its) = held_at(made, node), the_order(made, OTHER)
    assert there == node
    assert isinstance(its.work, TrainWork)

    cramped(made, there, its)

    assert {one.job for one in let_go(made)} >= {JOB}
    assert held_at(made, node) < mine
    assert order.inputs[0].artifact == made.state().head
