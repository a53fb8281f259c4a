"""Models that are large for their sites, on real processes: what did not change is not sent, a site without room is
gone round, all who hold a model serve it, a bit that flips in a store is found, and what was kept for a job goes when
that has ended, whatever messages were lost."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.system.small_domain import contract, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.ids import DataSetId
from daitn.base.metrics import shown
from daitn.descriptors.job import FINAL_PHASES, Phase
from daitn.descriptors.request import Budget, Hyperparameters, Selection
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.node.store.listing import StoreListing, list_store
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(200)

BASE_FLOATS = 10_000_000
"""The frozen base: 40 MB."""

QUOTA_BYTES = 200_000_000
SNUG_BYTES = 100_000_000
"""A model that comes and the one made from it, and no third."""

TINY_BYTES = 20_000_000
SENT = re.compile(r"sen(?:t|ding) chunk ([0-9a-f]{64}) to (n\d{4})")
FETCHED = re.compile(r"fetched ([0-9a-f]{16}): (\d+) bytes in")


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    folder = tmp_path_factory.mktemp("big")
    with LocalDomain(folder / "domain", "big", patience_s=2.0, environment={"DAITN_LOG": "DEBUG"}) as running:
        running.start()
        roles = (Role.DATA, Role.COMPUTE)
        specs = [
            NodeSpec(name="north", operator="north", roles=roles, direct="127.0.0.1", storage_bytes=QUOTA_BYTES),
            NodeSpec(name="south", operator="south", roles=roles, direct="127.0.0.1", storage_bytes=QUOTA_BYTES),
            NodeSpec(name="snug", operator="snug", roles=roles, direct="127.0.0.1", storage_bytes=SNUG_BYTES),
            NodeSpec(name="tiny", operator="tiny", roles=roles, storage_bytes=TINY_BYTES),
            NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,), direct="127.0.0.1"),
        ]
        sites = [spec.name for spec in specs if spec.roles == roles]
        running.join_all(specs, {name: [write_site(folder / name, seed)] for seed, name in enumerate(sites)})
        yield running


def adapted_model() -> Any:
    """A large frozen base of which the answer takes a little, and a small head that learns."""
    import torch
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Parameter(torch.rand(BASE_FLOATS // 2, 2), requires_grad=False)
            self.head = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x + 0.01 * self.base[0])

    torch.manual_seed(0)
    return Adapted()


def submit(domain: LocalDomain, name: str, visits: int, *sites: str) -> Any:
    return daitn.connect(domain.owner_token("ada")).train(
        adapted_model(),
        contract=contract(),
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        until_deadline=True,
        deadline=180,
        purpose="research",
        name=name,
        method="cyclic",
        data=among(*sites),
        budget=Budget(visits=visits),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=20, learning_rate=1e-3),
        key=load_or_create_key(domain.folder / "ada.key"),
    )


def among(*sites: str) -> Selection:
    """These sites' data; without any all that there are."""
    return Selection(include=tuple(DataSetId(f"{site}/sides") for site in sites))


def fetches(domain: LocalDomain, name: str) -> list[int]:
    """Bytes of each model that a node fetched, from its log."""
    log = (domain.folder / "logs" / f"{name}.log").read_text(errors="replace")
    return [int(match[2]) for match in FETCHED.finditer(log)]


def stored(domain: LocalDomain, name: str) -> StoreListing:
    return list_store(domain.node_folder(name) / "store", QUOTA_BYTES)


def kept_for(domain: LocalDomain, name: str) -> set[str]:
    return {job for pack in stored(domain, name).packs for job in pack.pins}


def test_frozen_base_is_sent_to_a_site_once_and_a_site_without_room_is_gone_round(domain: LocalDomain) -> None:
    job = submit(domain, "adapted", visits=8)
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.visits == 8
    for site in ("north", "south"):
        first, *others = fetches(domain, site)
        assert first > 4 * BASE_FLOATS
        assert others, "the model came back"
        assert max(others) < 10_000, "only the head, its optimizer's state and the manifest changed"
    served = [min(len(sent_to(domain, name, site)) for name in ("center", "unit")) for site in ("north", "south")]
    assert max(served) >= 5, "whoever was first got the package from centre and unit, each a part"
    assert fetches(domain, "tiny") == []
    assert status.verdict is not None
    (left_out,) = [one for one in status.verdict.excluded if one.dataset.startswith("tiny/")]
    assert "has room for 20.0 MB" in left_out.why


