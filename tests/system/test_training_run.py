"""Whole training runs on real processes: delivered, refused, and carried through kill -9 of every part."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from benchmarks.faults.afterwards import closed_at
from tests.system.small_domain import (
    contract,
    make_blind_model,
    make_exploding_model,
    make_model,
    small_domain,
    wait_until,
)
from tests.system.test_gateway import post

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.metrics import shown
from daitn.descriptors.job import JobStatus, Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.serving import ModelStatus
from daitn.descriptors.terminals import Role
from daitn.descriptors.trust import Evidence, TrustChange
from daitn.descriptors.versions import Retraining
from daitn.node.processes import LocalDomain
from daitn.oam.collection import read_counters
from daitn.scenario.spec import NodeSpec
from daitn.sdk.packaging import package_module

pytest.importorskip("torch")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with small_domain(tmp_path_factory.mktemp("small")) as running:
        yield running


def submit(domain: LocalDomain, name: str, **knobs: Any) -> Any:
    network = daitn.connect(domain.owner_token("ada"))
    asked: dict[str, Any] = {
        "contract": contract(),
        "targets": ["accuracy >= 0.95"],
        "deadline": 180,
        "purpose": "research",
        "name": name,
        "key": load_or_create_key(domain.folder / "ada.key"),
    }
    return network.train(knobs.pop("model", None) or make_model(), **(asked | knobs))


def long_run(domain: LocalDomain, name: str, visits: int = 12) -> Any:
    """A run that cannot reach its goal and ends after so many visits of some tenths of a second."""
    return submit(
        domain,
        name,
        targets=["loss <= 0.0000001"],
        chance_floor=0.0,
        method="cyclic",
        budget=Budget(visits=visits),
        hyperparameters=Hyperparameters(batch_size=8, batches_per_visit=200, learning_rate=1e-3),
    )


def check_log(job: Any) -> None:
    """Every accepted visit once, in a log without gaps."""
    entries = list(job.log())
    assert [entry.number for entry in entries] == list(range(len(entries)))
    trained = [entry.visit for entry in entries if entry.kind == "trained"]
    assert len(trained) == len(set(trained))


def trust(operator: daitn.Network, name: str) -> tuple[float, tuple[TrustChange, ...]]:
    """A node's score, and its latest changes."""
    (found,) = [one for one in operator.nodes() if one.descriptor.name == name]
    return found.trust, found.trust_changes


def test_goal_is_reached_and_the_model_comes_back(domain: LocalDomain, tmp_path: Path) -> None:
    job = submit(domain, "delivered")
    status = job.wait()
    assert status.phase is Phase.DELIVERED, status.reason
    assert all(target.met for target in status.targets)
    card = job.card()
    assert card.model == status.model
    assert {step.dataset for step in card.lineage} <= {"north/sides", "south/sides"}
    assert all(step.signature for step in card.lineage)
    result = job.result(tmp_path / "model")
    model = result.model()
    import torch

    model.eval()
    with torch.no_grad():
        logits = next(iter(model(x=torch.tensor([[2.0, 2.0], [-2.0, -2.0]])).values()))
    assert logits.argmax(1).tolist() == [1, 0]
    check_log(job)
    with daitn.connect(domain.operator_token()) as operator:
        for site in {step.dataset.partition("/")[0] for step in card.lineage}:
            score, changes = trust(operator, site)
            assert score != 0.8, "that of a site of which nothing is known"
            kept = [one for one in changes if one.kind is Evidence.KEPT and f"of job {job.id} accepted" in one.why]
            helped = [one for one in changes if one.kind is Evidence.HELPED]
            assert kept, changes
            assert helped, changes
            assert all(one.after > one.before for one in (*kept, *helped))


