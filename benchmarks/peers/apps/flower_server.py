"""Flower's server: federated averaging of what the sites answer, first of one site in turn, then of both at once."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .contents import are_weights, note, weights

SITES = 2
POLL_S = 0.1


class Turns(FedAvg):  # type: ignore[misc]  # its package is not in the environment that checks this file
    """Federated averaging; the first `hops` rounds go to one site each, so that the model goes to and fro."""

    def __init__(self, record: str, hops: int) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.record = record
        self.hops = hops
        self.began_ns = 0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message to the site whose turn it is, or one to each."""
        self.began_ns = time.time_ns()
        nodes = sorted(grid.get_node_ids())
        chosen = [nodes[server_round % SITES]] if server_round <= self.hops else nodes
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"version": server_round - 1})})
        return [Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node) for node in chosen]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean, by Flower's own code. What it is, is checked by the next site, and at the end."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        note(
            self.record,
            event="round",
            version=server_round - 1,
            sites=1 if server_round <= self.hops else SITES,
            began_ns=self.began_ns,
            ended_ns=time.time_ns(),
        )
        return arrays, metrics


def serve(grid: Grid, context: Context) -> None:
    """All rounds of one size."""
    record, size = str(context.run_config["record"]), int(context.run_config["size"])
    hops, rounds = int(context.run_config["hops"]), int(context.run_config["rounds"])
    while len(list(grid.get_node_ids())) < SITES:
        time.sleep(POLL_S)
    result = Turns(record, hops).start(
        grid=grid,
        initial_arrays=ArrayRecord({"weights": Array(weights(size, 0))}),
        num_rounds=hops + rounds,
    )
    last = result.arrays["weights"].numpy()
    note(
        record, event="done", version=hops + rounds, right=are_weights(last, size, hops + rounds), at_ns=time.time_ns()
    )


app = ServerApp()
app.main()(serve)