def test_what_was_kept_for_a_job_goes_though_its_site_was_away_when_it_ended(domain: LocalDomain) -> None:
    job = submit(domain, "away", visits=200)

    def is_kept() -> bool:
        status = job.status()
        assert status.phase not in FINAL_PHASES, status.reason
        return status.visits >= 2 and job.id in kept_for(domain, "north")

    wait_until(is_kept, "a model kept for the job")
    shown = domain.run("store", str(domain.node_folder("north")))
    assert any(job.id in pack["pins"] and pack["goes"] is None for pack in shown["packs"])

    domain.kill("north", signal.SIGKILL)
    job.cancel()
    wait_until(lambda: job.status().phase is Phase.CANCELLED, "the end of the job")
    assert job.id in kept_for(domain, "north")

    domain.restart("north")
    wait_until(lambda: job.id not in kept_for(domain, "north"), "letting go")


def counted(domain: LocalDomain, name: str) -> dict[str, int]:
    """What a node counted, as the centre knows it."""
    with daitn.connect(domain.operator_token()) as operator:
        return next((shown(one.counted.counts) for one in operator.counters() if one.name == name), {})


def node_of(domain: LocalDomain, name: str) -> str:
    with daitn.connect(domain.operator_token()) as operator:
        (node,) = [one.descriptor.node for one in operator.nodes() if one.descriptor.name == name]
    return str(node)


def sent_to(domain: LocalDomain, name: str, receiver: str) -> set[str]:
    """Chunks that a node gave another, from its log."""
    node = node_of(domain, receiver)
    log = (domain.folder / "logs" / f"{name}.log").read_text(errors="replace")
    return {match[1] for match in SENT.finditer(log) if match[2] == node}


def flip_a_bit(domain: LocalDomain, name: str, job: Any) -> int:
    """Change one bit of the frozen base in every model of a job that a node holds; in how many."""
    changed = 0
    for pack in stored(domain, name).packs:
        path = domain.node_folder(name) / "store" / pack.file
        if pack.kind == "graph" and {job.id, f"~{job.id}"} & set(pack.pins):
            with suppress(FileNotFoundError), path.open("r+b") as file:  # the job may just have let it go
                file.seek(BASE_FLOATS)
                (byte,) = file.read(1)
                file.seek(BASE_FLOATS)
                file.write(bytes([byte ^ 64]))
                changed += 1
    return changed


def test_bit_that_flips_in_a_store_is_found_there_and_no_model_goes_on_from_it(
    domain: LocalDomain, tmp_path: Path
) -> None:
    assert submit(domain, "back", 1, "north").wait().visits == 1, "north, killed above, is given visits again"
    job = submit(domain, "flipped", 8, "north", "south")
    north = node_of(domain, "north")
    wait_until(lambda: any(one.kind == "trained" and one.node == north for one in job.log()), "a visit at north")
    job.pause()
    wait_until(lambda: not job.status().now, "the visit under way to end")
    wait_until(lambda: flip_a_bit(domain, "north", job) >= 1, "a model that north keeps, if only weakly")
    job.resume()
    status = job.wait()

    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.visits == 8
    wait_until(lambda: counted(domain, "north").get("store_corrupt", 0) >= 1, "north counts what it found")
    trained = dict(job.result(tmp_path / "model").model().named_parameters())
    (base,) = [one for name, one in trained.items() if name.endswith("base")]
    assert bool((base.detach() == adapted_model().base.detach()).all()), "the base is as the owner gave it"


def test_two_jobs_at_a_site_with_room_for_one_both_end_and_only_copies_go(domain: LocalDomain) -> None:
    snug = node_of(domain, "snug")
    jobs = [submit(domain, f"snug-{number}", 300, "north", "snug") for number in range(2)]

    def visited() -> bool:
        return any(one.kind == "trained" and one.node == snug for job in jobs for one in job.log())

    # A site that had no room rests for seconds, in which the other one makes many visits.
    wait_until(visited, "a visit at a site that has room for one of the two jobs")
    for job in jobs:
        made = job.status().visits
        job.change(budget=Budget(visits=made + 6))
    for job in jobs:
        status = job.wait()
        assert status.phase is Phase.EXHAUSTED, status.reason
        assert status.visits >= 6
    entries = [one for job in jobs for one in job.log()]
    assert [one.text for one in entries if one.kind == "copies-let-go"], "room was made"
    assert not [one.text for one in entries if one.kind in ("model-gone", "holder-dropped")], "no only copy went"
