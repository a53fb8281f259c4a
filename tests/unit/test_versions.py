"""New versions of models: tried with a share of the queries, judged, taking over or taken back; calibration."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import ANSWER, carried
from tests.unit.test_deployment_desk import MODEL, NEEDS, PACKAGE, Domain, make_gate, make_host
from tests.unit.test_pipelines import Domain as Gate
from tests.unit.test_pipelines import leaf, shares, values
from tests.unit.test_query_engine import make_model, make_route
from tests.unit.test_quick_door import BODY, INFER, TOKEN
from tests.unit.test_quick_door import World as DoorWorld

from daitn.base.effects import Delivered, TimerFired
from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.commands import CanaryAsked, UndeployAsked
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.control_center.inference.records import CanaryEnded
from daitn.descriptors.live import TEMPERATURES, THRESHOLDS, FieldOutcomes, ModelOutcomes
from daitn.descriptors.serving import QueryGoal, ServingGoal, TensorSpec, parse_goal
from daitn.descriptors.versions import Canary
from daitn.node.clock import NodeClock
from daitn.node.deployment_service import DeploymentService
from daitn.node.serving.asked_query import Asked
from daitn.node.serving.asking import Asking
from daitn.serving.tensors import tensors_of
from daitn.wire.center_serving import OutcomesTold
from daitn.wire.queries import QueryAnswer, QueryCall

NEXT = ModelName("sides.next")
NEWER = ArtifactId("b" * 64)
GATE = make_gate(9, "north")


class Trial:
    """A model that is served, and a gateway that counts."""

    def __init__(self) -> None:
        self.domain = Domain(make_host(1), make_host(2), make_host(3), GATE)
        self.domain.deploy("= 1 replicas")
        self.totals: dict[str, list[int]] = {}
        self.serve()

    @property
    def desk(self) -> Any:
        return self.domain.center.inference.deployment

    def serve(self) -> None:
        for node in list(self.domain.told):
            if self.domain.told[node].orders:
                self.domain.serve(node)

    def begin(self, share: float = 0.2, hours: float = 24.0, package: ArtifactId = NEWER) -> None:
        goal = parse_goal("= 1 replicas")
        owner = OwnerId("ada")
        self.domain.do(
            CanaryAsked(model=MODEL, owner=owner, artifact=package, goal=goal, needs=NEEDS, share=share, hours=hours)
        )
        self.serve()
        self.count()
        self.look()

    def count(self, **of: tuple[int, int, int, int]) -> None:
        """The gateway counted so much more: rows, right, answered, lost; of `old` and `new`."""
        names = {"old": (MODEL, PACKAGE), "new": (NEXT, NEWER)}
        outcomes = []
        for key, (model, artifact) in names.items():
            total = self.totals.setdefault(key, [0, 0, 0, 0])
            for place, more in enumerate(of.get(key, (0, 0, 0, 0))):
                total[place] += more
            judged = (FieldOutcomes(rows=total[0], right=total[1]),)
            outcomes.append(
                ModelOutcomes(model=model, artifact=artifact, answered=total[2], lost=total[3], judged=judged)
            )
        self.domain.do(Delivered(sender=GATE.node, message=OutcomesTold(since=1, outcomes=tuple(outcomes))))

    def look(self, after_s: float = 5.0) -> None:
        self.domain.do(TimerFired(name="placing"), after_s=after_s)

    def ended(self) -> list[CanaryEnded]:
        return [one for one in self.domain.records if isinstance(one, CanaryEnded)]


def test_new_version_that_is_better_takes_over_and_answers_until_the_model_does() -> None:
    trial = Trial()
    trial.begin()
    served = {one.model: one for one in trial.desk.served()}
    assert served[NEXT].canary == Canary(model=MODEL, share=0.2)
    assert served[NEXT].routes
    trial.count(old=(4000, 3000, 4000, 0), new=(1000, 950, 1000, 0))
    trial.look()
    assert trial.desk.models[MODEL].artifact == NEWER
    assert trial.desk.models[NEXT].canary == Canary(model=MODEL, share=1.0, took_over=True)
    (ended,) = trial.ended()
    assert (ended.took_over, ended.why.partition(",")[0]) == (True, "right in 95.0% of 1000 judged rows")
    trial.look()
    assert NEXT in trial.desk.models, "nobody else answers yet"
    trial.serve()
    trial.look()
    assert set(trial.desk.models) == {MODEL}
    trial.domain.restart()
    assert trial.desk.models[MODEL].artifact == NEWER
    assert [one.took_over for one in trial.desk.models[MODEL].versions] == [True]


@pytest.mark.parametrize(
    ("counted", "why"),
    [
        ({"old": (2000, 1900, 2000, 0), "new": (500, 350, 500, 0)}, "right in 70.0% of 500 judged rows"),
        ({"old": (0, 0, 2000, 0), "new": (0, 0, 20, 30)}, "30 of 50 queries were lost"),
    ],
)
def test_new_version_that_is_worse_is_taken_back_and_the_old_one_was_never_away(counted: Any, why: str) -> None:
    trial = Trial()
    before = dict(trial.desk.models[MODEL].placed)
    trial.begin()
    trial.count(**counted)
    trial.look()
    assert set(trial.desk.models) == {MODEL}
    assert trial.desk.models[MODEL].artifact == PACKAGE
    assert trial.desk.models[MODEL].placed == before
    (ended,) = trial.ended()
    assert (ended.took_over, why in ended.why) == (False, True)


def test_new_version_that_nobody_judged_goes_when_its_time_is_over_and_another_takes_its_place_before() -> None:
    trial = Trial()
    trial.begin(hours=1.0)
    trial.look(after_s=3500)
    assert NEXT in trial.desk.models
    trial.look(after_s=200)
    assert set(trial.desk.models) == {MODEL}
    assert "0 rows of it and 0 of the old version were judged" in trial.ended()[-1].why
    trial.begin()
    trial.begin(package=ArtifactId("c" * 64))
    assert trial.desk.models[NEXT].artifact == "c" * 64
    assert trial.ended()[-1].why == "another new version took its place"
    trial.domain.do(UndeployAsked(model=MODEL))
    assert trial.desk.models == {}


def test_what_was_counted_before_both_were_there_counts_for_neither() -> None:
    trial = Trial()
    trial.count()
    trial.count(old=(1000, 100, 1000, 500))
    trial.begin()
    old, new = trial.desk.judging.versions.seen(NEXT)
    assert (old.rows, old.lost, new.rows) == (0, 0, 0)


def test_judged_answers_calibrate_a_model_and_the_journal_has_it() -> None:
    trial = Trial()
    trial.count()
    surprise = tuple(100.0 * abs(np.log2(one / 2.0)) for one in TEMPERATURES)
    judged = (FieldOutcomes(rows=500, right=400, surprise=surprise),)
    one = ModelOutcomes(model=MODEL, artifact=PACKAGE, answered=500, judged=judged)
    trial.domain.do(Delivered(sender=GATE.node, message=OutcomesTold(since=1, outcomes=(one,))))
    trial.look()
    (served,) = trial.desk.served()
    assert served.temperature == 2.0
    trial.domain.restart()
    assert trial.desk.models[MODEL].temperature == 2.0


def test_judged_answers_move_the_threshold_of_two_classes_and_the_journal_has_it() -> None:
    trial = Trial()
    trial.count()
    parts = len(THRESHOLDS) + 1
    shared = [0] * 2 * parts
    shared[2], shared[parts + 7], shared[parts + 9], shared[parts + 17] = 200, 60, 40, 200
    judged = (FieldOutcomes(rows=500, right=400, shared=tuple(shared)),)
    one = ModelOutcomes(model=MODEL, artifact=PACKAGE, answered=500, judged=judged)
    trial.domain.do(Delivered(sender=GATE.node, message=OutcomesTold(since=1, outcomes=(one,))))
    trial.look()
    (served,) = trial.desk.served()
    assert (served.threshold, served.temperature) == (pytest.approx(0.25, abs=0.11), 1.0)
    trial.domain.restart()
    assert trial.desk.models[MODEL].threshold == served.threshold


def test_only_gateways_tell_what_became_of_queries() -> None:
    trial = Trial()
    trial.domain.do(Delivered(sender=NodeId("n0001"), message=OutcomesTold(since=1)))
    assert trial.domain.center.counters.of("messages_for_another_role") == 1


# --- at a gateway -----------------------------------------------------------------------------------------------------


class Asks:
    """A gateway with a model and its new version, each at one host."""

    def __init__(self, share: float = 0.3) -> None:
        self.engine, self.counters = QueryRouteEngine(), Counters()
        old = make_model(make_route("old"))
        new = msgspec.structs.replace(
            make_model(make_route("new")),
            model=ModelName(f"{old.model}.next"),
            artifact=NEWER,
            canary=Canary(model=old.model, share=share),
        )
        self.models = [old, new]
        self.dead: set[str] = set()
        self.asking = Asking(self.engine, carried(self._call), self.counters)
        self.engine.follow(self.models, time.monotonic_ns())
        self.asking.follow(self.models)

    async def _call(self, host: NodeId, call: QueryCall, timeout_s: float) -> QueryAnswer:
        if host in self.dead:
            raise UnavailableError("gone")
        return ANSWER

    async def ask(self, session: str = "") -> Asked:
        return await self.asking.ask(self.models[0].model, (), 1, QueryGoal(), session)


def test_share_of_queries_asks_the_new_version_and_sessions_stay_with_theirs() -> None:
    async def story() -> None:
        world = Asks()
        found = [(await world.ask()).model for _ in range(400)]
        assert 0.2 < sum(one.endswith(".next") for one in found) / 400 < 0.4
        for number in range(20):
            assert len({(await world.ask(f"session {number}")).model for _ in range(3)}) == 1
        told = {one.artifact: one for one in world.asking.outcomes.told()}
        assert sum(one.answered for one in told.values()) == 460
        assert told[NEWER].lost == 0

    asyncio.run(story())


def test_what_the_new_version_does_not_answer_the_old_one_does_and_it_is_counted() -> None:
    async def story() -> None:
        world = Asks(share=1.0)
        world.dead = {"new"}
        found = await world.ask()
        assert isinstance(found.outcome, QueryAnswer)
        assert (found.model, found.host) == (world.models[0].model, "old")
        assert world.counters.of("newer_versions_passed") == 1
        told = {one.artifact: one for one in world.asking.outcomes.told()}
        assert (told[NEWER].lost, told[world.models[0].artifact].answered) == (1, 1)
        world.asking.follow([world.models[0]])
        assert (await world.ask()).model == world.models[0].model
        assert world.counters.of("newer_versions_passed") == 1

    asyncio.run(story())


def test_cascade_reads_how_sure_a_model_is_as_judged_answers_have_it() -> None:
    step = {"kind": "cascade", "output": "p", "sure": 0.8, "steps": [leaf("small"), leaf("large")]}
    gate = Gate({"name": "both", "step": step}).add("small", shares(0.85, 0.15)).add("large", shares(0.1, 0.9))
    assert values(gate.ask("both"))[0] == [0.85, 0.15]
    served = gate._served
    gate._served = lambda name: msgspec.structs.replace(served(name), temperature=2.0)  # type: ignore[method-assign]
    assert values(gate.ask("both"))[0] == [0.1, 0.9], "it says 85 of 100 and is right in fewer"
    assert json.dumps(values(gate.ask("both")))


def test_votes_go_by_the_threshold_that_judged_answers_have() -> None:
    step = {"kind": "ensemble", "steps": [leaf("one"), leaf("two")], "output": "p", "join": "vote", "weights": "equal"}
    gate = Gate({"name": "both", "step": step}).add("one", shares(0.7, 0.3)).add("two", shares(0.6, 0.4))
    assert values(gate.ask("both"))[0] == [1.0, 0.0]
    served = gate._served
    gate._served = lambda name: msgspec.structs.replace(served(name), threshold=0.35)  # type: ignore[method-assign]
    assert values(gate.ask("both"))[0] == [0.5, 0.5], "a share of 0.4 says the second"


def test_answer_is_judged_by_whoever_asked_it_and_only_where_that_was_wished() -> None:
    async def story() -> None:
        gate = DoorWorld()
        gate.answer = QueryAnswer(outputs=tensors_of({"logits": np.array([[2.0, 0.0]], np.float32)}))
        await gate.door.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession(gate.door.address, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
                async with client.post(INFER, data=BODY) as said:
                    assert "x-daitn-feedback" not in said.headers
                    query = said.headers["x-daitn-query"]
                path = f"/v2/queries/{query}/feedback"
                async with client.post(path, json={"right": [0]}) as said:
                    assert (said.status, "x-daitn-feedback: 1" in await said.text()) == (404, True)
                async with client.post(INFER, data=BODY, headers={"x-daitn-feedback": "1"}) as said:
                    assert said.headers["x-daitn-feedback"] == "may be given"
                    path = f"/v2/queries/{said.headers['x-daitn-query']}/feedback"
                for wrong, status in (({"right": [0, 1]}, 400), ({"right": [7]}, 400), ({"rigth": [0]}, 400)):
                    async with client.post(path, json=wrong) as said:
                        assert said.status == status
                async with client.post(path, json={"right": [0], "field": "north"}) as said:
                    assert await said.json() == {"rows": 1, "right": 1}
                async with client.post(path, json={"right": [0]}) as said:
                    assert said.status == 409
                async with client.post(INFER, data=BODY) as said:
                    assert "x-daitn-threshold" not in said.headers
                moved = [msgspec.structs.replace(one, threshold=0.35) for one in gate.engine.models.values()]
                gate.engine.follow(moved, time.monotonic_ns())
                async with client.post(INFER, data=BODY) as said:
                    assert said.headers["x-daitn-threshold"] == "0.35"
        finally:
            await gate.door.stop()
        assert gate.counters.of("door_refused", "feedback") == 5
        assert gate.counters.of("feedback_taken") == 1

    asyncio.run(story())


class Going:
    """A runner that is not at its end."""

    def check_going(self) -> None:
        """It is not."""


def test_provider_sees_both_versions_as_one_model_and_is_told_what_cannot_be_tried() -> None:
    trial = Trial()
    trial.begin()
    trial.count(old=(100, 90, 100, 1), new=(20, 15, 20, 0))
    service = DeploymentService(trial.domain.center, Going(), None, NodeClock())  # type: ignore[arg-type]
    ada = OwnerId("ada")
    (shown,) = service.models(ada)
    assert (shown.model, shown.live.answered, shown.live.lost) == ("sides", 100, 1)
    (field,) = shown.live.fields
    assert (field.rows, field.accuracy, field.measured) == (100, 0.9, None)
    assert shown.canary is not None
    assert (shown.canary.rows, shown.canary.right, shown.canary.old_rows, shown.canary.serving) == (20, 15, 100, 1)
    with pytest.raises(InputError, match=r"ada has no model 'sides\.next'"):
        service.status(ada, NEXT)
    with pytest.raises(InputError, match="there is no model 'none' of ada to try a version beside"):
        service._beside(ada, ModelName("none"), ServingGoal(), NEEDS)
    other = msgspec.structs.replace(NEEDS, inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),))
    with pytest.raises(InputError, match=r"the new one x FP32 \[-1, 3\]"):
        service._beside(ada, MODEL, ServingGoal(), other)
    assert service._beside(ada, MODEL, ServingGoal(), NEEDS) == (NEXT, trial.desk.models[MODEL].goal)
    with pytest.raises(PolicyError, match=r"sides\.next is a new version of model sides"):
        service._check_name(ada, NEXT, 1)