def test_goal_that_no_trial_could_tell_of_is_probed_at_a_site_and_then_admitted(domain: LocalDomain) -> None:
    """One site alone gives the unit too few records to part them in two folds."""
    job = submit(domain, "probed", data=["north/sides"], targets=["accuracy >= 0.9"], allow_probe=True)
    status = job.wait()
    entries = list(job.log())

    assert status.phase is Phase.DELIVERED, status.reason
    assert status.verdict is not None
    assert any("a probe on" in condition.available for condition in status.verdict.conditions)
    assert [entry.kind for entry in entries if "probe" in entry.kind] == ["needs-probe", "probed"]
    check_log(job)


def test_hyper_parameters_are_searched_at_the_unit_before_the_run(domain: LocalDomain) -> None:
    job = submit(domain, "searched", tuning={"trials": 3, "seconds": 5})
    status = job.wait()
    entries = list(job.log())

    assert status.phase is Phase.DELIVERED, status.reason
    kinds = [entry.kind for entry in entries]
    assert 1 <= kinds.count("tuning-tried") <= 4
    assert kinds.index("tuning-tried") < kinds.index("tuning-done") < kinds.index("trained")
    assert "2 hyper-parameters compared over 1 pass: " in entries[kinds.index("tuning-tried")].text
    check_log(job)


def make_policy() -> Any:
    """A policy for CartPole."""
    import torch
    from torch import nn

    class Balance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Linear(4, 16)
            self.out = nn.Linear(16, 2)

        def forward(self, observation: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.hidden(observation)))

    torch.manual_seed(0)
    return Balance()


@pytest.mark.parametrize("method", ["", "fedavg"])
def test_policy_is_trained_where_the_environments_are(domain: LocalDomain, method: str) -> None:
    """Sites that hold CartPole train a policy in it, one after another or in rounds; the unit plays it too."""
    pytest.importorskip("gymnasium")
    for site in ("north", "south"):
        folder = domain.node_folder(site)
        if not (folder / "environments").exists():
            rules = ("--policy", str(domain.folder.parent / site / "policy.toml"), "--folder", str(folder))
            domain.run("data", "environment", "cart", "CartPole-v1", *rules)
    job = submit(
        domain,
        f"cart-{method or 'routed'}",
        model=make_policy(),
        contract=daitn.environment_contract("CartPole-v1"),
        targets=["mean_return >= 30"],
        method=method,
        hyperparameters=Hyperparameters(batch_size=200, batches_per_visit=6, learning_rate=0.03),
    )
    status = job.wait()

    assert status.phase is Phase.DELIVERED, status.reason
    assert status.plan is not None
    assert status.plan.training.optimizer == "adam"
    assert {step.dataset for step in job.card().lineage if step.dataset} <= {"north/cart", "south/cart"}
    check_log(job)


def test_refused_goal_names_the_variant_that_reaches_it_and_taking_the_advice_trains_it(
    domain: LocalDomain, tmp_path: Path
) -> None:
    """A model that cannot tell left from right, and one that the owner declared beside it."""
    key = load_or_create_key(domain.folder / "ada.key")
    package_module(make_model(), contract(), tmp_path / "sides", key=key, name="tells sides")
    job = submit(domain, "blind", model=make_blind_model(), variants=[tmp_path / "sides"])
    status = job.assessed()
    entries = list(job.log())

    assert status.phase is Phase.REFUSED, status.reason
    assert job.advice is not None, status.reason
    assert job.advice.named.name == "tells sides"
    assert [entry.kind for entry in entries].count("variant-tried") == 1
    taken = job.take_advice().wait()
    assert taken.phase is Phase.DELIVERED, taken.reason
    assert all(target.met for target in taken.targets)


