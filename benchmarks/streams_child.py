"""The child of the benchmark `streams`: exchanges tensors of a given shape through the product's own half, and no more.

Started by the product's sandbox in place of `daitn.node.sandbox.child`; it is told what to do by its third argument.
What it measured is written as JSON into the run's output descriptor.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from daitn.learning.numerics.exchange import PartnerError
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.sandbox.child import explain
from daitn.node.sandbox.confine import confine
from daitn.node.sandbox.dialogue import Dialogue
from daitn.node.sandbox.exchanging import ChildExchange
from daitn.node.sandbox.protocol import Close, Finished, Run, Started, TrainNumbers

MIB = 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """`arguments`: number of the socket, limits, plan (`shape`, `rounds`, `warm`, `wait_s`)."""
    confine(arguments[1])
    plan = json.loads(arguments[2])
    channel = ChildChannel(int(arguments[0]))
    while True:
        run, descriptors = channel.receive()
        if isinstance(run, Close):
            return 0
        if not isinstance(run, Run) or run.room is None:
            continue
        dialogue = Dialogue(channel)
        dialogue.number = run.number
        dialogue.exchange = ChildExchange(run.room, descriptors[2], run.number, dialogue)
        channel.send(Started(number=run.number, first_step_unix_ns=time.time_ns()))
        found: dict[str, Any] = {}
        try:
            _work(dialogue.exchange, plan, found)
        except PartnerError as error:
            found["ended_ns"] = time.monotonic_ns()
            os.pwrite(descriptors[1], json.dumps(found).encode(), 0)
            channel.send(explain(error, run.number))
        else:
            os.pwrite(descriptors[1], json.dumps(found).encode(), 0)
            channel.send(_finished(run))
        finally:
            dialogue.exchange.close()
            for descriptor in descriptors:
                os.close(descriptor)


def _work(exchange: ChildExchange, plan: dict[str, Any], found: dict[str, Any]) -> None:
    """Activations forward, a gradient of the same shape back, in order."""
    own = np.random.default_rng(exchange.rank).standard_normal(plan["shape"], dtype=np.float32)
    before_mb = _peak_mb(reset=True)
    if exchange.rank == 1 and plan["wait_s"]:
        time.sleep(plan["wait_s"])  # a partner that is late: what is sent to it must wait where credits say
    seconds: list[float] = []
    for number in range(plan["warm"] + plan["rounds"]):
        began = time.perf_counter()
        if exchange.rank == 0:
            exchange.exchange(f"forward/{number}", {"activation": own})
            back = exchange.exchange(f"backward/{number}", {})[1]["gradient"]
        else:
            activation = exchange.exchange(f"forward/{number}", {})[0]["activation"]
            gradient = activation + 1 if number == 0 else own
            exchange.exchange(f"backward/{number}", {"gradient": gradient})
            back = gradient
        seconds.append(time.perf_counter() - began)
        if number == 0 and exchange.rank == 0 and not np.array_equal(back, own + 1):
            raise SystemExit("the gradient is not what the other child made of the activation")
    found["seconds"] = seconds[plan["warm"] :]
    found["peak_mb"] = _peak_mb(reset=False) - before_mb


def _peak_mb(*, reset: bool) -> float:
    """Largest resident memory since the last reset; with `reset`, what is resident now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmRSS:" if reset else "VmHWM:"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def _finished(run: Run) -> Finished:
    batches = run.work.training.batches  # type: ignore[union-attr]
    return Finished(
        number=run.number,
        numbers=TrainNumbers(batches=batches, records=1, loss_first=0.0, loss_last=0.0, update_norm=0.0),
        state=type(run.state)(steps=run.state.steps + batches),
    )
