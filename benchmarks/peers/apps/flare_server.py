"""Where NVFlare's server takes the first model from, and looks at the last one; it writes none to its disk."""

from __future__ import annotations

import time

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.learnable_persistor import LearnablePersistor
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable

from .contents import are_weights, note, weights


class Models(LearnablePersistor):  # type: ignore[misc]  # its package is not in the environment that checks this file
    """The first model on `load`; on `save` of the last one, whether it is right."""

    def __init__(self, record: str, size: int, hops: int) -> None:
        super().__init__()
        self.record = record
        self.size = size
        self.hops = hops
        self.done = False

    def load(self, fl_ctx: FLContext) -> ModelLearnable:
        """Version 0."""
        return make_model_learnable({"weights": weights(self.size, 0)}, {"version": 0})

    def save(self, learnable: ModelLearnable, fl_ctx: FLContext) -> None:
        """Called after every round and once more at the end."""
        version = int(learnable[ModelLearnableKey.META]["version"])
        if version == self.hops and not self.done:
            self.done = True
            found = learnable[ModelLearnableKey.WEIGHTS]["weights"]
            note(
                self.record,
                event="done",
                version=version,
                right=are_weights(found, self.size, version),
                at_ns=time.time_ns(),
            )