def test_refused_goal_without_variants_is_answered_with_a_model_of_the_catalogue(domain: LocalDomain) -> None:
    job = submit(domain, "blind-alone", model=make_blind_model())
    assert job.assessed().phase is Phase.REFUSED
    assert job.advice.tried == ()
    asked = job.ask_catalogue(key=load_or_create_key(domain.folder / "ada.key"))
    status = asked.assessed()

    assert status.phase is Phase.REFUSED, status.reason
    assert asked.advice.named is not None, status.reason
    assert asked.advice.named.name == "catalogue: perceptron"


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "scaffold", "diloco"])
def test_federated_methods_reach_the_goal_too(domain: LocalDomain, method: str) -> None:
    job = submit(domain, f"averaged-{method}", method=method)
    status = job.wait()
    assert status.phase is Phase.DELIVERED, status.reason
    assert status.plan is not None
    assert status.plan.method == method
    averaged = [entry.text for entry in job.log() if "average 2 models" in entry.text]
    assert averaged
    assert all("then a step of" in text for text in averaged) == (method != "fedavg")


def test_purpose_that_no_policy_allows_is_refused_with_the_rule(domain: LocalDomain) -> None:
    status = submit(domain, "refused", purpose="advertising").wait()
    assert status.phase is Phase.REFUSED
    assert status.verdict is not None
    assert any("purposes" in condition.available for condition in status.verdict.failed())


@pytest.mark.parametrize("victim", ["north", "unit", "center", "router"])
def test_kill_of_any_part_loses_no_accepted_visit(domain: LocalDomain, victim: str) -> None:
    job = long_run(domain, f"killed-{victim}")
    seen: list[JobStatus] = []

    def visits() -> int:
        status = job.status()
        if seen:
            assert status.visits >= seen[-1].visits, "the owner's progress went back"
        seen.append(status)
        return int(status.visits)

    wait_until(lambda: visits() >= 3, "three accepted visits")
    before = visits()
    killed_unix_s = time.time()
    domain.kill(victim, signal.SIGKILL)
    if victim == "north":
        with daitn.connect(domain.operator_token()) as operator:
            wait_until(
                lambda: any(
                    one.kind is Evidence.VANISHED and one.at_unix_s >= killed_unix_s - 1 and one.after < one.before
                    for one in trust(operator, victim)[1]
                ),
                "the loss of its presence is held against it",
            )
    domain.restart(victim)
    wait_until(lambda: visits() > before, "a visit after the kill")
    status = job.wait()
    assert status.phase is Phase.EXHAUSTED, status.reason
    assert status.visits == 12
    check_log(job)


def test_stopped_site_is_gone_round_and_fenced_when_it_comes_back(domain: LocalDomain) -> None:
    job = long_run(domain, "stopped", visits=20)
    wait_until(lambda: job.status().visits >= 3, "three accepted visits")
    visit = _stop_in_a_visit(domain, job, "north")
    try:
        before = job.status().visits
        wait_until(lambda: job.status().visits > before + 1, "visits at the other site")
    finally:
        domain.kill("north", signal.SIGCONT)
    status = job.wait()
    assert status.phase is Phase.EXHAUSTED, status.reason
    check_log(job)
    assert [entry.kind for entry in job.log() if entry.visit == visit] == ["ordered", "lost"]
    assert closed_at(domain, "north", visit) in ("lapsed", "fenced")


def _stop_in_a_visit(domain: LocalDomain, job: Any, node: str) -> str:
    """Stop a site while it trains; the visit, once the job has given it up. One whose result was on its way before is
    none: the site goes on and is stopped in its next."""
    while True:
        wait_until(lambda: bool(_training_at(job, node)), f"a visit at {node}")
        visit = _training_at(job, node)
        domain.kill(node, signal.SIGSTOP)
        if visit and _end_of(job, visit) == "lost":
            return visit
        domain.kill(node, signal.SIGCONT)


def _training_at(job: Any, node: str) -> str:
    return next((one.visit for one in job.status().now if one.node_name == node and one.kind == "train"), "")


def _end_of(job: Any, visit: str) -> str:
    def ends() -> list[str]:
        return [entry.kind for entry in job.log() if entry.visit == visit and entry.kind != "ordered"]

    wait_until(lambda: bool(ends()), f"the end of {visit}")
    return ends()[0]


