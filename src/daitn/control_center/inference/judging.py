"""What follows from judged answers, model by model: temperatures, versions that take over or go, new training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from daitn.base.ids import ModelName, NodeId
from daitn.control_center.inference.deployed import Deployed
from daitn.control_center.inference.live_book import LiveBook
from daitn.control_center.inference.retraining import Jobs, RetrainingDesk
from daitn.control_center.inference.versions import Versions
from daitn.control_center.turn import Turn
from daitn.wire.center_serving import OutcomesTold

Models = Mapping[ModelName, Deployed]


class Judging:
    """See the module's docstring. `answers`: whether as many hosts as its goal wants answer for a model."""

    def __init__(self, models: Models, jobs: Jobs, answers: Callable[[ModelName], bool]) -> None:
        self._models = models
        self.live = LiveBook()
        self.versions = Versions(models, self.live, answers)
        self.retraining = RetrainingDesk(models, self.live, jobs)

    def hear(self, turn: Turn, gateway: NodeId, told: OutcomesTold) -> set[ModelName]:
        """What a gateway counted, and what follows at once. Names whose package or place changed."""
        self.live.take(gateway, told, {model.artifact: None for model in self._models.values()})
        return self._follow(turn)

    def look(self, turn: Turn) -> set[ModelName]:
        """As time goes by: a version's hours are over, a job has ended. Names whose package or place changed."""
        self.live.forget({model.artifact for model in self._models.values()})
        return self._follow(turn)

    def _follow(self, turn: Turn) -> set[ModelName]:
        self.versions.calibrate(turn)
        changed = self.versions.look(turn)
        self.retraining.look(turn)
        return changed
