"""Training that begins by itself: a model that got worse is trained on where its provider agreed, and tried as new."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.builders import JOB, OWNER, Bench, all_effects, make_mixer, make_package, make_request, make_site, make_unit
from tests.unit.test_deployment_desk import NEEDS, make_gate, make_host

from daitn.base.effects import Effect, Event
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import ArtifactId, JobId, ModelName
from daitn.control_center.inference.commands import (
    CanaryAsked,
    DeployAsked,
    RetrainingAnswered,
    SubmitAgain,
    TryVersion,
)
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.training.commands import CancelAsked, ModelFetched, SubmissionReceived
from daitn.descriptors.live import FieldOutcomes, ModelOutcomes
from daitn.descriptors.request import Request
from daitn.descriptors.serving import ModelPhase, ModelStatus, parse_goal
from daitn.descriptors.versions import CanaryWanted, Retraining
from daitn.node.clock import NodeClock
from daitn.node.deployment_service import DeploymentService
from daitn.node.retraining import train_on
from daitn.wire.center_serving import OutcomesTold

MODEL = ModelName("sides")
AGREED = Retraining(times=2, rest_hours=1.0, share=0.2, hours=24.0)
GATE = make_gate(22, "north")
HOST = make_host(21)
HOUR_NS = 3600 * 10**9
LOOK_S = 6.0
"""A little longer than between two looks of the desk."""


class World:
    """A model that a job delivered and a host serves; a gateway tells what was judged."""

    def __init__(self, agreed: Retraining | None = AGREED) -> None:
        self.bench = Bench(make_site(1), make_site(2), make_unit(), make_mixer(), HOST, GATE)
        self.bench.submit(make_request("accuracy >= 0.9"))
        self.effects: list[Effect] = []
        self.first = self.finish(JOB)
        self.give(
            DeployAsked(
                model=MODEL,
                owner=OWNER,
                artifact=self.first,
                goal=parse_goal("= 1 replicas"),
                needs=NEEDS,
                quality={"accuracy": 0.95},
                retrain=agreed,
            )
        )
        self.totals: dict[ArtifactId, tuple[int, int]] = {}
        self.judge(self.first, 0, 0)

    @property
    def model(self) -> Deployed:
        return self.bench.center.inference.deployment.models[MODEL]

    def give(self, event: Event) -> list[Effect]:
        found = self.bench.give(event)
        self.effects += found
        return found

    def asked(self, kind: type) -> list[Any]:
        return all_effects(kind, self.effects)

    def finish(self, job: JobId) -> ArtifactId:
        """The job is answered until it has delivered."""
        self.bench.answer_until(lambda state: state.visits >= 1, job)
        self.bench.answer_until(lambda state: state.phase.value == "delivering", job, accuracy=0.95)
        self.give(ModelFetched(job=job, artifact=self.bench.fetches[-1].model.artifact))
        return self.bench.state(job).best

    def judge(self, artifact: ArtifactId, rows: int, right: int, model: ModelName = MODEL) -> None:
        before = self.totals.get(artifact, (0, 0))
        self.totals[artifact] = (before[0] + rows, before[1] + right)
        told = tuple(
            ModelOutcomes(
                model=model if one == artifact else MODEL,
                artifact=one,
                answered=counted[0],
                judged=(FieldOutcomes(rows=counted[0], right=counted[1]),),
            )
            for one, counted in self.totals.items()
        )
        self.effects += self.bench.say(GATE.node, OutcomesTold(since=1, outcomes=told))

    def look(self, seconds: float = LOOK_S) -> None:
        """Time passes, and what the desk looks at meanwhile is kept."""
        give = self.bench.give

        def kept(event: Event) -> list[Effect]:
            found = give(event)
            self.effects += found
            return found

        self.bench.give = kept  # type: ignore[method-assign]
        try:
            self.bench.wait(seconds)
        finally:
            self.bench.give = give  # type: ignore[method-assign]

    def submitted(self, job: str = "again") -> JobId:
        """The node submits what it was asked to."""
        asked: SubmitAgain = self.asked(SubmitAgain)[-1]
        self.give(
            SubmissionReceived(
                job=JobId(job), owner=asked.owner, request=asked.request, package=make_package(), key=asked.key
            )
        )
        return JobId(job)

    def try_version(self) -> None:
        """The node has the new version tried."""
        asked: TryVersion = self.asked(TryVersion)[-1]
        self.give(
            CanaryAsked(
                model=MODEL,
                owner=asked.owner,
                artifact=asked.artifact,
                goal=self.model.goal,
                needs=NEEDS,
                share=asked.share,
                hours=asked.hours,
                quality={"accuracy": 0.95},
                better=asked.better,
            )
        )
        self.give(RetrainingAnswered(model=MODEL, key=asked.key, artifact=asked.artifact, why="tried"))


def test_model_that_got_worse_is_trained_on_tried_and_takes_over_by_what_it_answers() -> None:
    world = World()
    world.judge(world.first, 200, 188)
    assert world.asked(SubmitAgain) == [], "as right as it was measured"
    world.judge(world.first, 400, 200)
    (asked,) = world.asked(SubmitAgain)
    assert (asked.owner, asked.request) == (OWNER, make_request("accuracy >= 0.9", package=world.first))
    assert world.model.retraining is not None
    assert world.model.retraining.why == "accuracy is 62.6% of 560 judged rows, 95.0% was measured"
    world.judge(world.first, 100, 50)
    world.look()
    assert world.asked(SubmitAgain) == [asked], "once"

    newer = world.finish(world.submitted())
    world.look()
    (wanted,) = world.asked(TryVersion)
    assert (wanted.artifact, wanted.share, wanted.hours) == (newer, 0.2, 24.0)
    world.try_version()
    assert world.model.retraining is None
    assert [one.artifact for one in world.model.retrainings] == [newer]
    next_name = ModelName("sides.next")
    world.judge(newer, 0, 0, next_name)
    world.judge(world.first, 300, 150)
    world.judge(newer, 500, 470, next_name)
    assert world.model.artifact == newer, "at once, by what was judged"
    assert (world.model.retrain, world.model.retrained) == (AGREED, 1)

    # the agreement goes on, and so does what is known of it after a restart
    world.bench.restart()
    assert (world.model.retrained, [one.artifact for one in world.model.retrainings]) == (1, [newer])


def test_training_by_itself_needs_an_agreement_and_rests() -> None:
    world = World(agreed=None)
    world.judge(world.first, 600, 300)
    assert world.asked(SubmitAgain) == []

    world = World()
    world.judge(world.first, 600, 300)
    first = world.submitted("again-1")
    world.give(CancelAsked(job=first, reason="its owner said no"))
    world.look()
    assert [one.why for one in world.model.retrainings] == ["job again-1 cancelled: its owner said no"]
    world.look()
    assert len(world.asked(SubmitAgain)) == 1, "it rests"
    world.bench.now_ns += HOUR_NS
    world.judge(world.first, 10, 5)
    assert len(world.asked(SubmitAgain)) == 2
    key = world.asked(SubmitAgain)[-1].key
    world.give(RetrainingAnswered(model=MODEL, key="an older one", artifact=None, why="no"))
    assert world.model.retraining is not None
    world.give(RetrainingAnswered(model=MODEL, key=key, artifact=None, why="the job could not be submitted: full"))
    assert world.model.retrained == 0, "nothing was trained yet"
    world.bench.now_ns += 2 * HOUR_NS
    world.judge(world.first, 10, 5)
    assert len(world.asked(SubmitAgain)) == 3


def test_unit_looks_now_and_then_and_its_figures_decide_where_nobody_judges() -> None:
    world = World(Retraining(times=1, share=0.2, hours=24.0, check_hours=2.0))
    world.look()
    assert world.asked(SubmitAgain) == []
    world.bench.now_ns += 2 * HOUR_NS
    world.look()
    job = world.submitted("look")
    world.bench.answer_until(lambda state: state.ended, job, accuracy=0.95)
    world.look()
    (ended,) = world.model.retrainings
    assert (ended.why, ended.trained) == ("job look delivered: the model reaches its goal", False)
    assert (world.model.checked["accuracy"], world.model.retrained) == (0.95, 0)

    world.bench.now_ns += 2 * HOUR_NS
    world.look()
    newer = world.finish(world.submitted("again"))
    world.look()
    (wanted,) = world.asked(TryVersion)
    assert wanted.better == "a verification unit measured accuracy 0.95 instead of 0.5 on the same samples"
    world.try_version()
    assert (world.model.checked["accuracy"], world.model.retrained) == (0.5, 1)
    next_name = ModelName("sides.next")
    world.judge(newer, 0, 0, next_name)
    world.judge(newer, 10, 9, next_name)
    assert world.model.artifact == world.first
    world.bench.now_ns += 24 * HOUR_NS
    world.look()
    assert world.model.artifact == newer
    assert "too few to tell; a verification unit measured" in world.model.versions[-1].why
    world.bench.now_ns += 24 * HOUR_NS
    world.look()
    assert len(world.asked(SubmitAgain)) == 2, "once was agreed to"


def test_what_was_asked_of_the_node_is_asked_again_after_a_restart() -> None:
    world = World()
    world.judge(world.first, 600, 300)
    world.bench.restart()
    world.look()
    first, again = world.asked(SubmitAgain)
    assert (first.key, first.request) == (again.key, again.request)
    job = world.submitted()
    world.finish(job)
    world.look()
    world.bench.restart()
    world.look()
    assert len({one.artifact for one in world.asked(TryVersion)}) == 1
    assert len(world.asked(TryVersion)) == 2


def test_model_that_was_deployed_anew_meanwhile_is_not_replaced_by_what_was_begun_for_another() -> None:
    world = World()
    world.judge(world.first, 600, 300)
    other = ArtifactId("d" * 64)
    goal = parse_goal("= 1 replicas")
    world.give(DeployAsked(model=MODEL, owner=OWNER, artifact=other, goal=goal, needs=NEEDS))
    world.look()
    assert [one.why for one in world.model.retrainings] == ["another package is served meanwhile"]
    assert (world.model.retrain, world.model.retraining) == (None, None)


class Node:
    """What stands around the core: a runner, the owners' service, and the providers' one that refuses or takes."""

    def __init__(self, fault: Exception | None = None, phase: ModelPhase = ModelPhase.PLACING) -> None:
        self.posted: list[Event] = []
        self.submitted: list[tuple[str, Request, str]] = []
        self.deployed: list[tuple[Any, ...]] = []
        self._fault, self._phase = fault, phase

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def check_going(self) -> None:
        """It is not at its end."""

    async def submit(self, owner: str, request: Request, key: str) -> JobId:
        if self._fault is not None:
            raise self._fault
        self.submitted.append((owner, request, key))
        return JobId("j")

    def deploy(
        self, owner: Any, model: Any, artifact: Any, goal: Any, *, canary: CanaryWanted, better: str
    ) -> ModelStatus:
        if self._fault is not None:
            raise self._fault
        self.deployed.append((owner, model, artifact, canary, better))
        return ModelStatus(
            model=model, owner=owner, artifact=artifact, phase=self._phase, goal=goal, reasons=("memory: 1 byte",)
        )


SUBMIT = SubmitAgain(model=MODEL, owner=OWNER, request=make_request(), key="k")
TRY = TryVersion(
    model=MODEL,
    owner=OWNER,
    artifact=ArtifactId("b" * 64),
    share=0.2,
    hours=3.0,
    better="it is",
    key="k",
    told="job j delivered",
)


@pytest.mark.parametrize(
    ("asked", "node", "why"),
    [
        (SUBMIT, Node(PolicyError("too many jobs")), "the job could not be submitted: too many jobs"),
        (TRY, Node(InputError("not here")), "job j delivered, and it could not be tried: not here"),
        (TRY, Node(phase=ModelPhase.REFUSED), "job j delivered, and hosts cannot serve it: memory: 1 byte"),
    ],
)
def test_what_the_doors_refuse_ends_the_training_with_their_reason(
    asked: SubmitAgain | TryVersion, node: Any, why: str
) -> None:
    asyncio.run(train_on(node, node, node, asked))
    assert node.posted == [RetrainingAnswered(model=MODEL, key="k", artifact=None, why=why)]


def test_job_is_submitted_under_its_key_and_its_model_tried_with_the_share_agreed() -> None:
    node: Any = Node()
    asyncio.run(train_on(node, node, node, SUBMIT))
    asyncio.run(train_on(node, node, node, TRY))
    assert node.submitted == [(OWNER, SUBMIT.request, "k")]
    assert node.deployed == [(OWNER, MODEL, TRY.artifact, CanaryWanted(share=0.2, hours=3.0), "it is")]
    (answer,) = node.posted
    assert (answer.artifact, answer.why) == (
        TRY.artifact,
        f"job j delivered; {TRY.artifact[:16]} is tried as a new version",
    )


def test_provider_sees_what_was_begun_and_is_told_where_nothing_can_be() -> None:
    world = World()
    service = DeploymentService(world.bench.center, Node(), None, NodeClock())  # type: ignore[arg-type]
    world.judge(world.first, 600, 300)
    world.submitted()
    shown = service.status(OWNER, MODEL).retraining
    assert shown is not None
    assert (shown.trained, shown.job, shown.agreed.times) == (0, "again", 2)
    assert "50.0% of 600 judged rows" in shown.why
    check = service._check_retraining
    check(OWNER, world.first, None, None)
    with pytest.raises(InputError, match="a new version that is tried is not trained on by itself"):
        check(OWNER, world.first, None, CanaryWanted())
    with pytest.raises(InputError, match=r"no job of .* made package eeee"):
        check(OWNER, ArtifactId("e" * 64), None, None)
    assert msgspec.json.decode(msgspec.json.encode(shown))["agreed"]["share"] == 0.2