def test_owner_pauses_resumes_and_cancels(domain: LocalDomain) -> None:
    job = long_run(domain, "steered")
    wait_until(lambda: job.status().visits >= 1, "an accepted visit")
    assert job.pause().phase is Phase.PAUSED
    wait_until(lambda: not job.status().now, "the visit under way to end")
    paused = job.status().visits
    assert job.resume().phase in (Phase.QUEUED, Phase.RUNNING)
    wait_until(lambda: job.status().visits > paused, "a visit after resuming")
    job.cancel()
    assert job.wait().phase is Phase.CANCELLED


def test_site_that_leaves_is_off_the_map_and_cannot_come_back(domain: LocalDomain, tmp_path: Path) -> None:
    from daitn.descriptors.terminals import Role
    from daitn.scenario.spec import NodeSpec

    domain.join(NodeSpec(name="guest", operator="guest", roles=(Role.COMPUTE,)))
    network = daitn.connect(domain.operator_token())
    assert "guest" in {node.descriptor.name for node in network.nodes()}
    domain.run("leave", str(domain.node_folder("guest")))
    assert "guest" not in {node.descriptor.name for node in network.nodes()}
    assert not (domain.node_folder("guest") / "tls" / "membership.json").exists()
    wait_until(lambda: "guest has left its domain" in domain.tail("guest"), "the process says why it ended")


def test_map_shows_what_sites_published_and_no_record(domain: LocalDomain) -> None:
    document = msgspec.json.encode(daitn.connect(domain.owner_token("ada")).nodes()).decode()
    assert "north/sides" in document
    rows = (domain.folder.parent / "north" / "data.csv").read_text().splitlines()[1:6]
    assert not any(row.split(",")[0] in document for row in rows)


def test_what_the_map_holds_of_a_data_set_is_what_describe_shows_its_owner(domain: LocalDomain) -> None:
    shown = domain.run("data", "describe", "sides", "--folder", str(domain.node_folder("north")))["leaves"]
    nodes = daitn.connect(domain.owner_token("ada")).nodes()
    (held,) = [data for node in nodes for data in node.descriptor.data if data.dataset == "north/sides"]
    assert msgspec.json.decode(msgspec.json.encode(held)) == shown


def test_data_file_that_changes_under_training_fails_its_visits_and_nothing_else(domain: LocalDomain) -> None:
    job = long_run(domain, "moving-ground")
    watching = job.watch()
    next(watching)
    watching.close()  # the owner looks away, and comes back later
    wait_until(lambda: bool(job.status().visits >= 2), "two visits")
    source = domain.folder.parent / "north" / "data.csv"
    kept = source.read_bytes()
    source.write_bytes(kept + b"1.0,1.0,right\n")
    try:
        status = job.wait()
    finally:
        source.write_bytes(kept)
    assert status.phase is Phase.EXHAUSTED
    assert status.visits == 12
    texts = [entry.text for entry in job.log()]
    (first, *_) = [text for text in texts if "are not those that its site added" in text]
    assert "'sides'" in first
    assert "daitn data add" in first
    assert not any(str(domain.folder.parent) in text for text in texts)
    with daitn.connect(domain.operator_token()) as operator:

        def told() -> dict[str, int]:
            return next((shown(one.counted.counts) for one in operator.counters() if one.name == "north"), {})

        wait_until(lambda: told().get("data_sets_changed", 0) >= 1, "the centre hears what north counted")
        assert shown(read_counters(domain.node_folder("north")).counts)["data_sets_changed"] >= 1
        assert {"north", "south"} <= {one.descriptor.name for one in operator.nodes() if one.reachable}


def test_loss_that_is_no_number_ends_its_visits_with_the_batch_and_nothing_else(domain: LocalDomain) -> None:
    steps = Hyperparameters(batch_size=8, batches_per_visit=20, learning_rate=1000.0, optimizer="sgd")
    job = submit(
        domain, "explodes", model=make_exploding_model(), chance_floor=0.0, method="cyclic", hyperparameters=steps
    )
    wait_until(lambda: any("is not finite at batch" in entry.text for entry in job.log()), "a visit that fails")
    job.cancel()
    with daitn.connect(domain.operator_token()) as operator:

        def counted(name: str) -> int:
            told = next((shown(one.counted.counts) for one in operator.counters() if one.name == name), {})
            return told.get("runs_failed[not-finite]", 0)

        wait_until(lambda: counted("north") + counted("south") >= 1, "the centre hears what a site counted")
        assert {"north", "south"} <= {one.descriptor.name for one in operator.nodes() if one.reachable}


