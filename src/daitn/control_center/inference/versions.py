"""New versions of models: one is asked by a share of the queries beside the old one, judged, and stays or goes (II-B).

A new version is a deployed model of its own, under a name that only gateways ask: it is admitted, placed and lost as
any other, so the old version gives up no host for it. Gateways send it its share, and what it cannot answer they ask of
the old one. Which of the two is right more often, and which loses more, `live_book` says from what gateways count;
`decision.canary_judging` says what follows. One that takes over gets all queries at once and is deployed under the
model's own name meanwhile; only when that answers is its own let go, so no query waits for the change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from daitn.base.ids import ModelName
from daitn.base.units import ns_to_seconds
from daitn.control_center.inference.commands import CanaryAsked
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.live_book import LiveBook
from daitn.control_center.inference.records import CanaryEnded, ModelCalibrated, ModelDeployed, ModelWithdrawn
from daitn.control_center.inference.staged import canary_of
from daitn.control_center.turn import Turn
from daitn.decision.canary_judging import CanaryVerdict, Seen, judge_canary
from daitn.descriptors.versions import Canary

Models = Mapping[ModelName, Deployed]

OVER_S: Final = 120.0
"""A new version that took over answers under its own name so long at most: hosts that cannot load it anew keep it."""


class Versions:
    """See the module's docstring. `answers`: whether as many hosts as its goal wants answer for a model."""

    def __init__(self, models: Models, book: LiveBook, answers: Callable[[ModelName], bool]) -> None:
        self._models, self._book, self._answers = models, book, answers
        self._began: dict[ModelName, tuple[Seen, Seen]] = {}
        """By canary: what had been counted of the old and the new version when this process first saw both."""

    def begin(self, turn: Turn, asked: CanaryAsked) -> set[ModelName]:
        """Record that a new version is asked by a share, in place of one that was there. Names that changed."""
        canary = Canary(model=asked.model, share=asked.share, hours=asked.hours, better=asked.better)
        before = canary_of(self._models, asked.model)
        if before is not None:
            why = "another new version took its place"
            self._end(turn, before, took_over=False, why=why)
        turn.record(
            ModelDeployed(
                model=canary.name,
                at_ns=turn.now_ns,
                owner=asked.owner,
                artifact=asked.artifact,
                goal=asked.goal,
                needs=asked.needs,
                quality=asked.quality,
                canary=canary,
            )
        )
        return {canary.name, *([before] if before is not None else [])}

    def look(self, turn: Turn) -> set[ModelName]:
        """Judge every new version there is; names that changed."""
        changed: set[ModelName] = set()
        for name in [name for name, model in self._models.items() if model.canary is not None]:
            changed |= self._judge(turn, name)
        self._began = {name: seen for name, seen in self._began.items() if name in self._models}
        return changed

    def calibrate(self, turn: Turn) -> None:
        """Record temperatures and thresholds that fit what was judged better than those there are."""
        for name, model in self._models.items():
            temperature = self._book.temperature(model.artifact, model.temperature)
            threshold = self._book.threshold(model.artifact, model.threshold)
            if (temperature, threshold) != (model.temperature, model.threshold):
                turn.record(
                    ModelCalibrated(
                        model=name,
                        at_ns=turn.now_ns,
                        artifact=model.artifact,
                        temperature=temperature,
                        threshold=threshold,
                    )
                )

    def seen(self, name: ModelName) -> tuple[Seen, Seen]:
        """What was counted of the old and the new version, since both were there."""
        model = self._models[name]
        assert model.canary is not None
        old = self._models[model.canary.model]
        now = (self._book.seen(old.artifact), self._book.seen(model.artifact))
        began = self._began.setdefault(name, now)
        return _since(began[0], now[0]), _since(began[1], now[1])

    def _judge(self, turn: Turn, name: ModelName) -> set[ModelName]:
        model = self._models[name]
        canary = model.canary
        assert canary is not None
        age_s = ns_to_seconds(turn.now_ns - model.deployed_ns)
        if canary.took_over:
            if self._answers(canary.model) or age_s > OVER_S:
                turn.record(
                    ModelWithdrawn(model=name, at_ns=turn.now_ns, why="it is served under the model's own name")
                )
                return {name}
            return set()
        old, new = self.seen(name)
        if model.failed and not model.placed:
            why = "; ".join(dict.fromkeys(model.failed.values()))
            return self._end(turn, name, took_over=False, why=f"no host could serve it: {why}"[:1000])
        verdict = judge_canary(old, new, over=age_s > canary.hours * 3600, better=canary.better)
        match verdict.verdict:
            case CanaryVerdict.TAKE_BACK:
                return self._end(turn, name, took_over=False, why=verdict.why)
            case CanaryVerdict.TAKE_OVER:
                return self._take_over(turn, name, verdict.why)
            case _:
                return set()

    def _take_over(self, turn: Turn, name: ModelName, why: str) -> set[ModelName]:
        model = self._models[name]
        canary = model.canary
        assert canary is not None
        turn.record(
            ModelDeployed(
                model=canary.model,
                at_ns=turn.now_ns,
                owner=model.owner,
                artifact=model.artifact,
                goal=model.goal,
                needs=model.needs,
                quality=model.quality,
                retrain=self._models[canary.model].retrain,
                retrained=self._models[canary.model].retrained,
            )
        )
        turn.record(
            ModelDeployed(
                model=name,
                at_ns=turn.now_ns,
                owner=model.owner,
                artifact=model.artifact,
                goal=model.goal,
                needs=model.needs,
                quality=model.quality,
                canary=Canary(model=canary.model, share=1.0, hours=canary.hours, took_over=True),
            )
        )
        turn.record(
            CanaryEnded(model=canary.model, at_ns=turn.now_ns, artifact=model.artifact, took_over=True, why=why)
        )
        return {canary.model, name}

    def _end(self, turn: Turn, name: ModelName, *, took_over: bool, why: str) -> set[ModelName]:
        model = self._models[name]
        canary = model.canary
        assert canary is not None
        turn.record(ModelWithdrawn(model=name, at_ns=turn.now_ns, why=why))
        turn.record(
            CanaryEnded(model=canary.model, at_ns=turn.now_ns, artifact=model.artifact, took_over=took_over, why=why)
        )
        return {name}


def _since(before: Seen, now: Seen) -> Seen:
    return Seen(*(max(0.0, new - old) for old, new in zip(before, now, strict=True)))
