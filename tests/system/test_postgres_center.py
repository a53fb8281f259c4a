"""A control centre whose journal is a PostgreSQL server's: killed with -9, it goes on where it was."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.postgres import postgres_server, why_not
from tests.system.small_domain import contract, make_model, small_domain, wait_until

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.node.center_node import CENTER_RECORDS, STREAM
from daitn.node.journal import Journal

pytest.importorskip("torch")
pytestmark = [pytest.mark.timeout(240), pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")]

VISITS = 6


def test_centre_on_postgresql_is_killed_and_replays_every_accepted_visit(tmp_path: Path) -> None:
    with postgres_server() as url, small_domain(tmp_path, database=url) as domain:
        job = daitn.connect(domain.owner_token("ada")).train(
            make_model(),
            contract=contract(),
            targets=["loss <= 0.0000001"],
            chance_floor=0.0,
            deadline=180,
            purpose="research",
            name="postgres",
            method="cyclic",
            budget=Budget(visits=VISITS),
            hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=200, learning_rate=1e-3),
            key=load_or_create_key(domain.folder / "ada.key"),
        )
        wait_until(lambda: job.status().visits >= 2, "two accepted visits")
        before = job.log()
        domain.kill("center", signal.SIGKILL)
        domain.restart("center")

        assert job.log()[: len(before)] == before
        status = job.wait()

        assert status.phase is Phase.EXHAUSTED, status.reason
        assert status.visits == VISITS
        assert not (domain.home / "center" / "journal.sqlite").exists()
        domain.processes.end("center")
        journal = Journal(url, CENTER_RECORDS)
        kept = len(list(journal.read(STREAM)))
        journal.close()
        assert kept > len(before)
