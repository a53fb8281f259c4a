"""The last scene: the trained model is given to the network, answers over HTTP, and goes on when a host is killed.

Whoever asks here is any HTTP client of the Open Inference Protocol: nothing of this package is needed to ask, only to
make the rows that the model eats. Answers are compared with what `daitn predict` says of the same rows.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from daitn.artifacts.package import read_package
from daitn.base.errors import UnavailableError
from daitn.demo.board import Board
from daitn.demo.recording import Served
from daitn.describe.column_map import ColumnMap
from daitn.descriptors.serving import ModelPhase
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.network import Network
from daitn.sdk.packaging import contract_of
from daitn.sdk.predict import predict
from daitn.sdk.rows import RowEncoder, open_columns

HOSTS: Final = ("linden", "maple", "rowan")
GATE: Final = "gate"
GOAL: Final = "accuracy >= 95%, p95 <= 1 s, = 2 replicas"
ASKERS: Final = 2
BEFORE: Final = 40
"""Answers before a host is killed, and after its place was taken."""

READY_S: Final = 60.0


class _Answer(NamedTuple):
    right: bool
    seconds: float
    killed: bool
    """Whether it was asked after a host was killed."""


def serve(
    domain: LocalDomain, network: Network, board: Board, package: Path, new: Path, goal: str = GOAL
) -> Served | None:
    """Deploy `package`, ask it about the rows of `new` while one of its hosts is killed; what was seen, or None where
    it did not reach its goal in training and is not admitted."""
    hosts = [NodeSpec(name=name, operator=f"{name}-hosting", roles=(Role.HOST,), region=name) for name in HOSTS]
    said = domain.join_all([*hosts, NodeSpec(name=GATE, operator="gateway", roles=(Role.GATEWAY,))])
    address = str(said[GATE]["queries"])
    board.say(f"three model hosts joined, and a gateway that answers at {address}")
    key = str(domain.run("token", "owner", "clinic-app", "--scope", "ask", token=domain.operator_token())["token"])
    began = time.monotonic()
    status = network.models.deploy(package, "breast", goal)
    if status.phase is ModelPhase.REFUSED:
        board.say(f"the trained model is not admitted: {'; '.join(status.reasons)}", "bold red")
        return None
    status = network.models.wait("breast", READY_S)
    placed_s = time.monotonic() - began
    placed = [one.name for one in status.replicas]
    board.say(f"the model is admitted ({goal}) and answers at {' and '.join(placed)} after {placed_s:.1f} s")
    questions = _questions(package, new)
    answers, replaced_s = _ask_while_killing(domain, network, board, address, key, questions, placed[0])
    end = network.models.status("breast")
    calm = sorted(one.seconds for one in answers if not one.killed)
    after = [one for one in answers if one.killed]
    served = Served(
        goal=goal,
        hosts=tuple(placed),
        placed_s=placed_s,
        killed=placed[0],
        hosts_after=tuple(one.name for one in end.replicas if one.phase == "serving"),
        asked=len(answers),
        right=sum(one.right for one in answers),
        calm_median_ms=1000 * calm[len(calm) // 2],
        slowest_after_ms=1000 * max(one.seconds for one in after),
        replaced_s=replaced_s,
    )
    board.say(
        f"{served.right} of {served.asked} queries were answered, and as daitn predict does; slowest after the kill "
        f"{served.slowest_after_ms:.0f} ms, replaced after {served.replaced_s:.1f} s",
        "bold green" if served.right == served.asked else "bold red",
    )
    return served


class _Questions(NamedTuple):
    """One request a row, the label that `daitn predict` gives it, and the contract's labels in their order."""

    bodies: list[bytes]
    expected: list[str]
    labels: tuple[str, ...]


def _questions(package: Path, new: Path) -> _Questions:
    read = read_package(package)
    contract = contract_of(read)
    local, batches = open_columns(new)
    encoder = RowEncoder(contract, local, ColumnMap(), {})
    questions: list[bytes] = []
    for batch in batches:
        table, faults, _ = encoder.encode(batch)
        rows = np.array([row for row, fault in enumerate(faults) if not fault], dtype=np.int64)
        arrays = encoder.inputs(table, rows)
        for row in range(len(rows)):
            inputs = [
                {"name": name, "shape": [1, *one.shape[1:]], "datatype": "FP32", "data": one[row].reshape(-1).tolist()}
                for name, one in arrays.items()
            ]
            questions.append(json.dumps({"inputs": inputs}).encode())
    expected = [one.label for one in predict(package, new) if not one.fault]
    return _Questions(questions, expected, tuple(contract.labels()))


def _ask_while_killing(
    domain: LocalDomain,
    network: Network,
    board: Board,
    address: str,
    key: str,
    questions: _Questions,
    victim: str,
) -> tuple[list[_Answer], float]:
    """Ask without end from a few threads; kill a host; go on until another has taken its place."""
    answers: list[_Answer] = []
    over, dead = threading.Event(), threading.Event()

    def go_on(first: int) -> None:
        number = first
        while not over.is_set():
            place, killed = number % len(questions.bodies), dead.is_set()
            began = time.monotonic()
            scores = _post(f"{address}/v2/models/breast/infer", key, questions.bodies[place])
            right = scores is not None and questions.labels[int(np.argmax(scores))] == questions.expected[place]
            answers.append(_Answer(right, time.monotonic() - began, killed))
            number += ASKERS

    _wait(
        lambda: _post(f"{address}/v2/models/breast/infer", key, questions.bodies[0]) is not None, "the gateway answers"
    )
    threads = [threading.Thread(target=go_on, args=(first,), daemon=True) for first in range(ASKERS)]
    for thread in threads:
        thread.start()
    try:
        _wait(lambda: len(answers) >= BEFORE, "queries are answered")
        board.say(f"{victim} is killed while queries are under way", "bold yellow")
        domain.kill(victim)
        dead.set()
        began = time.monotonic()
        _wait(lambda: _serving(network, victim) >= 2, "the lost host's place is taken")
        replaced_s = time.monotonic() - began
        target = len(answers) + BEFORE
        _wait(lambda: len(answers) >= target, "queries go on")
    finally:
        over.set()
        for thread in threads:
            thread.join(READY_S)
    return answers, replaced_s


def _serving(network: Network, victim: str) -> int:
    """Replicas that answer, at other hosts than the one that was killed."""
    replicas = network.models.status("breast").replicas
    return sum(one.reachable and one.phase == "serving" and one.name != victim for one in replicas)


def _post(url: str, key: str, body: bytes) -> list[float] | None:
    """The scores of one row; None where there is no answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:
            told: dict[str, Any] = json.load(answer)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None
    return list(told["outputs"][0]["data"])


def _wait(condition: Any, what: str) -> None:
    give_up = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > give_up:
            raise UnavailableError(f"{what}: not within {READY_S:g} s")
        time.sleep(0.05)
