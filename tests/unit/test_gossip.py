"""Gossip outside simulated worlds: who has which model, where means may be made, and that it learns without a mean of
all in every round."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from tests.builders import make_candidate, make_order, make_package, make_request, make_view
from tests.unit.test_continual import CONTRACT, Net, digits

from daitn.base.ids import ArtifactId, DataSetId
from daitn.control_center.training.gossip_book import GossipBook
from daitn.decision.drafting import draft_plan
from daitn.decision.feasibility import Known, judge
from daitn.decision.method_choice import choose_method
from daitn.decision.rounds.gossip import draw_groups
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.work import AMONG_MOST, AggregateOutcome, AggregateWork, ServerStep, Training, UpdateRef
from daitn.terminal.roles import Roles

torch = pytest.importorskip("torch")
from daitn.learning.numerics.evaluate import evaluate  # noqa: E402
from daitn.learning.numerics.sources import MemorySlice  # noqa: E402
from daitn.learning.numerics.train import ModelState, Seeds, train  # noqa: E402
from daitn.learning.tasks import numerics_for  # noqa: E402
from daitn.learning.tasks.contract import RecordSlice, take_rows  # noqa: E402

A, B, C = (DataSetId(f"{name}/records") for name in "abc")


def update(name: str, weight: float = 1.0) -> UpdateRef:
    return UpdateRef(model=ArtifactId(name), weight=weight)


def mean(book: GossipBook, made: str, *updates: UpdateRef, left_out: tuple[str, ...] = ()) -> None:
    outcome = AggregateOutcome(
        model=ArtifactId(made), seconds=0.0, left_out=tuple(ArtifactId(one) for one in left_out)
    )  # fmt: skip
    book.averaged(AggregateWork(updates=updates, share=True, among=True), outcome)


def mixed() -> tuple[GossipBook, dict[str, UpdateRef]]:
    """Three members have trained; two of them have averaged."""
    book, made = GossipBook(), {"a": update("a1", 3.0), "b": update("b1", 1.0), "c": update("c1", 4.0)}
    book.drew(((A, B), (C,)))
    for dataset, one in zip((A, B, C), made.values(), strict=True):
        book.trained(dataset, one)
    mean(book, "ab", made["a"], made["b"])
    return book, made


# --- who has which model --------------------------------------------------------------------------------------------


def test_members_that_averaged_have_one_model_and_the_others_what_they_made():
    book, _ = mixed()
    book.drew(((A, C), (B,)))

    assert book.mixing().own == {A: "ab", B: "ab", C: "c1"}
    assert (book.mixing().trained, book.rounds) == ({}, 1)


def test_round_in_which_nobody_handed_in_is_none():
    book, _ = mixed()
    book.drew(((A, C), (B,)))
    book.drew(((A, B), (C,)))

    assert book.rounds == 1


def test_all_meet_with_each_model_once_weighted_by_all_that_have_it_until_one_is_left():
    book, _ = mixed()
    pieces = book.met()

    assert [(one.model, one.weight, one.members) for one in pieces] == [("ab", 4.0, 2), ("c1", 4.0, 1)]
    mean(book, "abc", *pieces)
    assert [(one.model, one.weight, one.members) for one in book.mixing().pieces] == [("abc", 8.0, 3)]


def test_update_that_could_not_be_averaged_is_nobody_s_model():
    book, made = GossipBook(), update("bad")
    book.drew(((A, B),))
    book.trained(A, made)
    book.trained(B, update("b1"))
    mean(book, "ab", made, update("b1"), left_out=("bad",))

    assert book.mixing().own == {B: "ab"}
    assert book.models() == {"ab"}


def test_model_that_is_gone_is_forgotten_wherever_it_was():
    book, _ = mixed()
    book.gone(ArtifactId("ab"))
    assert book.mixing().own == {C: "c1"}

    book.met()
    book.gone(ArtifactId("c1"))
    assert not book.begun
    assert book.met() == ()
    assert book.rounds == 0


# --- where means may be made ----------------------------------------------------------------------------------------


def test_site_that_trains_makes_means_of_its_own_circle_and_no_others():
    among, other = (AggregateWork(updates=(update("a"), update("b")), among=one) for one in (True, False))

    assert Roles(computes=True).judge(make_order(work=among)) == ()
    assert [one.rule for one in Roles(computes=True).judge(make_order(work=other))] == ["role"]
    assert [one.rule for one in Roles().judge(make_order(work=among))] == ["role"]


@pytest.mark.parametrize(
    "more",
    [
        {"updates": tuple(update(f"u{n}") for n in range(AMONG_MOST + 1))},
        {"server": ServerStep(optimizer="nesterov", learning_rate=1.0), "base": ArtifactId("x")},
        {"masked": True},
    ],
    ids=["too many", "a server's step", "masked"],
)
def test_mean_among_sites_is_a_mean_of_few_and_nothing_else(more):
    with pytest.raises(ValueError, match="average with one another"):
        AggregateWork(**({"updates": (update("a"),), "among": True} | more))


# --- admission and choice -------------------------------------------------------------------------------------------


def test_gossip_needs_two_sites_and_no_aggregator():
    def unmet(*sites: str) -> list[ReasonCode]:
        view = make_view(*(make_candidate(name) for name in sites), aggregators=())
        judged = judge(view, make_request(method="gossip"), make_package(), Known())
        return [one.code for one in judged.conditions if not one.met]

    assert unmet("s1", "s2") == []
    assert unmet("s1") == [ReasonCode.METHOD]
    assert not draft_plan(
        make_view(make_candidate("s1")), make_request(method="gossip"), make_package(), None
    ).training.carry_optimizer  # fmt: skip


def test_network_takes_it_where_all_have_to_train_at_once_and_there_is_no_aggregator():
    sites = [make_candidate(f"s{number:03}") for number in range(40)]

    def choose(**changes):
        view = make_view(*sites, **changes)
        return choose_method(view, make_request(deadline_s=60.0), make_package(), None)

    assert (choose(aggregators=()).chosen, choose().chosen) == ("gossip", "fedavg")
    assert "no aggregator is reachable" in choose(aggregators=()).why


# --- learning -------------------------------------------------------------------------------------------------------


def weighted_mean(models: list[tuple[Mapping[str, torch.Tensor], float]]) -> dict[str, torch.Tensor]:
    total = sum(weight for _, weight in models)
    return {name: sum(one[name] * (weight / total) for one, weight in models) for name in models[0][0]}


def learn(*, gossip: bool, seed: int, rounds: int = 6, count: int = 6) -> float:
    """Accuracy of the mean of all after so many rounds at sites with three digits each."""
    task = numerics_for(CONTRACT.task, CONTRACT)
    *halves, test = digits()
    sites: dict[DataSetId, MemorySlice] = {}
    for number in range(count):
        name, wanted = DataSetId(f"s{number}/digits"), [number, (number + 4) % 10, (number + 7) % 10]
        parts = [take_rows(half, np.flatnonzero(np.isin(half.labels, wanted))[number::4]) for half in halves]
        joined = {key: np.concatenate([getattr(one, key) for one in parts]) for key in ("labels", "fields")}
        inputs = {"x": np.concatenate([one.inputs["x"] for one in parts])}
        sites[name] = MemorySlice(name, RecordSlice(inputs=inputs, dataset=name, **joined))
    torch.manual_seed(seed)
    model = Net()
    training = Training(batch_size=16, batches=16, learning_rate=0.05, carry_optimizer=False)
    start = {name: one.clone() for name, one in model.state_dict().items()}
    own = dict.fromkeys(sites, start)
    for number in range(rounds):
        for name, source in sites.items():
            model.load_state_dict(own[name])
            train(model, task, source, training, ModelState(), seeds=Seeds(seed, number))
            own[name] = {key: one.clone() for key, one in model.state_dict().items()}
        groups = draw_groups(sites, number, seed) if gossip else (tuple(sites),)
        for group in groups:
            together = weighted_mean([(own[name], float(len(sites[name]))) for name in group])
            own |= dict.fromkeys(group, together)
    model.load_state_dict(weighted_mean([(own[name], float(len(sites[name]))) for name in sites]))
    return evaluate(model, task, [test], ["accuracy"])[0].value


def test_mean_of_all_is_nearly_as_good_as_if_it_had_been_made_in_every_round():
    torch.set_num_threads(1)
    gossip, central = (learn(gossip=one, seed=0) for one in (True, False))

    assert gossip >= 0.5
    assert gossip >= central - 0.15
