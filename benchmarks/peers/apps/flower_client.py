"""Flower's side of a site: checks the model it was sent and answers with the next version. No training."""

from __future__ import annotations

import time

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .contents import are_weights, note, weights


def step(message: Message, context: Context) -> Message:
    """One step: the clock runs for the peer until the numbers are here, and again from when the next ones are."""
    found = message.content["arrays"]["weights"].numpy()
    began = time.time_ns()
    size, version = int(context.run_config["size"]), int(message.content["config"]["version"])
    right = are_weights(found, size, version)
    changed = weights(size, version + 1)
    note(
        str(context.run_config["record"]),
        event="step",
        site=str(context.node_id),
        version=version,
        right=right,
        began_ns=began,
        ended_ns=time.time_ns(),
    )
    content = {
        "arrays": ArrayRecord({"weights": Array(changed)}),
        "metrics": MetricRecord({"num-examples": 1}),
    }
    return Message(content=RecordDict(content), reply_to=message)


app = ClientApp()
app.train()(step)
