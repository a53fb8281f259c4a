"""Sites that hand on what they did not train, in sequential jobs of two: found, blamed alone, gone round, goal reached.

Real processes; the site that lies is `lying_site`. `docs/decisions/0032-whose-model-was-it.md` says how it is found.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.small_domain import contract, make_model, wait_until, write_site

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.metrics import shown
from daitn.descriptors.job import Phase
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.request import Hyperparameters, Selection
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(180)

SITE = (Role.DATA, Role.COMPUTE)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """Router, centre, an honest site and a unit; each test adds a site that lies in its own way."""
    folder = tmp_path_factory.mktemp("lying")
    with LocalDomain(folder / "domain", "lying", patience_s=2.0) as domain:
        domain.start()
        north = NodeSpec(name="north", operator="north", roles=SITE)
        unit = NodeSpec(name="unit", operator="trust", roles=(Role.VERIFICATION,))
        domain.join_all([north, unit], {"north": [write_site(folder / "north", 0)]})
        yield domain


@pytest.fixture(scope="module")
def operator(domain: LocalDomain) -> Iterator[daitn.Network]:
    with daitn.connect(domain.operator_token()) as network:
        yield network


def counted(operator: daitn.Network, series: str, node: str = "") -> int:
    told = (shown(one.counted.counts) for one in operator.counters() if one.name == node)
    return next(told, {}).get(series, 0)


def run_with(domain: LocalDomain, lie: str) -> Any:
    """A job of the honest site and one that lies, in turn, measured every few visits; the job when it has ended."""
    name = f"liar-{lie}"
    domain.prefixes[name] = (sys.executable, str(Path(__file__).with_name("lying_site.py")), lie)
    site = NodeSpec(name=name, operator=name, roles=SITE)
    domain.join(site, [write_site(domain.folder.parent / name, 1)])
    job = submit(domain, name)
    job.wait()
    return job


def submit(domain: LocalDomain, other: str, **asked: Any) -> Any:
    """A job of the honest site and another one."""
    asked = {"data": Selection(include=("north/sides", f"{other}/sides"))} | asked
    return daitn.connect(domain.owner_token("ada")).train(
        make_model(),
        contract=contract(),
        targets=["accuracy >= 0.93"],
        deadline=120,
        purpose="research",
        name=other,
        method="cyclic",
        hyperparameters=Hyperparameters(batch_size=16, batches_per_visit=4, learning_rate=0.05),
        key=load_or_create_key(domain.folder / "ada.key"),
        **asked,
    )


FADED = 1e-4
"""Evidence counts half after a week: without any a score of 0.98 falls by a hundred-thousandth in ten minutes; one
fault takes a hundredth."""


def trust(operator: daitn.Network, node: str) -> tuple[float, str]:
    """A node's score, and all reasons for its changes."""
    found = next(one for one in operator.nodes() if one.descriptor.name == node)
    return found.trust, "\n".join(change.why for change in found.trust_changes)


@pytest.mark.parametrize(
    ("lie", "fault", "words"),
    [
        ("nan", "not-finite", "numbers that are not finite"),
        ("infinite", "not-finite", "numbers that are not finite"),
        ("shape", "shape", "has other tensors than the package"),
        ("oversized", "oversized", "belongs to no parameter"),
        ("foreign", "foreign", "is somebody else's"),
    ],
)
def test_model_that_no_site_can_use_is_found_and_its_maker_alone_blamed(
    domain: LocalDomain, operator: Any, lie: str, fault: str, words: str
) -> None:
    before = counted(operator, f"makers_refuted[{fault}]")
    honest = trust(operator, "north")[0]

    job = run_with(domain, lie)

    log = "\n".join(entry.text for entry in job.log())
    assert job.status().phase is Phase.DELIVERED, log
    assert f"liar-{lie} is to blame" in log
    assert words in log
    assert f"liar-{lie}/sides will not be asked again" in log
    assert "north is to blame" not in log
    score, why = trust(operator, f"liar-{lie}")
    assert score < 0.5
    assert words in why
    assert trust(operator, "north")[0] >= honest - FADED
    wait_until(lambda: counted(operator, f"makers_refuted[{fault}]") == before + 1, "the centre counts it", 20)
    wait_until(lambda: counted(operator, f"models_unfit[{fault}]", "unit") >= 1, "the unit counts it", 20)
    if lie == "nan":
        check_left_out(domain, f"liar-{lie}", f"trust {score:.2f}, the request asks for 0.60")


def check_left_out(domain: LocalDomain, site: str, words: str) -> None:
    """The next job that asks for trust gets no route through a site, for no other reason."""
    job = submit(domain, site, data=Selection(), trust_floor=0.6)
    verdict = job.assessed().verdict
    status = job.wait()
    assert verdict is not None
    (left_out,) = [one for one in verdict.excluded if one.dataset == f"{site}/sides"]
    assert left_out.code is ReasonCode.TRUST
    assert words in left_out.why
    assert status.phase is Phase.DELIVERED, status.reason
    assert {step.dataset for step in job.card().lineage} == {"north/sides"}


@pytest.mark.parametrize(
    ("lie", "words"),
    [("input", "returned the model that it was given"), ("older", "returned the")],
)
def test_model_that_is_no_new_one_is_refused_at_once_and_its_site_left_out(
    domain: LocalDomain, operator: Any, lie: str, words: str
) -> None:
    before = counted(operator, "results_refused[stale]")

    job = run_with(domain, lie)

    log = "\n".join(entry.text for entry in job.log())
    assert job.status().phase is Phase.DELIVERED, log
    assert words in log
    score, why = trust(operator, f"liar-{lie}")
    assert score < 0.6
    assert words in why
    wait_until(lambda: counted(operator, "results_refused[stale]") > before, "the centre counts it", 20)


def test_poison_that_shows_late_is_traced_to_its_maker_and_the_job_goes_on_from_before_it(
    domain: LocalDomain, operator: Any
) -> None:
    honest = trust(operator, "north")[0]

    job = run_with(domain, "late-poison")

    entries = list(job.log())
    log = "\n".join(entry.text for entry in entries)
    assert job.status().phase is Phase.DELIVERED, log
    traced = [entry for entry in entries if entry.kind == "harm-traced"]
    harmful = [entry for entry in entries if entry.kind == "rolled-back"]
    assert harmful, log
    assert traced, log
    assert all("on liar-late-poison/sides made the model worse" in entry.text for entry in traced), log
    score, why = trust(operator, "liar-late-poison")
    assert score < 0.8
    assert "after liar-late-poison/sides" in why
    assert trust(operator, "north")[0] >= honest - FADED
    wait_until(lambda: counted(operator, "models_rolled_back") >= len(harmful), "the centre counts it", 20)


def test_poison_from_the_very_first_visit_on_is_gone_round_and_the_goal_reached(
    domain: LocalDomain, operator: Any
) -> None:
    honest = trust(operator, "north")[0]
    before = counted(operator, "data_sets_set_aside")

    job = run_with(domain, "early-poison")

    entries = list(job.log())
    log = "\n".join(entry.text for entry in entries)
    assert job.status().phase is Phase.DELIVERED, log
    aside = [entry.text for entry in entries if entry.kind == "set-aside"]
    assert "without liar-early-poison/sides" in aside[-1], log
    assert "it gains without liar-early-poison/sides" in log
    score, why = trust(operator, "liar-early-poison")
    assert score < trust(operator, "north")[0]
    assert "no model gained anything with it" in why
    assert trust(operator, "north")[0] >= honest - FADED
    wait_until(lambda: counted(operator, "data_sets_set_aside") > before, "the centre counts it", 20)