def test_submission_twice_with_one_key_is_one_job(domain: LocalDomain) -> None:
    jobs = [submit(domain, "twice", idempotency_key="the same") for _ in range(2)]
    assert jobs[0].id == jobs[1].id
    assert jobs[0].wait().phase is Phase.DELIVERED


def test_model_that_answers_worse_is_trained_on_by_itself_tried_and_kept(domain: LocalDomain) -> None:
    """The last one here: what its sites hold is another world afterwards."""
    terms: dict[str, Any] = {"targets": ["accuracy >= 0.8"], "chance_floor": 0.0}
    made = submit(domain, "turning", **terms)
    served = domain.join_all(
        [
            NodeSpec(name="ash", operator="ash", roles=(Role.HOST,)),
            NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,)),
        ]
    )
    address, rng = served["gate"]["queries"], np.random.default_rng(7)
    with daitn.connect(domain.operator_token()) as operator, daitn.connect(domain.owner_token("ada")) as network:
        key = operator.make_owner_token("app", ("ask",))
        before = made.wait()
        assert before.phase is Phase.DELIVERED, before.reason
        agreed = Retraining(times=1, share=0.5)
        network.models.deploy(before.model, "sides", "= 1 replicas", retrain=agreed)
        network.models.wait("sides", 60)

        def versions() -> set[str]:
            data = [one for node in operator.nodes() for one in node.descriptor.data]
            return {one.version for one in data if one.dataset in ("north/sides", "south/sides")}

        old = versions()
        for site in ("north", "south"):  # from now on the side is the sign of x0 - x1
            points = rng.normal(size=(1500, 2))
            rows = "".join(f"{a:.5f},{b:.5f},{'right' if a > b else 'left'}\n" for a, b in points)
            with (domain.folder.parent / site / "data.csv").open("a") as file:
                file.write(rows)

        wait_until(lambda: len(versions()) == 2 and not versions() & old, "the sites have read what came")

        def judged() -> float:
            """A client asks, and says what was right; how often it was."""
            points = rng.normal(size=(100, 2)).astype(np.float32)
            given = {"name": "x", "shape": [100, 2], "datatype": "FP32", "data": points.ravel().tolist()}
            status, said, _ = post(
                address, "/v2/models/sides/infer", key, {"inputs": [given]}, **{"x-daitn-feedback": "1"}
            )
            if status != 200:
                return 0.0
            right = {"right": (points[:, 0] > points[:, 1]).astype(int).tolist()}
            found = post(address, f"/v2/queries/{said['x-daitn-query']}/feedback", key, right)[2]
            return float(found["right"] / found["rows"])

        def sees(told: Callable[[ModelStatus], bool]) -> Callable[[], bool]:
            return lambda: judged() >= 0 and told(network.models.status("sides"))

        wait_until(
            sees(lambda now: bool(now.retraining and (now.retraining.job or now.retraining.ended))), "it is seen"
        )
        wait_until(sees(lambda now: now.artifact != before.model), "another version has taken over", 120)
        now = network.models.status("sides")
        assert now.retraining is not None
        assert (now.retraining.trained, now.retraining.job) == (1, "")
        assert f"{now.artifact[:16]} is tried as a new version" in now.retraining.ended[-1]
        assert "took over: right in" in now.versions[-1]
        again = network.job(now.retraining.ended[-1].split()[1])
        assert again.status().model == now.artifact
        assert np.mean([judged() for _ in range(3)]) > 0.75
        network.models.undeploy("sides")
