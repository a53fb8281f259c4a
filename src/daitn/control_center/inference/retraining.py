"""Training that begins by itself: a model whose judged answers show that it has got worse is trained on (II-B).

Only where its provider agreed to it at the deployment (`descriptors.versions.Retraining`): a job has an owner, a
deadline and a budget, and all three are those of the job that made the model, submitted again in its provider's name
from the package as it is served. So the sites' policies, the verification unit and the goal judge it as any job; its
samples are drawn anew, from the data as they are then. Where the model reaches its goal on them, the job ends without a
visit: so it may also be submitted now and then, though nobody judged (`check_hours`), as a look of the unit.

What it delivers is tried as a new version (`versions`), and judged by what it answers, or, where nobody judges, by what
the unit measured of both on the same samples. Of each begin and end there is a record; what was asked of the node
around this core is asked again after a restart, under a key that makes twice the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from daitn.base.ids import ArtifactId, JobId, ModelName, OwnerId
from daitn.base.units import seconds_to_ns
from daitn.control_center.inference.commands import RetrainingAnswered, SubmitAgain, TryVersion
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.live_book import LiveBook
from daitn.control_center.inference.records import RetrainingBegun, RetrainingEnded
from daitn.control_center.inference.staged import canary_of
from daitn.control_center.training.job import JobMachine
from daitn.control_center.training.job_state import JobState
from daitn.control_center.turn import Turn
from daitn.decision.keeping import score
from daitn.descriptors.job import Phase
from daitn.descriptors.live import LiveField
from daitn.descriptors.versions import RetrainingShown

Models = Mapping[ModelName, Deployed]
Jobs = Mapping[JobId, JobMachine]

GAVE_A_MODEL: Final = (Phase.DELIVERED, Phase.EXHAUSTED)
"""Phases in which a job ends with a model at the centre."""


class RetrainingDesk:
    """See the module's docstring."""

    def __init__(self, models: Models, book: LiveBook, jobs: Jobs) -> None:
        self._models, self._book, self._jobs = models, book, jobs
        self._asked: set[str] = set()
        """What was asked of the node since this process began, by key."""

    def look(self, turn: Turn) -> None:
        """Begin where a model has got worse, go on where a job has ended."""
        for name, model in list(self._models.items()):
            if model.retraining is not None:
                self._go_on(turn, name, model, model.retraining)
            elif model.retrain is not None and self._may_begin(turn, name, model):
                self._begin(turn, name, model)

    def answered(self, turn: Turn, answer: RetrainingAnswered) -> None:
        """The node could not submit the job, or has tried what it delivered, or could not."""
        model = self._models.get(answer.model)
        if model is not None and model.retraining is not None and _key(answer.model, model.retraining) == answer.key:
            self._end(turn, answer.model, answer.artifact, answer.why)

    def shown(self, name: ModelName) -> RetrainingShown | None:
        """How it stands, for people."""
        model = self._models[name]
        if model.retrain is None:
            return None
        begun = model.retraining
        job = None if begun is None else self._job(model.owner, _key(name, begun))
        return RetrainingShown(
            agreed=model.retrain,
            trained=model.retrained,
            job=JobId("") if job is None else job.job,
            why="" if begun is None else begun.why,
            ended=tuple(one.why for one in model.retrainings),
            checked=model.checked,
        )

    def maker(self, owner: OwnerId, artifact: ArtifactId) -> JobState | None:
        """The owner's job that made a package: not one that only began from it."""
        for machine in self._jobs.values():
            state = machine.state
            if state.owner == owner and state.best == artifact and state.request.package != artifact:
                return state
        return None

    # --- one model ----------------------------------------------------------------------------------------------------

    def _may_begin(self, turn: Turn, name: ModelName, model: Deployed) -> bool:
        agreed = model.retrain
        if agreed is None or model.retrained >= agreed.times or canary_of(self._models, name) is not None:
            return False
        last_ns = model.retrained_ns
        return last_ns is None or turn.now_ns - last_ns >= seconds_to_ns(agreed.rest_hours * 3600)

    def _begin(self, turn: Turn, name: ModelName, model: Deployed) -> None:
        live = self._book.shown(model.artifact, model.quality, model.temperature)
        why = "; ".join(_told(field) for field in live.fields if field.fell)[:1000]
        every_h = None if model.retrain is None else model.retrain.check_hours
        looked_ns = model.deployed_ns if model.retrained_ns is None else model.retrained_ns
        if not why and every_h is not None and turn.now_ns - looked_ns >= seconds_to_ns(every_h * 3600):
            why = f"it is measured every {every_h:g} hours"
        if not why or (maker := self.maker(model.owner, model.artifact)) is None:
            return
        begun = RetrainingBegun(model=name, at_ns=turn.now_ns, artifact=model.artifact, job=maker.job, why=why)
        turn.record(begun)
        self._go_on(turn, name, model, begun)

    def _go_on(self, turn: Turn, name: ModelName, model: Deployed, begun: RetrainingBegun) -> None:
        key = _key(name, begun)
        state = self._job(model.owner, key)
        if model.artifact != begun.artifact:
            self._end(turn, name, None, "another package is served meanwhile")
        elif state is None:
            self._submit(turn, name, model, begun, key)
        elif state.ended:
            self._ended(turn, name, model, state, key)

    def _submit(self, turn: Turn, name: ModelName, model: Deployed, begun: RetrainingBegun, key: str) -> None:
        if key in self._asked:
            return
        self._asked.add(key)
        request = msgspec.structs.replace(self._jobs[begun.job].state.request, package=begun.artifact, variants=())
        turn.perform(SubmitAgain(model=name, owner=model.owner, request=request, key=key))

    def _ended(self, turn: Turn, name: ModelName, model: Deployed, state: JobState, key: str) -> None:
        told = f"job {state.job} {state.phase.value}"
        beside = canary_of(self._models, name)
        tried = [one.artifact for one in model.versions]
        if beside is not None:
            tried.append(self._models[beside].artifact)
        if state.phase not in GAVE_A_MODEL:
            self._end(turn, name, None, f"{told}: {state.reason}")
        elif state.best == model.artifact:
            made = "nothing was better than the model that is served" if state.visits else "the model reaches its goal"
            self._end(turn, name, None, f"{told}: {made}")
        elif state.best in tried:
            self._end(turn, name, state.best, f"{told}; {state.best[:16]} is tried as a new version")
        elif (asked := f"{key} try") not in self._asked and model.retrain is not None:
            self._asked.add(asked)
            turn.perform(
                TryVersion(
                    model=name,
                    owner=model.owner,
                    artifact=state.best,
                    share=model.retrain.share,
                    hours=model.retrain.hours,
                    better=_better(state),
                    key=key,
                    told=told,
                )
            )

    def _end(self, turn: Turn, name: ModelName, artifact: ArtifactId | None, why: str) -> None:
        model = self._models[name]
        state = None if model.retraining is None else self._job(model.owner, _key(name, model.retraining))
        found = () if state is None or state.preflight is None else state.preflight.measurements
        turn.record(
            RetrainingEnded(
                model=name,
                at_ns=turn.now_ns,
                artifact=artifact,
                why=why[:1000],
                trained=state is not None and state.visits > 0,
                checked={one.name: one.value for one in found},
            )
        )

    def _job(self, owner: OwnerId, key: str) -> JobState | None:
        for machine in self._jobs.values():
            if machine.state.owner == owner and machine.state.key == key:
                return machine.state
        return None


def _key(name: ModelName, begun: RetrainingBegun) -> str:
    """Of the submission: the same job however often it is asked for."""
    return f"retraining {name} {begun.at_ns}"


def _better(state: JobState) -> str:
    """How the unit found what the job made better than what it began from; empty where it did not."""
    if state.preflight is None or score(state.request.targets, state.preflight.measurements) >= state.best_score:
        return ""
    before = {one.name: one.value for one in state.preflight.measurements}
    found = [
        f"{one.name} {one.value:.4g} instead of {before[one.name]:.4g}"
        for one in state.best_measurements
        if one.name in before and any(target.name == one.name for target in state.request.targets)
    ]
    return f"a verification unit measured {', '.join(found[:8])} on the same samples"[:1000] if found else ""


def _told(field: LiveField) -> str:
    name = f"accuracy@{field.field}" if field.field else "accuracy"
    was = 0.0 if field.measured is None else field.measured
    return f"{name} is {field.accuracy:.1%} of {field.rows:.0f} judged rows, {was:.1%} was measured"
