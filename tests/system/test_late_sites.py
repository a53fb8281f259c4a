"""Real processes of which one site is slow: rounds go on without it, and buffered averaging does not wait for it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from tests.system.small_domain import contract, make_model, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.node.supervisor import descendants
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="stops processes and reads /proc"),
]

SITES = ("north", "south", "east", "west")
SLOW = "west"
RUNS_S, STOPPED_S = 0.3, 1.2
"""A child that a node finds stopped for two seconds on end is ended by it."""


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """Four sites, a verification unit, an aggregator."""
    folder = tmp_path_factory.mktemp("late")
    with LocalDomain(folder / "domain", "late", patience_s=3.0) as running:
        running.start()
        specs = [NodeSpec(name=name, operator=name, roles=(Role.DATA, Role.COMPUTE)) for name in SITES]
        specs.append(NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,)))
        specs.append(NodeSpec(name="mixer", operator="lab", roles=(Role.AGGREGATOR,)))
        running.join_all(specs, {name: [write_site(folder / name, seed)] for seed, name in enumerate(SITES)})
        yield running


@contextmanager
def slowed(domain: LocalDomain, name: str) -> Iterator[None]:
    """The children of a node run a fifth of the time."""
    over = threading.Event()
    root = domain.processes.pid(name)

    def tell(number: signal.Signals) -> None:
        for child in descendants([root]):
            if child != root:
                with suppress(ProcessLookupError):
                    os.kill(child, number)

    def slow() -> None:
        while not over.wait(RUNS_S):
            tell(signal.SIGSTOP)
            over.wait(STOPPED_S)
            tell(signal.SIGCONT)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        tell(signal.SIGCONT)


def texts_of(domain: LocalDomain, method: str) -> list[str]:
    """The log of a job of a dozen visits, while one site is slow."""
    job = daitn.connect(domain.owner_token("ada")).train(
        make_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        deadline=200,
        purpose="research",
        name=method,
        method=method,
        key=load_or_create_key(domain.folder / "ada.key"),
        budget=Budget(visits=8),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=300),
    )
    with slowed(domain, SLOW):
        status = job.wait()
    assert status.phase is Phase.EXHAUSTED, status.reason
    assert job.check_proofs()
    reached = {target.name: target.reached for target in status.targets}
    assert reached["loss"] is not None
    assert reached["loss"] < 0.3
    return [entry.text for entry in job.log()]


def test_rounds_go_on_without_a_site_that_is_slow_and_ask_it_for_less(domain: LocalDomain) -> None:
    texts = texts_of(domain, "fedavg")

    stopped = [text for text in texts if "was stopped: 3 other sites of the round have handed in" in text]
    assert stopped
    assert all(f"at {SLOW} was stopped" in text for text in stopped)
    assert any("average 3 models" in text for text in texts)
    assert any(f"at {SLOW} on" in text and "% of a visit, a whole one takes it" in text for text in texts)


def test_buffered_averaging_does_not_wait_for_a_site_that_is_slow(domain: LocalDomain) -> None:
    texts = [text for text in texts_of(domain, "fedbuff") if " of the route: " not in text]

    averages = [text for text in texts if "add up what" in text]
    assert len(averages) >= 3
    trained = next(place for place, text in enumerate(texts) if f"at {SLOW} on" in text)
    ended = next((place for place, text in enumerate(texts) if place > trained and f"at {SLOW}" in text), len(texts))
    assert sum("add up what" in text for text in texts[trained:ended]) >= 2
