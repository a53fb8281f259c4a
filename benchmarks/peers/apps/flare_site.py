"""NVFlare's side of a site: checks the model it was sent and answers with the next version. No training."""

from __future__ import annotations

import time

from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from .contents import are_weights, note, weights


class Site(Executor):  # type: ignore[misc]  # its package is not in the environment that checks this file
    """One step for each task; the clock runs for the peer until the numbers are here, and again from the next ones."""

    def __init__(self, record: str, size: int) -> None:
        super().__init__()
        self.record = record
        self.size = size

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """See the class."""
        received = from_shareable(shareable)
        found, version = received.data["weights"], int(received.get_meta_prop("version"))
        began = time.time_ns()
        right = are_weights(found, self.size, version)
        changed = weights(self.size, version + 1)
        note(
            self.record,
            event="step",
            site=fl_ctx.get_identity_name(),
            version=version,
            right=right,
            began_ns=began,
            ended_ns=time.time_ns(),
        )
        return DXO(DataKind.WEIGHTS, data={"weights": changed}, meta={"version": version + 1}).to_shareable()
