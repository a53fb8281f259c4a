"""The map in real processes: a question of many facts has an answer, a node's load is reported over the fabric, and the
map survives its centre."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import daitn
from daitn.descriptors.terminals import Role
from daitn.node.http.bodies import FactOnMap
from daitn.node.processes import DataFiles, LocalDomain
from daitn.scenario.spec import NodeSpec

DEADLINE_S = 40.0

CONTRACT = {
    "name": "letters",
    "columns": [
        {"type": "text", "name": "letter"},
        {"type": "number", "name": "written", "unit": "unix_s"},
        {"type": "category", "name": "ward", "values": ["cardiology", "surgery"]},
    ],
    "inputs": [{"type": "tokens", "name": "letter", "column": "letter", "tokenizer": "bytes", "length": 32}],
    "task": {"type": "classification", "label": "ward"},
    "fields": [{"type": "by_column", "column": "ward"}],
}

POLICY = """
owners = ["ada"]
purposes = ["care"]
epsilon_per_period = 50.0
newest_day = true
"""

QUESTION = """
data where data_type = text and since(newest_unix_s) <= 90d
  and some data_field (field = cardiology and field_records >= 50)
  and terminal.reachable_frac >= 99% and surely terminal.trust >= 0.8 and within 250ms of (computes and cores >= 1)
  top 50 by records
"""
"""That of docs/map.md, for a domain of 200 letters, without an accelerator, on a machine that others use, too."""


def letters(folder: Path) -> DataFiles:
    """Two hundred letters of the last weeks."""
    folder.mkdir()
    today = datetime.now(UTC).date()
    days = [(today - timedelta(days=number % 40)).isoformat() for number in range(200)]
    rows = "".join(f"letter {n},{day},{'surgery' if n % 4 == 0 else 'cardiology'}\n" for n, day in enumerate(days))
    (folder / "data.csv").write_text("letter,written,ward\n" + rows)
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    (folder / "policy.toml").write_text(POLICY)
    paths = {"data": folder / "data.csv", "contract": folder / "contract.json", "policy": folder / "policy.toml"}
    return DataFiles(name="letters", **paths)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """A compute site, and a clinic with letters."""
    folder = tmp_path_factory.mktemp("map")
    with LocalDomain(folder / "domain", "small", patience_s=2.0) as made:
        made.start()
        specs = [
            NodeSpec(name="forge", operator="lab", roles=(Role.COMPUTE,), slots=3),
            NodeSpec(name="clinic", operator="clinic", roles=(Role.DATA,)),
        ]
        made.join_all(specs, {"clinic": [letters(folder / "clinic")]})
        yield made


def facts_of(domain: LocalDomain, name: str) -> dict[str, FactOnMap]:
    """The fast facts of a node, as an operator sees them."""
    nodes = daitn.connect(domain.operator_token()).nodes()
    return {fact.name: fact for node in nodes if node.descriptor.name == name for fact in node.facts}


def wait_for(domain: LocalDomain, name: str, fact: str, *, stale: bool = False) -> FactOnMap:
    """The fact once the map holds it, confirmed or not."""
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        held = facts_of(domain, name)
        if fact in held and (stale or not held[fact].stale):
            return held[fact]
    raise AssertionError(f"{fact} of {name} did not reach the map: {domain.tail(name)}")


def test_question_of_dates_fields_presence_trust_and_distance_has_its_answer(domain: LocalDomain) -> None:
    asked = daitn.connect(domain.operator_token()).map
    end_s = time.monotonic() + DEADLINE_S
    while not (answer := asked.ask(QUESTION)).rows and time.monotonic() < end_s:
        pass  # places come with the first round trips

    why = [clause for clause in asked.explain(QUESTION, "clinic/letters").clauses if not clause.holds]
    assert [row.id for row in answer.rows] == ["clinic/letters"], "\n".join(map(str, why))
    assert not asked.ask(QUESTION.replace("<= 90d", "> 90d")).rows


def test_load_of_a_node_reaches_the_map_and_outlives_the_centre(domain: LocalDomain) -> None:
    free = wait_for(domain, "forge", "free_slots")
    assert (free.value, free.unit) == (3.0, "1")
    assert free.age_s < 30
    assert wait_for(domain, "forge", "wait_s").value == 0.0
    asked = "terminal where name = forge and attached and flops > 1000 and memory_bytes_per_s > 1MB"
    found = daitn.connect(domain.operator_token()).map.ask(asked + " and age_of(flops) <= 60s")
    assert len(found.rows) == 1
    snapshots = list((domain.home / "center" / "map").glob("snapshot-*.map"))
    assert snapshots

    domain.kill("center", signal.SIGKILL)
    domain.kill("forge", signal.SIGSTOP)
    domain.restart("center")
    assert wait_for(domain, "forge", "free_slots", stale=True).stale

    domain.kill("forge", signal.SIGCONT)
    assert wait_for(domain, "forge", "free_slots").value == 3.0
